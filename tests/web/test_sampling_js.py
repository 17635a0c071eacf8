"""sampling.js chooses as folio.generation.sampling does: the same candidates, probabilities and tokens."""

import random
from dataclasses import asdict

import numpy as np
import pytest

from folio.generation.sampling import log_softmax, penalized, pick, probabilities
from Model_Params import GenerationParams
from node_program import run_node

SIZES = (1, 2, 7, 40, 300)


def drawn_settings(some):
    return GenerationParams(
        temperature=some.choice([0, 1e-300, 0.1, 0.8, 1, 3.7, 1000]), top_k=some.choice([None, None, 1, 2, 5, 1000]),
        top_p=some.choice([None, None, 1e-9, 0.3, 0.9, 1.0]), min_p=some.choice([None, None, 0, 0.05, 0.5, 1]),
        repetition_penalty=some.choice([1.0, 1.0, 1.3, 0.7, 100]), frequency_penalty=some.choice([0.0, 0.0, 0.4, 100]),
        penalty_window=some.choice([1, 3, 64]), no_repeat_ngram=some.choice([None, None, 1, 2, 3])).resolved()


@pytest.fixture(scope="module")
def cases():
    """{logits, the precision that they are in, tokens so far, settings, chances}; no two logits are equal."""
    some, made = random.Random(4), []
    for number in range(600):
        size = SIZES[number % len(SIZES)]
        spread = some.choice([0.1, 3, 30, 1e5])
        logits = np.random.default_rng(number).normal(0, spread, size)
        if some.random() < 0.5:
            logits = logits.astype(np.float32)
        assert len(set(logits.tolist())) == size
        tokens = some.choices(range(size), k=some.choice([0, 1, 5, 30, 100]))
        chances = [0.0, 1 - 2**-53, *(some.random() for _ in range(6))]
        made.append({"logits": logits.tolist(), "precision": str(logits.dtype), "tokens": tokens,
                     "settings": asdict(drawn_settings(some)), "chances": chances})
    return made


@pytest.fixture(scope="module")
def answers(cases, tmp_path_factory):
    return run_node(tmp_path_factory.mktemp("sampling"), ["sampling.js"], """
        return cases.map((one) => {
          const logits = (one.precision === "float32" ? Float32Array : Float64Array).from(one.logits);
          const changed = penalized(logits, one.tokens, one.settings), found = probabilities(changed, one.settings);
          return {penalized: Array.from(changed, (value) => value === -Infinity ? "excluded" : value),
                  likely: Array.from(found.likely), ids: found.ids, log: Array.from(logSoftmax(logits)),
                  picked: one.chances.map((chance) => pick(found, chance))};
        });""", cases)


def in_python(case):
    """Return the penalized logits, {id: probability} of the candidates, and the tokens that the chances pick."""
    settings = GenerationParams(**case["settings"] | {"stop": ()})
    logits = np.array(case["logits"], case["precision"])[None]
    changed = penalized(logits, [case["tokens"]], settings)
    likely, ids = probabilities(changed, settings.temperature, settings.top_k, settings.top_p, settings.min_p)
    order = range(likely.shape[1]) if ids is None else ids[0].tolist()
    picked = [pick(likely, ids, np.array([chance])).item() for chance in case["chances"]]
    return changed[0], dict(zip(order, likely[0].tolist())), picked


def test_penalties_give_the_same_numbers(cases, answers):
    for case, answer in zip(cases, answers, strict=True):
        expected = [number if number > -np.inf else "excluded" for number in in_python(case)[0].tolist()]
        assert answer["penalized"] == expected, case


def test_the_candidates_and_their_probabilities_are_the_same(cases, answers):
    for case, answer in zip(cases, answers, strict=True):
        _, expected, _ = in_python(case)
        ids = answer["ids"] if answer["ids"] is not None else range(len(answer["likely"]))
        found = {token: value for token, value in zip(ids, answer["likely"], strict=True) if value > 0}
        expected = {token: value for token, value in expected.items() if value > 0}
        assert list(found) == list(expected), case
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-12, atol=1e-300)


def test_the_same_chance_picks_the_same_token(cases, answers):
    for case, answer in zip(cases, answers, strict=True):
        assert answer["picked"] == in_python(case)[2], case


def test_log_probabilities_are_the_same(cases, answers):
    for case, answer in zip(cases, answers, strict=True):
        expected = log_softmax(np.array(case["logits"], case["precision"]))
        np.testing.assert_allclose(answer["log"], expected, rtol=1e-12, atol=1e-12)


def test_of_equal_logits_the_first_tokens_are_taken(tmp_path):
    equal = {"temperature": 1, "top_k": 3, "top_p": None, "min_p": None}
    found = run_node(tmp_path, ["sampling.js"], """
        const logits = Float32Array.from([1, -0, 2, 0, 0, 2]);
        const ids = [cases, {...cases, top_k: 1}, {...cases, top_k: null, top_p: 0.9}].map(
          (settings) => probabilities(logits, settings).ids);
        return [...ids, probabilities(new Float32Array(4), {...cases, top_k: null, top_p: 0.5}).ids];""", equal)
    logits = np.array([[1, -0.0, 2, 0, 0, 2]], np.float32)
    assert found[:3] == [[2, 5, 0], [2], probabilities(logits, 1, top_p=0.9)[1][0, :len(found[2])].tolist()]
    assert found[2:] == [[2, 5, 0, 1], [0, 1]]


def test_no_rounding_picks_a_token_of_probability_0(tmp_path):
    found = run_node(tmp_path, ["sampling.js"], """
        const likely = Float64Array.of(0.1, 0.2, 0.3, 0.4, 0, 0);
        return [pick({likely, ids: null}, 1), pick({likely, ids: [5, 4, 3, 2, 1, 0]}, 1), pick({likely, ids: null}, 0),
                pick({likely: Float64Array.of(0, 0, 1), ids: null}, 0)];""", None)
    assert found == [3, 2, 0, 2]
