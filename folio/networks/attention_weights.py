"""The attention weights of a network, as figures show them.

Fast attention keeps no weights. So hooks record the queries and keys that leave their norms, and the weights are
computed from these once more.
"""

import math
from contextlib import ExitStack

import torch

from folio.base.errors import FolioError
from Model import Attention


@torch.inference_mode()
def attention_weights(net, tokens):
    """Return how much weight each token of a text gives to each one before it, in every layer and head.

    tokens: (time,) integers, at most block_size -> (layers, heads, time, time), float32: row t, column s is the weight
    that token t gives to token s. Each row sums to 1. Raises FolioError for a network without attention.
    """
    layers = attentions(net)
    outputs = {}            # module -> its output
    with ExitStack() as hooks:
        for norm in (norm for attention in layers for norm in (attention.query_norm, attention.key_norm)):
            hook = norm.register_forward_hook(lambda module, inputs, output: outputs.update({module: output}))
            hooks.callback(hook.remove)
        net(tokens[None])
    weights = []
    for attention in layers:
        query, key = (net.positions.rotate(outputs[norm], slice(len(tokens)))[0]
                      for norm in (attention.query_norm, attention.key_norm))
        weights.append(_weights(query, key))
    return torch.stack(weights).float().cpu()


def attentions(net):
    """Return the Attention of each layer. Raises FolioError for a network without any."""
    if found := [module for module in net.modules() if isinstance(module, Attention)]:
        return found
    raise FolioError(f"A network of the family {net.params.family} has no attention: there are no maps to draw.")


def _weights(query, key):
    """query: (H, T, D), key: (G, T, D) -> (H, T, T)"""
    key = key.repeat_interleave(len(query) // len(key), dim=0)
    scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1)
