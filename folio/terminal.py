"""What the terminal shows: words as they come, in lines of its width, nothing that could command it."""

import os
import re
import sys
import unicodedata
from itertools import groupby

NARROWEST = 8                       # columns that a text in a table is cut to, and no further
USUAL_WIDTH = 80                    # columns, where the terminal does not say
WRITTEN_AT_ONCE = 1 << 16           # characters: a longer text is broken into lines piece by piece
TAB = 8                             # columns from one tab stop to the next, as terminals have them
BOLD, DIM = "\x1b[1m", "\x1b[2m"    # styles: what a text is written after
_PLAIN = "\x1b[0m"
WARMTH = {3: 230, 6: 223, 9: 217}   # nats -> a light background among the 256 colours of a terminal: one in 20, one in 400, one in 8,000

_HARMLESS = "\n\t\u200c\u200d"       # the last two join and part letters and emoji, and move nothing
# The spaces at which a line may end: Unicode's, less those that forbid it.
_SPACES = "\t \u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2008\u2009\u200a\u205f\u3000"
_PARTS = re.compile(rf"\n|[{_SPACES}]+|[^\n{_SPACES}]+")


def harmless(text):
    """The text with everything that could command a terminal made visible: escape sequences, bells, NUL, right-to-left overrides.
    >>> print(harmless("red \\x1b[31m"))
    red \\x1b[31m
    """
    return "\n".join(line if line.isprintable() else "".join(map(_visible, line)) for line in text.split("\n"))


def _visible(c):
    return c if c.isprintable() or c in _HARMLESS or unicodedata.category(c) == "Zs" else ascii(c)[1:-1]


def on_one_line(text):
    """A text on one line, with nothing in it that commands a terminal.
    >>> print(on_one_line("Exit.\\n\\n\\x1b[2JBRACK:"))
    Exit.⏎⏎\\x1b[2JBRACK:
    """
    return harmless(text).replace("\n", "⏎").replace("\t", "→")


# --- Colours ---

def shows_colours():
    """Whether stdout is a terminal that shows colours, and nobody wants it without (no-color.org)."""
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if coloured and os.name == "nt":
        os.system("")               # Windows' console understands colours from here on
    return coloured


def styled(text, style):
    """A text in a style such as BOLD; "" leaves it as it is."""
    return f"{style}{text}{_PLAIN}" if style and text else text


def warmth(nats):
    """The style of a token that cost so many nats: on warmer ground the more they are, from one in 20 on."""
    ground = max((each for each in WARMTH if nats >= each), default=None)
    return f"\x1b[48;5;{WARMTH[ground]}m\x1b[38;5;16m" if ground else ""


# --- Columns ---

def columns(text):
    """How many a text takes: two for each character of East Asia and emoji, none for what is drawn on top of another one.
    >>> columns("né"), columns("ne\\u0301"), columns("中")
    (2, 2, 2)
    """
    return len(text) if text.isascii() else sum(0 if takes_no_room(character) else 1 + _is_wide(character) for character in text)


def head(text, width):
    """As much of the beginning of a text as fits."""
    if len(text) * 2 <= width:
        return text
    taken = 0
    for place, character in enumerate(text):
        taken += columns(character)
        if taken > width:
            return text[:place]
    return text


def cut(text, width):
    """A text, or its beginning and … where it is too long."""
    return text if columns(text) <= width else head(text, width - 1) + "…"


def takes_no_room(character):
    """Whether a character is drawn on top of the one before it, or not at all."""
    return unicodedata.category(character) in ("Mn", "Me", "Cf")


def _is_wide(character):
    return unicodedata.east_asian_width(character) in "WF"


def table(rows, sides, width):
    """Rows of texts as aligned lines; sides: "<" for a column that begins at the left and may be cut, ">" for one that ends at the right.
    >>> print("\\n".join(table([("word", "times"), ("a", "10"), ("incomprehensibility", "2")], "<>", 20)))
    word           times
    a                 10
    incomprehens…      2
    """
    rows = [[cut(cell, width) for cell in row] for row in rows]
    widths = [max(map(columns, column)) for column in zip(*rows)]
    texts = [number for number, side in enumerate(sides) if side == "<"]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths[number] for number in texts) > NARROWEST:
        widths[max(texts, key=widths.__getitem__)] -= 1
    return ["  ".join(_pad(cut(cell, wide), wide, side) for cell, wide, side in zip(row, widths, sides)).rstrip(" ") for row in rows]


def _pad(text, width, side="<"):
    blank = " " * (width - columns(text))
    return blank + text if side == ">" else text + blank


# --- Lines ---

