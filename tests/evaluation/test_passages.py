"""The hardest passages are those that a search of all passages finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.evaluation.passages import TokenCosts, hardest_passages
from tokenizer import BPETokenizer

TOKENIZER = BPETokenizer.train(["the theme of them, the"] * 9, 270)
COSTS = st.lists(st.tuples(st.integers(0, TOKENIZER.vocab_size - 1), st.floats(0.0, 9, width=32)),
                 min_size=1, max_size=60)


def costs_of(pairs):
    """Return the TokenCosts of [(token, nats)]."""
    tokens, nats = zip(*pairs)
    sizes = [0 if token == TOKENIZER.end_of_text else len(TOKENIZER.token_bytes[token]) for token in tokens]
    return TokenCosts(np.array(tokens), np.array(nats, np.float32), np.zeros(len(tokens), bool), np.array(sizes))


@settings(max_examples=300)
@given(COSTS.filter(lambda pairs: any(token != TOKENIZER.end_of_text for token, _ in pairs)), st.integers(1, 30))
def test_the_hardest_passages_are_those_of_a_full_search(pairs, length):
    costs = costs_of(pairs)
    found = hardest_passages(costs, TOKENIZER, limit=3, length=length)
    candidates = []
    for first in range(len(pairs)):
        last = first
        while costs.sizes[first:last + 1].sum() < min(length, costs.sizes[first:].sum()):
            last += 1
        size = costs.sizes[first:last + 1].sum()
        if size >= length or not costs.sizes[:first].sum():
            candidates.append((costs.nats[first:last + 1].astype(float).sum() / max(1, size), first, last))
    expected = []
    for cost, first, last in sorted(candidates, key=lambda candidate: -candidate[0]):
        if len(expected) < 3 and all(last < start or first > end for _, start, end in expected):
            expected.append((cost, first, last))
    figures = [passage.nats_per_byte for passage in found]
    assert figures[0] == pytest.approx(expected[0][0], rel=1e-5)
    assert sorted(figures, reverse=True) == figures
    # Among equal costs any passage may be chosen.
    if len({round(cost, 4) for cost, _, _ in candidates}) == len(candidates):
        assert figures == pytest.approx([cost for cost, _, _ in expected], rel=1e-5)
        assert [passage.start for passage in found] == [costs.sizes[:first].sum() for _, first, _ in expected]
