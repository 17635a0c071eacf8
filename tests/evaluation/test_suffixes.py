"""The suffix array is the sorted list of suffixes, and what it finds in a text is what a search of all of it finds."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from folio.evaluation.suffixes import longest_matches, suffix_array

REPETITIVE = st.text(alphabet="ab", max_size=60).map(str.encode)
CONTENTS = st.one_of(REPETITIVE, st.binary(max_size=60), st.lists(st.sampled_from([b"\0", b"\xff", b"aa", b"the "]),
                                                                  max_size=30).map(b"".join))


@settings(max_examples=300)
@given(CONTENTS)
@example(b"\0" * 50)
@example(b"ab" * 40)
def test_a_suffix_array_is_the_sorted_list_of_suffixes(content):
    assert suffix_array(content).tolist() == sorted(range(len(content)), key=lambda start: content[start:])


@given(CONTENTS, st.integers(1, 30))
def test_a_suffix_array_may_stop_at_so_many_bytes(content, depth):
    starts = suffix_array(content, depth).tolist()
    firsts = [content[start:start + depth] for start in starts]
    assert firsts == sorted(firsts) and sorted(starts) == list(range(len(content)))


def found_by_search(text, passage):
    return [next(length for length in range(len(passage) - start, -1, -1) if passage[start:start + length] in text)
            for start in range(len(passage))]


@settings(max_examples=200)
@given(st.lists(CONTENTS, max_size=5), st.lists(CONTENTS, max_size=3))
def test_the_longest_matches_are_those_of_a_search_of_the_whole_text(parts, passages):
    found = longest_matches(iter(parts), passages)
    assert [each.tolist() for each in found] == [found_by_search(b"".join(parts), passage) for passage in passages]


def test_a_match_may_reach_over_many_pieces():
    text = b"It was the best of times."
    for size in (1, 2, 5):
        assert longest_matches([text[place:place + size] for place in range(0, len(text), size)],
                               [text])[0].tolist() == list(range(len(text), 0, -1))
    assert longest_matches([text[place:place + 1] for place in range(len(text))],
                           [b"the best of tomes"])[0].max() == len("the best of t")


@pytest.mark.parametrize("content", [b"a" * 300_000, b"to be or not to be, " * 15_000], ids=["one letter", "one line"])
def test_what_repeats_throughout_is_sorted_soon(content):
    starts = suffix_array(content)
    assert starts[0] in (len(content) - 1,) and len(set(starts.tolist())) == len(content)
    places = range(0, len(content) - 1, 10_007)
    assert all(content[starts[place]:] < content[starts[place + 1]:] for place in places)