class WordWrap:
    """Breaks a text into lines between its words, in whatever pieces it comes in.

    A break is put before a word that the rest of its line has no room for; spaces that it has no room for are left out. A word that is longer than a
    line begins one, and is broken where that is full. Wide characters, such as Chinese ones, are a word each, with the marks that belong to them.
    >>> wrap = WordWrap(12)
    >>> [wrap.add("Take your h"), wrap.add("ands off"), wrap.end()]
    ['Take your ', '\\nhands ', 'off']
    """

    def __init__(self, width):
        self.width = width          # columns; may change at any time
        self.column = 0             # that are taken in this line
        self._word, self._taken = [], 0         # [(text, style)]: a word that may go on and is not shown yet; its columns
        self._last = None           # the last character of that word, shown or not
        self._is_long = False       # whether it had no room, and is shown letter by letter from the beginning of a line
        self._ready = []            # [(text, style)]: what is to be shown next

    def add(self, text, style=""):
        """What can be shown by now, its styles in it, and was not before. text: harmless"""
        for part in _PARTS.findall(text):
            if part == "\n":
                self._end_word()
                self._break_line()
            elif part[0] in _SPACES:
                self._end_word()
                for space in part:
                    self._add_space(space, style)
            else:
                for letters in [part] if part.isascii() else part:
                    if self._last and _may_part(self._last, letters[0]):
                        self._end_word()
                    self._add_letters(letters, style)
        return self._shown()

    def end(self):
        """What was held back, where nothing follows."""
        self._end_word()
        return self._shown()

    def _add_space(self, space, style):
        wide = TAB - self.column % TAB if space == "\t" else columns(space)
        if self.column + wide <= self.width:
            self._ready.append((" " * wide if space == "\t" else space, style))
            self.column += wide
        else:
            self.column = max(self.column, self.width)          # what comes next, comes on a new line

    def _add_letters(self, letters, style):
        self._word.append((letters, style))
        self._taken += columns(letters)
        self._last = letters[-1]
        if self._is_long or self.column + self._taken > self.width:
            self._show_letters()

    def _show_letters(self):
        if self.column and not self._is_long:
            self._break_line()
        self._is_long = True
        for text, style in self._word:
            for letter in text:
                wide = columns(letter)
                if self.column and self.column + wide > self.width:
                    self._break_line()
                self._ready.append((letter, style))
                self.column += wide
        self._word, self._taken = [], 0

    def _end_word(self):
        if self.column + self._taken > self.width:              # it has become narrower
            self._show_letters()
        self._ready += self._word
        self.column += self._taken
        self._word, self._taken, self._last, self._is_long = [], 0, None, False

    def _break_line(self):
        self._ready.append(("\n", ""))
        self.column = 0

    def _shown(self):
        shown = "".join(styled("".join(text for text, _ in run), style) for style, run in groupby(self._ready, key=lambda part: part[1]))
        self._ready = []
        return shown


def _may_part(before, after):
    """Whether a line may end between two characters without a space between them: beside a wide one, but not before what closes, nor after what opens."""
    category = unicodedata.category
    return (_is_wide(before) or _is_wide(after)) and not (
        takes_no_room(after) or before == "\u200d" or category(before) in ("Ps", "Pi")
        or category(after) in ("Pe", "Pf", "Po", "Lm", "Sk"))           # Lm: signs that repeat or lengthen; Sk: the skin of an emoji


def folded(text, width):
    """The lines of a text of one paragraph."""
    wrap = WordWrap(width)
    return [line.rstrip(" ") for line in (wrap.add(" ".join(text.split())) + wrap.end()).split("\n")]


# --- The screen ---

class Screen:
    """Writes to stdout as text comes in: harmless, in lines of words, in colours where a person looks, unchanged where it goes into a file or pipe."""

    def __init__(self):
        self.is_terminal = sys.stdout.isatty()
        self.has_colours = shows_colours()
        self._end = "\n\n"           # of what was written: its last two characters
        self._wrap = WordWrap(0)
        self._is_open = False       # whether something was written since end_line
        self._left = None           # (column, width) where end_line left the text, while nothing else was written
        self._follows_note = False

    @property
    def width(self):
        """The columns of the terminal, as it is now."""
        try:
            return os.get_terminal_size(sys.stdout.fileno()).columns or USUAL_WIDTH
        except OSError:
            return USUAL_WIDTH

    def write(self, text, style=""):
        """Show some text at once; of a word that may not be complete, as much as can stay where it is."""
        self._is_open, self._left, self._follows_note = True, None, False
        for start in range(0, len(text), WRITTEN_AT_ONCE):
            self._put(text[start:start + WRITTEN_AT_ONCE], style)

    def _put(self, text, style):
        if self.is_terminal:
            self._wrap.width = self.width
            text = self._wrap.add(harmless(text), style if self.has_colours else "")
        self._send(text)

    def _send(self, text):
        sys.stdout.write(text)
        sys.stdout.flush()
        self._end = (self._end + text[-2:])[-2:]

    def end_line(self):
        """Go to the start of a line, unless there already."""
        if not self._is_open:
            return
        self._send(self._wrap.end())
        self._left = self._wrap.column, self.width
        if not self._end.endswith("\n"):
            self._send("\n")
        self._wrap.column, self._is_open = 0, False

    def go_back(self):
        """Go back to where end_line left the text; where something was written since, or the width changed, leave an empty line. -> whether it went"""
        if self._left is None or self._left[1] != self.width:
            self._leave_empty_line()
            return False
        if column := self._left[0]:
            sys.stdout.write(f"\x1b[A\x1b[{column}C")
            self._wrap.column, self._end, self._is_open = column, "", True
        return True

    def stay(self):
        """Let what is written next begin where the cursor is: at the start of a line."""
        self._left = None

    def note(self, text):
        """Show some text that is not part of what is written, on lines of its own; after an empty one, or other notes."""
        self.end_line()
        if not self._follows_note:
            self._leave_empty_line()
        self.write(text, DIM)
        self.end_line()
        self._left, self._follows_note = None, True

    def show(self, lines):
        """Show lines that are ready, after an empty one: harmless, no wider than the terminal, their styles in them."""
        self.end_line()
        self._leave_empty_line()
        self._send("".join(line + "\n" for line in lines))
        self._left, self._follows_note = None, False

    def _leave_empty_line(self):
        if self._end != "\n\n":
            self._send("\n")
