"""Plain text: one document, or several with a line between them that holds nothing but <|endoftext|>."""

import re
from collections.abc import Iterable, Iterator

from folio.readers.charsets import decoded
from folio.readers.mending import Mending
from folio.readers.source import Source
from Model_Params import TextParams
from tokenizer import END_OF_TEXT

_LINE = re.escape(END_OF_TEXT) + r"\n"
# The lookbehind comes last, as `re` searches fast for a pattern that begins with literal characters.
_SEPARATOR = re.compile(rf"{_LINE}(?<=\n{_LINE})")


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, ends_document, where) of a file of plain text; `separate` cuts what becomes of it."""
    for text in decoded(source, reading, mending.found):
        yield text, False, source
    yield "", True, source


def records(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, str]]:
    """Yield (document, where) for each document that is not empty. where: the line on which it begins"""
    mended = mending(read(source, reading, mending))
    parts, line = [], 1
    for text, ends_document in separate(text for text, _ in mended):
        parts.append(text)
        if ends_document:
            document, parts = "".join(parts), []
            blank = len(document) - len(document.lstrip("\n"))
            if document.strip():
                yield document, f"{source}, line {line + blank},"
            line += document.count("\n") + 1


def separate(blocks: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Turn a stream of text into (text, ends_document), cut at separators: lines with nothing but <|endoftext|>.

    A separator belongs to no document.
    >>> list(separate(["one\\n<|endof", "text|>\\ntwo"]))
    [('one\\n', False), ('', True), ('two', False), ('', True)]
    """
    text = "\n"     # its first character has been yielded; a text begins as if a line had ended before it
    for block in blocks:
        text += block
        last_line = text.rfind("\n") + 1
        mayseparate = END_OF_TEXT.startswith(text[last_line:last_line + len(END_OF_TEXT) + 1])
        end = last_line if last_line and mayseparate else len(text)        # the rest is held back
        if END_OF_TEXT in text:
            first, *others = _SEPARATOR.split(text[:end])
            *documents, rest = first[1:], *others
            for document in documents:
                yield document, True
        else:
            rest = text[1:end]
        if rest:
            yield rest, False
        text = text[end - 1:]
    yield "" if text[1:] == END_OF_TEXT else text[1:], True
