"""From logits to tokens: sampling, the window and generation, each against its plain definition."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from folio.base.errors import FolioError
from folio.generation import decoder, numpy_decoder
from folio.generation.decoder import Decoder, generate, window_start
from folio.generation.numpy_decoder import NumpyTransformer, in_numpy
from folio.generation.sampling import penalized, pick, probabilities
from folio.networks.build import build_network
from Model_Params import GenerationParams, ModelParams

TINY = ModelParams(vocab_size=40, block_size=8, emb_len=16, num_layers=2, num_heads=2)
PLAIN = dict(temperature=1.0, top_k=None, top_p=None)
GREEDY = dict(temperature=0.0, top_k=None, top_p=None, sampling_seed=0)

# Logits that differ from each other by enough for float32 to see it.
logits_lists = st.lists(st.integers(-60, 60), min_size=1, max_size=30, unique=True).map(
    lambda values: [value / 8 for value in values])


@pytest.fixture(scope="module", params=["folio", "classic"])
def net(request):
    """A network whose answers depend strongly on what it has read."""
    torch.manual_seed(1)
    net = build_network(replace(TINY, family=request.param)).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():      # far from its start, and no part of it without effect
            parameter.normal_(std=0.3 if parameter.ndim == 1 or "embedding" in name else 1.0)
            if parameter.ndim == 1 and "norm" in name:
                parameter += 1
    return net


# --- Probabilities ---

def full(logits, *settings):
    """Return the probabilities of all tokens, (sequences, vocabulary)."""
    likely, ids = probabilities(logits, *settings)
    if ids is None:
        return likely
    everything = np.zeros(logits.shape)
    np.put_along_axis(everything, ids, likely, -1)
    return everything


def plain_probabilities(logits, temperature, top_k, top_p):
    """Compute the definition token by token, in Python's own numbers."""
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    kept = order[:top_k] if top_k else order
    total = sum(weights[token] for token in kept)
    if top_p is not None:
        before, fewest = 0.0, []
        for token in kept:
            if before < top_p:
                fewest.append(token)
            assume(abs(before - top_p) > 1e-4)          # where rounding decides, either is right
            before += weights[token] / total
        kept = fewest
    total = sum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(logits))]


@settings(max_examples=200)
@given(logits_lists, st.floats(0.1, 5.0), st.none() | st.integers(1, 40), st.none() | st.floats(0.01, 1.0))
def test_temperature_top_k_and_top_p_follow_their_definitions(logits, temperature, top_k, top_p):
    expected = plain_probabilities(logits, temperature, top_k, top_p)
    found = full(np.float32([logits]), temperature, top_k, top_p)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    for value, wanted in zip(found.tolist(), expected):
        assert value == 0 if wanted == 0 else value > 0 or wanted < 1e-37       # excluded is exactly 0, nothing else is


@settings(max_examples=50)
@given(logits_lists, st.none() | st.integers(1, 5), st.none() | st.floats(0.01, 1.0))
def test_temperature_0_leaves_the_likeliest_token_alone(logits, top_k, top_p):
    found = full(np.float32([logits]), 0, top_k, top_p)[0]
    assert found.tolist() == [float(logit == max(logits)) for logit in logits]


def test_top_k_of_1_and_a_tiny_top_p_are_greedy_too():
    logits = np.float32([[1.0, 3.0, 2.0]])
    for found in (full(logits, 5.0, 1), full(logits, 5.0, None, 1e-9)):
        assert found.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-45, 1e-50, 1e-320, 1e30, 1e300, math.inf])
def test_no_temperature_makes_the_probabilities_anything_but_probabilities(temperature):
    found = full(np.float32([[1e4, -1e4, 9e3, 0.0]]), temperature)
    assert np.isfinite(found).all() and found.sum() == pytest.approx(1.0)
    assert found.argmax() == 0


def test_sequences_do_not_affect_each_other():
    logits = np.random.default_rng(0).normal(size=(6, 11)).astype(np.float32)
    together = full(logits, 0.7, 5, 0.8, 0.1)
    for row in range(6):
        np.testing.assert_allclose(together[row], full(logits[row:row + 1], 0.7, 5, 0.8, 0.1)[0])


sampling_params = st.builds(
    GenerationParams, temperature=st.sampled_from([0.0, 1e-320, 1e-3]) | st.floats(0.2, 3.0),
    top_k=st.none() | st.integers(1, 14), top_p=st.none() | st.floats(0.01, 1.0), min_p=st.none() | st.floats(0.0, 1.0),
    repetition_penalty=st.just(1.0) | st.floats(0.5, 3.0), frequency_penalty=st.just(0.0) | st.floats(0.0, 5.0),
    penalty_window=st.integers(1, 25), no_repeat_ngram=st.none() | st.integers(1, 4))


