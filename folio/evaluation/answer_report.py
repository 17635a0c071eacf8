"""The figures of all answers together: models side by side, beside what a constant and the nearest answer reach.

The verdict rests on the share of answers that are right, and on what answers reach that understand nothing. Likelihood
has no part in it: a model that writes every answer in its right form and a false number in each is told so.
"""

import csv
import io
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np

from folio.base.files import refuse_foreign, replacing
from folio.base.lines import cut, folded, table
from folio.base.spelling import counted
from folio.base.visible import harmless, on_one_line
from folio.evaluation.answer_baselines import constant_figures, nearest_answers
from folio.evaluation.answer_figures import TOLERANCE, Figures, figures_of, has_decimal_commas
from folio.evaluation.comparison import CONFIDENCE, FEWEST_PARTS, interval
from folio.evaluation.pairs import Pair

MODEL, CONSTANT, NEAREST = "model", "constant answer", "nearest answer"
WORST = 5                       # answers that are listed
FIELDS_SHOWN = 8                # names of numbers in the table; all are in --json
COLUMNS = ("where", "question", "right answer")         # of the CSV file, and for each model:
MODEL_COLUMNS = ("answer", "right", "exact", "f1", "form", "largest error")
# Share of right answers -> how it is called. None below a half praises.
SCALE = ((1.0, "every answer is right"), (0.98, "nearly every answer is right"),
         (0.9, "nine in ten answers or more are right"), (0.75, "most answers are right, but one in {wrong} is wrong"),
         (0.5, "at least half of the answers are right, the others wrong"), (0.1, "most answers are wrong"),
         (1e-9, "nearly all answers are wrong"), (0.0, "every answer is wrong"))
PROSE_WORDS = 12                # median of right answers without numbers from which on others may say the same


@dataclass(frozen=True)
class NumberFigures:
    """Relative errors of the numbers of one name. An error is None where the answers lack the number."""
    pairs: int
    median: float | None
    percentile_90: float | None
    within: float                   # share with an error of at most TOLERANCE
    missing: int                    # answers without the number


@dataclass(frozen=True)
class Answerer:
    """What one who answers reaches: a model, the constant answer, or the nearest one."""
    name: str
    kind: str                       # MODEL, CONSTANT or NEAREST
    right: float                    # shares of all pairs
    right_interval: tuple[float, float]     # Wilson's, 95 %
    exact: float
    f1: float                       # mean
    form: float
    numbers: dict[str, NumberFigures]
    verdict: str


@dataclass(frozen=True)
class Difference:
    """How much better the first model is than another one, with the ends of the interval by paired bootstrap."""
    other: str
    right: float
    right_interval: tuple[float, float] | None
    f1: float
    f1_interval: tuple[float, float] | None


@dataclass(frozen=True)
class WorstAnswer:
    """A pair and a wrong answer."""
    where: str
    question: str
    right: str
    answer: str


@dataclass(frozen=True)
class AnswerReport:
    """All figures. The models come first among the answerers, in their order."""
    pairs: int
    known_pairs: int | None         # that the two baselines know; None: all others of the file
    answerers: list[Answerer]
    differences: list[Difference]
    worst: list[WorstAnswer]        # of the first model
    notes: list[str]


@dataclass(frozen=True)
class Answered:
    """Every answer with its figures, as the CSV file has them: models by name."""
    pairs: Sequence[Pair]
    answers: dict[str, list[str]]
    figures: dict[str, list[Figures]]


def measure_answers(pairs: Sequence[Pair], answers: dict[str, list[str]], learned: Sequence[Pair] | None,
                    notes: Sequence[str] = ()) -> tuple[AnswerReport, Answered]:
    """Measure the answers of models to all pairs. answers: {name of the model: an answer for each pair}

    learned: the pairs that the constant and the nearest answer are taken from; None: all others of `pairs`
    """
    comma = has_decimal_commas(pair.right for pair in pairs)
    figures = {name: [figures_of(answer, pair.right, comma) for answer, pair in zip(texts, pairs)]
               for name, texts in answers.items()}
    _, constant = constant_figures(pairs, learned, comma)
    nearest = [figures_of(answer, pair.right, comma)
               for answer, pair in zip(nearest_answers(pairs, learned), pairs)]
    baselines = [_answerer(CONSTANT, CONSTANT, constant), _answerer(NEAREST, NEAREST, nearest)]
    verdict = _verdict_on_prose if _are_prose(pairs, constant) else _verdict
    models = [_answerer(name, MODEL, of_model) for name, of_model in figures.items()]
    models = [replace(each, verdict=verdict(each, baselines)) for each in models]
    first, *others = figures
    answered = Answered(pairs, answers, figures)
    notes = [*notes, *_seen(pairs, learned)]
    return AnswerReport(len(pairs), None if learned is None else len(learned), [*models, *baselines],
                        [_difference(other, figures[first], figures[other]) for other in others],
                        _worst(answered, first), notes), answered


