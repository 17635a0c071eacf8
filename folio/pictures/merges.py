"""Byte pair encoding of one word, step by step: which pair is merged next, and what is left."""

from folio.base.visible import shown
from folio.pictures.canvas import COLORS, GRAY, INK, Sheet, darker, monospaced, shortened, style

ROW, GAP, PAD = 0.42, 0.08, 0.1         # inches: of a row, between two tokens, inside a token's box


def merge_steps(merges, content):
    """Return how byte pair encoding comes to the tokens of bytes: [(pieces, number of the merge that follows or None)].

    merges: the pairs of ids in the order in which they were learned; content: bytes of one pre-token. At each step the
    pair that was learned first is merged, everywhere (Sennrich et al., 2016).
    >>> merge_steps([(97, 98), (256, 99)], b"abcab")
    [([b'a', b'b', b'c', b'a', b'b'], 0), ([b'ab', b'c', b'ab'], 1), ([b'abc', b'ab'], None)]
    """
    ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
    ids, contents, steps = list(content), [bytes([byte]) for byte in range(256)], []
    for left, right in merges:
        contents.append(contents[left] + contents[right])
    while True:
        known = [ranks[pair] for pair in zip(ids, ids[1:]) if pair in ranks]
        first = min(known, default=None)
        steps.append(([contents[token] for token in ids], first))
        if first is None:
            return steps
        merged, place = [], 0
        while place < len(ids):
            is_pair = tuple(ids[place:place + 2]) == tuple(merges[first])
            merged.append(256 + first if is_pair else ids[place])
            place += 1 + is_pair
        ids = merged


def merges_figure(name, merges, content):
    """Draw the steps by which bytes of one pre-token become tokens. -> matplotlib Figure

    name: of the model; merges, content: as `merge_steps` takes them. The pair that is merged next is colored.
    """
    steps = merge_steps(merges, content)
    with style():
        sheet, font = Sheet(), {"fontsize": 11, "family": monospaced()}
        rows = [[shown(piece) for piece in pieces] for pieces, _ in steps]
        widths = [[sheet.width_of(label, **font) + 2 * PAD for label in row] for row in rows]
        note = 2.6                      # inches, for what stands beside a row
        width = max(sum(row) + GAP * len(row) for row in widths) + note
        lines = [f"{shortened(name, 60)}: {len(content)} bytes become {len(rows[-1])} tokens in {len(steps) - 1} steps",
                 "At each step the pair that was learned first is merged: the one in color"]
        top = sheet.begin(2 * sheet.MARGIN + width, "From bytes to tokens", lines, ROW * len(rows) - 0.6)
        for number, ((pieces, merge), labels, row) in enumerate(zip(steps, rows, widths)):
            y = top - 0.45 + ROW * number
            merged = set() if merge is None else _places_of_pairs(pieces, steps[number + 1][0])
            _draw_row(sheet, y, labels, row, merged, font)
            if merge is not None:
                sheet.write(sheet.MARGIN + width - note + 0.2, y + 0.25, f"merge {merge + 1:,} of {len(merges):,}",
                            color=GRAY, fontsize=9)
    return sheet.figure


def _places_of_pairs(pieces, merged):
    """Return the places of the pieces that are two in a row and one in `merged`."""
    places, place = set(), 0
    for piece in merged:
        if piece != pieces[place]:
            places |= {place, place + 1}
            place += 1
        place += 1
    return places


def _draw_row(sheet, y, labels, widths, colored, font):
    """Draw the tokens of one step as boxes. y: of the row's upper edge; colored: places of the boxes in color"""
    from matplotlib.patches import Rectangle
    x = sheet.MARGIN
    for place, (label, width) in enumerate(zip(labels, widths)):
        color = COLORS[1] if place in colored else GRAY
        sheet.figure.add_artist(Rectangle((x / sheet.width, 1 - (y + ROW * 0.8) / sheet.height), width / sheet.width,
                                          ROW * 0.8 / sheet.height, transform=sheet.figure.transFigure, fill=False,
                                          edgecolor=color, linewidth=1.4 if place in colored else 0.8))
        sheet.write(x + PAD, y + 0.23, label, color=darker(color) if place in colored else INK, **font)
        x += width + GAP
