"""Beam search, against its definition and against Hugging Face's."""

import math
from dataclasses import replace

import pytest
import torch

from folio.generation.beam import beam_search, length_penalty
from folio.generation.decoder import Sequence, generate, window_start
from test_decoder import TINY, WILD, beginning_with, lively
from test_model import as_qwen3


@pytest.fixture(scope="module", params=["folio", "classic"])
def net(request):
    return lively(replace(TINY, family=request.param))


def log_probabilities(net, ids):
    with torch.inference_mode():
        window = ids[window_start(len(ids), net.params.block_size):]
        return net(torch.tensor([window]))[0, -1].double().log_softmax(-1).tolist()


def all_continuations(net, prompt, length, end):
    """Yield (ids without the end, log-probability, length with the end) of everything that so many tokens can say."""
    ongoing = [([], 0.0)]
    for place in range(1, length + 1):
        longer = [(ids + [token], total + cost) for ids, total in ongoing
                  for token, cost in enumerate(log_probabilities(net, prompt + ids))]
        yield from ((ids[:-1], total, place) for ids, total in longer if ids[-1] == end)
        ongoing = [(ids, total) for ids, total in longer if ids[-1] != end]
    yield from ((ids, total, length) for ids, total in ongoing)


@pytest.mark.parametrize("strength", [0.0, 0.6, 3.0])
def test_with_enough_beams_the_best_of_all_continuations_are_found(strength):
    net = lively(replace(TINY, vocab_size=4, block_size=6))
    with torch.no_grad():
        net.head.weight *= 0.3                                      # so that several are worth comparing
    prompt, how = [1, 2, 3], replace(WILD, tokens=4, beams=200, length_penalty=strength)
    scores = [(total / length_penalty(length, strength), ids)
              for ids, total, length in all_continuations(net, prompt, 4, end=0)]
    expected = sorted(scores, reverse=True)
    found = beam_search(net, Sequence(prompt, how, ends=(0,)))
    assert [each.tokens for each in found[:20]] == [ids for _, ids in expected[:20]]
    assert [each.score for each in found[:20]] == pytest.approx([score for score, _ in expected[:20]], abs=1e-4)
    lengths = {len(each.tokens) for each in found[:20]}
    assert lengths == {4} if strength == 3 else len(lengths) > 1                # what the penalty is for


def plain_beam_search(net, prompt, tokens, beams, strength, own=(), ends=lambda ids: False):
    """Search by the definition, which computes everything anew and never stops early. -> [(score, ids)]"""
    ongoing, ended = [(0.0, [])], []
    for length in range(1, tokens + 1):
        longer = sorted(((total + cost, ids + [token]) for total, ids in ongoing
                         for token, cost in enumerate(log_probabilities(net, prompt + ids))), reverse=True)
        ongoing = [(total, ids) for total, ids in longer if ids[-1] not in own and not ends(ids)][:beams]
        ended += [(total / length_penalty(length, strength), ids[:-1] if ids[-1] in own else ids)
                  for total, ids in longer if (ids[-1] in own or ends(ids)) and (total, ids) > ongoing[-1]]
    ended += [(total / length_penalty(tokens, strength), ids) for total, ids in ongoing]
    return sorted(ended, reverse=True)[:beams]


@pytest.mark.parametrize("beams", [1, 2, 3])
@pytest.mark.parametrize("strength", [0.0, 0.6, 3.0])
def test_few_beams_find_what_the_definition_finds_and_end_no_sooner_than_nothing_better_can_come(beams, strength):
    net = lively(replace(TINY, vocab_size=4, block_size=6))
    with torch.no_grad():
        net.head.weight *= 0.3
    for ends in ((0,), (1,), (2,), (3,), (1, 3), ()):
        settings = replace(WILD, tokens=8, beams=beams, length_penalty=strength)
        found = beam_search(net, Sequence([1, 2, 3], settings, ends=ends))
        expected = plain_beam_search(net, [1, 2, 3], 8, beams, strength, ends)
        assert [each.tokens for each in found] == [ids for _, ids in expected]
        assert [each.score for each in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_as_many_beams_go_on_where_most_tokens_end_a_text():
    net = lively(replace(TINY, vocab_size=24, block_size=8))
    with torch.no_grad():
        net.head.weight *= 0.1          # so that those that do not are not among the likeliest
    how = replace(WILD, tokens=4, beams=4, length_penalty=10.0)         # the longest win

    def ends(ids):
        return ids[-1] >= 4
    found = beam_search(net, Sequence([1, 2, 3], how), ends)
    expected = plain_beam_search(net, [1, 2, 3], 4, 4, 10.0, ends=ends)
    assert [each.tokens for each in found] == [ids for _, ids in expected] and {len(ids) for _, ids in expected} == {4}


def test_one_beam_takes_the_likeliest_token_each_time_also_past_the_context(net):
    greedy = list(generate(net, [3, 4], tokens=40, temperature=0, sampling_seed=0))
    assert beam_search(net, Sequence([3, 4], replace(WILD, tokens=40, beams=1)))[0].tokens == greedy


@pytest.mark.parametrize("tokens", [6, 30])
def test_the_score_of_a_beam_is_its_summed_log_probability(net, tokens):
    found = beam_search(net, Sequence([3, 4], replace(WILD, tokens=tokens, beams=5, length_penalty=0.0), ends=(9,)))
    for each in found:
        ids = each.tokens + [9] * (len(each.tokens) < tokens)
        total = sum(log_probabilities(net, [3, 4] + ids[:place])[token] for place, token in enumerate(ids))
        assert each.score == each.log_probability == pytest.approx(total, abs=1e-3)
    assert len({tuple(each.tokens) for each in found}) == 5


def test_beams_find_what_those_of_hugging_face_find():
    net = lively(replace(TINY, block_size=64))
    oracle = as_qwen3(net, bos_token_id=None, eos_token_id=9, pad_token_id=0)
    prompt = [3, 4, 5]
    for penalty in (dict(), dict(no_repeat_ngram=2), dict(repetition_penalty=1.5)):
        theirs = oracle.generate(torch.tensor([prompt]), max_new_tokens=12, num_beams=4, num_return_sequences=3,
                                 do_sample=False, length_penalty=0.0, early_stopping=False,
                                 no_repeat_ngram_size=penalty.get("no_repeat_ngram"),
                                 repetition_penalty=penalty.get("repetition_penalty"))
        settings = replace(WILD, tokens=12, beams=4, length_penalty=0.0, penalty_window=99, **penalty)
        ours = beam_search(net, Sequence(prompt, settings, ends=(9,)))
        expected = [[token for token in row[3:].tolist() if token not in (9, 0)] for row in theirs]
        assert [candidate.tokens for candidate in ours[:3]] == expected


def test_an_impossible_continuation_is_none(net):
    found = beam_search(net, Sequence([3], replace(WILD, tokens=1, beams=50), healing=beginning_with(7)))
    assert [candidate.tokens for candidate in found] == [[7]]
    found = beam_search(net, Sequence([3], replace(WILD, tokens=3, beams=50), healing=beginning_with(7)))
    assert len(found) == 50 and all(each.tokens[0] == 7 and math.isfinite(each.score) for each in found)
