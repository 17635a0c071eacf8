"""Where the model is unsure: a text whose background says how many bits each piece of it cost the model."""

import math
import unicodedata
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np

from folio.pictures.canvas import INK, Sheet, colour_map, counted, monospaced, shortened, style
from folio.base.visible import harmless

LINE_INCHES = 7.2                       # about 86 letters: more, and the eye loses the line
LINE_PITCH, BAND = 0.27, 0.215          # from line to line, and how high the background is
MOST_LINES = 50
MOST_CHARACTERS = 86 * MOST_LINES       # about as many as can be shown: what comes after them need not be measured
LEAST_SCALE = 4                         # bits: where all is below that, nothing is a surprise
DARK = 0.66                             # of the scale: from here on white letters have more contrast than dark ones (as WCAG counts it)
TO_THE_LEFT = "\u200f"                  # a mark as wide as nothing: what it begins goes from right to left, in .svg too


@dataclass(frozen=True)
class Part:
    """As much of a piece as stands in one line."""
    text: str
    bits: float
    backwards: bool = False         # whether its line of the text goes from right to left
    ends_line: bool = False


def surprise_figure(name, pieces, more=0):
    """Draw a text coloured by surprise. -> matplotlib Figure

    name: of the model; pieces: [(text, bits)], together the text, not empty; more: characters that the text goes on with. Lines end where the
    text's do, or else between words; a line that begins in a script from right to left goes that way.
    """
    bits = np.array([cost for _, cost in pieces])
    text_bytes = len("".join(text for text, _ in pieces).encode("utf-8", errors="surrogateescape"))
    header = [f"{shortened(name, 60)}: {bits.sum() / text_bytes:.2f} bits per byte here, {bits.mean():.1f} for each of {counted(len(bits), 'token')}",
              "The darker, the less the model expected it from what stands before"]
    most = max(LEAST_SCALE, 4 * math.ceil(np.percentile(bits, 99) / 4))
    with style():
        sheet = Sheet()
        font = {"fontsize": 10, "fontfamily": monospaced()}
        lines = list(wrapped(parts_of(pieces), LINE_INCHES, lambda text: sheet.width_of(text, **font)))
        more += sum(len(part.text) for line in lines[MOST_LINES:] for part in line)
        lines = lines[:MOST_LINES]
        begin = sheet.begin(2 * sheet.MARGIN + LINE_INCHES, "Where the model is unsure", header, LINE_PITCH * (len(lines) + bool(more)),
                            ("bits", [0, 0.25, 0.5, 0.75, 1], [*(f"{most * part:g}" for part in (0, 0.25, 0.5, 0.75)), f"{most} or more"]))
        for number, line in enumerate(lines):
            _draw_line(sheet, begin + LINE_PITCH * number, line, most, font)
        if more:
            sheet.write(sheet.MARGIN, begin + LINE_PITCH * len(lines) + 0.16, f"… and {counted(more, 'character')} more", fontsize=9, style="italic")
    return sheet.figure


def _draw_line(sheet, top, line, most, font):
    from matplotlib.patches import Rectangle
    widths = {id(part): sheet.width_of(part.text, **font) for part in line}
    backwards = {id(part): direction != "L" for part, direction in zip(line, directions(line))}
    x = sheet.MARGIN + (LINE_INCHES - sum(widths.values())) * line[0].backwards
    for part in as_seen(line):
        wide, shade = widths[id(part)], min(1.0, part.bits / most)
        sheet.figure.add_artist(Rectangle((x / sheet.width, 1 - (top + BAND) / sheet.height), wide / sheet.width, BAND / sheet.height,
                                          transform=sheet.figure.transFigure, facecolor=colour_map()(shade), edgecolor="white", linewidth=0.7))
        if word := part.text.strip(" "):
            before, after = part.text.split(word)
            left = sheet.width_of(after if backwards[id(part)] else before, **font)
            sheet.write(x + left, top + 0.15, TO_THE_LEFT * backwards[id(part)] + word, color="white" if shade > DARK else INK, **font)
        x += wide


# --- Lines ---

def parts_of(pieces):
    """[(text, bits)] as Parts, of which the last of a line shows how it ends."""
    backwards = map(is_backwards, "".join(text for text, _ in pieces).split("\n"))
    this_line = next(backwards)
    for text, bits in pieces:
        *ended, rest = harmless(text).replace("\t", "→").split("\n")
        for line in ended:
            yield Part(line + "⏎", bits, this_line, ends_line=True)
            this_line = next(backwards)
        if rest:
            yield Part(rest, bits, this_line)


