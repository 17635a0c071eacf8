"""Logits to the next token: pure functions, for NumPy's arrays and torch's tensors alike.

Chance comes in as one number between 0 and 1 for each stream, so that the same number picks the same token. The order in which they are applied: what has
been said before (`penalized`: repetition, frequency, n-grams), then temperature, top-k, top-p, min-p (`probabilities`), then chance (`pick`).
"""

import math

import numpy as np
import torch

COLDEST = 1e-200            # a temperature: float32's numbers divided by it are float64's still


def penalized(logits, tokens, settings):
    """The logits, (streams, vocabulary), after what the settings, GenerationParams, say about repeating `tokens`, a list of ids so far for each stream."""
    if settings.repetition_penalty == 1 and not settings.frequency_penalty and not settings.no_repeat_ngram:
        return logits
    rows = []
    for row, ids in zip(logits, tokens):
        recent = ids[-settings.penalty_window:]
        if recent and settings.repetition_penalty != 1:
            row = repetition_penalty(row, recent, settings.repetition_penalty)
        if recent and settings.frequency_penalty:
            row = frequency_penalty(row, recent, settings.frequency_penalty)
        if settings.no_repeat_ngram:
            row = no_repeat_ngram(row, ids, settings.no_repeat_ngram)
        rows.append(row)
    return _library(logits).stack(rows)


def repetition_penalty(logits, recent, penalty):
    """Divide the logits of tokens that came recently by `penalty`, or multiply them where they are negative (CTRL, Keskar et al., 2019).

    logits: (vocabulary,), recent: a list of ids -> logits
    """
    found = logits[recent]
    return _changed(logits, recent, _library(logits).where(found < 0, found * penalty, found / penalty))


def frequency_penalty(logits, recent, penalty):
    """Take `penalty` off a token's logit for each time it came recently (as OpenAI's API defines it, 2021).

    logits: (vocabulary,), recent: a list of ids -> logits
    """
    ids, counts = np.unique(recent, return_counts=True)
    off = _library(logits).asarray(penalty * counts, dtype=logits.dtype, device=logits.device)
    return _changed(logits, ids, logits[ids] - off)


def no_repeat_ngram(logits, tokens, length):
    """Rule out every token that would make a sequence of `length` tokens come a second time (Paulus et al., 2018).

    Where that leaves nothing to say, it is let off. logits: (vocabulary,), tokens: a list of all ids -> logits
    """
    if len(tokens) < length:
        return logits
    sequences = np.lib.stride_tricks.sliding_window_view(tokens, length)                    # (places, length)
    come_again = (sequences[:, :-1] == tokens[len(tokens) - length + 1:]).all(-1)           # that begin like the next one
    kept = _changed(logits, sequences[come_again, -1], -math.inf)
    return kept if (kept > -math.inf).any() else logits


def as_array(logits):
    """Logits in NumPy, wherever they were computed."""
    return logits if isinstance(logits, np.ndarray) else logits.cpu().numpy()


def log_softmax(logits):
    """logits: (..., vocabulary), in NumPy -> log-probabilities (nats), float64"""
    logits = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def probabilities(logits, temperature, top_k=None, top_p=None, min_p=None):
    """What the next token may be: the probabilities and ids of the candidates, (streams, candidates) both; in place of ids None where all tokens are
    candidates, in their order. What has the probability 0 is left out as well.

    temperature below 1 sharpens, above 1 flattens (Ackley et al., 1985), 0 leaves the likeliest token alone; top_k keeps that many
    tokens (Fan et al., 2018); top_p the fewest that together have that probability (Holtzman et al., 2020); min_p those that have at least
    that share of the likeliest one's probability (Nguyen et al., 2024). logits: (streams, vocabulary)
    """
    library, ids, has_top_p = _library(logits), None, top_p is not None and top_p < 1
    if temperature == 0:
        temperature, top_k = 1.0, 1
    if top_k is not None and top_k < logits.shape[1]:
        logits, ids = _likeliest(logits, top_k)
    elif has_top_p:
        logits, ids = _likeliest(logits, logits.shape[1])
    largest = library.amax(logits, -1)[:, None] if ids is None else logits[:, :1]
    # The largest becomes 0, which no temperature can make overflow; below COLDEST the others would, and have no chance any more anyway.
    weights = library.exp(library.asarray(logits - largest, dtype=library.float64) / max(temperature, COLDEST))         # of which the largest is 1
    if has_top_p:
        weights = library.where(weights.cumsum(-1) - weights < top_p * weights.sum(-1)[:, None], weights, 0.0)       # what comes before a kept one has less
    if min_p:
        weights = library.where(weights >= min_p, weights, 0.0)
    return weights / weights.sum(-1)[:, None], ids


def pick(likely, ids, chance):
    """The token at which the sum of the probabilities passes `chance`.

    likely, ids: as `probabilities` gives them; chance: (streams,) in [0, 1) -> (streams,) ids; never one whose probability is 0
    """
    summed = likely.cumsum(-1)
    total = summed[:, -1:]
    place = ((summed <= chance[:, None] * total) & (summed < total)).sum(-1)            # the second, where the product is rounded up to the total
    return place if ids is None else ids[_library(ids).arange(len(ids)), place]


def _likeliest(logits, count):
    """The largest logits of each stream, the largest first, and their ids: (streams, count) both."""
    if isinstance(logits, torch.Tensor):
        return logits.topk(count) if count < logits.shape[1] else logits.sort(descending=True, stable=True)
    rows = np.arange(len(logits))[:, None]
    if count == 1:
        ids = logits.argmax(-1)[:, None]
        return logits[rows, ids], ids
    if count < logits.shape[1]:
        ids = logits.argpartition(-count)[:, -count:]
        ids.sort()
        order = (-logits[rows, ids]).argsort(kind="stable")         # so that of equals the first token comes first
        ids = ids[rows, order]
    else:
        ids = (-logits).argsort(kind="stable")
    return logits[rows, ids], ids


def _changed(logits, ids, values):
    """The logits, (vocabulary,), with other values in these places."""
    logits = _library(logits).asarray(logits, copy=True)
    logits[ids] = values
    return logits


def _library(array):
    return torch if isinstance(array, torch.Tensor) else np