def _answerer(name, kind, figures):
    right, exact, f1, form = (np.array(values, float) for values in zip(
        *((each.is_right, each.is_exact, each.f1, each.has_form) for each in figures)))
    errors = {}
    for each in figures:
        for field, error in each.errors.items():
            errors.setdefault(field, []).append(error)
    share = right.mean().item()
    return Answerer(name, kind, share, wilson(share, len(right)), exact.mean().item(), f1.mean().item(),
                    form.mean().item(), {field: _number_figures(values) for field, values in errors.items()}, "")


def _number_figures(errors):
    values = np.array(errors)
    median, percentile = (value if math.isfinite(value) else None
                          for value in np.quantile(values, [0.5, 0.9], method="inverted_cdf").tolist())
    return NumberFigures(len(values), median, percentile, (values <= TOLERANCE + 1e-9).mean().item(),
                         np.isinf(values).sum().item())


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a share of `count` (Wilson, 1927): wide also for 0 of a few.

    >>> [round(end, 3) for end in wilson(0.0, 20)]
    [0.0, 0.161]
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def _interval(values):
    """Return the ends of the paired bootstrap interval of a mean difference; None for too few."""
    if len(values) < FEWEST_PARTS:
        return None
    return interval(values, np.ones(len(values)))


def _difference(name, first, other):
    right, f1 = (np.array([getattr(one, field) - getattr(two, field) for one, two in zip(first, other)], float)
                 for field in ("is_right", "f1"))
    return Difference(name, right.mean().item(), _interval(right), f1.mean().item(), _interval(f1))


def _are_prose(pairs, figures):
    """Whether right answers are so free that another one may say the same in other words."""
    has_numbers = np.mean([bool(each.errors) for each in figures])
    return has_numbers < 0.5 and np.median([len(pair.right.split()) for pair in pairs]) >= PROSE_WORDS


def _verdict_on_prose(model, baselines):
    best = max(baselines, key=lambda baseline: baseline.f1)
    words = (f"{_percent(model.right)} of the answers are right word for word; whether the others say the same only "
             f"reading tells. F1 {model.f1:.3f}: ")
    than = f"the {best.name}, which understands nothing, reaches {best.f1:.3f}"
    return words + (than if model.f1 > best.f1 else f"that is no better than a model without understanding: {than}")


def _verdict(model, baselines):
    """Return in words how many answers are right, and whether understanding was needed for that."""
    right, form = model.right, model.form
    words = next(words for share, words in SCALE if right >= share)
    words = words.format(wrong=_one_in(1 - right))
    best = max(baselines, key=lambda baseline: baseline.right)
    if 0 < right <= best.right:
        words += f"; no better than the {best.name}, which understands nothing ({_percent(best.right)})"
    elif right <= best.right and best.right:
        words += f", and the {best.name}, which understands nothing, reaches {_percent(best.right)}"
    elif best.right:
        words += f"; the {best.name}, which understands nothing, reaches {_percent(best.right)}"
    if right < 0.5 and form - right > 0.25:
        words += f". It knows the form ({_percent(form)}), not the content"
    return words


def _one_in(share):
    return max(2, round(1 / share)) if share else 0


def _worst(answered, name):
    """Return the worst answers of a model: wrong ones, those with the least common words and the largest error first.
    """
    figures = answered.figures[name]
    wrong = [number for number, each in enumerate(figures) if not each.is_right]
    wrong.sort(key=lambda number: (figures[number].f1, -_largest(figures[number]), number))
    return [WorstAnswer(answered.pairs[number].where, answered.pairs[number].question, answered.pairs[number].right,
                        answered.answers[name][number]) for number in wrong[:WORST]]


def _largest(figures):
    return max(figures.errors.values(), default=0.0)


def _seen(pairs, learned) -> Iterator[str]:
    """Yield a sentence where pairs are among those that were learned from."""
    known = {(pair.question, pair.right) for pair in learned or ()}
    if seen := sum((pair.question, pair.right) in known for pair in pairs):
        yield (f"{counted(seen, 'pair')} of {len(pairs):,} can be learned from: what is right there may be learned by "
               "heart. Measure on pairs that are held out.")


# --- As text ---

