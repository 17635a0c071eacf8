"""Values of records: of JSON, tables and Parquet."""

from collections.abc import Collection, Mapping
from datetime import datetime, time
from typing import Any

_JSON_TYPES = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number",
               bool: "a truth value", type(None): "null"}


class Number(str):
    """A number as JSON text has it: json.loads(..., parse_int=Number, parse_float=Number) keeps its digits."""


def written(value: Any) -> str | None:
    """Return a value of a record as text; None for one that is missing. Raises TypeError for a list or an object.

    >>> [written(value) for value in (1, 1.0, 0.25, float("nan"), True, "", Number("1.50"))]
    ['1', '1', '0.25', None, 'true', None, '1.50']
    """
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value != value:
            return None
        text = repr(value)
        return text.removesuffix(".0")
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="surrogateescape") or None
    if isinstance(value, datetime):
        is_date = value.time() == time()
        return value.date().isoformat() if is_date else value.isoformat(sep=" ")
    if isinstance(value, Mapping | Collection):
        raise TypeError(f"{type(value).__name__} is no single value")
    return str(value)


def json_type(value: Any) -> str:
    """Return what a value of JSON is, with its article: "a list"."""
    return "a number" if isinstance(value, Number) else _JSON_TYPES.get(type(value), "a value")
