"""JSON lines: each line is an object and a document. A line may be longer than memory where one field is the text."""

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from folio.base.errors import FolioError
from folio.readers.mending import Mending
from folio.readers.records import Texts
from folio.readers.source import Source, decoded
from folio.readers.values import Number
from Model_Params import TextParams

LONG_LINE = 1 << 22             # bytes: a longer line is scanned in parts; a shorter one takes little memory
LONGEST_RECORD = 1 << 24        # bytes of a line that is needed whole; in memory it may take 30 times as many

# In a JSON string: everything up to its end, or up to an incomplete escape; a surrogate pair counts as one escape.
_STRING_PART = re.compile(r'''(?:[^"\\]+|\\[^u]|\\u(?![dD][89abAB])[^"\\]{4}'''
                          r'''|\\u[dD][89abAB][^"\\]{2}(?:\\u[^"\\]{4}|(?=[^\\])|(?=\\[^u])))*+''')
_OUTSIDE_STRINGS = re.compile(r'[^"{}\[\]]*')


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, ends_document, where). FolioError names the line that is no JSON, or has no such field."""
    return iter(_Lines(source, reading, mending))


def records(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[Any, str]]:
    """Yield (value, where) for every line. Raises FolioError where one is no JSON, or too long."""
    return _Lines(source, reading, mending).records()


def decoder_for(reading: TextParams) -> json.JSONDecoder:
    """Return a decoder that keeps numbers as they are written. Control characters in strings are JSON to most writers
    but not to the standard: they are refused with what else is refused.
    """
    return json.JSONDecoder(strict=reading.invalid_bytes == "refuse", parse_int=Number, parse_float=Number,
                            parse_constant=lambda name: None if name == "NaN" else Number(name))


class _Lines:
    def __init__(self, source, reading, mending):
        self.source, self.reading, self.mending = source, reading, mending
        self.field, self.invalid_bytes, self.has_template = reading.field, reading.invalid_bytes, bool(reading.template)
        self.decode = decoder_for(reading).decode

    def records(self):
        """Yield (value, where) for each line that is not blank, each held whole."""
        parts = _lines(self.source.blocks())
        for number, (part, ends_line) in enumerate(parts, 1):
            where = f"{self.source}, line {number},"
            if not ends_line:
                part = self._held(chain([part], _rest_of_line(parts)), where)
            if part.strip():
                line = self.mending.without_mark(part.decode("utf-8", errors="surrogateescape"))
                yield self._parsed(line, line, where), where

    def __iter__(self):
        self.texts = Texts(self.source, self.reading, self.mending, noun="line")
        number, name, parts = 1, str(self.source), _lines(self.source.blocks())
        for part, ends_line in parts:
            where = f"{name}, line {number},"
            if not ends_line and not self.has_template:
                yield from self._scan_line(chain([part], _rest_of_line(parts)), where)
            else:
                if not ends_line:
                    part = self._held(chain([part], _rest_of_line(parts)), where)
                if part.strip():
                    line = self.mending.without_mark(part.decode("utf-8", errors="surrogateescape"))
                    text = self.texts.of_object(self._parsed(line, line, where), where)
                    if text is not None:
                        yield text, True, where
            number += 1
        self.texts.finish()

    def _scan_line(self, parts, where):
        """Yield the text of a line that is too long for memory, and check the line at its end."""
        scanned = ScannedObject(self.field, strict=self.invalid_bytes == "refuse")
        texts, has_text = filter(None, decoded(parts)), False
        for text in chain([self.mending.without_mark(next(texts, ""))], texts):
            try:
                for found in scanned.feed(text):
                    yield found, False, where
                    has_text = True
            except ValueError as error:
                self._refuse_line(text, where, error)
        record = self._parsed("".join(scanned.outline), "", where)
        if has_text:
            record[self.field] = "..."          # its text has gone
        elif isinstance(record, dict) and self.texts.is_conversation(record):
            raise FolioError(f"{where} is a conversation of more than {LONG_LINE:,} bytes, too long to be read: divide "
                             "it.")
        self.texts.of_object(record, where)
        yield "", True, where

    def _held(self, parts, where):
        """Return the bytes of a line whose fields are all needed at once."""
        held = bytearray()
        for part in parts:
            held += part
            if len(held) > LONGEST_RECORD:
                raise FolioError(f"{where} has more than {LONGEST_RECORD:,} bytes. With a template, or a conversation "
                                 "in it, a line has to fit in memory; the text of --field may be of any length.")
        return bytes(held)

    def _parsed(self, line, shown, where):
        try:
            return self.decode(line)
        except (ValueError, RecursionError) as error:
            self._refuse_line(shown, where, error)

    def _refuse_line(self, line, where, error):
        if self.invalid_bytes == "refuse":
            self.mending.as_text(line, where)       # if this refuses it, it says why it is not JSON
        raise FolioError(f"{where} is not JSON ({error}). Mend it, or give the file another suffix, such as .txt, "
                         "to read it as plain text.") from None


class ScannedObject:
    """Extract the string in one field of a JSON object that is too large for memory, from its text in parts.

    Only an `outline` of the object is kept in memory. Parsing it at the end checks what this scan does not.

    >>> scanned = ScannedObject("text", strict=True)
    >>> [list(scanned.feed(part)) for part in ('{"id": [1, {}], "text": "Once', ' \\\\u00e', '9"}')]
    [['Once'], [' '], ['é']]
    >>> "".join(scanned.outline)
    '{"id": [], "text": ""}'
    """

    LONGEST_ESCAPE, LONGEST_KEY, LONGEST_OUTLINE = 12, 1000, 1 << 22

    def __init__(self, field, strict):
        self.field, self.strict = field, strict
        self.outline = []           # parts of the object without string values and without nested lists and objects
        self._outline_size = 0
        self._rest = ""             # the beginning of an escape
        self._depth, self._in_string = 0, False
        self._key, self._before = "", ""                # the last key of the object; the last character outside strings
        self._is_wanted, self._found = False, False     # whether this string is that of the field; whether it has come

    def feed(self, text):
        """Yield what the next part of the JSON text has of the string. Raises ValueError if that is not JSON."""
        text, place = self._rest + text, 0
        while place < len(text):
            start = place
            if self._in_string:
                place = _STRING_PART.match(text, place).end()
                if start < place:
                    yield from self._string_part(text[start:place])
                elif text[place] != '"':
                    break
                if text[place:place + 1] == '"':
                    self._in_string, place = False, place + 1
                    self._keep('"')
            else:
                place = _OUTSIDE_STRINGS.match(text, place).end()
                self._keep(text[start:place])
                self._before = text[start:place].strip()[-1:] or self._before
                if place < len(text):
                    self._structure(text[place])
                    place += 1
        self._rest = text[place:]
        if len(self._rest) > self.LONGEST_ESCAPE:
            raise ValueError(f"Invalid \\escape: {self._rest[:6]}")

    def _string_part(self, text):
        if self._is_wanted:
            yield json.loads(f'"{text}"', strict=self.strict)
        elif self._depth == 1 and self._before != ":" and len(self._key) < self.LONGEST_KEY:
            self._key += text
            self._keep(text)

    def _structure(self, character):
        """Take one of the characters that structure an object: a quote that opens a string, or a bracket."""
        if character == '"':
            self._keep(character)
            is_value = self._depth == 1 and self._before == ":"
            self._is_wanted = is_value and json.loads(f'"{self._key}"', strict=False) == self.field
            if self._is_wanted and self._found:
                raise ValueError(f"it has two fields {self.field!r}")
            self._found |= self._is_wanted
            self._in_string, self._key = True, self._key if is_value else ""
            return
        self._depth -= character in "}]"
        self._keep(character)
        self._depth += character in "{["
        self._before = character

    def _keep(self, text):
        if self._depth <= 1:
            self.outline.append(text)
            self._outline_size += len(text)
            if self._outline_size > self.LONGEST_OUTLINE:
                raise ValueError("it has too much beside its texts")


def _lines(blocks):
    """Turn a stream of blocks of bytes into (line, True).

    A line longer than LONG_LINE comes in parts, with False for all but the last.

    >>> list(_lines([b"one\\ntw", b"o\\n", b"three"]))
    [(b'one', True), (b'two', True), (b'three', True)]
    """
    held, ended = b"", True
    for block in blocks:
        *lines, held = (held + block).split(b"\n")
        for line in lines:
            yield line, True
            ended = True
        if len(held) > LONG_LINE:
            yield held, False
            held, ended = b"", False
    if held or not ended:
        yield held, True


def _rest_of_line(parts):
    for part, ends_line in parts:
        yield part
        if ends_line:
            return
