"""Excel workbooks: each row of each visible sheet is a document, as in any other table."""

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice, zip_longest
from typing import Any

from folio.base.errors import FolioError
from folio.readers.mending import Mending
from folio.readers.records import Texts, column_names, places_of, remark
from folio.readers.sniffing import header_of
from folio.readers.source import Source
from folio.readers.values import written
from Model_Params import TextParams

LARGEST_PART = 1 << 27          # bytes of what is held in memory, such as the texts that cells share
MOST_PACKED = 300               # times smaller than unpacked: sheets of equal rows are 100 times smaller
MOST_ROWS = 1 << 20             # Excel has no more; a damaged file may claim any number, and openpyxl fills the gap
HEADER_ROWS = 100               # that are looked at to see whether the first one has the names of the columns


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, True, where) for every row. The values of formulas are those that were last computed.

    Raises FolioError where the file is damaged, no sheet has a column that is wanted, or formulas
    have no values.
    """
    with _opened(source) as (openpyxl, file):
        yield from _rows_of_sheets(openpyxl, file, source, reading, mending)


def records(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (row by names of columns, where) for every row of the visible sheets. Raises FolioError like `read`."""
    with _opened(source) as (openpyxl, file):
        for sheet in _sheets(openpyxl, file, source, mending):
            rows, names = _table(sheet)
            for number, cells in rows:
                yield dict(zip_longest(names, cells[:len(names)])), f"{source}, sheet {sheet.title!r}, row {number},"


@contextmanager
def _opened(source):
    """Yield openpyxl and the open file, and say in one sentence what goes wrong with it."""
    path = source.path
    source.refuse_packed("an Excel workbook")
    try:
        import openpyxl
    except ImportError:
        raise FolioError(f"{path} is an Excel workbook; to read it takes openpyxl, which is not installed: "
                         "python -m pip install openpyxl==3.1.5") from None
    # Of parts that it does not know, such as rules for what may be typed; only values are read here.
    warnings.filterwarnings("ignore", module="openpyxl")
    with path.open("rb") as file:
        try:
            _refuse_bomb(source, file)
            yield openpyxl, file
        except (FolioError, MemoryError):
            raise
        except Exception as error:      # openpyxl lets through what zipfile, zlib, XML and its own conversions raise
            if isinstance(error, OSError) and error.errno:
                raise                   # from the system
            reason = " ".join(str(error).split())
            raise FolioError(f"{path} is damaged, or no Excel workbook ({reason}). Fetch it anew.") from None
    source.bytes_read = path.stat().st_size


def _sheets(openpyxl, file, source, mending):
    """Yield the visible sheets of a workbook. Raises FolioError where it has none at all."""
    workbook = openpyxl.load_workbook(file, read_only=True, data_only=True)
    if not workbook.worksheets:
        raise FolioError(f"{source} is damaged, or has no sheet with cells. Fetch it anew.")
    for sheet in workbook.worksheets:
        if sheet.sheet_state == "visible":
            yield sheet
        else:
            mending.found[remark("sheet", "hidden, left out")] += 1


def _refuse_bomb(source, file):
    """Raise FolioError for a workbook with a part that would fill the memory: a file made to do so."""
    for part in zipfile.ZipFile(file).infolist():
        is_held = not part.filename.startswith("xl/worksheets/")        # sheets are read row by row
        if part.file_size > LARGEST_PART and (is_held or part.file_size > MOST_PACKED * part.compress_size):
            raise FolioError(f"{source} unpacks to {part.file_size >> 20:,} MB, too much to be read as a workbook: "
                             "export its sheets as .csv.")


def _rows_of_sheets(openpyxl, file, source, reading, mending):
    """Yield (text, True, where) of every visible sheet. A sheet without the wanted columns is said, unless all are."""
    refusal, has_rows = None, False
    for sheet in _sheets(openpyxl, file, source, mending):
        rows, names = _table(sheet)
        if not names:
            if _has_formulas(openpyxl, file, sheet.title):
                raise _no_values(source, sheet)
            continue
        try:
            texts = Texts(source, reading, mending, names)
        except FolioError as error:
            refusal = refusal or error
            mending.found[remark("sheet", "without the columns that are wanted, left out")] += 1
            continue
        has_rows = True
        mending.found[remark("sheet", "read as a table")] += 1
        yield from _texts(rows, names, texts, f"{source}, sheet {sheet.title!r}")
        empty = places_of(texts.empty_columns, names)
        if empty and _has_formulas(openpyxl, file, sheet.title, empty):
            raise _no_values(source, sheet)
        texts.finish()
    if refusal and not has_rows:
        raise refusal


def _texts(rows, names, texts, place):
    """Yield (text, True, where) of the rows of a sheet that have one."""
    places = places_of(texts.names, names)
    for number, cells in rows:
        if any(cells):
            cells += [None] * (len(names) - len(cells))
            text = texts.of([cells[place] for place in places])
            if text is not None:
                yield text, True, f"{place}, row {number},"


def _table(sheet: Any) -> tuple[Iterator[tuple[int, list]], list[str]]:
    """Return the rows of a sheet as (number, cells), and the names of its columns; none where it is empty."""
    sheet.reset_dimensions()            # some programs write wrong ones
    rows = ((number, [_shown(value) for value in values])
            for number, values in enumerate(islice(sheet.iter_rows(values_only=True), MOST_ROWS), 1))
    rows = ((number, cells) for number, cells in rows if any(cells))
    first = list(islice(rows, HEADER_ROWS))
    if not first:
        return iter(()), []
    width = max(len(cells) - next(place for place, cell in enumerate(reversed(cells)) if cell) for _, cells in first)
    # A title over the table has fewer cells than the table.
    start = next(index for index, (_, cells) in enumerate(first)
                 if 2 * sum(map(bool, cells)) > width or index == len(first) - 1)
    table = [[cell or "" for cell in cells[:width]] + [""] * (width - len(cells)) for _, cells in first[start:]]
    header = header_of(table)
    names = column_names(header or [""] * width)
    return chain(first[start + bool(header):], rows), names


def _shown(value):
    """Return the value of a cell as text; None for none, and for an error such as #N/A."""
    text = written(value)
    if text and text.startswith("#") and text in ("#N/A", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#NULL!"):
        return None
    return None if text in ("NaN", "nan") else text


def _has_formulas(openpyxl, file, title, places=None):
    """Whether a sheet has formulas, by a second look at it: the first one sees their values only.

    places: of the columns that are looked at, from 0; None: all
    """
    file.seek(0)
    sheet = openpyxl.load_workbook(file, read_only=True)[title]
    sheet.reset_dimensions()
    return any(cell.data_type == "f" for row in islice(sheet.iter_rows(), MOST_ROWS) for place, cell in enumerate(row)
               if places is None or place in places)


def _no_values(source, sheet):
    return FolioError(f"{source}, sheet {sheet.title!r}, has formulas whose values are not in the file: open it in a "
                      "spreadsheet program and save it, or export the sheet as .csv.")
