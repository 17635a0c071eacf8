"""One token of one stream through the transformer, in plain NumPy: what Model.py computes, faster than torch where networks are small.

With a single row a small network spends its time on calls (torch: 5 us each, NumPy: less than 1) and on fetching weights. So what is only a product with
something constant is multiplied into the weights beforehand, and matrices that read the same row are one. What remains of a network is

    x = embedding[token]                                                    (+ positions[position], where those are learned)
    in each block:  query, key, value = unit(x) @ W                         unit(x) = x / the root of its mean square
                    query, key = turned(unit(query) * gain), turned(unit(key) * gain)
                    x += softmax(query @ keys) @ values @ W
                    x += activation(unit(x) @ W) @ W
    logits = unit(x) @ W                                                    each W with a bias, where the model has one

- The gain and bias of a norm go into the matrix that follows it; those of queries and keys stay, for the turn comes between.
- LayerNorm is the same norm of a row that has been centred, and centring goes into the matrices that make the row: the embedding and the end of every
  branch for x (Ashkboos et al., 2024), the query and key matrices, head by head, for queries and keys.
- The root of D by which attention divides goes into what makes the queries.

Keys and values stay in the memory of the network's own state. So either goes on where the other stopped, and torch does what it is good at: pieces of
several tokens, as a prompt or a window that restarts, in one call, and several streams at once. No memory is set aside for what lies between: NumPy finds
a few kilobytes again as fast, and so streams can share the matrices.

Letters: C channels (emb_len), H heads, G key/value heads, D channels a head, S positions seen, V vocabulary.
"""

import math
import weakref
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from Model import State, Transformer

PARAMETERS = 16_000_000     # 64 MB, for which memory takes 3 ms a token: beside that torch's calls, 1 ms, count no more than its threads, which share the work
_FOLDED = weakref.WeakKeyDictionary()       # network -> (the state of its weights, its NumpyTransformer)


def in_numpy(net):
    """The NumpyTransformer of a network as its weights are now, or None where single tokens are torch's as well. This is the one rule:
    NumPy computes a Transformer of at most PARAMETERS, in float32, on the CPU, and not in training.

    It is kept for the next time where the weights ask for no gradient. (A fused optimizer changes weights without a trace.)
    """
    weights = list(net.parameters())
    if not (isinstance(net, Transformer) and not net.training and sum(weight.numel() for weight in weights) <= PARAMETERS
            and all(weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.is_inference() for weight in weights)):
        return None
    if any(weight.requires_grad for weight in weights):
        return NumpyTransformer(net)
    version = [(weight.data_ptr(), weight._version) for weight in weights]          # torch counts what is done to a tensor in place
    if net not in _FOLDED or _FOLDED[net][0] != version:
        _FOLDED[net] = version, NumpyTransformer(net)
    return _FOLDED[net][1]


class NumpyTransformer:
    """A Transformer that goes on by one token of one stream. It changes nothing of itself: several streams may use it at once."""

    @torch.no_grad()
    def __init__(self, net):
        """net: a Transformer in float32, on the CPU; its weights are taken as they are now."""
        to_stream = _centred if isinstance(net.norm, nn.LayerNorm) else _unchanged
        turn = _turn(net.positions, net.params.head_len) if net.params.positions == "rotary" else None
        self.block_size = net.params.block_size
        self.embedding = to_stream(net.embedding.weight.detach()).numpy()                                                           # (V, C)
        self.positions = to_stream(net.positions.table.weight.detach()).numpy() if net.params.positions == "learned" else None      # (block_size, C)
        self.blocks = [Block(block, net.params, turn, to_stream) for block in net.blocks]
        self.head = Linear.of(_rows([net.head], net.norm))
        self.eps = net.norm.eps

    @np.errstate(all="ignore")          # what is not finite shows in the logits, for whoever reads them to say
    def continue_from(self, state, tokens):
        """Go on after the tokens that `state`, a Model.State of one stream, has seen; it is used up.

        tokens: (1, 1) -> logits: (1, 1, vocabulary), state; both tensors. Raises ValueError where the context is full.
        """
        position = state.length
        if position >= self.block_size:
            raise ValueError(f"{position + 1} tokens do not fit into a context of block_size={self.block_size}.")
        x = self.embedding[tokens.item()].copy()                                        # (C,)
        if self.positions is not None:
            x += self.positions[position]
        for block, cache in zip(self.blocks, state.caches):
            block.add_to(x, cache.keys.numpy()[0], cache.values.numpy()[0], position)
        return torch.from_numpy(self.head(unit(x, self.eps)))[None, None], State(position + 1, state.caches)


