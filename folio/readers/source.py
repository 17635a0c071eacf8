"""A file that is being read: its bytes, unpacked, a block at a time."""

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import PurePath
from typing import Any

from folio.base.errors import FolioError
from folio.base.visible import on_one_line

# Bytes read at a time; memory stays a small multiple of this. Four times as many are hardly faster and take twice as
# much memory.
BLOCK_BYTES = 1 << 19
LONGEST_LINE = 1 << 22      # characters; a messenger allows some thousands, a subtitle has some tens


class Source:
    """A file, or anything that has its name, open("rb") and stat()."""

    def __init__(self, path: Any):
        self.path = path
        self.bytes_read = 0             # of the file as it is on the disk

    def __str__(self):
        return on_one_line(str(self.path))          # as sentences name it; a name may have line ends

    @property
    def is_packed(self) -> bool:
        """Whether it is in gzip, by its name."""
        return self.path.name.lower().endswith(".gz")

    @property
    def suffix(self) -> str:
        """The suffix of its name in lower case, of what is packed where it is packed: ".jsonl"."""
        return PurePath(self.path.name.lower().removesuffix(".gz")).suffix

    def refuse_packed(self, name: str) -> None:
        """Raise FolioError where it is in gzip, for kinds that are not read as a stream. name: as in "Parquet"."""
        if self.is_packed:
            raise FolioError(f"{self} is {name} inside gzip, which has to be unpacked first: gunzip {self.path.name}")

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes, decompressed where it is packed. Raises FolioError where that is damaged."""
        try:
            with (self.path.open("rb") as file,
                  gzip.GzipFile(fileobj=file) if self.is_packed else nullcontext(file) as unpacked):
                while block := unpacked.read(BLOCK_BYTES):
                    self.bytes_read = file.tell() if file.seekable() else 0         # a pipe cannot say
                    yield block
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise FolioError(f"{self} is damaged, or no gzip file ({error}). Fetch it anew.") from None


def decoded(blocks: Iterable[bytes]) -> Iterator[str]:
    """Decode a stream of blocks of bytes, of any size, as UTF-8, with undecodable bytes as lone surrogates."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for block in blocks:
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def lines_of(texts: Iterable[str]) -> Iterator[str]:
    """Turn a stream of text into lines without their line ends, which are LF, CRLF or CR.

    A line longer than LONGEST_LINE is cut.

    >>> list(lines_of(["one\\r", "\\ntw", "o\\rthree"]))
    ['one', 'two', 'three']
    """
    held = ""
    for text in texts:
        held += text
        end = len(held) - held.endswith("\r")           # its LF may come next
        *lines, rest = held[:end].replace("\r\n", "\n").replace("\r", "\n").split("\n")
        yield from lines
        held = rest + held[end:]
        if len(held) > LONGEST_LINE:
            yield held
            held = ""
    if held:
        yield held.removesuffix("\r")