def wrapped(parts, most, width_of):
    """Yield lines of Parts, lists, none wider than `most`; a line begins with a word where that is possible. width_of: text -> its width"""
    line, room = [], most
    for word in _words(parts, most, width_of):
        wide = sum(width_of(part.text) for part in word)
        if wide > room:
            yield line
            line, room = [], most
            word = [replace(word[0], text=word[0].text.lstrip(" ") or word[0].text), *word[1:]]
            wide = sum(width_of(part.text) for part in word)
        line += word
        room -= wide
        if word[-1].ends_line:
            yield line
            line, room = [], most
    if line:
        yield line


def _words(parts, most, width_of):
    """Parts that belong together; those that no line could hold come one by one, or even letter by letter."""
    word = []
    for part, following in pairwise([*parts, None]):
        word.append(part)
        if following is None or part.ends_line or part.text.endswith(" ") or following.text.startswith(" "):
            if sum(width_of(each.text) for each in word) <= most:
                yield word
            else:
                yield from ([each] for part in word for each in _letters(part, most, width_of))
            word = []


def _letters(part, most, width_of):
    if width_of(part.text) <= most:
        return [part]
    *letters, last = part.text
    return [*(replace(part, text=letter, ends_line=False) for letter in letters), replace(part, text=last)]


# --- Directions: as much of the Unicode bidirectional algorithm (UAX 9) as whole parts of a line need ---

def is_backwards(text):
    """Whether a line goes from right to left: whether its first letter does.
    >>> is_backwards("1. שלום, Merran"), is_backwards("Merran: שלום")
    (True, False)
    """
    return _direction(text) == "R"


def as_seen(line):
    """The Parts of a line from left to right.
    >>> [part.text for part in as_seen([Part("I ", 1), Part("של", 1), Part("ום", 1), Part(" say", 1)])]
    ['I ', 'ום', 'של', ' say']
    """
    backwards, units, last = line[0].backwards, [], None           # units: what goes on to the right, whatever stands around it
    for part, direction in zip(line, directions(line)):
        blank_parts = "N" in (direction, last) and part.text.startswith(" ")            # a number from what is before it
        if units and "R" not in (direction, last) and (direction == last or backwards) and not blank_parts:
            units[-1][1].append(part)
        else:
            units.append((direction, [part]))
        last = direction
    runs = [list(run)[::-1 if turned else 1] for turned, run in groupby(units, key=lambda unit: backwards or unit[0] != "L")]
    return [part for run in runs for _, parts in run for part in parts]


def directions(line):
    """How the Parts of a line go: L, R, or N for a number among what goes from right to left, whose digits do not.
    >>> directions([Part("של ", 1), Part("1", 1), Part(",", 1), Part("5", 1), Part(" !", 1)])
    ['R', 'N', 'N', 'N', 'L']
    """
    base = "R" if line[0].backwards else "L"
    own = [_direction(part.text) for part in line]
    own = ["N" if len(part.text) == 1 and unicodedata.bidirectional(part.text) in ("CS", "ES") and around == ("N", "N") else direction
           for part, direction, around in zip(line, own, zip([None, *own], [*own[1:], None]))]          # 1,5 and 1-5 are one number
    letters = _filled([None if each == "N" else each for each in own], base)
    own = ["L" if (each, last) == ("N", "L") else each for each, last in zip(own, letters)]
    sides = ["R" if each == "N" else each for each in own]
    before, after = _filled(sides, base), _filled(sides[::-1], base)[::-1]
    return [each or (left if left == right else base)                       # what has none is as both sides are, or as the line
            for each, left, right in zip(own, before, after)]


def _direction(text):
    """L or R as the first letter has it, N where there are digits alone, None where there is neither."""
    kinds = [unicodedata.bidirectional(character) for character in text]
    letter = next((kind[0].replace("A", "R") for kind in kinds if kind in ("L", "R", "AL")), None)
    return letter or ("N" if {"EN", "AN"} & set(kinds) else None)


def _filled(directions, last):
    """Each None as the direction before it, the first ones as `last`."""
    filled = []
    for each in directions:
        last = each or last
        filled.append(last)
    return filled
