"""The LSTM (Hochreiter and Schmidhuber, 1997): a network that keeps what it has read in a state of fixed size, so that its context has no end.

    embedding -> dropout -> num_layers x LSTM -> dropout -> (projection, if the head is tied) -> head

Each token moves every layer's hidden and cell state on, by four gates (the forget gate is Gers et al.'s, 2000):

    input, forget, output = sigmoid(W x + U hidden + b)     new = tanh(W x + U hidden + b)      each with its own W, U, b
    cell = forget * cell + input * new                      hidden = output * tanh(cell)        which the next layer takes as its x

Dropout stands between the layers and not on the way from token to token (Zaremba et al., 2014). A head that is tied to the embedding (Inan et al.,
2017; Press and Wolf, 2017) reads through a projection, which makes vectors of emb_len, and of a length that suits a head.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

FORGET_BIAS = 1.0           # a cell that forgets little at first learns to remember (Gers et al., 2000; Jozefowicz et al., 2015)


@dataclass(frozen=True)
class State:
    """What the network has seen: each layer's hidden and cell state after it, (layers, batch, hidden_len) both."""
    hidden: torch.Tensor
    cell: torch.Tensor

    @property
    def count(self):
        """How many streams it is of."""
        return self.hidden.shape[1]

    def select(self, rows):
        """The State of some of the streams; rows: a slice, or integers, which may repeat."""
        return State(self.hidden[:, rows], self.cell[:, rows])

    def put(self, rows, other):
        """Take over the streams of another state, in the place of those of these numbers."""
        self.hidden[:, rows], self.cell[:, rows] = other.hidden, other.cell

    def move(self, origins, rows, alike=0):
        """Let copies of some streams take the places of others; what they have in common is of no use here, where no token is kept by itself."""
        self.put(rows, self.select(origins))

    def resize(self, count):
        """Return the State of the first `count` rows; new rows have seen nothing."""
        new = max(0, count - self.count)
        return State(*(F.pad(part[:, :count], (0, 0, 0, new)) if new else part[:, :count] for part in (self.hidden, self.cell)))

    def detach(self):
        """The same State, through which no gradient flows."""
        return State(self.hidden.detach(), self.cell.detach())

    @staticmethod
    def joined(states):
        """The State of all their streams, one after the other."""
        return State(torch.cat([each.hidden for each in states], dim=1), torch.cat([each.cell for each in states], dim=1))


class LSTM(nn.Module):
    """A recurrent network, as ModelParams of the family lstm describe it."""

    context = None          # has no end

    def __init__(self, params):
        """params: ModelParams, resolved and without problems."""
        super().__init__()
        self.params = params
        self.embedding = nn.Embedding(params.vocab_size, params.emb_len)
        self.dropout = nn.Dropout(params.dropout)
        self.blocks = nn.LSTM(params.emb_len, params.hidden_len, params.num_layers, batch_first=True,
                              dropout=params.dropout if params.num_layers > 1 else 0.0)         # of which torch would warn that it stands nowhere
        self.projection = nn.Linear(params.hidden_len, params.emb_len, bias=False) if params.tied_head else nn.Identity()
        self.head = nn.Linear(params.emb_len if params.tied_head else params.hidden_len, params.vocab_size)
        initialize(self)
        if params.tied_head:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        """tokens: (batch, time) integers, of any time -> logits: (batch, time, vocabulary)"""
        return self.continue_from(self.empty_state(len(tokens)), tokens)[0]

    def empty_state(self, batch_size):
        """The state before the first token."""
        shape = self.params.num_layers, batch_size, self.params.hidden_len
        return State(self.blocks.weight_hh_l0.new_zeros(shape), self.blocks.weight_hh_l0.new_zeros(shape))

    def continue_from(self, state, tokens):
        """Go on after the tokens that `state` has seen.

        tokens: (batch, time) -> logits: (batch, time, vocabulary), state
        """
        x, state = self.advance(state, tokens)
        return self.predict(x), state

    def advance(self, state, tokens):
        """The same up to what `predict` makes logits of: (batch, time, hidden_len), state"""
        x = self.dropout(self.embedding(tokens)).to(self.head.weight.dtype)                     # (B, T, emb_len)
        hidden, cell = state.hidden.contiguous(), state.cell.contiguous()                       # some streams of several layers are not; cuDNN wants it
        x, (hidden, cell) = self.blocks(x, (hidden, cell))                                      # (B, T, hidden_len)
        return x, State(hidden, cell)

    def predict(self, x):
        """x: (batch, time, hidden_len), after the last layer -> logits: (batch, time, vocabulary)"""
        return self.head(self.projection(self.dropout(x)))


@torch.no_grad()
def initialize(net):
    """Matrices that neither lengthen nor shorten what goes through them, each gate by itself: Glorot and Bengio's (2010) for what comes in, orthogonal
    ones (Saxe et al., 2014) from state to state. The logits begin small, so that the first loss is close to ln(vocab_size)."""
    net.embedding.weight.normal_()
    for name, parameter in net.blocks.named_parameters():
        gates = parameter.chunk(4)                          # input, forget, new, output
        if name.startswith("weight"):
            for gate in gates:
                (nn.init.xavier_uniform_ if name.startswith("weight_ih") else nn.init.orthogonal_)(gate)
        else:
            parameter.zero_()
            if name.startswith("bias_ih"):                  # torch has two biases, which are added
                gates[1].fill_(FORGET_BIAS)
    # A hidden state's numbers are within 1, at first around 0.15, which makes logits of about 0.3. The 0.02 of a transformer, whose head reads longer
    # vectors, was slow to learn: 1,000 steps of llm-v0 on tiny shakespeare ended at 1.899 nats, with 0.1 at 1.805, with 0.2 at 1.765.
    std = 2 / math.sqrt(net.params.hidden_len)
    if net.params.tied_head:
        net.projection.weight.normal_(std=std / math.sqrt(net.params.emb_len))
    else:
        net.head.weight.normal_(std=std)
    net.head.bias.zero_()
