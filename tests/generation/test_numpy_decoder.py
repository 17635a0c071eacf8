"""Single tokens in NumPy: the log-probabilities of Model.py everywhere, and one rule for where it is used."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import folio
import Model
from conftest import ROOT, run_python
from folio.base.errors import FolioError
from folio.generation import numpy_decoder
from folio.generation.decoder import Decoder, Generation, Sequence, generate, window_start
from folio.generation.numpy_decoder import NumpyTransformer, in_numpy
from folio.generation.numpy_layers import HeadsNorm, Int8Linear
from folio.networks.build import NETWORKS, build_network, in_type
from Model_Params import GenerationParams, ModelParams
from test_decoder import said_by
from test_model import CLASSIC, COMBINATIONS, TINY, network, some_tokens

SHAPES = [dict(num_kv_heads=1, head_len=10), dict(head_len=14, hidden_len=20), dict(family="classic"),
          dict(num_layers=1, num_heads=1)]


# --- The network ---

@pytest.mark.parametrize("parts", [dict(parts, num_kv_heads=2) for parts in COMBINATIONS] + SHAPES,
                         ids=lambda parts: "-".join(map(str, parts.values())))
def test_at_every_position_and_beyond_the_context_the_log_probabilities_are_those_of_the_model(parts, monkeypatch):
    net, tokens = network(replace(TINY, **parts)), some_tokens(TINY, 1, 40)
    expected, pieces, advance = {}, [], NumpyTransformer.advance
    assert in_numpy(net.requires_grad_(False)) is not None      # and kept: all reading from here on is the decoder's
    monkeypatch.setattr(net, "advance", None)                   # torch computes nothing
    monkeypatch.setattr(NumpyTransformer, "advance", lambda self, state, tokens: pieces.append(tokens.shape) or advance(
        self, state, tokens))
    decoder = Decoder(net, tokens[:, :1].tolist())
    for length in range(1, 41):
        logits = decoder.read(tokens[:, length - 1:length].tolist()) if length > 1 else decoder.logits
        found = torch.from_numpy(logits[0]).log_softmax(-1)
        start = window_start(length, TINY.block_size)
        if start not in expected:
            with torch.inference_mode():
                expected[start] = net(tokens[:, start:start + TINY.block_size])[0]
        torch.testing.assert_close(found, expected[start][length - 1 - start].log_softmax(-1), rtol=0, atol=1e-4)
    assert pieces == [(1, 0)] + 3 * [(1, 7)]        # nothing before the first token, and the windows that restart


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_what_keeps_the_norms_from_dividing_by_nothing_is_the_models(norm):
    net, tokens = network(replace(TINY, norm=norm)), some_tokens(TINY, 1, TINY.block_size)
    with torch.no_grad():
        matrices = [matrix for block in net.blocks for matrix in (block.attention.query, block.attention.key)]
        for part in (net.embedding, *matrices):
            part.weight *= 1e-3                     # whose squares are as small as norm_eps
        expected = net(tokens)[0].log_softmax(-1)
    decoder = Decoder(net, tokens[:, :1].tolist())
    found = [decoder.logits[0], *(decoder.read(token.tolist())[0] for token in tokens[:, 1:].split(1, dim=1))]
    found = torch.from_numpy(np.stack(found)).log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@settings(max_examples=30)
@given(parts=st.sampled_from([dict(parts, num_kv_heads=2) for parts in COMBINATIONS] + SHAPES),
       lengths=st.lists(st.integers(0, TINY.block_size - 1), min_size=1, max_size=5),
       times=st.lists(st.integers(0, 7), max_size=3), most_scores=st.sampled_from([1, 60, 400, 1 << 22]),
       apart=st.booleans())
def test_prompts_of_any_lengths_are_read_side_by_side_as_by_the_model(parts, lengths, times, most_scores, apart):
    net, rows = network(replace(TINY, **parts)), len(lengths)
    folded, numbers = NumpyTransformer(net), np.random.default_rng(0)
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_decoder, "MOST_SCORES", most_scores)        # also where a part is a single token
        state = net.empty_state(rows)
        for row, length in enumerate(lengths):
            if length:
                piece = torch.from_numpy(numbers.integers(TINY.vocab_size, size=(1, length)))
                state.put([row], net.advance(net.empty_state(1), piece)[1])
        own = state.select(list(range(rows)))
        for time in times:
            time = min(time, TINY.block_size - 1 - max(state.lengths))          # to the last position
            piece = numbers.integers(TINY.vocab_size, size=(rows, time))
            state = net.advance(state, torch.from_numpy(piece))[1] if time else state
            own = folded.advance(own, piece)
            assert own.lengths == state.lengths
        last = numbers.integers(TINY.vocab_size, size=(rows, 1))
        expected = net.continue_from(state, torch.from_numpy(last))[0][:, 0]
        found = torch.from_numpy(folded.continue_from(own, last[:, 0].tolist(), apart)[0])
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), rtol=0, atol=1e-4)


def test_reading_a_long_context_takes_no_more_memory_than_its_bound():
    net = network(replace(TINY, block_size=1024, num_layers=1))
    prompt, folded, state = np.zeros((2, 1023), np.int64), NumpyTransformer(net), net.empty_state(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_decoder, "MOST_SCORES", 1 << 17)        # all at once: 8 million scores
        tracemalloc.start()
        try:
            folded.advance(state, prompt)
            most_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert most_bytes < 2 * 4 * (1 << 17)               # scores are float32, and there are a few smaller arrays


def test_a_full_context_refuses_more():
    net = network(TINY)
    with torch.inference_mode():
        state = net.continue_from(net.empty_state(1), some_tokens(TINY, 1, TINY.block_size))[1]
        with pytest.raises(ValueError, match="17 tokens do not fit into a context of block_size=16"):
            in_numpy(net).continue_from(state, [1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_weights_that_are_unusable_are_refused_in_one_sentence_and_no_warning(value, recwarn):
    net = network(TINY)
    with torch.no_grad():
        net.blocks[0].mlp.up.weight[0, 0] = net.head.weight[0, 0] = value
    with pytest.raises(FolioError, match="not finite"):
        Decoder(net, [[1]])
    assert not recwarn.list


@pytest.mark.parametrize("norm, biases", [("rms", "none"), ("layer", "gpt2")])
@pytest.mark.parametrize("gain, are_small", [(3.0, True), (300.0, False)])
def test_scores_that_cannot_become_large_and_those_that_can_weigh_as_in_the_model(norm, biases, gain, are_small):
    net, tokens = network(replace(TINY, norm=norm, biases=biases)), some_tokens(TINY, 1, TINY.block_size)
    with torch.no_grad():
        for block in net.blocks:
            for part in (block.attention.query_norm, block.attention.key_norm):
                part.weight.copy_(part.weight / part.weight.abs().max() * gain ** 0.5)
        expected = net(tokens)[0].log_softmax(-1)
    decoder = Decoder(net, tokens[:, :1].tolist())
    assert {block.scores_are_small for block in decoder.in_numpy.blocks} == {are_small}
    found = [decoder.logits[0], *(decoder.read(token.tolist())[0] for token in tokens[:, 1:].split(1, dim=1))]
    found = torch.from_numpy(np.stack(found)).log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 if are_small else 1e-3)


def test_no_score_is_larger_than_its_bound_says():
    random = np.random.default_rng(0)
    for bias in (None, random.normal(size=(6, 8)).astype(np.float32)):
        norm = HeadsNorm(random.normal(size=(6, 8)).astype(np.float32), bias, 1e-6)
        heads = norm(random.normal(size=(500, 6, 8)).astype(np.float32) ** 5)
        scores = np.einsum("ahd,bgd->hgab", heads[:, :4], heads[:, 4:])
        assert 0.5 * norm.largest_score(4) < np.abs(scores).max() <= norm.largest_score(4)


# --- int8 ---

def test_in_int8_a_trained_model_says_nearly_the_same(plays):
    model = folio.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    tokens = torch.tensor([model.tokenizer.encode(plays[start:start + 2000])[:60] for start in (10_000, 500_000)])
    decoder = Decoder(model.net, tokens[:, :1].tolist(), "int8")
    with torch.inference_mode():
        expected = model.net(tokens).log_softmax(-1)
    costs = []
    for place in range(1, 60):
        found = torch.from_numpy(decoder.read(tokens[:, place:place + 1].tolist())).log_softmax(-1)
        costs.append((expected[:, place].exp() * (expected[:, place] - found)).sum(-1))
    costs = torch.stack(costs)              # nats of each token that it costs to take the one for the other
    assert 0 < costs.mean() < 0.002 and costs.max() < 0.02


@pytest.mark.parametrize("width", [1, 7, 20, 24, 32, 56, 344])
def test_an_int8_matrix_is_the_nearest_that_has_127_steps_to_each_side_and_bfloat16_numbers_in_and_out(width):
    rows = torch.randn(width + 1, 20, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 20)
    rows[:, 7] = 0
    matrix, x = Int8Linear.of(rows), np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    scales, weights = matrix.scales.double()[:, None], matrix.weights.double()[:, :width]
    assert weights.abs().max() == 127
    torch.testing.assert_close(scales[:, 0], rows[:-1].abs().amax(0).double() / 127, rtol=2**-8, atol=2e-38)
    # bfloat16's scales are rounded as well
    assert ((weights * scales - rows[:-1].T.double()).abs() <= scales * (0.5 + 127 * 2**-8)).all()
    expected = torch.from_numpy(x).bfloat16().double() @ (weights * scales).T + rows[-1]
    atol = 2**-6 * expected.abs().amax().item() * 1e-3
    torch.testing.assert_close(torch.from_numpy(matrix(x)).double(), expected, rtol=2**-6, atol=atol)


def test_int8_is_for_transformers_on_the_cpu_and_for_one_precision_at_a_time():
    with pytest.raises(FolioError, match="precision=int8 is for transformers in float32 on the CPU, with Model.py "
                                         "as it came: leave it out"):
        Decoder(network(ModelParams(family="lstm", vocab_size=50, emb_len=16)), [[1]], "int8")
    one, other = (GenerationParams(sampling_seed=1, weight_precision=precision).resolved()
                  for precision in ("int8", "float32"))
    # whatever the width: TINY's is no multiple of 16
    assert said_by(network(TINY), [Sequence([1], one), Sequence([1, 2], one)])
    with pytest.raises(FolioError, match="one precision"):
        Generation(network(TINY), [Sequence([1], one), Sequence([1], other)])


# --- The rule ---

def test_numpy_serves_transformers_in_float32_that_are_not_being_trained():
    net = network(TINY)
    assert isinstance(in_numpy(net), NumpyTransformer) and isinstance(in_numpy(network(CLASSIC)), NumpyTransformer)
    assert in_numpy(net.train()) is None
    assert in_numpy(in_type(net.eval(), torch.bfloat16)) is None
    assert in_numpy(network(ModelParams(family="lstm", vocab_size=50, emb_len=16))) is None
    with torch.inference_mode():
        assert in_numpy(network(TINY)) is None          # torch does not say whether such weights have changed


def test_weights_are_folded_once_and_anew_when_they_have_changed():
    net = network(TINY).requires_grad_(False)
    assert in_numpy(net) is in_numpy(net)
    other, greedily = network(TINY, seed=1), dict(tokens=20, temperature=0.0, sampling_seed=0)
    before, expected = list(generate(net, [1], **greedily)), list(generate(other, [1], **greedily))
    net.load_state_dict(other.state_dict())
    assert list(generate(net, [1], **greedily)) == expected != before
    net.requires_grad_(True)            # and in training, where fused optimizers leave no trace in the tensors
    before = in_numpy(net).head.matrix
    net(some_tokens(TINY, 1, 5)).logsumexp(-1).sum().backward()
    torch.optim.AdamW(net.parameters(), lr=0.1, fused=True).step()
    assert not np.allclose(in_numpy(net).head.matrix, before)


# --- What is changed in Model.py is what writes ---

class Gated(Model.Attention):
    def __init__(self, params):
        super().__init__(params)
        self.gate = torch.nn.Linear(params.emb_len, params.emb_len)

    def forward(self, x, positions, span, cache):
        return super().forward(x, positions, span, cache) * torch.sigmoid(self.gate(x))


class ThreeNorms(Model.Block):
    def __init__(self, params):
        super().__init__(params)
        self.last_norm = Model.RMSNorm(params.emb_len, params)

    def forward(self, x, positions, span, cache):
        return self.last_norm(super().forward(x, positions, span, cache))


class InAnotherOrder(Model.Block):
    def forward(self, x, positions, span, cache):
        x = x + self.mlp(self.mlp_norm(x))
        return x + self.attention(self.attention_norm(x), positions, span, cache)


class OneMatrix(Model.Attention):
    """Attention whose parts have other names and shapes."""
    def __init__(self, params):
        super().__init__(params)
        self.all_three = torch.nn.Linear(params.emb_len, 3 * params.emb_len, bias=False)
        del self.query, self.key, self.value
        self.query, self.key, self.value = ((lambda x, part=part: self.all_three(x).chunk(3, -1)[part])
                                            for part in range(3))


class SoftlyCapped(Model.Transformer):
    def predict(self, x):
        return 15 * torch.tanh(super().predict(x) / 15)


def sharper(query, key, value, *others, attend=Model.attend):
    return attend(1.01 * query, key, value, *others)


def of_a_window(query, key, value, dropout, visible=None, attend=Model.attend):
    T, S = query.shape[2], key.shape[2]
    ages = torch.arange(S - T, S)[:, None] - torch.arange(S)
    return attend(query, key, value, dropout, (ages >= 0) & (ages < 8))


CHANGES = {
    "a gate": ("Attention", Gated), "a third norm": ("Block", ThreeNorms), "another order": ("Block", InAnotherOrder),
    "other parts": ("Attention", OneMatrix), "a subclass": ("Transformer", SoftlyCapped),
    "another scale": ("attend", sharper), "a window": ("attend", of_a_window),
    "another activation": ("SwiGLU.forward", lambda self, x: self.down(F.gelu(self.gate(x)) * self.up(x)))}


@pytest.mark.parametrize("name, change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("trained", [True, False])
def test_a_changed_model_writes_by_itself_and_that_is_said_once(name, change, trained, monkeypatch):
    numpy_decoder._warn_of_difference.cache_clear()
    with torch.inference_mode():
        before = network(TINY)(some_tokens(TINY, 1, 16))
    *inside, name = name.split(".")
    monkeypatch.setattr(getattr(Model, *inside) if inside else Model, name, change)
    monkeypatch.setitem(NETWORKS, "folio", Model.Transformer)
    net = network(TINY)
    net.requires_grad_(not trained)
    greedily = dict(tokens=TINY.block_size - 2, temperature=0.0, sampling_seed=0)
    with pytest.warns(RuntimeWarning, match="Model.py differs from the fast decoder.*"
                                            "generating with the network itself, slower") as warned:
        written = [1, 2, *generate(net, [1, 2], **greedily)]
        generate(net, [1, 2], **greedily)
        with pytest.raises(FolioError, match="precision=int8 is for .* with Model.py as it came"):
            Decoder(net, [[1]], "int8")
    assert len(warned) == 1
    with torch.inference_mode():
        for length in range(2, len(written)):
            assert written[length] == net(torch.tensor([written[:length]]))[0, -1].argmax()
        assert not torch.allclose(net(some_tokens(TINY, 1, 16)), before, atol=1e-4)         # the change is one


def test_a_scripts_user_reads_of_a_change_in_one_line():
    code = ("import sys, Model; attend = Model.attend\n"
            "Model.attend = lambda query, *others: attend(2 * query, *others)\n"
            "import run; from folio.cli.command_line import front_door\n"
            "sys.argv = ['run.py', 'Take', '--tokens', '3', '--samples', '2']; front_door(run.main)")
    done = run_python("-c", code)
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= 2
    about, difference = done.stderr.splitlines()
    assert "weights-pretrained.pth" in about and difference.startswith("Model.py differs from the fast decoder")


@pytest.mark.parametrize("params", [
    replace(TINY, block_size=2), replace(TINY, vocab_size=1), replace(TINY, block_size=5)])
def test_however_small_a_network_is_it_is_compared(params):
    for net in (build_network(params).eval(), network(params)):
        assert isinstance(in_numpy(net), NumpyTransformer)


@pytest.mark.parametrize("part", ["positions.cos", "embedding.weight"])
def test_a_buffer_that_has_changed_is_noticed_as_a_weight_is(part):
    net = network(TINY).requires_grad_(False)
    folded = in_numpy(net)
    with torch.no_grad():
        dict([*net.named_parameters(), *net.named_buffers()])[part] *= 1.5
    assert in_numpy(net) is not folded


def test_a_constant_that_is_taken_from_the_network_itself_follows_by_itself(recwarn):
    net = network(replace(TINY, rope_base=500.0, norm_eps=1e-3))
    assert isinstance(in_numpy(net), NumpyTransformer) and not recwarn.list
