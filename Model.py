"""The transformer and its initialization: tokens in, one row of logits for the next token at every position out.

    embedding -> num_layers x [norm -> attention -> +, norm -> MLP -> +] -> norm -> head

(Vaswani et al., 2017, with the norms before the branches as in GPT-2.) Each block is composed of its parts when it is
built, so `forward` does not branch on the configuration. With the values of the `folio` family the equations are
exactly Qwen3's.

Change what you like: training, evaluation and generation all use this file. Its equations are written a second time
in these places, which do not follow a change by themselves:
- folio/generation/numpy_decoder.py: generation of single tokens in NumPy. It is compared with this network first;
  where the two differ, a warning says so and the network itself generates.
- folio/networks/attention_weights.py: attention weights for `python -m folio.plot`.
- folio/training/plan.py: floating-point operations per step.
The inner loops are in folio/kernels: attention.py (the kernels behind `attend`) and cache.py (the KV cache).

Letters: B batch, T time (positions computed now), S positions seen, C channels (emb_len), H heads, G key/value heads,
D channels per head, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from folio.kernels.attention import attend
from folio.kernels.cache import NO_CACHE, Cache, Span, State


class Transformer(nn.Module):
    """A decoder-only transformer with the shape that ModelParams give."""

    def __init__(self, params):
        """params: ModelParams, resolved and without problems"""
        super().__init__()
        self.params = params
        self.context = params.block_size
        self.embedding = nn.Embedding(params.vocab_size, params.emb_len)
        self.positions = POSITIONS[params.positions](params)
        self.blocks = nn.ModuleList(Block(params) for _ in range(params.num_layers))
        self.norm = NORMS[params.norm](params.emb_len, params)
        has_bias = params.biases == "lecture" and not params.tied_head
        self.head = nn.Linear(params.emb_len, params.vocab_size, bias=has_bias)
        initialize(self)
        if params.tied_head:
            self.head.weight = self.embedding.weight

    def forward(self, tokens, segments=None):
        """tokens: (B, T) integers, T at most block_size -> logits: (B, T, V)

        segments: (B, T) integers; where they differ, another sequence begins, which sees only itself
        """
        return self.predict(self.read(tokens, segments))

    def read(self, tokens, segments=None):
        """Do the same without the head: tokens: (B, T) -> x: (B, T, C), what `predict` takes"""
        if segments is None:
            span = Span.of(0, tokens.shape[1])
        else:
            span = Span.packed(segments, self.head.weight.dtype)
        return self.run_blocks(self.embed(tokens, span.indices), span, [NO_CACHE] * len(self.blocks))

    def embed(self, tokens, indices=None):
        """tokens: (B, T), at these position indices (default: the first T) -> x: (B, T, C), the first block's input"""
        indices = slice(tokens.shape[1]) if indices is None else indices
        return self.positions.add(self.embedding(tokens), indices).to(self.head.weight.dtype)

    def run_blocks(self, x, span, caches):
        """x: (B, T, C), at the positions of `span`; caches: one for each block -> x: (B, T, C)"""
        for block, cache in zip(self.blocks, caches):
            x = block(x, self.positions, span, cache)
        return x

    def predict(self, x):
        """x: (B, T, C), the last block's output -> logits: (B, T, V)"""
        return self.head(self.norm(x))

    def empty_state(self, batch_size):
        """Return the state before the first token, with memory for block_size positions of each sequence."""
        params = self.params
        shape = batch_size, params.num_kv_heads, params.block_size, params.head_len
        return State([0] * batch_size, [Cache.empty(shape, self.head.weight) for _ in self.blocks])

    def continue_from(self, state, tokens):
        """Continue after the tokens that `state` has seen; `state` itself is consumed.

        tokens: (B, T) -> logits: (B, T, V), state. Raises ValueError where the context is full.
        """
        x, state = self.advance(state, tokens)
        return self.predict(x), state

    def advance(self, state, tokens):
        """Do the same without the head: tokens: (B, T) -> x: (B, T, C), what `predict` takes, and state"""
        time = tokens.shape[1]
        state.check_room(time, self.params.block_size)
        span = Span.after(state.lengths, time, tokens.device)
        x = self.run_blocks(self.embed(tokens, span.indices), span, state.caches)
        return x, State([length + time for length in state.lengths], state.caches)


