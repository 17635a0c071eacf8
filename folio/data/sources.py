"""Files to documents: plain text, JSON lines and Parquet, the first two also in gzip; read in bounded chunks."""

import codecs
import gzip
import json
import re
import zlib
from contextlib import nullcontext
from itertools import chain
from pathlib import PurePath

from folio.base.errors import FolioError
from folio.data.mending import STRAY_SEPARATOR, Mending
from folio.kernels.splitting import LAST_SAFE_CUT, LONGEST_RUN
from tokenizer import END_OF_TEXT

# Bytes read at a time; memory stays a small multiple of this. Four times as many are hardly faster and take twice as
# much memory.
BLOCK_BYTES = 1 << 19
LONG_LINE = 1 << 22             # bytes: a longer line of JSON is scanned in parts; a shorter one takes little memory

_LINE = re.escape(END_OF_TEXT) + r"\n"
# The lookbehind comes last, as `re` searches fast for a pattern that begins with literal characters.
_SEPARATOR = re.compile(rf"{_LINE}(?<=\n{_LINE})")

# In a JSON string: everything up to its end, or up to an incomplete escape; a surrogate pair counts as one escape.
_STRING_PART = re.compile(r'''(?:[^"\\]+|\\[^u]|\\u(?![dD][89abAB])[^"\\]{4}'''
                          r'''|\\u[dD][89abAB][^"\\]{2}(?:\\u[^"\\]{4}|(?=[^\\])|(?=\\[^u])))*+''')
_OUTSIDE_STRINGS = re.compile(r'[^"{}\[\]]*')


