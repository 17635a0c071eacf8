"""Parameters to a network. Every network answers the same calls:

    net(tokens) -> logits                           tokens: (batch, time), logits: (batch, time, vocabulary)
    net.empty_state(batch_size) -> state            before the first token
    net.continue_from(state, tokens) -> logits, state
    net.advance(state, tokens) -> x, state          the same without logits, where nobody asks for them;
    net.predict(x) -> logits                        ... which this makes of what it gives
    state.select(rows) -> state                     of these streams alone, in this order, each as often as it is named; rows: a list
    state.put(rows, other)                          another state's streams take the places of these
    state.move(origins, rows, alike)                copies of some streams take the places of others, whose first `alike` tokens are the same
    state.first(count) -> state                     of the first streams alone
    net.context                                     tokens it can look back on, None where there is no end to them
    net.blocks                                      the part whose matrices Muon and weight decay are for

`continue_from` may use its state up; `select` copies, so that both states can go on; `first` leaves the streams in the memory where they are.
The state of a recurrent network can be carried on in training as well: what folio/training/carried_state.py takes for that (count, detach, joined, rows as a
slice) is in folio/networks/lstm.py.
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
    """A new network with random weights (torch's global generator). params: ModelParams; raises ValueError with all their problems."""
    if problems := list(params.problems()):
        raise FolioError("\n".join(problems))
    if params.vocab_size is None:
        raise ValueError("vocab_size is not set: a network needs to know how many tokens its tokenizer has.")
    return NETWORKS[params.family](params.resolved())


def outline(params):
    """The network of `build_network` without the numbers of its parameters, which take no memory: they have shapes alone, on torch's meta device."""
    with _ShapesAlone():
        return build_network(params)


class _ShapesAlone(TorchFunctionMode):
    """Put new parameters on the meta device and leave them as they are. (torch.device("meta") does it for whatever is computed, which makes torch
    import its compiler: a second.)"""

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = named or {}
        if function is torch.empty:
            return torch.empty(*arguments, **named | {"device": "meta"})
        changed = arguments[0] if arguments else named.get("tensor")
        if function.__name__.endswith("_") and not function.__name__.endswith("__") and isinstance(changed, torch.Tensor) and changed.is_meta:
            return changed
        return function(*arguments, **named)


def in_type(net, type):
    """A network that computes in `type`: its matrices, with their biases, are copies of the net's, everything else is the net's own, in float32.

    Embeddings stay in float32 because their gradients are sums of many small ones. Where the net has this type already, it is the net.
    """
    if all(parameter.dtype == type for module in net.modules() if isinstance(module, MATRICES) for parameter in module.parameters()):
        return net
    copy = deepcopy(net)
    for original, module in zip(net.modules(), copy.modules()):
        if isinstance(module, MATRICES):
            module.to(type)
        else:
            module._parameters.update(original._parameters)
    return copy


def pairs(net, other):
    """The parameters of a network, each with the other network's in the same place: [(parameter, other parameter)]; a matrix used twice comes once
    for each different one that it stands beside."""
    each = (dict(one.named_parameters(remove_duplicate=False)) for one in (net, other))
    return list({(id(a), id(b)): (a, b) for a, b in zip(*(one.values() for one in each))}.values())


def take_over(net, other):
    """Give `net` the weights of another network, from which its context and its dropouts alone may differ: a smaller context, or with rotary positions any.

    Rotary positions have no weights; of learned ones the first block_size are taken.
    """
    weights = other.state_dict()
    if net.params.positions == "learned":
        weights["positions.table.weight"] = weights["positions.table.weight"][:net.params.block_size]
    net.load_state_dict(weights)


def count_parameters(net):
    """Numbers that training adjusts; a matrix used twice counts once."""
    return sum(parameter.numel() for parameter in net.parameters())
