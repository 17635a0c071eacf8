"""Raw text to clean text: line ends, byte order marks, and what is not text. All text that Folio reads passes here."""

import re
from collections import Counter

from folio.base.errors import FolioError
from folio.base.spelling import counted
from folio.readers.mojibake import Mojibake
from tokenizer import END_OF_TEXT

STRAY_SEPARATOR = f"{END_OF_TEXT} inside a line"
_REPLACED = "U+FFFD for what was no text"
_REMEDY = " Or pass --invalid-bytes keep (as they are) or --invalid-bytes replace (by U+FFFD)."

# What is not text: NUL, and half a surrogate pair. Undecodable bytes are represented by such halves, U+DC80 to U+DCFF
# (PEP 383); the other halves can only come from a \u in JSON.
_NOT_TEXT = {"refuse": re.compile(r"[\0\ud800-\udfff]"), "keep": re.compile(r"[\ud800-\udc7f\udd00-\udfff]"),
             "replace": re.compile(r"[\udc80-\udcff]+|[\0\ud800-\udfff]")}

_COUNT = re.compile(r"\{count\|([^|{}]*)\|([^|{}]*)\}")
_UNDECODABLE_BYTE = re.compile(r"[\udc80-\udcff]")
_MARKS_AT_LINE_STARTS, _MARKS_AFTER_LINE_ENDS = re.compile(r"(?m)^\ufeff+"), re.compile(r"(?<=\n)\ufeff+")


class Mending:
    """Convert line ends to LF, remove byte order marks at line starts, and refuse, keep or replace what is not text.

    `found` counts the corrections: "byte order mark", "CRLF", "CR", and what was replaced. Readers add what they have
    to say as sentences, see `remarks`.
    invalid_bytes: as in TextParams; remedy: the advice at the end of a refusal.
    """

    def __init__(self, invalid_bytes="refuse", remedy=_REMEDY):
        self.invalid_bytes, self.remedy = invalid_bytes, remedy
        self.found = Counter()
        self.columns = {}                   # names of columns whose values are "column: value" lines; no values here
        self._mojibake = Mojibake()

    def __call__(self, chunks):
        """Turn a stream of (text, ends_document, where) into one of (text, ends_document), in chunks of any size.

        Many short documents can come at once: (list of texts, True, an iterable of where). They go on as a list if
        there is nothing to mend in them, and else one by one.

        >>> list(Mending()([("\\ufeffone\\r", False, "a.txt"), ("\\ntwo", True, "a.txt")]))
        [('one', False), ('\\ntwo', True)]
        """
        held_back = ""                      # a CR at the end of a chunk: the next one may begin with its LF
        offset, at_line_start = 0, True     # bytes of the document so far; whether the next chunk starts a line
        is_within = False                   # a document
        for text, ends_document, where in _one_by_one_if_unclean(chunks):
            # Half of the time that millions of short documents take: there is nothing to mend in most of them.
            if ends_document and not is_within and (isinstance(text, list) or _is_clean(text)):
                yield text, True
                continue
            is_within = not ends_document
            mended, size = self.as_text(text, where, offset)
            offset = 0 if ends_document else offset + size
            text = held_back + mended
            held_back = "\r" if not ends_document and text.endswith("\r") else ""
            text = self._with_line_feeds(text.removesuffix(held_back))
            if "\ufeff" in text:
                text = self._without_marks(text, _MARKS_AT_LINE_STARTS if at_line_start else _MARKS_AFTER_LINE_ENDS)
            at_line_start = ends_document or (text.endswith("\n") if text else at_line_start)
            self._mojibake.look_at(text)
            yield text, ends_document
        self._mojibake.tell(self.found)

    def as_text(self, text, where, offset=0):
        """Return the text with what is not text kept or replaced, and how many bytes it had.

        where: the path of a file, or a phrase for a part of one; offset: of the text in it, in bytes.
        Raises FolioError with the place of what is refused.
        """
        try:
            size = len(text) if text.isascii() else len(text.encode("utf-8"))   # the fastest test for half a pair
            if "\0" not in text:
                return text, size
        except UnicodeEncodeError:
            size = _size(text)
        if self.invalid_bytes == "refuse":
            self._refuse(text, where, offset)
        return _NOT_TEXT[self.invalid_bytes].sub(self._replacement, text), size

    def one(self, text, where):
        """Return a text that came by itself, such as a value of a record, mended. Raises FolioError like `as_text`."""
        if _is_clean(text):
            return text
        mended, _ = self.as_text(text, where)
        return self._without_marks(self._with_line_feeds(mended), _MARKS_AT_LINE_STARTS)

    def without_mark(self, text):
        """Return a text without the byte order marks that it begins with."""
        return self._without_marks(text, _MARKS_AT_LINE_STARTS) if text.startswith("\ufeff") else text

    def _replacement(self, match):
        """Return U+FFFD for every sequence in a match that is invalid in UTF-8."""
        text = match[0] if "\udc80" <= match[0][0] <= "\udcff" else "\ufffd"
        text = text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")
        self.found[_REPLACED] += text.count("\ufffd")
        return text

    def _with_line_feeds(self, text):
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
        place = text.find("\0")             # first, as it says more about the file than what may stand before it
        place = place if place >= 0 else _NOT_TEXT["refuse"].search(text).start()
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
            if not isinstance(where, str):      # charsets.decoded has looked at whole files
                reason = "Most of it is UTF-8, so this is damage, or comes from another text: mend it."
        raise FolioError(f"{where} is not UTF-8 text: {what} at offset {offset}. {reason}{self.remedy}")


def _one_by_one_if_unclean(chunks):
    for text, ends_document, where in chunks:
        if isinstance(text, list) and not _is_clean("".join(text)):
            yield from ((document, True, place) for document, place in zip(text, where))
        else:
            yield text, ends_document, where


def _is_clean(text):
    return text.isascii() and "\r" not in text and "\0" not in text


def remarks(found):
    """Yield a sentence for the user about each correction. found: Mending.found, Documents.mended or Corpus.mended

    A key is what was mended, or a sentence with {count|row|rows} where the number belongs, with its noun.
    >>> list(remarks({"CRLF": 1200, "{count|row|rows} without a value in 'text', left out.": 1}))
    ['Mended while reading: 1,200 x CRLF.', "1 row without a value in 'text', left out."]
    """
    for what, count in found.items():
        if what == STRAY_SEPARATOR:
            yield (f"{END_OF_TEXT} stands {count:,} times inside a line, where it is ordinary text and ends no "
                   "document. To separate documents it needs a line of its own, without blanks; in .jsonl and "
                   ".parquet, where each text is a document already, take it out.")
        elif _COUNT.search(what):
            yield _COUNT.sub(lambda place, count=count: counted(count, *place.groups()), what)
        else:
            yield f"Mended while reading: {count:,} x {what}."


def _size(text):
    """Return how many bytes a text was decoded from: an undecodable byte is one, its surrogate would be three."""
    return len(text.encode("utf-8", errors="surrogatepass")) - 2 * len(_UNDECODABLE_BYTE.findall(text))
