"""Logits to the next token: pure functions, a row a stream. Chance comes in as one number between 0 and 1, so that the same number picks the same token.

The order in which they are applied: what has been said before (`penalised`: repetition, frequency, n-grams), then temperature, top-k, top-p, min-p
(`probabilities`), then chance (`pick`).
"""

import torch


def penalised(logits, tokens, settings):
    """The logits (streams, vocabulary) after what the settings, GenerationParams, say about repeating `tokens`, (streams, length) so far."""
    recent = tokens[:, -settings.penalty_window:]
    if settings.repetition_penalty != 1:
        logits = repetition_penalty(logits, recent, settings.repetition_penalty)
    if settings.frequency_penalty:
        logits = frequency_penalty(logits, recent, settings.frequency_penalty)
    if settings.no_repeat_ngram:
        logits = no_repeat_ngram(logits, tokens, settings.no_repeat_ngram)
    return logits


def repetition_penalty(logits, recent, penalty):
    """Divide the logits of tokens that came recently by `penalty`, or multiply them where they are negative (CTRL, Keskar et al., 2019).

    logits: (..., vocabulary), recent: (..., length) token ids -> logits
    """
    found = logits.gather(-1, recent)
    return logits.scatter(-1, recent, torch.where(found < 0, found * penalty, found / penalty))


def frequency_penalty(logits, recent, penalty):
    """Take `penalty` off a token's logit for each time it came recently (as OpenAI's API defines it, 2021).

    logits: (..., vocabulary), recent: (..., length) token ids -> logits
    """
    counts = torch.zeros_like(logits).scatter_add(-1, recent, torch.ones_like(recent, dtype=logits.dtype))
    return logits - penalty * counts


def no_repeat_ngram(logits, tokens, length):
    """Rule out every token that would make a sequence of `length` tokens come a second time (Paulus et al., 2018).

    Where that leaves a stream nothing to say, it is let off. logits: (streams, vocabulary), tokens: (streams, total) ids -> logits
    """
    if tokens.shape[-1] < length:
        return logits
    sequences = tokens.unfold(-1, length, 1)                                                        # (streams, places, length)
    begun = tokens[:, None, tokens.shape[-1] - length + 1:]                                         # (streams, 1, length - 1): the next one's beginning
    come_again = (sequences[..., :-1] == begun).all(-1)
    ruled_out = torch.zeros_like(logits).scatter_add(-1, sequences[..., -1], come_again.to(logits.dtype)) > 0
    kept = logits.masked_fill(ruled_out, -torch.inf)
    return torch.where(kept.isneginf().all(-1, keepdim=True), logits, kept)


def only(logits, allowed):
    """Rule out all tokens but the allowed ones. logits: (vocabulary,), allowed: (tokens,) ids -> logits"""
    return torch.full_like(logits, -torch.inf).index_copy(-1, allowed, logits[allowed])


def probabilities(logits, temperature, top_k=None, top_p=None, min_p=None):
    """logits: (..., vocabulary) -> probabilities of the same shape, float64.

    temperature below 1 sharpens, above 1 flattens (Ackley et al., 1985), 0 leaves the likeliest token alone; top_k keeps that many
    tokens (Fan et al., 2018); top_p the fewest that together have that probability (Holtzman et al., 2020); min_p those that have at least
    that share of the likeliest one's probability (Nguyen et al., 2024).
    """
    if temperature == 0:
        return torch.zeros_like(logits, dtype=torch.float64).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    # The largest becomes 0, which no temperature can make overflow; in float64 the smallest temperature is still not 0.
    logits = (logits - logits.amax(-1, keepdim=True)).double() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kept = logits.topk(top_k, dim=-1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, kept.indices, kept.values)
    likely = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, places = torch.sort(likely, dim=-1, descending=True, stable=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0                  # what comes before a kept token has less than top_p
        likely = torch.zeros_like(likely).scatter(-1, places, ordered)
        likely = likely / likely.sum(-1, keepdim=True)
    if min_p:
        likely = likely.masked_fill(likely < min_p * likely.amax(-1, keepdim=True), 0)
        likely = likely / likely.sum(-1, keepdim=True)
    return likely


def pick(likely, chance):
    """The token at which the sum of the probabilities passes `chance`.

    likely: (..., vocabulary), chance: (...) in [0, 1) -> (...) token ids; never one whose probability is 0
    """
    summed = likely.double().cumsum(-1)
    total = summed[..., -1:]
    wanted = torch.as_tensor(chance, dtype=torch.float64)[..., None] * total
    wanted = torch.minimum(wanted, torch.nextafter(total, torch.zeros_like(total)))     # a chance just below 1 may have been rounded up
    return torch.searchsorted(summed, wanted, right=True).squeeze(-1)
