"""Texts of files that take longer to read than to read back, as tables do, kept on the disk from pass to pass."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from folio.kernels.splitting import pack, unpack

_LOSSLESS = "surrogatepass"         # lone surrogates of two documents must not become one character


class KeptTexts:
    """The texts of files in a temporary file, which has no name and is gone when it is closed or the process ends."""

    def __init__(self, folder: Path):
        """folder: on the disk where the tokens go; the texts are about as large."""
        self._file = TemporaryFile(dir=folder, prefix=".texts-", suffix=".tmp")
        self._groups, self._finished = {}, set()        # {path: [(place, documents, bytes, ends_document, read)]}

    def __contains__(self, path: Any) -> bool:
        """Whether a file has been kept whole."""
        return path in self._finished

    def add(self, path: Any, texts: Sequence[str], ends_document: bool, bytes_read: int) -> None:
        """Keep what Documents.groups yields. bytes_read: of the file so far"""
        text, lengths = pack(texts)
        content = text.encode("utf-8", errors=_LOSSLESS)
        place = self._file.seek(0, 2)
        self._file.write(lengths)
        self._file.write(content)
        self._groups.setdefault(path, []).append((place, len(texts), len(content), ends_document, bytes_read))

    def finish(self, path: Any) -> None:
        """Note that all of a file has been added."""
        self._finished.add(path)

    def read(self, path: Any) -> Iterator[tuple[list[str], bool, int]]:
        """Yield (texts, ends_document, bytes_read) as they were added."""
        for place, count, size, ends_document, bytes_read in self._groups.get(path, ()):
            self._file.seek(place)
            lengths = np.frombuffer(self._file.read(8 * count), np.int64)
            text = self._file.read(size).decode("utf-8", errors=_LOSSLESS)
            yield unpack(text, lengths), ends_document, bytes_read

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()
