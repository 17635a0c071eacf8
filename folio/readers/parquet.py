"""Parquet: each row is a document, with its text in one column or in several."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from folio.base.errors import FolioError
from folio.readers import dialogues
from folio.readers.mending import Mending
from folio.readers.records import Texts, listed
from folio.readers.source import BLOCK_BYTES, Source
from folio.readers.values import written
from Model_Params import TextParams


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, True, where). Raises FolioError where the file is damaged, or has no such column of text."""
    path = source.path
    with _opened(source) as rows:
        columns = rows.schema_arrow.names
        takes_turns = reading.template is None and reading.field == TextParams.field
        if takes_turns and reading.field not in columns and dialogues.format_of(columns):
            texts = Texts(source, reading, mending, noun="row")
            for row, where in _rows(rows, source):
                if (text := texts.of_object(row, where)) is not None:
                    yield text, True, where
            texts.finish()
            return
        if reading.template is None and reading.field not in columns:
            raise FolioError(f"{path} has no column {reading.field!r}, only {listed(columns)}. "
                             "Say which one has the text: --field NAME.")
        texts = Texts(source, reading, mending, columns)
        for batch, first in _batches(rows, source, list(dict.fromkeys(texts.names))):
            values = [_column(batch.column(name), name, reading, path, columns) for name in texts.names]
            for number, row in enumerate(zip(*values), first):
                if (text := texts.of(row)) is not None:
                    yield text, True, f"{path}, row {number},"
        texts.finish()


def records(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (row, where), lists and objects in a row as those of Python. Raises FolioError where it is damaged."""
    with _opened(source) as rows:
        yield from _rows(rows, source)


def _rows(rows, source):
    for batch, first in _batches(rows, source, None):
        for number, row in enumerate(batch.to_pylist(), first):
            yield row, f"{source}, row {number},"


@contextmanager
def _opened(source):
    """Open a file as pyarrow's ParquetFile, and say in one sentence what goes wrong with it."""
    path = source.path
    source.refuse_packed("Parquet")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise FolioError(f"To read {path} takes pyarrow, which is not installed: "
                         "python -m pip install pyarrow") from None
    try:
        with path.open("rb") as file, parquet.ParquetFile(file) as rows:
            yield rows
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise                       # from the system: no such file, no permission
        reason = " ".join(str(error).split())       # in one line
        raise FolioError(f"{path} is damaged, or no Parquet file ({reason}). Fetch it anew.") from None


def _batches(rows, source, columns):
    """Yield (batch, number of its first row, from 1). columns: the names of those that are read; None: all"""
    about, number = rows.metadata, 0
    unpacked = sum(about.row_group(index).total_byte_size for index in range(about.num_row_groups))
    # 1024: rows that repeat others take little space in the file, but each takes its own in memory.
    batch_rows = min(1024, about.num_rows * BLOCK_BYTES // max(1, unpacked) + 1)
    for batch in rows.iter_batches(batch_rows, columns=columns):
        yield batch, number + 1
        number += len(batch)
        source.bytes_read = source.path.stat().st_size * number // max(1, about.num_rows)


def _column(column, name, reading, path, columns):
    """Return the values of a column as texts, None where one is missing."""
    import pyarrow
    try:
        return [written(content) for content in column.cast(pyarrow.large_binary()).to_pylist()]
    except pyarrow.ArrowNotImplementedError:
        pass
    try:
        if reading.template is not None:
            is_fraction = pyarrow.types.is_floating(column.type)
            return _numbers(column) if is_fraction else list(map(written, column.to_pylist()))
    except TypeError:
        pass
    advice = "" if reading.template is not None else (f" Its columns are {listed(columns)}. "
                                                      "Say which one has the text: --field NAME.")
    raise FolioError(f"{path} has {column.type} in its column {name!r}, not text.{advice}") from None


def _numbers(column):
    """Return fractions in as few digits as tell them from their neighbors of the same width; whole ones without .0."""
    import pyarrow
    digits = column.cast(pyarrow.string()).to_pylist()
    return [None if text in (None, "nan") else text.removesuffix(".0") for text in digits]
