"""The transformer, its KV cache and its initialization: tokens in, one row of logits for the next token at every
position out.

    embedding -> num_layers x [norm -> attention -> +, norm -> MLP -> +] -> norm -> head

(Vaswani et al., 2017, with the norms before the branches as in GPT-2.) Each block is composed of parts when it is built, so that
`forward` knows nothing of configurations. With the values of the `folio` family the equations are Qwen3's, to the letter.

Change what you like: training, evaluation and generation use this file. Its equations are written a second time in
these places, which do not follow a change by themselves:
- folio/generation/numpy_decoder.py: generation of single tokens in NumPy. It is compared with this network first; where the two
  differ, a warning says so and the network itself generates.
- folio/networks/attention_weights.py: attention weights for `python -m folio.plot`.
- folio/training/plan.py: floating-point operations per step.
folio/kernels/attention.py holds attention for training on a CPU up to FUSED_ATTENTION_LEN tokens; `attend` calls it.

Letters: B batch, T time (positions computed now), S positions seen, C channels (emb_len), H heads, G key/value heads, D channels a head,
V vocabulary.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from folio.kernels.attention import causal_attention

FUSED_ATTENTION_LEN = 512   # on a CPU, plain matrix products train twice as fast up to here, and beyond it memory matters more;
                            # without a gradient they are slower


class Transformer(nn.Module):
    """A decoder-only transformer, as ModelParams describe it."""

    def __init__(self, params):
        """params: ModelParams, resolved and without problems."""
        super().__init__()
        self.params = params
        self.context = params.block_size
        self.embedding = nn.Embedding(params.vocab_size, params.emb_len)
        self.positions = POSITIONS[params.positions](params)
        self.blocks = nn.ModuleList(Block(params) for _ in range(params.num_layers))
        self.norm = NORMS[params.norm](params.emb_len, params)
        self.head = nn.Linear(params.emb_len, params.vocab_size, bias=params.biases == "lecture" and not params.tied_head)
        initialize(self)
        if params.tied_head:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        """tokens: (batch, time) integers, time at most block_size -> logits: (batch, time, vocabulary)"""
        return self.predict(self._compute(tokens, Span.of(0, tokens.shape[1]), [NO_CACHE] * len(self.blocks)))

    def empty_state(self, batch_size):
        """The state before the first token: room for the keys and values of block_size positions of each stream."""
        return State([0] * batch_size, [Cache.empty(batch_size, self.params, self.head.weight) for _ in self.blocks])

    def continue_from(self, state, tokens):
        """Go on after the tokens that `state` has seen; `state` itself is used up.

        tokens: (batch, time) -> logits: (batch, time, vocabulary), state. Raises ValueError where the context is full.
        """
        x, state = self.advance(state, tokens)
        return self.predict(x), state

    def advance(self, state, tokens):
        """The same up to what `predict` makes logits of: (batch, time, channels), state"""
        state.check_room(tokens.shape[1], self.params.block_size)
        x = self._compute(tokens, Span.after(state.lengths, tokens.shape[1], tokens.device), state.caches)
        return x, State([length + tokens.shape[1] for length in state.lengths], state.caches)

    def predict(self, x):
        """x: (batch, time, channels), after the last block -> logits: (batch, time, vocabulary)"""
        return self.head(self.norm(x))

    def _compute(self, tokens, span, caches):
        x = self.positions.add(self.embedding(tokens), span.places).to(self.head.weight.dtype)        # (B, T, C)
        for block, cache in zip(self.blocks, caches):
            x = block(x, self.positions, span, cache)
        return x


class Block(nn.Module):
    """Two branches, each adding to the stream of channels what it has worked out."""

    def __init__(self, params):
        super().__init__()
        self.attention_norm = NORMS[params.norm](params.emb_len, params)
        self.attention = Attention(params)
        self.mlp_norm = NORMS[params.norm](params.emb_len, params)
        self.mlp = MLPS[params.mlp](params)
        self.dropout = nn.Dropout(params.dropout)

    def forward(self, x, positions, span, cache):
        """x: (batch, time, channels) -> (batch, time, channels)

        positions: what tells the network where tokens stand; span: where these stand; cache: keys and values of earlier positions
        """
        x = x + self.dropout(self.attention(self.attention_norm(x), positions, span, cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Attention(nn.Module):
    """Each position asks (query) all positions up to itself (key) and takes a mixture of what they offer (value).

    Several query heads may share one head of keys and values (Ainslie et al., 2023); queries and keys may be normalised first
    (Henry et al., 2020).
    """

    def __init__(self, params):
        super().__init__()
        self.head_len = params.head_len
        self.dropout = params.attention_dropout
        query_len, key_len = params.num_heads * params.head_len, params.num_kv_heads * params.head_len
        self.query = nn.Linear(params.emb_len, query_len, bias=params.biases == "gpt2")
        self.key = nn.Linear(params.emb_len, key_len, bias=params.biases == "gpt2")
        self.value = nn.Linear(params.emb_len, key_len, bias=params.biases == "gpt2")
        self.output = nn.Linear(query_len, params.emb_len, bias=params.biases != "none")
        query_key_norm = NORMS[params.norm] if params.query_key_norm else nn.Identity
        self.query_norm = query_key_norm(params.head_len, params)
        self.key_norm = query_key_norm(params.head_len, params)

    def forward(self, x, positions, span, cache):
        """x: (batch, time, channels) -> (batch, time, channels)"""
        query, key, value = (part.unflatten(-1, (-1, self.head_len)).transpose(1, 2)              # (B, H, T, D), (B, G, T, D) twice
                             for part in (self.query(x), self.key(x), self.value(x)))
        query = positions.turn(self.query_norm(query), span.places)
        key, value = cache.extend(positions.turn(self.key_norm(key), span.places), value, span)     # (B, G, S, D)
        mixed = attend(query, key, value, self.dropout if self.training else 0.0, span.visible)     # (B, H, T, D)
        return self.output(mixed.transpose(1, 2).flatten(2))                                    # (B, T, C)


def attend(query, key, value, dropout, visible=None):
    """Each of T queries sees those of S positions that are `visible`, (T, S) or (B, 1, T, S) of truth values; by default all up to itself (T = S), or
    all where it is the only one.

    query: (B, H, T, D); key, value: (B, G, S, D), each shared by H / G query heads in a row -> (B, H, T, D)
    """
    B, H, T, D = query.shape
    S = key.shape[2]
    is_causal = visible is None and T > 1
    if query.is_cuda or T > FUSED_ATTENTION_LEN or is_causal and not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, visible, dropout, is_causal=is_causal, enable_gqa=H != key.shape[1])
    if is_causal and not dropout:
        each = (part.repeat_interleave(H // part.shape[1], dim=1).reshape(B * H, T, D) for part in (query, key, value))
        return causal_attention(*each).view(B, H, T, D)
    query = query.reshape(B, key.shape[1], -1, D) * D ** -0.5           # (B, G, H/G * T, D): the heads that share stand in one matrix
    scores = (query @ key.transpose(-2, -1)).view(B, H, T, S)
    if is_causal:
        visible = torch.ones(T, T, dtype=torch.bool, device=query.device).tril()
    if visible is not None:
        scores = scores.masked_fill(~visible, -math.inf)
    weights = F.dropout(scores.softmax(-1), dropout)
    return (weights.to(value.dtype).view(B, key.shape[1], -1, S) @ value).view(B, H, T, D)


class Span(NamedTuple):
    """The positions of the T tokens that are computed now."""
    places: slice | torch.Tensor        # these positions, in all streams alike; or those of each, (B, T)
    end: int                            # one more than the last of them
    visible: torch.Tensor | None        # what attend takes

    @classmethod
    def of(cls, start, time):
        """The same in all streams, with nothing before them that is remembered, or one token."""
        return cls(slice(start, start + time), start + time, None)

    @classmethod
    def after(cls, lengths, time, device):
        """`time` tokens after what each stream has seen. lengths: a list of integers"""
        start, end = lengths[0], max(lengths) + time
        are_alike = all(length == start for length in lengths)
        if are_alike and (time == 1 or start == 0):
            return cls.of(start, time)
        everywhere, ahead = torch.arange(end, device=device), torch.arange(time, device=device)
        if are_alike:
            return cls(slice(start, end), end, everywhere <= start + ahead[:, None])                                    # (T, S)
        places = torch.tensor(lengths, device=device)[:, None] + ahead                                                  # (B, T)
        return cls(places, end, (everywhere <= places[..., None])[:, None])


# --- What a block is composed of: each table names the choices of one field of ModelParams ---

class RMSNorm(nn.RMSNorm):
    """Divide by the root of the mean square (Zhang and Sennrich, 2019)."""

    def __init__(self, length, params):
        super().__init__(length, eps=params.norm_eps)

    def forward(self, x):
        """x: (..., length) -> the same"""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """Subtract the mean, divide by the standard deviation (Ba et al., 2016)."""

    def __init__(self, length, params):
        super().__init__(length, eps=params.norm_eps, bias=params.biases != "none")

    def forward(self, x):
        """x: (..., length) -> the same"""
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype), self.eps)


class RotaryPositions(nn.Module):
    """Turn pairs of channels of queries and keys by an angle that grows with the position (RoFormer, Su et al., 2021).

    What two positions say to each other then depends on their distance alone. Channel i is paired with channel i + D/2.
    """

    def __init__(self, params):
        super().__init__()
        speeds = params.rope_base ** -(torch.arange(0, params.head_len, 2) / params.head_len)                # (D/2,)
        angles = torch.outer(torch.arange(params.block_size), speeds).repeat(1, 2)                      # (block_size, D)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def add(self, x, places):
        """Nothing to add: queries and keys are turned instead."""
        return x

    def turn(self, heads, places):
        """heads: (B, H, T, D), at the places that a Span says -> the same, turned"""
        cos, sin = (part[places].to(heads.dtype).unsqueeze(-3) for part in (self.cos, self.sin))       # (1, T, D) or (B, 1, T, D)
        first, second = heads.chunk(2, dim=-1)
        quarter_turn = torch.cat((-second, first), dim=-1)
        return heads * cos + quarter_turn * sin


class LearnedPositions(nn.Module):
    """A learned vector for each position, added to the token's (GPT-2)."""

    def __init__(self, params):
        super().__init__()
        self.table = nn.Embedding(params.block_size, params.emb_len)

    def add(self, x, places):
        """x: (B, T, C), at the places that a Span says -> the same, with their vectors added"""
        return x + self.table.weight[places]

    def turn(self, heads, places):
        """Nothing to turn: the positions were added before the first block."""
        return heads


