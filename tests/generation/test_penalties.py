"""Penalties for repetition, against Hugging Face's and against their definitions."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.generation import sampling
from folio.generation.beam import beam_search
from folio.generation.decoder import Sequence, generate
from test_decoder import TINY, WILD, lively, said_by
from test_sampling import full


@pytest.fixture(scope="module", params=["folio", "classic"])
def net(request):
    return lively(replace(TINY, family=request.param))


def random_logits(seed):
    return torch.randn(3, 12, generator=torch.Generator().manual_seed(seed)) * 3


def rows_of(length):
    return st.lists(st.lists(st.integers(0, 11), min_size=length, max_size=length), min_size=3, max_size=3)


logits_rows = st.integers(0, 2**31).map(random_logits)
token_rows = st.integers(1, 20).flatmap(rows_of)


@settings(max_examples=50)
@given(logits_rows, token_rows.map(torch.tensor), st.floats(0.5, 3.0), st.integers(1, 4))
def test_penalties_are_those_of_hugging_face(logits, tokens, penalty, length):
    processors = pytest.importorskip("transformers").generation.logits_process
    ours = torch.stack([sampling.repetition_penalty(row, ids, penalty) for row, ids in zip(logits, tokens.tolist())])
    torch.testing.assert_close(ours, processors.RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits.clone()))
    theirs = processors.NoRepeatNGramLogitsProcessor(length)(tokens, logits.clone())
    ours = torch.stack([sampling.no_repeat_ngram(row, ids, length) for row, ids in zip(logits, tokens.tolist())])
    let_off = theirs.isneginf().all(-1)
    torch.testing.assert_close(ours[~let_off], theirs[~let_off])
    torch.testing.assert_close(ours[let_off], logits[let_off])


@settings(max_examples=100)
@given(logits_rows, st.floats(0.2, 3.0), st.none() | st.integers(1, 12), st.none() | st.floats(0.05, 0.999),
       st.none() | st.floats(0.0, 1.0))
def test_the_order_of_application_is_that_of_hugging_face(logits, temperature, top_k, top_p, min_p):
    warpers = pytest.importorskip("transformers").generation.logits_process
    scores = warpers.TemperatureLogitsWarper(temperature)(None, logits.double())
    for warper, value in ((warpers.TopKLogitsWarper, top_k), (warpers.TopPLogitsWarper, top_p),
                          (warpers.MinPLogitsWarper, min_p)):
        scores = scores if value is None else warper(value)(None, scores)
    found = full(logits.numpy(), temperature, top_k, top_p, min_p)
    np.testing.assert_allclose(found, scores.softmax(-1), rtol=1e-5, atol=1e-7)


@settings(max_examples=100)
@given(logits_rows, token_rows, st.floats(0.0, 5.0), st.floats(0.5, 3.0), st.integers(1, 25))
def test_a_token_pays_once_for_each_time_it_came_within_the_window(logits, tokens, frequency, repetition, window):
    settings = replace(WILD, frequency_penalty=frequency, repetition_penalty=repetition, penalty_window=window)
    found = sampling.penalized(logits, tokens, settings)
    for row, token in itertools.product(range(3), range(12)):
        times = tokens[row][-window:].count(token)
        logit = logits[row, token].item()
        logit = logit if not times else logit * repetition if logit < 0 else logit / repetition
        assert found[row, token].item() == pytest.approx(logit - times * frequency, rel=1e-4, abs=1e-5)


def test_no_ngram_repeats_and_where_every_token_would_be_excluded_none_is(net):
    said = [5, *generate(net, [5], **{**vars(WILD), "no_repeat_ngram": 2, "tokens": 200, "top_k": 4})]
    pairs = list(zip(said, said[1:]))
    assert len(set(pairs)) == len(pairs) == 200
    said = list(generate(net, [5], **{**vars(WILD), "no_repeat_ngram": 1, "tokens": 100}))
    assert len(said) == 100                     # from a vocabulary of 40


@pytest.mark.parametrize("penalty", [
    dict(no_repeat_ngram=1), dict(repetition_penalty=100.0), dict(frequency_penalty=100.0)], ids=str)
def test_penalties_skip_what_stands_before_a_text(net, penalty):
    ends = copy.deepcopy(net)
    with torch.no_grad():
        hidden = ends.norm(ends.advance(ends.empty_state(1), torch.tensor([[9]]))[0])[0, 0]
        # so that the end is likeliest after itself
        ends.head.weight[9] = hidden / hidden.square().sum() * ((ends.head.weight @ hidden).max() + 1)
    for params in (replace(WILD, temperature=0.0, **penalty),
                   replace(WILD, temperature=None, beams=1, tokens=5, **penalty)):
        opened, said = Sequence([9], params, ends=(9,), unsaid=1), Sequence([9], params, ends=(9,))
        answers = [beam_search(ends, sequence)[0].tokens if params.beams else said_by(ends, [sequence])[0]
                   for sequence in (opened, said)]
        assert answers[0] == [] != answers[1]
