"""Paths to documents: finds the files, reads them as UTF-8 piece by piece, and keeps count of what it mended."""

import codecs
from collections import Counter
from pathlib import Path

import regex

BLOCK_BYTES = 1 << 20           # read at a time; memory stays a small multiple of this

# Where a text may be cut for tokenizing: pieces of either split pattern never reach from a non-space character into a space.
# (?r) searches backwards, for the last such place.
_LAST_SAFE_CUT = regex.compile(r"(?r)\S(?= )")

_ERRORS = {"refuse": "strict", "keep": "surrogateescape", "replace": "replace"}


def find_files(paths, ignored=()):
    """The files that `paths` (files and folders) name, in sorted order; hidden files and the `ignored` folders are passed over.

    Raises FileNotFoundError for a path that is not there, ValueError where no file is found at all.
    """
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            passed_over = {Path(folder).resolve() for folder in ignored}
            passed_over |= {about.parent.resolve() for about in path.rglob("tokens/corpus.json")}       # another project's
            inside = [file.relative_to(path) for file in path.rglob("*") if file.is_file() and not passed_over & set(file.resolve().parents)]
            files += [path / file for file in sorted(inside) if not any(part.startswith(".") for part in file.parts)]
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"There is no {path}. Put your text at Train_Data/input.txt, or pass files or folders: python init.py PATH ...")
    if not files:
        raise ValueError(f"There is no text in {', '.join(map(str, paths))}. "
                         "Put your text at Train_Data/input.txt, or pass files or folders: python init.py PATH ...")
    return files


class Documents:
    """The text of some files, one document a file, as often as it is iterated over.

    Yields (text, ends_document): chunks of about a megabyte, cut where no piece of a split pattern is cut; where there is no such
    place the chunk grows. `mended` counts what the last pass put right: "byte order mark", "CRLF",
    and what was replaced.
    Undecodable bytes that are kept travel in the text as lone surrogates (PEP 383).
    """

    def __init__(self, files, invalid_bytes="refuse"):
        self.files = list(files)
        self.invalid_bytes = invalid_bytes
        self.mended = Counter()

    def __iter__(self):
        self.mended = Counter()
        for path in self.files:
            yield from _cut_safely(self._read(path))

    def _read(self, path):
        """Yield the text of one file, a block at a time: BOM dropped, CRLF turned to LF. ValueError names the file and the offset."""
        decoder = codecs.getincrementaldecoder("utf-8")(_ERRORS[self.invalid_bytes])
        held_back = ""                      # a CR at the end of a block: the LF may open the next one
        read = 0                            # bytes of the file before this block
        with path.open("rb") as file:
            while True:
                block = file.read(BLOCK_BYTES)
                if self.invalid_bytes == "refuse" and (nul := block.find(0)) >= 0:
                    raise ValueError(_not_text(path, 0, read + nul, block if read == 0 else b""))
                try:
                    text = held_back + decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    offset = read + len(block) - len(error.object) + error.start
                    raise ValueError(_not_text(path, error.object[error.start], offset, block if read == 0 else b"")) from None
                if read == 0 and text.startswith("\ufeff"):
                    text = text[1:]
                    self.mended["byte order mark"] += 1
                held_back = "\r" if block and text.endswith("\r") else ""
                text = text.removesuffix(held_back)
                if "\r\n" in text:
                    self.mended["CRLF"] += text.count("\r\n")
                    text = text.replace("\r\n", "\n")
                if self.invalid_bytes == "replace":
                    text = text.replace("\0", "\ufffd")
                    if "\ufffd" in text:
                        self.mended["U+FFFD for what was no text"] += text.count("\ufffd")
                yield text
                if not block:
                    return
                read += len(block)


def _cut_safely(texts):
    """Turn blocks of one document into (chunk, ends_document); every chunk but the last ends at a safe place."""
    waiting = []                            # blocks since the last safe place
    for text in texts:
        before = waiting[-1][-1:] if waiting else ""
        if cut := _LAST_SAFE_CUT.search(before + text):
            end = cut.end() - len(before)
            yield "".join(waiting) + text[:end], False
            waiting = []
            text = text[end:]
        if text:
            waiting.append(text)
    yield "".join(waiting), True


def _not_text(path, value, offset, beginning):
    """The message for a byte that is not text, with the likely reason where the file's first bytes (or nothing) tell."""
    if beginning[:2] in (b"\xff\xfe", b"\xfe\xff"):
        reason = "It looks like UTF-16: save it as UTF-8."
    elif value == 0:
        reason = "It looks like a binary file: take it out."
    else:
        reason = "It may be in another encoding, such as Latin-1: save it as UTF-8."
    return (f"{path} is not UTF-8 text: byte 0x{value:02X} at offset {offset}. {reason} "
            "Or pass --invalid-bytes keep (as they are) or --invalid-bytes replace (by U+FFFD).")
