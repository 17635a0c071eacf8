"""Compare two models on the same text: is the difference more than the choice of this text explains?

The unit is bits per byte, so the models may have different tokenizers. Both are measured on the same parts of the text,
documents or stretches of words, and the parts are drawn again with replacement 10,000 times (a paired bootstrap: Efron
and Tibshirani, 1993; for language: Koehn, 2004). The interval tells how far the difference would vary on other text of
this kind. It says nothing of other seeds of training.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

DRAWS = 10_000                      # resamples: the ends of the interval vary by about 1 % of its width
CONFIDENCE = 0.95
# Fewer documents than this are cut into stretches. Documents of unlike lengths make an interval of few unreliable.
FEWEST_DOCUMENTS = 30
FEWEST_PARTS = 20
MOST_PARTS = 1000                   # neighboring documents are taken together beyond that
STRETCH_BYTES = 512                 # about 90 words: costs of neighboring words correlate over a sentence or two
MOST_STRETCHES = 400
_DRAWN_AT_ONCE = 500                # times MOST_PARTS 64-bit numbers: 4 MB, three times


@dataclass(frozen=True)
class Comparison:
    """The difference of two models in bits per byte of the same text; negative where the first one is better."""
    first_bits_per_byte: float
    second_bits_per_byte: float
    difference: float               # first - second
    low: float | None               # ends of the interval; None where the text has too few parts
    high: float | None
    confidence: float
    parts: int                      # drawn together with their two costs
    kind: str                       # of the parts: "documents" or "stretches"

    @property
    def is_more_than_chance(self):
        """Whether the interval excludes 0."""
        return self.low is not None and not self.low <= 0 <= self.high


def compare(documents, seed=0):
    """Compare two models on documents. -> Comparison

    documents: [(sizes, first, second)], each an array (words,): bytes of the words with the white space that belongs to
    them, and bits that the first and the second model need for them.
    """
    kind, parts = parts_of(documents)
    sizes, first, second = np.array(parts, np.float64).T
    low, high = interval(first - second, sizes, seed) if len(parts) >= FEWEST_PARTS else (None, None)
    first, second = first.sum() / sizes.sum(), second.sum() / sizes.sum()
    return Comparison(first.item(), second.item(), (first - second).item(), low, high, CONFIDENCE, len(parts), kind)


def parts_of(documents):
    """Return the kind of the parts, and their (bytes, first bits, second bits). documents: as `compare` takes them"""
    if len(documents) >= FEWEST_DOCUMENTS:
        totals = np.array([[values.sum() for values in document] for document in documents])
        groups = np.arange(len(totals)) * min(MOST_PARTS, len(totals)) // len(totals)
        return "documents", _summed(groups, totals)
    total = sum(sizes.sum() for sizes, _, _ in documents)
    length = max(STRETCH_BYTES, total / MOST_STRETCHES)
    parts = []
    for document in documents:
        starts, whole = np.cumsum(document[0]) - document[0], document[0].sum()
        groups = (starts * max(1, round(whole / length)) // whole).astype(np.int64)
        parts += _summed(groups, np.column_stack(document))
    return "stretches", parts


def _summed(groups, rows):
    """Sum the rows of each group. groups: (rows,) ascending; rows: (rows, 3) -> a list of rows"""
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    return np.add.reduceat(rows, starts).tolist()


def interval(differences, sizes, seed=0):
    """Return the ends of the bootstrap interval of sum(differences) / sum(sizes). Both (parts,).

    Percentiles of the resampled ratios are too narrow for few parts: they are widened as t is wider than the normal
    distribution, and by n / (n - 1) (Hesterberg, 2015).
    >>> low, high = interval(np.tile([-1.0, 3.0], 50), np.full(100, 10.0))
    >>> round(low, 2), round(high, 2)           # 0.1 -+ 1.98 * 0.2 / sqrt(99)
    (0.06, 0.14)
    """
    random, parts = np.random.default_rng(seed), len(sizes)
    ratios = []
    for first in range(0, DRAWS, _DRAWN_AT_ONCE):
        drawn = random.integers(parts, size=(min(_DRAWN_AT_ONCE, DRAWS - first), parts))
        ratios.append(differences[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    normal = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    t = normal + (normal ** 3 + normal) / (4 * (parts - 1))         # Cornish and Fisher: 0.4 % off for 20 parts
    tail = NormalDist().cdf(-t * (parts / (parts - 1)) ** 0.5)
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return low.item(), high.item()
