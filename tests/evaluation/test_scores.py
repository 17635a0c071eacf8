"""Bits per byte: every token counts once, predicted from the tokens before it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.evaluation.bits_per_byte import Score, evaluate
from test_decoder import TINY, lively


@pytest.fixture(scope="module", params=["folio", "classic"])
def net(request):
    return lively(replace(TINY, family=request.param))


def uniform(vocab_size):
    return lambda tokens: torch.zeros(*tokens.shape, vocab_size)


class Priced:
    """A network in which token t costs the t-th price wherever it stands. It records the largest shape it is given."""

    def __init__(self, vocab_size):
        self.logits = torch.randn(vocab_size, generator=torch.Generator().manual_seed(0))
        self.prices = -self.logits.log_softmax(-1).double()
        self.largest = (0, 0)

    def __call__(self, tokens):
        self.largest = tuple(map(max, zip(self.largest, tokens.shape)))
        return self.logits.expand(*tokens.shape, -1)


class Echo:
    """A network that is sure that the next token is one more than the last: it shows that targets follow inputs."""

    def __call__(self, tokens):
        return 100.0 * torch.nn.functional.one_hot(tokens + 1, 64).float()


def test_a_network_that_knows_nothing_pays_ln_of_the_vocabulary_for_every_token():
    score = evaluate(uniform(65), np.zeros(101, np.uint16), 250, block_size=8, batch_size=4, device="cpu")
    assert (score.tokens, score.bytes) == (100, 250)
    assert score.nats == pytest.approx(100 * math.log(65), rel=1e-6)
    assert score.nats_per_byte == pytest.approx(100 * math.log(65) / 250, rel=1e-6)
    assert score.bits_per_byte == pytest.approx(100 * math.log2(65) / 250, rel=1e-6)


def test_bits_are_nats_over_ln_2():
    assert Score(nats=math.log(2) * 6, tokens=5, bytes=3).bits_per_byte == pytest.approx(2)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=80), st.integers(1, 12), st.integers(1, 6))
def test_every_token_but_the_first_counts_exactly_once(tokens, block_size, batch_size):
    net = Priced(10)
    score = evaluate(net, np.array(tokens, np.uint16), 1, block_size=block_size, batch_size=batch_size, device="cpu")
    assert score.nats == pytest.approx(net.prices[tokens[1:]].sum().item(), rel=1e-5)
    assert score.tokens == len(tokens) - 1
    assert net.largest[0] <= batch_size and net.largest[1] <= block_size


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 6))
def test_a_token_is_predicted_from_the_one_before_it(length, block_size, batch_size):
    shape = {"block_size": block_size, "batch_size": batch_size, "device": "cpu"}
    score = evaluate(Echo(), np.arange(length), 1, **shape)
    assert score.nats == pytest.approx(0, abs=1e-6)
    score = evaluate(Echo(), np.arange(length)[::-1].copy(), 1, **shape)
    assert score.nats == pytest.approx(100 * (length - 1), rel=1e-5)


def test_filling_up_the_last_window_changes_nothing(net):
    tokens = np.random.default_rng(0).integers(40, size=30)
    padded = evaluate(net, tokens, 1, block_size=8, batch_size=16, device="cpu").nats
    expected = 0.0
    with torch.inference_mode():
        for start in range(0, 29, 8):
            window = torch.from_numpy(tokens[start:start + 9])
            expected += torch.nn.functional.cross_entropy(net(window[None, :-1])[0], window[1:], reduction="sum").item()
    assert padded == pytest.approx(expected, rel=1e-5)
