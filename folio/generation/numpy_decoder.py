"""Tokens through a transformer in plain NumPy: Model.py's equations, faster for small steps.

With one token of a few sequences a small network spends its time on calls (torch: 5 us each, NumPy: less than 1) and on
fetching weights. So every product with a constant is multiplied into the weights beforehand, and matrices that read the
same input are one. What remains of a network is

    x = embedding[token]                                    (+ positions[index], where those are learned)
    in each block:  query, key, value = unit(x) @ W         unit(x) = x / its length
                    query, key = rotated(unit(query) * gain), rotated(unit(key) * gain)
                    x += softmax(query @ keys) @ values @ W
                    x += activation(unit(x) @ W) @ W
    logits = unit(x) @ W                                    each W with a bias, where the model has one

- A norm divides by the root of a mean square: the length / the root of C. That root, the gain and the bias of the norm
  go into the matrix that follows. Gain and bias of queries and keys stay, because the rotation comes between.
- LayerNorm is the same norm of a centered row. Centering goes into the matrices that make the row: for x the embedding
  and the end of every branch (Ashkboos et al., 2024), for queries and keys their matrices, head by head.
- The root of D by which attention divides goes into what makes the queries.

A step waits for the bytes of the weights. In int8 they are a quarter: each row of a matrix is rounded to 255 steps of
its own.

Keys and values stay in the memory of the network's own state, so either can continue where the other stopped.
Intermediate results have no memory of their own: NumPy allocates a few kilobytes as fast, and so several generations
can share the matrices.

Letters: B sequences, T tokens of each, C channels (emb_len), H heads, G key/value heads, D channels per head,
S positions seen, V vocabulary.
"""

import warnings
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from folio.generation.numpy_layers import (
    ACTIVATIONS,
    LINEAR,
    HeadsNorm,
    centered,
    eps_of,
    rotation_of,
    rows_of,
    unchanged,
    unit,
)
from folio.kernels.cache import State
from Model import Transformer

# Positions: where rows are computed apart, each reads a multiple of this many, because the kernels of matrix products
# sum the last ones in another order where they are no multiple of 32 (OpenBLAS 0.3.31, AVX-512).
SEEN_STEP = 64
# exp of this, summed over a whole context, is far from float32's largest number, exp(88), and exp of -60 is not 0.
SMALL_SCORE = 60
# Numbers that attention keeps of one pass over several tokens; more tokens are read in several passes.
MOST_SCORES = 1 << 22
# Tokens over which a fold is compared with its network, and once more at the end of the context.
CHECKED_TOKENS = 4
# Largest difference of log-probabilities that counts as rounding, as a share of the largest logit. Rounding, measured
# on 1,800 networks of all families and variants, up to 12 layers of width 512: at most 8.2e-6; 1e-6 in the shipped
# model. Changes to networks far from their start: 6e-5 for exact GELU, 6e-4 for attention scores 0.1 % larger in the
# shipped model, 1e-2 to 1 for gates, norms, activations and another order of branches.
ROUNDING = 2e-5


def in_numpy(net, precision="float32"):
    """Return the NumpyTransformer of a network as its weights are now, or None where torch generates.

    The one rule: NumPy computes a Transformer in float32, on the CPU, without adapters, and not in training. (With 1 to
    98 million parameters and 1 to 32 sequences it was at least 1.2 times as fast as torch in single tokens. Prompts of
    up to 255 tokens took 0.5 to 0.9 of torch's time on one thread; longer ones torch reads, see decoder.NUMPY_TOKENS.)
    Where the network computes something else than NumPy does, as after a change in Model.py, torch does it, and a
    warning says so once per process.

    The network keeps it for the next call where its weights need no gradient. (A fused optimizer changes weights
    without a trace.)
    """
    weights = list(net.parameters())
    is_adapted = getattr(net, "adapters", None) is not None         # folio/networks/lora.py
    if not isinstance(net, Transformer) or is_adapted or net.training or not all(map(_is_plain_float32, weights)):
        return None
    if any(weight.requires_grad for weight in weights):
        return _fold(net, precision)
    parts = [*weights, *(buffer for buffer in net.buffers() if not buffer.is_inference())]
    version = [(part.data_ptr(), part._version) for part in parts]      # torch counts changes in place
    folded = vars(net).setdefault("_folded", {})        # precision -> (version, NumpyTransformer or None)
    if precision not in folded or folded[precision][0] != version:
        folded[precision] = version, _fold(net, precision)
    return folded[precision][1]


