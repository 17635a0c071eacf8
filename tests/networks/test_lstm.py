"""The LSTM: its equations, its state, the batches that carry it, and every command that serves a transformer."""

import math
import os
import re
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import folio
import run as run_door
from folio import evaluate, plot
from folio.base.errors import FolioError
from folio.cli.command_line import one_length
from folio.data import corpus
from folio.data.batches import batch_at, permuted, steps_per_epoch, windows_per_stream
from folio.evaluation import bits_per_byte
from folio.formats import checkpoint, run_log
from folio.generation import decoder
from folio.networks.build import build_network, count_parameters
from folio.training import optimizers, runs, settle, sizes
from folio.training.lessons import TextLessons
from Model_Params import IN_BLOCKS, PRESETS, ModelParams, Params, TrainingParams
from test_distributed import launch
from training_runs import (  # noqa: F401
    VOCABULARY,
    continued,
    half_done,
    make_run,
    project,
    refusal_of,
    run_train,
    same_weights,
    torch_runs_out,
    train_here,
    wait_for,
    weights_of,
)

SMALL = ModelParams(family="lstm", vocab_size=30, block_size=8, emb_len=6, hidden_len=10, num_layers=2)
SHAPES = [{}, {"num_layers": 1}, {"tied_head": True}, {"tied_head": True, "hidden_len": 6, "num_layers": 3}]
LSTM = {"family": "lstm", "num_heads": None}
CARRIED = LSTM | {"batches": "consecutive", "optimizer": "adamw"}
FLAGS = ("--family lstm --emb-len 16 --hidden-len 24 --block-size 16 --batch-size 8 --batches consecutive --steps 120 "
         "--eval-interval 40 "
         "--learning-rate 0.01 --dropout 0.1 --sample-tokens 5 --threads 1 --precision fp32").split()


def network(**changes):
    torch.manual_seed(0)
    return build_network(replace(SMALL, **changes)).eval()


def some_tokens(*shape):
    return torch.randint(SMALL.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def reference(net, tokens):
    """Compute the equations in float64, one token, layer and gate at a time.

    tokens: (time,) -> logits (time, vocabulary), cells (layers, hidden_len)
    """
    weights = {name: value.double() for name, value in net.state_dict().items()}
    layers, H = net.params.num_layers, net.params.hidden_len
    hidden, cell, logits = torch.zeros(layers, H).double(), torch.zeros(layers, H).double(), []
    for token in tokens.tolist():
        x = weights["embedding.weight"][token]
        for layer in range(layers):
            W, U, b, c = (weights[f"blocks.{name}_l{layer}"]
                          for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            take, forget, new, show = (W @ x + U @ hidden[layer] + b + c).chunk(4)
            cell[layer] = forget.sigmoid() * cell[layer] + take.sigmoid() * new.tanh()
            hidden[layer] = x = show.sigmoid() * cell[layer].tanh()
        if "projection.weight" in weights:
            x = weights["projection.weight"] @ x
        logits.append(weights["head.weight"] @ x + weights["head.bias"])
    return torch.stack(logits), cell


# --- The network ---

@pytest.mark.parametrize("shape", SHAPES)
def test_the_network_follows_its_equations(shape):
    net, tokens = network(**shape), some_tokens(2, 20)
    with torch.no_grad():
        for parameter in net.parameters():          # biases and a head with something to say
            parameter += 0.3 * torch.randn_like(parameter)
        logits, state = net.continue_from(net.empty_state(2), tokens)
    for stream in range(2):
        expected, cells = reference(net, tokens[stream])
        torch.testing.assert_close(logits[stream].double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state.cell[:, stream].double(), cells, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(tokens), logits)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from(SHAPES))
def test_pieces_of_any_length_give_the_logits_of_the_whole_and_a_context_has_no_end(lengths, shape):
    net, tokens = network(**shape), some_tokens(2, sum(lengths))
    state, logits = net.empty_state(2), []
    with torch.no_grad():
        for piece in tokens.split(lengths, dim=1):
            some, state = net.continue_from(state, piece)
            logits.append(some)
        torch.testing.assert_close(torch.cat(logits, dim=1), net(tokens), rtol=1e-4, atol=1e-6)
    assert net.context is None


def test_a_position_never_sees_the_tokens_after_it():
    net, tokens = network(), some_tokens(1, 12)
    other = tokens.clone()
    other[0, 7] = (other[0, 7] + 1) % 30
    original, changed = net(tokens), net(other)
    torch.testing.assert_close(original[:, :7], changed[:, :7], rtol=0, atol=0)
    assert not torch.allclose(original[:, 7], changed[:, 7]) and not torch.allclose(original[:, 11], changed[:, 11])


def test_the_rows_of_a_state_can_be_selected_and_joined():
    net, tokens = network(), some_tokens(3, 5)
    with torch.no_grad():
        state = net.continue_from(net.empty_state(3), tokens)[1]
        picked = state.select(torch.tensor([2, 0, 2]))
        logits, _ = net.continue_from(picked, tokens[:, :1])
        expected = net(torch.cat([tokens[[2, 0, 2]], tokens[:, :1]], dim=1))[:, -1:]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-6)
    parts = [state.select(slice(0, 1)), state.select(slice(1, 3))]
    assert torch.equal(state.joined(parts).cell, state.cell) and state.joined(parts).count == 3


