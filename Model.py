"""The transformer, and nothing else: tokens in, one row of logits for the next token at every position out.

    embedding -> num_layers x [norm -> attention -> +, norm -> MLP -> +] -> norm -> head

(Vaswani et al., 2017, with the norms before the branches as in GPT-2.) Each block is composed of parts when it is built, so that
`forward` knows nothing of configurations. With the values of the `folio` family the equations are Qwen3's, to the letter.

Letters: B batch, T time (positions computed now), S positions seen, C channels (emb_len), H heads, G key/value heads, D channels a head,
V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from folio.kernels import causal_attention

NORM_EPS = 1e-6             # Qwen3's
ROTARY_BASE = 10_000        # Su et al., 2021
FUSED_ATTENTION_LEN = 512   # on a CPU, plain matrix products train twice as fast up to here, and beyond it memory matters more


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
        return self._compute(tokens, 0, [NO_CACHE] * len(self.blocks))

    def empty_state(self, batch_size):
        """The state before the first token: room for the keys and values of block_size positions of each stream."""
        return State(0, [Cache.empty(batch_size, self.params, self.embedding.weight) for _ in self.blocks])

    def continue_from(self, state, tokens):
        """Go on after the tokens that `state` has seen; `state` itself is used up.

        tokens: (batch, time) -> logits: (batch, time, vocabulary), state. Raises ValueError where the context is full.
        """
        seen = state.length + tokens.shape[1]
        if seen > self.params.block_size:
            raise ValueError(f"{seen} tokens do not fit into a context of block_size={self.params.block_size}.")
        return self._compute(tokens, state.length, state.caches), State(seen, state.caches)

    def _compute(self, tokens, start, caches):
        x = self.positions.add(self.embedding(tokens), start).to(self.head.weight.dtype)        # (B, T, C)
        for block, cache in zip(self.blocks, caches):
            x = block(x, self.positions, start, cache)
        return self.head(self.norm(x))                                # (B, T, V)


class Block(nn.Module):
    """Two branches, each adding to the stream of channels what it has worked out."""

    def __init__(self, params):
        super().__init__()
        self.attention_norm = NORMS[params.norm](params.emb_len, params)
        self.attention = Attention(params)
        self.mlp_norm = NORMS[params.norm](params.emb_len, params)
        self.mlp = MLPS[params.mlp](params)
        self.dropout = nn.Dropout(params.dropout)

    def forward(self, x, positions, start, cache):
        """x: (batch, time, channels) -> (batch, time, channels)

        positions: what tells the network where tokens stand; start: the position of x[:, 0]; cache: keys and values of earlier positions
        """
        x = x + self.dropout(self.attention(self.attention_norm(x), positions, start, cache))
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

    def forward(self, x, positions, start, cache):
        """x: (batch, time, channels) -> (batch, time, channels)"""
        query, key, value = (part.unflatten(-1, (-1, self.head_len)).transpose(1, 2)              # (B, H, T, D), (B, G, T, D) twice
                             for part in (self.query(x), self.key(x), self.value(x)))
        query = positions.turn(self.query_norm(query), start)
        key, value = cache.extend(positions.turn(self.key_norm(key), start), value, start)      # (B, G, S, D)
        mixed = attend(query, key, value, self.dropout if self.training else 0.0)               # (B, H, T, D)
        return self.output(mixed.transpose(1, 2).flatten(2))                                    # (B, T, C)


def attend(query, key, value, dropout):
    """Causal attention, where the T queries are the last T of the S positions.

    query: (B, H, T, D); key, value: (B, G, S, D), each shared by H / G query heads in a row -> (B, H, T, D)
    """
    B, H, T, D = query.shape
    S = key.shape[2]
    if query.is_cuda or T > FUSED_ATTENTION_LEN:
        mask = None if T == S else _causal_mask(T, S, query.device)
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=T == S, enable_gqa=H != key.shape[1])
    if T == S and not dropout:
        each = (part.repeat_interleave(H // part.shape[1], dim=1).reshape(B * H, T, D) for part in (query, key, value))
        return causal_attention(*each).view(B, H, T, D)
    query = query.reshape(B, key.shape[1], -1, D) * D ** -0.5           # (B, G, H/G * T, D): the heads that share stand in one matrix
    scores = (query @ key.transpose(-2, -1)).view(B, H, T, S)
    if T > 1:
        scores = scores.masked_fill(~_causal_mask(T, S, query.device), -math.inf)
    weights = F.dropout(scores.softmax(-1), dropout)
    return (weights.to(value.dtype).view(B, key.shape[1], -1, S) @ value).view(B, H, T, D)


def _causal_mask(T, S, device):
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)        # row t sees the positions 0 .. S - T + t


# --- What a block is composed of: each table names the choices of one field of ModelParams ---

class RMSNorm(nn.RMSNorm):
    """Divide by the root of the mean square (Zhang and Sennrich, 2019)."""

    def __init__(self, length, params):
        super().__init__(length, eps=NORM_EPS)

    def forward(self, x):
        """x: (..., length) -> the same"""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """Subtract the mean, divide by the standard deviation (Ba et al., 2016)."""

    def __init__(self, length, params):
        super().__init__(length, bias=params.biases != "none")

    def forward(self, x):
        """x: (..., length) -> the same"""
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype), self.eps)


class RotaryPositions(nn.Module):
    """Turn pairs of channels of queries and keys by an angle that grows with the position (RoFormer, Su et al., 2021).

    What two positions say to each other then depends on their distance alone. Channel i is paired with channel i + D/2.
    """

    def __init__(self, params):
        super().__init__()
        speeds = ROTARY_BASE ** -(torch.arange(0, params.head_len, 2) / params.head_len)                # (D/2,)
        angles = torch.outer(torch.arange(params.block_size), speeds).repeat(1, 2)                      # (block_size, D)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def add(self, x, start):
        """Nothing to add: queries and keys are turned instead."""
        return x

    def turn(self, heads, start):
        """heads: (B, H, T, D) -> the same, turned"""
        end = start + heads.shape[2]
        cos, sin = self.cos[start:end].to(heads.dtype), self.sin[start:end].to(heads.dtype)       # (T, D)
        first, second = heads.chunk(2, dim=-1)
        quarter_turn = torch.cat((-second, first), dim=-1)
        return heads * cos + quarter_turn * sin


class LearnedPositions(nn.Module):
    """A learned vector for each position, added to the token's (GPT-2)."""

    def __init__(self, params):
        super().__init__()
        self.table = nn.Embedding(params.block_size, params.emb_len)

    def add(self, x, start):
        """x: (B, T, C) -> the same, with the vectors of the positions from `start` on added"""
        return x + self.table.weight[start:start + x.shape[1]]

    def turn(self, heads, start):
        """Nothing to turn: the positions were added before the first block."""
        return heads


