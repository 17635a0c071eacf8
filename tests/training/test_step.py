"""The training step: it does what the equations say, also where some targets are ignored and counts differ."""


import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import ROOT
from folio.data.batches import IGNORED, Batch, batch_at
from folio.evaluation.bits_per_byte import bytes_of_tokens
from folio.formats import checkpoint, run_log
from folio.networks import build as networks
from folio.training import lessons, optimizers
from Model_Params import TrainingParams
from test_distributed import FLAGS, launch
from training_runs import assert_the_same_to_rounding, make_run, project, same_weights  # noqa: F401

# Run train.py on batches whose first half has few counted targets.
MASKED = """
import sys
sys.path[:0] = {tests!r}
import train
import test_step
from folio.cli.command_line import front_door
from folio.training import lessons

lessons.batch_at = test_step.masked_batch_at
front_door(train.main)
"""


def masked(batch):
    """The batch with unequal counts: nothing counts in its first row, little in its second, everything in the last."""
    counted = np.arange(batch.targets.shape[1]) < np.arange(len(batch))[:, None] ** 2 * 2
    counted[-1] = True
    return Batch(batch.inputs, np.where(counted, batch.targets, IGNORED))


def masked_batch_at(*arguments, **options):
    return masked(batch_at(*arguments, **options))


@pytest.fixture
def with_ignored_targets(monkeypatch):
    monkeypatch.setattr(lessons, "batch_at", masked_batch_at)


def test_a_batch_names_the_targets_that_count():
    batch = Batch(np.array([[1, 2], [3, 4]]), np.array([[IGNORED, 3], [4, 5]]))
    assert batch.counted_targets.tolist() == [3, 4, 5]
    assert len(batch) == 2 and batch.rows(slice(1, 2)).targets.tolist() == [[4, 5]]


