"""Beam search: the likeliest continuation as a whole, where sampling and greedy decoding look at the next token alone.

After every token the candidates with the highest probability continue, as many as there are beams. One that ends and is
likelier than the last of these is put aside. Longer texts are less likely than shorter ones, so in the end all are
compared by their log-probability divided by a length penalty (Wu et al., 2016).
"""

import math
from dataclasses import dataclass

import numpy as np

from folio.generation.decoder import decoder_of
from folio.generation.healing import continuations
from folio.generation.sampling import as_array, log_softmax, penalized


@dataclass(frozen=True)
class Candidate:
    """A continuation: its ids, without the id before which it ends; its log-probability (nats); its score."""
    tokens: list
    log_probability: float
    score: float                # the log-probability divided by the length penalty


def length_penalty(length, strength):
    """Return what the log-probability of `length` tokens is divided by (Wu et al., 2016, equation 14).
    >>> [round(length_penalty(length, 0.6), 2) for length in (1, 7, 31)]
    [1.0, 1.52, 2.93]
    """
    return ((5 + length) / 6) ** strength


def beam_search(net, sequence, ends=lambda tokens: False):
    """Return the best continuations that were found, best first: a list of Candidates, at most as many as beams.

    sequence: a folio.generation.decoder.Sequence whose settings have beams
    ends: whether a continuation with these ids ends here

    A continuation ends with one of the ids `sequence.ends`, which counts as its last token, where `ends` says so, or
    after `settings.tokens`. Penalties for repetition apply to the log-probabilities.
    """
    settings = sequence.settings
    if not settings.tokens:
        return [Candidate([], 0.0, 0.0)]
    decoder, summed, ended = decoder_of(net, [sequence.prompt], settings.weight_precision), np.zeros((1, 1)), []
    for length in range(1, settings.tokens + 1):
        first = None
        if length == 1 and sequence.healing is not None:
            first = continuations(decoder, 0, sequence.healing, settings, sequence.unsaid)
            totals = first.logits[None]                                                         # (1, continuations)
        else:
            said = [tokens[sequence.unsaid:] for tokens in decoder.tokens]
            logits = log_softmax(as_array(decoder.logits))
            totals = summed + penalized(logits, said, settings)                                 # (beams, vocabulary)
        ongoing, ending = _next_beams(totals, decoder, sequence, first, ends)
        penalty = length_penalty(length, settings.length_penalty)
        ended = _best(ended + [Candidate(tokens, total, total / penalty) for total, tokens in ending], settings.beams)
        # No continuation is ever likelier than what it continues, and the longest is divided by most.
        longest = length_penalty(settings.tokens, settings.length_penalty)
        bound = max((total for *_, total, _ in ongoing), default=-math.inf) / longest
        if not ongoing or len(ended) == settings.beams and ended[-1].score >= bound:
            return ended
        if length < settings.tokens:
            ongoing = _in_place(ongoing)
            decoder.select([row for row, *_ in ongoing])
            decoder.read([piece for _, piece, *_ in ongoing])
        summed = np.array([[total] for *_, total, _ in ongoing])
    return _best(ended + [Candidate(tokens, total, total / penalty) for *_, total, tokens in ongoing], settings.beams)


def _next_beams(totals, decoder, sequence, first, ends):
    """Return the beams that continue, [(row, piece, total, tokens)], and those that end here, [(total, tokens)].

    totals: the log-probabilities of all candidates, (beams, vocabulary); or of `first`, a Continuations, (1, its own)
    """
    beams, ongoing, ending = sequence.settings.beams, [], []
    for total, row, token in _likeliest_first(totals, 2 * beams):           # twice: half of them may end here
        piece = [token] if first is None else first.tokens(token)
        tokens = decoder.tokens[row][len(sequence.prompt):] + piece
        if total == -math.inf or len(ongoing) == beams:
            break
        if token not in sequence.ends and not ends(tokens):
            ongoing.append((row, piece, total, tokens))
        else:
            ending.append((total, tokens[:-1] if token in sequence.ends else tokens))
    return ongoing, ending


def _likeliest_first(totals, soon):
    """Yield (total, row, column) of all totals, (rows, columns), in falling order.

    The first `soon` are quick to find; the rest is sorted only when it is asked for.
    """
    falling = -totals.ravel()
    parts = np.split(np.argpartition(falling, soon), [soon]) if soon < len(falling) else [np.arange(len(falling))]
    for part in parts:
        for place in part[falling[part].argsort(kind="stable")].tolist():
            yield totals.item(place), place // totals.shape[1], place % totals.shape[1]


def _in_place(ongoing):
    """Return the beams in an order in which as many as possible keep their row, so that the decoder copies little."""
    ordered, others = [None] * len(ongoing), []
    for beam in ongoing:
        row = beam[0]
        if row < len(ordered) and ordered[row] is None:
            ordered[row] = beam
        else:
            others.append(beam)
    return [beam or others.pop() for beam in ordered]


def _best(candidates, count):
    return sorted(candidates, key=lambda candidate: -candidate.score)[:count]
