"""Subtitles (.srt, .vtt): what is said, a line for each cue, without numbers, times and tags. A file is a document."""

import html
import re
from collections.abc import Iterable, Iterator

from folio.base.errors import FolioError
from folio.readers.charsets import decoded
from folio.readers.mending import Mending
from folio.readers.source import Source, lines_of
from Model_Params import TextParams

_TIMES = re.compile(r"\s*(?:\d+:)?\d+:\d+[.,]\d+\s*-->\s*(?:\d+:)?\d+:\d+[.,]\d+")
_MOST_LINES, _LONGEST_SAID = 100, 10_000        # of a cue, which has two or three short lines; more come as another
_TAGS = re.compile(r"</?[a-zA-Z\d][^<>]*>|\{\\[^{}]*\}")         # <i>, <c.yellow>, <00:01.500>; {\an8} of SubStation


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, ends_document, where): what is said, and at the end of the file the end of the document.

    Raises FolioError for a file without subtitles.
    """
    before, count = [], 0
    for cue in _cues(lines_of(decoded(source, reading, mending.found))):
        count += 1
        new = cue[_repeated(before, cue):] if source.suffix == ".vtt" else cue
        before = cue
        if new:
            yield _joined(new), False, source
    if not count and source.bytes_read:
        raise FolioError(f"{source} has no subtitles, each below a line such as 00:00:01,000 --> 00:00:02,500. Give it "
                         "the suffix .txt to read it as plain text.")
    if count:
        mending.found["{count|subtitle|subtitles} read without their numbers, times and tags."] += count
    yield "", True, source


def _cues(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the lines of each cue, without tags.

    >>> list(_cues(["1", "00:00:01,000 --> 00:00:02,000", "<i>Not</i> now,", "she said.", "", "2"]))
    [['Not now,', 'she said.']]
    """
    cue, is_cue = [], False
    for line in lines:
        if _TIMES.match(line):
            if cue and is_cue and cue[-1].isdecimal():      # the number of this cue, with no empty line before it
                cue.pop()
            if cue and is_cue:
                yield cue
            cue, is_cue = [], True
        elif not line.strip():
            if cue and is_cue:
                yield cue
            cue, is_cue = [], False
        elif is_cue and (said := html.unescape(_TAGS.sub("", line)).strip()):
            cue.append(said)
            if len(cue) == _MOST_LINES or len(said) > _LONGEST_SAID:
                yield cue
                cue = []
    if cue and is_cue:
        yield cue


def _repeated(before, cue):
    """Return how many lines a cue begins with that end the one before: captions that roll, as YouTube makes them.

    >>> _repeated(["one", "two"], ["two", "three"]), _repeated([], ["one"])
    (1, 0)
    """
    return next((count for count in range(min(len(before), len(cue)), 0, -1) if before[-count:] == cue[:count]), 0)


def _joined(lines):
    """Return a cue as one line, but for a dialogue, whose lines begin with a dash.
    >>> _joined(["Not now,", "she said."]), _joined(["- Now?", "- Never."])
    ('Not now, she said.\\n', '- Now?\\n- Never.\\n')
    """
    separator = "\n" if any(line.startswith(("-", "–", "—")) for line in lines[1:]) else " "
    return separator.join(lines) + "\n"
