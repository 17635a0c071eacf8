"""The next token of one stream in NumPy: the one that folio/sampling.py picks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folio import sampling
from folio.numpy_sampling import next_token
from Model_Params import GenerationParams


def by_definition(logits, tokens, how, chance):
    logits = sampling.penalised(torch.from_numpy(logits)[None], torch.from_numpy(tokens)[None], how)
    return sampling.pick(sampling.probabilities(logits, how.temperature, how.top_k, how.top_p, how.min_p), torch.tensor([chance])).item()


ways = st.builds(GenerationParams, temperature=st.sampled_from([0.0, 1e-320, 1e-3]) | st.floats(0.2, 3.0), top_k=st.none() | st.integers(1, 14),
                 top_p=st.none() | st.floats(0.01, 1.0), min_p=st.none() | st.floats(0.0, 1.0), repetition_penalty=st.just(1.0) | st.floats(0.5, 3.0),
                 frequency_penalty=st.just(0.0) | st.floats(0.0, 5.0), penalty_window=st.integers(1, 25), no_repeat_ngram=st.none() | st.integers(1, 4))


@pytest.mark.filterwarnings("error")
@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), ways)
def test_the_same_chance_picks_the_token_that_the_definition_picks(seed, length, how):
    random = np.random.default_rng(seed)
    logits, tokens = random.normal(size=12).astype(np.float32) * 3, random.integers(12, size=length)
    before = logits.copy()
    for chance in (0.0, random.random(), np.nextafter(1, 0)):
        assert next_token(logits, tokens, how, chance) == by_definition(logits, tokens, how, chance)
    assert (logits == before).all()


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_of_tokens_that_are_equally_likely_top_p_keeps_the_first(seed, top_p):
    random = np.random.default_rng(seed)
    logits, tokens, how = random.integers(3, size=40).astype(np.float32), np.arange(1), GenerationParams(temperature=1.0, top_p=top_p)
    for chance in (0.0, random.random(), np.nextafter(1, 0)):
        assert next_token(logits, tokens, how, chance) == by_definition(logits, tokens, how, chance)


def test_what_is_ruled_out_is_never_picked_and_a_stream_with_nothing_left_is_let_off():
    random, everything = np.random.default_rng(0), np.arange(12)
    allowed = sampling.only(torch.from_numpy(random.normal(size=12).astype(np.float32)), torch.tensor([3, 7])).numpy()
    how = GenerationParams(temperature=2.0, top_k=5)
    assert {next_token(allowed, everything, how, chance) for chance in random.random(50)} == {3, 7}
    assert next_token(allowed, everything, replace(how, no_repeat_ngram=1), 0.5) == by_definition(allowed, everything, replace(how, no_repeat_ngram=1), 0.5)