@pytest.mark.filterwarnings("error")
@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), sampling_params)
def test_an_array_and_a_tensor_pick_the_same_for_the_same_chance_and_stay_as_they_were(seed, length, params):
    random = np.random.default_rng(seed)
    logits, tokens = random.normal(size=(3, 12)).astype(np.float32) * 3, random.integers(12, size=(3, length)).tolist()
    # at the other end of chance the rounding of the sum decides
    for chances in (np.zeros(3), random.random(3), random.random(3)):
        picked = []
        for rows, chance in ((logits.copy(), chances), (torch.from_numpy(logits), torch.from_numpy(chances))):
            before = rows + 0
            likely, ids = probabilities(penalized(rows, tokens, params), params.temperature, params.top_k, params.top_p,
                                        params.min_p)
            picked.append(pick(likely, ids, chance).tolist())
            assert (rows == before).all()
        assert picked[0] == picked[1]


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 39))
def test_of_tokens_that_are_equally_likely_the_first_stand_first(seed, top_k):
    logits = np.random.default_rng(seed).integers(3, size=(2, 40)).astype(np.float32)
    for _, ids in (probabilities(logits, 1.0, top_k), probabilities(logits, 1.0, top_p=0.8)):
        for row in range(2):
            assert sorted(zip(-logits[row, ids[row]], ids[row])) == list(zip(-logits[row, ids[row]], ids[row]))


def test_of_allowed_tokens_one_is_picked_and_where_every_token_would_be_excluded_none_is():
    random, params = np.random.default_rng(0), GenerationParams(temperature=2.0, top_k=5, no_repeat_ngram=1)
    allowed = np.full(12, -np.inf, np.float32)
    allowed[[3, 7]] = random.normal(size=2)
    for logits in (allowed[None], penalized(allowed[None], [list(range(12))], params)):
        assert {pick(*probabilities(logits, 2.0, 5), random.random(1)).item() for _ in range(50)} == {3, 7}


# --- Picking ---

weights_lists = st.lists(st.integers(0, 20), min_size=1, max_size=20).filter(any)


@settings(max_examples=200)
@given(weights_lists, st.integers(0, 2**53 - 1))
def test_pick_finds_where_the_summed_probability_passes_chance(weights, chance):
    chance /= 2**53
    token = pick(np.array([weights]) / sum(weights), None, np.array([chance])).item()
    below, above = sum(weights[:token]) / sum(weights), sum(weights[:token + 1]) / sum(weights)
    assert below - 1e-6 <= chance <= above + 1e-6
    assert weights[token] > 0


@given(st.lists(st.sampled_from([0.0, 1e-30, 1e-8, 0.3, 1.0, 7.0]), min_size=1, max_size=50).filter(any))
def test_the_ends_of_chance_never_pick_what_has_no_probability(weights):
    for likely in (np.array([weights]) / sum(weights), torch.tensor([weights]).double() / sum(weights)):
        for chance in (0.0, 5e-324, 0.5, math.nextafter(1, 0)):
            chances = np.array([chance])
            if isinstance(likely, torch.Tensor):
                chances = torch.from_numpy(chances)
            assert likely[0, pick(likely, None, chances)] > 0


def test_a_token_is_picked_as_often_as_its_probability_says():
    likely, ids = np.array([0.5, 0.0, 0.3, 0.15, 0.05]), np.array([4, 1, 0, 2, 3])
    chances = np.random.default_rng(0).random(100_000)
    picked = pick(np.tile(likely, (len(chances), 1)), np.tile(ids, (len(chances), 1)), chances)
    counts = np.bincount(picked, minlength=5)[ids]
    assert counts[1] == 0
    # 3 standard deviations of the largest
    np.testing.assert_allclose(counts / len(chances), likely, rtol=0, atol=0.005)


# --- The window ---

def looped_window_start(length, block_size):
    """Apply the rule token by token: when the window is full, its last half stays."""
    start = 0
    for seen in range(1, length + 1):
        if seen - start > block_size:
            start = seen - block_size // 2
    return start


@given(st.integers(0, 500), st.integers(2, 40))
def test_the_window_restarts_from_its_last_half_whenever_it_is_full(length, block_size):
    assert window_start(length, block_size) == looped_window_start(length, block_size)


def test_the_window_of_the_worked_example():
    assert [window_start(length, 256) for length in (256, 257, 385, 386)] == [0, 129, 129, 258]


# --- Generation ---

