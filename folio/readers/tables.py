"""Tables in plain text, .csv and .tsv: each row is a document. How the table is written is found out from its start."""

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import chain, islice, zip_longest
from operator import itemgetter

from folio.base.errors import FolioError
from folio.readers.charsets import decoded
from folio.readers.mending import Mending
from folio.readers.records import Texts, column_names, places_of, remark
from folio.readers.sniffing import LONGEST_SAMPLE, SAMPLE_CHARACTERS, SAMPLE_LINES, sniff
from folio.readers.source import Source
from Model_Params import TextParams

# Characters. A cell may be a whole book; behind a quote that never ends comes the rest of the file. One of 16 million
# with an emoji took 800 MB.
LONGEST_CELL = 1 << 23

AT_ONCE = 1 << 16       # characters of rows that are handed on together

_NOT_A_NUMBER = frozenset({"NaN", "nan"})       # as pandas and NumPy write a missing number


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str | list[str], bool, object]]:
    """Yield (texts, True, places) of many rows at once, as Mending takes them; of a file that is no table one document.

    Raises FolioError where the table lacks a column that is wanted, or a cell is too long.
    """
    table = _Table(source, reading, mending)
    if table.layout is None:
        if table.start.strip():
            mending.found[remark("file", "with the name of a table but no columns, read as plain text")] += 1
        for text in chain([table.start], table.blocks):
            yield text, False, source
        yield "", True, source
        return
    names, rows, skipped = table.names, table.rows, table.skipped
    texts = Texts(source, reading, mending, names)
    mending.found[remark("file", f"read as {table.layout.description}")] += 1
    places, width = places_of(texts.names, names), len(names)
    choose = tuple if places == list(range(width)) else itemgetter(*places)
    form, whole_rows = texts.format, 0
    made, lines_of_made, size = [], [], 0           # texts that wait, and the characters in them
    try:
        for row in rows:                # millions: what is rare is elsewhere
            if form is not None and len(row) == width and all(row) and "nan" not in row and "NaN" not in row:
                text = form % choose(row)
                whole_rows += 1
            else:
                text = _text_of_unusual(row, texts, places, width, mending)
                if text is None:
                    continue
            made.append(text)
            lines_of_made.append(rows.line_num)
            size += len(text)
            if size >= AT_ONCE:
                yield made, True, _places(source, skipped, lines_of_made)
                made, lines_of_made, size = [], [], 0
    except csv.Error as error:
        raise table.refusal(error) from None
    if made:
        yield made, True, _places(source, skipped, lines_of_made)
    texts.finish(whole_rows)


def records(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[dict[str, str], str]]:
    """Yield (row by names of columns, where). Raises FolioError where it is no table, or a cell is too long."""
    table = _Table(source, reading, mending)
    if table.layout is None:
        raise FolioError(f"{source} has the name of a table but no columns: give it the suffix of what it is, such as "
                         ".txt.")
    try:
        for row in table.rows:
            if row:
                yield (dict(zip_longest(table.names, row[:len(table.names)], fillvalue="")),
                       f"{source}, line {table.skipped + table.rows.line_num},")
    except csv.Error as error:
        raise table.refusal(error) from None


class _Table:
    """A table that has been opened: its names are read, its rows come next.

    start, blocks: its text, where `layout` is None: it is no table
    """

    def __init__(self, source, reading, mending):
        csv.field_size_limit(LONGEST_CELL)
        self.source, self.blocks = source, decoded(source, reading, mending.found)
        start, is_whole = _start(self.blocks)
        self.start = mending.without_mark(start)
        sample = self.start[:_sample_end(self.start)]
        self.layout = sniff(sample, is_whole and len(sample) == len(self.start), source.suffix == ".tsv")
        if self.layout is None:
            return
        lines = _lines(chain([self.start], self.blocks), source)
        self.skipped = sum(1 for _ in islice(lines, self.layout.skipped_lines))
        self.rows = csv.reader(lines, **self.layout.options)
        if self.layout.names is not None:
            next(row for row in self.rows if row)
            self.names = column_names(self.layout.names)
        else:
            self.names = [f"column {number}" for number in range(1, self.layout.width + 1)]

    def refusal(self, error):
        """Return the FolioError for what the csv module raised."""
        line = self.skipped + self.rows.line_num
        if "limit" in str(error):
            return FolioError(f"{self.source}, line {line}, has a cell of more than {LONGEST_CELL:,} characters: a "
                              "quote before it may have no end.")
        return FolioError(f"{self.source}, line {line}, cannot be read as a row of a table ({error}).")


def _places(source, skipped, lines):
    """Yield a phrase for the place of each row. lines: where they end, without those that were skipped"""
    return (f"{source}, line {skipped + line}," for line in lines)


def _start(blocks: Iterator[str]) -> tuple[str, bool]:
    """Return the first characters of a text, enough to see how a table is written, and whether they are all."""
    parts, size, line_ends = [], 0, 0
    for block in blocks:
        parts.append(block)
        size += len(block)
        line_ends += block.count("\n")
        if size >= (SAMPLE_CHARACTERS if line_ends >= SAMPLE_LINES else LONGEST_SAMPLE):
            return "".join(parts), False
    return "".join(parts), True


def _sample_end(start: str) -> int:
    """Return where the sample ends that shows how a table is written: not within its first lines."""
    end = 0
    for _ in range(SAMPLE_LINES):
        end = start.find("\n", end) + 1
        if not 0 < end <= LONGEST_SAMPLE:
            return SAMPLE_CHARACTERS
    return max(end, SAMPLE_CHARACTERS)


def _text_of_unusual(row, texts, places, width, mending):
    """Return the text, or None, of a row that lacks values, or has more or fewer cells than there are columns."""
    if not row:
        return None                     # an empty line
    more = []
    if len(row) < width:
        mending.found[remark("row", "with fewer cells than there are columns")] += 1
        row = row + [""] * (width - len(row))
    elif more := [(number, cell) for number, cell in enumerate(row[width:], width + 1) if cell]:
        mending.found[remark("row", "with more cells than there are columns")] += 1
    text = texts.of(["" if row[place] in _NOT_A_NUMBER else row[place] for place in places])
    if texts.is_lines and more:
        return "\n".join(filter(None, [text, *(f"column {number}: {cell}" for number, cell in more)]))
    return text


def _lines(blocks: Iterable[str], source: Source) -> Iterator[str]:
    r"""Cut a stream of text into lines with their ends: \n, \r\n or \r. Raises FolioError where one is too long."""
    return chain.from_iterable(_whole_lines(blocks, source))


def _whole_lines(blocks, source):
    """Yield files in memory that end with a line. What is behind the last line end waits for the next block."""
    waiting = ""
    for block in blocks:
        text = waiting + block
        end = text.rfind("\n") + 1 or text.rfind("\r", 0, -1) + 1      # a final \r may be half a line end
        waiting = text[end:]
        if len(waiting) > LONGEST_CELL:
            raise FolioError(f"{source} has a line of more than {LONGEST_CELL:,} characters, which is no row of a "
                             "table. Give it the suffix .txt to read it as plain text.")
        if end:
            yield io.StringIO(text[:end], newline="")
    if waiting:
        yield io.StringIO(waiting, newline="")
