"""How tokens lie to each other: the vocabulary's embedding, seen from the side from which most of its differences can be seen.

Each token is a vector of emb_len numbers. The two directions in which these vectors differ most (principal components; Pearson, 1901) make
the picture: tokens that stand close together mean something similar to the model, as far as two directions can show it.
"""

import numpy as np
import regex

from folio.pictures.canvas import COLOURS, Sheet, counted, darker, shortened, style
from folio.base.lines import columns, cut
from folio.base.visible import shown

SIZE = 11.0, 8.0                # inches
LABEL_POINTS = 7
MOST_COLUMNS = 16               # of a label; what is longer is cut
# By the first that is found in a token.
KINDS = {"capital letters": r"\A\s*\p{Lu}", "begins a word": r"\A\s+[\p{L}\p{M}]", "letters": r"[\p{L}\p{M}]",
         "digits": r"\p{N}", "white space": r"\A\s+\Z", "punctuation": r"\A[\s\p{P}\p{S}]+\Z", "other": ""}
COLOUR_OF = dict(zip(KINDS, (COLOURS[1], COLOURS[0], COLOURS[2], COLOURS[3], COLOURS[6], COLOURS[5], "#A0A0A0")))


def vocabulary_figure(name, tokens, vectors):
    """Draw the embedding in two dimensions. -> matplotlib Figure

    name: of the model; tokens: bytes, (vocab_size,); vectors: (vocab_size, emb_len). Each token is a dot in the colour of its kind, or its own text
    there, where that hides no other one; tokens that come first in the vocabulary have the first say, and in byte pairs those are frequent.
    """
    places, share = principal(vectors)
    kinds = np.array([kind_of(token) for token in tokens])
    header = [f"{shortened(name, 60)}: {counted(len(tokens), 'token')}, {counted(vectors.shape[1], 'number')} each; these two directions show "
              f"{share:.0%} of their differences", "What stands close together is alike to the model, as far as two directions can say that"]
    with style():
        sheet = Sheet()
        top = sheet.begin(2 * sheet.MARGIN + SIZE[0], "How the tokens lie to each other", header, SIZE[1])
        _write_legend(sheet, top - 0.35, [kind for kind in KINDS if kind in kinds])
        axis = sheet.axes(sheet.MARGIN, top, *SIZE, label="vocabulary")
        axis.set_axis_off()
        inches = _spread_out(places) * SIZE
        axis.set(xlim=(0, SIZE[0]), ylim=(0, SIZE[1]))
        labels = ["" if kind == "other" else cut(shown(token), MOST_COLUMNS) for token, kind in zip(tokens, kinds)]        # half a letter says nothing
        labelled = np.array(roomy(inches, labels))
        for kind, colour in COLOUR_OF.items():
            dots = inches[(kinds == kind) & ~labelled]
            axis.plot(*dots.T, ".", color=colour, markersize=3, alpha=0.6, markeredgewidth=0, label=kind)
        for (x, y), label, kind in ((inches[place], labels[place], kinds[place]) for place in np.flatnonzero(labelled)):
            axis.text(x, y, label, fontsize=LABEL_POINTS, color=darker(COLOUR_OF[kind]), ha="center", va="center")
    return sheet.figure


def roomy(places, labels):
    """Which labels can stand centred at their places without hiding one before: (n,) bools. places: (n, 2), in inches"""
    high = 1.25 * LABEL_POINTS / 72
    halves = np.array([(0.33 * LABEL_POINTS / 72 * columns(label) + 0.03, high / 2) for label in labels])      # about 0.6 of the height is a letter's width
    stand = np.zeros(len(labels), bool)
    for place, label in enumerate(labels):
        apart = np.abs(places[stand] - places[place]) >= halves[stand] + halves[place]
        stand[place] = bool(label) and apart.any(-1).all()
    return stand.tolist()


def _spread_out(places):
    """Places as shares of the sheet, from 0 to 1; the few that lie far out on an axis do not press the others together: they stand at the edge."""
    low, high = np.percentile(places, (0.5, 99.5), axis=0)
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    return ((places - low) / np.maximum(high - low, 1e-9)).clip(0.02, 0.98)


def _write_legend(sheet, y, kinds):
    x = sheet.MARGIN
    for kind in kinds:
        sheet.write(x, y, kind, color=darker(COLOUR_OF[kind]), fontsize=10, weight="bold")
        x += sheet.width_of(kind, fontsize=10, weight="bold") + 0.3


def kind_of(token):
    """The key of KINDS for a token, bytes.
    >>> [kind_of(token) for token in (b" the", b"The", b"ing", b" 7", b".\\n", b"\\n\\n", b"\\xc3")]
    ['begins a word', 'capital letters', 'letters', 'digits', 'punctuation', 'white space', 'other']
    """
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        return "other"
    return next(kind for kind, pattern in KINDS.items() if regex.search(pattern, text))


def principal(vectors):
    """vectors: (n, channels) -> places: (n, 2) along the two directions in which they differ most, and the share of their variance that is in these.

    The sign of a direction, which means nothing, is such that the vector farthest out lies on the positive side.
    """
    centred = vectors - vectors.mean(0)
    left, lengths, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    places = left[:, :2] * lengths[:2]
    places = places * np.sign(np.take_along_axis(places, np.abs(places).argmax(0)[None], 0))
    return places, (lengths[:2] ** 2).sum() / max((lengths ** 2).sum(), 1e-300)         # which is 0 where all are the same
