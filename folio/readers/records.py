"""Records to texts: a row or a JSON object as a template shows it, its text field, or "column: value" lines.

A value is missing where it is null, NaN, an empty string, or not there at all: all formats treat these alike.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from folio.base.errors import FolioError
from folio.base.spelling import nearest
from folio.base.visible import unescaped
from folio.chat import plain_text
from folio.readers import dialogues
from folio.readers.mending import Mending
from folio.readers.source import Source
from folio.readers.values import json_type, written
from Model_Params import TextParams

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
RECORDS_BEFORE_REFUSAL = 1000       # without the wanted field: some writers leave out what is null
LONGEST_NAME = 60               # characters of a name that a sentence shows
CONVERSATIONS = "{count|conversation|conversations} read as text in turns."      # a key of Mending.found
COLUMNS_SAID = 5                    # so many columns that lack values are named for a file; the others are counted


class Template:
    """Text with names of fields in braces, which values replace; a doubled brace stands for itself.

    What is in braces is a name and nothing else: no attribute, index or format.

    >>> template = Template("{tag}: {duty [kW]} kW {{x}}")
    >>> template.names, template.fill(["P-1", "4,5"])
    (('tag', 'duty [kW]'), 'P-1: 4,5 kW {x}')
    """

    def __init__(self, text: str, may_be_fixed: bool = False):
        """Raises FolioError where a brace has no partner, or no field is named and the text may not be fixed."""
        names, parts, end = [], [], 0
        for match in _BRACES.finditer(text):
            parts.append(text[end:match.start()].replace("%", "%%"))
            end = match.end()
            if match[1]:
                names.append(match[1])
                parts.append("%s")
            elif len(match[0]) == 1:
                raise FolioError(f"The template {text!r} has a {match[0]} without its partner at character "
                                 f"{match.start() + 1}. A name stands in braces, as in {{tag}}; a brace of the text is "
                                 "doubled.")
            else:
                parts.append(match[0][0])
        if not names and not may_be_fixed:
            raise FolioError(f"The template {text!r} names no field; a name stands in braces, as in {{tag}}.")
        parts.append(text[end:].replace("%", "%%"))
        self.names, self.format = tuple(names), "".join(parts)

    def fill(self, values: Sequence[str | None]) -> str:
        """Return the text with these values, in the order of `names`; nothing stands for a missing one."""
        return self.format % tuple(value or "" for value in values)


class Lines:
    """The "column: value" lines of a row, without those whose value is missing.

    >>> Lines(["tag", "duty"]).fill(["P-1", None])
    'tag: P-1'
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._labels = [f"{name}: " for name in names]
        self.format = "\n".join(label.replace("%", "%%") + "%s" for label in self._labels)

    def fill(self, values: Sequence[str | None]) -> str:
        """Return the lines; values: in the order of `names`."""
        return "\n".join(label + value for label, value in zip(self._labels, values) if value)


class Turns:
    """The text of a row that is a conversation, in turns."""

    format = None

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)

    def fill(self, values: Sequence[str | None]) -> str:
        """Return the text; values: in the order of `names`."""
        messages, _ = dialogues.messages_of(dict(zip(self.names, values)))
        return plain_text.written(messages)


