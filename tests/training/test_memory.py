"""Out of memory: the same steps are made in smaller micro-batches."""


import sys

import pytest
import torch

from folio.base.errors import is_out_of_memory
from folio.cli.command_line import front_door
from folio.formats import run_log
from folio.training.step import dropout_seed
from training_runs import (  # noqa: F401
    assert_the_same_to_rounding,
    continued,
    gpu_runs_out,
    half_done,
    make_run,
    onednn_runs_out,
    project,
    python_runs_out,
    refusal_of,
    same_weights,
    torch_runs_out,
    weights_of,
    with_room_for,
)


@pytest.mark.parametrize("run_out", [torch_runs_out, python_runs_out, gpu_runs_out, onednn_runs_out])
def test_out_of_memory_halves_the_micro_batches_with_a_message_and_the_same_steps(
    project, make_run, run_out, capsys
):
    options = dict(optimizer="adamw", batch_size=12, steps=6, eval_interval=3)
    whole, small = make_run("whole", **options), with_room_for(make_run("small", **options), 2, run_out)
    whole.train()
    capsys.readouterr()
    small.train()
    said = [line for line in capsys.readouterr().out.splitlines() if "at once" in line]
    assert said == [
        f"Step 0: {before} sequences at once need more memory than there is; from here on {now} at once. "
        f"Batches and results are the same but for rounding (micro_batch_size={now})."
        for before, now in [(12, 6), (6, 3), (3, 1)]
    ]
    assert_the_same_to_rounding(small, whole)
    assert {line["micro_batch_size"] for line in run_log.read(small.reporter.log.path)} == {1}


def test_length_warmup_ends_at_the_decay_at_the_latest(make_run):
    run = make_run(block_size=64, steps=10, batch_size=4, length_warmup=3)
    assert [tuple(run._batch(step).inputs.shape) for step in range(5)] == [(16, 16)] * 3 + [(4, 64)] * 2
    run = make_run(block_size=64, steps=10, batch_size=4, length_warmup=10)          # whose descent begins at step 6
    assert [len(run._batch(step).inputs) for step in range(10)] == [16] * 6 + [4] * 4
    run = make_run(block_size=64, steps=None, minutes=1.0, batch_size=4, length_warmup=10)
    run.progress.decay_start = 7                                                    # as time decides it
    assert [len(run._batch(step).inputs) for step in range(10)] == [16] * 7 + [4] * 3


def test_micro_batches_of_shorter_sequences_have_as_many_tokens(make_run):
    options = dict(optimizer="adamw", block_size=64, batch_size=4, steps=6, eval_interval=3, length_warmup=3)
    whole, small = make_run("whole", **options), with_room_for(make_run("small", **options), 4, torch_runs_out)
    whole.train()
    small.train()
    assert small.training.micro_batch_size == 1             # four of a quarter of the length
    assert_the_same_to_rounding(small, whole)


def test_a_run_resumed_during_length_warmup_ends_with_the_same_weights(project, make_run):
    options = dict(block_size=64, steps=12, batch_size=4, length_warmup=5)
    whole = make_run("whole", **options)
    whole.train()
    half_done(make_run, **options)
    with continued(project, "test") as run:
        run.train()
    assert same_weights(weights_of(project.resume("test")), weights_of(project.resume("whole")))


@pytest.mark.parametrize("length_warmup, shape", [(0, (2, 64)), (3, (8, 16))])
def test_compiling_uses_the_shape_of_the_first_micro_batch(make_run, monkeypatch, length_warmup, shape):
    shapes = []

    def compiled(function, **options):
        return lambda inputs, targets: shapes.append(tuple(inputs.shape)) or function(inputs, targets)
    monkeypatch.setattr(torch, "compile", compiled)
    run = make_run(compile=True, block_size=64, batch_size=4, micro_batch_size=2, length_warmup=length_warmup)
    run.compile()
    run.step()
    assert shapes == [shape] * 3


def test_a_step_that_runs_out_of_memory_halfway_is_repeated_from_its_start(make_run):
    options = dict(optimizer="sgd", batch_size=8, micro_batch_size=4, learning_rate=0.5)
    whole, small = (
        make_run("whole", **options),
        with_room_for(make_run("small", **options), 2, torch_runs_out, good_calls=1),
    )
    assert small.step() == pytest.approx(whole.step(), rel=1e-5)
    for one, other in zip(small.net.parameters(), whole.net.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_reduced_micro_batch_size_is_kept_on_resume(project, make_run):
    run = with_room_for(make_run(steps=9), 2, torch_runs_out)
    run.step()
    run.save_resume()
    with continued(project, "test") as again:
        assert again.training.micro_batch_size == 2
        again.train()
    with_room_for(run, 2, torch_runs_out).train()
    assert same_weights(run.net.state_dict(), again.net.state_dict())


def test_a_resumed_run_may_be_given_another_micro_batch_size(project, make_run):
    half_done(make_run, micro_batch_size=2)
    with continued(project, micro_batch_size=4) as run:
        assert run.training.micro_batch_size == 4
    assert "does not split into micro_batch_size=3" in refusal_of(continued(project, micro_batch_size=3))


def test_an_evaluation_that_runs_out_of_memory_uses_smaller_batches(make_run):
    run = make_run()
    score = run.evaluate()
    assert with_room_for(run, 1, torch_runs_out).evaluate().nats == pytest.approx(score.nats, rel=1e-6)
    assert run.training.micro_batch_size == 1 and run.net.training


@pytest.mark.parametrize(
    "error, is_it",
    [
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("could not execute a primitive"), True),
        (MemoryError(), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: "
                "you tried to allocate 8 bytes."
            ),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("could not create a primitive"), False),
    ],
    ids=str,
)
def test_errors_that_mean_out_of_memory(error, is_it):
    assert is_out_of_memory(error) is is_it


@pytest.mark.parametrize("run_out", [torch_runs_out, python_runs_out, gpu_runs_out])
def test_a_single_sequence_that_does_not_fit_ends_the_run_with_one_message(make_run, run_out, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    run = with_room_for(make_run(), 0, run_out)
    with pytest.raises(SystemExit) as ended:
        front_door(run.train)
    assert ended.value.code == 1
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == "There is not enough memory for this. Try a smaller --block-size or --emb-len."
    )
    assert not run.home.weights("test").exists()


def test_another_error_is_not_taken_for_out_of_memory(make_run):
    def broken():
        raise RuntimeError("shapes cannot be multiplied")
    run = with_room_for(make_run(), 2, broken)
    with pytest.raises(RuntimeError, match="multiplied"):
        run.step()
    assert run.training.micro_batch_size == 4


def test_a_compiled_step_that_does_not_fit_is_compiled_for_smaller_micro_batches(make_run, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    run = with_room_for(make_run(compile=True), 2, torch_runs_out)
    run.train()
    assert (run.training.micro_batch_size, run.training.compile) == (2, True)


def test_dropout_seeds_differ_between_steps_micro_batches_and_processes():
    seeds = {
        dropout_seed(seed, step, part, rank)
        for seed in (0, 1, 2**63 - 1)
        for step in range(50)
        for part in range(4)
        for rank in range(2)
    }
    assert len(seeds) == 3 * 50 * 4 * 2 and all(0 <= seed < 2**32 for seed in seeds)
