"""RTF to text, through pandoc, whose mistakes with characters and notes are mended before.

Pandoc 3.9 loses the character after a Unicode escape whose replacement follows it at once (its own writer and others
make such), a footnote in an optional group, and every code page but two. striprtf knows code pages, but loses all
footnotes and puts bars into tables.
"""

import codecs
import re
from collections.abc import Iterator

from folio.readers.contents import whole
from folio.readers.documents import one_document, pandoc
from folio.readers.mending import Mending
from folio.readers.source import Source
from Model_Params import TextParams

# What has to be seen, in the order of the file: escaped characters, code pages and fonts, \u, \'xx, groups.
_TOKEN = re.compile(rb"""\\'([0-9a-fA-F]{2})|\\u(-?\d{1,9})\ ?|\\ansicpg(\d{1,9})\ ?|\\f(\d{1,9})\ ?"""
                    rb"""|\\fcharset(\d{1,9})\ ?|(\\\*\s*\\footnote)\b|\\bin(\d{1,9})\ ?|(\\[^a-zA-Z])|([{}])""")

# \fcharset -> code page (RTF 1.9.1); 0, 1 and 2 leave it to \ansicpg.
_CODE_PAGES = {77: "mac-roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "gbk", 136: "big5", 161: "cp1253",
               162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251",
               222: "cp874", 238: "cp1250"}


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, ends_document, where). Raises FolioError where the file is damaged, or pandoc is not installed."""
    return one_document(source, lambda: pandoc(source, "an RTF document", "rtf", mended(whole(source))))


def mended(content: bytes) -> bytes:
    r"""Return RTF that pandoc reads rightly: characters of code pages as \u, with a blank after each \u.

    >>> mended(rb"{\rtf1\ansicpg1251 \u8220?\'ef}")
    b'{\\rtf1\\ansicpg1252 \\u8220 ?\\u1087 ?}'
    """
    return _Mender().mended(content)


class _Mender:
    def __init__(self):
        self.code_page, self.fonts = "cp1252", {}
        self.font, self.outer_fonts = None, []
        self.held = b""                 # the first byte of a character of two
        self.replaced = 0               # characters to come that only replace a \u

    def mended(self, content):
        parts, place = [], 0
        while match := _TOKEN.search(content, place):
            if between := content[place:match.start()]:
                parts.append(between)
                self.replaced = 0
            parts.append(self._token(match))
            place = match.end()
            if match[7]:                # binary data
                place = min(len(content), place + int(match[7]))
        return b"".join([*parts, content[place:]])

    def _token(self, match):
        character, escape, page, font, charset, footnote, binary, _, brace = match.groups()
        if character:
            return self._character(match[0], int(character, 16))
        self.replaced = 0
        if escape:
            self.replaced = 1
            return b"\\u%s " % escape
        if page:
            self.code_page = f"cp{int(page)}"
            return b"\\ansicpg1252 "    # the only one that pandoc reads, beside that of the Macintosh
        if font:
            self.font = int(font)
        elif charset:
            self.fonts[self.font] = _CODE_PAGES.get(int(charset))
        elif brace == b"{":
            self.outer_fonts.append(self.font)
        elif brace and self.outer_fonts:
            self.font = self.outer_fonts.pop()
        return b"\\footnote" if footnote else b"" if binary else match[0]

    def _character(self, written, value):
        if self.replaced:               # by \u, which has been understood
            self.replaced -= 1
            return written
        byte, self.held = self.held + bytes([value]), b""
        try:
            text = byte.decode(self.fonts.get(self.font) or self.code_page)
        except UnicodeDecodeError:
            self.held = byte if len(byte) == 1 else b""
            return b"" if self.held else written
        except LookupError:
            return written
        return b"".join(b"\\u%d ?" % unit for unit in _units(text))


def _units(text):
    """Return the 16-bit units of a text, signed as RTF has them."""
    encoded = codecs.encode(text, "utf-16-le")
    return [int.from_bytes(encoded[place:place + 2], "little", signed=True) for place in range(0, len(encoded), 2)]
