"""Text in lines of so many columns: how many it takes, cut to fit, in tables, broken between its words however it comes in."""

import re
import unicodedata
from itertools import groupby

NARROWEST = 8                       # columns that a text in a table is cut to, and no further
TAB = 8                             # columns from one tab stop to the next, as terminals have them
_PLAIN = "\x1b[0m"                  # ends a style

# The spaces at which a line may end: Unicode's, less those that forbid it.
_SPACES = "\t \u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2008\u2009\u200a\u205f\u3000"
_PARTS = re.compile(rf"\n|[{_SPACES}]+|[^\n{_SPACES}]+")


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


# --- Lines of words ---

def styled(text, style):
    """A text in a style such as BOLD; "" leaves it as it is."""
    return f"{style}{text}{_PLAIN}" if style and text else text


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
