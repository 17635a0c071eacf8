"""What a file is by what is in it: its first bytes, the members of a zip file, the streams of an OLE file."""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import islice
from typing import Any, Protocol

from folio.base.errors import FolioError
from folio.readers.source import BLOCK_BYTES, Source

HEAD_BYTES = 4096               # enough for every mark; a tar file has its own at byte 257
LARGEST_DOCUMENT = 1 << 28      # bytes: documents are read as a whole; a novel with pictures has some millions

_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


class Content:
    """What marks are looked for in. Nothing but the first bytes is read before it is asked for."""

    def __init__(self, source: Source):
        self.source = source

    @cached_property
    def head(self) -> bytes:
        """The first bytes, unpacked. Raises FolioError where a file in gzip is damaged."""
        head = next(self.source.blocks(), b"")[:HEAD_BYTES]
        self.source.bytes_read = 0
        return head

    @property
    def is_zip(self) -> bool:
        """Whether it begins as a zip file does."""
        return self.head.startswith(_ZIP)

    @cached_property
    def members(self) -> list[str]:
        """The names of the files in a zip file; none if it is no such file, or damaged."""
        return self._in_zip(zipfile.ZipFile.namelist, [])

    @cached_property
    def mimetype(self) -> str:
        """What a zip file says it is, as OpenDocument and EPUB do, in a file with that name."""
        return self._in_zip(lambda packed: beginning(packed, "mimetype", 100).decode("latin-1").strip(), "")

    @cached_property
    def streams(self) -> str:
        """The part of an OLE file that names its streams, as text; "" if it is no such file."""
        if not self.head.startswith(_OLE):
            return ""
        sector_bytes = 1 << min(int.from_bytes(self.head[30:32], "little"), 12)
        place = (int.from_bytes(self.head[48:52], "little") + 1) * sector_bytes
        with self.source.path.open("rb") as file:
            file.seek(place)
            return file.read(HEAD_BYTES).decode("utf-16-le", errors="replace")

    def _in_zip(self, look: Callable[[zipfile.ZipFile], Any], otherwise: Any) -> Any:
        if not self.is_zip:
            return otherwise
        try:
            with (BytesIO(whole(self.source)) if self.source.is_packed else self.source.path.open("rb")) as file:
                return look(zipfile.ZipFile(file))
        except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError, ValueError, zlib.error):
            return otherwise    # damaged, or with a password


class Mark(Protocol):
    """Tells whether a file is of a certain kind."""
    def is_in(self, content: Content) -> bool: ...


@dataclass(frozen=True)
class First:
    """Bytes at a fixed place near the start. Where a text might have them there, it takes a NUL, too."""
    magic: bytes
    offset: int = 0
    with_nul: bool = False

    def is_in(self, content: Content) -> bool:
        return content.head.startswith(self.magic, self.offset) and (not self.with_nul or b"\0" in content.head)


@dataclass(frozen=True)
class Member:
    """The beginning of the name of a file in a zip file."""
    name: str

    def is_in(self, content: Content) -> bool:
        return any(member.startswith(self.name) for member in content.members)


@dataclass(frozen=True)
class MimeType:
    """What a zip file says that it is."""
    name: str

    def is_in(self, content: Content) -> bool:
        return content.mimetype == self.name


@dataclass(frozen=True)
class Stream:
    """The name of a stream in an OLE file, the container of Office's old and of its encrypted files."""
    name: str

    def is_in(self, content: Content) -> bool:
        return self.name in content.streams


def beginning(packed: zipfile.ZipFile, name: str, size: int) -> bytes:
    """Return the first bytes of a member of a zip file, however large it is. Raises KeyError where there is none."""
    with packed.open(name) as file:
        return file.read(size)


def whole(source: Source) -> bytes:
    """Return all bytes of a file. Raises FolioError where they are too many for a document."""
    content = b"".join(islice(source.blocks(), LARGEST_DOCUMENT // BLOCK_BYTES + 1))
    if len(content) > LARGEST_DOCUMENT:
        raise FolioError(f"{source} has more than {LARGEST_DOCUMENT >> 20} MB, more than is read as one document: "
                         "save it as plain text.")
    return content
