"""Text on lines of a given width: its columns, cut to fit, in tables, wrapped between words as it streams in."""

import os
import re
import unicodedata
from itertools import groupby

NARROWEST = 8                       # columns that a text in a table is cut to, and no further
TAB = 8                             # columns from one tab stop to the next, as terminals have them
NARROWEST_PARAGRAPH = 24            # columns beside an indent; where there are fewer, continued lines have no indent
USUAL_WIDTH = 80                    # columns, where a terminal does not say
_PLAIN = "\x1b[0m"                  # ends a style

# The spaces at which a line may end: Unicode's, less those that forbid it.
_SPACES = "\t \u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2008\u2009\u200a\u205f\u3000"
_PARTS = re.compile(rf"\n|[{_SPACES}]+|[^\n{_SPACES}]+")


# --- Columns ---

def columns(text):
    """Return how many columns a text takes.

    East Asian characters and emoji take two, characters that are drawn on top of another one take none.
    >>> columns("né"), columns("ne\\u0301"), columns("中")
    (2, 2, 2)
    """
    return len(text) if text.isascii() else sum(map(_character_columns, text))


def _character_columns(character):
    if takes_no_room(character):
        return 0
    return 2 if _is_wide(character) else 1


def head(text, width):
    """Return as much of the beginning of a text as fits in `width` columns."""
    if len(text) * 2 <= width:
        return text
    used = 0
    for position, character in enumerate(text):
        used += columns(character)
        if used > width:
            return text[:position]
    return text


def cut(text, width):
    """Return a text, or its beginning and … where it is wider than `width` columns."""
    return text if columns(text) <= width else head(text, width - 1) + "…"


def takes_no_room(character):
    """Return whether a character is drawn on top of the one before it, or not at all."""
    return unicodedata.category(character) in ("Mn", "Me", "Cf")


def _is_wide(character):
    return unicodedata.east_asian_width(character) in "WF"


