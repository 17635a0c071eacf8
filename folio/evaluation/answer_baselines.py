"""What answers reach that understand nothing: always the same one, and that of the question most alike.

Both know the pairs that a model has learned from, or, where these are not at hand, all other pairs of the file
(leave one out). A model that is no better has not learned to answer.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from folio.evaluation.answer_figures import Figures, errors_of, figures_of, normalized, numbers_of, shape
from folio.evaluation.pairs import Pair

GRAM = 3                        # characters
_DIMENSIONS = 1 << 13           # that grams are hashed to; questions of 100 characters have about 100
_AT_ONCE = 1000                 # questions compared at once: 32 MB of 32-bit numbers, four times
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)    # odd, bits mixed


def constant_figures(pairs: Sequence[Pair], learned: Sequence[Pair] | None, decimal_comma: bool = False
                     ) -> tuple[list[str], list[Figures]]:
    """Return the most frequent answer for each pair, and its figures.

    Its form is the most frequent form, and each of its numbers the median of those with this name: the best constant
    for either. learned: None: all other pairs of `pairs`
    """
    known = pairs if learned is None else learned
    answers = _Frequent([pair.right for pair in known], normalized)
    shapes = _Frequent([shape(pair.right) for pair in known])
    numbers = defaultdict(list)
    for pair in known:
        for name, value in numbers_of(pair.right, decimal_comma).items():
            numbers[name].append(value)
    for values in numbers.values():
        values.sort()
    said, figures = [], []
    for pair in pairs:
        own = pair.right if learned is None else None
        answer, form = answers.without(own), shapes.without(own and shape(own))
        wanted = numbers_of(pair.right, decimal_comma)
        constants = {name: value for name, one in wanted.items()
                     if (value := _median(numbers.get(name, []), one if learned is None else None)) is not None}
        said.append(answer or "")
        figures.append(replace(figures_of(said[-1], pair.right, decimal_comma), has_form=form == shape(pair.right),
                               errors=errors_of(constants, wanted)))
    return said, figures


def nearest_answers(pairs: Sequence[Pair], learned: Sequence[Pair] | None) -> list[str]:
    """Return for each pair the right answer to the known question that is most like its own.

    Likeness: cosine of the frequencies of character 3-grams, weighted by how rare they are; the first of equal ones.
    learned: None: all other pairs of `pairs`
    """
    known = pairs if learned is None else learned
    holders = sum(np.count_nonzero(counts, axis=0) for _, counts in _counted(known))
    rarity = np.log((1 + len(known)) / (1 + holders)).astype(np.float32) + 1
    found = []
    for start, counts in _counted(pairs):
        asked = _unit(counts * rarity)
        nearest, most = np.full(len(asked), -1), np.full(len(asked), -1.0, np.float32)
        for known_start, known_counts in _counted(known):
            # Products differ in their last digits by the order of summation; equal questions should stay equal.
            likeness = (asked @ _unit(known_counts * rarity).T).round(5)
            if learned is None and start == known_start:
                np.fill_diagonal(likeness, -1)
            places = likeness.argmax(axis=1)
            here = likeness[np.arange(len(asked)), places]
            nearest = np.where(here > most, places + known_start, nearest)
            most = np.maximum(here, most)
        found += nearest.tolist()
    return ["" if place < 0 else known[place].right for place in found]


class _Frequent:
    """The most frequent of some texts, also without one of them; of equally frequent ones the first."""

    def __init__(self, texts, key=lambda text: text):
        self._key, self._texts = key, {}
        for text in texts:
            self._texts.setdefault(key(text), text)
        self._counts = Counter(map(key, texts))
        self._order = {text: place for place, text in enumerate(self._texts)}
        self._first = sorted(self._counts, key=lambda text: (-self._counts[text], self._order[text]))[:2]

    def without(self, text):
        """Return the most frequent one, counting `text` once less; None where there is none."""
        own = None if text is None else self._key(text)
        left = {each: self._counts[each] - (each == own) for each in self._first}
        best = min((each for each in left if left[each]), key=lambda each: (-left[each], self._order[each]),
                   default=None)
        return None if best is None else self._texts[best]


def _median(values, own):
    """Return the median of sorted values without one that is equal to `own`; None where none is left."""
    if own is not None:
        place = bisect_left(values, own)
        values = values[:place] + values[place + 1:]
    return median(values) if values else None


def _counted(pairs):
    """Yield (number of the first, counts) of _AT_ONCE questions each: (questions, _DIMENSIONS) float32."""
    for start in range(0, len(pairs), _AT_ONCE):
        yield start, _gram_counts([pair.question for pair in pairs[start:start + _AT_ONCE]])


def _gram_counts(texts):
    """Return how often each gram is in each text, by its hash: (texts, _DIMENSIONS) float32."""
    counts = np.zeros((len(texts), _DIMENSIONS), np.float32)
    for row, text in zip(counts, texts):
        text = f" {' '.join(text.casefold().split())} "
        codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32).astype(np.uint64)
        if len(codes) >= GRAM:
            hashes = sum(codes[place:len(codes) - GRAM + 1 + place] * _MULTIPLIERS[place] for place in range(GRAM))
            row += np.bincount((hashes >> np.uint64(40)).astype(np.int64) % _DIMENSIONS, minlength=_DIMENSIONS)
    return counts


def _unit(vectors):
    """vectors: (n, dimensions) -> the same with a length of 1, or 0"""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
