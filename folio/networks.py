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


def count_parameters(net):
    """Numbers that training adjusts; a matrix used twice counts once."""
    return sum(parameter.numel() for parameter in net.parameters())
