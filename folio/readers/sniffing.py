"""How a table in plain text is written: what separates its cells, how they are quoted, and whether a row has names.

The csv module parses; the rules here choose among the few ways in which it may. Of the ways that cut most rows into the
same number of cells, two or more, the best is taken; the rules were measured on the cases in tests/readers.
"""

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass, field, replace

SAMPLE_CHARACTERS = 1 << 18     # at the start of a file: hundreds of rows, and of long texts still some
SAMPLE_LINES = 3                # that are in the sample whole, unless it has LONGEST_SAMPLE characters without them
LONGEST_SAMPLE = 1 << 22        # 100,000 columns have names of one or two million
SAMPLE_ROWS = 1000
CONSISTENT = 0.8                # of the rows must have equally many cells; prose with commas reaches 0.5
MOST_LINES_OF_A_CELL = 500      # at the end of the sample: if it has more, its quote was just a sign
LONGEST_NUMBER = 40             # characters: a longer cell is text
MOST_TITLE_LINES = 10           # above the names of the columns, as reports have them
NAMES_OF_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "vertical bars"}

_SEP_LINE = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)        # Excel's own first line
_NUMBER = re.compile(r"[-+]?[\d.,' \u00a0\u202f]*\d[\d.,' \u00a0\u202f]*(?:[eE][-+]?\d+)?\s*%?")
_DATE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}(?:[T ]\d{1,2}:\d{2}.*)?|\d{1,2}:\d{2}(?::\d{2})?")
_YEAR = re.compile(r"[12]\d{3}")
_NAME = re.compile(r"\w+(?:[ _.-]\w+){0,3}")
_DECIMAL_COMMA = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:\.\d{3})+),\d+")
_DECIMAL_POINT = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:,\d{3})+)?\.\d+")


@dataclass(frozen=True)
class Layout:
    """How a table is written. options: for csv.reader; skipped_lines: before the first row, as the csv module counts.
    """
    options: dict
    width: int                          # cells of a row
    skipped_lines: int = 0
    names: list[str] | None = None      # the cells of the header, which is then the first row; None: there is none
    has_decimal_commas: bool = False
    _score: tuple = field(default=(), compare=False)

    @property
    def description(self) -> str:
        """A phrase: "a table of 4 columns, separated by semicolons, with decimal commas"."""
        if self.width == 1:
            phrase = "a table of 1 column"
        else:
            separator = self.options["delimiter"]
            phrase = (f"a table of {self.width} columns, separated by "
                      f"{NAMES_OF_SEPARATORS.get(separator, repr(separator))}")
        phrase += ", with decimal commas" if self.has_decimal_commas else ""
        phrase += ", below a title" if self.skipped_lines and self._score and self._score[1] < 0 else ""
        return phrase + (", without names of columns" if self.names is None else "")


def sniff(sample: str, is_whole: bool, prefers_tabs: bool = False) -> Layout | None:
    """Return the layout of the table that a text starts with; None where it is no table.

    sample: the first characters, in which the last row may be cut unless `is_whole`.
    """
    named = _SEP_LINE.match(sample)
    body = sample[named.end():] if named else sample
    separators = [named[1]] if named else ["\t", ";", "|", ","] if prefers_tabs else [";", "\t", "|", ","]
    layouts = [layout for options in _ways(separators, body, is_whole)
               if (layout := _layout(body, options, is_whole)) is not None]
    several = [layout for layout in layouts if layout.width > 1]
    best = max(several, key=lambda layout: layout._score, default=None)
    if best is None:
        best = _one_column(body, layouts)
    return best and replace(best, skipped_lines=best.skipped_lines + bool(named))


def header_of(rows: list[list[str]], are_all: bool = True) -> list[str] | None:
    """Return the first row if its cells name the columns; None where it is a row as the others.

    It names them unless one of its cells is a number or a date, comes again in its column, or all are empty. Years may
    name columns which have none in them. A row that is all there is does not. are_all: whether no other rows follow
    """
    first, others = rows[0], [row for row in rows[1:] if row != rows[0]]
    if are_all and not others or not any(cell.strip() for cell in first):
        return None
    for place, cell in enumerate(first):
        below = [row[place] for row in others if place < len(row)]
        if not cell.strip():
            continue
        if cell in below:
            return None
        if is_number(cell) and not (_YEAR.fullmatch(cell.strip()) and not any(map(_YEAR.fullmatch, below))):
            return None
    return first


