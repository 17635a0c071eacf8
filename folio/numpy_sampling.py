"""Logits to the next token of one stream, in NumPy: folio/sampling.py is the definition, and the same number picks the same token here.

What it computes for rows of all tokens is computed for those alone that are left. Where several logits tie for the last place of top-k, either choice is right.
"""

import numpy as np


def next_token(logits, tokens, settings, chance):
    """The id that `chance`, in [0, 1), picks.

    logits: (vocabulary,) float32, tokens: (length,) ids so far, settings: GenerationParams, resolved
    """
    logits = penalised(logits, tokens, settings)
    if settings.temperature == 0:
        return int(logits.argmax())
    ids = np.arange(len(logits))
    if settings.top_k is not None and settings.top_k < len(logits):
        ids = np.sort(np.argpartition(logits, -settings.top_k)[-settings.top_k:])
    with np.errstate(over="ignore"):            # a temperature near 0 takes all but the likeliest beyond float64, where exp makes 0 of them
        likely = np.exp((logits[ids] - logits.max()).astype(np.float64) / settings.temperature)
    likely /= likely.sum()
    if settings.top_p is not None and settings.top_p < 1:
        order = np.argsort(-likely, kind="stable")
        ordered = likely[order]
        likely[order[np.cumsum(ordered) - ordered >= settings.top_p]] = 0
        likely /= likely.sum()
    if settings.min_p:
        likely[likely < settings.min_p * likely.max()] = 0
        likely /= likely.sum()
    summed = likely.cumsum()
    return int(ids[summed.searchsorted(min(chance * summed[-1], np.nextafter(summed[-1], 0)), side="right")])


def penalised(logits, tokens, settings):
    """The logits, (vocabulary,), after what the settings say about repeating `tokens`, (length,); those that came in stay as they are."""
    if settings.repetition_penalty != 1 or settings.frequency_penalty:
        recent, counts = np.unique(tokens[-settings.penalty_window:], return_counts=True)
        found, logits = logits[recent], logits.copy()
        found = np.where(found < 0, found * settings.repetition_penalty, found / settings.repetition_penalty)
        logits[recent] = found - settings.frequency_penalty * counts.astype(np.float32)
    if settings.no_repeat_ngram:
        logits = no_repeat_ngram(logits, tokens, settings.no_repeat_ngram)
    return logits


def no_repeat_ngram(logits, tokens, length):
    """Rule out every token that would make a sequence of `length` tokens come a second time, unless nothing would be left."""
    if len(tokens) < length:
        return logits
    sequences = np.lib.stride_tricks.sliding_window_view(tokens, length)
    come_again = (sequences[:, :-1] == tokens[len(tokens) - length + 1:]).all(-1)
    kept = logits.copy()
    kept[sequences[come_again, -1]] = -np.inf
    return logits if np.isneginf(kept).all() else kept
