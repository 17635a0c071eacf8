"""folio/evaluation/answer_report.py: verdicts that no form can sweeten, models side by side, the table of answers."""

import csv
import io
import json
import math
import random
from dataclasses import asdict

import numpy as np
import pytest

from folio.base.lines import columns as columns_of
from folio.chat.messages import Message
from folio.evaluation import answer_report
from folio.evaluation.answer_report import lines_of_report, measure_answers, wilson, write_csv
from folio.evaluation.pairs import Pair

RIGHT = [f"duty: {10 + number} kW" for number in range(40)]
PAIRS = [Pair([Message("user", f"What is the duty of E-{number:03}?")], right, f"a.jsonl, line {number + 1}")
         for number, right in enumerate(RIGHT)]
PRAISE = ("nearly every answer is right", "every answer is right", "most answers are right", "nine in ten",
          "at least half")


def report_of(learned=None, pairs=PAIRS, **answers):
    return measure_answers(pairs, answers, learned)[0]


def test_false_answers_in_perfect_form_are_called_wrong():
    report = report_of(model=[f"duty: {500 + number} kW" for number in range(40)])
    model = report.answerers[0]
    assert (model.right, model.form, model.exact) == (0, 1, 0)
    assert model.verdict.startswith("every answer is wrong") and "knows the form (100.0 %), not the content" in (
        model.verdict)


@pytest.mark.parametrize("right", range(41))
def test_no_praise_below_a_half_and_never_every_answer_but_for_all(right):
    answers = RIGHT[:right] + ["duty: 999 kW"] * (40 - right)
    verdict = report_of(model=answers).answerers[0].verdict
    assert any(map(verdict.startswith, PRAISE)) == (right >= 20)
    assert verdict.startswith("every answer is right") == (right == 40)
    assert verdict.startswith("every answer is wrong") == (right == 0)


def test_what_is_no_better_than_looking_up_is_told_so():
    learned = [Pair(pair.before, pair.right) for pair in PAIRS]
    report = report_of(learned, model=RIGHT)
    assert "no better than the nearest answer, which understands nothing (100.0 %)" in report.answerers[0].verdict
    assert report.notes == ["40 pairs of 40 can be learned from: what is right there may be learned by heart. Measure "
                            "on pairs that are held out."]


def test_prose_is_not_called_wrong_for_other_words():
    pairs = [Pair([Message("user", f"{n}?")], f"The sea is so wide and my boat is so small that I stay here {'x' * n}")
             for n in range(20)]
    verdict = report_of(pairs=pairs, model=["The boat is small and the sea is wide so I stay"] * 20
                        ).answerers[0].verdict
    assert "only reading tells" in verdict and "wrong" not in verdict
    assert "no better than a model without understanding" in verdict


def test_the_figures_of_numbers_are_those_of_their_sorted_errors():
    random.seed(2)
    answers = ["none" if number % 10 == 0 else f"duty: {(10 + number) * random.uniform(0.9, 1.1):.6f} kW"
               for number in range(40)]
    errors = sorted(abs(float(answer.split()[1]) - 10 - number) / (10 + number) if answer != "none" else math.inf
                    for number, answer in enumerate(answers))
    found = report_of(model=answers).answerers[0].numbers["duty"]
    assert (found.pairs, found.missing) == (40, 4)
    assert found.median == errors[19] and found.percentile_90 == errors[35]
    assert found.within == sum(error <= 0.02 for error in errors) / 40
    nothing = report_of(model=["none"] * 40).answerers[0].numbers["duty"]
    assert (nothing.median, nothing.percentile_90, nothing.within, nothing.missing) == (None, None, 0, 40)


def test_wilsons_interval_holds_the_share_in_19_of_20_draws():
    random = np.random.default_rng(1)
    for share, count in ((0.5, 40), (0.1, 60), (0.95, 100)):
        drawn = random.binomial(count, share, 4000) / count
        held = np.mean([low <= share <= high for low, high in (wilson(each, count) for each in drawn.tolist())])
        assert 0.925 < held < 0.985


def test_two_models_are_compared_pair_by_pair():
    worse = RIGHT[:30] + ["no"] * 10
    report = report_of(one=RIGHT, two=worse, three=[*worse[1:], RIGHT[0]])
    difference = report.differences[0]
    assert difference.other == "two" and difference.right == 0.25
    spread = math.sqrt(0.25 * 0.75 / 39) * 2.02                 # a mean of 0 and 1, by Student's t
    assert difference.right_interval == pytest.approx((0.25 - spread, 0.25 + spread), abs=0.03)
    text = " ".join(" ".join(lines_of_report(report, 70)).split())
    assert "one has 25.0 points more right answers than two" in text and "more than chance explains" in text
    same = report_of(one=worse, two=RIGHT[:29] + ["no"] * 10 + RIGHT[39:])
    assert "it may be chance" in " ".join(" ".join(lines_of_report(same, 70)).split())
    few = report_of(pairs=PAIRS[:5], one=RIGHT[:5], two=["no"] * 5)
    assert few.differences[0].right_interval is None and "too few for an interval" in " ".join(
        " ".join(lines_of_report(few, 70)).split())


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_report_fits_its_width_and_is_json(width):
    report = report_of(model=["\x1b[31mred\u202e" * 9, *RIGHT[1:20], *["none"] * 20])
    lines = lines_of_report(report, width)
    assert all(columns_of(line) <= max(width, 72) for line in lines) and "\x1b" not in "".join(lines)
    assert json.loads(json.dumps(asdict(report), allow_nan=False))["pairs"] == 40
    assert any("right     duty: 10 kW" in line for line in lines) or width == 40


def test_the_worst_answers_are_wrong_ones_with_the_least_in_common():
    answers = ["duty: 999 kW", *RIGHT[1:38], "", "duty: 77 kW"]
    worst = report_of(model=answers).worst
    assert [each.answer for each in worst] == ["", "duty: 999 kW", "duty: 77 kW"]
    assert worst[0].where == "a.jsonl, line 39" and worst[0].right == RIGHT[38]


def test_every_pair_is_in_the_table_of_answers(tmp_path, capsys):
    answers = {"one": ['duty: "10"\nkW', *RIGHT[1:]], "two": ["none"] * 40}
    _, answered = measure_answers(PAIRS, answers, None)
    write_csv(answered, str(tmp_path / "a.csv"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 40
    assert rows[0]["one: answer"] == 'duty: "10"\nkW' and rows[0]["question"] == "What is the duty of E-000?"
    assert [rows[1][f"one: {name}"] for name in answer_report.MODEL_COLUMNS] == [RIGHT[1], "1", "1", "1.0", "1", "0.0"]
    assert rows[1]["two: largest error"] == "missing"
    write_csv(answered, "-")
    assert capsys.readouterr().out == (tmp_path / "a.csv").read_text(encoding="utf-8")
    answer_report.refuse_csv(str(tmp_path / "a.csv"))
    (tmp_path / "b.csv").write_text("mine\n", encoding="utf-8")
    with pytest.raises(FileExistsError, match="is not a table of answers"):
        answer_report.refuse_csv(str(tmp_path / "b.csv"))