class Documents:
    """The documents in files. Each iteration reads the files again; an empty document does not count.

    A plain file is one document, or several with a line between them that holds nothing but <|endoftext|>. Each line of
    a .jsonl file and each row of a .parquet file is a document, with its text in `field`.

    Yields (text, ends_document): whole documents, or chunks of about half a megabyte, cut between two pre-tokens; see
    splitting.LONGEST_RUN for a text that has no such place. Undecodable bytes that are kept are lone surrogates in the
    text (PEP 383). `mended` counts what the last pass corrected, as Mending.found, and separators inside a line.
    `bytes_read` is how many bytes of the files have been read.
    """

    def __init__(self, files, invalid_bytes="refuse", field="text"):
        self.files = list(files)
        self.invalid_bytes = invalid_bytes
        self.field = field
        self.mending = Mending(invalid_bytes)
        self.bytes_read = 0

    @property
    def mended(self):
        """What the last pass corrected, and how often."""
        return self.mending.found

    @property
    def file_bytes(self):
        """The size of all files on the disk, compressed if they are."""
        return sum(path.stat().st_size for path in self.files)

    def __iter__(self):
        self.mending = Mending(self.invalid_bytes)
        self.bytes_read = 0
        for path in self.files:
            is_empty = True         # the document so far
            tail = ""               # its last characters, which may be the beginning of a separator
            for chunk, ends_document in _cut_safely(self._read(path)):
                is_empty = is_empty and not chunk
                if strays := (tail + chunk).count(END_OF_TEXT):
                    self.mended[STRAY_SEPARATOR] += strays
                tail = "" if ends_document else (tail + chunk)[1 - len(END_OF_TEXT):]
                if not is_empty:
                    yield chunk, ends_document
                is_empty = is_empty or ends_document

    def _read(self, path):
        """Yield (text, ends_document), in chunks of any size. FolioError names the file and the place."""
        suffix = PurePath(path.name.lower().removesuffix(".gz")).suffix
        if suffix == ".parquet":
            if path.name.lower().endswith(".gz"):
                raise FolioError(f"{path} is Parquet inside gzip, which has to be unpacked first: gunzip {path.name}")
            return self.mending(self._read_parquet(path))
        if suffix in (".jsonl", ".ndjson"):
            return self.mending(self._read_json_lines(path))
        return _separate(text for text, _ in self.mending(self._read_plain(path)))

    # Readers yield (text, ends_document, where), with undecodable bytes as lone surrogates, as Mending takes them.

    def _read_plain(self, path):
        for text in _decoded(self._unpacked(path)):
            yield text, False, path
        yield "", True, path

    def _read_json_lines(self, path):
        number, parts = 1, _lines(self._unpacked(path))
        for part, ends_line in parts:
            where = f"{path}, line {number},"
            if not ends_line:
                yield from self._scan_line(chain([part], _rest_of_line(parts)), where)
            elif part.strip():
                line = self.mending.without_mark(part.decode("utf-8", errors="surrogateescape"))
                yield self._text_of(self._parsed(line, line, where), where), True, where
            number += 1

    def _scan_line(self, parts, where):
        """Yield the text of a line that is too long for memory, and check the line at its end."""
        scanned = ScannedObject(self.field, strict=self.invalid_bytes == "refuse")
        texts = filter(None, _decoded(parts))
        for text in chain([self.mending.without_mark(next(texts, ""))], texts):
            try:
                for found in scanned.feed(text):
                    yield found, False, where
            except ValueError as error:
                self._refuse_line(text, where, error)
        self._text_of(self._parsed("".join(scanned.outline), "", where), where)
        yield "", True, where

    def _parsed(self, line, shown, where):
        try:
            return json.loads(line, strict=self.invalid_bytes == "refuse")
        except (ValueError, RecursionError) as error:
            self._refuse_line(shown, where, error)

    def _refuse_line(self, line, where, error):
        if self.invalid_bytes == "refuse":
            self.mending.as_text(line, where)       # if this refuses it, it says why it is not JSON
        raise FolioError(f"{where} is not JSON ({error}). Mend it, or give the file another suffix, such as .txt, "
                         "to read it as plain text.") from None

    def _text_of(self, record, where):
        if not isinstance(record, dict):
            raise FolioError(f"{where} is no JSON object but {_KINDS[type(record)]}. Each line should be like "
                             f"{{\"{self.field}\": \"Once upon...\"}}.")
        if self.field not in record:
            raise FolioError(f"{where} has no field {self.field!r}, only {_listed(record)}. "
                             "Say which one has the text: --field NAME.")
        text = record[self.field]
        if not isinstance(text, str):
            raise FolioError(f"{where} has {_KINDS[type(text)]} in its field {self.field!r}, not text. "
                             f"Its fields are {_listed(record)}. Say which one has the text: --field NAME.")
        return text

    def _read_parquet(self, path):
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise FolioError(f"To read {path} takes pyarrow, which is not installed: "
                             "python -m pip install pyarrow") from None
        start, number = self.bytes_read, 0
        try:
            with path.open("rb") as file, parquet.ParquetFile(file) as rows:
                names = rows.schema_arrow.names
                if self.field not in names:
                    raise FolioError(f"{path} has no column {self.field!r}, only {_listed(names)}. "
                                     "Say which one has the text: --field NAME.")
                about = rows.metadata
                unpacked = sum(about.row_group(index).total_byte_size for index in range(about.num_row_groups))
                # 1024: rows that repeat others take little space in the file, but each takes its own in memory.
                batch_rows = min(1024, about.num_rows * BLOCK_BYTES // max(1, unpacked) + 1)
                for batch in rows.iter_batches(batch_rows, columns=[self.field]):
                    try:
                        contents = batch.column(0).cast(pyarrow.large_binary()).to_pylist()
                    except pyarrow.ArrowNotImplementedError:
                        raise FolioError(f"{path} has {batch.column(0).type} in its column {self.field!r}, not text. "
                                         f"Its columns are {_listed(names)}. "
                                         "Say which one has the text: --field NAME.") from None
                    first = number + 1
                    for number, content in enumerate(contents, first):
                        if content is not None:
                            yield content.decode("utf-8", errors="surrogateescape"), True, f"{path}, row {number},"
                    self.bytes_read = start + path.stat().st_size * number // max(1, about.num_rows)
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise                       # from the system: no such file, no permission
            reason = " ".join(str(error).split())       # in one line
            raise FolioError(f"{path} is damaged, or no Parquet file ({reason}). Fetch it anew.") from None

    def _unpacked(self, path):
        """Yield the bytes of a file, a block at a time, decompressed if its name ends in .gz."""
        start, is_gzip = self.bytes_read, path.name.lower().endswith(".gz")
        try:
            with path.open("rb") as file, gzip.GzipFile(fileobj=file) if is_gzip else nullcontext(file) as unpacked:
                while block := unpacked.read(BLOCK_BYTES):
                    self.bytes_read = start + (file.tell() if file.seekable() else 0)       # a pipe cannot say
                    yield block
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise FolioError(f"{path} is damaged, or no gzip file ({error}). Fetch it anew.") from None


class ScannedObject:
    """Extract the string in one field of a JSON object that is too large for memory, from its text in parts.

    Only an `outline` of the object is kept in memory. Parsing it at the end checks what this scan does not.

    >>> scanned = ScannedObject("text", strict=True)
    >>> [list(scanned.feed(part)) for part in ('{"id": [1, {}], "text": "Once', ' \\\\u00e', '9"}')]
    [['Once'], [' '], ['é']]
    >>> "".join(scanned.outline)
    '{"id": [], "text": ""}'
    """

    LONGEST_ESCAPE, LONGEST_KEY = 12, 1000

    def __init__(self, field, strict):
        self.field, self.strict = field, strict
        self.outline = []           # parts of the object without string values and without nested lists and objects
        self._rest = ""             # the beginning of an escape
        self._depth, self._in_string = 0, False
        self._key, self._before = "", ""                # the last key of the object; the last character outside strings
        self._is_wanted, self._found = False, False     # whether this string is that of the field; whether it has come

    def feed(self, text):
        """Yield what the next part of the JSON text has of the string. Raises ValueError if that is not JSON."""
        text, place = self._rest + text, 0
        while place < len(text):
            start = place
            if self._in_string:
                place = _STRING_PART.match(text, place).end()
                if start < place:
                    yield from self._string_part(text[start:place])
                elif text[place] != '"':
                    break
                if text[place:place + 1] == '"':
                    self._in_string, place = False, place + 1
                    self._keep('"')
            else:
                place = _OUTSIDE_STRINGS.match(text, place).end()
                self._keep(text[start:place])
                self._before = text[start:place].strip()[-1:] or self._before
                if place < len(text):
                    self._structure(text[place])
                    place += 1
        self._rest = text[place:]
        if len(self._rest) > self.LONGEST_ESCAPE:
            raise ValueError(f"Invalid \\escape: {self._rest[:6]}")

    def _string_part(self, text):
        if self._is_wanted:
            yield json.loads(f'"{text}"', strict=self.strict)
        elif self._depth == 1 and self._before != ":" and len(self._key) < self.LONGEST_KEY:
            self._key += text
            self._keep(text)

    def _structure(self, character):
        """Take one of the characters that structure an object: a quote that opens a string, or a bracket."""
        if character == '"':
            self._keep(character)
            is_value = self._depth == 1 and self._before == ":"
            self._is_wanted = is_value and json.loads(f'"{self._key}"', strict=False) == self.field
            if self._is_wanted and self._found:
                raise ValueError(f"it has two fields {self.field!r}")
            self._found |= self._is_wanted
            self._in_string, self._key = True, self._key if is_value else ""
            return
        self._depth -= character in "}]"
        self._keep(character)
        self._depth += character in "{["
        self._before = character

    def _keep(self, text):
        if self._depth <= 1:
            self.outline.append(text)


def _decoded(blocks):
    """Decode a stream of blocks of bytes, of any size, as UTF-8, with undecodable bytes as lone surrogates."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for block in blocks:
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _lines(blocks):
    """Turn a stream of blocks of bytes into (line, True).

    A line longer than LONG_LINE comes in parts, with False for all but the last.

    >>> list(_lines([b"one\\ntw", b"o\\n", b"three"]))
    [(b'one', True), (b'two', True), (b'three', True)]
    """
    held, ended = b"", True
    for block in blocks:
        *lines, held = (held + block).split(b"\n")
        for line in lines:
            yield line, True
            ended = True
        if len(held) > LONG_LINE:
            yield held, False
            held, ended = b"", False
    if held or not ended:
        yield held, True


def _rest_of_line(parts):
    for part, ends_line in parts:
        yield part
        if ends_line:
            return


def _separate(blocks):
    """Turn a stream of text into (text, ends_document), cut at separators: lines with nothing but <|endoftext|>.

    A separator belongs to no document.
    >>> list(_separate(["one\\n<|endof", "text|>\\ntwo"]))
    [('one\\n', False), ('', True), ('two', False), ('', True)]
    """
    text = "\n"     # its first character has been yielded; a text begins as if a line had ended before it
    for block in blocks:
        text += block
        last_line = text.rfind("\n") + 1
        may_separate = END_OF_TEXT.startswith(text[last_line:last_line + len(END_OF_TEXT) + 1])
        end = last_line if last_line and may_separate else len(text)        # the rest is held back
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
    """Turn a stream of (text, ends_document) into chunks that end with a document or between two pre-tokens."""
    waiting, size = [], 0                   # texts since the last safe cut, and the characters in them
    for text, ends_document in texts:
        if ends_document:
            yield "".join(waiting) + text, True
            waiting, size = [], 0
            continue
        before = waiting[-1][-1:] if waiting else ""
        if cut := LAST_SAFE_CUT.search(before + text):
            end = cut.end() - len(before)
            yield "".join(waiting) + text[:end], False
            waiting, size = [], 0
            text = text[end:]
        if text:
            waiting.append(text)
            size += len(text)
        if size > LONGEST_RUN:
            whole = "".join(waiting)
            starts = range(0, size - LONGEST_RUN, LONGEST_RUN)
            yield from ((whole[start:start + LONGEST_RUN], False) for start in starts)
            waiting = [whole[len(starts) * LONGEST_RUN:]]
            size = len(waiting[0])


def separated_by_line_ends(parts):
    """Add a line end between two documents if there is none, to separate them if no token does.

    parts: a stream of (text, ..., ends_document)
    >>> list(separated_by_line_ends([("one", True), ("two\\n", True), ("three", True)]))
    [('one', True), ('\\ntwo\\n', True), ('three', True)]
    """
    last, document_ended = "\n", False      # the last character; whether a document ended with it
    for text, *values, ends_document in parts:
        if document_ended and last != "\n":
            text = "\n" + text
        last, document_ended = text[-1:] or last, ends_document
        yield text, *values, ends_document


_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number",
          bool: "a truth value", type(None): "null"}


def _listed(names):
    """Return a phrase with the first ten names.
    >>> print(_listed(["title", "body"]))
    'title', 'body'
    """
    names = list(names)
    if not names:
        return "none at all"
    others = " and others" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + others
