"""JSON files: each element of an array is a document, or each of several values that follow one another.

The array may be the one list of objects in an object, as in {"data": [...]}. A small file without records is read as
plain text.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from folio.base.errors import FolioError
from folio.readers.charsets import decoded
from folio.readers.json_lines import LONGEST_RECORD, decoder_for
from folio.readers.mending import Mending
from folio.readers.records import Texts, remark
from folio.readers.source import Source
from folio.readers.values import Number
from Model_Params import TextParams

SMALL_FILE = 1 << 22            # characters: a file with fewer is looked at whole
LONGEST_LITERAL = 12            # characters of \ud83d\ude00, or of -Infinity; they may be cut where the text ends
_NUMBER_END = re.compile(r"[ \t\r\n,\]}]")
_BLANKS = re.compile(r"[ \t\r\n]*")


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, True, where) for every record, in memory of a few blocks and one record.

    Raises FolioError where a large file or an array is no JSON, no record has the wanted field, or one is too long.
    """
    stream, found = _opened(source, reading, mending)
    if found is None:
        if stream.text.strip():
            mending.found[remark("file", "of JSON without a list of records, read as plain text")] += 1
        yield stream.text, True, source
        return
    texts = Texts(source, reading, mending, noun="record")
    for record, where in _placed(found, source):
        is_text = type(record) is str and not texts.has_template
        if text := record if is_text else texts.of_object(record, where):
            yield text, True, where
        elif is_text:
            mending.found[remark("record", "empty, left out")] += 1
    texts.finish()


def records(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[Any, str]]:
    """Yield (value, where) for every record. Raises FolioError like `read`, and where there is no list of them."""
    stream, found = _opened(source, reading, mending)
    if found is None:
        raise FolioError(f"{source} is JSON without a list of records." if stream.text.strip() else
                         f"{source} is empty.")
    yield from _placed(found, source)


def _opened(source, reading, mending):
    """Return the _Stream of a file, and its records; None for them where it has none."""
    stream = _Stream(source, decoded(source, reading, mending.found), reading, mending)
    return stream, _records(stream, reading) if stream.is_whole else _streamed(stream)


def _placed(found, source):
    name = str(source)
    return ((record, f"{name}, record {number},") for number, record in enumerate(found, 1))


def _records(stream, reading):
    """Return the records of a text that is held whole; None where it has none."""
    is_array = stream.next_character() == "["
    try:
        values = list(stream.values())
    except FolioError:
        if is_array:
            raise
        return None
    if len(values) != 1:
        return values if values and _has_records(values) else None
    value, = values
    if isinstance(value, list):
        return value if _has_records(value) or not value else None
    if not isinstance(value, dict):
        return None
    lists = [part for part in value.values() if isinstance(part, list) and part and isinstance(part[0], dict)]
    if isinstance(value.get(reading.field), str) and reading.template is None:
        return [value]
    if len(lists) == 1 and not _is_conversation(lists[0]):
        return lists[0]
    if lists and _is_conversation(lists[0]) or reading.template is not None and not lists:
        return [value]                  # of which `records` says what it lacks
    if not lists and len(value) == 1 and _has_records(part := next(iter(value.values()))):
        return part
    return None


def _has_records(values):
    """Whether a value is a list that begins with an object or a text."""
    return isinstance(values, list) and values != [] and type(values[0]) in (dict, str)


def _is_conversation(messages):
    return all("content" in message or "value" in message for message in messages[:2])


def _streamed(stream):
    """Yield the records of a text too large to be held."""
    if stream.next_character() == "[":
        yield from stream.elements()
        stream.end()
    elif stream.next_character() == "{" and not stream.others_follow():
        yield from _records_of_object(stream)
    else:
        yield from stream.values()


def _records_of_object(stream):
    """Yield the elements of the one list of objects in an object."""
    found = None
    stream.take("{")
    while stream.next_character() != "}":
        key = stream.value()
        stream.take(":")
        if stream.starts_list_of_objects():
            if found is not None:
                raise FolioError(f"{stream.name} has two lists of records, {found!r} and {key!r}: make a file of each.")
            found = key
            yield from stream.elements()
        else:
            stream.value()
        if stream.next_character() != "}":
            stream.take(",")
    stream.take("}")
    stream.end()
    if found is None:
        raise FolioError(f"{stream.name} is one JSON object without a list of records. Give it the suffix .txt to "
                         "read it as plain text.")


