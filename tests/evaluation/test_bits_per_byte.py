"""Each protocol equals a plain loop over its definition. (Windows that do not overlap: test_sampling.)"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.evaluation.bits_per_byte import bytes_of_tokens, evaluate, evaluate_random_windows, predictions
from folio.networks import build as networks
from Model_Params import ModelParams
from tokenizer import BPETokenizer, CharTokenizer

TEXTS = st.lists(st.integers(0, 39), min_size=2, max_size=50).map(np.array)
SETTINGS = {"block_size": 8, "batch_size": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    made = networks.build_network(ModelParams(vocab_size=40, block_size=8, emb_len=16, num_layers=1,
                                              num_heads=2)).eval()
    with torch.no_grad():
        made.head.weight *= 30          # confident predictions, as a trained network has
    return made


def surprise(net, context, token):
    """Return the cost of one token after its context, in nats, and whether it is the most likely one."""
    with torch.inference_mode():
        likely = net(torch.tensor([list(map(int, context))]))[0, -1].double().log_softmax(-1)
    return -likely[token].item(), likely.argmax().item() == token


def by_definition(net, tokens, block_size, stride):
    """Predict every token but the first in the first window that contains it."""
    costs = []
    for place in range(1, len(tokens)):
        start = 0 if place <= block_size else stride * math.ceil((place - block_size) / stride)
        costs.append(surprise(net, tokens[start:place], tokens[place]))
    nats, correct = zip(*costs)
    return np.array(nats), np.array(correct)


@settings(max_examples=40)
@given(TEXTS, st.integers(1, 8))
def test_a_sliding_window_predicts_each_token_where_a_window_first_reaches_it(net, tokens, stride):
    score = evaluate(net, tokens, 7, stride=stride, **SETTINGS)
    assert score.nats == pytest.approx(by_definition(net, tokens, 8, stride)[0].sum(), rel=1e-5)
    assert (score.tokens, score.bytes) == (len(tokens) - 1, 7)


@settings(max_examples=40)
@given(TEXTS, st.sampled_from([None, 1, 3, 8]))
def test_costs_come_in_the_order_of_the_text(net, tokens, stride):
    nats, correct = map(np.concatenate, zip(*predictions(net, tokens, stride=stride, **SETTINGS)))
    expected_nats, expected_correct = by_definition(net, tokens, 8, stride or 8)
    np.testing.assert_allclose(nats, expected_nats, rtol=1e-4, atol=1e-5)
    assert correct.tolist() == expected_correct.tolist()
    assert nats.dtype == np.float32 and correct.dtype == bool


def test_after_the_first_window_every_token_has_the_promised_context():
    class Attentive:
        def __call__(self, tokens):
            self.context = torch.arange(1, tokens.shape[1] + 1)
            return torch.nn.functional.one_hot(self.context, 40).float().expand(len(tokens), -1, -1) * 50

    context_lengths = {}
    for stride in (2, 5, 8):
        # Token n stands for n tokens of context; the network predicts the one that it has.
        context_lengths[stride] = [min(range(40), key=lambda guess: next_cost(Attentive(), stride, place, guess))
                        for place in (8, 9, 13, 20, 29)]
    assert context_lengths[2] == [8, 7, 7, 8, 7]
    assert context_lengths[5] == [8, 4, 8, 5, 4]
    assert context_lengths[8] == [8, 1, 5, 4, 5]


def next_cost(net, stride, place, guess):
    tokens = np.zeros(31, np.uint16)
    tokens[place] = guess
    return np.concatenate([nats for nats, _ in predictions(net, tokens, stride=stride, **SETTINGS)])[place - 1]


@settings(max_examples=30)
@given(TEXTS, st.integers(0, 1000), st.integers(1, 10))
def test_random_windows_are_the_mean_over_windows_at_random_positions(net, tokens, seed, windows):
    sizes = np.arange(40) % 7 + 1
    score = evaluate_random_windows(net, tokens, sizes, windows=windows, seed=seed, **SETTINGS)
    length = min(8, len(tokens) - 1)
    nats = text_bytes = 0
    for start in np.random.default_rng(seed).integers(0, len(tokens) - length, size=windows):
        for place in range(start + 1, start + length + 1):
            nats += surprise(net, tokens[start:place], tokens[place])[0]
            text_bytes += sizes[tokens[place]]
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert (score.tokens, score.bytes) == (windows * length, text_bytes)


def test_random_windows_reach_both_ends_of_a_text(net):
    tokens = np.arange(12)
    sizes = 1 << np.arange(40)
    seen = 0
    for seed in range(50):
        seen |= evaluate_random_windows(net, tokens, sizes, windows=1, seed=seed, **SETTINGS).bytes
    assert seen == sum(1 << token for token in range(1, 12))


def test_a_special_token_stands_for_no_bytes():
    text = "to be or not to be <|endoftext|>\n"
    for tokenizer in (BPETokenizer.train([text * 9], 270), CharTokenizer.train([text], ("<|endoftext|>",))):
        ids = tokenizer.encode(text)
        assert bytes_of_tokens(tokenizer)[[*ids, tokenizer.end_of_text]].sum() == len(text)