def lines_of_report(report: AnswerReport, width: int) -> list[str]:
    """Return the lines of a report, at most `width` columns wide where that is possible."""
    known = ("all other pairs of the file" if report.known_pairs is None
             else f"{counted(report.known_pairs, 'pair')} that can be learned from")
    blocks = [_table_of_shares(report, width), _table_of_numbers(report, width)]
    blocks.append([line for each in report.answerers if each.kind == MODEL
                   for line in folded(f"{harmless(each.name)}: {each.verdict}.", width)])
    blocks.append([line for each in report.differences for line in folded(_sentence(report, each), width)])
    blocks.append(_lines_of_worst(report, width))
    notes = [*report.notes, "The constant answer is the most frequent one, with the median of each number; the nearest "
             f"one is that of the question most alike, of {known}."]
    blocks.append([line for note in notes for line in folded(harmless(note), width)])
    return [line for block in blocks if block for line in ["", *block]][1:]


def _table_of_shares(report, width):
    rows = [(f"{counted(report.pairs, 'pair')}", "right", "95 % interval", "exact", "F1", "form")]
    for each in report.answerers:
        rows.append((each.name, _percent(each.right), _range(each.right_interval), _percent(each.exact),
                     f"{each.f1:.3f}", _percent(each.form)))
    return [*table(rows, "<>>>>>", width),
            *folded(f"right: exact, or the same with all numbers within {TOLERANCE * 100:g} %; form: what is right but "
                    "for its words and numbers", width)]


def _table_of_numbers(report, width):
    """Return a row for each name of numbers and each answerer, the most frequent names first."""
    numbers = report.answerers[0].numbers
    names = sorted(numbers, key=lambda name: (-numbers[name].pairs, name))
    if not names:
        return []
    rows = [("relative error", "", "median", "90th percentile", f"within {TOLERANCE * 100:g} %", "missing")]
    for name in names[:FIELDS_SHOWN]:
        for place, each in enumerate(report.answerers):
            found = each.numbers[name]
            rows.append((on_one_line(name) if place == 0 else "", each.name, _error(found.median),
                         _error(found.percentile_90), _percent(found.within), f"{found.missing:,}"))
    lines = table(rows, "<<>>>>", width)
    if len(names) > FIELDS_SHOWN:
        lines.append(f"{len(names) - FIELDS_SHOWN:,} more names of numbers are in --json.")
    return lines


def _lines_of_worst(report, width):
    if not report.worst:
        return []
    lines = [f"worst answers of {on_one_line(report.answerers[0].name)}"]
    for each in report.worst:
        lines += [cut(f"  {label:<9} {on_one_line(text)}", width) for label, text in
                  (("question", each.question), ("right", each.right), ("answered", each.answer or "(nothing)"))]
        lines.append(cut(f"  {'in':<9} {on_one_line(each.where)}", width))
    return lines


def _sentence(report, difference):
    """Return a sentence about the difference of two models."""
    first = report.answerers[0].name
    points = difference.right * 100
    if difference.right_interval is None:
        return (f"{first} has {points:+.1f} points of right answers against {difference.other}; {report.pairs} pairs "
                f"are too few for an interval, which takes {FEWEST_PARTS}.")
    low, high = difference.right_interval
    is_chance = low <= 0 <= high
    return (f"{first} has {abs(points):.1f} points {'more' if points >= 0 else 'fewer'} right answers than "
            f"{difference.other} (95 % interval {low * 100:+.1f} to {high * 100:+.1f}; F1 {difference.f1:+.3f}): "
            + ("it may be chance." if is_chance else "more than chance explains, on pairs of this kind."))


def _percent(share):
    return f"{share * 100:.1f} %"


def _range(ends):
    return f"{ends[0] * 100:.1f} to {ends[1] * 100:.1f}"


def _error(value):
    return "missing" if value is None else f"{value * 100:.2g} %" if value < 1 else f"{value * 100:,.0f} %"


# --- As CSV ---

def refuse_csv(path: str | None) -> None:
    """Raise FileExistsError where `write_csv` would replace a file that is no table of answers."""
    if path not in (None, "-"):
        head = ",".join(COLUMNS)
        refuse_foreign(path, f"a table of answers, which begins with {head},",
                       lambda found: found.startswith(head.encode("utf-8")))


def write_csv(answered: Answered, path: str) -> None:
    """Write a row for each pair; path: "-" is standard output."""
    if path == "-":
        sys.stdout.write(_csv(answered))
        return
    with replacing(Path(path)) as file:
        file.write(_csv(answered).encode("utf-8", errors="surrogateescape"))


def _csv(answered):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"{name}: {column}" for name in answered.answers for column in MODEL_COLUMNS)])
    for number, pair in enumerate(answered.pairs):
        row = [pair.where, pair.question, pair.right]
        for name, answers in answered.answers.items():
            each = answered.figures[name][number]
            largest = _largest(each) if each.errors else ""
            row += [answers[number], int(each.is_right), int(each.is_exact), round(each.f1, 4), int(each.has_form),
                    "missing" if largest == math.inf else largest]
        writer.writerow(row)
    return stream.getvalue()