@pytest.mark.parametrize("micro_batch_size", [4, 2, 1])
def test_the_gradient_is_that_of_the_mean_over_all_counted_targets_however_they_are_split(
        make_run, with_ignored_targets, micro_batch_size):
    run = make_run(optimizer="sgd", micro_batch_size=micro_batch_size, bpe_dropout=0.0, gradient_clip=0.0)
    reference = networks.build_network(run.params.model)
    reference.load_state_dict(run.net.state_dict())
    batch = run._batch(0)
    assert len({(row != IGNORED).sum().item() for row in batch.targets}) == 4
    logits = reference(batch.inputs).flatten(0, 1)
    loss = F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED)
    gradients = torch.autograd.grad(loss, list(reference.parameters()))
    found = run.train_step._gradient(batch, 0, len(batch.counted_targets))
    assert found == pytest.approx(loss.item(), rel=1e-6)
    for parameter, gradient in zip(run.net.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_what_an_ignored_target_would_be_changes_nothing(make_run, with_ignored_targets, monkeypatch):
    def changed_batch_at(*arguments, **options):
        batch = batch_at(*arguments, **options)
        ignored = masked(batch).targets == IGNORED
        return masked(Batch(batch.inputs, np.where(ignored, 7, batch.targets)))
    plain = make_run("plain", bpe_dropout=0.0)
    plain.step()
    monkeypatch.setattr(lessons, "batch_at", changed_batch_at)
    changed = make_run("changed", bpe_dropout=0.0)
    changed.step()
    assert same_weights(plain.net.state_dict(), changed.net.state_dict())


def test_a_batch_without_counted_targets_changes_no_weight(make_run, monkeypatch):
    run = make_run(steps=4, eval_interval=1)
    before = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
    learn = run._batch

    def nothing_to_learn(step):
        batch = learn(step)
        return Batch(batch.inputs, torch.full_like(batch.targets, IGNORED)) if step < 2 else batch
    monkeypatch.setattr(run, "_batch", nothing_to_learn)
    assert (run.step(), run.progress.step) == (0.0, 1)
    assert same_weights(run.net.state_dict(), before)
    assert not any(optimizer.state for optimizer in run.train_step.optimizers)
    run.train()
    assert not same_weights(run.net.state_dict(), before)
    reports = run_log.read(run.reporter.log.path)
    assert [report["step"] for report in reports] == [2, 3, 4]
    assert [report["train_loss"] is None for report in reports] == [True, False, False]
    assert [report["train_nats_per_byte"] is None for report in reports] == [True, False, False]


def test_the_log_has_the_mean_over_counted_targets_and_their_bytes(make_run, with_ignored_targets):
    run = make_run(steps=2, eval_interval=20)
    batches, losses = [run._batch(step) for step in range(2)], [run.step() for _ in range(2)]
    counts = [len(batch.counted_targets) for batch in batches]
    assert run.progress.recent_tokens == counts
    nats = sum(loss * count for loss, count in zip(losses, counts))
    sizes = bytes_of_tokens(run.tokenizer)
    text_bytes = sum(sizes[batch.counted_targets.numpy()].sum() for batch in batches)
    assert run.progress.recent_loss(run.tokens_per_step) == pytest.approx(nats / sum(counts))
    assert run.progress.recent_nats_per_byte(run.tokens_per_step) == pytest.approx(nats / text_bytes)


def test_two_processes_with_unequal_counts_make_the_steps_of_one(
        project, make_run, with_ignored_targets, tmp_path):
    script = tmp_path / "train_masked.py"
    script.write_text(MASKED.format(tests=[str(ROOT / "tests"), str(ROOT / "tests" / "training")]), encoding="utf-8")
    process = launch(project, *FLAGS, "--steps", 20, "--bpe-dropout", 0, "--name", "two", script=script)
    _, err = process.communicate()
    assert process.returncode == 0, err
    settings = dict(optimizer="adamw", bpe_dropout=0.0)
    one, two = make_run("one", **settings), make_run("two", **settings)
    one.train()
    two.net.load_state_dict(checkpoint.load(project.resume("two"))["weights"])
    assert_the_same_to_rounding(two, one)


# --- Equations ---

@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_step_can_overfit_one_batch(make_run, optimizer):
    run = make_run(optimizer=optimizer, steps=300, decay_fraction=0.0, learning_rate=0.02)
    batch = run._batch(0)
    run._batch = lambda step: batch
    losses = [run.step() for _ in range(150)]
    assert abs(losses[0] - math.log(270)) < 0.2
    assert losses[-1] < 0.1


def test_a_step_goes_down_the_clipped_gradient_of_the_mean_loss(make_run):
    run = make_run(gradient_clip=0.01, learning_rate=0.5, warmup_steps=4, bpe_dropout=0.0)
    reference = networks.build_network(run.params.model)
    reference.load_state_dict(run.net.state_dict())
    run.train_step.optimizers = [
        optimizers.SGD(
            [{"params": list(run.net.parameters()), "weight_decay": 0.0, "rate": 1.0}], replace(run.training, beta1=0.0)
        )
    ]
    for step in range(3):
        batch = batch_at(run.corpus.train, step, batch_size=4, block_size=16, seed=1)
        inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
        loss = F.cross_entropy(reference(inputs).flatten(0, 1), targets.flatten())
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        length = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients))
        assert length > 0.01
        with torch.no_grad():
            for parameter, gradient in zip(reference.parameters(), gradients):
                parameter -= 0.5 * (step + 1) / 4 * 0.01 / length * gradient
        assert run.step() == pytest.approx(loss.item(), rel=1e-5)
        for found, expected in zip(run.net.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_bpe_dropout_rises_and_falls_with_the_learning_rate(make_run, monkeypatch):
    asked = {}
    run = make_run(steps=10, warmup_steps=2, decay_fraction=0.5, bpe_dropout=0.2)
    plain, resegment = run.corpus.train, run.tokenizer.resegment

    def noted(windows, dropout, random):
        asked[len(asked)] = dropout
        return resegment(windows, dropout, random)
    monkeypatch.setattr(run.tokenizer, "resegment", noted)
    others = [run._batch(step).inputs.tolist() for step in range(10)]
    assert list(asked.values()) == pytest.approx([0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.16, 0.12, 0.08, 0.04])
    as_they_are = [
        batch_at(
            plain, step, batch_size=run.training.batch_size, block_size=run.params.model.block_size, seed=1
        ).inputs.tolist()
        for step in range(10)
    ]
    assert sum(other != same for other, same in zip(others, as_they_are)) > 2
    assert run.tokenizer.decode_bytes(others[3][0])[:20] == run.tokenizer.decode_bytes(as_they_are[3][0])[:20]


def test_length_warmup_has_four_times_as_many_sequences_of_a_quarter_of_the_length(make_run):
    run = make_run(block_size=64, length_warmup=3, bpe_dropout=0.0)
    assert [tuple(run._batch(step).inputs.shape) for step in (0, 2, 3)] == [(16, 16), (16, 16), (4, 64)]
    run.progress.decay_start = 1
    assert [tuple(run._batch(step).inputs.shape) for step in (0, 1)] == [(16, 16), (4, 64)]
    in_parts = make_run("parts", block_size=64, length_warmup=3, micro_batch_size=1, optimizer="adamw")
    whole = make_run("whole", block_size=64, length_warmup=3, optimizer="adamw")
    assert [whole.step() for _ in range(4)] == pytest.approx([in_parts.step() for _ in range(4)], rel=1e-4)


@pytest.mark.parametrize("values", [{"steps": 50}, {"steps": 5000}, {"minutes": 1.0}])
def test_unset_hyperparameters_follow_from_the_number_of_steps_and_set_ones_stay(values):
    short, long = (TrainingParams(**{"steps": None, "minutes": None} | values).resolved(steps) for steps in (50, 5000))
    assert (
        short.learning_rate >= long.learning_rate
        and short.warmup_steps <= long.warmup_steps
        and short.decay_fraction <= long.decay_fraction
    )
    assert (short == long) == ("steps" in values)
    given = TrainingParams(
        steps=50, minutes=None, learning_rate=0.5, warmup_steps=7, length_warmup=1, decay_fraction=0.1
    ).resolved()
    assert (given.learning_rate, given.warmup_steps, given.length_warmup, given.decay_fraction) == (0.5, 7, 1, 0.1)


@pytest.mark.parametrize("tied_head", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_master_weights_get_every_gradient_and_the_working_network_gets_their_values(make_run, precision, tied_head):
    run = make_run(precision=precision, tied_head=tied_head, bpe_dropout=0.0, optimizer="adamw", gradient_clip=0.0)
    reference = networks.build_network(run.params.model)
    reference.load_state_dict(run.net.state_dict())
    batch = run._batch(0)
    inputs, targets = batch.inputs, batch.targets
    gradients = torch.autograd.grad(
        F.cross_entropy(reference(inputs).flatten(0, 1), targets.flatten()), list(reference.parameters())
    )
    run.precision.add_gradient(run.train_step.loss(inputs, targets) / targets.numel())
    for found, expected in zip([parameter.grad for parameter in run.net.parameters()], gradients, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found, expected, rtol=0, atol=(1e-6 if precision == "fp32" else 0.1) * expected.abs().max().item() + 1e-9
        )
    for parameter in run.net.parameters():
        parameter.grad = None
    run.step()
    for (name, mine), working in zip(
        run.net.named_parameters(remove_duplicate=False),
        run.precision.working_net.parameters()
        if not tied_head
        else [parameter for _, parameter in run.precision.working_net.named_parameters(remove_duplicate=False)],
    ):
        assert torch.equal(mine.to(working.dtype), working), name


def test_micro_batches_make_the_step_of_the_whole_batch(make_run):
    whole, parts = make_run("whole", optimizer="adamw"), make_run("parts", optimizer="adamw", micro_batch_size=1)
    for _ in range(5):
        assert whole.step() == pytest.approx(parts.step(), rel=1e-5)
    for one, other in zip(whole.net.parameters(), parts.net.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
