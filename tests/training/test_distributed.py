"""Several processes share the steps of one; any may die, and no incomplete file, message or process is left behind."""


import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from folio.base.errors import FolioError
from folio.evaluation.bits_per_byte import evaluate
from folio.formats import checkpoint, run_log
from folio.training import distributed
from folio.training.loop import stop_signals
from Model_Params import TrainingParams
from training_runs import assert_the_same_to_rounding, continued, half_done, make_run, project, wait_for  # noqa: F401

FLAGS = (
    "--emb-len 16 --num-layers 1 --num-heads 2 --block-size 16 --dropout 0 --batch-size 4 --optimizer adamw "
    "--learning-rate 0.01 --warmup-steps 2 --weight-decay 0.1 --eval-interval 5 --sample-tokens 4 --threads 1 "
    "--precision fp32 --device cpu --no-compile"
).split()

# Run train.py with a network that in the second process has no room for more tokens than one window has.
SMALL_SECOND = """
import os, sys
import torch
import train
from folio.cli.command_line import front_door
from folio.training.lessons import TextLessons

def limited(lessons, forward, inputs, targets, loss=TextLessons.loss):
    if os.environ["RANK"] == "1" and inputs.numel() > 64:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return loss(lessons, forward, inputs, targets)
TextLessons.loss = limited
# A thread of gloo's that outlives its group would abort the process now and then; so it does almost always.
sys.setswitchinterval(10)
front_door(train.main)
"""


def launch(made, *words, script=ROOT / "train.py"):
    """Two processes of train.py, started by torchrun in a session of their own. -> Popen"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-addr",
            "127.0.0.1",
            "--master-port",
            str(port),
            script,
            "--home",
            made.folder,
            *map(str, words),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def said_by_us(err):
    """The lines on stderr that are not torchrun's own report."""
    return [line for line in err.splitlines() if "Another process" in line or "batch_size" in line or "Stopped" in line]


def pids_of(process):
    """The processes that torchrun has started."""
    return list(
        map(
            int, subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, encoding="utf-8").stdout.split()
        )
    )


# --- Real processes ---

@pytest.mark.parametrize("bpe_dropout", [0.1, pytest.param(0.0, marks=pytest.mark.slow)])
def test_two_processes_make_the_steps_of_one_even_where_one_has_less_memory(
    project, make_run, tmp_path, bpe_dropout
):
    script = tmp_path / "train_small_second.py"
    script.write_text(SMALL_SECOND, encoding="utf-8")
    process = launch(
        project,
        *FLAGS,
        "--block-size",
        64,
        "--length-warmup",
        5,
        "--steps",
        20,
        "--bpe-dropout",
        bpe_dropout,
        "--name",
        "two",
        script=script,
    )
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert (
        out.count("run       two: 20 steps")
        == out.count("2 processes of 1 thread,")
        == out.count("Done.")
        == out.count("  step 20 ")
        == 1
    )
    assert out.count("Step 0: 2 sequences at once need more memory than there is; from here on 1 at once.") == 1
    options = dict(optimizer="adamw", bpe_dropout=bpe_dropout, block_size=64, length_warmup=5)
    one = make_run("one", **options)
    one.train()
    with pytest.raises(FolioError, match="has made all its 20 steps"), continued(project, "two"):
        pass
    two = make_run("two", **options)
    two.net.load_state_dict(checkpoint.load(project.resume("two"))["weights"])
    assert_the_same_to_rounding(two, one)
    assert {line["micro_batch_size"] for line in run_log.read(project.log("two"))} == {1}


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_run_can_be_resumed_by_two_processes_and_after_a_kill_by_one_again(project, make_run):
    options = dict(optimizer="adamw", steps=200, eval_interval=50)
    whole = make_run("whole", **options)
    whole.train()
    half_done(make_run, **options)
    process = launch(project, "--resume")
    wait_for(process, lambda: len(run_log.read(project.log("test"))) >= 12)
    os.kill(pids_of(process)[1], signal.SIGKILL)
    out, err = process.communicate(timeout=25)          # torchrun itself would wait 30 s for one that hangs
    assert process.returncode != 0
    assert "The processes that make this run were 1 and are now 2: the last digits may differ." in out
    assert ["Another process of this run has ended" in line for line in said_by_us(err)] == [True], err
    said = []
    with continued(project, "test", say=said.append) as run:
        assert 50 <= run.progress.step < 200 and "were 2 and are now 1" in said[0]
        torch.set_num_threads(1)            # it would take those of both
        run.train()
    assert not list(project.saved_weights.glob(".*.tmp"))
    first, last = run_log.read(run.reporter.log.path)[-1], run_log.read(whole.reporter.log.path)[-1]
    assert first["step"] == last["step"] == 200
    assert first["val_bpb"] == pytest.approx(last["val_bpb"], rel=0.01)             # 200 steps of rounding


