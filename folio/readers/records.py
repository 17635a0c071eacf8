"""Records to texts: what the fields of a JSON object or of a row hold."""

from collections.abc import Iterable
from typing import Any

from folio.base.errors import FolioError

_JSON_TYPES = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number",
          bool: "a truth value", type(None): "null"}


def text_of(record: Any, field: str, where: object) -> str:
    """Return the text in a field of a JSON value. Raises FolioError where there is none; where: names the record."""
    if not isinstance(record, dict):
        raise FolioError(f"{where} is no JSON object but {_JSON_TYPES[type(record)]}. Each line should be like "
                         f"{{\"{field}\": \"Once upon...\"}}.")
    if field not in record:
        raise FolioError(f"{where} has no field {field!r}, only {listed(record)}. "
                         "Say which one has the text: --field NAME.")
    text = record[field]
    if not isinstance(text, str):
        raise FolioError(f"{where} has {_JSON_TYPES[type(text)]} in its field {field!r}, not text. "
                         f"Its fields are {listed(record)}. Say which one has the text: --field NAME.")
    return text


def listed(names: Iterable[str]) -> str:
    """Return a phrase with the first ten names.
    >>> print(listed(["title", "body"]))
    'title', 'body'
    """
    names = list(names)
    if not names:
        return "none at all"
    others = " and others" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + others
