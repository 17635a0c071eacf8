"""A text with the cost of each token as its background, in bits."""

import math
import unicodedata
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np

from folio.base.spelling import counted
from folio.base.visible import harmless
from folio.pictures.canvas import INK, Sheet, color_map, monospaced, shortened, style

LINE_INCHES = 7.2                       # about 86 characters; longer lines are hard to read
LINE_PITCH, BAND = 0.27, 0.215          # distance between lines and height of the background, in inches
MAX_LINES = 50
MAX_CHARACTERS = 86 * MAX_LINES         # about as many as fit; the rest of a text need not be measured
MIN_SCALE = 4                           # bits at the dark end, at least: a text that costs less has no surprises
DARK = 0.66                             # of the scale: from here on white text has more contrast than dark (WCAG)
RIGHT_TO_LEFT_MARK = "\u200f"           # zero width: text after it is laid out from right to left, also in .svg


@dataclass(frozen=True)
class Part:
    """A token, or the part of it that is in one line."""
    text: str
    bits: float
    right_to_left: bool = False     # base direction of its line of the text
    ends_line: bool = False


def surprise_figure(name, pieces, more=0):
    """Draw a text with its surprise as background color. -> matplotlib Figure

    name: of the model; pieces: [(text, bits)], which together are the text, not empty; more: number of characters of
    the text after these pieces. Lines end where those of the text end, and between words. A line that starts in a
    right-to-left script is laid out from right to left.
    """
    bits = np.array([cost for _, cost in pieces])
    text_bytes = len("".join(text for text, _ in pieces).encode("utf-8", errors="surrogateescape"))
    header = [f"{shortened(name, 60)}: {bits.sum() / text_bytes:.2f} bits per byte here, {bits.mean():.1f} for each of "
              f"{counted(len(bits), 'token')}",
              "The darker, the less the model expected it from what stands before"]
    scale = max(MIN_SCALE, 4 * math.ceil(np.percentile(bits, 99) / 4))          # bits at the dark end
    ticks = [*(f"{scale * share:g}" for share in (0, 0.25, 0.5, 0.75)), f"{scale} or more"]
    with style():
        sheet = Sheet()
        font = {"fontsize": 10, "fontfamily": monospaced()}
        lines = list(wrapped(parts_of(pieces), LINE_INCHES, lambda text: sheet.width_of(text, **font)))
        more += sum(len(part.text) for line in lines[MAX_LINES:] for part in line)
        lines = lines[:MAX_LINES]
        top = sheet.begin(2 * sheet.MARGIN + LINE_INCHES, "Where the model is unsure", header,
                          LINE_PITCH * (len(lines) + bool(more)), ("bits", [0, 0.25, 0.5, 0.75, 1], ticks))
        for number, line in enumerate(lines):
            _draw_line(sheet, top + LINE_PITCH * number, line, scale, font)
        if more:
            sheet.write(sheet.MARGIN, top + LINE_PITCH * len(lines) + 0.16, f"… and {counted(more, 'character')} more",
                        fontsize=9, style="italic")
    return sheet.figure


def _draw_line(sheet, top, line, scale, font):
    """Draw the Parts of a line. top: y in inches; scale: bits at the dark end of the color scale"""
    from matplotlib.patches import Rectangle
    widths = {id(part): sheet.width_of(part.text, **font) for part in line}
    right_to_left = {id(part): direction != "L" for part, direction in zip(line, directions(line))}
    x = sheet.MARGIN
    if line[0].right_to_left:
        x += LINE_INCHES - sum(widths.values())
    for part in in_visual_order(line):
        width, shade = widths[id(part)], min(1.0, part.bits / scale)
        corner = x / sheet.width, 1 - (top + BAND) / sheet.height
        sheet.figure.add_artist(Rectangle(corner, width / sheet.width, BAND / sheet.height,
                                          transform=sheet.figure.transFigure, facecolor=color_map()(shade),
                                          edgecolor="white", linewidth=0.7))
        if word := part.text.strip(" "):
            before, after = part.text.split(word)
            left = sheet.width_of(after if right_to_left[id(part)] else before, **font)
            mark = RIGHT_TO_LEFT_MARK if right_to_left[id(part)] else ""
            sheet.write(x + left, top + 0.15, mark + word, color="white" if shade > DARK else INK, **font)
        x += width


# --- Lines ---

def parts_of(pieces):
    """Yield the Parts of [(text, bits)]; line ends and tabs become visible."""
    line_directions = map(is_right_to_left, "".join(text for text, _ in pieces).split("\n"))
    right_to_left = next(line_directions)
    for text, bits in pieces:
        *ended, rest = harmless(text).replace("\t", "→").split("\n")
        for line in ended:
            yield Part(line + "⏎", bits, right_to_left, ends_line=True)
            right_to_left = next(line_directions)
        if rest:
            yield Part(rest, bits, right_to_left)


