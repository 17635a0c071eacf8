"""Files to documents: plain text, JSON lines and Parquet, packed by gzip or not, read piece by piece, and what was mended is counted."""

import codecs
import gzip
import json
import re
import zlib
from collections import Counter
from contextlib import nullcontext
from itertools import chain
from pathlib import PurePath

import regex

from folio.errors import FolioError
from tokenizer import END_OF_TEXT

BLOCK_BYTES = 1 << 19           # read at a time; memory stays a small multiple of this. Four times as much is hardly faster, and takes twice the memory

# Where a text may be cut for tokenizing: pieces of either split pattern never reach from a non-space character into a space, nor from
# a letter to what is none; a text without spaces has the latter. (?r) searches backwards, for the last such place.
_LAST_SAFE_CUT = regex.compile(r"(?r)\S(?= )|\p{L}(?=\P{L})")

_LINE = re.escape(END_OF_TEXT) + r"\n"
_SEPARATOR = re.compile(rf"{_LINE}(?<=\n{_LINE})")       # looks behind last: `re` is quick to find what begins with plain letters

_REPLACED = "U+FFFD for what was no text"
_ERRORS = {"refuse": "strict", "keep": "surrogateescape", "replace": "replace"}

# What a \u in JSON may spell and is no text: NUL, and half a surrogate pair. Bytes that are kept travel as such halves.
_NO_TEXT = {"refuse": re.compile(r"[\0\ud800-\udfff]"), "keep": re.compile(r"[\ud800-\udc7f\udd00-\udfff]"),
            "replace": re.compile(r"[\0\ud800-\udfff]")}