def _is_plain_float32(weight):
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.is_inference()


def _fold(net, precision):
    """Return a NumpyTransformer, or None where its float32 form does not compute what the network does."""
    folded = _same_in_numpy(net)
    if folded is None:
        _warn_of_difference()
    return folded if folded is None or precision == "float32" else NumpyTransformer(net, precision)


@torch.no_grad()
def _same_in_numpy(net):
    """Compare a fold's log-probabilities with the network's own, at the first positions and at the last one.

    -> the NumpyTransformer in float32, or None where they differ by more than rounding or the network has other parts
    """
    tokens = torch.linspace(0, net.params.vocab_size - 1, min(CHECKED_TOKENS, net.context)).long()
    own, own_state = net.continue_from(net.empty_state(1), tokens[None])        # an error in here is the network's
    if not own.isfinite().all():
        return NumpyTransformer(net)                # the decoder refuses unusable weights
    try:
        folded, state, found = NumpyTransformer(net), net.empty_state(1), []
        for token in tokens.tolist():
            logits, state = folded.continue_from(state, [token])
            found.append(logits)
        at_once = folded.advance(net.empty_state(1), tokens[None, :-1].numpy())
        found.append(folded.continue_from(at_once, tokens[-1:].tolist())[0])
        pairs = [(np.concatenate(found), torch.cat((own[0], own[0, -1:])))]
        if net.context > len(tokens):
            repeated = torch.arange(len(tokens), net.context) % len(tokens)
            for part in (part for cache in own_state.caches for part in (cache.keys, cache.values)):
                part[:, :, len(tokens):] = part[:, :, repeated]
            own_state = State([net.context - 1], own_state.caches)
            logits, _ = folded.continue_from(own_state.select([0]), tokens[-1:].tolist())
            pairs.append((logits, net.continue_from(own_state, tokens[None, -1:])[0][0]))
    except Exception:           # a changed Model.py may lack anything, or have it in other shapes
        return None
    return folded if all(_is_rounding(torch.from_numpy(logits), expected) for logits, expected in pairs) else None


def _is_rounding(logits, expected):
    """Return whether logits, (time, vocabulary) each, give the same log-probabilities but for rounding."""
    difference = (logits.double().log_softmax(-1) - expected.double().log_softmax(-1)).abs().max()
    return bool(difference <= ROUNDING * expected.abs().max())


@cache          # once per process, whatever the warning filters say
def _warn_of_difference():
    warnings.warn("Model.py differs from the fast decoder, folio/generation/numpy_decoder.py; generating with the "
                  "network itself, slower. Make the same change there to have it fast again.",
                  RuntimeWarning, stacklevel=2)


