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
    found = [_weights(_scores(query, key)) for query, key, _ in _heads(net, tokens)]
    return torch.stack(found).float().cpu()


@torch.inference_mode()
def attention_steps(net, tokens, layer, head):
    """Return what one head computes of a text: scores, (time, time), before the mask, and values, (time, D); in NumPy.

    tokens: (time,) integers, at most block_size; layer, head: counted from 0
    """
    query, key, value = _heads(net, tokens)[layer]
    values = value[head // (len(query) // len(value))]
    return _scores(query, key)[head].float().cpu().numpy(), values.float().cpu().numpy()


def _heads(net, tokens):
    """Return the queries (H, T, D), keys and values (G, T, D) of each layer, as attention multiplies them."""
    layers = attentions(net)
    outputs = {}            # module -> its output
    with ExitStack() as hooks:
        for module in (module for attention in layers
                       for module in (attention.query_norm, attention.key_norm, attention.value)):
            hook = module.register_forward_hook(lambda module, inputs, output: outputs.update({module: output}))
            hooks.callback(hook.remove)
        net(tokens[None])
    found = []
    for attention in layers:
        query, key = (net.positions.rotate(outputs[norm], slice(len(tokens)))[0]
                      for norm in (attention.query_norm, attention.key_norm))
        found.append((query, key, outputs[attention.value][0].unflatten(-1, (-1, attention.head_len)).transpose(0, 1)))
    return found


def attentions(net):
    """Return the Attention of each layer. Raises FolioError for a network without any."""
    if found := [module for module in net.modules() if isinstance(module, Attention)]:
        return found
    raise FolioError(f"A network of the family {net.params.family} has no attention: there are no maps to draw.")


def _scores(query, key):
    """query: (H, T, D), key: (G, T, D) -> (H, T, T)"""
    key = key.repeat_interleave(len(query) // len(key), dim=0)
    return query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])


def _weights(scores):
    """scores: (H, T, T) -> the softmax of each row's past, the same shape"""
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1)