class Block:
    """The two branches of a block."""

    def __init__(self, block, params, turn, to_stream):
        """block: the Model.Block; turn: what _turn gives, or None; to_stream: what is done to all that is added to the stream of channels"""
        attention, mlp = block.attention, block.mlp
        self.num_heads, self.num_kv_heads, self.head_len = H, G, D = params.num_heads, params.num_kv_heads, params.head_len
        rows = _rows([attention.query, attention.key, attention.value], block.attention_norm)               # (C + 1, (H + 2G) * D)
        heads = rows[:, :(H + G) * D].unflatten(1, (H + G, D))                                              # a view: what is done to it is done to rows
        if isinstance(attention.query_norm, nn.LayerNorm):
            heads.copy_(_centred(heads))
        if params.query_key_norm:
            self.heads_norm = HeadsNorm.of(attention.query_norm, attention.key_norm, H, G)
        else:
            heads[:, :H] *= D ** -0.5
            self.heads_norm = None
        self.turn = turn
        self.query_key_value, self.attention_eps = Linear.of(rows), block.attention_norm.eps
        self.output = Linear.of(to_stream(_rows([attention.output])))
        self.up, self.mlp_eps = Linear.of(_rows([mlp.gate, mlp.up] if params.mlp == "swiglu" else [mlp.up], block.mlp_norm)), block.mlp_norm.eps
        self.activation = ACTIVATIONS[params.mlp]
        self.down = Linear.of(to_stream(_rows([mlp.down])))

    def add_to(self, x, keys, values, position):
        """Add to x, (C,), what the branches have worked out; keys, values: (G, block_size, D), which get those of this position."""
        x += self.output(self.attend(self.query_key_value(unit(x, self.attention_eps)), keys, values, position))
        x += self.down(self.activation(self.up(unit(x, self.mlp_eps))))

    def attend(self, row, keys, values, position):
        """row: query, key and value of this position, ((H + 2G) * D,) -> what its queries find, (H * D,)"""
        H, G, D = self.num_heads, self.num_kv_heads, self.head_len
        heads, values[:, position] = row[:(H + G) * D].reshape(H + G, D), row[(H + G) * D:].reshape(G, D)
        if self.heads_norm is not None:
            heads = self.heads_norm(heads)
        if self.turn is not None:
            cos, sin = self.turn
            halves = heads.reshape(H + G, 2, D // 2)
            heads = (halves * cos[position] + halves[:, ::-1] * sin[position]).reshape(H + G, D)
        keys[:, position] = heads[H:]
        weights = heads[:H].reshape(G, H // G, D) @ keys[:, :position + 1].transpose(0, 2, 1)               # (G, H/G, S)
        weights -= np.maximum.reduce(weights, axis=-1, keepdims=True)
        np.exp(weights, out=weights)
        mixed = weights @ values[:, :position + 1]                                                          # (G, H/G, D)
        mixed /= np.add.reduce(weights, axis=-1, keepdims=True)         # the softmax's division, of D numbers a head and not of S
        return mixed.reshape(H * D)


# --- What a block is composed of ---

def unit(x, eps):
    """x: (length,) -> x / the root of its mean square (Zhang and Sennrich, 2019)"""
    return x * (1 / math.sqrt(x.dot(x) / len(x) + eps))


@dataclass(frozen=True)
class Linear:
    """A row times a matrix, and a bias added where there is one."""
    matrix: np.ndarray              # (in, out): so a row is multiplied up to a fifth faster than by (out, in), as torch has it (OpenBLAS 0.3.31)
    bias: np.ndarray | None         # (out,)

    @classmethod
    def of(cls, rows):
        """rows: what _rows gives"""
        return cls(rows[:-1].numpy(), rows[-1].numpy() if rows[-1].any() else None)

    def __call__(self, x):
        """x: (in,) -> (out,)"""
        y = np.dot(x, self.matrix)
        if self.bias is not None:
            y += self.bias
        return y


@dataclass(frozen=True)
class HeadsNorm:
    """The norm of each head of queries and keys (Henry et al., 2020), with attention's division by the root of D in it."""
    gain: np.ndarray                # (H + G, D)
    bias: np.ndarray | None         # the same
    eps: float                      # added to the sum of D squares

    @classmethod
    def of(cls, query_norm, key_norm, H, G):
        """The norms are Model.py's, which divide by the root of a mean; here it is the root of a sum, which is root of D times as long."""
        D = len(query_norm.weight)
        gain = torch.cat((query_norm.weight.expand(H, D), (key_norm.weight * D ** 0.5).expand(G, D))).numpy()
        bias = None
        if getattr(query_norm, "bias", None) is not None:
            bias = torch.cat(((query_norm.bias * D ** -0.5).expand(H, D), key_norm.bias.expand(G, D))).numpy()
        return cls(gain, bias, query_norm.eps * D)

    def __call__(self, heads):
        """heads: (H + G, D) -> the same, in the same place"""
        lengths = np.vecdot(heads, heads)
        lengths += self.eps
        heads /= np.sqrt(lengths, out=lengths)[:, None]
        heads *= self.gain
        if self.bias is not None:
            heads += self.bias
        return heads


def swiglu(x):
    """x: (2 * hidden,), gate and up -> silu(gate) * up, (hidden,) (Shazeer, 2020)"""
    gate, up = x.reshape(2, -1)
    gate *= 0.5
    y = np.tanh(gate)               # silu(x) = x / (1 + exp(-x)) = x/2 (1 + tanh(x/2)), where nothing can overflow
    y += 1
    y *= gate
    y *= up
    return y


def relu(x):
    """x: (hidden,) -> the same in the same place, where negative 0"""
    return np.maximum(x, 0, out=x)


def relu2(x):
    """x: (hidden,) -> the square of what is positive (So et al., 2021), in the same place"""
    return np.square(relu(x), out=x)


def gelu(x):
    """x: (hidden,) -> the same by Hendrycks and Gimpel's (2016) formula with tanh"""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


ACTIVATIONS = {"swiglu": swiglu, "relu": relu, "relu2": relu2, "gelu": gelu}


# --- Weights on their way into a matrix: (in, out) and the bias as a last row, so that what is done to one is done to the other ---

def _rows(layers, norm=None):
    """Some nn.Linear that read the same, side by side, after the gain and bias of a norm: (in + 1, out)"""
    matrix = torch.cat([layer.weight for layer in layers]).T
    bias = torch.cat([layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers])
    if norm is not None:
        bias = bias if getattr(norm, "bias", None) is None else bias + norm.bias @ matrix
        matrix = matrix * norm.weight[:, None]
    return torch.cat((matrix, bias[None]))


def _centred(rows):
    return rows - rows.mean(-1, keepdim=True)


def _unchanged(rows):
    return rows


def _turn(positions, head_len):
    """Cosines and sines, (block_size, 2, D/2) each, by which the halves of a head and the same halves exchanged are multiplied (Su et al., 2021)."""
    cos, sin = (part.view(-1, 2, head_len // 2).numpy() for part in (positions.cos, positions.sin))
    return cos, sin * np.float32([[-1], [1]])
