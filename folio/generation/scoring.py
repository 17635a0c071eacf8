"""Score every token of a text through the same window that generation sees, a part at a time."""

import torch

from folio.generation.answers import likeliest
from folio.generation.decoder import window_start
from folio.generation.sampling import as_array, log_softmax


def scored(net, ids, top, part_len):
    """Score a text in a generator that reads `part_len` tokens at a time, and yields after each part.

    top: how many of the likeliest tokens to name. It returns [(logprob, ((id, logprob), ...))], one for each id; the
    first is predicted from nothing, and has None and ().
    """
    found, state, read, start = [(None, ())], net.empty_state(1), 0, 0
    while read < len(ids) - 1:
        if window_start(read + 1, net.context) != start:
            start, state = window_start(read + 1, net.context), net.empty_state(1)
            for place in range(start, read, part_len):
                _, state = _continued(net, state, ids[place:min(place + part_len, read)], with_logits=False)
                yield
        end = min(read + part_len, len(ids) - 1)
        if net.context is not None:
            end = min(end, start + net.context)
        logits, state = _continued(net, state, ids[read:end])
        found += [likeliest(row, token, top) for row, token in zip(log_softmax(logits), ids[read + 1:end + 1])]
        read = end
        yield
    return found[:len(ids)]


@torch.inference_mode()
def _continued(net, state, ids, with_logits=True):
    """Read these ids after a state. -> logits: (time, vocabulary), in NumPy, or None; state"""
    inputs = torch.tensor([ids], device=next(net.parameters()).device)
    if not with_logits:
        return None, net.advance(state, inputs)[1]
    logits, state = net.continue_from(state, inputs)
    return as_array(logits[0].float()), state