def wrapped(parts, max_width, width_of):
    """Yield lines, lists of Parts, none wider than `max_width`; lines break between words where possible.

    width_of: a function from a text to its width.
    """
    line, room = [], max_width
    for word in _words(parts, max_width, width_of):
        width = sum(width_of(part.text) for part in word)
        if width > room:
            yield line
            line, room = [], max_width
            word = [replace(word[0], text=word[0].text.lstrip(" ") or word[0].text), *word[1:]]
            width = sum(width_of(part.text) for part in word)
        line += word
        room -= width
        if word[-1].ends_line:
            yield line
            line, room = [], max_width
    if line:
        yield line


def _words(parts, max_width, width_of):
    """Yield the words, lists of Parts; a word wider than a line is split into its Parts, and these into letters."""
    word = []
    for part, following in pairwise([*parts, None]):
        word.append(part)
        if following is None or part.ends_line or part.text.endswith(" ") or following.text.startswith(" "):
            if sum(width_of(part.text) for part in word) <= max_width:
                yield word
            else:
                yield from ([letter] for part in word for letter in _letters(part, max_width, width_of))
            word = []


def _letters(part, max_width, width_of):
    if width_of(part.text) <= max_width:
        return [part]
    *letters, last = part.text
    return [*(replace(part, text=letter, ends_line=False) for letter in letters), replace(part, text=last)]


# --- Directions: the part of the Unicode bidirectional algorithm (UAX 9) that whole Parts of a line need ---

def is_right_to_left(text):
    """Return whether the base direction of a line is right to left: whether its first letter's is.
    >>> is_right_to_left("1. שלום, Merran"), is_right_to_left("Merran: שלום")
    (True, False)
    """
    return _direction(text) == "R"


def in_visual_order(line):
    """Return the Parts of a line from left to right.
    >>> [part.text for part in in_visual_order([Part("I ", 1), Part("של", 1), Part("ום", 1), Part(" say", 1)])]
    ['I ', 'ום', 'של', ' say']
    """
    right_to_left, last = line[0].right_to_left, None
    units = []                  # (direction, Parts that stay in left-to-right order in any line)
    for part, direction in zip(line, directions(line)):
        # A space separates a number from its neighbor.
        is_separate = "N" in (direction, last) and part.text.startswith(" ")
        if units and "R" not in (direction, last) and (direction == last or right_to_left) and not is_separate:
            units[-1][1].append(part)
        else:
            units.append((direction, [part]))
        last = direction
    runs = [list(run)[::-1 if is_reversed else 1]
            for is_reversed, run in groupby(units, key=lambda unit: right_to_left or unit[0] != "L")]
    return [part for run in runs for _, parts in run for part in parts]


def directions(line):
    """Return the direction of each Part of a line: L, R, or N for a number in right-to-left text.

    The digits of a number run from left to right in any text.
    >>> directions([Part("של ", 1), Part("1", 1), Part(",", 1), Part("5", 1), Part(" !", 1)])
    ['R', 'N', 'N', 'N', 'L']
    """
    base = "R" if line[0].right_to_left else "L"
    own = [_direction(part.text) for part in line]
    # 1,5 and 1-5 are one number.
    neighbors = zip([None, *own], [*own[1:], None])
    own = ["N" if _is_number_separator(part.text) and both == ("N", "N") else direction
           for part, direction, both in zip(line, own, neighbors)]
    letters = _filled([None if direction == "N" else direction for direction in own], base)
    own = ["L" if (direction, last) == ("N", "L") else direction for direction, last in zip(own, letters)]
    sides = ["R" if direction == "N" else direction for direction in own]
    before, after = _filled(sides, base), _filled(sides[::-1], base)[::-1]
    # A Part without a direction has that of both sides if they agree, and else that of the line.
    return [direction or (left if left == right else base) for direction, left, right in zip(own, before, after)]


def _is_number_separator(text):
    return len(text) == 1 and unicodedata.bidirectional(text) in ("CS", "ES")


def _direction(text):
    """Return the direction of the first letter, L or R; N for digits without letters; None for neither."""
    classes = [unicodedata.bidirectional(character) for character in text]
    letter = next((name[0].replace("A", "R") for name in classes if name in ("L", "R", "AL")), None)
    return letter or ("N" if {"EN", "AN"} & set(classes) else None)


def _filled(directions, last):
    """Replace each None by the direction before it, and those at the start by `last`."""
    filled = []
    for direction in directions:
        last = direction or last
        filled.append(last)
    return filled
