"""Files to documents: plain text, JSON lines and Parquet, packed by gzip or not, read in pieces and mended alike."""

import codecs
import gzip
import json
import re
import zlib
from collections import Counter
from contextlib import nullcontext
from itertools import chain
from pathlib import PurePath

from folio.base.errors import FolioError
from folio.kernels.splitting import LAST_SAFE_CUT, LONGEST_RUN
from tokenizer import END_OF_TEXT

BLOCK_BYTES = 1 << 19           # read at a time; memory stays a small multiple of this. Four times as much is hardly faster, and takes twice the memory
LONG_LINE = 1 << 22             # bytes: a longer line of JSON is scanned in parts; a shorter one takes little memory

_LINE = re.escape(END_OF_TEXT) + r"\n"
_SEPARATOR = re.compile(rf"{_LINE}(?<=\n{_LINE})")       # looks behind last: `re` is quick to find what begins with plain letters

STRAY_SEPARATOR = f"{END_OF_TEXT} inside a line"
_REPLACED = "U+FFFD for what was no text"
_REMEDY = " Or pass --invalid-bytes keep (as they are) or --invalid-bytes replace (by U+FFFD)."

# No text: NUL, and half a surrogate pair. Undecodable bytes travel as such halves, U+DC80 to U+DCFF (PEP 383); the
# others can only come from a \u in JSON.
_NO_TEXT = {"refuse": re.compile(r"[\0\ud800-\udfff]"), "keep": re.compile(r"[\ud800-\udc7f\udd00-\udfff]"),
            "replace": re.compile(r"[\udc80-\udcff]+|[\0\ud800-\udfff]")}

_BYTES = re.compile(r"[\udc80-\udcff]")
_MARKS_AT_A_START, _MARKS_BEHIND_A_LINE = re.compile(r"(?m)^\ufeff+"), re.compile(r"(?<=\n)\ufeff+")

# In a JSON string: all up to its end, or up to an escape that has not come in whole; a surrogate pair is one escape.
_STRING_PART = re.compile(r'''(?:[^"\\]+|\\[^u]|\\u(?![dD][89abAB])[^"\\]{4}'''
                          r'''|\\u[dD][89abAB][^"\\]{2}(?:\\u[^"\\]{4}|(?=[^\\])|(?=\\[^u])))*+''')
_OUTSIDE_STRINGS = re.compile(r'[^"{}\[\]]*')