def test_sequences_that_have_seen_different_texts_continue_together():
    net, tokens = network(), some_tokens(3, 9)
    with torch.no_grad():
        state = net.empty_state(4)
        for row, length in enumerate((2, 7, 5)):
            state.put([row], net.continue_from(net.empty_state(1), tokens[row:row + 1, :length])[1])
        logits, state = net.continue_from(state.resize(3), tokens[:, 8:])
        for row, length in enumerate((2, 7, 5)):
            expected = net(torch.cat((tokens[row:row + 1, :length], tokens[row:row + 1, 8:]), dim=1))[0, -1]
            torch.testing.assert_close(logits[row, 0], expected, rtol=1e-4, atol=1e-6)


def test_the_state_of_some_rows_reaches_torch_contiguously():
    net, seen = network(), []                   # cuDNN refuses any other, a CPU does not mind
    net.blocks.register_forward_pre_hook(
        lambda module, arguments: seen.extend(part.is_contiguous() for part in arguments[1]))
    net.continue_from(net.empty_state(4).select(slice(0, 2)), some_tokens(2, 3))
    assert seen == [True, True]


def test_dropout_is_between_layers_and_at_both_ends_while_training_alone():
    tokens = some_tokens(1, 4)
    for shape in ({"num_layers": 1}, {"num_layers": 2}):
        net = network(dropout=0.5, **shape)
        assert torch.equal(net(tokens), net(tokens)) and torch.equal(net(tokens), network(**shape)(tokens))
        net.train()
        assert not torch.equal(net(tokens), net(tokens))
    taken = []
    net.dropout.register_forward_hook(lambda module, arguments, result: taken.append(result.shape[-1]))
    net(tokens)
    assert (taken, net.blocks.dropout) == ([6, 10], 0.5)


def test_a_tied_head_is_the_embedding_behind_a_projection():
    net, untied = network(tied_head=True), network()
    assert net.head.weight is net.embedding.weight and net.projection.weight.shape == (6, 10)
    assert count_parameters(untied) - count_parameters(net) == 30 * 10 - 6 * 10