def table(rows, sides, width):
    """Return rows of texts as aligned lines, at most `width` columns wide where that is possible.

    sides: one letter a column, "<" to align it left and allow it to be cut, ">" to align it right.
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
    lines = ("  ".join(_padded(cut(cell, cell_width), cell_width, side)
                       for cell, cell_width, side in zip(row, widths, sides)) for row in rows)
    return [line.rstrip(" ") for line in lines]


def _padded(text, width, side):
    blank = " " * (width - columns(text))
    return blank + text if side == ">" else text + blank


# --- Word wrap ---

def styled(text, style):
    """Return a text in a style such as BOLD; "" leaves it as it is."""
    return f"{style}{text}{_PLAIN}" if style and text else text


class WordWrap:
    """Wrap streamed text between words, whatever pieces it comes in.

    A word that does not fit in the rest of its line begins a new one; spaces that do not fit are left out. A word
    longer than a line begins a new one and is broken where that is full. Wide characters, such as Chinese ones, are
    a word each, with the marks that belong to them.
    >>> wrap = WordWrap(12)
    >>> [wrap.add("Take your h"), wrap.add("ands off"), wrap.end()]
    ['Take your ', '\\nhands ', 'off']
    """

    def __init__(self, width):
        self.width = width          # columns; may change at any time
        self.column = 0             # columns used in this line
        self._word = []             # [(text, style)]: a word that may continue, held back
        self._word_columns = 0
        self._last = None           # the last character of that word, held back or not
        self._is_long = False       # whether it is longer than a line, and is passed on letter by letter
        self._ready = []            # [(text, style)]: what `add` or `end` returns next

    def add(self, text, style=""):
        """Return the text that has become certain, with its styles and line breaks; text: see visible.harmless."""
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
                    if self._last and _may_break_between(self._last, letters[0]):
                        self._end_word()
                    self._add_letters(letters, style)
        return self._take_ready()

    def end(self):
        """Return what was held back, when no more text follows."""
        self._end_word()
        return self._take_ready()

    def _add_space(self, space, style):
        space_columns = TAB - self.column % TAB if space == "\t" else columns(space)
        if self.column + space_columns <= self.width:
            self._ready.append((" " * space_columns if space == "\t" else space, style))
            self.column += space_columns
        else:
            self.column = max(self.column, self.width)          # the next word begins a new line

    def _add_letters(self, letters, style):
        self._word.append((letters, style))
        self._word_columns += columns(letters)
        self._last = letters[-1]
        if self._is_long or self.column + self._word_columns > self.width:
            self._break_word()

    def _break_word(self):
        """Pass on the held back word letter by letter, from the beginning of a line; break it where a line is full."""
        if self.column and not self._is_long:
            self._break_line()
        self._is_long = True
        for text, style in self._word:
            for letter in text:
                letter_columns = columns(letter)
                if self.column and self.column + letter_columns > self.width:
                    self._break_line()
                self._ready.append((letter, style))
                self.column += letter_columns
        self._word, self._word_columns = [], 0

    def _end_word(self):
        if self.column + self._word_columns > self.width:       # the terminal has become narrower
            self._break_word()
        self._ready += self._word
        self.column += self._word_columns
        self._word, self._word_columns, self._last, self._is_long = [], 0, None, False

    def _break_line(self):
        self._ready.append(("\n", ""))
        self.column = 0

    def _take_ready(self):
        runs = groupby(self._ready, key=lambda part: part[1])
        text = "".join(styled("".join(text for text, _ in run), style) for style, run in runs)
        self._ready = []
        return text


def _may_break_between(before, after):
    """Return whether a line may end between two characters without a space between them.

    It may beside a wide one, but not before closing punctuation, nor after opening punctuation.
    """
    category = unicodedata.category
    return (_is_wide(before) or _is_wide(after)) and not (
        takes_no_room(after) or before == "\u200d" or category(before) in ("Ps", "Pi")
        # Lm: signs that repeat or lengthen; Sk: the skin of an emoji.
        or category(after) in ("Pe", "Pf", "Po", "Lm", "Sk"))


def folded(text, width):
    """Return the lines of a text wrapped as one paragraph."""
    wrap = WordWrap(width)
    return [line.rstrip(" ") for line in (wrap.add(" ".join(text.split())) + wrap.end()).split("\n")]


# --- Messages ---

# What is before the text of a line, and has its own column: "model     ", "   1:23  "; continued lines leave it empty.
_LABEL = re.compile(r" *\S+  +(?=\S)")
# A command line as folio.base.commands writes it, flags and quoted values included, or a word: neither is broken. A
# command line after a colon goes to the end of its line, unless a sentence follows: it may name files and packages.
_VALUE = r"""(?:\$?'[^']*'|"[^"]*"|[^\s'"])+"""
_FLAG = rf"--?[a-z][\w-]*(?:[ =](?!-){_VALUE})?"
_LAST = rf"(?<=: )(?:{_VALUE} -m pip|python|folio) (?:(?![.,;:] ).)+$"
_UNBROKEN = re.compile(
    rf"( *)({_LAST}|(?:(?:python|folio)(?: -m)? [\w.-]+|tensorboard)(?: {_FLAG})*|--[a-z-]+ \d\S*|\S+)")


def terminal_width(stream) -> int | None:
    """Return the columns of the terminal that a stream writes to; None where it writes to a file or a pipe."""
    try:
        if not stream.isatty():
            return None
        return os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH
    except (OSError, ValueError, AttributeError):       # no file descriptor, or a closed one
        return None


def wrapped(text: str, width: int | None) -> str:
    """Return messages with each line wrapped between words; width: columns, None to leave the text as it is.

    Words and command lines stay whole, so that they can be copied; one that is wider than a line is the only text
    beyond `width`. Continued lines begin below the text after a label. Lines within `width` are not changed, nor are
    indented ones without a label, such as those of a table or a traceback.
    >>> print(wrapped("model     small, 2 heads; see: python run.py --home here", 36))
    model     small, 2 heads; see:
              python run.py --home here
    """
    if width is None:
        return text
    return "\n".join(line if columns(line) <= width else _wrapped_line(line, width) for line in text.split("\n"))


def _wrapped_line(line, width):
    label = match[0] if (match := _LABEL.match(line)) else ""
    if not label and line.startswith(" "):
        return line
    indent = " " * columns(label) if columns(label) + NARROWEST_PARAGRAPH <= width else ""
    lines, current = [], label
    for space, word in _UNBROKEN.findall(line[len(label):]):
        if current not in (label, indent) and columns(current + space + word) > width:
            lines.append(current)
            current, space = indent, ""
        current += space + word
    return "\n".join([*lines, current])
