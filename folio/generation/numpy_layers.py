"""The layers of the NumpyTransformer (numpy_decoder.py): products, norms, activations, and the folding of weights.

Letters: B rows, D channels per head, H heads, G key/value heads.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

# torch's int8 kernel reads rows in steps of this many (torch 2.13 on AVX-512: of 16), also beyond the end of a row.
KERNEL_STEP = 32


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
        """rows: what rows_of returns"""
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
        """rows: what rows_of returns"""
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
        return cls(gain, bias, eps_of(query_norm))

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

def rows_of(layers, norm=None):
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


def eps_of(norm):
    """Return a norm's epsilon for a sum of squares instead of their mean."""
    return norm.eps * len(norm.weight)


def centered(rows):
    """rows: (..., length) -> the same without the mean of each: what LayerNorm subtracts"""
    return rows - rows.mean(-1, keepdim=True)


def unchanged(rows):
    """Return the rows: RMSNorm subtracts nothing."""
    return rows


def rotation_of(positions, head_len):
    """Return the factors of both halves of a head, and of the halves exchanged (Su et al., 2021).

    -> cosines: (block_size, 1, 1, D/2), sines: (block_size, 1, 2, D/2)
    """
    cos, sin = (part[:, None, None, :head_len // 2].numpy() for part in (positions.cos, positions.sin))
    return cos, np.concatenate((-sin, sin), axis=2)
