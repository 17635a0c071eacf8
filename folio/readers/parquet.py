"""Parquet: each row is a document, with its text in one column or in several."""

from collections.abc import Iterator

from folio.base.errors import FolioError
from folio.readers.mending import Mending
from folio.readers.records import Texts, listed, written
from folio.readers.source import BLOCK_BYTES, Source
from Model_Params import TextParams


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, True, where). Raises FolioError where the file is damaged, or has no such column of text."""
    path = source.path
    source.refuse_packed("Parquet")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise FolioError(f"To read {path} takes pyarrow, which is not installed: "
                         "python -m pip install pyarrow") from None
    number = 0
    try:
        with path.open("rb") as file, parquet.ParquetFile(file) as rows:
            columns = rows.schema_arrow.names
            if reading.template is None and reading.field not in columns:
                raise FolioError(f"{path} has no column {reading.field!r}, only {listed(columns)}. "
                                 "Say which one has the text: --field NAME.")
            texts = Texts(source, reading, mending, columns)
            about = rows.metadata
            unpacked = sum(about.row_group(index).total_byte_size for index in range(about.num_row_groups))
            # 1024: rows that repeat others take little space in the file, but each takes its own in memory.
            batch_rows = min(1024, about.num_rows * BLOCK_BYTES // max(1, unpacked) + 1)
            for batch in rows.iter_batches(batch_rows, columns=list(dict.fromkeys(texts.names))):
                values = [_column(batch.column(name), name, reading, path, columns) for name in texts.names]
                first = number + 1
                for number, row in enumerate(zip(*values), first):
                    if (text := texts.of(row)) is not None:
                        yield text, True, f"{path}, row {number},"
                source.bytes_read = path.stat().st_size * number // max(1, about.num_rows)
            texts.finish()
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise                       # from the system: no such file, no permission
        reason = " ".join(str(error).split())       # in one line
        raise FolioError(f"{path} is damaged, or no Parquet file ({reason}). Fetch it anew.") from None


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
