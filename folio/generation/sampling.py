"""Logits to the next token: pure functions, for NumPy arrays and torch tensors alike.

Randomness comes in as one number between 0 and 1 for each sequence, so that the same number picks the same token. The
order of application: what has been said before (`penalized`: repetition, frequency, n-grams), then temperature, top-k,
top-p, min-p (`probabilities`), then the random number (`pick`).
"""

import math

import numpy as np
import torch

# The smallest temperature: float32's numbers divided by it are finite in float64.
MIN_TEMPERATURE = 1e-200


def penalized(logits, tokens, settings):
    """Apply the penalties for repetition that the settings (GenerationParams) ask for.

    logits: (sequences, vocabulary); tokens: a list of the ids so far for each sequence -> logits of the same shape
    """
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
    """Divide the logits of recent tokens by `penalty`; multiply negative ones (CTRL, Keskar et al., 2019).

    logits: (vocabulary,), recent: a list of ids -> logits
    """
    found = logits[recent]
    return _replaced(logits, recent, _library(logits).where(found < 0, found * penalty, found / penalty))


def frequency_penalty(logits, recent, penalty):
    """Subtract `penalty` from a token's logit for each recent occurrence (as OpenAI's API defines it, 2021).

    logits: (vocabulary,), recent: a list of ids -> logits
    """
    ids, counts = np.unique(recent, return_counts=True)
    penalties = _library(logits).asarray(penalty * counts, dtype=logits.dtype, device=logits.device)
    return _replaced(logits, ids, logits[ids] - penalties)


def no_repeat_ngram(logits, tokens, length):
    """Exclude every token that would complete an n-gram of `length` tokens a second time (Paulus et al., 2018).

    Where that would exclude every token, it excludes none. logits: (vocabulary,), tokens: a list of all ids -> logits
    """
    if len(tokens) < length:
        return logits
    ngrams = np.lib.stride_tricks.sliding_window_view(tokens, length)               # (places, length)
    would_repeat = (ngrams[:, :-1] == tokens[len(tokens) - length + 1:]).all(-1)    # those that begin like the next one
    kept = _replaced(logits, ngrams[would_repeat, -1], -math.inf)
    return kept if (kept > -math.inf).any() else logits


def as_array(logits):
    """Return logits as a NumPy array, wherever they were computed."""
    return logits if isinstance(logits, np.ndarray) else logits.cpu().numpy()


def log_softmax(logits):
    """logits: (..., vocabulary), in NumPy -> log-probabilities (nats), float64"""
    logits = logits - logits.max(axis=-1, keepdims=True).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def probabilities(logits, temperature, top_k=None, top_p=None, min_p=None):
    """Return the probabilities and the ids of the candidates for the next token, (sequences, candidates) both.

    Where all tokens are candidates, in their order, the ids are None. A candidate of probability 0 is excluded too.

    temperature: below 1 sharpens, above 1 flattens (Ackley et al., 1985), 0 leaves the likeliest token alone
    top_k: how many tokens to keep (Fan et al., 2018)
    top_p: keep the fewest tokens that together have this probability (Holtzman et al., 2020)
    min_p: keep tokens with at least this share of the likeliest token's probability (Nguyen et al., 2024)
    logits: (sequences, vocabulary)
    """
    library, ids, has_top_p = _library(logits), None, top_p is not None and top_p < 1
    if temperature == 0:
        temperature, top_k = 1.0, 1
    if top_k is not None and top_k < logits.shape[1]:
        logits, ids = _likeliest(logits, top_k)
    elif has_top_p:
        logits, ids = _likeliest(logits, logits.shape[1])
    largest = library.amax(logits, -1)[:, None] if ids is None else logits[:, :1]
    # The largest becomes 0, so no temperature makes it overflow; below MIN_TEMPERATURE the others would, and have no
    # chance anyway.
    scaled = library.asarray(logits - largest, dtype=library.float64) / max(temperature, MIN_TEMPERATURE)
    weights = library.exp(scaled)                                       # the largest is 1
    if has_top_p:
        before = weights.cumsum(-1) - weights                           # of the likelier tokens
        weights = library.where(before < top_p * weights.sum(-1)[:, None], weights, 0.0)
    if min_p:
        weights = library.where(weights >= min_p, weights, 0.0)
    return weights / weights.sum(-1)[:, None], ids


def pick(likely, ids, chance):
    """Return the token at which the cumulative probability passes `chance`; never one whose probability is 0.

    likely, ids: as `probabilities` returns them; chance: (sequences,) in [0, 1) -> (sequences,) ids
    """
    summed = likely.cumsum(-1)
    total = summed[:, -1:]
    # The second condition: the product may be rounded up to the total.
    place = ((summed <= chance[:, None] * total) & (summed < total)).sum(-1)
    return place if ids is None else ids[_library(ids).arange(len(ids)), place]


def _likeliest(logits, count):
    """Return the largest logits of each sequence, in falling order, and their ids: (sequences, count) both."""
    if isinstance(logits, torch.Tensor):
        return logits.topk(count) if count < logits.shape[1] else logits.sort(descending=True, stable=True)
    rows = np.arange(len(logits))[:, None]
    if count == 1:
        ids = logits.argmax(-1)[:, None]
        return logits[rows, ids], ids
    if count < logits.shape[1]:
        ids = logits.argpartition(-count)[:, -count:]
        ids.sort()
        order = (-logits[rows, ids]).argsort(kind="stable")         # of equal logits the first token comes first
        ids = ids[rows, order]
    else:
        ids = (-logits).argsort(kind="stable")
    return logits[rows, ids], ids


def _replaced(logits, ids, values):
    """Return a copy of the logits, (vocabulary,), with these values at these ids."""
    logits = _library(logits).asarray(logits, copy=True)
    logits[ids] = values
    return logits


def _library(array):
    return torch if isinstance(array, torch.Tensor) else np
