"""Training: a step does what the equations say, a run is a function of its settings, and nothing that stops it costs more than time."""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, FullDisk, refusal, run_python, run_script

import folio
import train
from folio.formats import checkpoint, run_log, torch_file
from folio.data import corpus
from folio.base import hardware
from folio.networks import build as networks
from folio.training import deadline, loop, optimizers, report, runs, summary
from folio.data.batches import IGNORED, Batch, batch_at
from folio.evaluation.bits_per_byte import Score, bytes_of_tokens, evaluate_windows, spread_windows
from folio.cli.command_line import front_door
from folio.base.errors import FolioError, is_out_of_memory
from folio.formats.tokenizers import write
from folio.training.loop import Run
from folio.training.report import clock_time, default_eval_interval
from folio.training.step import TrainStep, dropout_seed
from Model_Params import PRESETS, ModelParams, Params, TextParams, TrainingParams
from tokenizer import BPETokenizer, load

VOCABULARY = TextParams(vocab_size=270)
MODEL = ModelParams(emb_len=16, num_layers=1, num_heads=2, block_size=16, dropout=0.0)
TRAINING = TrainingParams(steps=20, minutes=None, batch_size=4, optimizer="muon", learning_rate=0.01, weight_decay=0.1, warmup_steps=2,
                          decay_fraction=0.4, gradient_clip=1.0, eval_interval=5, sample_tokens=4, threads=1, precision="fp32", compile=False,
                          device="cpu", seed=1, length_warmup=0)
# The same kind of run for the script. An evaluation every 50 steps, a line in the log every 5.
FLAGS = ("--emb-len 32 --num-layers 1 --num-heads 2 --block-size 32 --batch-size 8 --steps 300 --eval-interval 50 "
         "--learning-rate 0.01 --warmup-steps 20 --decay-fraction 0.4 --sample-tokens 5 --threads 1 --precision fp32 --dropout 0.1").split()


@pytest.fixture
def project(home, plays):
    """A home whose text is ready to train on."""
    made = home(plays[:20_000])
    corpus.open_corpus(made, VOCABULARY)
    return made


@pytest.fixture
def make_run(project):
    """Makes runs without a script around them: make_run(steps=3, dropout=0.1) -> Run"""
    def make(name="test", run_class=Run, **changes):
        tokenizer, text = corpus.open_corpus(project)
        how = {key: changes.pop(key) for key in ("clock", "started_at") if key in changes}
        model = replace(MODEL, vocab_size=tokenizer.vocab_size, **{key: changes.pop(key) for key in list(changes) if hasattr(MODEL, key)})
        params = Params(text.text, model.resolved(), replace(TRAINING, **changes).resolved())
        assert not list(params.problems())
        project.saved_weights.mkdir(exist_ok=True)
        return run_class(project, name, params, tokenizer, text, **{"started_at": time.perf_counter(), **how})
    return make


def continued(project, name=None, preset=None, say=lambda text: None, **flags):
    """The Run with which --resume goes on, in a `with`."""
    tokenizer, text = corpus.open_corpus(project)
    return runs.resumed_run(project, name, preset, flags, tokenizer, text, time.perf_counter(), say=say)