class NoPositions(nn.Module):
    """Nothing says where a token stands: that a position sees only those before it lets the network count them (Haviv et al., 2022)."""

    def __init__(self, params):
        super().__init__()

    def add(self, x, places):
        """Nothing to add."""
        return x

    def turn(self, heads, places):
        """Nothing to turn."""
        return heads


class SwiGLU(nn.Module):
    """An MLP in which one half of the hidden channels opens and closes the other (Shazeer, 2020)."""

    def __init__(self, params):
        super().__init__()
        bias = params.biases != "none"
        self.gate = nn.Linear(params.emb_len, params.hidden_len, bias=bias)
        self.up = nn.Linear(params.emb_len, params.hidden_len, bias=bias)
        self.down = nn.Linear(params.hidden_len, params.emb_len, bias=bias)

    def forward(self, x):
        """x: (B, T, C) -> (B, T, C)"""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class MLP(nn.Module):
    """Two matrices with an activation between them."""

    def __init__(self, params, activation):
        super().__init__()
        bias = params.biases != "none"
        self.up = nn.Linear(params.emb_len, params.hidden_len, bias=bias)
        self.activation = activation
        self.down = nn.Linear(params.hidden_len, params.emb_len, bias=bias)

    def forward(self, x):
        """x: (B, T, C) -> (B, T, C)"""
        return self.down(self.activation(self.up(x)))


