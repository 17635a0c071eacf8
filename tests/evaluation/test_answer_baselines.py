"""folio/evaluation/answer_baselines.py, against computations without their shortcuts."""

import math
import random
from collections import Counter
from statistics import median

import pytest

from folio.chat.messages import Message
from folio.evaluation import answer_baselines
from folio.evaluation.answer_baselines import constant_figures, nearest_answers
from folio.evaluation.answer_figures import errors_of, numbers_of, shape
from folio.evaluation.pairs import Pair


def pair(question, right):
    return Pair([Message("user", question)], right)


def some_pairs(count, seed):
    random.seed(seed)
    return [pair(f"What is the {random.choice(['duty', 'area', 'flow'])} of unit {random.randint(1, 9)}?",
                 random.choice([f"duty: {random.randint(1, 9)} kW", f"{random.randint(1, 4)}", "none, sorry"]))
            for _ in range(count)]


@pytest.mark.parametrize("is_apart", [True, False])
def test_the_constant_answer_is_the_most_frequent_one_of_the_others_with_the_median_of_each_number(is_apart):
    pairs, learned = some_pairs(60, 1), some_pairs(80, 2) if is_apart else None
    said, figures = constant_figures(pairs, learned)
    for place, (one, answer, found) in enumerate(zip(pairs, said, figures, strict=True)):
        others = learned if is_apart else pairs[:place] + pairs[place + 1:]
        counts = Counter(other.right for other in others)
        assert counts[answer] == max(counts.values())
        assert found.is_exact == (answer == one.right)
        forms = Counter(shape(other.right) for other in others)
        if [*forms.values()].count(max(forms.values())) == 1:
            assert found.has_form == (max(forms, key=forms.get) == shape(one.right))
        numbers = [numbers_of(other.right) for other in others]
        medians = {name: median(has[name] for has in numbers if name in has) for name in numbers_of(one.right)}
        assert found.errors == errors_of(medians, numbers_of(one.right))


def nearest_by_dictionaries(question, others):
    """The place of the most alike of some questions, by cosine of tf-idf without hashing."""
    def grams(text):
        text = f" {' '.join(text.casefold().split())} "
        return Counter(text[start:start + 3] for start in range(len(text) - 2))
    known = list(map(grams, others))
    holders = Counter(gram for counts in known for gram in counts)

    def weighted(counts):
        weights = {gram: count * (math.log((1 + len(known)) / (1 + holders[gram])) + 1)
                   for gram, count in counts.items()}
        length = math.sqrt(sum(weight * weight for weight in weights.values()))
        return {gram: weight / length for gram, weight in weights.items()}
    asked = weighted(grams(question))
    scores = [round(sum(weight * asked.get(gram, 0) for gram, weight in weighted(counts).items()), 5)
              for counts in known]
    return scores.index(max(scores))


@pytest.mark.parametrize("at_once", [1000, 7])
def test_the_nearest_answer_is_that_of_the_question_with_the_most_common_grams(monkeypatch, at_once):
    monkeypatch.setattr(answer_baselines, "_AT_ONCE", at_once)
    random.seed(5)
    words = "heat exchanger duty area of the hot cold side with flow and fouling".split()
    pairs, learned = ([pair(" ".join(random.sample(words, 6)), str(number)) for number in range(start, start + 30)]
                      for start in (0, 100))
    expected = [learned[nearest_by_dictionaries(one.question, [other.question for other in learned])].right
                for one in pairs]
    found = nearest_answers(pairs, learned)
    assert sum(map(str.__eq__, found, expected)) >= 29          # a collision of hashes may change one
    assert nearest_answers(learned, learned) == [one.right for one in learned]
    alone = nearest_answers(learned, None)
    assert all(answer != one.right for answer, one in zip(alone, learned))
    assert nearest_answers([pair("One?", "1"), pair("one ?", "2"), pair("Zebra", "3")], None)[:2] == ["2", "1"]


def test_one_pair_has_no_other_to_be_answered_from():
    assert nearest_answers([pair("One?", "1")], None) == [""]
    said, (figures,) = constant_figures([pair("One?", "1")], None)
    assert said == [""] and figures.errors == {"last number": math.inf} and not figures.is_right