class _Stream:
    """JSON text that comes in blocks. Each value is decoded when its last character has come.

    is_whole: whether `text` has all of it, from the beginning
    """

    def __init__(self, source, blocks, reading, mending):
        self.name, self._blocks = str(source), blocks
        self._decode = decoder_for(reading).raw_decode
        self.mending, self._refuses = mending, reading.invalid_bytes == "refuse"
        self.text, self._place = mending.without_mark(next(blocks, "")), 0
        self._more(SMALL_FILE - len(self.text))
        self.is_whole = len(self.text) < SMALL_FILE or not self._more()

    def next_character(self):
        """Go to the next character that is not blank, and return it; "" where there is none."""
        while True:
            self._place = _BLANKS.match(self.text, self._place).end()
            if self._place < len(self.text):
                return self.text[self._place]
            if not self._more():
                return ""

    def take(self, character):
        """Read a character of the structure. Raises FolioError for another one."""
        if self.next_character() != character:
            self._refuse(f"{character!r} expected")
        self._place += 1

    def end(self):
        """Raise FolioError where more than blanks follows."""
        if self.next_character():
            self._refuse("Extra data")

    def value(self) -> Any:
        """Decode the next value. Raises FolioError for what is no JSON, or too long."""
        self.next_character()
        while True:
            try:
                value, end = self._decode(self.text, self._place)
            except RecursionError:
                self._refuse("too many brackets in each other")
            except json.JSONDecodeError as error:
                # Where the text ends within a string, the error is placed where the string begins.
                if not error.msg.startswith("Unterminated") and error.pos < len(self.text) - LONGEST_LITERAL:
                    self._refuse(error.msg, error.pos)
                if len(self.text) - self._place > LONGEST_RECORD:
                    raise FolioError(f"{self.name} has a record of more than {LONGEST_RECORD:,} characters, too long "
                                     "to be read.") from None
                if not self._more(len(self.text) - self._place):
                    self._refuse(error.msg, error.pos)
            else:
                if type(value) is not Number or self._ends_number(end) or not self._more():
                    self._place = end
                    return value

    def _ends_number(self, end):
        """Whether a number that ends here does so in the file, too: "1." may become 1.5."""
        return _NUMBER_END.match(self.text, end) or len(self.text) - end > LONGEST_LITERAL

    def values(self):
        """Yield the values that follow one another up to the end."""
        while self.next_character():
            yield self.value()

    def elements(self):
        """Yield the elements of a list."""
        self.take("[")
        while self.next_character() != "]":
            yield self.value()
            if self.next_character() != "]":
                self.take(",")
                if self.next_character() == "]":
                    self._refuse("Expecting value")
        self.take("]")

    def others_follow(self):
        """Whether the text that is held has all of the next value, and a part of another one."""
        try:
            _, end = self._decode(self.text, self._place)
        except (json.JSONDecodeError, RecursionError):
            return False
        return _BLANKS.match(self.text, end).end() < len(self.text)

    def starts_list_of_objects(self):
        """Whether the next value is a list, and its first element an object."""
        if self.next_character() != "[":
            return False
        while (end := _BLANKS.match(self.text, self._place + 1).end()) == len(self.text):
            if not self._more():
                return False
        return self.text[end] == "{"

    def _more(self, wanted=1):
        """Hold more characters, as many as are wanted where there are; drop those before the place. -> whether any."""
        parts, size = [], 0
        while size < wanted and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            size += len(block)
        if size:
            self.text = "".join([self.text[self._place:], *parts])
            self._place = 0
        return size > 0

    def _refuse(self, reason, place=None):
        place = self._place if place is None else place
        shown = repr(self.text[place:place + 30]) if self.text[place:] else "its end"
        reason = reason.removesuffix(" starting at")
        if self._refuses:
            self.mending.as_text(self.text[self._place:], f"{self.name}, a record,")   # it says why it is not JSON
        raise FolioError(f"{self.name} is not JSON ({reason} at {shown}). Mend it, or give it another suffix, such "
                         "as .txt, to read it as plain text.") from None