class Mending:
    """The one way in for text, whatever it was read from.

    It puts line ends and byte order marks right, and refuses, keeps or replaces what is no text. `found` counts what was
    put right: "byte order mark", "CRLF", "CR", and what was replaced.
    invalid_bytes: as in TextParams; remedy: what a refusal advises at its end.
    """

    def __init__(self, invalid_bytes="refuse", remedy=_REMEDY):
        self.invalid_bytes, self.remedy = invalid_bytes, remedy
        self.found = Counter()

    def __call__(self, pieces):
        """Turn (text, ends_document, where) into (text, ends_document), in pieces of any size.

        >>> list(Mending()([("\\ufeffone\\r", False, "a.txt"), ("\\ntwo", True, "a.txt")]))
        [('one', False), ('\\ntwo', True)]
        """
        held_back = ""                      # a CR at the end of a piece: the LF may open the next one
        offset, begins_line = 0, True       # bytes of the document so far; whether what comes is at the start of a line
        for text, ends_document, where in pieces:
            mended, size = self.as_text(text, where, offset)
            offset = 0 if ends_document else offset + size
            text = held_back + mended
            held_back = "\r" if not ends_document and text.endswith("\r") else ""
            text = self._line_ends(text.removesuffix(held_back))
            if "\ufeff" in text:
                text = self._without_marks(text, _MARKS_AT_A_START if begins_line else _MARKS_BEHIND_A_LINE)
            begins_line = ends_document or (text.endswith("\n") if text else begins_line)
            yield text, ends_document

    def as_text(self, text, where, offset=0):
        """-> the text with what is none replaced or kept, and how many bytes it had.

        where: the path of a file, or a phrase for a part of one. Raises FolioError with the place of what is refused.
        """
        try:
            size = len(text) if text.isascii() else len(text.encode("utf-8"))       # finds halves of pairs soonest
            if "\0" not in text:
                return text, size
        except UnicodeEncodeError:
            size = _size(text)
        if self.invalid_bytes == "refuse":
            self._refuse(text, where, offset)
        return _NO_TEXT[self.invalid_bytes].sub(self._replacement, text), size

    def without_mark(self, text):
        """A text without the byte order marks that it begins with."""
        return self._without_marks(text, _MARKS_AT_A_START) if text.startswith("\ufeff") else text

    def _replacement(self, found):
        """What stands for some bytes or half a pair: U+FFFD for each sequence that decoding gives up on."""
        text = found[0] if "\udc80" <= found[0][0] <= "\udcff" else "\ufffd"
        text = text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")
        self.found[_REPLACED] += text.count("\ufffd")
        return text

    def _line_ends(self, text):
        if "\r" in text:
            for name, line_end in (("CRLF", "\r\n"), ("CR", "\r")):
                if count := text.count(line_end):
                    self.found[name] += count
                    text = text.replace(line_end, "\n")
        return text

    def _without_marks(self, text, marks):
        shorter = marks.sub("", text)
        if len(shorter) < len(text):
            self.found["byte order mark"] += len(text) - len(shorter)
        return shorter

    def _refuse(self, text, where, offset):
        place = text.find("\0")             # first, for it tells more than what stands before it
        place = place if place >= 0 else _NO_TEXT["refuse"].search(text).start()
        offset += _size(text[:place])
        code = ord(text[place])
        what = f"byte 0x{code & 0xFF:02X}" if code == 0 or 0xDC80 <= code <= 0xDCFF else f"U+{code:04X}"
        if text[:2] in ("\udcff\udcfe", "\udcfe\udcff"):
            reason = "It looks like UTF-16: save it as UTF-8."
        elif code == 0:
            is_part = isinstance(where, str)
            reason = f"{'NUL belongs to no text' if is_part else 'It looks like a binary file'}: take it out."
        elif what.startswith("U+"):
            reason = "Half of a surrogate pair is no character: take it out."
        else:
            reason = "It may be in another encoding, such as Latin-1: save it as UTF-8."
        raise FolioError(f"{where} is not UTF-8 text: {what} at offset {offset}. {reason}{self.remedy}")


def remarks(found):
    """The sentences to tell a user what reading found: Documents.mended, or Corpus.mended.
    >>> list(remarks({"CRLF": 1200}))
    ['Mended while reading: 1,200 x CRLF.']
    """
    for what, count in found.items():
        if what == STRAY_SEPARATOR:
            yield (f"{END_OF_TEXT} stands {count:,} times inside a line, where it is ordinary text and ends no document."
                   " To separate documents it needs a line of its own, without blanks; in .jsonl and .parquet, "
                   "where each text is a document already, take it out.")
        else:
            yield f"Mended while reading: {count:,} x {what}."


