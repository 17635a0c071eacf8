"""Sequences join and leave a running batch: each says what it says alone, and rows in memory are used again."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from folio.base.errors import FolioError
from folio.generation import decoder
from folio.generation.decoder import Decoder, Generation, Sequence, window_start
from test_decoder import TINY, WILD, beginning_with, company, lively, said_by

FAMILIES = ["folio", "classic", "lstm"]


@pytest.fixture(scope="module", params=FAMILIES)
def net(request):
    return lively(replace(TINY, family=request.param, num_heads=None if request.param == "lstm" else 2))


@pytest.fixture(params=["numpy", "torch", "device"])
def path(request, monkeypatch):
    """Each of the ways to compute single tokens and to choose them."""
    if request.param != "numpy":
        monkeypatch.setattr(decoder, "in_numpy", lambda net, precision: None)
    if request.param == "device":
        monkeypatch.setattr(decoder, "CHOOSES", ("cpu",))           # as CUDA does
    return request.param


def said_with_schedule(net, joins, removals=()):
    """Return what each sequence says: {name: tokens}.

    joins: {name: (step, Sequence)}; removals: {name: step}
    """
    generation, keys, said = Generation(net), {}, {name: [] for name in joins}
    for step in range(200):
        for name, (start, sequence) in joins.items():
            if start == step:
                keys[generation.add(sequence)] = name
        for key, name in keys.items():
            if dict(removals).get(name) == step:
                generation.remove(key)
        for key, token in generation.step():
            said[keys[key]].append(token)
    assert not generation.running
    return said


def test_a_sequence_that_joins_later_says_what_it_says_alone_and_the_others_are_unchanged(net, path):
    sequences = dict(enumerate(company()))
    alone = {name: said_by(net, [sequence])[0] for name, sequence in sequences.items()}
    for spacing in (1, 4, 9):
        joins = {name: (name * spacing % 23, sequence) for name, sequence in sequences.items()}
        assert said_with_schedule(net, joins) == alone
    assert max(map(len, alone.values())) > 3 * TINY.block_size             # windows restart meanwhile


def test_a_removed_sequence_says_nothing_more_and_the_others_are_unchanged(net, path):
    sequences = {name: Sequence([1 + name, 2], WILD, name) for name in range(5)}
    alone = {name: said_by(net, [sequence])[0] for name, sequence in sequences.items()}
    joins = {name: (2 * name, sequence) for name, sequence in sequences.items()}
    expected = alone | {1: alone[1][:5], 3: []}
    assert said_with_schedule(net, joins, {1: 7, 3: 6}) == expected         # 3 goes before its prompt is read
    assert said_with_schedule(net, joins, {1: 7, 3: 6, 0: 199}) == expected


def test_logits_after_rows_have_come_and_gone_are_those_of_each_sequence_read_alone(net, path):
    random, batch = np.random.default_rng(0), Decoder(net, [[1, 2, 3]])
    for _ in range(60):
        pieces = [random.integers(40, size=random.integers(1, 4)).tolist() for _ in batch.tokens]
        joining = [random.integers(40, size=random.integers(1, 20)).tolist() for _ in range(random.integers(3))]
        batch.read(pieces + joining)
        for tokens, logits in zip(batch.tokens, batch.logits):
            with torch.inference_mode():
                expected = net(torch.tensor([tokens[window_start(len(tokens), net.context):]]))[0, -1]
            found = torch.as_tensor(logits).log_softmax(-1)
            torch.testing.assert_close(found, expected.log_softmax(-1), rtol=0, atol=2e-4)
        kept = random.permutation(len(batch.tokens))[:random.integers(1, 6)].tolist()
        batch.select(kept)


def memory_of(generation):
    return generation._decoder.state.caches[0].keys.untyped_storage()


@pytest.mark.parametrize("net", ["folio", "classic"], indirect=True)
def test_memory_is_used_again_and_grows_by_half(net, path):
    generation = Generation(net, [Sequence([1], replace(WILD, tokens=500))] + [Sequence([2], WILD)] * 3)
    generation.step()
    memory, rows = memory_of(generation), len(memory_of(generation)) // 4
    for removed in range(1, 30):
        generation.remove(removed)                                          # the oldest but one
        assert generation.add(Sequence([3, 4], WILD)) == removed + 3        # a key is never used again
        generation.step()
        assert len(generation._decoder.tokens) == len(generation.running) == 4
        assert memory_of(generation).data_ptr() == memory.data_ptr()
    sizes = []
    for _ in range(12):
        generation.add(Sequence([5], WILD))
        generation.step()
        sizes.append(len(memory_of(generation)) / rows)
    assert sizes == [6, 6, 9, 9, 9, 13, 13, 13, 13, 19, 19, 19]


def test_removal_frees_the_row(net, path):
    generation = Generation(net, [Sequence([1, 2], WILD, number) for number in range(3)])
    generation.step()
    generation.remove(1)
    generation.remove(1)                                                    # twice is once
    generation.step()
    assert len(generation._decoder.tokens) == 2 and generation.running == {0, 2}
    for key in (0, 2):
        generation.remove(key)
    assert generation.step() == [] and generation._decoder is None          # an idle batch holds no memory
    key = generation.add(Sequence([1, 2], WILD, 1))
    assert key == 3 and [token for _, token in generation.step()] == said_by(net, [Sequence([1, 2], WILD, 1)])[0][:1]


def test_a_sequence_of_no_tokens_never_runs_and_one_token_is_one_step(net):
    generation = Generation(net)
    assert generation.add(Sequence([1], replace(WILD, tokens=0))) == 0 and not generation.running
    assert generation.step() == []
    generation.add(Sequence([1], replace(WILD, tokens=1)))
    assert [key for key, _ in generation.step()] == [1] and not generation.running


def test_a_prompt_that_joins_is_read_once_while_the_others_go_on(net, monkeypatch):
    read, advance = [], net.advance
    monkeypatch.setattr(decoder, "in_numpy", lambda net, precision: None)

    def recorded(state, tokens):
        read.append(tuple(tokens.shape))
        return advance(state, tokens)
    monkeypatch.setattr(net, "advance", recorded)
    generation = Generation(net, [Sequence([1, 2, 3], WILD)])
    for _ in range(2):
        generation.step()
    for number in range(2):
        generation.add(Sequence([4, 5, 6, 7], WILD, number))
    assert read == [(1, 2), (1, 1), (1, 1)]                                 # nothing is read before the step
    assert sorted(key for key, _ in generation.step()) == [0, 1, 2]
    assert read[3:] == [(1, 3), (3, 1)]                                     # a prompt that two have in common, then all


@pytest.mark.parametrize("net", ["folio"], indirect=True)
def test_a_sequence_of_another_precision_joins_when_no_other_runs(net):
    generation = Generation(net, [Sequence([1], replace(WILD, tokens=2))])
    other = Sequence([1], replace(WILD, weight_precision="int8", tokens=2), healing=beginning_with(7, 9))
    for _ in range(2):
        with pytest.raises(FolioError, match="one precision"):
            generation.add(other)
        generation.step()
    key = generation.add(other)
    assert [found for found, token in generation.step() if token in (7, 9)] == [key]
