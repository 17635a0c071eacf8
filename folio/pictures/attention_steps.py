"""One head of attention, step by step: scores, mask, softmax, and the mixture of values that comes out."""

import numpy as np

from folio.base.lines import cut
from folio.pictures.canvas import GRAY, INK, Sheet, color_map, shortened, style

CELL, MAX_COLUMNS = 0.3, 12             # inches: side of a square; columns of a label
GAP = 0.55                              # inches between two panels
LEAST_NUMBERS = 8                       # tokens up to which each square shows its number


def attention_steps_figure(name, labels, scores, values):
    """Draw what one head of attention does with a text. -> matplotlib Figure

    name: of the model, layer and head; labels: the tokens as visible text, (T,); scores: products of queries and keys
    divided by the root of the head's length, (T, T); values: (T, D). The panels are Axes with the labels "scores",
    "masked", "weights", "values" and "mixture".
    """
    time, length = values.shape
    weights = softmax_of_the_past(scores)
    past = np.tri(time, dtype=bool)
    labels = [cut(label, MAX_COLUMNS) for label in labels]
    with style():
        sheet = Sheet()
        margin = max(sheet.width_of(label, fontsize=9) for label in labels) + 0.15
        panel = CELL * time
        panels = (("scores", "1. scores: query × key", scores, None, "score"),
                  ("masked", "2. masked: no future", scores, past, "score"),
                  ("weights", "3. softmax: rows sum to 1", weights, past, "share"),
                  ("values", "4. values of the tokens", values, None, "value"),
                  ("mixture", "5. mixture: weights × values", weights @ values, None, "value"))
        lines = [shortened(name, 80),
                 "Each row is a token that looks at the tokens of the columns; the mixture is what it takes from them"]
        top = sheet.begin(2 * sheet.MARGIN + margin + len(panels) * (panel + GAP), "Attention, step by step", lines,
                          panel + 0.6)
        for number, (key, title, numbers, mask, kind) in enumerate(panels):
            x = sheet.MARGIN + margin + number * (panel + GAP)
            axis = sheet.axes(x, top, panel, panel, label=key)
            _draw(axis, title, numbers, mask, kind)
            if number == 0:
                for place, label in enumerate(labels):
                    sheet.write(x - 0.08, top + CELL * (place + 0.5), label, ha="right", va="center", fontsize=9)
            if key in ("scores", "masked", "weights"):
                for place, label in enumerate(labels):
                    sheet.write(x + CELL * (place + 0.5), top + panel + 0.08, label, ha="center", va="top", fontsize=8,
                                rotation=90, color=GRAY)
            else:
                sheet.write(x + panel / 2, top + panel + 0.2, f"{length} numbers", ha="center", fontsize=8, color=GRAY)
    return sheet.figure


def softmax_of_the_past(scores):
    """Return the weights of attention: each row's softmax over its own token and those before it. scores: (T, T)

    >>> softmax_of_the_past(np.zeros((2, 2))).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    masked = np.where(np.tri(len(scores), dtype=bool), scores, -np.inf)
    exponentials = np.exp(masked - masked.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _draw(axis, title, numbers, mask, kind):
    """Draw one panel. numbers: (T, T or D); mask: squares that are drawn, or None for all"""
    rows, width = numbers.shape
    shown = np.ma.array(numbers, mask=None if mask is None else ~mask)
    largest = max(float(np.abs(shown).max()), 1e-9)
    low, colors = (0.0, color_map()) if kind == "share" else (-largest, "RdBu_r")
    axis.pcolormesh(np.arange(width + 1), np.arange(rows + 1), shown, cmap=colors, vmin=low,
                    vmax=1.0 if kind == "share" else largest, edgecolors="white", linewidth=0.5 if width == rows else 0,
                    rasterized=True)
    axis.set(xlim=(0, width), ylim=(rows, 0))
    axis.set_axis_off()
    axis.set_title(title, loc="left", fontsize=9, weight="bold", pad=5)
    if width == rows <= LEAST_NUMBERS:
        for row in range(rows):
            for column in range(width):
                if mask is None or mask[row, column]:
                    value = numbers[row, column]
                    is_dark = (value if kind == "share" else abs(value) / largest) > 0.55
                    axis.text(column + 0.5, row + 0.5, f"{value:.1f}".replace("0.", ".") if kind == "share"
                              else f"{value:.1f}", ha="center", va="center", fontsize=6,
                              color="white" if is_dark else INK)