class Documents:
    """The documents of some files, as often as they are iterated over; an empty one counts as none.

    A plain file is one document, or several with a line between them that holds nothing but <|endoftext|>; a line of a .jsonl file
    is one, and a row of a .parquet file, both with their text in `field`.

    Yields (text, ends_document): whole documents, or chunks of about half a megabyte, cut where no piece of a split
    pattern is cut; see splitting.LONGEST_RUN for a text that has no such place. Undecodable bytes that are kept travel
    in the text as lone surrogates (PEP 383). `mended` counts what the last pass put right, as Mending does, and separators
    that stand inside a line; `bytes_read` says how far into the files it is.
    """

    def __init__(self, files, invalid_bytes="refuse", field="text"):
        self.files = list(files)
        self.invalid_bytes = invalid_bytes
        self.field = field
        self.mending = Mending(invalid_bytes)
        self.bytes_read = 0

    @property
    def mended(self):
        return self.mending.found

    @property
    def file_bytes(self):
        """The size of all files, as they lie on the disk."""
        return sum(path.stat().st_size for path in self.files)

    def __iter__(self):
        self.mending = Mending(self.invalid_bytes)
        self.bytes_read = 0
        for path in self.files:
            is_empty, tail = True, ""           # the document, so far; its last characters, which may begin a separator
            for chunk, ends_document in _cut_safely(self._read(path)):
                is_empty = is_empty and not chunk
                if strays := (tail + chunk).count(END_OF_TEXT):
                    self.mended[STRAY_SEPARATOR] += strays
                tail = "" if ends_document else (tail + chunk)[1 - len(END_OF_TEXT):]
                if not is_empty:
                    yield chunk, ends_document
                is_empty = is_empty or ends_document

    def _read(self, path):
        """-> (text, ends_document), again and again, in pieces of any size. FolioError names the file and the place."""
        suffix = PurePath(path.name.lower().removesuffix(".gz")).suffix
        if suffix == ".parquet":
            if path.name.lower().endswith(".gz"):
                raise FolioError(f"{path} is Parquet inside gzip, which has to be unpacked first: gunzip {path.name}")
            return self.mending(self._read_parquet(path))
        if suffix in (".jsonl", ".ndjson"):
            return self.mending(self._read_json_lines(path))
        return _separate(text for text, _ in self.mending(self._read_plain(path)))

    # Readers yield (text, ends_document, where), with undecodable bytes as lone surrogates; the rest is left to Mending.

    def _read_plain(self, path):
        for text in _decoded(self._unpacked(path)):
            yield text, False, path
        yield "", True, path

    def _read_json_lines(self, path):
        number, pieces = 1, _lines(self._unpacked(path))
        for piece, ends_line in pieces:
            where = f"{path}, line {number},"
            if not ends_line:
                yield from self._scan_line(chain([piece], _rest_of_line(pieces)), where)
            elif piece.strip():
                line = self.mending.without_mark(piece.decode("utf-8", errors="surrogateescape"))
                yield self._text_of(self._parsed(line, line, where), where), True, where
            number += 1

    def _scan_line(self, parts, where):
        """Yield the text of a line that is too long to be held, with everything about it checked at the end."""
        scanned = ScannedObject(self.field, strict=self.invalid_bytes == "refuse")
        texts = filter(None, _decoded(parts))
        for text in chain([self.mending.without_mark(next(texts, ""))], texts):
            try:
                for piece in scanned.feed(text):
                    yield piece, False, where
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
            self.mending.as_text(line, where)       # which is the better reason
        raise FolioError(f"{where} is not JSON ({error}). Mend it, or give the file another suffix, such as .txt, "
                         "to read it as plain text.") from None

    def _text_of(self, record, where):
        if not isinstance(record, dict):
            raise FolioError(f"{where} is no JSON object but {_KINDS[type(record)]}. Each line should be like "
                             f"{{\"{self.field}\": \"Once upon...\"}}.")
        if self.field not in record:
            raise FolioError(f"{where} has no field {self.field!r}, only {_listed(record)}. Say which one has the text: --field NAME.")
        text = record[self.field]
        if not isinstance(text, str):
            raise FolioError(f"{where} has {_KINDS[type(text)]} in its field {self.field!r}, not text. Its fields are {_listed(record)}. "
                             "Say which one has the text: --field NAME.")
        return text

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
                            yield content.decode("utf-8", errors="surrogateescape"), True, f"{path}, row {number},"
                    self.bytes_read = start + path.stat().st_size * number // max(1, about.num_rows)
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise                       # the system's own: no such file, no permission
            reason = " ".join(str(error).split())       # which may have several lines
            raise FolioError(f"{path} is damaged, or no Parquet file ({reason}). Fetch it anew.") from None

    def _unpacked(self, path):
        """Yield the bytes of a file, a block at a time, unpacked if it ends in .gz."""
        start = self.bytes_read
        try:
            with path.open("rb") as file, gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else nullcontext(file) as unpacked:
                while block := unpacked.read(BLOCK_BYTES):
                    self.bytes_read = start + (file.tell() if file.seekable() else 0)       # a pipe cannot say
                    yield block
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise FolioError(f"{path} is damaged, or no gzip file ({error}). Fetch it anew.") from None


