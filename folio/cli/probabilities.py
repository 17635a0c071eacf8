"""What a model makes of a text, on the screen: its likeliest next tokens, and how likely each token was."""

import math

from folio.base.lines import WordWrap, styled, table
from folio.base.visible import harmless, on_one_line, shown
from folio.cli.layout import side_by_side
from folio.cli.screen import DIM, WARMTH, warmth

SHOWN_TOKENS = 10           # of /top
LONGEST_BAR = 20            # columns


def show_top(screen, found):
    """Show the likeliest next tokens as a table with bars.

    found: [(piece, probability)], in falling order, as next_token_probabilities returns them
    """
    found = found[:SHOWN_TOKENS]
    bars = ["━" * round(LONGEST_BAR * probability / found[0][1]) for _, probability in found]
    rows = [(shown(piece.encode("utf-8")), _percent(probability), bar)
            for (piece, probability), bar in zip(found, bars)]
    screen.show(table(rows, "<><", screen.width))


def show_surprise(screen, parts):
    """Show texts with their tokens in colors, or else with their probabilities below them.

    parts: [(mark, [(piece, bits)])]: texts that begin a line each, with what stands before it
    """
    if screen.has_colors:
        scale = [styled(f" 1/{float(f'{math.exp(cost):.0e}'):,.0f} ", warmth(cost)) for cost in WARMTH]
        lines = [line for mark, pieces in parts for line in _in_colors(mark, pieces, screen.width)]
        screen.show([*lines, "", " ".join([styled("less likely than", DIM), *scale])])
        return
    lines = []
    for mark, pieces in parts:
        cells = [(on_one_line(piece).replace(" ", "·"), _percent(2 ** -bits), piece.endswith("\n"))
                 for piece, bits in pieces]
        lines += side_by_side([(mark, "", False), *cells] if mark else cells, screen.width)
    screen.show(lines)


def _in_colors(mark, pieces, width):
    """Return a text's lines, each of its tokens in the color of what it costs."""
    wrap = WordWrap(width)
    text = wrap.add(f"{mark} ", DIM) if mark else ""
    for piece, bits in pieces:
        text += wrap.add(harmless(piece).replace("\n", "⏎\n"), warmth(bits * math.log(2)))
    return (text + wrap.end()).removesuffix("\n").split("\n")


def _percent(probability):
    return f"{100 * probability:.1f} %"