class Block(nn.Module):
    """Two branches, each of which adds to the residual stream."""

    def __init__(self, params):
        super().__init__()
        self.attention_norm = NORMS[params.norm](params.emb_len, params)
        self.attention = Attention(params)
        self.mlp_norm = NORMS[params.norm](params.emb_len, params)
        self.mlp = MLPS[params.mlp](params)
        self.dropout = nn.Dropout(params.dropout)

    def forward(self, x, positions, span, cache):
        """x: (B, T, C) -> (B, T, C)

        positions: the network's position encoding; span: the positions of x; cache: earlier keys and values
        """
        x = x + self.dropout(self.attention(self.attention_norm(x), positions, span, cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Attention(nn.Module):
    """Causal self-attention: each position's query weighs the keys up to its own and takes the mean of their values.

    Several query heads may share one head of keys and values (Ainslie et al., 2023); queries and keys may be normalized
    first (Henry et al., 2020).
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
        """x: (B, T, C) -> (B, T, C)"""
        query, key, value = (part.unflatten(-1, (-1, self.head_len)).transpose(1, 2)    # (B, H or G, T, D)
                             for part in (self.query(x), self.key(x), self.value(x)))
        query = positions.rotate(self.query_norm(query), span.indices)
        key = positions.rotate(self.key_norm(key), span.indices)
        key, value = cache.extend(key, value, span)                                     # (B, G, S, D)
        dropout = self.dropout if self.training else 0.0
        mixed = attend(query, key, value, dropout, span.visible)                        # (B, H, T, D)
        return self.output(mixed.transpose(1, 2).flatten(2))                            # (B, T, C)


# --- What a block is composed of: each table names the choices of one field of ModelParams ---

class RMSNorm(nn.RMSNorm):
    """Divide by the root of the mean square (Zhang and Sennrich, 2019)."""

    def __init__(self, length, params):
        super().__init__(length, eps=params.norm_eps)

    def forward(self, x):
        """x: (..., length) -> the same shape"""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """Subtract the mean, divide by the standard deviation (Ba et al., 2016)."""

    def __init__(self, length, params):
        super().__init__(length, eps=params.norm_eps, bias=params.biases != "none")

    def forward(self, x):
        """x: (..., length) -> the same shape"""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), bias, self.eps)


class RotaryPositions(nn.Module):
    """Rotate pairs of channels of queries and keys by angles that grow with the position (RoFormer, Su et al., 2021).

    The product of a query and a key then depends on their distance alone. Channel i is paired with channel i + D/2.
    """

    def __init__(self, params):
        super().__init__()
        speeds = params.rope_base ** -(torch.arange(0, params.head_len, 2) / params.head_len)   # (D/2,)
        angles = torch.outer(torch.arange(params.block_size), speeds).repeat(1, 2)              # (block_size, D)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def add(self, x, indices):
        """Add nothing: queries and keys are rotated instead."""
        return x

    def rotate(self, heads, indices):
        """heads: (B, H, T, D), at the position indices of a Span -> the same shape, rotated"""
        cos, sin = (part[indices].to(heads.dtype).unsqueeze(-3) for part in (self.cos, self.sin))   # (1 or B, 1, T, D)
        first, second = heads.chunk(2, dim=-1)
        quarter_turn = torch.cat((-second, first), dim=-1)
        return heads * cos + quarter_turn * sin


class LearnedPositions(nn.Module):
    """Add a learned vector for each position to the token's (GPT-2)."""

    def __init__(self, params):
        super().__init__()
        self.table = nn.Embedding(params.block_size, params.emb_len)

    def add(self, x, indices):
        """x: (B, T, C), at the position indices of a Span -> the same shape"""
        return x + self.table.weight[indices]

    def rotate(self, heads, indices):
        """Rotate nothing: the positions were added before the first block."""
        return heads


class NoPositions(nn.Module):
    """Encode no positions: the causal mask alone lets the network infer them (Haviv et al., 2022)."""

    def __init__(self, params):
        super().__init__()

    def add(self, x, indices):
        """Add nothing."""
        return x

    def rotate(self, heads, indices):
        """Rotate nothing."""
        return heads


class SwiGLU(nn.Module):
    """An MLP in which one half of the hidden channels gates the other (Shazeer, 2020)."""

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
    """The square of the positive part (So et al., 2021)."""

    def forward(self, x):
        """x: (..., length) -> the same shape"""
        return F.relu(x).square()


NORMS = {"rms": RMSNorm, "layer": LayerNorm}
POSITIONS = {"rotary": RotaryPositions, "learned": LearnedPositions, "none": NoPositions}
MLPS = {"swiglu": SwiGLU,
        "relu": lambda params: MLP(params, nn.ReLU()),
        "relu2": lambda params: MLP(params, SquaredReLU()),
        "gelu": lambda params: MLP(params, nn.GELU(approximate="tanh"))}


# --- Initialization ---

@torch.no_grad()
def initialize(net):
    """Draw small random matrices and set biases to zero (GPT-2), so that the first loss is close to ln(vocab_size)."""
    for name, module in net.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            std = 0.02
            if name.endswith(("attention.output", "mlp.down")):
                # 2 * num_layers branches add to the residual stream; this keeps the variance of the sum the same at
                # any depth (GPT-2).
                std /= math.sqrt(2 * net.params.num_layers)
            module.weight.normal_(std=std)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()


if __name__ == "__main__":
    from folio.base.startup import list_commands
    list_commands("python Model.py")
