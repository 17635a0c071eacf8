"""Beam search: the likeliest text as a whole, where sampling and the likeliest token look no further than the next one.

After every token the candidates with the highest probability go on, so many as there are beams; one that ends and is likelier than the last of these
stands aside. Longer texts are less likely than shorter ones, so in the end all are compared by their log-probability divided by a length penalty
(Wu et al., 2016).
"""

import math
from dataclasses import dataclass

import numpy as np

from folio.generation.decoder import Decoder
from folio.generation.healing import continuations
from folio.generation.sampling import as_array, log_softmax, penalised


@dataclass(frozen=True)
class Candidate:
    """A continuation: its ids, less the one it ended before; its summed log-probability (nats), and the same divided by the length penalty."""
    tokens: list
    log_probability: float
    score: float


def length_penalty(length, strength):
    """What the log-probability of a text of `length` tokens is divided by (Wu et al., 2016, equation 14).
    >>> [round(length_penalty(length, 0.6), 2) for length in (1, 7, 31)]
    [1.0, 1.52, 2.93]
    """
    return ((5 + length) / 6) ** strength


def beam_search(net, stream, ends=lambda tokens: False):
    """The best continuations that were found, at most as many as there are beams, the best first: a list of Candidates.

    stream: a folio.generation.decoder.Stream, whose settings say beams; a continuation ends with the id `stream.end`, which counts as its last token, where
    `ends`, asked about its ids, says so, or at the length that the settings give. Repeating is penalised in the log-probabilities.
    """
    settings = stream.settings
    if not settings.tokens:
        return [Candidate([], 0.0, 0.0)]
    decoder, summed, ended = Decoder(net, [stream.prompt], settings.weight_precision), np.zeros((1, 1)), []
    for length in range(1, settings.tokens + 1):
        first = None
        if length == 1 and stream.healing is not None:
            first = continuations(decoder, 0, stream.healing, settings, stream.unsaid)
            totals = first.logits[None]                                         # (1, continuations)
        else:
            said = [tokens[stream.unsaid:] for tokens in decoder.tokens]
            totals = summed + penalised(log_softmax(as_array(decoder.logits)), said, settings)  # (beams, vocabulary)
        going_on = []
        for total, row, token in _likeliest_first(totals, 2 * settings.beams):                          # twice: half of them may end here
            piece = [token] if first is None else first.tokens(token)
            tokens = decoder.tokens[row][len(stream.prompt):] + piece
            if total == -math.inf or len(going_on) == settings.beams:
                break
            if token != stream.end and not ends(tokens):
                going_on.append((row, piece, total, tokens))
            else:
                ended.append(Candidate(tokens[:-1] if token == stream.end else tokens, total, total / length_penalty(length, settings.length_penalty)))
        ended = _best(ended, settings.beams)
        # No continuation is ever likelier than what it continues, and the longest is divided by most.
        hope = max((total for *_, total, _ in going_on), default=-math.inf) / length_penalty(settings.tokens, settings.length_penalty)
        if not going_on or len(ended) == settings.beams and ended[-1].score >= hope:
            return ended
        if length < settings.tokens:
            going_on = _in_place(going_on)
            decoder.select([row for row, *_ in going_on])
            decoder.read([piece for _, piece, *_ in going_on])
        summed = np.array([[total] for *_, total, _ in going_on])
    return _best(ended + [Candidate(tokens, total, total / length_penalty(length, settings.length_penalty)) for *_, total, tokens in going_on],
                 settings.beams)


def _likeliest_first(totals, soon):
    """Yield (total, row, column) of all totals, (beams, vocabulary or continuations).

    The first `soon` are quick; the rest is sorted only where so many of them end.
    """
    falling = -totals.ravel()
    parts = np.split(np.argpartition(falling, soon), [soon]) if soon < len(falling) else [np.arange(len(falling))]
    for part in parts:
        for place in part[falling[part].argsort(kind="stable")].tolist():
            yield totals.item(place), place // totals.shape[1], place % totals.shape[1]


def _in_place(going_on):
    """The same in an order in which as many as can be keep the row of what they continue, with which each begins: so the decoder copies little."""
    ordered, others = [None] * len(going_on), []
    for each in going_on:
        if each[0] < len(ordered) and ordered[each[0]] is None:
            ordered[each[0]] = each
        else:
            others.append(each)
    return [each or others.pop() for each in ordered]


def _best(candidates, most):
    return sorted(candidates, key=lambda candidate: -candidate.score)[:most]
