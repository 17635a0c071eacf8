"""How right one answer is: exact match, token F1, relative errors of its numbers, and whether it has the right form.

Numbers are paired by name where the right answer has "name: value" lines, or is a JSON object, and by place elsewhere.
In a line with steps, "area = 12 / 3 = 4", the number after the last = has the name. Steps may also stand in lines of
their own before the result, "12/3=4", and do not count where the right answer has fewer lines.
"""

import json
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

TOLERANCE = 0.02                # relative error of a number that counts as right, as an engineer reads a result
LAST = "last number"            # what a number without a name is called; those before it are "number 1" and so on
_ROUNDING = 1e-9                # 102 is within 2 % of 100

_NUMBER = r"(?:(?<![\w)\]])[-+−])?(?:\d+(?:[.,]\d+)*|(?<!\d)\.\d+)(?:[eE][-+]?\d+)?"
_WORD = r"[^\W\d_][\w’'-]*"     # also P-101 and m2, whose digits are no numbers
_PARTS = re.compile(rf"(?P<number>{_NUMBER})|(?P<word>{_WORD})|(?P<line>\n)|(?P<sign>\S)")
_FIELD = re.compile(r"[\s\-*•]*(?P<name>[^:=\n]*[^\W\d_][^:=\n]*?)\s*(?:(?<!\d):|:(?!\d)|=)(?P<rest>.*)")
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])\d+,(?!\d{3}(?!\d))\d+(?![\d.,]*\d)")
_DECIMAL_POINT = re.compile(r"(?<![\d.,])\d+\.\d+(?![\d.,]*\d)")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Figures:
    """What one answer to one question reaches."""
    is_right: bool              # an exact match, or the same but for numbers that are all within TOLERANCE
    is_exact: bool
    f1: float                   # of its words, 0 to 1
    has_form: bool              # the right answer's shape
    errors: dict[str, float]    # relative error of each number of the right answer by name; inf: not in the answer


def figures_of(answer: str, right: str, decimal_comma: bool = False) -> Figures:
    """Return the figures of an answer. decimal_comma: as `has_decimal_commas` returns it"""
    answer = without_steps(answer, right)
    answered, wanted = numbers_of(answer, decimal_comma), numbers_of(right, decimal_comma)
    errors = errors_of(answered, wanted)
    is_exact = normalized(answer) == normalized(right)
    is_close = (errors != {} and max(errors.values()) <= TOLERANCE + _ROUNDING
                and _masked(answer) == _masked(right))
    return Figures(is_exact or is_close, is_exact, token_f1(answer, right), shape(answer) == shape(right), errors)


def without_steps(answer: str, right: str) -> str:
    """Return an answer without the calculations, lines with an =, before it; never fewer lines than the right one has.

    >>> without_steps("98.1-32.1=66.0\\nduty: 714 kW", "duty: 717 kW")
    'duty: 714 kW'
    """
    lines, wanted = answer.strip().split("\n"), len(right.strip().split("\n"))
    if _json(answer) is None:
        while len(lines) > wanted and "=" in lines[0]:
            del lines[0]
    return "\n".join(lines)


def normalized(text: str) -> str:
    """Return a text as it is compared: Unicode's NFKC form, with single blanks.

    >>> normalized(" 45\\u00a0m² \\n")
    '45 m2'
    """
    return " ".join(unicodedata.normalize("NFKC", text).split())


def token_f1(answer: str, right: str) -> float:
    """Return SQuAD's F1 (Rajpurkar et al., 2016): of the words, without case, punctuation and English articles.

    >>> round(token_f1("The red cat.", "a red dog"), 2)
    0.5
    """
    said, wanted = _words(answer), _words(right)
    if not said or not wanted:
        return float(said == wanted)
    common = (Counter(said) & Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted))


def has_decimal_commas(texts: Iterable[str]) -> bool:
    """Whether numbers in some texts are written like 4,5 rather than 4.5."""
    commas = points = 0
    for text in texts:
        commas += len(_DECIMAL_COMMA.findall(text))
        points += len(_DECIMAL_POINT.findall(text))
    return commas > points


