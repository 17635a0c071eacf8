"""The training step on targets of which some are ignored: counts that differ between micro-batches and processes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from test_distributed import FLAGS, launch
from test_loop import assert_the_same_to_rounding, make_run, project, same_weights      # noqa: F401  (fixtures)

from folio.data.batches import IGNORED, Batch, batch_at
from folio.evaluation.bits_per_byte import bytes_of_tokens
from folio.formats import checkpoint, run_log
from folio.networks import build as networks
from folio.training import loop

# Run train.py on batches whose first half has few counted targets.
MASKED = """
import sys
sys.path[:0] = {tests!r}
import train
import test_step
from folio.cli.command_line import front_door
from folio.training import loop

loop.batch_at = test_step.masked_batch_at
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
    monkeypatch.setattr(loop, "batch_at", masked_batch_at)


def test_a_batch_names_the_targets_that_count():
    batch = Batch(np.array([[1, 2], [3, 4]]), np.array([[IGNORED, 3], [4, 5]]))
    assert batch.counted_targets.tolist() == [3, 4, 5]
    assert len(batch) == 2 and batch.rows(slice(1, 2)).targets.tolist() == [[4, 5]]


@pytest.mark.parametrize("micro_batch_size", [4, 2, 1])
def test_the_gradient_is_that_of_the_mean_over_all_counted_targets_however_they_are_split(
        make_run, with_ignored_targets, micro_batch_size):                              # noqa: F811
    run = make_run(optimizer="sgd", micro_batch_size=micro_batch_size, bpe_dropout=0.0, gradient_clip=0.0)
    reference = networks.build(run.params.model)
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


def test_what_an_ignored_target_would_be_changes_nothing(make_run, with_ignored_targets, monkeypatch):      # noqa: F811
    def changed_batch_at(*arguments, **options):
        batch = batch_at(*arguments, **options)
        ignored = masked(batch).targets == IGNORED
        return masked(Batch(batch.inputs, np.where(ignored, 7, batch.targets)))
    plain = make_run("plain", bpe_dropout=0.0)
    plain.step()
    monkeypatch.setattr(loop, "batch_at", changed_batch_at)
    changed = make_run("changed", bpe_dropout=0.0)
    changed.step()
    assert same_weights(plain.net.state_dict(), changed.net.state_dict())


def test_a_batch_without_counted_targets_changes_no_weight(make_run, monkeypatch):      # noqa: F811
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


def test_the_log_has_the_mean_over_counted_targets_and_their_bytes(make_run, with_ignored_targets):         # noqa: F811
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
        project, make_run, with_ignored_targets, tmp_path):                             # noqa: F811
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