@pytest.mark.skipif(os.name != "posix", reason="signals to a group of processes")
def test_ctrl_c_reaches_all_processes_and_saves_once(project):
    process = launch(project, *FLAGS, "--steps", 100_000)
    wait_for(process, lambda: len(run_log.read(project.log("default"))) >= 7)
    os.killpg(process.pid, signal.SIGINT)               # as a terminal does
    out, err = process.communicate(timeout=60)
    step = checkpoint.load(project.resume("default"))["progress"]["step"]
    assert step >= 7
    assert out.count("Stopped") == 1 and out.splitlines()[-1] == (
        f"Stopped after step {step}; everything is saved. "
        f"To continue: torchrun --nproc-per-node 2 train.py --resume --name default --home {project.folder}")
    assert not said_by_us(err), err


@pytest.mark.slow
def test_a_problem_is_printed_once(project):
    out, err = launch(project, *FLAGS, "--batch-size", 7).communicate(timeout=60)
    assert said_by_us(err) == [
        "batch_size=7 does not split among 2 processes with micro_batch_size=7; take a multiple of 2."
    ]
    assert out == "" and not list(project.saved_weights.glob("*"))


# --- As if there were several ---

@pytest.fixture
def as_process(monkeypatch):
    """as_process(rank, count): from now on this is one of several processes, which say nothing."""
    def make(rank, count):
        monkeypatch.setattr(distributed, "count", lambda: count)
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(count))
    return make


@given(st.integers(0, 100), st.integers(1, 12))
def test_the_shares_cover_everything_once_and_in_order(total, count):
    with pytest.MonkeyPatch.context() as patched:
        shares = []
        patched.setattr(distributed, "count", lambda: count)
        for rank in range(count):
            patched.setattr(distributed, "rank", lambda: rank)
            shares.append(list(range(total))[distributed.share(total)])
    assert sum(shares, []) == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("total", [2, 16, 17, 18, 160, 165])
def test_several_processes_evaluate_the_windows_of_one(make_run, as_process, total):
    run = make_run()
    tokens, options = run.corpus.val[:total], dict(block_size=16, batch_size=4, device="cpu")
    whole, nats = evaluate(run.net, tokens, 100, **options), 0.0
    for rank in range(3):
        as_process(rank, 3)
        nats += evaluate(run.net, distributed.share_of_windows(tokens, 16), 100, **options).nats
    assert nats == pytest.approx(whole.nats, rel=1e-5)


@pytest.mark.parametrize(
    "count, changes, wrong",
    [
        (1, dict(device="mps"), None),
        (1, dict(batch_size=7), None),
        (2, dict(batch_size=8), None),
        (2, dict(batch_size=8, micro_batch_size=2), None),
        (2, dict(batch_size=8, micro_batch_size=8), None),  # more than a share: the share at once
        (
            2,
            dict(batch_size=12, micro_batch_size=4),
            "batch_size=12 does not split among 2 processes with micro_batch_size=4; take a multiple of 8.",
        ),
        (
            3,
            dict(batch_size=16),
            "batch_size=16 does not split among 3 processes with micro_batch_size=16; take a multiple of 3.",
        ),
        (
            5,
            dict(batch_size=4),
            "batch_size=4 does not split among 5 processes with micro_batch_size=4; take a multiple of 5.",
        ),
        (2, dict(device="mps"), "on device=cpu or device=cuda, each on a GPU of its own, not on mps."),
        (2, dict(device="cuda:1"), "not on cuda:1."),
        (
            2,
            dict(device="cuda"),
            "2 processes need a GPU each, and there is 1: take --nproc-per-node 1, or --device cpu.",
        ),
    ],
)
def test_settings_that_several_processes_cannot_share_are_refused(as_process, monkeypatch, count, changes, wrong):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    as_process(1, count)
    training = replace(TrainingParams(device="cpu"), **changes).resolved()
    said = list(distributed.problems(training))
    assert (said == []) if wrong is None else (len(said) == 1 and said[0].endswith(wrong))
    if wrong and "multiple" in wrong:
        assert not list(distributed.problems(replace(training, batch_size=int(wrong.split()[-1].rstrip(".")))))


def test_without_torchrun_there_is_one_process_and_no_group(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "1")                         # which other programs may use for their own ends
    with distributed.joined():
        assert not torch.distributed.is_initialized()
        assert (distributed.count(), distributed.rank(), distributed.is_first(), distributed.launcher()) == (
            1,
            0,
            True,
            "python",
        )
        assert (
            distributed.summed(3.5),
            distributed.agreed("a"),
            distributed.any_says([]),
            distributed.first_says(1),
        ) == (3.5, "a", False, True)
        assert distributed.after_the_first(lambda: 7) == 7


def test_a_second_ctrl_c_kills_one_process_but_not_one_of_several(as_process):
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)        # what started these tests may have it ignored
    try:
        with stop_signals() as received, pytest.raises(KeyboardInterrupt):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        assert received == [signal.SIGINT]
        as_process(0, 2)
        with stop_signals() as received:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        assert received == [signal.SIGINT] * 2
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