def run_train(project, *words, through=(), env=None):
    """train.py as a process of its own, `through` another command. -> Popen"""
    return subprocess.Popen([*through, sys.executable, ROOT / "train.py", "--home", project.folder, *map(str, words)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, encoding="utf-8", env=env)


def train_here(project, monkeypatch, capsys, *words):
    """train.py's main in this process. -> exit code, what it printed"""
    monkeypatch.setattr(sys, "argv", ["train.py", "--home", str(project.folder), *map(str, words)])
    capsys.readouterr()
    code = train.main()
    return code, capsys.readouterr().out


def weights_of(path):
    return checkpoint.load(path)["weights"]


def same_weights(one, other):
    """Whether two networks' tensors are the same, to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_times(path):
    """The lines of a log, less what no two runs have in common."""
    return [{key: value for key, value in line.items() if key not in ("seconds", "tokens_per_second")} for line in run_log.read(path)]


# --- The step ---

@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_one_batch_can_be_learned_by_heart(make_run, optimizer):
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
    run.train_step.optimizers = [optimizers.SGD([{"params": list(run.net.parameters()), "weight_decay": 0.0, "rate": 1.0}], replace(run.training, beta1=0.0))]
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
    as_they_are = [batch_at(plain, step, batch_size=run.training.batch_size, block_size=run.params.model.block_size, seed=1).inputs.tolist()
                   for step in range(10)]
    assert sum(other != same for other, same in zip(others, as_they_are)) > 2
    assert run.tokenizer.decode_bytes(others[3][0])[:20] == run.tokenizer.decode_bytes(as_they_are[3][0])[:20]


def orthogonalised(matrix):
    """Newton and Schulz's iteration with Jordan's coefficients, five times, in float64."""
    x = matrix / matrix.norm()
    if len(x) > len(x[0]):
        return orthogonalised(matrix.T).T
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "rmsprop"])
def test_the_optimizers_follow_their_equations(optimizer):
    torch.manual_seed(0)
    net = networks.build_network(replace(MODEL, vocab_size=30, emb_len=32, biases="gpt2").resolved())
    how = replace(TRAINING, optimizer=optimizer, weight_decay=0.3, beta1=0.8, beta2=0.9)
    built = optimizers.build(net, how)
    reference = {name: parameter.detach().double().clone() for name, parameter in net.named_parameters()}
    momentum = {name: torch.zeros_like(value) for name, value in reference.items()}
    square = {name: torch.zeros_like(value) for name, value in reference.items()}
    for step, rate in enumerate([0.01, 0.02, 0.005, 0.01], 1):
        for name, parameter in net.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            gradient, value = parameter.grad.double(), reference[name]
            if name.startswith("blocks.") and value.ndim == 2:
                if optimizer in ("muon", "adamw"):
                    value *= 1 - rate * 0.3
                else:                                                           # where decay is part of the gradient
                    gradient = gradient + 0.3 * value
            if name.startswith("blocks.") and value.ndim == 2 and optimizer == "muon":
                momentum[name] = 0.95 * momentum[name] + 0.05 * gradient
                value -= rate * 0.2 * math.sqrt(max(value.shape)) * orthogonalised(0.05 * gradient + 0.95 * momentum[name])
            elif optimizer == "sgd":
                momentum[name] = 0.8 * momentum[name] + gradient
                value -= rate * momentum[name]
            elif optimizer == "rmsprop":
                square[name] = 0.9 * square[name] + 0.1 * gradient ** 2
                value -= rate * gradient / (square[name].sqrt() + 1e-8)
            else:
                momentum[name] = 0.8 * momentum[name] + 0.2 * gradient
                square[name] = 0.9 * square[name] + 0.1 * gradient ** 2
                value -= rate * momentum[name] / (1 - 0.8 ** step) / ((square[name] / (1 - 0.9 ** step)).sqrt() + optimizers.ADAM_EPS)
        for each in built:
            for group in each.param_groups:
                group["lr"] = rate
            each.step()
    for name, parameter in net.named_parameters():
        by_muon = optimizer == "muon" and name.startswith("blocks.") and parameter.ndim == 2
        difference = (parameter.detach().double() - reference[name]).abs().max().item()
        assert difference < (5e-3 if by_muon else 2e-6), name           # Muon's products are of bfloat16: 8 bits


def test_muon_steps_where_torchs_own_steps():
    torch.manual_seed(0)
    shapes = [(16, 16), (24, 16), (16, 24), (16, 16), (24, 16), (1, 8)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    one = optimizers.Muon([{"params": ours, "weight_decay": 0.3, "rate": 1.0}])
    other = torch.optim.Muon(theirs, lr=0.0, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    for rate in (0.01, 0.02, 0.005):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in (one, other):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)             # products of bfloat16, summed in another order


@pytest.mark.parametrize("optimizer, theirs", [("adamw", lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=optimizers.ADAM_EPS, fused=True)),
                                               ("sgd", lambda groups: torch.optim.SGD(groups, momentum=0.9)),
                                               ("rmsprop", lambda groups: torch.optim.RMSprop(groups, alpha=0.95))])
def test_a_run_goes_on_from_the_state_that_torchs_own_optimizer_kept(optimizer, theirs):
    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))]
    other = [torch.nn.Parameter(parameter.detach().clone()) for parameter in mine]
    groups = [{"params": [parameter], "weight_decay": decay, "rate": 1.0} for parameter, decay in zip(mine, (0.3, 0.0))]
    one = optimizers.OPTIMIZERS[optimizer](groups, TRAINING)
    two = theirs([{"params": [parameter], "weight_decay": decay} for parameter, decay in zip(other, (0.3, 0.0))])
    for step in range(4):
        for a, b in zip(mine, other):
            a.grad, b.grad = [torch.randn_like(a)] * 2
        for group in two.param_groups:
            group["lr"] = 0.01
        two.step()
        if step >= 2:
            for group in one.param_groups:
                group["lr"] = 0.01
            one.step()
        if step == 1:
            one.load_state_dict(two.state_dict())
            for a, b in zip(mine, other):
                a.data.copy_(b)
    for a, b in zip(mine, other):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_the_embedding_learns_at_a_rate_of_its_own_unless_it_is_the_head_as_well(make_run):
    for tied_head, rates in ((False, {5.0, 1.0}), (True, {1.0})):
        run = make_run(f"tied-{tied_head}", tied_head=tied_head, embedding_rate=None)
        run.step()
        assert {group["lr"] / run.schedule.learning_rate(0) for each in run.train_step.optimizers for group in each.param_groups} == rates


def test_the_first_sequences_are_a_quarter_as_long_and_four_times_as_many_up_to_the_decay(make_run):
    run = make_run(block_size=64, length_warmup=3, bpe_dropout=0.0)
    assert [tuple(run._batch(step).inputs.shape) for step in (0, 2, 3)] == [(16, 16), (16, 16), (4, 64)]
    run.progress.decay_start = 1
    assert [tuple(run._batch(step).inputs.shape) for step in (0, 1)] == [(16, 16), (4, 64)]
    in_parts = make_run("parts", block_size=64, length_warmup=3, micro_batch_size=1, optimizer="adamw")
    whole = make_run("whole", block_size=64, length_warmup=3, optimizer="adamw")
    assert [whole.step() for _ in range(4)] == pytest.approx([in_parts.step() for _ in range(4)], rel=1e-4)


@pytest.mark.parametrize("values", [{"steps": 50}, {"steps": 5000}, {"minutes": 1.0}])
def test_what_is_open_follows_from_the_number_of_steps_and_what_is_given_stays(values):
    short, long = (TrainingParams(**{"steps": None, "minutes": None} | values).resolved(steps) for steps in (50, 5000))
    assert short.learning_rate >= long.learning_rate and short.warmup_steps <= long.warmup_steps and short.decay_fraction <= long.decay_fraction
    assert (short == long) == ("steps" in values)
    given = TrainingParams(steps=50, minutes=None, learning_rate=0.5, warmup_steps=7, length_warmup=1, decay_fraction=0.1).resolved()
    assert (given.learning_rate, given.warmup_steps, given.length_warmup, given.decay_fraction) == (0.5, 7, 1, 0.1)


def test_a_gradient_of_zeros_moves_nothing_under_muon():
    matrix = torch.nn.Parameter(torch.ones(4, 6))
    matrix.grad = torch.zeros(4, 6)
    optimizer = optimizers.Muon([{"params": [matrix], "weight_decay": 0.0, "rate": 1.0}])
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert torch.equal(matrix, torch.ones(4, 6))


@pytest.mark.parametrize("tied_head", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_computes_gives_every_weight_its_gradient_and_follows_it(make_run, precision, tied_head):
    run = make_run(precision=precision, tied_head=tied_head, bpe_dropout=0.0, optimizer="adamw", gradient_clip=0.0)
    reference = networks.build_network(run.params.model)
    reference.load_state_dict(run.net.state_dict())
    batch = run._batch(0)
    inputs, targets = batch.inputs, batch.targets
    gradients = torch.autograd.grad(F.cross_entropy(reference(inputs).flatten(0, 1), targets.flatten()), list(reference.parameters()))
    run.precision.add_gradient(run.train_step.loss(inputs, targets) / targets.numel())
    for found, expected in zip([parameter.grad for parameter in run.net.parameters()], gradients, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=(1e-6 if precision == "fp32" else 0.1) * expected.abs().max().item() + 1e-9)
    for parameter in run.net.parameters():
        parameter.grad = None
    run.step()
    for (name, mine), working in zip(run.net.named_parameters(remove_duplicate=False), run.precision.working_net.parameters() if not tied_head else
                                     [parameter for _, parameter in run.precision.working_net.named_parameters(remove_duplicate=False)]):
        assert torch.equal(mine.to(working.dtype), working), name


def test_every_parameter_has_one_optimizer():
    for params in (MODEL, replace(MODEL, tied_head=True), replace(MODEL, family="classic")):
        net = networks.build_network(replace(params, vocab_size=30).resolved())
        for optimizer in ("muon", "adamw", "sgd", "rmsprop"):
            built = optimizers.build(net, replace(TRAINING, optimizer=optimizer))
            held = [id(parameter) for each in built for group in each.param_groups for parameter in group["params"]]
            assert sorted(held) == sorted(id(parameter) for parameter in net.parameters())


def test_a_batch_computed_in_parts_teaches_the_same(make_run):
    whole, parts = make_run("whole", optimizer="adamw"), make_run("parts", optimizer="adamw", micro_batch_size=1)
    for _ in range(5):
        assert whole.step() == pytest.approx(parts.step(), rel=1e-5)
    for one, other in zip(whole.net.parameters(), parts.net.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


# --- Out of memory ---

def torch_runs_out():
    torch.empty(1 << 50)            # a petabyte, which no CPU's allocator gives


def python_runs_out():
    raise MemoryError


def gpu_runs_out():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def onednn_runs_out():
    raise RuntimeError("could not create a primitive")


def with_room_for(run, windows, run_out, good_calls=0):
    """A Run whose network, after some good calls, computes no more than so many windows at once."""
    forward, calls = run.net.forward, []

    def limited(tokens):
        calls.append(1)
        if len(tokens) > windows and len(calls) > good_calls:
            run_out()
        return forward(tokens)
    run.net.forward = limited
    return run


@pytest.mark.parametrize("run_out", [torch_runs_out, python_runs_out, gpu_runs_out, onednn_runs_out])
def test_where_memory_runs_out_the_same_steps_are_made_in_smaller_parts_and_that_is_said(project, make_run, run_out, capsys):
    how = dict(optimizer="adamw", batch_size=12, steps=6, eval_interval=3)
    whole, small = make_run("whole", **how), with_room_for(make_run("small", **how), 2, run_out)
    whole.train()
    capsys.readouterr()
    small.train()
    said = [line for line in capsys.readouterr().out.splitlines() if "at once" in line]
    assert said == [f"Step 0: {before} sequences at once need more memory than there is; from here on {now} at once. "
                    f"Batches and results are the same but for rounding (micro_batch_size={now})." for before, now in [(12, 6), (6, 3), (3, 1)]]
    assert_the_same_to_rounding(small, whole)
    assert {line["micro_batch_size"] for line in run_log.read(small.reporter.log.path)} == {1}


def test_first_steps_have_more_and_shorter_sequences_up_to_the_descent(make_run):
    run = make_run(block_size=64, steps=10, batch_size=4, length_warmup=3)
    assert [tuple(run._batch(step).inputs.shape) for step in range(5)] == [(16, 16)] * 3 + [(4, 64)] * 2
    run = make_run(block_size=64, steps=10, batch_size=4, length_warmup=10)          # whose descent begins at step 6
    assert [len(run._batch(step).inputs) for step in range(10)] == [16] * 6 + [4] * 4
    run = make_run(block_size=64, steps=None, minutes=1.0, batch_size=4, length_warmup=10)
    run.progress.decay_start = 7                                                    # as time decides it
    assert [len(run._batch(step).inputs) for step in range(10)] == [16] * 7 + [4] * 3


def test_shorter_sequences_take_no_more_memory_and_make_the_same_steps_in_smaller_parts(make_run):
    how = dict(optimizer="adamw", block_size=64, batch_size=4, steps=6, eval_interval=3, length_warmup=3)
    whole, small = make_run("whole", **how), with_room_for(make_run("small", **how), 4, torch_runs_out)
    whole.train()
    small.train()
    assert small.training.micro_batch_size == 1             # four of a quarter of the length
    assert_the_same_to_rounding(small, whole)


def test_a_run_resumed_while_sequences_are_short_ends_as_if_nothing_had_happened(project, make_run):
    how = dict(block_size=64, steps=12, batch_size=4, length_warmup=5)
    whole = make_run("whole", **how)
    whole.train()
    half_done(make_run, **how)
    with continued(project, "test") as run:
        run.train()
    assert same_weights(weights_of(project.resume("test")), weights_of(project.resume("whole")))


@pytest.mark.parametrize("length_warmup, shape", [(0, (2, 64)), (3, (8, 16))])
def test_what_is_compiled_before_the_first_step_is_what_the_step_computes(make_run, monkeypatch, length_warmup, shape):
    shapes = []

    def compiled(function, **how):
        return lambda inputs, targets: shapes.append(tuple(inputs.shape)) or function(inputs, targets)
    monkeypatch.setattr(torch, "compile", compiled)
    run = make_run(compile=True, block_size=64, batch_size=4, micro_batch_size=2, length_warmup=length_warmup)
    run.compile()
    run.step()
    assert shapes == [shape] * 3


def assert_the_same_to_rounding(run, reference):
    for one, other in zip(run_log.read(run.reporter.log.path), run_log.read(reference.reporter.log.path), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one.get("val_bpb", 0) == pytest.approx(other.get("val_bpb", 0), rel=1e-4)
    for one, other in zip(run.net.parameters(), reference.net.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_step_that_runs_out_of_memory_halfway_begins_again_from_its_start(make_run):
    how = dict(optimizer="sgd", batch_size=8, micro_batch_size=4, learning_rate=0.5)
    whole, small = make_run("whole", **how), with_room_for(make_run("small", **how), 2, torch_runs_out, good_calls=1)
    assert small.step() == pytest.approx(whole.step(), rel=1e-5)
    for one, other in zip(small.net.parameters(), whole.net.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_what_memory_had_room_for_is_kept_for_the_rest_of_the_run(project, make_run):
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


def test_a_measurement_that_runs_out_of_memory_is_made_in_smaller_parts(make_run):
    run = make_run()
    score = run.evaluate()
    assert with_room_for(run, 1, torch_runs_out).evaluate().nats == pytest.approx(score.nats, rel=1e-6)
    assert run.training.micro_batch_size == 1 and run.net.training


@pytest.mark.parametrize("error, is_it", [
    (RuntimeError("std::bad_alloc"), True), (RuntimeError("could not execute a primitive"), True), (MemoryError(), True),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False), (OSError("could not create a primitive"), False)], ids=str)
def test_what_says_that_memory_has_run_out(error, is_it):
    assert is_out_of_memory(error) is is_it


@pytest.mark.parametrize("run_out", [torch_runs_out, python_runs_out, gpu_runs_out])
def test_where_one_window_is_too_much_the_run_ends_with_one_message(make_run, run_out, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    run = with_room_for(make_run(), 0, run_out)
    with pytest.raises(SystemExit) as ended:
        front_door(run.train)
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == "There is not enough memory for this. Try a smaller --block-size or --emb-len."
    assert not run.home.weights("test").exists()


def test_any_other_error_is_no_lack_of_memory(make_run):
    def broken():
        raise RuntimeError("shapes cannot be multiplied")
    run = with_room_for(make_run(), 2, broken)
    with pytest.raises(RuntimeError, match="multiplied"):
        run.step()
    assert run.training.micro_batch_size == 4


def test_a_compiled_step_that_is_too_large_is_compiled_in_smaller_parts(make_run, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **how: function)
    run = with_room_for(make_run(compile=True), 2, torch_runs_out)
    run.train()
    assert (run.training.micro_batch_size, run.training.compile) == (2, True)


def test_every_step_and_every_part_of_it_drops_something_else():
    seeds = {dropout_seed(seed, step, part, rank) for seed in (0, 1, 2**63 - 1) for step in range(50) for part in range(4) for rank in range(2)}
    assert len(seeds) == 3 * 50 * 4 * 2 and all(0 <= seed < 2**32 for seed in seeds)


# --- A run is a function of its settings ---

@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, plays):
    """A home, the weights and the log of a run that nothing stopped, made by a process of its own."""
    made = folio.base.home.Home(tmp_path_factory.mktemp("uninterrupted"))
    made.train_data.mkdir()
    (made.train_data / "input.txt").write_text(plays[:20_000], encoding="utf-8", newline="\n")
    corpus.open_corpus(made, VOCABULARY)
    process = run_train(made, *FLAGS)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return made, checkpoint.load(made.weights("default")), without_times(made.log("default")), out


def assert_ended_like(project, uninterrupted, name="default"):
    _, contents, log, _ = uninterrupted
    found = checkpoint.load(project.weights(name))
    assert same_weights(found["weights"], contents["weights"])
    assert (found["step"], found["val_bpb"]) == (contents["step"], contents["val_bpb"])
    assert without_times(project.log(name)) == log


def test_another_process_with_the_same_settings_makes_the_same_weights(project, uninterrupted, monkeypatch, capsys):
    code, _ = train_here(project, monkeypatch, capsys, *FLAGS)
    assert not code
    assert_ended_like(project, uninterrupted)


def test_another_seed_makes_other_weights(make_run):
    one, same, other = make_run(), make_run(), make_run(seed=2)
    for run in (one, same, other):
        run.step()
    assert same_weights(one.net.state_dict(), same.net.state_dict())
    assert not same_weights(one.net.state_dict(), other.net.state_dict())


def test_what_is_only_reported_changes_nothing(project, make_run):
    one, other = make_run("one"), make_run("other", sample_tokens=0, eval_interval=2)
    for run in (one, other):
        run.train()
    assert same_weights(one.net.state_dict(), other.net.state_dict())


# --- Killed, stopped, gone on with ---

def wait_for(process, condition):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(project, uninterrupted, seed):
    chance = random.Random(seed)
    words, lines = FLAGS, 0
    for _ in range(2):
        process = run_train(project, *words)
        lines = max(lines, 10) + chance.randrange(3, 14)             # beyond the first save, and beyond what the last one had
        wait_for(process, lambda: project.resume("default").exists() and len(run_log.read(project.log("default"))) >= min(lines, 52))
        time.sleep(chance.random() * 0.05)
        process.kill()
        process.communicate()
        words = ["--resume"]
    process = run_train(project, "--resume")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "going on after step" in out
    assert_ended_like(project, uninterrupted)


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM")
def test_ctrl_c_and_sigterm_save_and_say_how_to_go_on(project, uninterrupted):
    words = FLAGS
    for number, lines in ((signal.SIGINT, 7), (signal.SIGTERM, 33)):
        process = run_train(project, *words)
        wait_for(process, lambda: len(run_log.read(project.log("default"))) >= lines)
        process.send_signal(number)
        out, err = process.communicate()
        assert process.returncode == 128 + number and "Traceback" not in err, err
        said = re.fullmatch(r"Stopped after step (\d+); everything is saved\. To go on: python train\.py (.*)", out.splitlines()[-1])
        assert int(said[1]) == checkpoint.load(project.resume("default"))["progress"]["step"] >= 5 * lines
        assert project.weights("default").exists()
        words = said[2].split()
        assert words == ["--resume", "--name", "default", "--home", str(project.folder)]
    process = run_train(project, *words)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert_ended_like(project, uninterrupted)


@pytest.mark.skipif(os.name != "posix", reason="SIGHUP")
def test_a_terminal_that_is_closed_costs_nothing(project):
    process = run_train(project, *FLAGS, "--steps", 100_000)
    wait_for(process, lambda: len(run_log.read(project.log("default"))) >= 3)
    for _ in range(3):                                          # the shell sends it, and then the system
        process.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGHUP and "everything is saved" in out, err
    assert checkpoint.load(project.resume("default"))["progress"]["step"] >= 15 and project.weights("default").exists()


@pytest.mark.skipif(os.name != "posix", reason="nohup")
def test_a_run_under_nohup_goes_on_without_its_terminal(project):
    process = run_train(project, *FLAGS, "--steps", 40, through=["nohup"])
    wait_for(process, lambda: run_log.read(project.log("default")))
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate()
    assert process.returncode == 0 and "Done." in out, err


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
def test_a_run_whose_terminal_is_gone_saves_though_it_cannot_say_so(project):
    ours, its = os.openpty()
    words = [sys.executable, ROOT / "train.py", "--home", project.folder, *map(str, FLAGS), "--steps", "100000"]
    process = subprocess.Popen(words, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    wait_for(process, lambda: len(run_log.read(project.log("default"))) >= 3 or not os.read(ours, 1 << 16))
    os.close(ours)
    time.sleep(0.2)                                             # while it writes to what is not there any more
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 128 + signal.SIGHUP
    assert checkpoint.load(project.resume("default"))["progress"]["step"] >= 15


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_run_whose_reader_leaves_goes_on_and_says_so(project, unbuffered):
    process = run_train(project, *FLAGS, "--steps", 60, "--eval-interval", 10, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert process.stdout.readline().startswith("run       default")        # a line is there when it is printed
    process.stdout.close()                                                  # as `| head -1` does
    err = process.stderr.read()
    assert process.wait() == 0
    assert err.count("Nobody reads what is written here any more; the work goes on without it.") == 1 and "Traceback" not in err
    assert checkpoint.load(project.resume("default"))["progress"]["finished"]


def test_a_line_of_the_log_that_is_nested_without_end_is_damage(make_run):
    run = make_run()
    run.reporter.log.append(step=1)
    with run.reporter.log.path.open("a") as file:
        file.write("[" * 100_000 + "\n" + '{"a":' * 100_000 + "\n")
    run.reporter.log.append(step=2)
    assert [line["step"] for line in run_log.read(run.reporter.log.path)] == [1, 2]


@pytest.mark.parametrize("users", [{}, {"TORCHINDUCTOR_CACHE_DIR": "/their/own"}], ids=["none", "their own"])
def test_a_folder_that_the_user_has_chosen_for_compiled_code_is_kept(users, tmp_path):
    code = ("import os; from folio.training import distributed; import torch._dynamo; import pathlib; from folio.base import hardware;"
            f"hardware.keep_compiled(pathlib.Path({str(tmp_path)!r})); print(os.environ['TORCHINDUCTOR_CACHE_DIR'])")
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    done = run_python("-c", code, env=environment | users)
    assert done.stdout.strip() == (users.get("TORCHINDUCTOR_CACHE_DIR") or str(tmp_path.resolve())), done.stderr


class Killed(BaseException):
    """The process is gone; nothing in it catches that."""


def events(monkeypatch, die_at):
    """Count what leaves a trace on the disk, and die before event number `die_at`. -> what happened so far"""
    happened = []

    def watch(owner, name):
        original = getattr(owner, name)

        def watched(*all, **named):
            happened.append(name)
            if len(happened) == die_at:
                raise Killed
            return original(*all, **named)
        monkeypatch.setattr(owner, name, watched)
    watch(Run, "step")
    watch(run_log.RunLog, "append")
    watch(checkpoint, "save")
    return happened


def test_a_run_killed_between_any_two_writes_ends_as_if_nothing_had_happened(project, make_run, monkeypatch):
    changes = dict(steps=8, eval_interval=4, dropout=0.1)
    with monkeypatch.context() as patched:
        happened = events(patched, die_at=None)
        make_run("whole", **changes).train()
    weights, log = weights_of(project.weights("whole")), without_times(project.log("whole"))
    first_save = [number for number, name in enumerate(happened) if name == "save"][1]          # of the resume file; the weights come before
    assert happened.count("save") == 4 and len(happened) > 15
    for die_at in range(1, len(happened) + 1):
        name = f"killed-{die_at}"
        with monkeypatch.context() as patched, pytest.raises(Killed):
            events(patched, die_at)
            make_run(name, **changes).train()
        if project.resume(name).exists():
            with continued(project, name) as run:
                run.train()
        else:                                               # it died before its first save: then it begins anew
            assert die_at <= first_save + 1
            project.log(name).unlink(missing_ok=True)
            make_run(name, **changes).train()
        assert same_weights(weights_of(project.weights(name)), weights), die_at
        assert without_times(project.log(name)) == log, die_at


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_obeyed_after_the_step_and_leaves_something_to_run(project, make_run, number):
    run = make_run()
    step = run.step

    def interrupted():
        if run.progress.step == 2:
            os.kill(os.getpid(), number)
        return step()
    run.step = interrupted
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert run.train() == number
    assert run.progress.step == 3
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    model = folio.load(project.weights("test"))                 # though no evaluation had come yet
    assert (model.step, model.val_bpb) == (3, None)
    assert len(model.complete("The", tokens=3, seed=0)) > 0


def test_a_signal_while_the_last_step_is_measured_comes_too_late_to_stop_anything(make_run, monkeypatch):
    run = make_run(steps=5)
    evaluate = run.evaluate
    monkeypatch.setattr(run, "evaluate", lambda: os.kill(os.getpid(), signal.SIGINT) or evaluate())
    assert run.train() is None
    assert checkpoint.load(run.home.resume("test"))["progress"]["finished"]


def test_a_long_way_between_evaluations_is_saved_every_minute(project, make_run, monkeypatch):
    clock = Clock()
    run = make_run("long", clock=clock, started_at=0, steps=20, eval_interval=20, run_class=clock.slowing(Run, seconds_per_step=25))
    saved = []
    monkeypatch.setattr(run, "save_resume", lambda: saved.append(run.progress.step))
    run.train()
    assert saved == [3, 6, 9, 12, 15, 18, 20]


# --- What --resume refuses, and what it allows ---

def half_done(make_run, name="test", **changes):
    """A run that was stopped in the middle."""
    run = make_run(name, **changes)
    for _ in range(3):
        run.step()
    run.save_resume()
    return run


def refusal_of(context):
    with pytest.raises((FolioError, OSError)) as refused:
        with context:
            pass
    return str(refused.value)


def test_resume_with_nothing_to_resume_says_how_to_start(project, monkeypatch, capsys):
    with pytest.raises(FileNotFoundError, match="no unfinished run.*python train.py"):
        train_here(project, monkeypatch, capsys, "--resume")


def test_resume_of_an_unknown_name_lists_what_there_is(project, make_run):
    half_done(make_run, "night")
    assert "night" in refusal_of(continued(project, "day"))


def test_resume_takes_the_newest_unfinished_run(project, make_run):
    for name in ("first", "second"):
        half_done(make_run, name)
        time.sleep(0.02)
    make_run("finished").train()
    with continued(project) as run:
        assert run.name == "second"
    with continued(project, "first") as run:
        assert run.name == "first"


def test_resume_reads_whole_only_the_file_that_it_goes_on_from_and_that_once(project, make_run, monkeypatch):
    for name in ("first", "second"):
        half_done(make_run, name)
        time.sleep(0.02)
    make_run("finished").train()
    whole, contents = [], torch_file.TorchFile.contents
    monkeypatch.setattr(torch_file.TorchFile, "contents", lambda self: whole.append(Path(self._file.name)) or contents(self))
    said = []
    with continued(project, say=said.append) as run:
        assert run.name == "second"
    assert whole == [project.resume("second")]
    assert said[0] == "Going on with second, of 3 runs the newest that is not finished; --name takes another."


def test_resume_with_other_hyperparameters_lists_all_of_them(project, make_run):
    half_done(make_run)
    message = refusal_of(continued(project, emb_len=32, seed=2, batch_size=4, learning_rate=0.5, threads=7))
    for words in ("emb_len is 16, not 32", "seed is 1, not 2", "learning_rate is 0.01, not 0.5", "threads is 1, not 7"):
        assert words in message
    assert "batch_size" not in message              # which is as it was


def test_resume_with_a_preset_of_other_values_is_refused(project, make_run):
    half_done(make_run)
    message = refusal_of(continued(project, preset=PRESETS["shakespeare-10m"]))
    assert "family is folio, not classic" in message and "optimizer is muon, not adamw" in message


def test_resume_with_another_tokenizer_is_refused(project, make_run):
    half_done(make_run)
    corpus.open_corpus(project, replace(VOCABULARY, vocab_size=280))
    assert "tokenizer is another" in refusal_of(continued(project))


def test_init_keeps_the_tokenizer_that_an_unfinished_run_needs_and_train_says_where(project, make_run):
    half_done(make_run)
    old = load(project.tokenizer)
    kept = project.kept_tokenizer(old.fingerprint)
    words = "--home", project.folder, "--vocab-size", 280
    told = run_script("init.py", *words).stdout
    assert told.startswith(f"Unfinished runs need the tokenizer that was in {project.tokenizer}: test. It is")
    assert f"python train.py --resume --name test --home {project.folder}\n" in told
    assert "Unfinished" not in run_script("init.py", *words).stdout         # as nothing is replaced
    assert load(kept).to_dict() == old.to_dict() != load(project.tokenizer).to_dict()
    said = refusal(run_script("train.py", "--home", project.folder, "--resume"))
    assert f"its tokenizer is another than the one in {project.tokenizer} (its own was kept" in said
    assert f"copy the files in {kept} back there)" in said
    shutil.copytree(kept, project.tokenizer, dirs_exist_ok=True)
    with continued(project) as run:
        run.train()
    assert run.progress.finished


def test_an_import_keeps_the_tokenizer_that_an_unfinished_run_needs(project, make_run, tmp_path):
    half_done(make_run)
    old = load(project.tokenizer)
    write(BPETokenizer([(97, 98)]), "huggingface", tmp_path / "other.json")
    words = "-m", "folio.convert", "import", tmp_path / "other.json", "--home", project.folder, "--replace"
    told = run_python(*words).stdout
    assert told.startswith(f"Unfinished runs need the tokenizer that was in {project.tokenizer}: test. It is")
    assert load(project.kept_tokenizer(old.fingerprint)).to_dict() == old.to_dict()
    assert load(project.tokenizer).merges == [(97, 98)]
    assert "Unfinished" not in run_python(*words).stdout


def test_a_finished_run_and_a_damaged_one_need_no_tokenizer(project, make_run):
    make_run(steps=3).train()
    project.resume("bad").write_bytes(b"nothing")
    told = run_script("init.py", "--home", project.folder, "--vocab-size", 280)
    assert (told.returncode, told.stderr) == (0, "") and "Unfinished" not in told.stdout
    assert not list(project.tokenizer.glob("before-*"))


def test_resume_with_another_text_is_refused(project, make_run):
    half_done(make_run)
    path = project.train_data / "input.txt"
    path.write_text(path.read_text(encoding="utf-8")[:-100], encoding="utf-8")
    corpus.open_corpus(project, say=lambda text: None)
    assert "text is another" in refusal_of(continued(project))


def test_a_run_goes_on_in_one_process_at_a_time(project, make_run):
    half_done(make_run)
    before = project.resume("test").read_bytes()
    with continued(project):
        assert "another process" in refusal_of(continued(project))
    assert project.resume("test").read_bytes() == before
    with continued(project):
        pass                                        # and afterwards again


def test_a_finished_run_asks_for_more_steps_and_goes_on_with_them(project, make_run):
    make_run().train()
    assert "--steps" in refusal_of(continued(project, "test"))
    assert "--steps" in refusal_of(continued(project, "test", steps=20, minutes=None))
    assert "no unfinished run" in refusal_of(continued(project))
    with continued(project, "test", steps=25, minutes=None) as run:
        assert run.train() is None
    assert run.progress.step == 25
    assert [line["step"] for line in run_log.read(project.log("test")) if "val_bpb" in line] == [5, 10, 15, 20, 25]
    assert "--steps" in refusal_of(continued(project, "test"))


def test_a_run_of_steps_can_go_on_by_minutes_and_the_other_way_round(project, make_run):
    half_done(make_run, steps=1000)
    with continued(project, minutes=5.0, steps=None) as run:
        assert run.schedule.total_steps is None and run.progress.decay_start is None     # time has not decided yet
    with continued(project, minutes=None, steps=500) as run:
        assert (run.schedule.total_steps, run.progress.decay_start) == (500, 300)


def test_reporting_may_change_on_resume(project, make_run):
    half_done(make_run)
    with continued(project, sample_tokens=0) as run:
        assert run.training == replace(TRAINING.resolved(), sample_tokens=0)


@pytest.mark.parametrize("preset", [[], ["--preset", "default"]])
def test_the_same_command_with_resume_goes_on_even_where_the_context_had_shrunk(home, plays, preset, monkeypatch, capsys):
    small = home(plays[:1500])
    corpus.open_corpus(small, VOCABULARY)
    words = [*preset, *"--emb-len 16 --num-heads 2 --num-layers 1 --block-size 256 --batch-size 4 --sample-tokens 0 --threads 1".split()]
    code, out = train_here(small, monkeypatch, capsys, *words, "--steps", 2)
    assert not code and "the context shrinks from 256 to" in out
    code, out = train_here(small, monkeypatch, capsys, *words, "--resume", "--name", "default", "--steps", 4)
    assert not code and "going on after step 2" in out


def test_best_weights_that_are_gone_are_looked_for_anew(project, make_run):
    run = make_run(steps=20)
    for _ in range(5):
        run.step()
    run.progress.best_nats, run.progress.best_step = 0.001, 4           # better than anything that will come
    run.save_resume()
    said = []
    with continued(project, say=said.append) as run:
        assert "weights-test.pth is gone" in said[0]
        run.train()
    assert project.weights("test").exists() and run.progress.best_step > 5


# --- Names ---

def test_a_name_that_is_taken_becomes_the_next_free_one_plainly_said(project, monkeypatch, capsys):
    words = "--emb-len 16 --num-heads 2 --num-layers 1 --block-size 16 --batch-size 4 --steps 1 --sample-tokens 0 --threads 1".split()
    said = []
    for _ in range(3):
        said.append(train_here(project, monkeypatch, capsys, *words)[1])
    assert "already" not in said[0] and "run       default:" in said[0]
    assert "There is a run named default already; this one is default-2." in said[1]
    assert "There is a run named default already; this one is default-3." in said[2]
    before = {path: path.read_bytes() for path in project.saved_weights.iterdir() if path.is_file()}
    assert "night-2" not in train_here(project, monkeypatch, capsys, *words, "--name", "night")[1]
    assert "There is a run named night already; this one is night-2." in train_here(project, monkeypatch, capsys, *words, "--name", "night")[1]
    for path, content in before.items():
        assert path.read_bytes() == content, path               # nothing of another run was touched
    names = {path.name for path in project.saved_weights.glob("weights-*")}
    assert names == {f"weights-{name}.pth" for name in ("default", "default-2", "default-3", "night", "night-2")}


def test_unfinished_files_of_killed_runs_are_removed_by_the_next_run(project, make_run):
    half_done(make_run, "alive")
    left = [path.with_name(f".{path.name}.{'0123456789abcdef' * 2}.tmp") for path in
            (project.weights("dead"), project.resume("default"), project.log("dead.2"), project.weights("alive"))]
    for path in [*left, project.saved_weights / ".note.tmp"]:
        path.write_bytes(b"half")
    with continued(project, "alive"):
        left[-1].write_bytes(b"half")               # as if it were being written right now
        with runs._claimed(project, "default", say=pytest.fail):
            assert [path.exists() for path in left] == [False, False, False, True]
    assert (project.saved_weights / ".note.tmp").exists()


@pytest.mark.parametrize("taken_by", ["weights", "resume", "log"])
def test_any_file_of_a_run_keeps_its_name_from_others(project, taken_by):
    project.saved_weights.mkdir()
    path = getattr(project, taken_by)("default")
    path.write_bytes(b"mine")
    with runs._claimed(project, "default", say=lambda text: None) as name:
        assert name == "default-2"
    assert path.read_bytes() == b"mine"


def test_a_run_that_came_to_nothing_gives_its_name_back(project):
    with pytest.raises(RuntimeError), runs._claimed(project, "default", say=pytest.fail):
        raise RuntimeError
    with runs._claimed(project, "default", say=pytest.fail) as name:
        assert name == "default"
    assert not list(project.saved_weights.glob("log-*"))


def test_two_runs_that_start_at_once_get_different_names(project):
    with runs._claimed(project, "default", say=lambda text: None) as one, runs._claimed(project, "default", say=lambda text: None) as other:
        assert (one, other) == ("default", "default-2")


# --- Losses that are not finite, disks that are full ---

def test_a_new_run_removes_what_killed_ones_left_behind_and_disturbs_none_at_work(project):
    project.saved_weights.mkdir()
    killed = [f".weights-k.pth.{'0' * 32}.tmp", f".resume-k.pth.{'1' * 32}.tmp", f".log-other.jsonl.{'2' * 32}.tmp"]
    kept = [f".weights-busy.pth.{'3' * 32}.tmp", f"..history.{'4' * 32}.tmp"]
    for name in [*killed, *kept]:
        (project.saved_weights / name).write_bytes(b"half")
    with runs._held(project, "busy"), runs._claimed(project, "k", say=pytest.fail):
        assert sorted(path.name for path in project.saved_weights.glob(".*.tmp")) == sorted(kept)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_files(project, make_run):
    run = make_run(steps=20)
    loss = run.train_step.loss
    run.train_step.loss = lambda *batch: loss(*batch) * (math.nan if run.progress.step == 7 else 1)
    with pytest.raises(FolioError, match="step 7 .*loss is nan.*--learning-rate"):
        run.train()
    contents = checkpoint.load(project.resume("test"))
    assert contents["progress"]["step"] == checkpoint.load(project.weights("test"))["step"] == 5
    assert all(tensor.isfinite().all() for tensor in contents["weights"].values())


def test_a_gradient_that_is_not_finite_changes_no_weight(make_run):
    run = make_run()
    before = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
    run.train_step.loss = lambda *batch: (run.net.embedding.weight.sum() * 0).sqrt() + 1           # its slope at zero is infinite
    with pytest.raises(FolioError, match="step 0"):
        run.step()
    assert same_weights(before, run.net.state_dict())
    assert run.progress.step == 0


@pytest.mark.parametrize("sample_tokens", [0, 4])
def test_weights_that_have_become_useless_are_never_kept(project, make_run, sample_tokens):
    run = make_run(steps=20, eval_interval=1, sample_tokens=sample_tokens)
    step = run.step

    def spoiled():
        loss = step()
        if run.progress.step == 4:
            with torch.no_grad():
                run.net.head.weight[0, 0] = math.nan
        return loss
    run.step = spoiled
    with pytest.raises(FolioError, match="step"):
        run.train()
    for path in (project.weights("test"), project.resume("test")):
        assert all(tensor.isfinite().all() for tensor in weights_of(path).values()), path
    assert all(math.isfinite(line.get("val_bpb", 0)) for line in run_log.read(project.log("test")))


def test_weights_that_are_useless_from_the_start_leave_nothing_behind(project, make_run):
    run = make_run(steps=20, eval_interval=1, optimizer="sgd", learning_rate=1000.0, gradient_clip=0.0, warmup_steps=0)
    with pytest.raises(FolioError, match="step"):
        run.train()
    for path in (project.weights("test"), project.resume("test")):
        assert not path.exists() or all(tensor.isfinite().all() for tensor in weights_of(path).values()), path


def test_a_disk_that_gets_full_costs_nothing_that_was_saved(project, make_run, monkeypatch):
    run = make_run(steps=20)
    # Good are the weights and the resume file of step 5 and the weights of step 10, each with its folder.
    monkeypatch.setattr(os, "fsync", FullDisk(good_calls=6))
    with pytest.raises(OSError):
        run.train()
    monkeypatch.undo()
    assert checkpoint.load(project.resume("test"))["progress"]["step"] == 5
    assert checkpoint.load(project.weights("test"))["step"] in (5, 10)
    assert not list(project.saved_weights.glob("*.tmp")) and not list(project.saved_weights.glob(".*.tmp"))
    whole = make_run("whole", steps=20)
    whole.train()
    with continued(project, "test") as run:
        run.train()
    assert same_weights(weights_of(project.weights("test")), weights_of(project.weights("whole")))
    assert without_times(project.log("test")) == without_times(project.log("whole"))


# --- What is said and kept ---

def test_training_before_init_is_refused(home, monkeypatch, capsys):
    made = home("some text")
    with pytest.raises(FileNotFoundError, match="python init.py"):
        train_here(made, monkeypatch, capsys)
    assert not made.saved_weights.exists()


def test_the_log_has_what_was_promised(uninterrupted):
    made, contents, _, _ = uninterrupted
    lines, most = run_log.read(made.log("default")), contents["training"]["bpe_dropout"]
    assert 0.05 < most < 0.2                    # 300 x 8 x 32 tokens are about five passes over twenty kilobytes
    assert [json.loads(line) for line in made.log("default").read_text(encoding="utf-8").splitlines()] == lines
    assert [line["step"] for line in lines] == list(range(5, 301, 5))
    for line in lines:
        assert line.keys() >= {"step", "seconds", "tokens", "train_loss", "train_nats_per_byte", "learning_rate", "bpe_dropout", "gradient_length", "tokens_per_second"}
        assert ("sample" in line) == ("val_bpb" in line)
        assert line["bpe_dropout"] == pytest.approx(most * line["learning_rate"] / 0.01) and line["gradient_length"] > 0
        assert ("val_bpb" in line) == ("val_nats_per_byte" in line) == (line["step"] % 50 == 0)
        assert line["tokens"] == line["step"] * 8 * 32
        assert line["tokens_per_second"] > 0 and line["seconds"] > 0
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    assert lines[-1]["val_bpb"] == pytest.approx(lines[-1]["val_nats_per_byte"] / math.log(2))
    assert lines[3]["learning_rate"] == 0.01 and lines[-1]["learning_rate"] == pytest.approx(0.01 / 120)
    assert lines[-1]["val_bpb"] < lines[9]["val_bpb"] - 0.1                  # it learns
    assert lines[-1]["train_loss"] < lines[0]["train_loss"] - 1
    measured = [line["step"] for line in lines if "train_eval_nats_per_byte" in line]
    assert measured and measured == list(range(measured[0], 301, 50))
    assert lines[-1]["train_eval_nats_per_byte"] < lines[-1]["val_nats_per_byte"]


def test_every_field_of_the_log_is_explained(uninterrupted, project, make_run):
    run, _ = by_the_clock(make_run, "timed", learns=False)
    run.train()
    written = {field for log in (uninterrupted[0].log("default"), run.reporter.log.path) for line in run_log.read(log) for field in line}
    assert written == set(re.findall(r"^    (\w+)  ", run_log.__doc__, re.MULTILINE))


def test_the_log_says_once_where_the_decay_begins_and_anew_when_a_run_is_made_longer(project, make_run, uninterrupted):
    assert [(line["step"], line["decay_start"]) for line in uninterrupted[2] if "decay_start" in line] == [(5, 180)]
    make_run("constant", schedule="constant").train()
    assert not any("decay_start" in line for line in run_log.read(project.log("constant")))
    make_run().train()
    for steps in (40, 60):
        with continued(project, "test", steps=steps) as run:
            run.train()
    assert [(line["step"], line["decay_start"]) for line in run_log.read(project.log("test")) if "decay_start" in line] == [(1, 12), (21, 24), (41, 36)]


def test_the_gradient_length_in_the_log_is_that_before_clipping(project, make_run):
    lengths = {clip: make_run(f"clip-{clip}", gradient_clip=clip, steps=2, eval_interval=1) for clip in (0.0, 1e-3)}
    for run in lengths.values():
        run.train()
    loose, tight = (run_log.read(run.reporter.log.path)[0]["gradient_length"] for run in lengths.values())
    assert loose == tight > 1e-3


def test_the_training_loss_in_the_log_is_the_mean_since_the_line_before(project, make_run):
    run = make_run(steps=25, eval_interval=20)
    losses, step = [], run.step
    run.step = lambda: losses.append(step())
    run.train()
    lines = run_log.read(project.log("test"))
    assert [line["step"] for line in lines] == [*range(2, 25, 2), 25]
    assert lines[0]["train_loss"] == pytest.approx(np.mean(losses[:2]))
    assert lines[-1]["train_loss"] == pytest.approx(losses[-1])


def test_training_and_validation_are_logged_in_one_unit_whatever_bpe_dropout_does(make_run, monkeypatch):
    run = make_run(steps=4, eval_interval=20, bpe_dropout=0.3)
    sizes, batches, losses = bytes_of_tokens(run.tokenizer), [], []
    batch, step = run._batch, run.step
    monkeypatch.setattr(run, "_batch", lambda number: batches.append(batch(number)) or batches[-1])
    run.step = lambda: losses.append(step())
    run.train()
    expected = [64 * sum(losses[first:first + 2]) / sum(sizes[targets.numpy()].sum() for batch in batches[first:first + 2] for targets in [batch.targets]) for first in (0, 2)]
    assert [line["train_nats_per_byte"] for line in run_log.read(run.reporter.log.path)] == pytest.approx(expected)


def test_targets_without_text_have_no_loss_per_byte(make_run, capsys):
    run = make_run(steps=1)
    run.token_bytes = torch.zeros_like(run.token_bytes)
    run.train()
    assert run_log.read(run.reporter.log.path)[0]["train_nats_per_byte"] is None
    assert "training -  validation" in capsys.readouterr().out


def test_evaluations_measure_a_sample_of_the_training_text_as_they_measure_the_validation(make_run):
    run = make_run(steps=600, eval_interval=500, dropout=0.5, bpe_dropout=0.3)
    run.progress.step = 500
    total, score = run.corpus.train_tokens, run.evaluator.measure_training_text(run.progress.step)
    starts = spread_windows(total, 960 // 16, 16)           # five steps' time; an evaluation is three times as fast as a step
    assert starts[0] == 0 and starts[-1] == total - 17 and (np.diff(starts) >= 16).all()
    run.net.eval()
    windows = torch.from_numpy(np.stack([run.corpus.train[start:start + 17] for start in starts]).astype(np.int64))
    with torch.inference_mode():
        nats = F.cross_entropy(run.net(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten(), reduction="sum").item()
    assert score.nats == pytest.approx(nats, rel=1e-4)
    assert (score.tokens, score.bytes) == (16 * len(starts), bytes_of_tokens(run.tokenizer)[windows[:, 1:].numpy()].sum())
    run.net.train()
    assert score == run.evaluator.measure_training_text(run.progress.step) and run.net.training


def test_the_training_text_is_measured_where_it_costs_no_more_than_a_hundredth_of_the_run(make_run, capsys):
    run = make_run(steps=250, eval_interval=50, learning_rate=0.02)
    run.train()
    lines = [line for line in run_log.read(run.reporter.log.path) if "val_nats_per_byte" in line]
    cost = report.evaluation_steps(16 * (report.train_eval_tokens(run.corpus.val_tokens, 50, 64) // 16), 64)
    assert 0.5 < cost < 2.5
    assert [line["step"] for line in lines if "train_eval_nats_per_byte" in line] == [step for step in range(50, 251, 50) if step >= 100 * cost]
    said = [line for line in capsys.readouterr().out.splitlines() if " validation " in line]
    assert "(running mean)  validation" in said[0] and re.search(rf"training {lines[-1]['train_eval_nats_per_byte']:.4f}  validation", said[-1])


@pytest.mark.parametrize("val_tokens, eval_interval, expected", [
    (1_000, 100, 1_000),                # as large as the validation part, where that is cheap
    (100_000, 100, 25_000),             # a quarter, where somebody wants evaluations that cost more than they should
    (100_000, 2_000, 60_000),           # a hundredth of 2,000 steps of 1,000 tokens; an evaluation is three times as fast as a step
])
def test_the_sample_of_the_training_text_is_as_large_as_time_allows(val_tokens, eval_interval, expected):
    assert report.train_eval_tokens(val_tokens, eval_interval, 1000) == expected


@pytest.mark.parametrize("val_tokens", [10, 5_000, 40_000, 3_000_000])
def test_evaluations_have_their_share_of_the_time(val_tokens):
    interval = default_eval_interval(val_tokens, 1000)
    measured = val_tokens + report.train_eval_tokens(val_tokens, interval, 1000)
    assert report.evaluation_steps(measured, 1000) <= report.EVALUATION_SHARE * interval + 1e-6


def test_a_run_goes_on_from_a_resume_file_that_knows_no_bytes_of_its_last_losses(project, make_run):
    run = half_done(make_run)
    contents = checkpoint.load(project.resume("test"))
    assert len(contents["progress"]["recent_losses"]) == 3
    del contents["progress"]["recent_bytes"], contents["progress"]["recent_tokens"]
    run.restore(contents)
    assert run.progress.recent_nats_per_byte(64) is None
    run.step()
    assert 0 < run.progress.recent_nats_per_byte(64) < 10


def test_a_resumed_run_cuts_its_log_back_to_its_step(tmp_path):
    log = run_log.RunLog(tmp_path / "log.jsonl")
    for step in range(1, 6):
        log.append(step=step, train_loss=1.5)
    with log.path.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "tra')                              # a kill left half a line
    assert [line["step"] for line in run_log.read(log.path)] == [1, 2, 3, 4, 5]
    log.cut_back(3)
    log.append(step=4, train_loss=1.0)
    assert [line["step"] for line in map(json.loads, log.path.read_text(encoding="utf-8").splitlines())] == [1, 2, 3, 4]


def test_the_weights_file_holds_what_was_promised(uninterrupted):
    made, contents, log, _ = uninterrupted
    assert contents.keys() >= {"format", "params", "tokenizer", "weights", "step", "val_bpb"}
    best = min((line for line in log if "val_bpb" in line), key=lambda line: line["val_bpb"])
    assert (contents["step"], contents["val_bpb"]) == (best["step"], best["val_bpb"])
    assert contents["params"]["emb_len"] == 32 and contents["training"]["steps"] == 300
    assert folio.load(made.weights("default")).tokenizer.fingerprint == corpus.open_corpus(made)[0].fingerprint


def test_the_effective_settings_are_said_before_the_first_step(uninterrupted):
    out = uninterrupted[3]
    head = out[:out.index("step 50")]
    assert "run       default: 300 steps" in head
    for setting in ("emb_len=32", "head_len=16", "dropout=0.1", "threads=1", "device=cpu", "learning_rate=0.01", "block_size=32", "val_fraction=0.1"):
        assert setting in head.split()
    assert f"{networks.count_parameters(folio.load(uninterrupted[0].weights('default')).net):,} parameters" in head
    assert out.splitlines()[-1] == f"Next: python run.py --home {uninterrupted[0].folder}"
    assert str(uninterrupted[0].weights("default")) in out.splitlines()[-2]


def test_a_sample_is_written_without_dropout(make_run):
    run = make_run(dropout=0.5, sample_tokens=30)
    assert len({run.evaluator.sample() for _ in range(3)}) == 1 and run.net.training


def test_each_evaluation_shows_a_sample_of_text(uninterrupted):
    assert len(re.findall(r"validation [0-9.]+ nats/byte = [0-9.]+ bits/byte(  best)?\n +\| ", uninterrupted[3])) >= 5


def test_the_best_weights_by_validation_are_the_ones_that_are_kept(project, make_run):
    run = make_run(steps=20)
    scores, kept = iter([3.0, 1.0, 2.0, 1.0]), {}

    def evaluate():
        kept[run.progress.step] = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
        return Score(next(scores), 1, 1)
    run.evaluate = evaluate
    run.train()
    contents = checkpoint.load(project.weights("test"))
    assert contents["step"] == run.progress.best_step == 10
    assert same_weights(contents["weights"], kept[10])
    assert same_weights(checkpoint.load(project.resume("test"))["weights"], kept[20])


def with_scores(run, *scores):
    scores = iter(scores)
    run.evaluate = lambda: Score(next(scores), 1, 1)
    return run


def test_a_run_out_of_patience_stops_is_finished_and_goes_on_when_it_gets_more(project, make_run, capsys):
    run = with_scores(make_run(steps=100, patience=2), 3.0, 1.0, 2.0, 0.9, 0.9, 1.1, 5.0)
    run.train()
    assert (run.progress.step, run.progress.best_step, run.progress.finished) == (30, 20, True)     # it is measured every 5 steps
    assert "2 validations in a row were no better than step 20's: stopping here." in capsys.readouterr().out
    with pytest.raises(FolioError, match="stopped by its patience of 2 .* --resume --name test --patience 4"), continued(project, "test"):
        pass
    with continued(project, "test", patience=3) as more:
        with_scores(more, 2.0).train()
        assert (more.progress.step, more.progress.finished) == (35, True)


def test_overfitting_is_said_once_when_three_validations_in_a_row_are_no_better(make_run, capsys):
    with_scores(make_run(steps=50), 3.0, 1.0, 2.0, 1.5, 1.0, 1.2, 1.3, 0.9, 2.0, 2.0).train()
    said = capsys.readouterr().out
    assert said.count("The model is overfitting") == 1
    assert said.index("validation 1.0000", said.index("validation 1.5000")) < said.index("overfitting") < said.index("validation 1.2000")


def test_the_whole_held_out_part_is_measured_with_dropout_off(project, make_run):
    run = make_run(dropout=0.5)
    score = run.evaluate()
    assert (score.tokens, score.bytes) == (run.corpus.val_tokens, run.corpus.val_bytes)
    assert score == run.evaluate()
    assert run.net.training
    tokens = torch.from_numpy(run.corpus.tokens[run.corpus.train_tokens - 1:].astype(np.int64))     # the last training token predicts the first
    run.net.eval()
    with torch.inference_mode():
        nats = sum(F.cross_entropy(run.net(window[None, :-1])[0], window[1:], reduction="sum").item()
                   for start in range(0, len(tokens) - 1, 16) for window in [tokens[start:start + 17]])
    assert score.nats == pytest.approx(nats, rel=1e-4)


def test_a_text_too_small_for_the_context_shrinks_it_and_says_so(home, plays, monkeypatch, capsys):
    small = home(plays[:1500])
    _, text = corpus.open_corpus(small, VOCABULARY)
    code, out = train_here(small, monkeypatch, capsys, *"--emb-len 16 --num-heads 2 --num-layers 1 --block-size 256 --steps 3 --threads 1".split())
    assert not code
    assert f"The text has only {text.train_tokens:,} tokens to train on: the context shrinks from 256 to 128." in out
    assert folio.load(small.weights("default")).net.params.block_size == 128


def test_the_lecture_preset_needs_characters(project, monkeypatch, capsys):
    with pytest.raises(FolioError, match="tokenizer is bpe, not char.*--home DIR"):
        train_here(project, monkeypatch, capsys, "--preset", "shakespeare-10m")
    assert not project.saved_weights.exists()


def test_the_model_of_the_lectures_says_its_parameters_when_it_starts(home):
    made = home("".join(map(chr, range(0x30, 0x30 + 65))) * 40)
    preset, said = PRESETS["shakespeare-10m"], []
    tokenizer, text = corpus.open_corpus(made, preset.text)
    with runs.new_run(made, "test", preset, tokenizer, text, time.perf_counter(), say=said.append):
        assert "family=classic" in "\n".join(said)
        assert "5,000 steps" in "\n".join(said)
        assert "10,788,929 parameters" in "\n".join(said)


def test_small_parts():
    assert (clock_time(0), clock_time(83), clock_time(3600)) == ("0:00", "1:23", "60:00")
    assert default_eval_interval(1, 1000) == 100
    assert default_eval_interval(3_000_000, 1000) == 25_000             # 1,000 steps' worth, a twenty-fifth of the time


# --- By the clock ---

class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def slowing(self, run_class, seconds_per_step, evaluation=1.0, learns=True):
        """A Run whose steps take so long by this clock, and its evaluations `evaluation` times what is expected of them.

        seconds_per_step: a number, or (this clock's time, the number of the step) -> a number; learns: False where only the time matters
        """
        def seconds_at(step):
            return seconds_per_step(self.now, step) if callable(seconds_per_step) else seconds_per_step

        class Slow(run_class):
            def step(run):
                self.now += seconds_at(run.progress.step)
                if learns:
                    return super().step()
                run.progress.count_step(1.0, run.tokens_per_step, 0)
                run.grad_norm = 1.0

            def __init__(run, *parts, **how):
                super().__init__(*parts, **how)
                measured = run.evaluator._measured

                def slowly(measure, text, *more, block_size, step):
                    tokens = block_size * len(more[1]) if measure is evaluate_windows else len(text) - 1
                    self.now += evaluation * report.evaluation_steps(tokens, run.tokens_per_step) * seconds_at(step)
                    return measured(measure, text, *more, block_size=block_size, step=step) if learns else Score(1.0, 1, 1)
                run.evaluator._measured = slowly
        return Slow


def by_the_clock(make_run, name, seconds_per_step=1.0, evaluation=1.0, learns=True, **changes):
    """A run of two minutes, whose process took ten seconds to start."""
    clock = Clock()
    clock.now = 10.0
    how = {"steps": None, "minutes": 2.0, "eval_interval": 30, "sample_tokens": 0} | changes
    run = make_run(name, clock.slowing(Run, seconds_per_step, evaluation, learns), clock=clock, started_at=0.0, **how)
    return run, clock


@pytest.mark.parametrize("seconds_per_step", [0.2, 1.0])
@pytest.mark.parametrize("evaluation", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("decay_fraction", [0.0, 0.4, 0.6])
def test_minutes_are_what_a_run_takes_to_a_twentieth_everything_included(make_run, seconds_per_step, evaluation, decay_fraction):
    run, clock = by_the_clock(make_run, "timed", seconds_per_step, evaluation, learns=False, decay_fraction=decay_fraction)
    assert run.train() is None
    assert 0.95 * 120 <= clock.now <= 1.05 * 120
    assert run.done and run.progress.finished
    assert run_log.read(run.reporter.log.path)[-1]["seconds"] == pytest.approx(clock.now, abs=0.01)
    assert "val_bpb" in run_log.read(run.reporter.log.path)[-1]


def changing(times, at):
    """Steps of 0.2 s, which from a share of two minutes on take `times` as long."""
    return lambda now, step: 0.2 * (times if now >= at * 120 else 1)


def slow_first(now, step):
    return 5.0 if step == 0 else 0.2


def stalling(at):
    """Steps of 0.2 s, but one after a share of two minutes takes five more."""
    stalled = []

    def seconds(now, step):
        stall = now >= at * 120 and not stalled
        stalled.extend([now] * stall)
        return 0.2 + 5.0 * stall
    return seconds


def in_bursts(now, step):
    """Steps of 0.2 s beside another program that comes and goes: three seconds in ten they take four times as long."""
    return 0.8 if now % 10 < 3 else 0.2


@pytest.mark.parametrize("seconds_per_step", [
    *(pytest.param(changing(times, at), id=f"x{times} at {at}") for times in (0.5, 2, 4) for at in (0.3, 0.6, 0.65, 0.9)),
    pytest.param(slow_first, id="slow first step"), *(pytest.param(stalling(at), id=f"stall at {at}") for at in (0.1, 0.58, 0.7, 0.95)),
    pytest.param(in_bursts, id="bursts")])
def test_a_run_ends_on_time_whatever_becomes_of_the_machine(make_run, seconds_per_step):
    run, clock = by_the_clock(make_run, "timed", seconds_per_step, learns=False, eval_interval=100)
    run.train()
    assert 0.95 * 120 <= clock.now <= 1.05 * 120
    assert run.done and run.progress.finished and len(run.progress.moved_ends) <= 8
    rates = [line["learning_rate"] for line in run_log.read(run.reporter.log.path)]
    assert rates[-1] < 0.1 * max(rates)             # the descent reached its end


@pytest.mark.parametrize("minutes, seconds_per_step, started", [(0.09, 0.1, 3.0), (0.09, 0.02, 2.5), (0.155, 0.2, 4.0)])
def test_the_first_slow_step_of_a_run_of_seconds_does_not_decide_its_descent(make_run, minutes, seconds_per_step, started):
    run, clock = by_the_clock(make_run, "short", lambda now, step: 6 * seconds_per_step if step == 0 else seconds_per_step, learns=False,
                              minutes=minutes, eval_interval=1000)
    run.stopwatch.started_at = 10.0 - started
    run.train()
    took, closing = clock.now - run.stopwatch.started_at, deadline.CLOSING_SECONDS
    assert 0.9 * 60 * minutes <= took + closing <= 1.05 * 60 * minutes
    most = (60 * minutes - started - closing - 5 * seconds_per_step) / seconds_per_step
    evaluation = report.evaluation_steps(run.corpus.val_tokens, run.tokens_per_step)
    assert most - 2 * evaluation - 3 <= run.progress.step <= most


def test_a_descent_that_began_at_the_worst_speed_lasts_until_the_time_is_over(make_run):
    run, clock = by_the_clock(make_run, "timed", lambda now, step: 1.6 if now < 80 else 0.2, learns=False, eval_interval=1000)
    run.train()
    assert run.progress.decay_start < 60 and run.progress.moved_ends
    assert 0.95 * 120 <= clock.now <= 1.05 * 120


def test_an_evaluation_that_is_slower_than_guessed_is_known_from_one_batch_of_it(make_run):
    run, clock = by_the_clock(make_run, "timed", 0.2, evaluation=8.0, learns=False, eval_interval=1000)
    run.train()
    assert 0.95 * 120 <= clock.now <= 1.05 * 120 and len(run.progress.moved_ends) <= 1


def test_the_log_has_every_decision_with_its_step(make_run):
    run, _ = by_the_clock(make_run, "timed", changing(2, 0.65), learns=False)
    run.train()
    decided = [line for line in run_log.read(run.reporter.log.path) if "total_steps" in line]
    assert [[line["step"], line["total_steps"]] for line in decided[1:]] == run.progress.moved_ends != []
    assert decided[0]["decay_start"] == decided[0]["step"] == run.progress.decay_start < run.progress.step < decided[0]["total_steps"]
    assert decided[-1]["total_steps"] == run.progress.step
    for line in run_log.read(run.reporter.log.path):
        assert line["learning_rate"] == pytest.approx(run.schedule.learning_rate(line["step"] - 1))


def replayed(make_run, run):
    """A run without a clock that makes the steps of another one, of whose decisions it knows."""
    again = make_run(f"{run.name}-replayed", steps=None, minutes=2.0, eval_interval=1000)
    again.progress.decay_start, again.progress.moved_ends = run.progress.decay_start, run.progress.moved_ends
    while not again.done:
        again.step()
    return again


def test_time_decides_where_the_descent_begins_and_ends_and_nothing_else(project, make_run):
    run, _ = by_the_clock(make_run, "timed", lambda now, step: 2.0 if now > 80 else 1.0)
    run.train()
    assert run.progress.moved_ends
    assert same_weights(run.net.state_dict(), replayed(make_run, run).net.state_dict())


def test_time_decides_the_start_of_the_descent_and_nothing_else(project, make_run):
    run, _ = by_the_clock(make_run, "timed")
    run.train()
    decided = [line for line in run_log.read(run.reporter.log.path) if "decay_start" in line]
    assert [line["decay_start"] for line in decided] == [run.progress.decay_start] == [decided[0]["step"]]
    assert run.progress.moved_ends == []
    by_steps = make_run("by-steps", steps=run.progress.step, eval_interval=30)
    assert by_steps.progress.decay_start == run.progress.decay_start
    by_steps.train()
    assert same_weights(run.net.state_dict(), by_steps.net.state_dict())


@pytest.mark.parametrize("killed_after", [0, 1, 20])
def test_a_run_resumed_after_the_decision_repeats_it(project, make_run, killed_after):
    whole, _ = by_the_clock(make_run, "whole")
    whole.train()

    run, _ = by_the_clock(make_run, "killed")
    step = run.step

    def killed():
        if run.progress.decay_start is not None and run.progress.step >= run.progress.decay_start + killed_after:
            raise Killed
        return step()
    run.step = killed
    with pytest.raises(Killed):
        run.train()
    contents = checkpoint.load(project.resume("killed"))
    assert contents["progress"]["decay_start"] == whole.progress.decay_start            # on the disk before it is used

    again, _ = by_the_clock(make_run, "killed")
    again.restore(contents)
    again.train()
    assert (again.progress.decay_start, again.progress.step) == (whole.progress.decay_start, whole.progress.step)
    assert same_weights(again.net.state_dict(), whole.net.state_dict())


def test_a_run_resumed_in_its_descent_on_a_slower_machine_still_ends_on_time(project, make_run):
    half, _ = by_the_clock(make_run, "slower", 0.2, learns=False, eval_interval=1000)
    step = half.step

    def killed():
        if half.progress.decay_start is not None and half.progress.step >= half.progress.decay_start:
            raise Killed
        return step()
    half.step = killed
    with pytest.raises(Killed):
        half.train()
    again, clock = by_the_clock(make_run, "slower", 0.8, learns=False, eval_interval=1000)
    again.restore(checkpoint.load(project.resume("slower")))
    again.train()
    assert 0.95 * 120 <= again.stopwatch.seconds - 10 <= 1.05 * 120               # ten seconds were lost with the process
    assert again.progress.moved_ends


def test_a_run_killed_between_any_decision_and_its_writes_repeats_the_decisions_that_were_saved(project, make_run, monkeypatch):
    how = dict(seconds_per_step=lambda now, step: 2.0 if now > 42 else 1.0, minutes=1.0, eval_interval=1000)
    with monkeypatch.context() as patched:
        happened = events(patched, die_at=None)
        whole, _ = by_the_clock(make_run, "whole", **how)
        whole.train()
    decided = {whole.progress.decay_start, *(step for step, _ in whole.progress.moved_ends)}
    assert len(decided) >= 2
    steps, around = 0, set()
    for number, name in enumerate(happened, 1):
        steps += name == "step"
        around |= {number} if steps in decided or steps - 1 in decided else set()
    for die_at in sorted(around):
        name = f"killed-{die_at}"
        with monkeypatch.context() as patched, pytest.raises(Killed):
            events(patched, die_at)
            by_the_clock(make_run, name, **how)[0].train()
        if not project.resume(name).exists():               # before the first decision nothing is saved: it begins anew
            continue
        contents = checkpoint.load(project.resume(name))
        again, _ = by_the_clock(make_run, name, **how)
        again.restore(contents)
        again.train()
        saved = contents["progress"]
        assert again.progress.decay_start == saved["decay_start"] == whole.progress.decay_start
        assert again.progress.moved_ends[:len(saved["moved_ends"])] == saved["moved_ends"]
        assert same_weights(again.net.state_dict(), replayed(make_run, again).net.state_dict()), die_at


def test_a_resume_file_without_moved_ends_goes_on(project, make_run):
    run, clock = by_the_clock(make_run, "old")
    clock.now = 80.0
    run.progress.decay_start = 40
    run.progress.step = 50
    run.progress.training_seconds = 50.0
    run.save_resume()
    contents = checkpoint.load(project.resume("old"))
    for name in ("moved_ends", "evaluation_steps", "recent_bytes", "recent_tokens"):
        del contents["progress"][name]
    contents["progress"]["evaluation_seconds"] = 2.5
    again, _ = by_the_clock(make_run, "old")
    again.restore(contents)
    again.train()
    assert again.progress.step == again.schedule.total_steps == 67 and again.progress.moved_ends == []


def test_the_decision_reaches_the_log_even_if_the_run_is_killed_before_it_is_written(project, make_run, monkeypatch):
    run, _ = by_the_clock(make_run, "killed")
    report = run._report

    def killed(evaluates, decided):
        if decided:
            raise Killed
        report(evaluates, decided)
    run._report = killed
    with pytest.raises(Killed):
        run.train()
    again, _ = by_the_clock(make_run, "killed")
    again.restore(checkpoint.load(project.resume("killed")))
    again.train()
    assert [line["decay_start"] for line in run_log.read(project.log("killed")) if "decay_start" in line] == [again.progress.decay_start]


@pytest.mark.parametrize("share, seconds_per_step, minutes, said", [
    (0.4, 1.0, 2.0, "another program was probably using the machine, for this one had 40% of the processor time of its 1 thread."),
    (0.95, 1.0, 2.0, "the estimate was for a faster machine than this one."),
    (0.4, 0.001, 0.15, None)])
def test_a_run_that_ends_far_short_of_its_plan_says_so_with_the_likely_cause(make_run, monkeypatch, share, seconds_per_step, minutes, said):
    run, clock = by_the_clock(make_run, "timed", seconds_per_step, learns=False, minutes=minutes)
    run.stopwatch.started_at = clock.now - 1
    monkeypatch.setattr(time, "process_time", lambda: share * clock.now)
    run.train()
    planned = summary.expected(run).steps
    found = summary.shortfall(run)
    if said is None:
        assert run.progress.step >= 0.6 * planned and found is None
    else:
        assert found.startswith(f"This run made {run.progress.step} steps of about {planned:,} planned: {said}")
        assert "\n" not in found


def test_a_run_of_steps_has_no_plan_to_fall_short_of(make_run):
    run = make_run(steps=3)
    run.train()
    assert summary.shortfall(run) is None


def test_train_says_at_its_end_how_far_short_of_the_plan_it_came(project, monkeypatch, capsys):
    monkeypatch.setattr(summary, "expected", lambda run: replace(expected(run), steps=10**6))
    code, out = train_here(project, monkeypatch, capsys, *FLAGS[:8], "--minutes", 0.05, "--threads", 1)
    assert not code
    made, = re.findall(r"^This run made (\d+) steps? of about 1,000,000 planned: .+$", out, re.MULTILINE)
    assert out.index("This run made") < out.index("Done. The best weights") and int(made) >= 1


expected = summary.expected


def test_the_seconds_of_all_sittings_count(project, make_run):
    first, clock = by_the_clock(make_run, "sittings")
    for _ in range(30):
        first.step()
    first.progress.training_seconds = 30.0
    first.save_resume()
    assert checkpoint.load(project.resume("sittings"))["progress"]["seconds"] == clock.now == 40.0
    second, clock = by_the_clock(make_run, "sittings")
    second.restore(checkpoint.load(project.resume("sittings")))
    assert second.stopwatch.seconds == 50.0                               # and ten seconds to start again
    second.train()
    assert 119 <= second.stopwatch.seconds <= 123
    assert run_log.read(second.reporter.log.path)[-1]["seconds"] == pytest.approx(second.stopwatch.seconds, abs=0.01)


# --- The machine ---

def test_a_device_that_is_not_here_is_refused_before_anything_is_written(project, monkeypatch, capsys):
    monkeypatch.setattr(hardware, "available_devices", lambda: ["cpu"])
    with pytest.raises(FolioError, match="device=cuda"):
        train_here(project, monkeypatch, capsys, "--device", "cuda")
    assert not project.saved_weights.exists()


@pytest.mark.parametrize("when", ["at once", "at the first step"])
def test_where_compiling_fails_training_goes_on_without_and_says_so_in_one_line(project, make_run, when, monkeypatch, capsys):
    def compile(function, **how):
        def failing(*batch):
            raise RuntimeError("no compiler here\nand many lines about it")
        return failing() if when == "at once" else failing
    monkeypatch.setattr(torch, "compile", compile)
    plain, run = make_run("plain"), make_run("compiled", compile=True)
    plain.train()
    capsys.readouterr()
    run.train()
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "compile" in line] == [said[0]] and "RuntimeError" in said[0] and "without" in said[0]
    assert same_weights(plain.net.state_dict(), run.net.state_dict())
    assert checkpoint.load(project.resume("compiled"))["params"]["training"]["compile"] is False


def test_a_compiled_step_is_used_for_every_batch(make_run, monkeypatch):
    used = []
    monkeypatch.setattr(torch, "compile", lambda function, **how: lambda *batch: used.append(1) or function(*batch))
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
    assert any(run.home.compiled.rglob("*.so")) or any(run.home.compiled.rglob("*.pyd")), "nothing was kept for the next run"


def test_products_of_bfloat16_train_as_well(make_run):
    exact, rounded = make_run("fp32"), make_run("bf16", precision="bf16")
    for run in (exact, rounded):
        run.train()
    assert rounded.progress.best_nats == pytest.approx(exact.progress.best_nats, rel=0.03)
    assert all(tensor.dtype == torch.float32 for tensor in rounded.net.state_dict().values())
    assert not same_weights(exact.net.state_dict(), rounded.net.state_dict())


def test_products_of_float16_train_as_well(make_run):
    exact, rounded = make_run("fp32"), make_run("fp16", precision="fp16")
    for run in (exact, rounded):
        run.train()
    assert rounded.progress.best_nats == pytest.approx(exact.progress.best_nats, rel=0.03)
    assert all(tensor.dtype == torch.float32 for tensor in rounded.net.state_dict().values())
    assert not same_weights(exact.net.state_dict(), rounded.net.state_dict())


def with_scale(run, scale):
    """The run with the gradients of fp16 scaled by so much, and by twice as much after every three steps that went well."""
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
    low, high = with_scale(make_run("low", precision="fp16"), 2.0 ** 8), with_scale(make_run("high", precision="fp16"), 2.0 ** 12)
    for run in (low, high):
        run.step()
    for one, other in zip(low.net.parameters(), high.net.parameters()):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-4)           # a step is up to 0.005 long here, and fp16 has 11 bits


def test_fp16_gradients_that_overflow_at_every_scale_are_a_run_that_has_gone_astray(make_run):
    run = with_scale(make_run(precision="fp16"), 2.0 ** 4)
    run.train_step.loss = lambda *batch: (run.net.embedding.weight.sum() * 0).sqrt() + 1           # its slope at zero is infinite
    for _ in range(4):
        run.step()
    with pytest.raises(FolioError, match="step 4 .*gradient"):
        run.step()


def test_an_fp16_loss_that_is_not_finite_stops_the_run_at_once(make_run):
    run = make_run(precision="fp16")
    run.train_step.loss = lambda *batch: run.net.embedding.weight.sum() * math.inf
    with pytest.raises(FolioError, match="step 0"):
        run.step()


def test_a_run_in_fp16_goes_on_with_the_scale_it_had(project, make_run):
    whole, half = (with_scale(make_run(name, precision="fp16"), 2.0 ** 40) for name in ("whole", "half"))
    whole.train()
    for _ in range(11):
        half.step()
    half.save_resume()
    with continued(project, "half") as again:
        again.train()
    assert again.precision.scaler.state_dict() == whole.precision.scaler.state_dict() != make_run("new", precision="fp16").precision.scaler.state_dict()
    assert same_weights(again.net.state_dict(), whole.net.state_dict())


@pytest.mark.parametrize("kind, capability, precision", [("cuda", (9, 0), "bf16"), ("cuda", (8, 0), "bf16"), ("cuda", (7, 5), "fp16"),
                                                         ("cuda", (7, 0), "fp16"), ("cuda", (6, 1), "fp32"), ("mps", None, "fp32")])
def test_the_precision_follows_from_what_the_device_has(kind, capability, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert hardware.usual_precision(kind) == precision


@pytest.mark.parametrize("library", [OSError("no C library by that name"), object(), TypeError("Windows wants a name")])
def test_another_c_library_is_left_as_it_is(library, monkeypatch):
    def open_library(name):
        if isinstance(library, Exception):
            raise library
        return library
    monkeypatch.setattr(hardware.ctypes, "CDLL", open_library)
    hardware.keep_memory()


def test_as_many_threads_as_asked_for_are_used(make_run):
    make_run(threads=2)
    assert torch.get_num_threads() == 2
    assert loop.SAVE_SECONDS <= 60