class SquaredReLU(nn.Module):
    """The square of what is positive (So et al., 2021)."""

    def forward(self, x):
        """x: (..., length) -> the same"""
        return F.relu(x).square()


NORMS = {"rms": RMSNorm, "layer": LayerNorm}
POSITIONS = {"rotary": RotaryPositions, "learned": LearnedPositions, "none": NoPositions}
MLPS = {"swiglu": SwiGLU, "relu": lambda params: MLP(params, nn.ReLU()), "relu2": lambda params: MLP(params, SquaredReLU()),
        "gelu": lambda params: MLP(params, nn.GELU(approximate="tanh"))}


# --- What generation remembers ---

@dataclass(frozen=True)
class State:
    """What the network has seen of several streams: so many tokens of each, and each block's keys and values of them."""
    lengths: list
    caches: list

    def check_room(self, time, block_size):
        """Raise ValueError where `time` more tokens do not fit into the context."""
        if max(self.lengths) + time > block_size:
            raise ValueError(f"{max(self.lengths) + time} tokens do not fit into a context of block_size={block_size}.")

    def select(self, rows):
        """The state of the streams of these numbers, in this order; one may come several times. What is done with either leaves the other alone."""
        lengths = [self.lengths[row] for row in rows]
        return State(lengths, [cache.select(rows, max(lengths)) for cache in self.caches])

    def put(self, rows, other):
        """Take over the streams of another state, in the place of those of these numbers."""
        for row, length in zip(rows, other.lengths):
            self.lengths[row] = length
        for cache, others in zip(self.caches, other.caches):
            cache.put(rows, others, max(other.lengths))

    def move(self, origins, rows, alike=0):
        """Let copies of some streams take the places of others, with which they have so many of their first tokens in common."""
        for row, length in zip(rows, [self.lengths[origin] for origin in origins]):
            self.lengths[row] = length
        for cache in self.caches:
            cache.move(origins, rows, alike, max(self.lengths))

    def first(self, count):
        """The state of the first streams alone, in the same memory."""
        return State(self.lengths[:count], [cache.first(count) for cache in self.caches])