class Texts:
    """Make the texts of one file's records, and count what they lack.

    names: the fields whose values make up a text, in the order in which `of` takes them. format: the text of a record
    that lacks none, `format % values`: this saves half of the time that millions of rows take; None: only `of` makes
    it.

    A record that is a conversation is text in turns, where no field or template is asked for and it has no `text`.
    """

    def __init__(self, source: Source, reading: TextParams, mending: Mending,
                 columns: Sequence[str] | None = None, noun: str = "row"):
        """columns: of a table, in which all make up the text where no field is wanted; None: records name theirs.

        Raises FolioError where the table lacks a column.
        """
        self.source, self.mending, self.noun = source, mending, noun
        self.field, self.has_template = reading.field, reading.template is not None
        self.kind = "column" if columns is not None else "field"
        self._takes_turns = not self.has_template and self.field == TextParams.field
        self._conversations = 0
        if self.has_template:
            self._form = Template(unescaped(reading.template))        # "\\n" is a line end
        elif columns is None or self.field in columns:
            self._form = _One(self.field)
        elif self.field != TextParams.field:
            raise self._no_such_field(self.field, columns)
        else:
            self._form = Turns(columns) if dialogues.has_nothing_else(columns) else Lines(columns)
        self.names, self.format = self._form.names, self._form.format
        if self.is_lines:
            mending.columns |= dict.fromkeys(self.names)
        if columns is not None and (unknown := set(self.names).difference(columns)):
            raise self._no_such_field(min(unknown, key=self.names.index), columns)
        self._records = self._left_out = 0
        self._first_lacking = None                          # where the first record is that lacks a field
        self._missing = [0] * len(self.names)
        self._unseen, self._seen = set(self.names), {}      # names that no record has had; fields that some had

    @property
    def is_lines(self) -> bool:
        """Whether a text is the "column: value" lines of all columns."""
        return isinstance(self._form, Lines)

    @property
    def empty_columns(self) -> list[str]:
        """The names that no record so far had a value for."""
        return [name for name, count in zip(self.names, self._missing) if count == self._records > 0]

    def of(self, values: Sequence[str | None]) -> str | None:
        """Return the text of a record; None if it has no value for any of `names`, and so is left out."""
        self._records += 1
        if all(values) and self.format is not None:
            return self.format % tuple(values)
        for place, value in enumerate(values):
            self._missing[place] += not value
        if not any(values):
            self._left_out += 1
            return None
        self._conversations += isinstance(self._form, Turns)
        return self._form.fill(values)

    def of_object(self, record: Any, where: object) -> str | None:
        """Return the text of a JSON value; None as in `of`. where: names it.

        Raises FolioError where it is no object, or a value is no text, or no record so far has a field.
        """
        if not isinstance(record, dict):
            example = '{"tag": "P-1", "duty": 45}' if self.has_template else f'{{"{self.field}": "Once upon..."}}'
            raise FolioError(f"{where} is no JSON object but {json_type(record)}. Each {self.noun} should be like "
                             f"{example}.")
        if self.is_conversation(record):
            return self._in_turns(record, where)
        if self._unseen:
            self._look_for_fields(record, where)
        values = [record.get(name) for name in self.names]
        if not self.has_template and type(values[0]) not in (str, type(None)):
            self._refuse_value(self.field, values[0], record, where)
        return self.of([value if type(value) is str else self._written(name, value, record, where)
                        for name, value in zip(self.names, values)])

    def is_conversation(self, record: dict[str, Any]) -> bool:
        """Whether the text of an object is that of a conversation."""
        return self._takes_turns and self.field not in record and dialogues.format_of(record) is not None

    def _in_turns(self, record, where):
        try:
            messages, _ = dialogues.messages_of(record)
        except dialogues.NoConversation as refusal:
            raise FolioError(f"{where.removesuffix(',')} {refusal}") from None
        if not any(message.content.strip() for message in messages):
            self.mending.found[remark("conversation", "without a word, left out")] += 1
            return None
        self._conversations += 1
        return plain_text.written(messages)

    def finish(self, others: int = 0) -> None:
        """Count in mending.found what the records lacked. Raises FolioError where no record had a field.

        others: how many records there were that `of` was not asked about
        """
        self._records += others
        if self._first_lacking and self._unseen:
            raise self._no_such_field(min(self._unseen, key=self.names.index), self._seen, self._first_lacking)
        found, noun = self.mending.found, self.noun
        if self._conversations:
            found[CONVERSATIONS] += self._conversations
        if self._left_out:
            without = f"without a value in {_quoted(self.names[0])}" if len(self.names) == 1 else "without any value"
            found[remark(noun, f"{without}, left out")] += self._left_out
        for name in self.empty_columns[:COLUMNS_SAID]:
            found[remark("file", f"with nothing in the {self.kind} {_quoted(name)}")] += 1
        lacking = [(name, count - self._left_out) for name, count in zip(self.names, self._missing)
                   if self._left_out < count < self._records]
        for name, count in lacking[:COLUMNS_SAID]:
            found[remark(noun, f"without a value in {_quoted(name)}")] += count
        if others := sum(count for _, count in lacking[COLUMNS_SAID:]):
            found[remark("value", f"missing in other {self.kind}s")] += others

    def _look_for_fields(self, record, where):
        self._seen |= dict.fromkeys(list(record)[:100])
        self._unseen -= record.keys()
        if not self._unseen:
            return
        self._first_lacking = self._first_lacking or where
        if self._records + 1 >= RECORDS_BEFORE_REFUSAL:
            raise self._no_such_field(min(self._unseen, key=self.names.index), self._seen, self._first_lacking)

    def _written(self, name, value, record, where):
        try:
            return written(value)
        except TypeError:
            self._refuse_value(name, value, record, where)

    def _refuse_value(self, name, value, record, where):
        advice = "" if self.has_template else f" Its fields are {listed(record)}.{self._advice()}"
        raise FolioError(f"{where} has {json_type(value)} in its field {name!r}, not text.{advice}")

    def _no_such_field(self, name, known, where=None):
        """Return the FolioError for a name that no record has."""
        hint = nearest(name, known)
        others = f"{hint} Its {self.kind}s are {listed(known)}." if hint else f", only {listed(known)}."
        return FolioError(f"{where or self.source} has no {self.kind} {name!r}{others}{self._advice()}")

    def _advice(self):
        return "" if self.has_template else " Say which one has the text: --field NAME."


class _One:
    """The value of one field as it is."""

    def __init__(self, name):
        self.names, self.format = (name,), "%s"

    def fill(self, values):
        return values[0]


def remark(noun: str, rest: str) -> str:
    """Return the key of Mending.found for so many things of some kind, of which `rest` says something.

    >>> remark("row", "without a value in 'duty'")
    "{count|row|rows} without a value in 'duty'."
    """
    return f"{{count|{noun}|{noun}s}} {rest}."


def column_names(cells: Iterable[str | None]) -> list[str]:
    """Return names for columns from the cells of a header: numbered where they are empty or the same.

    >>> column_names(["tag", "", " duty ", "tag"])
    ['tag', 'column 2', 'duty', 'tag 2']
    """
    names, times = {}, Counter()            # a dict has an order, and finds a name among 100,000 at once
    for number, cell in enumerate(cells, 1):
        name = plain = " ".join((cell or "").split()) or f"column {number}"
        while name in names:
            times[plain] += 1
            name = f"{plain} {times[plain] + 1}"
        names[name] = None
    return list(names)


def places_of(names: Iterable[str], columns: Iterable[str]) -> list[int]:
    """Return where the columns of these names are among all columns.

    >>> places_of(["duty", "tag"], ["tag", "duty"])
    [1, 0]
    """
    places = {name: place for place, name in enumerate(columns)}
    return [places[name] for name in names]


def listed(names: Iterable[str]) -> str:
    """Return a phrase with the first ten names.
    >>> print(listed(["title", "body"]))
    'title', 'body'
    """
    names = list(names)
    if not names:
        return "none at all"
    others = " and others" if len(names) > 10 else ""
    return ", ".join(map(_quoted, names[:10])) + others


def _quoted(name):
    """Return a name in quotes, and only the beginning of a long one, as where a cell of text is taken for a name."""
    return repr(name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME - 1] + "…")
