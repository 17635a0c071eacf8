"""The paired bootstrap covers the truth as often as it says, and its parts are the documents or stretches of them."""

import numpy as np
import pytest

from folio.evaluation import comparison
from folio.evaluation.comparison import compare, interval, parts_of


def words(random, count, gain=0.0):
    """Return (sizes, first, second) of words: two models whose costs vary together; the second is better by `gain`."""
    sizes = random.integers(2, 10, count).astype(float)
    shared = random.gamma(2, 3, count)                  # hard words are hard for both
    noise = random.normal(size=count + 1)
    return sizes, shared + gain * sizes + noise[1:] + noise[:-1], shared       # neighbors correlate


@pytest.mark.parametrize("parts, kind", [(25, "stretches"), (60, "documents")])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(monkeypatch, parts, kind):
    monkeypatch.setattr(comparison, "DRAWS", 1000)
    random, covered, trials = np.random.default_rng(7), 0, 200
    for trial in range(trials):
        if kind == "documents":                         # which differ in how much better the second model is
            documents = [words(random, random.integers(30, 120), gain=0.05 + 0.1 * random.normal())
                         for _ in range(parts)]
        else:
            documents = [words(random, 96 * parts, gain=0.05)]
        found = compare(documents, seed=trial)
        assert found.kind == kind and abs(found.parts - parts) <= 3
        covered += found.low <= 0.05 <= found.high
    # 95 % of 200 are 190, with a standard deviation of 3.1.
    assert 0.91 <= covered / trials <= 0.985


def test_pairing_finds_a_difference_that_the_two_intervals_hide():
    random = np.random.default_rng(3)
    sizes, first, second = words(random, 4000, gain=0.03)
    paired = compare([(sizes, first, second)])
    assert paired.is_more_than_chance and paired.low > 0
    alone = [interval(bits, sizes) for bits in (first, second)]     # of each model by itself
    assert alone[0][0] < alone[1][1]                                # they overlap


def test_the_interval_is_that_of_a_plain_bootstrap(monkeypatch):
    random = np.random.default_rng(5)
    sizes, differences = random.integers(300, 900, 200).astype(float), random.normal(size=200) * 30 + 10
    drawn = random.integers(200, size=(4000, 200))
    ratios = differences[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = interval(differences, sizes)
    assert np.quantile(ratios, 0.025) == pytest.approx(low, abs=0.1 * ratios.std())
    assert np.quantile(ratios, 0.975) == pytest.approx(high, abs=0.1 * ratios.std())
    assert interval(differences, sizes) == (low, high)              # the seed is fixed


def test_equal_models_differ_by_nothing():
    sizes, first, _ = words(np.random.default_rng(0), 5000)
    found = compare([(sizes, first, first)])
    assert (found.difference, found.low, found.high, found.is_more_than_chance) == (0, 0, 0, False)


@pytest.mark.parametrize("documents, kind, parts", [
    ([300] * 10, "stretches", 30), ([100] * 30, "documents", 30), ([20] * 2500, "documents", 1000),
    ([3000, 10], "stretches", 30), ([100_000], "stretches", 400),
])
def test_parts_are_documents_or_stretches_and_add_up(documents, kind, parts):
    random = np.random.default_rng(1)
    documents = [words(random, count) for count in documents]
    found, rows = parts_of(documents)
    assert found == kind and abs(len(rows) - parts) <= parts / 4
    np.testing.assert_allclose(np.sum(rows, axis=0), [sum(part.sum() for part in column) for column in zip(*documents)])


def test_a_short_text_has_a_difference_but_no_interval():
    found = compare([words(np.random.default_rng(0), 500, gain=5)])
    assert found.difference > 4 and found.low is found.high is None and not found.is_more_than_chance
