"""The next token of each sequence through a transformer, in plain NumPy: Model.py's equations, faster for small steps.

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

Keys and values stay in the memory of the network's own state. So either can continue where the other stopped, and torch
reads pieces of several tokens in one call: prompts, and windows that restart. Intermediate results have no memory of
their own: NumPy allocates a few kilobytes as fast, and so several generations can share the matrices.

Letters: B sequences, C channels (emb_len), H heads, G key/value heads, D channels per head, S positions seen,
V vocabulary.
"""

import math
import warnings
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from folio.kernels.cache import State
from Model import Transformer

# torch's int8 kernel reads rows in steps of this many (torch 2.13 on AVX-512: of 16), also beyond the end of a row.
KERNEL_STEP = 32
# Positions: where rows are computed apart, each reads a multiple of this many, because the kernels of matrix products
# sum the last ones in another order where they are no multiple of 32 (OpenBLAS 0.3.31, AVX-512).
SEEN_STEP = 64
# exp of this, summed over a whole context, is far from float32's largest number, exp(88), and exp of -60 is not 0.
SMALL_SCORE = 60
# Tokens over which a fold is compared with its network, and once more at the end of the context.
CHECKED_TOKENS = 4
# Largest difference of log-probabilities that counts as rounding, as a share of the largest logit. Rounding, measured
# on 1,800 networks of all families and variants, up to 12 layers of width 512: at most 8.2e-6; 1e-6 in the shipped
# model. Changes to networks far from their start: 6e-5 for exact GELU, 6e-4 for attention scores 0.1 % larger in the
# shipped model, 1e-2 to 1 for gates, norms, activations and another order of branches.
ROUNDING = 2e-5


def in_numpy(net, precision="float32"):
    """Return the NumpyTransformer of a network as its weights are now, or None where torch computes single tokens too.

    The one rule: NumPy computes a Transformer in float32, on the CPU, and not in training. (With 1 to 98 million
    parameters and 1 to 32 sequences it was at least 1.2 times as fast as torch.) Where the network computes something
    else than NumPy does, as after a change in Model.py, torch does it, and a warning says so once per process.

    The network keeps it for the next call where its weights need no gradient. (A fused optimizer changes weights
    without a trace.)
    """
    weights = list(net.parameters())
    if not (isinstance(net, Transformer) and not net.training and all(map(_is_plain_float32, weights))):
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
        pairs = [(np.concatenate(found), own[0])]
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
    """A Transformer for one token of each sequence. It is never changed, so several generations may share it."""

    @torch.no_grad()
    def __init__(self, net, precision="float32"):
        """net: a Transformer in float32, on the CPU, whose weights are read now; precision: a key of LINEAR"""
        linear = LINEAR[precision].of
        to_residual = _centered if isinstance(net.norm, nn.LayerNorm) else _unchanged
        rotation = _rotation(net.positions, net.params.head_len) if net.params.positions == "rotary" else None
        self.block_size = net.params.block_size
        self.embedding = to_residual(net.embedding.weight.detach()).numpy()                     # (V, C)
        self.positions = None
        if net.params.positions == "learned":
            self.positions = to_residual(net.positions.table.weight.detach()).numpy()           # (block_size, C)
        self.blocks = [Block(block, net.params, rotation, to_residual, linear) for block in net.blocks]
        self.head, self.eps = linear(_rows([net.head], net.norm)), _eps(net.norm)

    @np.errstate(all="ignore")          # what is not finite shows in the logits
    def continue_from(self, state, tokens, apart=False):
        """Continue after the tokens that `state` has seen; it is consumed.

        tokens: an id for each sequence -> logits: (B, V), an array; state. Raises ValueError where the context is full.
        apart: compute each row by products of its own, so that its logits have the same bits in any batch
        """
        state.check_room(1, self.block_size)
        span = Span.after(state.lengths, self.block_size if apart else None)
        x = self.embedding[tokens]                                              # (B, C), a copy
        if self.positions is not None:
            x += self.positions[span.indices]
        for block, cached in zip(self.blocks, state.caches):
            block.add_to(x, *cached.arrays, span)
        return self.head(unit(x, self.eps), span.apart), State([length + 1 for length in state.lengths], state.caches)


