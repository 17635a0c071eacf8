"""Where each token looks: maps of what attention takes from where, layers by heads.

A token sees only itself and what stands before it, so each map is a triangle; the words are written along its long side, where each of them
names the row that ends there and the column that begins there.
"""

import numpy as np

from folio.pictures.canvas import Sheet, colour_map, counted, shortened, style
from folio.base.lines import cut

MOST_TOKENS = 64                # more would make maps that fit no screen
MOST_COLUMNS = 14               # of a label; what is longer is cut
CELL_INCHES = 0.14, 0.24        # a square as small as letters can be read, and as large as it need be
MAP_INCHES = 2.9                # a map, between these


def attention_figure(name, labels, weights):
    """Draw what attention weighs in a text. -> matplotlib Figure

    name: of the model; labels: the text's tokens, (time,), as they are to be read; weights: (layers, heads, time, time), rows of which sum up to 1.
    Each map is an Axes whose label is "layer L, head H", counted from 1.
    """
    layers, heads, length, _ = weights.shape
    smallest, largest = CELL_INCHES
    cell = max(smallest, min(largest, MAP_INCHES / length))
    font = {"fontsize": 72 * cell * 0.66}
    labels = [cut(label, MOST_COLUMNS) for label in labels]
    with style():
        sheet = Sheet()
        # How far the map and the words on its long side reach to the right; a title needs room too.
        wide = max(1.2, *((place + 1.4) * cell + sheet.width_of(label, **font) for place, label in enumerate(labels))) + 0.25
        high = length * cell + 0.5
        lines = [f"{shortened(name, 60)}: {counted(layers, 'layer')}, each with {counted(heads, 'head')}",
                 "A row is a token: the darker a square, the more it takes from the token at the top of that column"]
        shares = (0, 0.05, 0.2, 0.5, 1)
        top = sheet.begin(2 * sheet.MARGIN + layers * wide, "Where each token looks", lines, heads * high - 0.5,
                          ("share of attention", np.sqrt(shares), shares))          # the root: the eye is to see few parts in a hundred too
        for layer in range(layers):
            for head in range(heads):
                title = f"layer {layer + 1}, head {head + 1}"
                axis = sheet.axes(sheet.MARGIN + layer * wide, top + head * high, length * cell, length * cell, label=title)
                _draw_map(axis, title, labels, np.sqrt(weights[layer, head]), font)
    return sheet.figure


def _draw_map(axis, title, labels, shades, font):
    places = np.arange(len(labels) + 1)
    past = np.tri(len(labels), dtype=bool)
    axis.pcolormesh(places, places, np.ma.array(shades, mask=~past), cmap=colour_map(), vmin=0, vmax=1, edgecolors="white", linewidth=0.5,
                    rasterized=True)         # in .svg they would be megabytes
    axis.set(xlim=(0, len(labels)), ylim=(len(labels), 0))
    axis.set_axis_off()
    axis.set_title(title, loc="left", fontsize=9, weight="bold", pad=5)
    for place, label in enumerate(labels):
        axis.text(place + 1.25, place + 0.5, label, va="center_baseline", parse_math=False, **font)
