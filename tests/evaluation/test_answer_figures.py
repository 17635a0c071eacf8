"""folio/evaluation/answer_figures.py, against SQuAD's own way of computing and by hand."""

import collections
import math
import random
import re
import string

import pytest

from folio.evaluation.answer_figures import (
    errors_of,
    figures_of,
    has_decimal_commas,
    normalized,
    numbers_of,
    shape,
    token_f1,
)


def squad_f1(prediction, ground_truth):
    """The computation of SQuAD 2.0's evaluation script, written anew from its paper's definition."""
    def tokens(text):
        text = re.sub(r"\b(a|an|the)\b", " ", "".join(c for c in text.lower() if c not in set(string.punctuation)))
        return text.split()
    predicted, truth = tokens(prediction), tokens(ground_truth)
    same = sum((collections.Counter(predicted) & collections.Counter(truth)).values())
    if not predicted or not truth:
        return int(predicted == truth)
    if same == 0:
        return 0
    precision, recall = same / len(predicted), same / len(truth)
    return 2 * precision * recall / (precision + recall)


def test_f1_is_squads():
    random.seed(4)
    words = ["the", "a", "An", "duty", "Duty,", "4.5", "kW.", "é", "", "-", "is", "is"]
    for _ in range(500):
        answer, right = (" ".join(random.choices(words, k=random.randint(0, 6))) for _ in range(2))
        assert token_f1(answer, right) == pytest.approx(squad_f1(answer, right))


def test_an_exact_match_is_without_unicodes_variants_and_white_space_but_with_case():
    assert normalized("ﬁve  m²\r\n") == normalized("five m2")
    assert figures_of("Café ", "Cafe\u0301").is_exact
    assert not figures_of("Yes", "yes").is_exact


@pytest.mark.parametrize("text, numbers", [
    ("duty: 45.2 kW\n- Area = 3 m2", {"duty": 45.2, "area": 3.0}),
    ("LMTD = (80 - 40) / 2 = 20 K", {"lmtd, step 1": 80.0, "lmtd, step 2": 40.0, "lmtd, step 3": 2.0, "lmtd": 20.0}),
    ("duty: 45 kW of 50", {"duty": 45.0, "duty (2)": 50.0}),
    ("flow: 1\nflow: 2", {"flow": 1.0, "flow (2)": 2.0}),
    ("It takes 10-20 s, or -3.5e2.", {"number 1": 10.0, "number 2": 20.0, "last number": -350.0}),
    ("1,234.5 kg in P-101 and m2", {"last number": 1234.5}),
    ("45kW", {"last number": 45.0}),
    ("−7 °C at 12:30", {"number 1": -7.0, "number 2": 12.0, "last number": 30.0}),
    ("version 1.2.3", {}),
    ("exchanger 1: 4 kW", {"exchanger 1": 4.0}),
    ('{"duty": 45.2, "in": {"t": 80, "tag": "P-1"}, "ok": true}', {"duty": 45.2, "in.t": 80.0}),
    ("none", {}),
])
def test_numbers_have_the_names_that_lines_and_json_give_them(text, numbers):
    assert numbers_of(text) == numbers


def test_decimal_commas_are_seen_from_all_right_answers():
    assert has_decimal_commas(["4,5 kW", "1.234,50 m"]) and not has_decimal_commas(["1,234 kW", "4.5"])
    assert not has_decimal_commas(["1,234"]) and not has_decimal_commas(["none"])
    assert numbers_of("1.234,5 kW", decimal_comma=True) == {"last number": 1234.5}


def test_errors_are_relative_and_infinite_for_what_is_missing():
    assert errors_of({"a": 90.0, "b": 1.0, "zero": 0.0, "near": 0.1}, {"a": -100.0, "zero": 0.0, "near": 0.0, "c": 1.0}
                     ) == {"a": 1.9, "zero": 0.0, "near": math.inf, "c": math.inf}


@pytest.mark.parametrize("answer, right, is_right", [
    ("duty: 102 kW", "duty: 100 kW", True), ("duty: 97.9 kW", "duty: 100 kW", False),
    ("duty: 102 W", "duty: 100 kW", False), ("area: 100 kW", "duty: 100 kW", False),
    ("duty: 100 kW and 7", "duty: 100 kW", False), ("about 101", "about 100", True), ("yes", "no", False),
    ('{"duty": 101, "unit": "kW"}', '{"unit":"kW","duty":100}', False),     # other order: not the same text
    ('{"unit": "kW", "duty": 101}', '{"unit":"kW","duty":100}', True),
    ("", "", True), ("", "100", False),
])
def test_an_answer_is_right_if_it_is_the_same_with_all_numbers_within_2_percent(answer, right, is_right):
    assert figures_of(answer, right).is_right == is_right


@pytest.mark.parametrize("answer, right, has_form", [
    ("hot oil inlet: 3.25 m3", "duty: 45 kW", True), ("duty 45 kW", "duty: 45 kW", False),
    ("duty: 45 kW\narea: 3 m2", "duty: 45 kW", False), ("duty: kW", "duty: 45 kW", False),
    ("No, never.", "Yes, often.", True), ('{"a": 1}', '{"a": [}', False), ('{"a": "x"}', '{"a": 2}', True),
    ('{"a": 1, "b": 2}', '{"a": 2}', False), ("[1, 2]", "[3]", True),
    ('{"t1": 1, "t2": 2}', '{"t1": 1}', False),
])
def test_the_form_is_what_is_left_without_words_and_numbers(answer, right, has_form):
    assert (shape(answer) == shape(right)) == has_form == figures_of(answer, right).has_form


@pytest.mark.parametrize("answer, right, is_right", [
    ("98.1-32.1=66.0\n10^2.854=714\nduty: 714 kW", "duty: 717 kW", True),
    ("duty: 717 kW\n10^2.954=899\nduty: 899 kW", "duty: 717 kW", False),
    ("duty: 717 kW\nduty: 717 kW\nI am sure.", "duty: 717 kW", False),
    ("F: 0.99", "F: 0.99\narea: 3 m2", False),
    ('{\n"duty": 717\n}', '{"duty": 717}', True),
])
def test_steps_may_stand_before_the_result(answer, right, is_right):
    assert figures_of(answer, right).is_right is is_right
