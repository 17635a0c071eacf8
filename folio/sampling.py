"""Logits to the next token: pure functions. Chance comes in as one number between 0 and 1, so that the same number picks the same token."""

import torch


def probabilities(logits, temperature, top_k=None, top_p=None):
    """logits: (..., vocabulary) -> probabilities of the same shape, float64.

    temperature below 1 sharpens, above 1 flattens (Ackley et al., 1985), 0 leaves the likeliest token alone; top_k keeps that many
    tokens (Fan et al., 2018); top_p the fewest that together have that probability (Holtzman et al., 2020).
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
