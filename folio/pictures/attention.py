"""Attention maps of a text, layers by heads.

A token attends only to itself and to the tokens before it, so each map is a triangle. The tokens are written along its
long side: each labels the row that ends there and the column that starts there.
"""

import numpy as np

from folio.base.lines import cut
from folio.base.spelling import counted
from folio.pictures.canvas import Sheet, color_map, shortened, style

MAX_TOKENS = 64                 # more would make maps that fit no screen
MAX_COLUMNS = 14                # of a label; a longer one is cut
CELL_INCHES = 0.14, 0.24        # side of a square: the smallest with readable labels, and the largest
MAP_INCHES = 2.9                # side of a map, where the cells allow it


def attention_figure(name, labels, weights):
    """Draw the attention weights of a text. -> matplotlib Figure

    name: of the model; labels: the tokens as visible text, (time,); weights: (layers, heads, time, time), whose rows
    sum to 1. Each map is an Axes with the label "layer L, head H", counted from 1.
    """
    layers, heads, length, _ = weights.shape
    smallest, largest = CELL_INCHES
    cell = max(smallest, min(largest, MAP_INCHES / length))
    font = {"fontsize": 72 * cell * 0.66}
    labels = [cut(label, MAX_COLUMNS) for label in labels]
    with style():
        sheet = Sheet()
        # The width of a map with the labels on its long side, or of its title.
        widths = [(index + 1.4) * cell + sheet.width_of(label, **font) for index, label in enumerate(labels)]
        map_width = max(1.2, *widths) + 0.25
        map_height = length * cell + 0.5
        lines = [f"{shortened(name, 60)}: {counted(layers, 'layer')}, each with {counted(heads, 'head')}",
                 "A row is a token: the darker a square, the more it takes from the token at the top of that column"]
        shares = (0, 0.05, 0.2, 0.5, 1)
        # Shades are the square root of the weight, so that a few percent are visible too.
        top = sheet.begin(2 * sheet.MARGIN + layers * map_width, "Where each token looks", lines,
                          heads * map_height - 0.5, ("share of attention", np.sqrt(shares), shares))
        for layer in range(layers):
            for head in range(heads):
                title = f"layer {layer + 1}, head {head + 1}"
                axis = sheet.axes(sheet.MARGIN + layer * map_width, top + head * map_height, length * cell,
                                  length * cell, label=title)
                _draw_map(axis, title, labels, np.sqrt(weights[layer, head]), font)
    return sheet.figure


def _draw_map(axis, title, labels, shades, font):
    """Draw one map. shades: (time, time), from 0 to 1"""
    edges = np.arange(len(labels) + 1)
    past = np.tri(len(labels), dtype=bool)
    axis.pcolormesh(edges, edges, np.ma.array(shades, mask=~past), cmap=color_map(), vmin=0, vmax=1, edgecolors="white",
                    linewidth=0.5, rasterized=True)         # as vectors they would take megabytes in an .svg
    axis.set(xlim=(0, len(labels)), ylim=(len(labels), 0))
    axis.set_axis_off()
    axis.set_title(title, loc="left", fontsize=9, weight="bold", pad=5)
    for index, label in enumerate(labels):
        axis.text(index + 1.25, index + 0.5, label, va="center_baseline", parse_math=False, **font)