class ScannedObject:
    """A JSON object of any size, whose text is fed in parts: all that is held of it is its `outline`.

    >>> scanned = ScannedObject("text", strict=True)
    >>> [list(scanned.feed(part)) for part in ('{"id": [1, {}], "text": "Once', ' \\\\u00e', '9"}')]
    [['Once'], [' '], ['é']]
    >>> "".join(scanned.outline)
    '{"id": [], "text": ""}'
    """

    LONGEST_ESCAPE, LONGEST_KEY = 12, 1000

    def __init__(self, field, strict):
        self.field, self.strict = field, strict
        self.outline = []           # the object less its text, other texts, and what is inside lists and objects
        self._rest = ""             # a piece of an escape
        self._depth, self._in_string = 0, False
        self._key, self._before = "", ""                # the last key of the object; the last sign outside of strings
        self._is_wanted, self._found = False, False     # whether this string is the field's text; whether there was one

    def feed(self, text):
        """Yield what there is in a part of the field's text. Raises ValueError where that is not JSON."""
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
                    self._sign(text[place])
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

    def _sign(self, sign):
        if sign == '"':
            self._keep(sign)
            is_value = self._depth == 1 and self._before == ":"
            self._is_wanted = is_value and json.loads(f'"{self._key}"', strict=False) == self.field
            if self._is_wanted and self._found:
                raise ValueError(f"it has two fields {self.field!r}")
            self._found |= self._is_wanted
            self._in_string, self._key = True, self._key if is_value else ""
            return
        self._depth -= sign in "}]"
        self._keep(sign)
        self._depth += sign in "{["
        self._before = sign

    def _keep(self, text):
        if self._depth <= 1:
            self.outline.append(text)


def _size(text):
    """A text's bytes, where an undecodable one is one and not the three of its surrogate."""
    return len(text.encode("utf-8", errors="surrogatepass")) - 2 * len(_BYTES.findall(text))


def _decoded(blocks):
    """Turn bytes in blocks of any size into text."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for block in blocks:
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _lines(blocks):
    """Turn blocks of bytes into (line, True); of a line longer than LONG_LINE come parts, all but the last with False.
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


def _rest_of_line(pieces):
    for piece, ends_line in pieces:
        yield piece
        if ends_line:
            return


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
    """Turn (text, ends_document) of any size into chunks that end with a document or at a place that cut_runs knows."""
    waiting, size = [], 0                   # texts since the last safe place, and the characters in them
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
    """Let a line end where a document does and another one follows: that sets them apart where no token does.

    parts: (text, ..., ends_document)
    >>> list(separated_by_line_ends([("one", True), ("two\\n", True), ("three", True)]))
    [('one', True), ('\\ntwo\\n', True), ('three', True)]
    """
    last, begins = "\n", False              # character that was read; whether it is the end of a document
    for text, *others, ends_document in parts:
        text = "\n" * (begins and last != "\n") + text
        last, begins = text[-1:] or last, ends_document
        yield text, *others, ends_document


_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number", bool: "a truth value", type(None): "null"}


def _listed(names):
    """The first names, to be read.
    >>> print(_listed(["title", "body"]))
    'title', 'body'
    """
    names = list(names)
    return ", ".join(map(repr, names[:10])) + " and others" * (len(names) > 10) or "none at all"
