"""Held-out text is sampled evenly for the comparison with generated text. (The search itself: test_suffixes.)"""

from hypothesis import given
from hypothesis import strategies as st

from folio.evaluation.copying import spread


@given(st.binary(max_size=40), st.lists(st.integers(1, 9), max_size=5))
def test_the_parts_are_spread_over_the_whole_text(content, lengths):
    found = spread(content, lengths)
    if sum(lengths) > len(content):
        assert found == [content]
    else:
        assert [len(part) for part in found] == lengths
        place = 0
        for part in found:
            place = content.index(part, place) + len(part)
        assert len(lengths) < 2 or content.startswith(found[0]) and content.endswith(found[-1])
