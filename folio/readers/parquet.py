"""Parquet: each row is a document, with its text in one column."""

from collections.abc import Iterator

from folio.base.errors import FolioError
from folio.readers.mending import Mending
from folio.readers.records import listed
from folio.readers.source import BLOCK_BYTES, Source
from Model_Params import TextParams


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, True, where). Raises FolioError where the file is damaged, or has no such column of text."""
    path, field = source.path, reading.field
    if source.is_packed:
        raise FolioError(f"{path} is Parquet inside gzip, which has to be unpacked first: gunzip {path.name}")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise FolioError(f"To read {path} takes pyarrow, which is not installed: "
                         "python -m pip install pyarrow") from None
    number = 0
    try:
        with path.open("rb") as file, parquet.ParquetFile(file) as rows:
            names = rows.schema_arrow.names
            if field not in names:
                raise FolioError(f"{path} has no column {field!r}, only {listed(names)}. "
                                 "Say which one has the text: --field NAME.")
            about = rows.metadata
            unpacked = sum(about.row_group(index).total_byte_size for index in range(about.num_row_groups))
            # 1024: rows that repeat others take little space in the file, but each takes its own in memory.
            batch_rows = min(1024, about.num_rows * BLOCK_BYTES // max(1, unpacked) + 1)
            for batch in rows.iter_batches(batch_rows, columns=[field]):
                try:
                    contents = batch.column(0).cast(pyarrow.large_binary()).to_pylist()
                except pyarrow.ArrowNotImplementedError:
                    raise FolioError(f"{path} has {batch.column(0).type} in its column {field!r}, not text. "
                                     f"Its columns are {listed(names)}. "
                                     "Say which one has the text: --field NAME.") from None
                first = number + 1
                for number, content in enumerate(contents, first):
                    if content is not None:
                        yield content.decode("utf-8", errors="surrogateescape"), True, f"{path}, row {number},"
                source.bytes_read = path.stat().st_size * number // max(1, about.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise                       # from the system: no such file, no permission
        reason = " ".join(str(error).split())       # in one line
        raise FolioError(f"{path} is damaged, or no Parquet file ({reason}). Fetch it anew.") from None
