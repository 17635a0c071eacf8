"""Bytes to characters: UTF-8, what a byte order mark says, a named encoding; a guess where it is none of them."""

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import chain

from folio.base.commands import repeated
from folio.base.encodings import usual_name
from folio.base.errors import FolioError
from folio.base.visible import on_one_line
from folio.readers.source import Source
from Model_Params import TextParams

# UTF-32 comes first, as the mark of UTF-16-LE begins that of UTF-32-LE.
_MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16"))
# Bytes that a decision is made from: enough for any statistics of characters, and read in a moment.
_SAMPLE_BYTES = 1 << 16
_FEW = 8                # invalid bytes in the sample: up to here they may as well be damage to an ASCII text
_SHOWN = 60             # characters of the sample line in a message
# Encodings in the order of how often they are met on the Web (W3Techs' surveys); then what old computers had.
_USUAL = ("cp1252", "cp1251", "cp932", "gb18030", "cp949", "cp1250", "big5", "euc_jp", "cp1254", "cp1253", "cp1255",
          "cp1256", "cp1257", "cp1258", "koi8_r", "cp874", "iso8859_2", "mac_roman", "cp850", "cp437")
# A guess is scored by charset-normalizer's disorder, less its likeness to a language (both 0 to 1), and by its rank
# above. These weights found nearly all of 28 pairs of a language and an encoding, each a line and 30 lines long.
_LIKENESS, _RARITY = 0.1, 0.0005


def decoded(source: Source, reading: TextParams, found: Counter | None = None) -> Iterator[str]:
    """Yield the characters of a file, in blocks of any size.

    A byte order mark of UTF-16 or UTF-32 decides; without one `reading.encoding`; without that, UTF-8. A text that is
    UTF-8 is read as UTF-8 whatever `reading.encoding` says: text in another encoding is hardly ever valid UTF-8, and a
    folder may have both. Undecodable bytes that are kept or replaced come as lone surrogates (PEP 383).

    found: Mending.found, which counts files in other encodings than UTF-8.
    Raises FolioError for what is in no such encoding; it names the likeliest one and the command that reads it.
    """
    blocks = source.blocks()
    head = _up_to(blocks, _SAMPLE_BYTES)
    blocks = chain([head] if head else [], blocks)
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if encoding is None and reading.encoding and not _is_utf_8(head[:_SAMPLE_BYTES]):
        encoding = reading.encoding
    if encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        return _utf_8(source, blocks, head, reading)
    if found is not None:
        found[f"Read as {encoding}: {{count|file|files}}."] += 1
    return _other(source, blocks, encoding, reading)


def _up_to(blocks, size):
    """Return the next bytes of a stream of blocks: at least `size`, if there are as many."""
    parts, length = [], 0
    while length < size and (block := next(blocks, None)):
        parts.append(block)
        length += len(block)
    return b"".join(parts)


def _is_utf_8(head):
    """Return whether a text begins with several characters that are not ASCII, all of them in UTF-8."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return sum(not c.isascii() for c in text) > 1 if not text.isascii() else False


# --- UTF-8 ---

def _utf_8(source, blocks, head, reading):
    """Yield the characters of UTF-8. FolioError if it is another encoding, and invalid bytes are to be refused."""
    is_strict = reading.invalid_bytes == "refuse"
    if is_strict and (encoding := _without_mark(head[:_SAMPLE_BYTES])):
        raise FolioError(f"{source} is not UTF-8. {_offer(source, head[:_SAMPLE_BYTES], encoding)}")
    decoder = codecs.getincrementaldecoder("utf-8")("strict" if is_strict else "surrogateescape")
    offset, others = 0, 0       # bytes decoded so far; characters in them that are not ASCII
    for block, is_last in _with_last(blocks):
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, is_last)
        except UnicodeDecodeError as error:
            rest = _up_to(blocks, _SAMPLE_BYTES - len(error.object) + error.start)
            _refuse_encoding(source, error.object + rest, error.start, offset - held, others)
            decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
            text = decoder.decode(error.object + rest, is_last)
        offset += len(block)
        if is_strict and not others and not text.isascii():
            others = sum(not c.isascii() for c in text)
        yield text


def _with_last(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    yield from ((block, False) for block in blocks)
    yield b"", True


def _refuse_encoding(source, content, start, offset, others):
    """Raise FolioError if a text is in another encoding than UTF-8. Return if most of it is UTF-8, or it is no text.

    content: its bytes around the first invalid one, at `start`; offset: of `content` in the text; others: how many
    characters that are not ASCII came before.
    """
    sample = content[start:start + _SAMPLE_BYTES]
    text = content[:start + _SAMPLE_BYTES].decode("utf-8", errors="surrogateescape")
    invalid = len(re.findall(r"[\udc80-\udcff]", text))
    valid = others + sum(not c.isascii() for c in text) - invalid
    if 2 * valid > invalid or b"\0" in content:             # a character has two bytes or more
        return
    sample = content[content.rfind(b"\n", 0, start) + 1:start] + sample
    offer = _offer(source, sample, guess(sample))
    if invalid > _FEW:
        raise FolioError(f"{source} is not UTF-8. {offer}")
    raise FolioError(f"{source} is not UTF-8 text: byte 0x{content[start]:02X} at offset {offset + start}. {offer} (Or "
                     "pass --invalid-bytes keep (as they are) or --invalid-bytes replace (by U+FFFD).)")


# --- Other encodings ---

def _keep_as_surrogates(error):
    """Turn undecodable bytes into lone surrogates, whatever the codec: a handler for codecs.register_error."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    content = error.object[error.start:error.end]
    return "".join(chr(0xDC00 + byte) if byte > 127 else "\ufffd" for byte in content), error.end