class Documents:
    """The documents of some files, as often as they are iterated over; an empty one counts as none.

    A plain file is one document, or several with a line between them that holds nothing but <|endoftext|>; a line of a .jsonl file
    is one, and a row of a .parquet file, both with their text in `field`.

    Yields (text, ends_document): whole documents, or chunks of about half a megabyte, cut where no piece of a split pattern is cut; where
    there is no such place the chunk grows. `mended` counts what the last pass put right: "byte order mark", "CRLF",
    and what was replaced; `bytes_read` says how far into the files it is.
    Undecodable bytes that are kept travel in the text as lone surrogates (PEP 383).
    """

    def __init__(self, files, invalid_bytes="refuse", field="text"):
        self.files = list(files)
        self.invalid_bytes = invalid_bytes
        self.field = field
        self.mended = Counter()
        self.bytes_read = 0

    @property
    def file_bytes(self):
        """The size of all files, as they lie on the disk."""
        return sum(path.stat().st_size for path in self.files)

    def __iter__(self):
        self.mended = Counter()
        self.bytes_read = 0
        for path in self.files:
            is_empty = True                     # the document, so far
            for chunk, ends_document in _cut_safely(self._read(path)):
                is_empty = is_empty and not chunk
                if not is_empty:
                    yield chunk, ends_document
                is_empty = is_empty or ends_document

    def _read(self, path):
        """-> (text, ends_document), again and again, in pieces of any size. ValueError names the file and the place."""
        suffix = PurePath(path.name.lower().removesuffix(".gz")).suffix
        if suffix == ".parquet":
            if path.name.lower().endswith(".gz"):
                raise FolioError(f"{path} is Parquet inside gzip, which has to be unpacked first: gunzip {path.name}")
            return self._read_parquet(path)
        if suffix in (".jsonl", ".ndjson"):
            return self._read_json_lines(path)
        return _separate(self._read_plain(path))

    def _read_plain(self, path):
        """Yield the text of one file, a block at a time: BOM dropped, CRLF turned to LF."""
        decoder = codecs.getincrementaldecoder("utf-8")(_ERRORS[self.invalid_bytes])
        held_back = ""                      # a CR at the end of a block: the LF may open the next one
        read = 0                            # bytes of the text before this block
        for block in chain(self._unpacked(path, lambda file: file.read(BLOCK_BYTES)), [b""]):
            if self.invalid_bytes == "refuse" and (nul := block.find(0)) >= 0:
                raise FolioError(_not_text(path, 0, read + nul, block if read == 0 else b""))
            try:
                text = held_back + decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                offset = read + len(block) - len(error.object) + error.start
                raise FolioError(_not_text(path, error.object[error.start], offset, block if read == 0 else b"")) from None
            if read == 0:
                text = self._without_mark(text)
            held_back = "\r" if block and text.endswith("\r") else ""
            text = text.removesuffix(held_back)
            if "\r\n" in text:
                self.mended["CRLF"] += text.count("\r\n")
                text = text.replace("\r\n", "\n")
            yield self._with_replacements(text)
            read += len(block)

    def _read_json_lines(self, path):
        number = 0
        for lines in self._unpacked(path, lambda file: file.readlines(BLOCK_BYTES)):
            for number, line in enumerate(lines, number + 1):
                if line.strip():
                    yield self._text_of_json(line, f"{path}, line {number},", is_first=number == 1), True

    def _text_of_json(self, line, where, is_first):
        line = self._decode(line, where)
        if is_first:
            line = self._without_mark(line)
        try:
            record = json.loads(line, strict=self.invalid_bytes == "refuse")
        except (ValueError, RecursionError) as error:
            raise FolioError(f"{where} is not JSON ({error}). Mend it, or give the file another suffix, such as .txt, to read it as plain text."
                             ) from None
        if not isinstance(record, dict):
            raise FolioError(f"{where} is no JSON object but {_KINDS[type(record)]}. Each line should be like "
                             f"{{\"{self.field}\": \"Once upon...\"}}.")
        if self.field not in record:
            raise FolioError(f"{where} has no field {self.field!r}, only {_listed(record)}. Say which one has the text: --field NAME.")
        text = record[self.field]
        if not isinstance(text, str):
            raise FolioError(f"{where} has {_KINDS[type(text)]} in its field {self.field!r}, not text. Its fields are {_listed(record)}. "
                             "Say which one has the text: --field NAME.")
        if "\\u" in line and (wrong := _NO_TEXT[self.invalid_bytes].search(text)):
            if self.invalid_bytes == "refuse":
                raise FolioError(f"{where} has \\u{ord(wrong[0]):04x} in its field {self.field!r}, which is no text. "
                                 "Take it out, or pass --invalid-bytes replace (by U+FFFD).")
            text, count = _NO_TEXT[self.invalid_bytes].subn("\ufffd", text)
            if self.invalid_bytes == "keep":        # else it is counted with all the others
                self.mended[_REPLACED] += count
        return self._with_replacements(text)

    def _read_parquet(self, path):
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise FolioError(f"To read {path} takes pyarrow, which is not installed: python -m pip install pyarrow") from None
        start, number = self.bytes_read, 0
        try:
            with path.open("rb") as file, parquet.ParquetFile(file) as rows:
                if self.field not in rows.schema_arrow.names:
                    raise FolioError(f"{path} has no column {self.field!r}, only {_listed(rows.schema_arrow.names)}. "
                                     "Say which one has the text: --field NAME.")
                about = rows.metadata
                unpacked = sum(about.row_group(index).total_byte_size for index in range(about.num_row_groups))
                batch_rows = min(1024, about.num_rows * BLOCK_BYTES // max(1, unpacked) + 1)       # 1024: what repeats is packed tightly
                for batch in rows.iter_batches(batch_rows, columns=[self.field]):
                    try:
                        contents = batch.column(0).cast(pyarrow.large_binary()).to_pylist()
                    except pyarrow.ArrowNotImplementedError:
                        raise FolioError(f"{path} has {batch.column(0).type} in its column {self.field!r}, not text. "
                                         f"Its columns are {_listed(rows.schema_arrow.names)}. Say which one has the text: --field NAME.") from None
                    for number, content in enumerate(contents, number + 1):
                        if content is not None:
                            yield self._with_replacements(self._decode(content, f"{path}, row {number},")), True
                    self.bytes_read = start + path.stat().st_size * number // max(1, about.num_rows)
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise                       # the system's own: no such file, no permission
            reason = " ".join(str(error).split())       # which may have several lines
            raise FolioError(f"{path} is damaged, or no Parquet file ({reason}). Fetch it anew.") from None

    def _unpacked(self, path, read):
        """Yield what `read` takes from a file, unpacked if it ends in .gz, until there is no more."""
        start = self.bytes_read
        try:
            with path.open("rb") as file, gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else nullcontext(file) as unpacked:
                while piece := read(unpacked):
                    self.bytes_read = start + file.tell()
                    yield piece
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise FolioError(f"{path} is damaged, or no gzip file ({error}). Fetch it anew.") from None

    def _decode(self, content, where):
        """The text of a line or row."""
        if self.invalid_bytes == "refuse" and (nul := content.find(0)) >= 0:
            raise FolioError(_not_text(where, 0, nul, content))
        try:
            return content.decode("utf-8", _ERRORS[self.invalid_bytes])
        except UnicodeDecodeError as error:
            raise FolioError(_not_text(where, content[error.start], error.start, content)) from None

    def _without_mark(self, text):
        if text.startswith("\ufeff"):
            self.mended["byte order mark"] += 1
        return text.removeprefix("\ufeff")

    def _with_replacements(self, text):
        if self.invalid_bytes == "replace":
            text = text.replace("\0", "\ufffd")
            if "\ufffd" in text:
                self.mended[_REPLACED] += text.count("\ufffd")
        return text


def _separate(blocks):
    """Turn blocks of text into (text, ends_document): a line that holds nothing but <|endoftext|> ends a document and belongs to none.
    >>> list(_separate(["one\\n<|endof", "text|>\\ntwo"]))
    [('one\\n', False), ('', True), ('two', False), ('', True)]
    """
    text = "\n"                             # its first character is behind us; a text begins as if a line had ended before it
    for block in blocks:
        text += block
        last_line = text.rfind("\n") + 1
        # Held back: the last line, if it may become a separator.
        end = last_line if last_line and END_OF_TEXT.startswith(text[last_line:last_line + len(END_OF_TEXT) + 1]) else len(text)
        if END_OF_TEXT in text:
            first, *others = _SEPARATOR.split(text[:end])
            *documents, rest = first[1:], *others
            for document in documents:
                yield document, True
        else:
            rest = text[1:end]
        if rest:
            yield rest, False
        text = text[end - 1:]
    yield "" if text[1:] == END_OF_TEXT else text[1:], True


def _cut_safely(texts):
    """Turn (text, ends_document) of any size into chunks; every one that ends no document ends at a safe place."""
    waiting = []                            # texts since the last safe place
    for text, ends_document in texts:
        if ends_document:
            yield "".join(waiting) + text, True
            waiting = []
            continue
        before = waiting[-1][-1:] if waiting else ""
        if cut := _LAST_SAFE_CUT.search(before + text):
            end = cut.end() - len(before)
            yield "".join(waiting) + text[:end], False
            waiting = []
            text = text[end:]
        if text:
            waiting.append(text)


_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number", bool: "a truth value", type(None): "null"}


def _listed(names):
    """The first names, to be read.
    >>> print(_listed(["title", "body"]))
    'title', 'body'
    """
    names = list(names)
    return ", ".join(map(repr, names[:10])) + " and others" * (len(names) > 10) or "none at all"


def _not_text(where, value, offset, beginning):
    """The message for a byte that is not text, with the likely reason where the first bytes (or nothing) tell."""
    if beginning[:2] in (b"\xff\xfe", b"\xfe\xff"):
        reason = "It looks like UTF-16: save it as UTF-8."
    elif value == 0:
        reason = "It looks like a binary file: take it out."
    else:
        reason = "It may be in another encoding, such as Latin-1: save it as UTF-8."
    return (f"{where} is not UTF-8 text: byte 0x{value:02X} at offset {offset}. {reason} "
            "Or pass --invalid-bytes keep (as they are) or --invalid-bytes replace (by U+FFFD).")
