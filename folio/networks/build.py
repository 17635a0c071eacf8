"""Parameters to a network. Every network answers the same calls:

    net(tokens) -> logits                       tokens: (batch, time), logits: (batch, time, vocabulary)
    net.read(tokens) -> x                       the same without the head
    net.empty_state(batch_size) -> state        before the first token; a state has a row for each sequence
    net.continue_from(state, tokens) -> logits, state
    net.advance(state, tokens) -> x, state      the same without the head, where logits are not needed
    net.predict(x) -> logits                    the head
    state.select(rows) -> state                 copies of these rows (a list), in this order; rows may repeat
    state.put(rows, other)                      overwrite these rows with another state's rows
    state.move(origins, rows, alike)            overwrite rows with copies of others; the first `alike` tokens are equal
    state.resize(count) -> state                the first rows, in the same memory; rows beyond the last are empty
    net.context                                 how many tokens the network sees; None: all
    net.blocks                                  the part whose matrices Muon and weight decay are for

A transformer's net(tokens, segments) and net.read(tokens, segments) read sequences that are packed into rows.
`continue_from` may consume its state; `select` copies, so that both states can be continued.
folio/training/carried_state.py also carries the state of a recurrent network from one training batch to the next. What
it needs for that (count, detach, joined, rows as a slice) is in folio/networks/lstm.py.
"""

from copy import deepcopy

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from folio.base.errors import FolioError
from folio.networks.lstm import LSTM
from Model import Transformer

NETWORKS = {"folio": Transformer, "classic": Transformer, "lstm": LSTM}        # by family
MATRICES = (nn.Linear, nn.LSTM)         # the modules that compute in the precision of matrix products


def build_network(params):
    """Return a new network with random weights (torch's global generator).

    params: ModelParams. Raises FolioError with all their problems, ValueError without a vocab_size.
    """
    if problems := list(params.problems()):
        raise FolioError("\n".join(problems))
    if params.vocab_size is None:
        raise ValueError("vocab_size is not set: a network needs to know how many tokens its tokenizer has.")
    return NETWORKS[params.family](params.resolved())


def outline(params):
    """Return the network of `build_network` on torch's meta device: shapes without numbers, which take no memory."""
    with _ShapesOnly():
        return build_network(params)


class _ShapesOnly(TorchFunctionMode):
    """Create parameters on the meta device and skip their initialization.

    torch.device("meta") would do it for every computation, which makes torch import its compiler: a second.
    """

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = named or {}
        if function is torch.empty:
            return torch.empty(*arguments, **named | {"device": "meta"})
        changed = arguments[0] if arguments else named.get("tensor")
        is_in_place = function.__name__.endswith("_") and not function.__name__.endswith("__")
        if is_in_place and isinstance(changed, torch.Tensor) and changed.is_meta:
            return changed
        return function(*arguments, **named)


def in_type(net, type):
    """Return a network that computes in `type`; `net` itself where it does already.

    Its matrices, with their biases, are copies; all other parameters are the net's own, in float32. Embeddings stay in
    float32 because their gradients are sums of many small ones.
    """
    matrices = [module for module in net.modules() if isinstance(module, MATRICES)]
    if all(parameter.dtype == type for module in matrices for parameter in module.parameters()):
        return net
    copy = deepcopy(net)
    for original, module in zip(net.modules(), copy.modules()):
        if isinstance(module, MATRICES):
            module.to(type)
        else:
            module._parameters.update(original._parameters)
    return copy


def pairs(net, other):
    """Return the parameters of two networks of one shape side by side: [(parameter, the other's)].

    A tied matrix comes once for each different one that it stands beside.
    """
    both = zip(net.named_parameters(remove_duplicate=False), other.named_parameters(remove_duplicate=False))
    return list({(id(own), id(others)): (own, others) for (_, own), (_, others) in both}.values())


NEW_ROW_SPREAD = 0.1        # of new tokens' rows, in standard deviations of the others: near their mean, not alike


def take_over(net, other, seed=0):
    """Load the weights of another network, which may differ in its dropouts and its context, and have fewer tokens.

    Rotary positions have no weights and allow any context. Of learned positions the first block_size are taken. Rows of
    tokens that `other` lacks, after all others, are the mean of its rows (Hewitt, 2021) and a little noise by the seed.
    """
    weights = other.state_dict()
    if net.params.vocab_size > other.params.vocab_size:
        for name in ("embedding.weight", "head.weight", "head.bias"):
            if name in weights:
                weights[name] = _with_rows(weights[name], net.params.vocab_size, seed)
    if net.params.positions == "learned":
        weights["positions.table.weight"] = weights["positions.table.weight"][:net.params.block_size]
    net.load_state_dict(weights)


def _with_rows(rows, total, seed):
    """Return rows of tokens with new ones after them, `total` in all; equal ones (a tied head's) get equal ones."""
    old = rows.float()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(total - len(old), *old.shape[1:], generator=generator).to(old.device)
    new = old.mean(0) + NEW_ROW_SPREAD * old.std(0) * noise
    return torch.cat([rows, new.to(rows.dtype)])


def count_parameters(net):
    """Return the number of trainable parameters; tied weights count once."""
    return sum(parameter.numel() for parameter in net.parameters())
