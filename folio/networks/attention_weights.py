"""What attention weighs: how much each token of a text takes from each one before it, in every layer and head.

The network itself keeps no weights, and its forward pass says nothing of pictures: hooks catch the queries and keys that leave their norms on
the way, and from these the weights are computed once more.
"""

import math
from contextlib import ExitStack

import torch

from folio.base.errors import FolioError
from Model import Attention


@torch.inference_mode()
def attention_weights(net, tokens):
    """tokens: (time,) integers, at most block_size -> (layers, heads, time, time), float32: row t, column s is what token t takes from token s.

    Each row sums up to 1. Raises FolioError for a network without attention.
    """
    layers = attentions(net)
    left = {}           # module -> what it handed out
    with ExitStack() as hooks:
        for norm in (norm for attention in layers for norm in (attention.query_norm, attention.key_norm)):
            hooks.callback(norm.register_forward_hook(lambda module, inputs, output: left.update({module: output})).remove)
        net(tokens[None])
    return torch.stack([_weights(*(net.positions.rotate(left[norm], slice(len(tokens)))[0] for norm in (attention.query_norm, attention.key_norm)))
                        for attention in layers]).float().cpu()


def attentions(net):
    """The Attention of each layer. Raises FolioError for a network without any."""
    if found := [module for module in net.modules() if isinstance(module, Attention)]:
        return found
    raise FolioError(f"A network of the family {net.params.family} has no attention: there are no maps to draw.")


def _weights(query, key):
    """query: (H, T, D), key: (G, T, D) -> (H, T, T)"""
    scores = query @ key.repeat_interleave(len(query) // len(key), dim=0).transpose(1, 2) / math.sqrt(query.shape[-1])
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1)