class Span(NamedTuple):
    """The positions of one token of each sequence: folio.kernels.cache.Span, in NumPy."""
    indices: int | np.ndarray           # the same in all sequences; or that of each, (B,)
    at: tuple                           # the index of these positions in an array of (B, G, block_size, D)
    end: int                            # one more than the last of them
    unseen: np.ndarray | None           # (B, 1, 1, S): positions beyond a shorter sequence's own, if lengths differ
    apart: bool = False                 # each row is computed by products of its own

    @classmethod
    def after(cls, lengths, apart_within=None):
        """Return the next position of sequences that have seen `lengths` tokens (a list of integers).

        apart_within: None; or a context, within which each row is computed by products of its own: all read a multiple
            of SEEN_STEP positions, so that each sums in the same order beside longer ones
        """
        start, last = lengths[0], max(lengths)
        apart, end = apart_within is not None, last + 1
        if apart:
            end = min(apart_within, (last // SEEN_STEP + 1) * SEEN_STEP)
        if all(length == start for length in lengths):
            unseen = (np.arange(end) > start)[None, None, None] if end > last + 1 else None
            return cls(start, (slice(None), slice(None), start), end, unseen, apart)
        indices = np.array(lengths)
        unseen = (np.arange(end) > indices[:, None])[:, None, None]
        return cls(indices, (np.arange(len(indices)), slice(None), indices), end, unseen, apart)


class Block:
    """The two branches of a block."""

    def __init__(self, block, params, rotation, to_residual, linear):
        """block: a Model.Block; rotation: what _rotation returns, or None

        to_residual: a function of all rows that add to the residual stream; linear: a function of what _rows returns
        """
        attention, mlp = block.attention, block.mlp
        H, G, D = params.num_heads, params.num_kv_heads, params.head_len
        self.num_heads, self.num_kv_heads, self.head_len = H, G, D
        rows = _rows([attention.query, attention.key, attention.value], block.attention_norm)   # (C + 1, (H + 2G) * D)
        heads = rows[:, :(H + G) * D].unflatten(1, (H + G, D))          # a view: changes go to rows
        if isinstance(attention.query_norm, nn.LayerNorm):
            heads.copy_(_centered(heads))
        if params.query_key_norm:
            self.heads_norm = HeadsNorm.of(attention.query_norm, attention.key_norm, H, G)
        else:
            heads[:, :H] *= D ** -0.5
            self.heads_norm = None
        self.scores_are_small = self.heads_norm is not None and self.heads_norm.largest_score(H) <= SMALL_SCORE
        self.rotation = rotation
        self.query_key_value, self.attention_eps = linear(rows), _eps(block.attention_norm)
        self.output = linear(to_residual(_rows([attention.output])))
        rows = _rows([mlp.gate, mlp.up] if params.mlp == "swiglu" else [mlp.up], block.mlp_norm)
        if params.mlp == "swiglu":
            rows[:, :params.hidden_len] *= 0.5          # `swiglu` takes half the gate
        self.up, self.mlp_eps = linear(rows), _eps(block.mlp_norm)
        self.activation = ACTIVATIONS[params.mlp]
        self.down = linear(to_residual(_rows([mlp.down])))

    def add_to(self, x, keys, values, span):
        """Add the outputs of the branches to x, (B, C), in place.

        keys, values: (B, G, block_size, D), which are written at the span's position
        """
        rows = self.query_key_value(unit(x, self.attention_eps), span.apart)
        x += self.output(self.attend(rows, keys, values, span), span.apart)
        x += self.down(self.activation(self.up(unit(x, self.mlp_eps), span.apart)), span.apart)

    def attend(self, rows, keys, values, span):
        """rows: query, key and value of the tokens, (B, (H + 2G) * D) -> the mean values, (B, H * D)"""
        B, H, G, D = len(rows), self.num_heads, self.num_kv_heads, self.head_len
        heads, values[span.at] = rows[:, :(H + G) * D].reshape(B, H + G, D), rows[:, (H + G) * D:].reshape(B, G, D)
        if self.heads_norm is not None:
            heads = self.heads_norm(heads)
        if self.rotation is not None:
            cos, sin = self.rotation
            halves = heads.reshape(B, H + G, 2, D // 2)
            heads = (halves * cos[span.indices] + halves[:, :, ::-1] * sin[span.indices]).reshape(B, H + G, D)
        keys[span.at] = heads[:, H:]
        query, keys, values = heads[:, :H].reshape(B, G, H // G, D), keys[:, :, :span.end], values[:, :, :span.end]
        weights = _product(query, keys.swapaxes(2, 3), span.apart)                                  # (B, G, H/G, S)
        if span.unseen is not None:
            np.copyto(weights, -np.inf, where=span.unseen)
        if not self.scores_are_small:               # so that nothing becomes too large for exp
            weights -= np.maximum.reduce(weights, axis=-1, keepdims=True)
        np.exp(weights, out=weights)
        mixed = _product(weights, values, span.apart)                                               # (B, G, H/G, D)
        mixed /= _sums(weights, span.apart)         # the softmax's division, of D numbers per head
        return mixed.reshape(B, H * D)


# --- What a block is composed of ---

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


def unit(x, eps):
    """x: (..., length) -> x / the root of the sum of its squares (Zhang and Sennrich, 2019, up to a factor)"""
    return x / np.sqrt(np.vecdot(x, x) + eps)[..., None]


@dataclass(frozen=True)
class Linear:
    """A matrix product and a bias."""
    # (in, out): a row is multiplied up to a fifth faster than by torch's (out, in) (OpenBLAS 0.3.31)
    matrix: np.ndarray
    bias: np.ndarray | None         # (out,)

    @classmethod
    def of(cls, rows):
        """rows: what _rows returns"""
        return cls(rows[:-1].numpy(), _bias(rows))

    def __call__(self, x, apart=False):
        """x: (B, in) -> (B, out); apart: each row by a product of its own"""
        y = (x[:, None] @ self.matrix)[:, 0] if apart else x.dot(self.matrix)
        if self.bias is not None:
            y += self.bias
        return y


@dataclass(frozen=True)
class Int8Linear:
    """The same with int8 weights: integers from -127 to 127 times a scale for each output; bfloat16 in and out.

    torch's kernel fetches a quarter of the bytes, and few rows wait for nothing else.
    """
    weights: torch.Tensor           # (out, in), int8; in is padded to a multiple of KERNEL_STEP
    scales: torch.Tensor            # (out,), bfloat16
    bias: np.ndarray | None         # (out,)

    @classmethod
    def of(cls, rows):
        """rows: what _rows returns"""
        matrix = rows[:-1].T
        scales = (matrix.abs().amax(1) / 127).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
        weights = (matrix / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        return cls(F.pad(weights, (0, -weights.shape[1] % KERNEL_STEP)).contiguous(), scales, _bias(rows))

    def __call__(self, x, apart=False):
        """x: (B, in) -> (B, out); apart: each row by a product of its own"""
        x = torch.from_numpy(x).bfloat16()
        if x.shape[1] < self.weights.shape[1]:
            x = F.pad(x, (0, self.weights.shape[1] - x.shape[1]))
        parts = [torch._weight_int8pack_mm(part, self.weights, self.scales) for part in x.split(1 if apart else len(x))]
        y = torch.cat(parts).float().numpy()
        if self.bias is not None:
            y += self.bias
        return y


LINEAR = {"float32": Linear, "int8": Int8Linear}        # the choices of GenerationParams.weight_precision


@dataclass(frozen=True)
class HeadsNorm:
    """The norm of each head of queries and keys (Henry et al., 2020), with attention's division by the root of D."""
    gain: np.ndarray                # (H + G, D)
    bias: np.ndarray | None         # the same
    eps: float                      # added to the sum of D squares

    @classmethod
    def of(cls, query_norm, key_norm, H, G):
        """Fold Model.py's norms, which divide by the root of a mean: the root of a sum is root of D times as large."""
        D = len(query_norm.weight)
        gain = torch.cat((query_norm.weight.expand(H, D), (key_norm.weight * D ** 0.5).expand(G, D))).numpy()
        bias = None
        if getattr(query_norm, "bias", None) is not None:
            bias = torch.cat(((query_norm.bias * D ** -0.5).expand(H, D), key_norm.bias.expand(G, D))).numpy()
        return cls(gain, bias, _eps(query_norm))

    def largest_score(self, H):
        """Return an upper bound for the product of a query and a key.

        A unit vector times a gain is no longer than the largest gain, and rotation keeps lengths.
        """
        lengths = np.abs(self.gain).max(-1) + (0 if self.bias is None else np.linalg.norm(self.bias, axis=-1))
        return lengths[:H].max() * lengths[H:].max()

    def __call__(self, heads):
        """heads: (B, H + G, D) -> the same shape"""
        heads = unit(heads, self.eps)
        heads *= self.gain
        if self.bias is not None:
            heads += self.bias
        return heads


def swiglu(x):
    """x: (B, 2 * hidden), half the gate, and up -> silu(gate) * up, (B, hidden) (Shazeer, 2020)"""
    half, up = x[:, :x.shape[1] // 2], x[:, x.shape[1] // 2:]
    y = np.tanh(half)               # silu(x) = x / (1 + exp(-x)) = x/2 (1 + tanh(x/2)), which cannot overflow
    y += 1
    y *= half
    y *= up
    return y


def relu(x):
    """x: (B, hidden) -> its positive part, in place"""
    return np.maximum(x, 0, out=x)


def relu2(x):
    """x: (B, hidden) -> the square of its positive part (So et al., 2021), in place"""
    return np.square(relu(x), out=x)


def gelu(x):
    """x: (B, hidden) -> GELU by Hendrycks and Gimpel's (2016) formula with tanh"""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


ACTIVATIONS = {"swiglu": swiglu, "relu": relu, "relu2": relu2, "gelu": gelu}


# --- Weights to be folded: (in, out), with the bias as the last row, so that both are changed together ---

def _rows(layers, norm=None):
    """Return nn.Linear layers with the same input side by side, gain and bias of the norm before them folded in.

    -> (in + 1, out)
    """
    matrix = torch.cat([layer.weight for layer in layers]).T
    biases = [layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers]
    bias = torch.cat(biases)
    if norm is not None:
        bias = bias if getattr(norm, "bias", None) is None else bias + norm.bias @ matrix
        matrix = matrix * (norm.weight * len(norm.weight) ** 0.5)[:, None]
    return torch.cat((matrix, bias[None]))


def _bias(rows):
    return rows[-1].numpy() if rows[-1].any() else None


def _eps(norm):
    """Return a norm's epsilon for a sum of squares instead of their mean."""
    return norm.eps * len(norm.weight)


def _centered(rows):
    return rows - rows.mean(-1, keepdim=True)


def _unchanged(rows):
    return rows


def _rotation(positions, head_len):
    """Return the factors of both halves of a head, and of the halves exchanged (Su et al., 2021).

    -> cosines: (block_size, 1, 1, D/2), sines: (block_size, 1, 2, D/2)
    """
    cos, sin = (part[:, None, None, :head_len // 2].numpy() for part in (positions.cos, positions.sin))
    return cos, np.concatenate((-sin, sin), axis=2)
