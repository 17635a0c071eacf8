"""random.js draws the numbers of numpy.random.default_rng((seed, number))."""

import random

import numpy as np
import pytest

from node_program import run_node

SEEDS = [0, 1, 7, 2**31, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**64, 2**100 + 3, 2**128 - 1]


@pytest.fixture(scope="module")
def cases():
    some = random.Random(1)
    drawn = [(some.getrandbits(some.randrange(1, 64)), some.choice([0, 1, 7, some.getrandbits(40)]))
             for _ in range(300)]
    return [(seed, number) for seed in SEEDS for number in (0, 1, 2**32 + 5)] + drawn


@pytest.fixture(scope="module")
def drawn(cases, tmp_path_factory):
    return run_node(tmp_path_factory.mktemp("random"), ["random.js"], """
        return cases.map(([seed, number]) => {
          const random = new RandomNumbers(seed, number);
          return Array.from({length: 20}, () => random.next());
        });""", [(str(seed), str(number)) for seed, number in cases])


def test_the_numbers_are_numpys(cases, drawn):
    for (seed, number), numbers in zip(cases, drawn, strict=True):
        assert numbers == np.random.default_rng((seed, number)).random(20).tolist(), (seed, number)


def test_integers_may_come_as_numbers_or_big_integers(tmp_path):
    found = run_node(tmp_path, ["random.js"], """
        return [new RandomNumbers(12345, 2), new RandomNumbers(12345n, "2")].map((random) => random.next());""", None)
    assert found == [np.random.default_rng((12345, 2)).random()] * 2