def uncached(net, prompt, tokens):
    """Generate greedily without a cache: compute the whole window again for every token."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            window = ids[window_start(len(ids), net.params.block_size):]
            ids.append(net(torch.tensor([window]))[0, -1].argmax().item())
    return ids[len(prompt):]


@pytest.mark.parametrize("prompt_length", [1, 5, 7, 8, 9, 20, 100])
def test_cached_generation_equals_computing_everything_anew(net, prompt_length):
    prompt = np.random.default_rng(prompt_length).integers(40, size=prompt_length).tolist()
    expected = uncached(net, prompt, 60)                    # far beyond block_size
    assert list(generate(net, prompt, tokens=60, **GREEDY)) == expected
    assert len(set(expected)) > 3                           # a network stuck on one token would prove little


@settings(max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_a_decoder_may_read_in_pieces_of_any_lengths(net, lengths, random):
    reader, seen = None, []
    for length in lengths:
        piece = [random.randrange(40) for _ in range(length)]
        seen += piece
        if reader is None:
            reader = Decoder(net, [piece])
        else:
            reader.read([piece])
        with torch.inference_mode():
            expected = net(torch.tensor([seen[window_start(len(seen), 8):]]))[0, -1]
        np.testing.assert_allclose(reader.logits[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reader", ["numpy", "torch"])
def test_a_long_prompt_is_read_in_parts_where_all_at_once_would_take_much_memory(net, reader, monkeypatch):
    prompts, lengths = torch.arange(16).view(2, 8).tolist(), []
    whole = Decoder(net, prompts).logits
    assert in_numpy(net.requires_grad_(False)) is not None      # and kept
    if reader == "numpy":
        run_blocks = NumpyTransformer._run_blocks
        monkeypatch.setattr(numpy_decoder, "MOST_SCORES", 3 * 2 * net.params.num_heads * 7)
        monkeypatch.setattr(NumpyTransformer, "_run_blocks", lambda self, state, tokens, span: lengths.append(
            len(tokens) // 2) or run_blocks(self, state, tokens, span))
    else:
        advance = net.advance
        monkeypatch.setattr(decoder, "in_numpy", lambda net, precision: None)
        monkeypatch.setattr(decoder, "PROMPT_TOKENS", 3 * 2)
        monkeypatch.setattr(net, "advance", lambda state, tokens: lengths.append(tokens.shape[1]) or advance(
            state, tokens))
    found = Decoder(net, prompts).logits
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-4)
    assert lengths == [3, 3, 1, 1]          # the last token by itself


def test_the_same_seed_says_the_same_and_another_stream_something_else(net):
    def said(**settings):
        return list(generate(net, [1, 2], tokens=40, **{**PLAIN, "temperature": 2.0, "sampling_seed": 1, **settings}))
    assert said() == said() == said(stream=0)
    texts = said(), said(stream=1), said(stream=2), said(sampling_seed=2), said(sampling_seed=2, stream=1)
    assert len(set(map(tuple, texts))) == 5


def test_a_longer_answer_begins_like_a_shorter_one(net):
    settings = dict(PLAIN, temperature=2.0, sampling_seed=5)
    assert list(generate(net, [3], tokens=30, **settings))[:10] == list(generate(net, [3], tokens=10, **settings))


class Saying:
    """A network that says the ids 0, 1, 2... in turn, whatever it reads; each with certainty."""

    params = SimpleNamespace(block_size=4, vocab_size=30)
    context = 4

    def __init__(self, logit=50.0):
        self.said, self.logit = 0, logit

    def parameters(self):
        yield torch.zeros(1)

    def empty_state(self, batch_size):
        return None

    def advance(self, state, tokens):
        return None, None

    def continue_from(self, state, tokens):
        logits = torch.zeros(1, tokens.shape[1], 30)
        logits[0, -1, self.said] = self.logit
        self.said += 1
        return logits, None


def test_generation_ends_before_the_stop_token():
    assert list(generate(Saying(), [9], tokens=20, ends=(7,), **PLAIN, sampling_seed=0)) == [0, 1, 2, 3, 4, 5, 6]
    assert list(generate(Saying(), [9], tokens=3, ends=(7,), **PLAIN, sampling_seed=0)) == [0, 1, 2]
    assert list(generate(Saying(), [9], tokens=0, **PLAIN, sampling_seed=0)) == []
    assert list(generate(Saying(), [9], tokens=20, ends=(0,), **PLAIN, sampling_seed=0)) == []
    assert list(generate(Saying(), [9], tokens=20, ends=(7, 5), **PLAIN, sampling_seed=0)) == [0, 1, 2, 3, 4]


def test_tokens_come_as_they_are_made():
    saying = Saying()
    answer = generate(saying, [9], tokens=20, **PLAIN, sampling_seed=0)
    assert (next(answer), next(answer), saying.said) == (0, 1, 2)


@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(logit):
    with pytest.raises(FolioError, match="not finite"):
        list(generate(Saying(logit), [9], tokens=3, **PLAIN, sampling_seed=0))
