"""The LSTM (Hochreiter and Schmidhuber, 1997): a network with a state of fixed size and a context without end.

    embedding -> dropout -> num_layers x LSTM -> dropout -> (projection, if the head is tied) -> head

Each token updates every layer's hidden and cell state by four gates (the forget gate is Gers et al.'s, 2000):

    input, forget, output = sigmoid(W x + U hidden + b)     new = tanh(W x + U hidden + b)     each with its own W, U, b
    cell = forget * cell + input * new                      hidden = output * tanh(cell)       x of the next layer

Dropout is applied between layers and not from token to token (Zaremba et al., 2014). A head that is tied to the
embedding (Inan et al., 2017; Press and Wolf, 2017) reads through a projection, which makes vectors of emb_len.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

# A cell that forgets little at first learns to remember (Gers et al., 2000; Jozefowicz et al., 2015).
FORGET_BIAS = 1.0


@dataclass(frozen=True)
class State:
    """What the network has seen: each layer's hidden and cell state, (layers, batch, hidden_len) both."""
    hidden: torch.Tensor
    cell: torch.Tensor

    @property
    def count(self):
        """The number of rows: sequences."""
        return self.hidden.shape[1]

    def select(self, rows):
        """Return the State of these rows: a slice, or integers, which may repeat."""
        return State(self.hidden[:, rows], self.cell[:, rows])

    def put(self, rows, other):
        """Overwrite these rows with the rows of another State."""
        self.hidden[:, rows], self.cell[:, rows] = other.hidden, other.cell

    def move(self, origins, rows, alike=0):
        """Overwrite `rows` with copies of `origins`. `alike` is ignored: no token is stored by itself."""
        self.put(rows, self.select(origins))

    def resize(self, count):
        """Return the State of the first `count` rows; new rows have seen nothing."""
        new = max(0, count - self.count)
        hidden, cell = self.hidden[:, :count], self.cell[:, :count]
        return State(F.pad(hidden, (0, 0, 0, new)), F.pad(cell, (0, 0, 0, new))) if new else State(hidden, cell)

    def detach(self):
        """Return the same State without its graph: no gradient flows through it."""
        return State(self.hidden.detach(), self.cell.detach())

    @staticmethod
    def joined(states):
        """Return the State of the rows of several States, in order."""
        return State(*(torch.cat(parts, dim=1) for parts in zip(*((state.hidden, state.cell) for state in states))))


class LSTM(nn.Module):
    """A recurrent network with the shape that ModelParams of the family lstm give."""

    context = None          # has no end

    def __init__(self, params):
        """params: ModelParams, resolved and without problems"""
        super().__init__()
        self.params = params
        self.embedding = nn.Embedding(params.vocab_size, params.emb_len)
        self.dropout = nn.Dropout(params.dropout)
        # torch warns of a dropout between the layers of a single one.
        dropout = params.dropout if params.num_layers > 1 else 0.0
        self.blocks = nn.LSTM(params.emb_len, params.hidden_len, params.num_layers, batch_first=True, dropout=dropout)
        if params.tied_head:
            self.projection = nn.Linear(params.hidden_len, params.emb_len, bias=False)
            self.head = nn.Linear(params.emb_len, params.vocab_size)
        else:
            self.projection = nn.Identity()
            self.head = nn.Linear(params.hidden_len, params.vocab_size)
        initialize(self)
        if params.tied_head:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        """tokens: (batch, time) integers, any number -> logits: (batch, time, vocabulary)"""
        return self.predict(self.read(tokens))

    def read(self, tokens):
        """Do the same without the head: tokens: (batch, time) -> x: (batch, time, hidden_len), what `predict` takes"""
        return self.advance(self.empty_state(len(tokens)), tokens)[0]

    def empty_state(self, batch_size):
        """Return the state before the first token."""
        shape = self.params.num_layers, batch_size, self.params.hidden_len
        return State(self.blocks.weight_hh_l0.new_zeros(shape), self.blocks.weight_hh_l0.new_zeros(shape))

    def continue_from(self, state, tokens):
        """Continue after the tokens that `state` has seen.

        tokens: (batch, time) -> logits: (batch, time, vocabulary), state
        """
        x, state = self.advance(state, tokens)
        return self.predict(x), state

    def advance(self, state, tokens):
        """Do the same without the head: tokens: (batch, time) -> x: (batch, time, hidden_len), state"""
        x = self.dropout(self.embedding(tokens)).to(self.head.weight.dtype)         # (B, T, emb_len)
        # cuDNN needs contiguous states; some rows of several layers are not.
        hidden, cell = state.hidden.contiguous(), state.cell.contiguous()
        x, (hidden, cell) = self.blocks(x, (hidden, cell))                          # (B, T, hidden_len)
        return x, State(hidden, cell)

    def predict(self, x):
        """x: (batch, time, hidden_len), the last layer's output -> logits: (batch, time, vocabulary)"""
        return self.head(self.projection(self.dropout(x)))


@torch.no_grad()
def initialize(net):
    """Draw matrices that keep the length of their input, gate by gate: Glorot and Bengio's (2010) for the input,
    orthogonal ones (Saxe et al., 2014) from state to state.

    The logits begin small, so that the first loss is close to ln(vocab_size).
    """
    net.embedding.weight.normal_()
    for name, parameter in net.blocks.named_parameters():
        gates = parameter.chunk(4)                          # input, forget, new, output
        if name.startswith("weight"):
            for gate in gates:
                draw = nn.init.xavier_uniform_ if name.startswith("weight_ih") else nn.init.orthogonal_
                draw(gate)
        else:
            parameter.zero_()
            if name.startswith("bias_ih"):                  # torch adds two biases
                gates[1].fill_(FORGET_BIAS)
    # A hidden state's numbers are within 1, at first around 0.15, which makes logits of about 0.3. The 0.02 of a
    # transformer, whose head reads longer vectors, was slow to learn: 1,000 steps of llm-v0 on tiny shakespeare
    # ended at 1.899 nats, with 0.1 at 1.805, with 0.2 at 1.765.
    std = 2 / math.sqrt(net.params.hidden_len)
    if net.params.tied_head:
        net.projection.weight.normal_(std=std / math.sqrt(net.params.emb_len))
    else:
        net.head.weight.normal_(std=std)
    net.head.bias.zero_()
