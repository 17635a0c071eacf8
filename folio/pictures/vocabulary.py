"""The token embeddings in two dimensions: their first two principal components (Pearson, 1901).

Each token is a vector of emb_len numbers. Tokens that are close together in the picture are similar to the model, as
far as two directions can show it.
"""

import numpy as np
import regex

from folio.base.lines import columns, cut
from folio.base.spelling import counted
from folio.base.visible import shown
from folio.pictures.canvas import COLORS, Sheet, darker, shortened, style

SIZE = 11.0, 8.0                # inches
LABEL_POINTS = 7
MAX_COLUMNS = 16                # of a label; a longer one is cut
# The first pattern found in a token decides its kind.
KINDS = {"capital letters": r"\A\s*\p{Lu}", "begins a word": r"\A\s+[\p{L}\p{M}]", "letters": r"[\p{L}\p{M}]",
         "digits": r"\p{N}", "white space": r"\A\s+\Z", "punctuation": r"\A[\s\p{P}\p{S}]+\Z", "other": ""}
COLOR_OF = dict(zip(KINDS, (COLORS[1], COLORS[0], COLORS[2], COLORS[3], COLORS[6], COLORS[5], "#A0A0A0")))


def vocabulary_figure(name, tokens, vectors):
    """Draw the embeddings in two dimensions. -> matplotlib Figure

    name: of the model; tokens: bytes, (vocab_size,); vectors: (vocab_size, emb_len). Each token is its own text in the
    color of its kind, or a dot where the text would hide another one. Tokens with small ids are placed first: in a BPE
    vocabulary they are the frequent ones.
    """
    places, share = principal(vectors)
    kinds = np.array([kind_of(token) for token in tokens])
    header = [f"{shortened(name, 60)}: {counted(len(tokens), 'token')}, {counted(vectors.shape[1], 'number')} each; "
              f"these two directions show {share:.0%} of their differences",
              "What stands close together is alike to the model, as far as two directions can say that"]
    with style():
        sheet = Sheet()
        top = sheet.begin(2 * sheet.MARGIN + SIZE[0], "How the tokens lie to each other", header, SIZE[1])
        _write_legend(sheet, top - 0.35, [kind for kind in KINDS if kind in kinds])
        axis = sheet.axes(sheet.MARGIN, top, *SIZE, label="vocabulary")
        axis.set_axis_off()
        inches = _spread_out(places) * SIZE
        axis.set(xlim=(0, SIZE[0]), ylim=(0, SIZE[1]))
        # A part of a character has no label.
        labels = ["" if kind == "other" else cut(shown(token), MAX_COLUMNS) for token, kind in zip(tokens, kinds)]
        is_labeled = np.array(without_overlaps(inches, labels))
        for kind, color in COLOR_OF.items():
            dots = inches[(kinds == kind) & ~is_labeled]
            axis.plot(*dots.T, ".", color=color, markersize=3, alpha=0.6, markeredgewidth=0, label=kind)
        for index in np.flatnonzero(is_labeled):
            axis.text(*inches[index], labels[index], fontsize=LABEL_POINTS, color=darker(COLOR_OF[kinds[index]]),
                      ha="center", va="center")
    return sheet.figure


def without_overlaps(places, labels):
    """Return which labels fit without overlapping an earlier one: (n,) bools. places: centers, (n, 2), in inches"""
    height = 1.25 * LABEL_POINTS / 72
    # Half a character is about 0.33 of the font size wide.
    halves = np.array([(0.33 * LABEL_POINTS / 72 * columns(label) + 0.03, height / 2) for label in labels])
    fits = np.zeros(len(labels), bool)
    for index, label in enumerate(labels):
        apart = np.abs(places[fits] - places[index]) >= halves[fits] + halves[index]
        fits[index] = bool(label) and apart.any(-1).all()
    return fits.tolist()


def _spread_out(places):
    """Scale places to 0 to 1 on each axis. Outliers are moved to the edge, so that they do not squeeze the rest."""
    low, high = np.percentile(places, (0.5, 99.5), axis=0)
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    return ((places - low) / np.maximum(high - low, 1e-9)).clip(0.02, 0.98)


def _write_legend(sheet, y, kinds):
    x = sheet.MARGIN
    for kind in kinds:
        sheet.write(x, y, kind, color=darker(COLOR_OF[kind]), fontsize=10, weight="bold")
        x += sheet.width_of(kind, fontsize=10, weight="bold") + 0.3


def kind_of(token):
    """Return the key of KINDS for a token, bytes.
    >>> [kind_of(token) for token in (b" the", b"The", b"ing", b" 7", b".\\n", b"\\n\\n", b"\\xc3")]
    ['begins a word', 'capital letters', 'letters', 'digits', 'punctuation', 'white space', 'other']
    """
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        return "other"
    return next(kind for kind, pattern in KINDS.items() if regex.search(pattern, text))


def principal(vectors):
    """Project vectors on their first two principal components. -> places: (n, 2), and the share of the variance in them

    vectors: (n, channels). The sign of a component is arbitrary; here the vector farthest out is on the positive side.
    """
    centered = vectors - vectors.mean(0)
    left, lengths, _ = np.linalg.svd(centered.astype(np.float64), full_matrices=False)
    places = left[:, :2] * lengths[:2]
    places = places * np.sign(np.take_along_axis(places, np.abs(places).argmax(0)[None], 0))
    return places, (lengths[:2] ** 2).sum() / max((lengths ** 2).sum(), 1e-300)         # 0 if all vectors are equal
