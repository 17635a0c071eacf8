"""HTML to text, with Python's own parser, a block at a time: what a browser shows, without scripts and styles.

Why not pandoc: a page of 10 MB takes it a minute and more than 1 GB, and 50 MB of script 9 s and all the memory it
gets; here memory stays flat, and no package is needed. The text of an EPUB's chapters is HTML, too, but there pandoc
knows their order and their notes.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import chain

from folio.base.encodings import encoding_problem
from folio.readers.charsets import decoded
from folio.readers.mending import Mending
from folio.readers.source import BLOCK_BYTES, Source
from Model_Params import TextParams

_BLOCKS = frozenset("""address article aside blockquote body caption center dd details dialog div dl dt fieldset
    figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr html legend li main menu nav ol p pre section summary
    table tr ul""".split())
# ... with an empty line around them.
_APART = frozenset("p h1 h2 h3 h4 h5 h6 blockquote pre table ul ol dl figure hr".split())
# What has no text that a browser shows; the parser never sees it, so that its length does not matter.
_HIDDEN = re.compile(r"<(script|style|template|noscript|svg|iframe|object|title)(?=[\s/>])(?![^<>]*/>)"
                     r"|<!--", re.IGNORECASE)
_LONGEST_TAG = 1 << 20      # characters: an unfinished tag that is longer is dropped; pictures in tags may be long
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w-]+)""", re.IGNORECASE)
_HEAD = 4096            # bytes that say what a page's encoding is


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, ends_document, where) of a page, which is one document."""
    head = next(source.blocks(), b"")[:_HEAD]
    reading = replace(reading, encoding=reading.encoding or _encoding(head))
    parts = decoded(source, reading, mending.found)
    for text in _texts(chain([mending.without_mark(next(parts, ""))], parts)):
        yield text, False, source
    yield "", True, source


def text_of(page: str) -> str:
    r"""Return the text of a page that is held whole.

    >>> text_of("<style>p {}</style><p>One &amp; <b>two</b></p><p>three</p>")
    'One & two\n\nthree\n'
    """
    return "".join(_texts(page[start:start + BLOCK_BYTES] for start in range(0, len(page), BLOCK_BYTES)))


def _texts(parts):
    """Turn the parts of a page into those of its text."""
    page = _Page()
    yield from map(page.feed_part, without_hidden(parts))
    yield page.finish()


def _encoding(head):
    """Return what a page says of its encoding; None for UTF-8 and where it says nothing that is known."""
    match = _CHARSET.search(head)
    name = match[1].decode("ascii").lower() if match else "utf-8"
    name = {"iso-8859-1": "windows-1252", "ascii": "windows-1252"}.get(name, name)     # as browsers do
    # In UTF-16 this would not be seen in bytes: browsers take such a page for UTF-8.
    return None if name.startswith(("utf-16", "utf-32")) or encoding_problem(name) else name


def without_hidden(texts: Iterable[str]) -> Iterator[str]:
    """Leave out scripts, styles, comments and the title of a page, wherever the parts of its text are cut.

    >>> "".join(without_hidden(["a<scr", "ipt>b</sc", "ript>c<!-- d", " -->e"]))
    'ace'
    """
    rest, end = "", None                # what is not yet decided; what ends the hidden part that it is in
    for text in texts:
        rest += text
        while True:
            if end is None:
                if match := _HIDDEN.search(rest):
                    yield rest[:match.start()]
                    rest = rest[match.start():]
                    end = re.compile(rf"</{match[1]}\s*>" if match[1] else "-->", re.IGNORECASE)
                    continue
                cut = rest.rfind("<", max(0, len(rest) - 12))      # 12: longer than what starts a hidden part
                cut = cut if cut >= 0 else len(rest)
                yield rest[:cut]
                rest = rest[cut:]
            elif match := end.search(rest):
                rest, end = rest[match.end():], None
                continue
            else:
                rest = rest[-30:]       # may hold the beginning of the end
            break
    yield "" if end else rest


class _Page(HTMLParser):
    """Collects the text of a page."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts = []                 # of the text, since the last call
        self.line_ends = 2              # at the end of the text so far; a text begins as if an empty line had been
        self.wanted, self.space = 0, False      # line ends to write before the next word; whether a blank comes before
        self.lists, self.bullet = [], ""        # the numbers of the open lists, None without; to write before a word
        self.in_pre, self.in_long_tag = 0, False

    def feed_part(self, text):
        """Return the text that a further part of the page has."""
        if self.in_long_tag:
            _, end, text = text.partition(">")
            self.in_long_tag = not end
        self.feed(text)
        if len(self.rawdata) > _LONGEST_TAG:
            self.rawdata, self.in_long_tag = "", True
        return self._taken()

    def finish(self):
        """Return the last of the text."""
        if self.rawdata.startswith("<"):        # an unfinished tag, in which the parser would search again and again
            self.rawdata = ""
        self.close()
        return self._taken() + ("\n" if self.line_ends == 0 else "")

    def _taken(self):
        text, self.parts = "".join(self.parts), []
        return text

    def handle_starttag(self, tag, attributes):
        if tag == "br":
            self.wanted, self.space = min(2, self.wanted + 1), False
        elif tag in ("td", "th"):
            self.bullet = "" if self.line_ends + self.wanted else "\t"
            self.space = False
        else:
            self._break_at(tag)
        if tag in ("ol", "ul"):
            self.lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._start_item()
        elif tag == "hr":
            self._write("* * *")
            self._break_at(tag)
        self.in_pre += tag == "pre"

    def _start_item(self):
        self.bullet = "- "
        if self.lists and self.lists[-1] is not None:
            self.lists[-1] += 1
            self.bullet = f"{self.lists[-1]}. "

    def handle_endtag(self, tag):
        self._break_at(tag)
        self.in_pre = max(0, self.in_pre - (tag == "pre"))
        if tag in ("ol", "ul") and self.lists:
            self.lists.pop()

    def _break_at(self, tag):
        if tag in _BLOCKS:
            self.wanted, self.space = max(self.wanted, 2 if tag in _APART else 1), False

    def handle_data(self, data):
        if self.in_pre:
            self._write(data.replace("\xa0", " "))
            self.line_ends = min(2, len(data) - len(data.rstrip("\n")))
            return
        words = re.split(r"[ \t\n\r\f]+", data)
        for number, word in enumerate(words):
            self.space = self.space or number > 0
            if word:
                self._write(word)

    def _write(self, text):
        if missing := max(0, self.wanted - self.line_ends):
            self.parts.append("\n" * missing)
        elif self.space and not self.wanted and self.line_ends == 0:
            self.parts.append(" ")
        self.parts.append(self.bullet + text)
        self.bullet = ""
        self.wanted, self.space, self.line_ends = 0, False, 0