class NoPositions(nn.Module):
    """Nothing says where a token stands: that a position sees only those before it lets the network count them (Haviv et al., 2022)."""

    def __init__(self, params):
        super().__init__()

    def add(self, x, start):
        """Nothing to add."""
        return x

    def turn(self, heads, start):
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
    """What the network has seen: so many positions, and each block's keys and values of them."""
    length: int
    caches: list

    def select(self, rows):
        """The state of the streams with these numbers, in this order; one may come several times. What is done with either leaves the other alone.

        rows: (streams,) integers, a tensor
        """
        return State(self.length, [cache.select(rows, self.length) for cache in self.caches])


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

    def select(self, rows, seen):
        """rows: (streams,) integers; seen: positions that are worth copying, the others have not been computed yet -> a Cache of copies"""
        copies = [part.new_empty(len(rows), *part.shape[1:]) for part in (self.keys, self.values)]
        for copy, part in zip(copies, (self.keys, self.values)):
            copy[:, :, :seen] = part[:, :, :seen].index_select(0, rows)         # part[rows, :, :seen] takes five times as long
        return Cache(*copies)

    def extend(self, key, value, start):
        """key, value: (B, G, T, D) of the positions from `start` on -> (B, G, S, D) of all positions so far"""
        end = start + key.shape[2]
        self.keys[:, :, start:end], self.values[:, :, start:end] = key, value
        return self.keys[:, :, :end], self.values[:, :, :end]


class NoCache:
    """Remembers nothing: in training all positions are computed at once."""

    def extend(self, key, value, start):
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
