"""The kinds of files that can be read, and which of them a file is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from folio.readers import (
    chats,
    json_array,
    json_lines,
    messages,
    parquet,
    plain_text,
    spreadsheets,
    subtitles,
    tables,
)
from folio.readers.mending import Mending
from folio.readers.source import Source
from Model_Params import TextParams


@dataclass(frozen=True)
class Kind:
    """A kind of files."""
    name: str                           # with its article, as in "... is a Word document"
    suffixes: tuple[str, ...]           # in lower case, with the dot
    read: Callable[[Source, TextParams, Mending], Iterator[tuple[str, bool, object]]]   # (text, ends_document, where)
    separates: bool = False             # whether lines of <|endoftext|> separate documents in it


PLAIN_TEXT = Kind("plain text", (".txt",), plain_text.read, separates=True)      # what no other suffix stands for
KINDS = (PLAIN_TEXT, Kind("a file of JSON lines", (".jsonl", ".ndjson"), json_lines.read),
         Kind("a JSON file", (".json",), json_array.read), Kind("a Parquet file", (".parquet",), parquet.read),
         Kind("a table", (".csv", ".tsv"), tables.read), Kind("an Excel workbook", (".xlsx",), spreadsheets.read),
         Kind("a mailbox", (".mbox", ".mbx"), messages.read), Kind("a mail", (".eml",), messages.read_one),
         Kind("subtitles", (".srt", ".vtt"), subtitles.read))


def kind_of(source: Source) -> Kind:
    """Return the Kind of a file."""
    if read := chats.reader_of(Source(source.path)):
        return Kind("a chat", (), read)
    return next((kind for kind in KINDS if source.suffix in kind.suffixes), PLAIN_TEXT)
