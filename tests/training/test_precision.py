"""Precision and compiling: both change the speed and hardly the result."""


import math
import os

import pytest
import torch

from conftest import run_python
from folio.base import hardware
from folio.base.errors import FolioError
from folio.formats import checkpoint
from training_runs import continued, make_run, project, same_weights  # noqa: F401


@pytest.mark.parametrize("users", [{}, {"TORCHINDUCTOR_CACHE_DIR": "/their/own"}], ids=["none", "their own"])
def test_the_users_own_folder_for_compiled_code_is_used(users, tmp_path):
    code = (
        "import os; from folio.training import distributed; import torch._dynamo; import pathlib;"
        "from folio.base import hardware;"
        f"hardware.keep_compiled(pathlib.Path({str(tmp_path)!r})); print(os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    done = run_python("-c", code, env=environment | users)
    assert done.stdout.strip() == (users.get("TORCHINDUCTOR_CACHE_DIR") or str(tmp_path.resolve())), done.stderr


@pytest.mark.parametrize("when", ["at once", "at the first step"])
def test_training_continues_where_compiling_fails_with_one_line_about_it(
    project, make_run, when, monkeypatch, capsys
):
    def compile(function, **options):
        def failing(*batch):
            raise RuntimeError("no compiler here\nand many lines about it")
        return failing() if when == "at once" else failing
    monkeypatch.setattr(torch, "compile", compile)
    plain, run = make_run("plain"), make_run("compiled", compile=True)
    plain.train()
    capsys.readouterr()
    run.train()
    said = capsys.readouterr().out.splitlines()
    assert (
        [line for line in said if "compile" in line] == [said[0]] and "RuntimeError" in said[0] and "without" in said[0]
    )
    assert same_weights(plain.net.state_dict(), run.net.state_dict())
    assert checkpoint.load(project.resume("compiled"))["params"]["training"]["compile"] is False


def test_a_compiled_step_is_used_for_every_batch(make_run, monkeypatch):
    used = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda *batch: used.append(1) or function(*batch))
    run = make_run("compiled", compile=True, micro_batch_size=2)
    run.train()
    assert len(used) == 1 + 2 * 20
    assert not same_weights(run.net.state_dict(), make_run("new").net.state_dict())


@pytest.mark.slow
def test_torch_compile_itself_makes_the_same_step(make_run):
    if not hardware.has_compiler("cpu"):
        pytest.skip("no C++ compiler")
    plain, run = make_run("plain", optimizer="adamw"), make_run("compiled", optimizer="adamw", compile=True)
    run.compile()
    assert run.training.compile, "torch.compile did not work"
    for _ in range(3):
        assert run.step() == pytest.approx(plain.step(), rel=1e-3)
    assert any(run.home.compiled.rglob("*.so")) or any(run.home.compiled.rglob("*.pyd")), (
        "nothing was kept for the next run"
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_products_of_half_the_bits_train_as_well(make_run, precision):
    exact, rounded = make_run("exact"), make_run("rounded", precision=precision)
    for run in (exact, rounded):
        run.train()
    assert rounded.progress.best_nats == pytest.approx(exact.progress.best_nats, rel=0.03)
    assert all(tensor.dtype == torch.float32 for tensor in rounded.net.state_dict().values())
    assert not same_weights(exact.net.state_dict(), rounded.net.state_dict())


def with_scale(run, scale):
    """Scale the fp16 gradients of a run, and by twice as much after every three successful steps. -> the run"""
    run.precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
    return run


def test_a_step_whose_fp16_gradients_overflow_changes_nothing_but_the_scale(make_run):
    run = with_scale(make_run(precision="fp16"), 2.0 ** 60)
    before = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
    assert run.step() == pytest.approx(math.log(270), abs=0.2)
    assert same_weights(before, run.net.state_dict())
    assert not any(optimizer.state for optimizer in run.train_step.optimizers)
    assert (run.progress.step, run.precision.scaler.get_scale()) == (1, 2.0 ** 59)


def test_the_scale_of_fp16_gradients_does_not_change_the_step(make_run):
    low, high = (
        with_scale(make_run("low", precision="fp16"), 2.0**8),
        with_scale(make_run("high", precision="fp16"), 2.0**12),
    )
    for run in (low, high):
        run.step()
    for one, other in zip(low.net.parameters(), high.net.parameters()):
        # A step is up to 0.005 long here, and fp16 has 11 bits.
        torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


def test_fp16_gradients_that_overflow_at_every_scale_stop_the_run(make_run):
    run = with_scale(make_run(precision="fp16"), 2.0 ** 4)
    # Its slope at zero is infinite.
    run.train_step.loss = lambda *batch: (run.net.embedding.weight.sum() * 0).sqrt() + 1
    for _ in range(4):
        run.step()
    with pytest.raises(FolioError, match="step 4 .*gradient"):
        run.step()


def test_an_fp16_loss_that_is_not_finite_stops_the_run_at_once(make_run):
    run = make_run(precision="fp16")
    run.train_step.loss = lambda *batch: run.net.embedding.weight.sum() * math.inf
    with pytest.raises(FolioError, match="step 0"):
        run.step()


def test_a_resumed_fp16_run_keeps_its_scale(project, make_run):
    whole, half = (with_scale(make_run(name, precision="fp16"), 2.0 ** 40) for name in ("whole", "half"))
    whole.train()
    for _ in range(11):
        half.step()
    half.save_resume()
    with continued(project, "half") as again:
        again.train()
    assert (
        again.precision.scaler.state_dict()
        == whole.precision.scaler.state_dict()
        != make_run("new", precision="fp16").precision.scaler.state_dict()
    )
    assert same_weights(again.net.state_dict(), whole.net.state_dict())