@pytest.mark.parametrize("shape", SHAPES)
def test_it_begins_near_the_loss_of_guessing_with_open_forget_gates(shape):
    net, tokens = network(**shape), some_tokens(20, 40)
    loss = F.cross_entropy(net(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert loss == pytest.approx(math.log(30), abs=0.25)            # the narrower the state, the more it varies
    H = net.params.hidden_len
    for layer in range(net.params.num_layers):
        bias = getattr(net.blocks, f"bias_ih_l{layer}") + getattr(net.blocks, f"bias_hh_l{layer}")
        assert bias.tolist() == [0] * H + [1] * H + [0] * 2 * H
        for gate in getattr(net.blocks, f"weight_hh_l{layer}").chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(H), rtol=0, atol=1e-5)


# --- Generation and measuring ---

def test_generation_takes_one_step_a_token_and_never_begins_anew():
    net, read = network(), []
    with torch.no_grad():
        net.head.weight *= 100
    advance = net.advance
    net.advance = lambda state, tokens: read.append(tokens.shape[1]) or advance(state, tokens)
    made = list(decoder.generate(net, [3, 4, 5], tokens=40, temperature=0, top_k=None, top_p=None, sampling_seed=0))
    assert read == [2] + [1] * 40           # the prompt but its last token, which alone needs logits
    ids = [3, 4, 5]
    for token in made:
        assert token == net(torch.tensor([ids]))[0, -1].argmax().item()
        ids.append(token)


def test_measuring_carries_the_state_through_windows_far_longer_than_those_of_training(monkeypatch):
    net, tokens = network(), some_tokens(100).numpy()
    with torch.no_grad():
        net.head.weight *= 100
    monkeypatch.setattr(bits_per_byte, "UNENDING", 40)
    assert bits_per_byte.window_len(net) == 40 > net.params.block_size
    nats = 0.0
    for start in (0, 40, 80):
        logits, _ = reference(net, torch.from_numpy(tokens[start:start + 40]))
        nats += sum(-logits[place].log_softmax(-1)[target].item()
                    for place, target in enumerate(tokens[start + 1:start + 41].tolist()))
    score = bits_per_byte.evaluate(net, tokens, 99, block_size=40, batch_size=2, device="cpu")
    assert score.nats == pytest.approx(nats, rel=1e-4)


# --- Batches ---

@given(st.integers(1, 400), st.integers(0, 2**63), st.integers(0, 10**6))
def test_an_order_has_every_number_once(total, seed, epoch):
    assert sorted(permuted(np.arange(total), total, (seed, epoch)).tolist()) == list(range(total))


def test_orders_look_like_chance_even_of_a_few_numbers_and_cost_no_memory_for_many():
    first = np.bincount([permuted(np.array([1]), 6, (1, epoch))[0] for epoch in range(1200)], minlength=6)
    # chi-squared, five degrees of freedom: one in a thousand
    assert ((first - 200) ** 2 / 200).sum() < 20.5
    assert len(set(permuted(np.arange(1000), 10**15, (1, 0)).tolist())) == 1000


@settings(max_examples=50)
@given(st.integers(10, 200), st.integers(1, 9), st.integers(1, 30), st.integers(0, 99))
def test_an_epoch_of_shuffled_batches_has_every_window_once_in_an_order_of_its_own(total, block_size, batch_size, seed):
    tokens, places = np.arange(total), total - block_size
    how = {"batch_size": batch_size, "block_size": block_size, "seed": seed, "batches": "shuffled"}
    steps = math.ceil(2 * places / batch_size)
    assert steps == math.ceil(2 * steps_per_epoch(total,
                                                  **{key: how[key] for key in ("batch_size", "block_size", "batches")}))
    starts = []
    for step in range(steps):
        batch = batch_at(tokens, step, **how)
        inputs, targets = batch.inputs, batch.targets
        assert np.array_equal(inputs + 1, targets) and np.array_equal(inputs, inputs[:, :1] + np.arange(block_size))
        starts += inputs[:, 0].tolist()
    first, second = starts[:places], starts[places:2 * places]
    assert sorted(first) == sorted(second) == list(range(places))
    assert first != second or places < 6


@settings(max_examples=50)
@given(st.integers(31, 300), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_consecutive_windows_go_on_where_the_last_ones_ended_until_all_begin_anew(total, block_size, batch_size, seed):
    tokens, windows = np.arange(total), windows_per_stream(total, batch_size, block_size)
    how = {"batch_size": batch_size, "block_size": block_size, "seed": seed, "batches": "consecutive"}
    for epoch in range(3):
        read = [batch_at(tokens, epoch * windows + window, **how) for window in range(windows)]
        for batch, following in zip(read, read[1:]):
            assert np.array_equal(batch.targets[:, -1], following.inputs[:, 0])
        seen = np.concatenate([batch.targets.ravel() for batch in read])
        # no token twice, and few of them never
        assert len(set(seen.tolist())) == len(seen) > total - 1 - batch_size * block_size


def test_a_text_too_short_for_all_streams_is_refused_with_what_fits():
    with pytest.raises(FolioError, match="batch_size=8 windows of block_size=10.*only 71 tokens.*take batch_size=7"):
        windows_per_stream(71, 8, 10)
    assert windows_per_stream(71, 7, 10) == 1


# --- The state carried in training ---

@pytest.mark.parametrize("micro_batch_size", [4, 1])
def test_a_step_starts_from_the_last_state_without_a_gradient_through_it(make_run, micro_batch_size):
    run = make_run(**CARRIED, micro_batch_size=micro_batch_size, block_size=256, learning_rate=0.05, gradient_clip=0.0,
                   warmup_steps=0, decay_fraction=0.0)
    groups = [{"params": list(run.net.parameters()), "weight_decay": 0.0, "rate": 1.0}]
    run.train_step.optimizers = [optimizers.SGD(groups, replace(run.training, beta1=0.0))]
    net = build_network(run.params.model)
    net.load_state_dict(run.net.state_dict())
    windows = windows_per_stream(run.corpus.train_tokens, 4, 256)
    assert 2 < windows < 20
    for step in range(windows + 2):
        if step % windows == 0:
            state = net.empty_state(4)
        batch = batch_at(run.corpus.train, step, batch_size=4, block_size=256, seed=1, batches="consecutive")
        inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
        logits, state = net.continue_from(state, inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        state = type(state)(state.hidden.detach(), state.cell.detach())
        with torch.no_grad():
            for parameter, gradient in zip(net.parameters(), gradients):
                parameter -= 0.05 * gradient
        assert run.step() == pytest.approx(loss.item(), rel=1e-5)
        torch.testing.assert_close(run.train_step.forward.state.cell, state.cell, rtol=1e-4, atol=1e-5)
    for found, expected in zip(run.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_out_of_memory_halfway_repeats_the_step_from_its_state(make_run):
    options = CARRIED | dict(micro_batch_size=2, optimizer="sgd")
    whole, small, calls = make_run("whole", **options), make_run("small", **options), []
    continue_from = small.net.continue_from

    def limited(state, tokens):
        calls.append(1)
        return torch_runs_out() if len(tokens) > 1 and len(calls) > 3 else continue_from(state, tokens)
    small.net.continue_from = limited
    for _ in range(4):
        assert small.step() == pytest.approx(whole.step(), rel=1e-5)
    assert small.training.micro_batch_size == 1 and small.train_step.forward.state.count == 4
    torch.testing.assert_close(small.train_step.forward.state.cell, whole.train_step.forward.state.cell, rtol=1e-4,
                               atol=1e-6)


def test_evaluations_and_samples_do_not_change_the_carried_state(make_run):
    often = make_run("often", **CARRIED, eval_interval=1)
    once = make_run("once", **CARRIED, eval_interval=20, sample_tokens=0)
    for run in (often, once):
        run.train()
    assert same_weights(often.net.state_dict(), once.net.state_dict())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_keeps_its_carried_state(project, make_run, precision):
    whole = make_run("whole", **CARRIED, precision=precision)
    whole.train()
    half_done(make_run, **CARRIED, precision=precision)
    saved = checkpoint.load(project.resume("test"))["streams"]
    assert saved["cell"].shape == (1, 4, 32) and saved["cell"].abs().max() > 0
    with continued(project, "test") as run:
        run.train()
    assert same_weights(run.net.state_dict(), whole.net.state_dict())


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_run_ends_with_the_same_carried_state(project, monkeypatch, capsys):
    assert not train_here(project, monkeypatch, capsys, *FLAGS, "--name", "whole")[0]
    process = run_train(project, *FLAGS, "--name", "killed")
    wait_for(process,
             lambda: project.resume("killed").exists() and len(run_log.read(project.log("killed"))) >= 13)
    process.kill()
    process.communicate()
    assert 40 <= checkpoint.load(project.resume("killed"))["progress"]["step"] < 120
    code, out = train_here(project, monkeypatch, capsys, "--resume", "--name", "killed")
    assert not code and "resuming after step" in out
    assert same_weights(weights_of(project.weights("killed")), weights_of(project.weights("whole")))
    one, other = (checkpoint.load(project.resume(name))["streams"] for name in ("killed", "whole"))
    assert same_weights(one, other)


@pytest.mark.slow
def test_two_processes_carry_their_own_rows_and_one_resumes_all(project, make_run):
    whole = make_run("whole", **CARRIED)
    whole.train()
    half_done(make_run, **CARRIED)
    out, err = launch(project, "--resume").communicate(timeout=60)
    assert "Done." in out, err
    with continued(project, "test", steps=40) as run:
        torch.testing.assert_close(run.train_step.forward.state.cell, whole.train_step.forward.state.cell, rtol=1e-3,
                                   atol=1e-3)
        torch.testing.assert_close(run.train_step.forward.state.hidden, whole.train_step.forward.state.hidden,
                                   rtol=1e-3, atol=1e-3)


# --- Lengths in epochs ---

def trained(**values):
    return replace(TrainingParams(), **one_length(values))


@pytest.mark.parametrize("batches, steps", [("random", 63), ("consecutive", 62), ("shuffled", 1245)])
def test_an_epoch_is_the_text_once_or_where_windows_are_shuffled_each_of_them(batches, steps):
    lessons = TextLessons(None, SimpleNamespace(train_tokens=5000))
    params = Params(model=ModelParams(block_size=20), training=trained(epochs=2.0, batches=batches, batch_size=8))
    assert settle.in_steps(params, lessons) == trained(steps=steps, batches=batches)


def test_a_run_of_epochs_says_its_steps_and_goes_on_with_more(project, monkeypatch, capsys):
    words = [word for word in FLAGS if word not in ("--steps", "120")]
    code, out = train_here(project, monkeypatch, capsys, *words, "--epochs", 0.5)
    windows = windows_per_stream(corpus.open_corpus(project)[1].train_tokens, 8, 16)
    steps = math.ceil(windows / 2)
    assert not code and f"run       default: {steps} steps, {steps / windows:.3g} epochs" in out
    code, out = train_here(project, monkeypatch, capsys, *words, "--resume", "--name", "default", "--epochs", 1)
    assert not code and f"run       default: {windows} steps, 1 epoch in all, resuming after step {steps}" in out


def test_a_run_has_one_length():
    for values in ({"steps": 5, "epochs": 1.0}, {"minutes": 5.0, "epochs": 1.0}):
        assert [problem
                for problem in trained(**values).problems()] == ["A run has either steps or minutes or epochs: give "
                                                                 "one of them."]
    assert not list(trained(epochs=3.0, schedule="cosine").problems())


# --- What does not fit is said ---

@pytest.mark.parametrize("name", IN_BLOCKS)
def test_parts_of_a_transformer_are_refused(name):
    value = {"norm": "rms", "positions": "rotary", "mlp": "relu", "biases": "none", "query_key_norm": False,
             "attention_dropout": 0.1,
             "norm_eps": 0.1}.get(name, 4)
    said = list(ModelParams(family="lstm", **{name: value}).problems())
    assert len(said) == 1 and said[0].startswith(f"{name}={value} ") and "family lstm" in said[0]
    assert getattr(ModelParams(family="lstm").resolved(), name) is None


@pytest.mark.parametrize("model, training, said", [
    ({}, {"batches": "consecutive"}, "the family folio has none"),
    ({"family": "lstm"}, {"compile": True}, "compile=True is of no use to the family lstm"),
    ({"family": "lstm"}, {"batches": "consecutive", "bpe_dropout": 0.1}, "take bpe_dropout=0"),
])
def test_ways_of_training_that_do_not_fit_are_refused(model, training, said):
    found = list(Params(model=ModelParams(**model), training=TrainingParams(**training)).problems())
    assert len(found) == 1 and said in found[0]


# --- The plan ---

@pytest.mark.parametrize("shape", SHAPES)
def test_its_parameters_are_counted_and_not_guessed(shape):
    net = network(**shape)
    assert sizes.count_parameters(net.params) == count_parameters(net)
    assert sizes.block_parameters(net.params) == sum(matrix.numel() for matrix in net.blocks.parameters()
                                                     if matrix.ndim == 2)


def test_its_size_follows_the_text_and_advice_names_no_flag_that_it_lacks(project):
    said, (tokenizer, text) = [], corpus.open_corpus(project)
    params = Params(model=ModelParams(family="lstm", hidden_len=1024),
                    training=trained(steps=10, device="cpu", batches="consecutive"))
    with runs.new_run(project, "large", params, tokenizer, text, time.perf_counter(), say=said.append):
        pass
    assert "large for this text" in said[-1] and "--num-heads" not in said[-1]
    advised = {name.replace("-", "_"): int(value)
               for name, value in re.findall("--([a-z-]+)\\s+([0-9]+)", said[-1].partition("Try ")[2])}
    with runs.new_run(project, "advised", replace(params, model=replace(params.model, **advised)), tokenizer, text,
                      time.perf_counter(), say=said.append):
        assert "Try " not in said[-1]
    with runs.new_run(project, "fitting", replace(params, model=ModelParams(family="lstm")), tokenizer, text,
                      time.perf_counter(), say=said.append) as run:
        assert run.params.model.emb_len == 32 and run.training.bpe_dropout == 0


def test_the_preset_of_llm_v0_is_what_its_page_says(home):
    made = home("".join(map(chr, range(0x30, 0x30 + 65))) * 40)
    preset, said = PRESETS["llm-v0"], []
    tokenizer, text = corpus.open_corpus(made, preset.text)
    with runs.new_run(made, "test", preset, tokenizer, text, time.perf_counter(), say=said.append) as run:
        steps = math.ceil(10 * (text.train_tokens - 64) / 32)
        assert f"{steps:,} steps, 10 epochs" in said[-1]
        assert "111,873 parameters: 1 layer, width 64, state 128, context 64" in said[-1]
        assert (run.training.batch_size, run.training.learning_rate, run.training.optimizer) == (32, 1e-3, "adamw")


# --- The front doors ---

def door(main, monkeypatch, capsys, *words):
    """What a command prints, called in this process."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    capsys.readouterr()
    assert not main()
    return capsys.readouterr().out


def test_every_front_door_serves_it_as_it_serves_a_transformer(project, home, plays, monkeypatch, capsys,
                                                               tmp_path):
    code, out = train_here(project, monkeypatch, capsys, *FLAGS, "--tied-head")
    assert not code and "model     lstm, " in out and "best" in out
    model = folio.load(project.weights("default"))
    assert model.val_bpb < 6.5 and model.net.context is None
    at = ["--home", project.folder]
    # far beyond block_size
    assert len(door(run_door.main, monkeypatch, capsys, "The", *at, "--tokens", 100, "--seed", 1)) > 100
    told = door(evaluate.main, monkeypatch, capsys, *at, "--samples", 1, "--tokens", 20)
    assert f"{model.val_bpb:.4f}" in told and "bytes found in the training text" in told
    picture = tmp_path / "loss.svg"
    door(plot.main, monkeypatch, capsys, "loss", *at, "--output", picture)
    assert picture.stat().st_size > 1000
    other = home(plays[30_000:40_000])
    code, out = train_here(other, monkeypatch, capsys, "--start-from", project.weights("default"), "--steps", 3,
                           "--block-size", 32, "--threads", 1,
                           "--batches", "consecutive", "--batch-size", 4)
    assert not code and "starting from 'default'" in out


def test_fine_tuning_a_transformer_refuses_what_only_a_recurrent_network_can_do(project,
                                                                                make_run):
    run = make_run()
    run.save_weights(None)
    start, (tokenizer, text) = folio.load(project.weights("test")), corpus.open_corpus(project)
    params = Params(model=start.net.params, training=trained(steps=3, batches="consecutive"))
    with pytest.raises(FolioError, match="the family folio has none"), runs.new_run(project, "tuned", params, tokenizer,
                                                                                 text, 0.0, start=start):
        pass


def test_resume_with_other_batches_is_refused(project, make_run):
    half_done(make_run, **CARRIED)
    assert "batches is consecutive, not shuffled" in refusal_of(continued(project, batches="shuffled"))
