"""Stretches of a text that stand word for word in the training text of a model, with file and line.

The training text is read and sorted once, in a thread of its own, when copies are first asked for: a suffix array
(folio.evaluation.suffixes) for every two megabytes. `Copies.find` returns

    state       ready: the rest is there; reading: ask again; missing: there is nothing to compare with, see `reason`
    reason      a sentence
    stretches   [{from, to, words, file, line, before, source, after}]: places in the text, in UTF-16 code units; the
                file's name, and the line's number, or that of the text in a file with a text per line or row; the
                stretch as the training text has it, and what is around it there
    searched    share of the training text that was searched, 0 to 1
    least_words that a stretch has
"""

import re
import threading
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from folio.base.errors import FolioError
from folio.data.corpus import documents_of
from folio.data.encoding import survey_text
from folio.evaluation.suffixes import longest_match, suffix_array
from folio.kernels.splitting import to_bytes

# Of a stretch. Of plays that the shipped model never saw, 1 % lies in such stretches, and nothing in longer ones.
LEAST_WORDS = 5
PART_BYTES = 1 << 21        # sorted at once, which takes 80 times as much memory for a moment
SEARCHED_BYTES = 32_000_000     # of the training text at most; each takes 5 bytes of memory as long as the server runs
LONGEST = 4000              # bytes of a stretch
AROUND = 60                 # bytes of the training text shown before and after a stretch
_TEXT_PER_LINE = re.compile(r"\.(jsonl|ndjson|parquet)(\.gz)?$", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True)
class Part:
    """A part of the training text; the last LONGEST bytes of each are the first of the next."""
    start: int              # of its first byte in the training text
    content: bytes
    array: np.ndarray       # (bytes,) int32: the starts of its suffixes, sorted


@dataclass(frozen=True)
class Place:
    """Where a document of the training text comes from."""
    start: int              # of its first byte in the training text
    file: str
    line: int               # its first; of a file with a text per line or row, the number of the text
    has_lines: bool         # whether a line of it is a line of the file