class NumpyTransformer:
    """A Transformer that generates. It is never changed, so several generations may share it."""

    @torch.no_grad()
    def __init__(self, net, precision="float32"):
        """net: a Transformer in float32, on the CPU, whose weights are read now; precision: a key of LINEAR"""
        linear = LINEAR[precision].of
        to_residual = centered if isinstance(net.norm, nn.LayerNorm) else unchanged
        rotation = rotation_of(net.positions, net.params.head_len) if net.params.positions == "rotary" else None
        self.block_size, self.num_heads = net.params.block_size, net.params.num_heads
        self.embedding = to_residual(net.embedding.weight.detach()).numpy()                     # (V, C)
        self.positions = None
        if net.params.positions == "learned":
            self.positions = to_residual(net.positions.table.weight.detach()).numpy()           # (block_size, C)
        self.blocks = [Block(block, net.params, rotation, to_residual, linear) for block in net.blocks]
        self.head, self.eps = linear(rows_of([net.head], net.norm)), eps_of(net.norm)

    def continue_from(self, state, tokens, apart=False):
        """Continue after the tokens that `state` has seen; it is consumed.

        tokens: an id for each sequence -> logits: (B, V), an array; state. Raises ValueError where the context is full.
        apart: compute each row by products of its own, so that its logits have the same bits in any batch
        """
        state.check_room(1, self.block_size)
        span = Span.after(state.lengths, apart_within=self.block_size if apart else None)
        x, state = self._run_blocks(state, tokens, span)
        with np.errstate(all="ignore"):         # what is not finite shows in the logits
            return self.head(unit(x, self.eps), span.apart), state

    def advance(self, state, tokens):
        """Read T tokens of each sequence without logits: tokens: (B, T) -> state. Raises ValueError like the above."""
        B, T = tokens.shape
        state.check_room(T, self.block_size)
        part_len = max(1, MOST_SCORES // (B * self.num_heads * max(1, max(state.lengths) + T)))
        for start in range(0, T, part_len):
            part = tokens[:, start:start + part_len]
            _, state = self._run_blocks(state, part.ravel(), Span.after(state.lengths, part.shape[1]))
        return state

    @np.errstate(all="ignore")
    def _run_blocks(self, state, tokens, span):
        """tokens: ids, (B * T,), sequence by sequence -> x: (B * T, C), what the last block adds to, and state"""
        x = self.embedding[tokens]                                              # a copy
        if self.positions is not None:
            x += self.positions[span.indices]
        for block, cached in zip(self.blocks, state.caches):
            block.add_to(x, *cached.arrays, span)
        return x, State([length + len(x) // len(state.lengths) for length in state.lengths], state.caches)


class Span(NamedTuple):
    """The positions of the T tokens of each sequence: folio.kernels.cache.Span, in NumPy."""
    indices: int | np.ndarray           # of all tokens where they are the same; or of each, (B * T,)
    at: tuple                           # the index of these positions in an array of (B, G, block_size, D)
    end: int                            # one more than the last of them
    unseen: np.ndarray | None           # (1 or B, 1, 1, T, S): positions after each token's own, if there are any
    apart: bool = False                 # each row is computed by products of its own

    @classmethod
    def after(cls, lengths, time=1, apart_within=None):
        """Return the next `time` positions of sequences that have seen `lengths` tokens (a list of integers).

        apart_within: None; or a context, within which each row is computed by products of its own: all read a multiple
            of SEEN_STEP positions, so that each sums in the same order beside longer ones
        """
        start, end = lengths[0], max(lengths) + time
        apart = apart_within is not None
        read = min(apart_within, -(-end // SEEN_STEP) * SEEN_STEP) if apart else end
        if time == 1 and all(length == start for length in lengths):
            unseen = (np.arange(read) > start)[None, None, None, None] if read > end else None
            return cls(start, (slice(None), slice(None), start), read, unseen, apart)
        indices = (np.array(lengths)[:, None] + np.arange(time)).ravel()
        unseen = np.arange(read) > indices.reshape(-1, 1, 1, time, 1)
        return cls(indices, (np.arange(len(lengths)).repeat(time), slice(None), indices), read, unseen, apart)


class Block:
    """The two branches of a block."""

    def __init__(self, block, params, rotation, to_residual, linear):
        """block: a Model.Block; rotation: what rotation_of returns, or None

        to_residual: a function of all rows that add to the residual stream; linear: a function of what rows_of returns
        """
        attention, mlp = block.attention, block.mlp
        H, G, D = params.num_heads, params.num_kv_heads, params.head_len
        self.num_heads, self.num_kv_heads, self.head_len = H, G, D
        rows = rows_of([attention.query, attention.key, attention.value], block.attention_norm)  # (C + 1, (H + 2G) * D)
        heads = rows[:, :(H + G) * D].unflatten(1, (H + G, D))          # a view: changes go to rows
        if isinstance(attention.query_norm, nn.LayerNorm):
            heads.copy_(centered(heads))
        if params.query_key_norm:
            self.heads_norm = HeadsNorm.of(attention.query_norm, attention.key_norm, H, G)
        else:
            heads[:, :H] *= D ** -0.5
            self.heads_norm = None
        self.scores_are_small = self.heads_norm is not None and self.heads_norm.largest_score(H) <= SMALL_SCORE
        self.rotation = rotation
        self.query_key_value, self.attention_eps = linear(rows), eps_of(block.attention_norm)
        self.output = linear(to_residual(rows_of([attention.output])))
        rows = rows_of([mlp.gate, mlp.up] if params.mlp == "swiglu" else [mlp.up], block.mlp_norm)
        if params.mlp == "swiglu":
            rows[:, :params.hidden_len] *= 0.5          # `swiglu` takes half the gate
        self.up, self.mlp_eps = linear(rows), eps_of(block.mlp_norm)
        self.activation = ACTIVATIONS[params.mlp]
        self.down = linear(to_residual(rows_of([mlp.down])))

    def add_to(self, x, keys, values, span):
        """Add the outputs of the branches to x, (B * T, C), in place.

        keys, values: (B, G, block_size, D), which are written at the span's positions
        """
        rows = self.query_key_value(unit(x, self.attention_eps), span.apart)
        x += self.output(self.attend(rows, keys, values, span), span.apart)
        x += self.down(self.activation(self.up(unit(x, self.mlp_eps), span.apart)), span.apart)

    def attend(self, rows, keys, values, span):
        """rows: query, key and value of the tokens, (B * T, (H + 2G) * D) -> the mean values, (B * T, H * D)"""
        N, B, H, G, D = len(rows), len(keys), self.num_heads, self.num_kv_heads, self.head_len
        T = N // B
        heads, values[span.at] = rows[:, :(H + G) * D].reshape(N, H + G, D), rows[:, (H + G) * D:].reshape(N, G, D)
        if self.heads_norm is not None:
            heads = self.heads_norm(heads)
        if self.rotation is not None:
            cos, sin = self.rotation
            halves = heads.reshape(N, H + G, 2, D // 2)
            heads = (halves * cos[span.indices] + halves[:, :, ::-1] * sin[span.indices]).reshape(N, H + G, D)
        keys[span.at] = heads[:, H:]
        query, keys, values = heads[:, :H], keys[:, :, :span.end], values[:, :, :span.end]
        if T > 1:                                   # the tokens of a sequence side by side, head by head
            query = query.reshape(B, T, H, D).swapaxes(1, 2)
        query = query.reshape(B, G, H // G * T, D)
        weights = _product(query, keys.swapaxes(2, 3), span.apart)                          # (B, G, H/G * T, S)
        if span.unseen is not None:
            np.copyto(weights.reshape(B, G, H // G, T, span.end), -np.inf, where=span.unseen)
        if not self.scores_are_small:               # so that nothing becomes too large for exp
            weights -= np.maximum.reduce(weights, axis=-1, keepdims=True)
        np.exp(weights, out=weights)
        mixed = _product(weights, values, span.apart)                                       # (B, G, H/G * T, D)
        mixed /= _sums(weights, span.apart)         # the softmax's division, of D numbers per head
        if T > 1:
            mixed = mixed.reshape(B, H, T, D).swapaxes(1, 2)
        return mixed.reshape(N, H * D)


def _product(rows, matrices, apart):
    """rows: (B, G, M, K), matrices: (B, G, K, N) -> their products, (B, G, M, N)

    apart: multiply row by row, since a product of several rows rounds otherwise with other numbers of columns
    """
    if not apart or rows.shape[2] == 1:         # NumPy multiplies single rows as vectors
        return rows @ matrices
    return (rows[..., None, :] @ matrices[:, :, None])[..., 0, :]


def _sums(weights, apart):
    """weights: (B, G, M, S) -> their sums over S, (B, G, M, 1)

    apart: sum SEEN_STEP positions at a time, then these sums one by one, so that zeros at the end change nothing
    """
    if not apart:
        return np.add.reduce(weights, axis=-1, keepdims=True)
    length = weights.shape[-1]
    steps = [np.add.reduce(weights[..., start:start + SEEN_STEP], axis=-1) for start in range(0, length, SEEN_STEP)]
    return sum(steps[1:], steps[0])[..., None]
