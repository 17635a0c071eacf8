"""A suffix array is the sorted list of suffixes, and its matches are those of a full search."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from folio.evaluation.suffixes import longest_matches, suffix_array

REPETITIVE = st.text(alphabet="ab", max_size=60).map(str.encode)
WORDS = st.lists(st.sampled_from([b"\0", b"\xff", b"aa", b"the "]), max_size=30).map(b"".join)
CONTENTS = st.one_of(REPETITIVE, st.binary(max_size=60), WORDS)


@settings(max_examples=300)
@given(CONTENTS)
@example(b"\0" * 50)
@example(b"ab" * 40)
def test_a_suffix_array_is_the_sorted_list_of_suffixes(content):
    assert suffix_array(content).tolist() == sorted(range(len(content)), key=lambda start: content[start:])


@given(CONTENTS, st.integers(1, 30))
def test_a_suffix_array_may_be_sorted_by_the_first_bytes_only(content, depth):
    starts = suffix_array(content, depth).tolist()
    firsts = [content[start:start + depth] for start in starts]
    assert firsts == sorted(firsts) and sorted(starts) == list(range(len(content)))


def found_by_search(text, passage):
    """Return the longest match at each byte of a passage by trying all lengths."""
    return [next(length for length in range(len(passage) - start, -1, -1) if passage[start:start + length] in text)
            for start in range(len(passage))]


@settings(max_examples=200)
@given(st.lists(CONTENTS, max_size=5), st.lists(CONTENTS, max_size=3))
def test_the_longest_matches_are_those_of_a_full_search(parts, passages):
    found = longest_matches(iter(parts), passages)
    text = b"".join(parts)
    assert [lengths.tolist() for lengths in found] == [found_by_search(text, passage) for passage in passages]


def test_a_match_may_span_many_parts():
    text = b"It was the best of times."
    for size in (1, 2, 5):
        parts = [text[start:start + size] for start in range(0, len(text), size)]
        assert longest_matches(parts, [text])[0].tolist() == list(range(len(text), 0, -1))
        assert longest_matches(parts, [b"the best of tomes"])[0].max() == len("the best of t")


@pytest.mark.parametrize("content", [b"a" * 300_000, b"to be or not to be, " * 15_000], ids=["one letter", "one line"])
def test_repetitive_text_is_sorted_fast(content):
    starts = suffix_array(content)
    assert starts[0] in (len(content) - 1,) and len(set(starts.tolist())) == len(content)
    places = range(0, len(content) - 1, 10_007)
    assert all(content[starts[place]:] < content[starts[place + 1]:] for place in places)
