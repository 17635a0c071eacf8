"""Dataclass fields that carry what flags, checks and help texts need: meaning, bounds, choices."""

import dataclasses
import re
import sys
from collections.abc import Iterator
from dataclasses import Field
from typing import Any, get_args, get_origin

LONGEST_SHOWN = 30          # characters of a number in a message; of a longer one the first 20


def option(default: Any, help: str, *, low: float | None = None, above: float | None = None, high: float | None = None,
           choices: tuple[str, ...] | None = None, may_change: bool = False) -> Any:
    """Return a dataclass field with its help text and bounds.

    `low` and `high` are the smallest and the largest value allowed; a value has to exceed `above`. `may_change` marks
    what a resumed run may set anew, because nothing computed so far depends on it.
    """
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "above": above, "high": high,
                                                        "choices": choices, "may_change": may_change})


def value_type(field: Field) -> type:
    """Return the type of a field's values: int for a field declared as `int`, `int | None` or `tuple[int, ...]`."""
    return (get_args(field.type) or (field.type,))[0]


def takes_several(field: Field) -> bool:
    """Return whether a field is declared as a tuple: any number of values, none by default."""
    return get_origin(field.type) is tuple


def field_problems(params: Any) -> Iterator[str]:
    """Yield one sentence for every field of a dataclass instance that has the wrong type or is out of its bounds."""
    for field in dataclasses.fields(params):
        value = getattr(params, field.name)
        if not takes_several(field):
            yield from _value_problems(field, value)
        elif isinstance(value, tuple):
            for item in value:
                yield from _value_problems(field, item)
        else:
            yield f"{field.name}={value!r} should be a list."


def _value_problems(field, value):
    limits, kind = field.metadata, value_type(field)
    if value is None and type(None) in get_args(field.type):
        return
    if limits["choices"] and value not in limits["choices"]:
        yield f"{field.name}={value!r} is not one of {', '.join(limits['choices'])}."
    elif not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) and kind is not bool:
        yield f"{field.name}={value!r} should be of type {kind.__name__}."
    elif kind is float and not abs(value) <= sys.float_info.max:          # `not <=` rather than `>`: it refuses NaN too
        yield f"{field.name}={value} is not a finite number."
    elif problem := bounds_problem(value, limits["low"], limits["above"], limits["high"]):
        default = re.search(r"\(default: (.*)\)$", limits["help"]) if field.default is None else None
        yield f"{field.name}={problem}" + (f" Leave it out for the default: {default[1]}." if default else "")


def bounds_problem(value: float, low: float | None = None, above: float | None = None,
                   high: float | None = None) -> str | None:
    """Return what is wrong with a number, its value first, or None where it is within its bounds."""
    shown = str(value) if len(str(value)) <= LONGEST_SHOWN else f"{str(value)[:20]}..."
    if low is not None and value < low:
        return f"{shown} is below the smallest value possible, {low}."
    if above is not None and value <= above:
        return f"{shown} must be above {above}."
    if high is not None and value > high:
        return f"{shown} is above the largest value possible, {high}."
    return None