def is_number(cell: str) -> bool:
    """Whether a cell is a number or a date, as people write them.

    >>> [is_number(cell) for cell in ("1.234,50", "-3e-5", "2024-05-01", "12:30", "P-101", "")]
    [True, True, True, True, False, False]
    """
    cell = cell.strip()
    return len(cell) <= LONGEST_NUMBER and bool(_NUMBER.fullmatch(cell) or _DATE.fullmatch(cell))


def _ways(separators, body, is_whole):
    """Yield options for csv.reader that a table may be written with, the usual ones first."""
    for separator in separators:
        plain = {"delimiter": separator}
        if separator in "\t|" and '"' in body and not _are_quotes(body, separator, is_whole):
            yield plain | {"quoting": csv.QUOTE_NONE}
        else:
            yield plain
        if '\\"' in body:
            yield plain | {"escapechar": "\\", "doublequote": False}
        elif "'" in body and '"' not in body:
            yield plain | {"quotechar": "'"}


def _are_quotes(body, separator, is_whole):
    """Whether the quotes in a text are those around cells: one that opens has one that closes, at the cell's end."""
    reader, line = csv.reader(io.StringIO(body, newline=""), delimiter=separator, strict=True), 0
    try:
        for _ in reader:
            line = reader.line_num
    except csv.Error as error:
        is_cut = "unexpected end" in str(error) and not is_whole
        return is_cut and reader.line_num - line < MOST_LINES_OF_A_CELL
    return True


def _layout(body, options, is_whole):
    """Return the Layout of a text that is parsed with these options; None where its rows do not agree."""
    if options.get("quotechar") == "'" and not _is_quoted_by(body, options):
        return None
    rows, ends = _rows(body, options, is_whole)
    if not rows:
        return None
    widths = Counter(map(len, rows))
    width = max(widths, key=lambda width: (widths[width], width))
    start = next(index for index, row in enumerate(rows) if len(row) == width)
    share = widths[width] / (len(rows) - start)
    # A title has fewer cells than the table, which is much longer.
    if share < CONSISTENT or start > MOST_TITLE_LINES or start * 3 > len(rows) or start and width < 3:
        return None
    table = [row for row in rows[start:] if len(row) == width]
    if width > 1 and all(len(row) > 1 and row[1:] != [""] * (width - 1) and cell.startswith(" ")
                         for row in table for cell in row[1:] if cell):
        options = options | {"skipinitialspace": True}
        table = [[cell.lstrip(" ") for cell in row] for row in table]
    short = [cell for row in table for cell in row if len(cell) <= LONGEST_NUMBER]
    commas, points = (sum(map(bool, map(form.fullmatch, short))) for form in (_DECIMAL_COMMA, _DECIMAL_POINT))
    is_usual = len(options) - ("skipinitialspace" in options) == 1
    return Layout(options, width, ends[start - 1] if start else 0, header_of(table, is_whole), commas > points,
                  (share, -start, is_usual))


def _rows(body, options, is_whole):
    """Return the first rows of a text, without empty lines, and how many lines of it were read at the end of each."""
    rows, ends = [], []
    reader = csv.reader(io.StringIO(body, newline=""), **options)
    try:
        for row in reader:
            if len(rows) == SAMPLE_ROWS:
                return rows, ends
            if row:
                rows.append(row)
                ends.append(reader.line_num)
    except csv.Error:
        return rows, ends               # a cell that is too large, as behind a quote that never ends
    if not is_whole and len(rows) > 1:
        del rows[-1], ends[-1]          # where the sample ends, not the row
    return rows, ends


def _is_quoted_by(body, options):
    """Whether as many cells end with the quote of `options` as begin with it."""
    rows, _ = _rows(body, {"delimiter": options["delimiter"], "quoting": csv.QUOTE_NONE}, True)
    cells = [cell for row in rows for cell in row]
    begins, ends = (sum(form(cell, options["quotechar"]) for cell in cells) for form in (str.startswith, str.endswith))
    return begins == ends > 0


def _one_column(body, layouts):
    """Return the Layout of a table of one column; None where it may be prose.

    The csv module quotes what has a comma: a text with unquoted commas was no cell of such a table. Nor do its files
    have empty lines, and the column has a name rather than a first sentence.
    """
    layout = next((layout for layout in layouts if layout.options == {"delimiter": ","}), None)
    if layout is None or layout._score[0] < 1 or layout.names is None or not _NAME.fullmatch(layout.names[0]):
        return None
    has_empty_lines = re.search(r"^\r?\n", body, re.MULTILINE) and '"' not in body
    return None if has_empty_lines else layout
