"""Lines of a terminal: a list with descriptions, pieces of text with a note below each."""

from folio.base.lines import columns, cut, folded


def percent(probability):
    """Return a probability as a percentage.
    >>> percent(0.125)
    '12.5 %'
    """
    return f"{100 * probability:.1f} %"


def listed(rows, width, whole=True):
    """Yield [(name, description)] as lines: side by side, or one below the other where that leaves too little room.

    whole: wrap long descriptions; else cut them to one line.
    """
    names = max(columns(name) for name, _ in rows) + 2
    beside = width - names >= 24            # columns: a few words
    for name, text in rows:
        lines = folded(text, width - names if beside else max(1, width - 2))
        first, *more = lines if whole else [cut(text, width - names if beside else width - 2)]
        yield from [name + " " * (names - columns(name)) + first] if beside else [cut(name, width), "  " + first]
        yield from (" " * (names if beside else 2) + line for line in more)


def side_by_side(cells, width):
    """Yield [(above, below, whether it ends a line)] as lines, two for each row of cells."""
    above = below = ""
    for top, bottom, ends_line in cells:
        wide = max(columns(top), columns(bottom)) + 2
        if above and columns(above) + wide - 2 > width:
            yield from (above.rstrip(), below.rstrip(), "")
            above = below = ""
        above, below = above + top + " " * (wide - columns(top)), below + bottom.ljust(wide)
        if ends_line:
            yield from (above.rstrip(), below.rstrip(), "")
            above = below = ""
    if above:
        yield from (above.rstrip(), below.rstrip())
