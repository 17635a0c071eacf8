"""How well a network predicts a text, in bits per byte: comparable between tokenizers.

The cross-entropy of all tokens is summed and divided by the bytes of text in them. Separators between documents cost
nats, but count no bytes. The cost of a token depends on the context that the network sees, so a figure belongs to a
protocol:

- windows that do not overlap: each token is predicted once, the first of a window from one token, the last from
  block_size. The fastest protocol, and the one that training reports.
- a sliding window (Baevski and Auli, 2019): windows start every `stride` tokens, and in each only the tokens after the
  end of the previous one count. Beyond the first window, every token is predicted from more than block_size - stride
  tokens. Figures are lower, and the work is block_size / stride times as much.
- random windows: the mean loss over windows at random positions, as in nanoGPT's estimate_loss and most published
  figures. The result depends on the seed; some tokens count several times, others never.

A window is as long as the network's context. A recurrent network has no context limit; it is measured in windows of
UNENDING tokens, however long its sequences in training were. Within a window the state is carried on, as in generation,
so the start of a window hardly affects the figure.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from folio.base.errors import FolioError

UNENDING = 4096             # the logits of a window with a vocabulary of 1,024 take 16 MB
# Logits per forward pass where nothing else decides: 16 MB, whatever the vocabulary. For blocks over 32 MB glibc asks
# the system for memory each time.
LOGITS = 1 << 22
_NOT_COUNTED = -100         # ignore_index of cross_entropy


@dataclass(frozen=True)
class Score:
    """Summed cross-entropy of tokens in nats, and the bytes of text in them."""
    nats: float
    tokens: int
    bytes: int

    @property
    def nats_per_byte(self):
        return self.nats / self.bytes

    @property
    def bits_per_byte(self):
        return self.nats / self.bytes / math.log(2)

    def in_words(self, unit):
        """Return the figures of a validation for a line of the terminal."""
        return f"val {self.nats_per_byte:.3f} nats/{unit} ({self.bits_per_byte:.3f} bits)"

    def in_report(self):
        """Return the fields of a validation in a report of the log."""
        return {"val_nats_per_byte": self.nats_per_byte, "val_bpb": self.bits_per_byte}


def window_len(net):
    """Return the number of tokens in a window in which a network is measured."""
    return net.context or UNENDING


def windows_at_once(net):
    """Return how many such windows fit into one forward pass of LOGITS logits."""
    return max(1, LOGITS // (window_len(net) * net.params.vocab_size))


@torch.inference_mode()
def evaluate(net, tokens, text_bytes, *, block_size, batch_size, device, stride=None):
    """Predict every token but the first, once each. -> Score

    net: tokens (batch, time) -> logits; tokens: (total,) integers, the first of which is only context;
    text_bytes: bytes of text in tokens[1:]; stride: tokens from the start of one window to the next, at most block_size
    (default: block_size, so that windows do not overlap).
    """
    nats = torch.zeros((), dtype=torch.float64)
    starts, counted_from = _sliding(len(tokens), block_size, stride)
    for logits, targets in _windows(net, tokens, starts, counted_from, block_size, batch_size, device):
        nats += _losses(logits, targets).cpu().double().sum()
    return Score(nats.item(), len(tokens) - 1, text_bytes)


def evaluate_random_windows(net, tokens, token_sizes, *, windows, seed, block_size, batch_size, device):
    """Predict the tokens of windows at random positions. -> Score

    windows: number of windows; they have block_size tokens, or all tokens of a shorter text. The other parameters are
    those of `evaluate_windows`.
    """
    block_size = min(block_size, len(tokens) - 1)
    starts = np.random.default_rng(seed).integers(len(tokens) - block_size, size=windows)
    return evaluate_windows(net, tokens, token_sizes, starts,
                            block_size=block_size, batch_size=batch_size, device=device)


def spread_windows(total, windows, block_size):
    """Return the starts of windows of block_size, spaced evenly over `total` tokens: (windows,).
    >>> spread_windows(total=101, windows=3, block_size=20)
    array([ 0, 40, 80])
    """
    return np.linspace(0, total - 1 - block_size, windows).astype(np.int64)


@torch.inference_mode()
def evaluate_windows(net, tokens, token_sizes, starts, *, block_size, batch_size, device):
    """Predict the block_size tokens after the first one of each window. -> Score

    starts: (windows,) integers, at most len(tokens) - 1 - block_size; token_sizes: (vocabulary,) integers, the bytes in
    each token (see `bytes_of_tokens`). The other parameters are those of `evaluate`.
    """
    nats, text_bytes = torch.zeros((), dtype=torch.float64), 0
    for logits, targets in _windows(net, tokens, starts, starts + 1, block_size, batch_size, device):
        nats += _losses(logits, targets).cpu().double().sum()
        text_bytes += token_sizes[targets.cpu().numpy()].sum().item()
    return Score(nats.item(), len(starts) * block_size, text_bytes)


@torch.inference_mode()
def predictions(net, tokens, *, block_size, batch_size, device, stride=None):
    """Yield (nats, correct) of the tokens that `evaluate` sums up, in the order of the text, batch by batch.

    nats: (tokens,) float32, the cost of each token; correct: (tokens,) bool, whether it was the most likely one.
    """
    starts, counted_from = _sliding(len(tokens), block_size, stride)
    for logits, targets in _windows(net, tokens, starts, counted_from, block_size, batch_size, device):
        counted = targets != _NOT_COUNTED
        yield _losses(logits, targets)[counted].cpu().numpy(), (logits.argmax(-1) == targets)[counted].cpu().numpy()


@torch.inference_mode()
def counted_logits(net, tokens, *, block_size, batch_size, device, stride=None):
    """Yield the logits and targets behind `predictions`, batch by batch: (tokens, vocabulary) float32, (tokens,)."""
    starts, counted_from = _sliding(len(tokens), block_size, stride)
    for logits, targets in _windows(net, tokens, starts, counted_from, block_size, batch_size, device):
        counted = targets != _NOT_COUNTED
        yield logits[counted], targets[counted]


def check_finite(values):
    """Raise FolioError where costs, an array, are not finite."""
    if not np.isfinite(values).all():
        raise FolioError("The model's output is not finite: its weights are unusable. "
                         "Train it again with a lower learning rate.")


def bytes_of_tokens(tokenizer):
    """Return the bytes of text in each token of the vocabulary: (vocabulary,) int64. A special token has none."""
    sizes = np.array([len(token) for token in tokenizer.token_bytes], dtype=np.int64)
    sizes[list(tokenizer.special_ids.values())] = 0
    return sizes


def _sliding(total, block_size, stride=None):
    """Return the starts of the windows, and the position from which each counts its tokens; both (windows,)."""
    stride = stride or block_size
    assert 1 <= stride <= block_size, "a longer stride would skip tokens"
    starts = np.arange(0, max(1, total - 1 - block_size + stride), stride)
    counted_from = starts + 1 + block_size - stride
    counted_from[0] = 1
    return starts, counted_from


def _windows(net, tokens, starts, counted_from, block_size, batch_size, device):
    """Yield logits (batch, time, vocabulary) and targets (batch, time), a batch of windows at a time.

    A window that reaches beyond the end of the text is padded with its last token; attention is causal, so the padding
    changes no logits before it.
    """
    for first in range(0, len(starts), batch_size):
        rows = slice(first, first + batch_size)
        places = starts[rows, None] + np.arange(block_size + 1)                         # (B, T + 1)
        window = np.take(tokens, places, mode="clip").astype(np.int64)
        counted = (places >= counted_from[rows, None]) & (places < len(tokens))
        inputs, targets = window[:, :-1], np.where(counted, window, _NOT_COUNTED)[:, 1:]
        yield net(torch.tensor(inputs, device=device)).float(), torch.tensor(targets, device=device)


def _losses(logits, targets):
    """logits: (batch, time, vocabulary), targets: (batch, time) -> cross-entropy in nats: (batch, time)"""
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_NOT_COUNTED, reduction="none")
    return losses.view_as(targets)
