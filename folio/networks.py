"""Parameters to a network. Every network answers the same calls:

    net(tokens) -> logits                           tokens: (batch, time), logits: (batch, time, vocabulary)
    net.empty_state(batch_size) -> state            before the first token
    net.continue_from(state, tokens) -> logits, state
"""

from Model import Transformer


def build(params):
    """A new network with random weights (torch's global generator). params: ModelParams; raises ValueError with all their problems."""
    if problems := list(params.problems()):
        raise ValueError("\n".join(problems))
    if params.vocab_size is None:
        raise ValueError("vocab_size is not set: a network needs to know how many tokens its tokenizer has.")
    return Transformer(params.resolved())


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