class TrainingText:
    """The training text of a home, ready to be searched."""

    def __init__(self, home):
        """Read it. Raises OSError or FolioError where there is none."""
        documents, text = documents_of(home)
        self.stamps = _stamps(documents.files)
        survey = survey_text(documents, text)
        self.fingerprint = survey.fingerprint
        self.places, self.parts = [], []
        content, self.train_bytes = self._read(documents, survey.split)
        for start in range(0, max(1, len(content) - LONGEST), PART_BYTES):
            part = content[start:start + PART_BYTES + LONGEST]
            self.parts.append(Part(start, part, suffix_array(part, LONGEST).astype(np.int32)))
        self.searched = min(1, SEARCHED_BYTES / self.train_bytes)

    def _read(self, documents, split):
        """Return the first SEARCHED_BYTES of the training part, and its size; note where each document comes from.

        A line end stands after each document.
        """
        content, train_bytes, path = bytearray(), 0, None
        for chunk, is_val, ends_document in split.in_order(documents):
            if documents.path != path:
                path, line, starts_document = documents.path, 1, True
                has_lines = not _TEXT_PER_LINE.search(path.name)
            if is_val:
                content += b"\n" * (content[-1:] != b"\n")           # where a document is cut
            else:
                room = max(0, SEARCHED_BYTES - train_bytes)
                piece = to_bytes(chunk)
                train_bytes += len(piece)
                if room:
                    if starts_document:
                        self.places.append(Place(len(content), path.name, line, has_lines))
                    content += piece[:room] + b"\n" * ends_document
            line += (chunk.count("\n") if has_lines else 0) + ends_document         # the line that ends a document
            starts_document = ends_document
        return bytes(content), train_bytes

    def longest(self, wanted):
        """Return (length, start in the training text) of the longest beginning of `wanted`, bytes, that it has."""
        matches = ((*longest_match(part.content, part.array, wanted), part.start) for part in self.parts)
        length, start, base = max(matches, key=lambda match: match[0])
        return length, base + start

    def bytes_at(self, start, end):
        """Return some of its bytes, at most LONGEST; fewer where it begins or ends."""
        start = max(0, start)
        part = self.parts[min(start // PART_BYTES, len(self.parts) - 1)]
        return part.content[start - part.start:end - part.start]

    def place(self, position):
        """Return (file, line) of a byte."""
        place = self.places[bisect_right(self.places, position, key=lambda place: place.start) - 1]
        line, start = place.line, place.start
        while place.has_lines and start < position:
            piece = self.bytes_at(start, min(position, start + LONGEST))
            line, start = line + piece.count(b"\n"), start + len(piece)
        return place.file, line


class Copies:
    """Find copied stretches; the training text is read in the background."""

    def __init__(self, home):
        self._home, self._lock = home, threading.Lock()
        self._text = self._failed = None        # TrainingText; (stamps, sentence)
        self._is_reading = False

    def find(self, text, learned_from):
        """Return what the module describes. learned_from: of the model, as LanguageModel has it"""
        if learned_from is None:
            return _missing("The weights of this model do not say which text they learned from.")
        try:
            stamps = _stamps(documents_of(self._home)[0].files)
        except (OSError, FolioError) as error:
            return _missing(f"There is no training text to compare with. {error}")
        with self._lock:
            known, failed = self._text, self._failed
            if failed and failed[0] == stamps:
                return _missing(failed[1])
            if known is None or known.stamps != stamps:
                if not self._is_reading:
                    self._is_reading = True
                    threading.Thread(target=self._read, args=(stamps,), name="training text", daemon=True).start()
                return {"state": "reading", "reason": "The training text is being read …", "stretches": []}
        if known.fingerprint != learned_from["text_fingerprint"]:
            return _missing("This model learned from another text than the one that is here.")
        return {"state": "ready", "reason": "", "stretches": stretches(known, text), "searched": known.searched,
                "least_words": LEAST_WORDS}

    def _read(self, stamps):
        text = failed = None
        try:
            text = TrainingText(self._home)
        except (OSError, FolioError, MemoryError) as error:
            failed = stamps, f"The training text cannot be read. {error}"
        finally:
            with self._lock:
                self._text, self._failed, self._is_reading = text, failed, False


def stretches(training_text, text, least_words=LEAST_WORDS):
    """Return the copied stretches of a text, in order and without overlaps, as the module describes them."""
    words = [match.span() for match in _WORD.finditer(text)]
    at_byte = [0, *accumulate(len(character.encode("utf-8")) for character in text)]
    at_unit = [0, *accumulate(1 + (character > "\uffff") for character in text)]
    chosen, taken = [], np.zeros(len(words), bool)
    words_in_bytes = [(at_byte[begin], at_byte[end]) for begin, end in words]
    found = _all_stretches(training_text, text.encode("utf-8"), words_in_bytes, least_words)
    for count, first, start in sorted(found, key=lambda stretch: (-stretch[0], stretch[1])):       # longest first
        if not taken[first:first + count].any():
            taken[first:first + count] = True
            chosen.append((first, count, start))
    described = []
    for first, count, start in sorted(chosen):
        begin, end = words[first][0], words[first + count - 1][1]
        stop = start + at_byte[end] - at_byte[begin]
        file, line = training_text.place(start)
        before, source, after = (training_text.bytes_at(*span).decode("utf-8", errors="ignore")
                                 for span in ((start - AROUND, start), (start, stop), (stop, stop + AROUND)))
        described.append({"from": at_unit[begin], "to": at_unit[end], "words": count, "file": file, "line": line,
                          "before": before, "source": source, "after": after})
    return described


def _all_stretches(training_text, content, words, least_words):
    """Yield (number of words, first word, start in the training text) of stretches none of which contains another.

    content: a text as bytes; words: [(begin, end)] in it
    """
    reached = 0
    for first in range(len(words) - least_words + 1):
        begin = words[first][0]
        length, start = training_text.longest(content[begin:begin + LONGEST])
        end = bisect_right(words, begin + length, lo=first, key=lambda word: word[1])       # whole words
        if end > first and words[end - 1][1] == begin + length:
            follows = training_text.bytes_at(start + length, start + length + 4).decode("utf-8", errors="ignore")
            end -= follows[:1].isalnum()            # the training text has a longer word there
        if end - first >= least_words and end > reached:
            yield end - first, first, start
            reached = end


def _missing(reason):
    return {"state": "missing", "reason": reason, "stretches": []}


def _stamps(files):
    """Return what tells whether a file has changed without reading it."""
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