class Cache:
    """The keys and values of one block: computed once, used by every later position."""

    def __init__(self, keys, values):
        """keys, values: (B, G, block_size, D) each, room for all positions"""
        self.keys, self.values = keys, values

    @classmethod
    def empty(cls, batch_size, params, weight):
        """A cache of no positions yet, of the type and on the device of `weight`."""
        shape = batch_size, params.num_kv_heads, params.block_size, params.head_len
        return cls(weight.new_zeros(shape), weight.new_zeros(shape))

    @cached_property
    def arrays(self):
        """The keys and values as NumPy sees them, in the same memory; as they are where it cannot."""
        parts = self.keys, self.values
        return tuple(part.numpy() for part in parts) if self.keys.is_cpu and self.keys.dtype == torch.float32 else parts

    def extend(self, key, value, span):
        """key, value: (B, G, T, D) of the positions of `span` -> (B, G, S, D) of all positions so far"""
        for part, new in ((self.keys, key), (self.values, value)):
            if isinstance(span.places, slice):
                part[:, :, span.places] = new
            else:
                part[torch.arange(len(part), device=part.device)[:, None], :, span.places] = new.transpose(1, 2)        # (B, T, G, D)
        return self.keys[:, :, :span.end], self.values[:, :, :span.end]

    def select(self, rows, seen):
        """rows: a list of streams -> a Cache of copies"""
        copy = Cache(*(part.new_zeros(len(rows), *part.shape[1:]) for part in (self.keys, self.values)))
        for part, own in ((copy.keys, self.keys), (copy.values, self.values)):
            part[:, :, :seen] = own[:, :, :seen].index_select(0, self._numbers(rows))           # own[rows, :, :seen] takes five times as long
        return copy

    def put(self, rows, other, seen):
        """Take over the streams of another cache, in the place of these rows."""
        for own, part in ((self.keys, other.keys), (self.values, other.values)):
            own[:, :, :seen].index_copy_(0, self._numbers(rows), part[:, :, :seen])

    def move(self, origins, rows, alike, seen):
        """Let copies of some streams take the places of others, from the position `alike` on."""
        for part in self.arrays:            # in NumPy, whose copies need no threads, for which those of a step would wait
            part[rows, :, alike:seen] = part[origins, :, alike:seen]

    def first(self, count):
        """The first streams alone, in the same memory."""
        return Cache(self.keys[:count], self.values[:count])

    def _numbers(self, rows):
        return torch.tensor(rows, device=self.keys.device)


class NoCache:
    """Remembers nothing: in training all positions are computed at once."""

    def extend(self, key, value, span):
        return key, value


NO_CACHE = NoCache()


# --- The weights at the start ---

@torch.no_grad()
def initialize(net):
    """Small random matrices, biases at zero (GPT-2), so that the first loss is close to ln(vocab_size)."""
    for name, module in net.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            std = 0.02
            if name.endswith(("attention.output", "mlp.down")):
                # 2 * num_layers branches add into the stream of channels; this keeps the sum's variance the same at any depth (GPT-2).
                std /= math.sqrt(2 * net.params.num_layers)
            module.weight.normal_(std=std)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()


if __name__ == "__main__":
    from folio.base.startup import list_commands
    list_commands("python Model.py")
