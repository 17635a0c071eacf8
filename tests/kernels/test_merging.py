"""Merges are learned and applied in arrays as by the plain definitions."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.kernels import merging
from folio.kernels.merging import MAX_LEARNED_BYTES, MergeTable, apply_merges, learn_merges
from folio.kernels.splitting import count_pretokens
from test_tokenizer import PATTERNS, letters, small_words
from tokenizer import BPETokenizer


@pytest.fixture(scope="module")
def learned(plays):
    """Merges of real text, in the order learned."""
    return list(learn_merges(count_pretokens([plays[:100_000]]), 1000))


# --- Learning ---

def merge_pair(ids, pair, new_id):
    """Replace `pair` by `new_id`, left to right; where two matches overlap, the left one wins."""
    merged = []
    for token in ids:
        if merged and merged[-1] is not None and (merged[-1], token) == pair:
            merged[-1:] = [new_id, None]        # None: the next token must not match the new one
        else:
            merged.append(token)
    return [token for token in merged if token is not None]


def merges_by_recounting(pretoken_counts, num_merges):
    """Learn merges by the definition: count all pairs anew before each merge."""
    words = [(list(pretoken), count) for pretoken, count in pretoken_counts.items()]
    merges = []
    for new_id in range(256, 256 + num_merges):
        counts = Counter()
        for word, count in words:
            for pair in pairwise(word):
                counts[pair] += count
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        merges.append(best)
        words = [(merge_pair(word, best, new_id), count) for word, count in words]
    return merges


@settings(max_examples=300)
@given(small_words)
def test_merges_are_those_of_counting_all_pairs_anew_each_time(pretoken_counts):
    assert list(learn_merges(pretoken_counts, 30)) == merges_by_recounting(pretoken_counts, 30)


@pytest.mark.parametrize("watched", [1, 3, 20])
def test_merges_do_not_depend_on_how_many_pairs_are_watched_at_a_time(plays, monkeypatch, watched):
    counts = count_pretokens([plays[:20_000]])
    monkeypatch.setattr(merging, "WATCHED_PAIRS", watched)
    assert list(learn_merges(counts, 200)) == merges_by_recounting(counts, 200)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_merges_of_real_text_are_those_of_counting_all_pairs_anew(plays, pattern):
    counts = count_pretokens([plays[:20_000]], pattern)
    merges = merges_by_recounting(counts, 200)
    assert len(merges) == 200
    assert list(learn_merges(counts, 200)) == merges


def test_of_equally_frequent_pairs_the_one_with_the_smallest_ids_is_merged():
    assert list(learn_merges({b"zy": 5, b"ba": 5, b"bc": 5}, 3)) == [(98, 97), (98, 99), (122, 121)]


def test_overlapping_positions_of_a_pair_count():
    assert list(learn_merges({b"aaa": 2, b"bc": 3}, 1)) == [(97, 97)]            # four (a, a) beat three (b, c)


def test_a_pair_seen_once_is_not_merged():
    assert list(learn_merges({b"ab": 1, b"cd": 1}, 5)) == []
    assert list(learn_merges({b"aaa": 1}, 5)) == [(97, 97)]


def test_no_merge_reaches_across_two_pretokens():
    assert list(learn_merges(count_pretokens(["a! a! a! a!"]), 5)) == [(32, 97)]


def test_a_long_run_of_one_character_makes_no_token_longer_than_the_limit(monkeypatch):
    tokenizer = BPETokenizer.train(["=" * 600_000 + "\nto be or not to be"], vocab_size=400)
    assert max(map(len, tokenizer.token_bytes)) == MAX_LEARNED_BYTES and b" be" in tokenizer.token_bytes
    assert tokenizer.decode(tokenizer.encode("=" * 1000)) == "=" * 1000
    monkeypatch.setattr(merging, "MAX_LEARNED_BYTES", 3)
    found = list(learn_merges({b"aaaaaaaa": 9, b"abcabc": 2, b"xyxyxy": 5}, 30))
    made = BPETokenizer(found).token_bytes
    assert found == learned_with_no_longer_token({b"aaaaaaaa": 9, b"abcabc": 2, b"xyxyxy": 5}, 3)
    assert max(map(len, made[256:-1])) == 3


def learned_with_no_longer_token(pretoken_counts, longest):
    """Learn merges by the definition, without pairs whose token would have more than `longest` bytes."""
    words, lengths, found = {pretoken: list(pretoken) for pretoken in pretoken_counts}, [1] * 256, []
    while True:
        counts = Counter()
        for pretoken, ids in words.items():
            for pair in pairwise(ids):
                if lengths[pair[0]] + lengths[pair[1]] <= longest:
                    counts[pair] += pretoken_counts[pretoken]
        count, best = max(((count, (-left, -right)) for (left, right), count in counts.items()), default=(0, None))
        if count < 2:
            return found
        best = -best[0], -best[1]
        found.append(best)
        new_id = len(lengths)
        lengths.append(lengths[best[0]] + lengths[best[1]])
        words = {pretoken: merge_pair(ids, best, new_id) for pretoken, ids in words.items()}


# --- Applying ---

def merged_one_at_a_time(ids, new_ids):
    """Apply merges by the definition: each time the pair that was learned first, and of equal ones the leftmost."""
    ids = list(ids)
    while possible := [(new_ids[pair], left) for left, pair in enumerate(pairwise(ids)) if pair in new_ids]:
        new_id, left = min(possible)
        ids[left:left + 2] = [new_id]
    return ids


@settings(max_examples=300)
@given(small_words, letters)
def test_merges_are_applied_first_learned_first_and_leftmost_among_equals(pretoken_counts, pretoken):
    new_ids = {pair: 256 + index for index, pair in enumerate(learn_merges(pretoken_counts, 30))}
    assert apply_merges(pretoken, new_ids) == merged_one_at_a_time(pretoken, new_ids)


@settings(max_examples=300)
@given(small_words, st.lists(letters.filter(bool), max_size=12), st.booleans())
def test_merging_side_by_side_or_each_pair_everywhere_gives_the_same_ids(pretoken_counts, pretokens, everywhere):
    merges = MergeTable(list(learn_merges(pretoken_counts, 30)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "MANY_BYTES", 1)
        patch.setattr(merging, "ROW_WIDTHS", (0, 1) if everywhere else (0, 3, 8, 64))
        expected = [merged_one_at_a_time(pretoken, merges.new_ids) for pretoken in pretokens]
        assert segmented(merges, pretokens) == expected


def segmented(merges, pretokens):
    """Return the list of ids of each pre-token."""
    ids, counts = merges.segment(pretokens, np.arange(len(pretokens)))
    assert counts.sum() == len(ids)
    return [part.tolist() for part in np.split(ids, np.cumsum(counts))[:-1]]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), unique=True, max_size=60), st.integers(1, 4))
def test_a_table_with_few_free_slots_finds_every_pair_and_no_other(pairs, slots_per_pair):
    merges = MergeTable(pairs, slots_per_pair)
    left, right = np.meshgrid(np.arange(301), np.arange(301), indexing="ij")
    expected = np.full((301, 301), merges.NONE)
    for number, pair in enumerate(pairs):
        expected[pair] = 256 + number
    np.testing.assert_array_equal(merges.look_up(left, right), expected)


def test_pretokens_are_segmented_in_the_order_of_their_indices(learned):
    pretokens = [b" the", b"x" * 200, b" internationalization", b"\0"]
    ids, _ = MergeTable(learned).segment(pretokens, np.array([3, 0, 1, 0, 2, 1]))
    expected = b"\0" + b" the" + b"x" * 200 + b" the" + b" internationalization" + b"x" * 200
    assert BPETokenizer(learned).decode_bytes(ids) == expected


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), unique=True, max_size=10),
       st.lists(st.integers(0, 2), max_size=30))
def test_merges_that_no_training_would_learn_are_applied_in_the_same_order(pairs, ids):
    new_ids = {pair: 3 + index for index, pair in enumerate(pairs) if max(pair) < 3 + index}
    assert apply_merges(ids, new_ids) == merged_one_at_a_time(ids, new_ids)


def test_the_heap_agrees_with_the_definition_on_a_long_pretoken(learned):
    pretoken, new_ids = b"thethertheteeth" * 20, MergeTable(learned).new_ids
    assert apply_merges(pretoken, new_ids) == merged_one_at_a_time(pretoken, new_ids)


# --- BPE-dropout ---

def dropped_out_one_at_a_time(ids, new_ids, dropout, random):
    """Apply merges by the definition (Provilkov et al., 2020): skip each possible merge with a probability."""
    ids = list(ids)
    while possible := [(new_ids[pair], left) for left, pair in enumerate(pairwise(ids))
                       if pair in new_ids and random.random() >= dropout]:
        new_id, left = min(possible)
        ids[left:left + 2] = [new_id]
    return tuple(ids)


@pytest.mark.parametrize("widths", [(0, 8, 64), (0, 1)], ids=["side by side", "one by one"])
def test_merges_are_skipped_as_often_as_the_definition_skips_them(widths, monkeypatch):
    monkeypatch.setattr(merging, "ROW_WIDTHS", widths)
    merges = MergeTable(list(learn_merges({b"lower": 8, b"low": 9, b"owe": 3, b"er": 5}, 10)))
    draws, random = 4000, np.random.default_rng(0)
    expected = Counter(dropped_out_one_at_a_time(b"lower", merges.new_ids, 0.3, random) for _ in range(draws))
    ids, counts = merges.segment([b"lower"], np.zeros(draws, np.int64), 0.3, random)
    seen = Counter(tuple(part.tolist()) for part in np.split(ids, np.cumsum(counts))[:-1])
    assert len(expected) > 5
    for segmentation in expected | seen:        # five standard deviations of the difference of two such counts
        count, expected_count = seen[segmentation], expected[segmentation]
        assert abs(expected_count - count) < 5 * (2 * max(expected_count, count, 10)) ** 0.5