def numbers_of(text: str, decimal_comma: bool = False) -> dict[str, float]:
    """Return the numbers in an answer by name.

    >>> numbers_of("duty: 45.2 kW\\narea = 12 / 3 = 4 m2")
    {'duty': 45.2, 'area, step 1': 12.0, 'area, step 2': 3.0, 'area': 4.0}
    >>> numbers_of("P-101 takes 3 of 1,200.")
    {'number 1': 3.0, 'last number': 1200.0}
    """
    found = {}
    record = _json(unicodedata.normalize("NFKC", text))
    if record is not None:
        for path, value in _leaves(record):
            if _is_number(value):
                _put(found, path, float(value))
        return found
    unnamed = []
    for line in unicodedata.normalize("NFKC", text).split("\n"):
        field = _FIELD.fullmatch(line)
        if field is None:
            unnamed += _values(line, decimal_comma)
            continue
        name = " ".join(field["name"].strip("\"'{, ").casefold().split())
        *steps, last = field["rest"].split("=")
        for number, value in enumerate((value for step in steps for value in _values(step, decimal_comma)), 1):
            _put(found, f"{name}, step {number}", value)
        for value in _values(last, decimal_comma):
            _put(found, name, value)
    for number, value in enumerate(unnamed, 1):
        _put(found, LAST if number == len(unnamed) else f"number {number}", value)
    return found


def errors_of(answered: dict[str, float], wanted: dict[str, float]) -> dict[str, float]:
    """Return the relative error of each number that is wanted; inf for one that is missing, or is not 0 as wanted.

    >>> errors_of({"duty": 44.0}, {"duty": 40.0, "area": 3.0})
    {'duty': 0.1, 'area': inf}
    """
    errors = {}
    for name, value in wanted.items():
        difference = abs(answered.get(name, math.inf) - value)
        errors[name] = difference / abs(value) if value else (0.0 if difference == 0 else math.inf)
    return errors


def shape(text: str) -> str:
    """Return the form of an answer: its text with numbers and runs of words masked; of JSON the names of its fields.

    >>> shape("Cold inlet: 45.2 kW,\\nhot outlet: -3 kW,"), shape('{"duty": 45.2}')
    ('w : 0 w ,\\nw : 0 w ,', 'JSON duty')
    """
    record = _json(text)
    if record is not None:
        return "JSON " + " ".join(sorted({re.sub(r"(?<![^.])\d+(?![^.])", "0", path) for path, _ in _leaves(record)}))
    parts = []
    for part in _PARTS.finditer(unicodedata.normalize("NFKC", text).strip()):
        mask = {"number": "0", "word": "w"}.get(part.lastgroup or "", part[0])
        if mask != "w" or not parts or parts[-1] != "w":
            parts.append(mask)
    return re.sub(r" ?\n ?", "\n", " ".join(parts))


def _masked(text):
    """Return an answer with its numbers masked, and its words as they are."""
    record = _json(text)
    if record is not None:
        return repr([(path, "0" if _is_number(value) else normalized(str(value))) for path, value in _leaves(record)])
    return " ".join("0" if part.lastgroup == "number" else part[0] for part in _PARTS.finditer(normalized(text)))


def _words(text):
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return _ARTICLES.sub(" ", text).split()


def _values(text, decimal_comma) -> Iterator[float]:
    for part in _PARTS.finditer(text):
        if part["number"]:
            digits = part["number"].replace("−", "-")
            digits = digits.replace(".", "").replace(",", ".") if decimal_comma else digits.replace(",", "")
            try:
                value = float(digits)
            except ValueError:          # 1.2.3, as of a version
                continue
            if math.isfinite(value):
                yield value


def _put(found, name, value):
    """Put a value under a name that is still free: "duty", "duty (2)"."""
    free, number = name, 1
    while free in found:
        number += 1
        free = f"{name} ({number})"
    found[free] = value


def _json(text) -> Any:
    """Return the object or list that a text is in JSON, or None."""
    if text.strip()[:1] not in ("{", "["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _leaves(value, path="") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of everything in a value of JSON that is neither an object nor a list."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if entries is None:
        yield path, value
        return
    for name, entry in entries:
        yield from _leaves(entry, f"{path}.{name}" if path else str(name))