codecs.register_error("folio.surrogates", _keep_as_surrogates)


def _other(source, blocks, encoding, reading):
    errors = "strict" if reading.invalid_bytes == "refuse" else "folio.surrogates"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    offset = 0
    for block, is_last in _with_last(blocks):
        held = decoder.getstate()[0] if hasattr(decoder, "getstate") else b""
        try:
            yield decoder.decode(block, is_last)
        except UnicodeDecodeError as error:
            place = offset - len(held) + error.start
            raise FolioError(f"{source} is not {encoding} throughout: byte 0x{error.object[error.start]:02X} at offset "
                             f"{place} stands for no character. Mend it, name another encoding, or replace what cannot "
                             f"be read by U+FFFD: {repeated('--invalid-bytes', 'replace')}") from None
        except UnicodeError as error:           # of UTF-16 without a mark, where one is asked for
            raise FolioError(f"{source} cannot be read as {encoding} ({error}).") from None
        offset += len(block)


# --- Guesses ---

def guess(sample: bytes) -> str | None:
    """Return the name of the encoding that a text is likely in, or None. Without charset-normalizer there is no guess.

    sample: bytes of a text that is not UTF-8
    """
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return None
    # Only lines with other characters than ASCII tell encodings apart.
    content = b"".join(line for line in sample.splitlines(keepends=True) if not line.isascii())[:_SAMPLE_BYTES]
    western = _decoded_whole(content, "cp1252", cut=True)
    if western and all(c.isascii() or c >= "\u2010" for c in western):    # quotes and dashes alone, as in English
        return "windows-1252"
    scores = {}
    for match in from_bytes(content):
        score = match.chaos - _LIKENESS * match.coherence
        for rank, codec in enumerate((*_USUAL, match.encoding)):
            if _decoded_whole(content, codec, cut=True) == str(match):
                scores[codec] = score + _RARITY * rank
                break
    return usual_name(min(scores, key=scores.get)) if scores else None


def _without_mark(head):
    """Return the encoding of a text that is ASCII to the eye of UTF-8, but no text in it: UTF-16 without a mark,
    ISO-2022-JP; None if it is neither.
    """
    if b"\0" in head and len(head) % 2 == 0:
        even, odd = head[::2].count(0), head[1::2].count(0)
        # Of text in the Latin alphabet nearly every other byte is NUL.
        if max(even, odd) > 0.3 * len(head[::2]) and min(even, odd) < 0.05 * len(head[::2]):
            encoding = "utf-16-be" if even > odd else "utf-16-le"
            text = _decoded_whole(head[:len(head) // 2 * 2], encoding)
            return encoding if text and all(c.isprintable() or c.isspace() for c in text[:1000]) else None
    elif re.search(rb"\x1b\$[@B]", head) and _decoded_whole(head, "iso2022_jp", cut=True):
        return "iso2022-jp"
    return None


def _decoded_whole(content, encoding, cut=False):
    try:
        return codecs.getincrementaldecoder(encoding)().decode(content, not cut)
    except (UnicodeError, LookupError):
        return None


def _offer(source, sample, encoding):
    """Return the sentences that offer to read a text in an encoding, None for one that could not be guessed."""
    if encoding is None:
        line = repeated("--encoding", "windows-1252", instead=("init.py", source.path))
        advice = "" if find_spec("charset_normalizer") else (" (To have it guessed: python -m pip install "
                                                             "charset-normalizer)")
        return ("It is in another encoding. Texts from Windows are often windows-1252, older ones from elsewhere "
                f"koi8-r, shift_jis, gb18030 or mac-roman. Name it: {line}{advice}")
    line = repeated("--encoding", encoding, instead=("init.py", source.path))
    return f'It reads well as {encoding}: "{_shown(sample, encoding)}". If that is right: {line}'


def _shown(sample, encoding):
    """Return a part of the text, on one line, around its first character that is not ASCII."""
    text = codecs.getincrementaldecoder(encoding)("replace").decode(sample)
    place = next((at for at, c in enumerate(text) if not c.isascii()), 0)
    start = max(text.rfind("\n", 0, place) + 1, place - _SHOWN // 3)
    end = text.find("\n", place)
    end = min(len(text) if end < 0 else end, start + _SHOWN)
    before = "…" if start and text[start - 1] != "\n" else ""
    after = "…" if text[end:end + 1] not in ("", "\n") else ""
    return before + on_one_line(text[start:end].strip()) + after
