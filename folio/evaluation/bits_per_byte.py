"""How well a network predicts a text: bits per byte, which no choice of tokenizer can flatter.

The cross-entropy of all tokens is summed and divided by the bytes they stand for. Separators between documents cost nats, but
count no bytes. What a token costs depends on how much of the text before it the network sees, so a figure belongs to a protocol:

- windows that do not overlap: each token is predicted once, the first of a window from a single token, the last from block_size. The
  quickest, and what training reports.
- a sliding window (Baevski and Auli, 2019): windows begin every `stride` tokens, and in each only the tokens that no earlier one has
  reached are counted, so that all but the first window's are predicted from more than block_size - stride. Lower, and
  block_size / stride times the work.
- random windows: the mean loss over windows that begin anywhere, as nanoGPT's estimate_loss and most figures that are passed on have
  it. What they say of the text depends on the seed, and some of it counts several times or never.

A window is as long as the network's context. Where that has no end, as an LSTM's, a window has UNENDING tokens, however few the network learned from at
once: within it the state is carried on, as it is when the network writes, and what a beginning costs hardly counts.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

UNENDING = 4096             # the logits of a window with a vocabulary of 1,024 take 16 MB
LOGITS = 1 << 22            # at once, where nothing else decides: 16 MB, whatever the vocabulary; what is larger than 32 MB glibc fetches from the system each time
_NOT_COUNTED = -100         # cross_entropy's ignore_index: costs nothing


@dataclass(frozen=True)
class Score:
    """Summed cross-entropy (nats) of some tokens, and the bytes of text that they stand for."""
    nats: float
    tokens: int
    bytes: int

    @property
    def nats_per_byte(self):
        return self.nats / self.bytes

    @property
    def bits_per_byte(self):
        return self.nats / self.bytes / math.log(2)


def window_len(net):
    """The tokens of a window in which a network is measured."""
    return net.context or UNENDING


def windows_at_once(net):
    """How many of them are measured together without taking much memory."""
    return max(1, LOGITS // (window_len(net) * net.params.vocab_size))


@torch.inference_mode()
def evaluate(net, tokens, text_bytes, *, block_size, batch_size, device, stride=None):
    """Predict every token but the first, once each. -> Score

    net: tokens (batch, time) -> logits; tokens: (total,) integers, of which the first only serves to predict the second;
    text_bytes: bytes of text that tokens[1:] stand for; stride: tokens from one window's beginning to the next one's, at most block_size
    (default: block_size, so that they do not overlap).
    """
    nats = torch.zeros((), dtype=torch.float64)
    for logits, targets in _windows(net, tokens, *_sliding(len(tokens), block_size, stride), block_size, batch_size, device):
        nats += _losses(logits, targets).cpu().double().sum()
    return Score(nats.item(), len(tokens) - 1, text_bytes)


def evaluate_random_windows(net, tokens, token_sizes, *, windows, seed, block_size, batch_size, device):
    """Predict the tokens of so many windows of block_size, or less where the text has less, that begin anywhere. -> Score

    The others are as in `evaluate_windows`.
    """
    block_size = min(block_size, len(tokens) - 1)
    starts = np.random.default_rng(seed).integers(len(tokens) - block_size, size=windows)
    return evaluate_windows(net, tokens, token_sizes, starts,
                            block_size=block_size, batch_size=batch_size, device=device)


def spread_windows(total, windows, block_size):
    """Return the starts of windows of block_size, evenly spread over `total` tokens: (windows,).
    >>> spread_windows(total=101, windows=3, block_size=20)
    array([ 0, 40, 80])
    """
    return np.linspace(0, total - 1 - block_size, windows).astype(np.int64)


@torch.inference_mode()
def evaluate_windows(net, tokens, token_sizes, starts, *, block_size, batch_size, device):
    """Predict every token of some windows of block_size but the first of each. -> Score

    starts: (windows,) integers, at most len(tokens) - 1 - block_size; token_sizes: (vocabulary,) integers, the bytes
    that each token stands for (see `bytes_of_tokens`); the others as in `evaluate`.
    """
    nats, text_bytes = torch.zeros((), dtype=torch.float64), 0
    for logits, targets in _windows(net, tokens, starts, starts + 1, block_size, batch_size, device):
        nats += _losses(logits, targets).cpu().double().sum()
        text_bytes += token_sizes[targets.cpu().numpy()].sum().item()
    return Score(nats.item(), len(starts) * block_size, text_bytes)


@torch.inference_mode()
def predictions(net, tokens, *, block_size, batch_size, device, stride=None):
    """What `evaluate` sums up, token by token: yields, for some tokens at a time, in the order of the text,

    nats: (tokens,) float32, what each of them cost; right: (tokens,) bool, whether it was the likeliest one.
    """
    for logits, targets in _windows(net, tokens, *_sliding(len(tokens), block_size, stride), block_size, batch_size, device):
        counted = targets != _NOT_COUNTED
        yield _losses(logits, targets)[counted].cpu().numpy(), (logits.argmax(-1) == targets)[counted].cpu().numpy()


def bytes_of_tokens(tokenizer):
    """The bytes of text that each token of a vocabulary stands for: (vocabulary,) int64. A special token is no part of the text."""
    sizes = np.array([len(token) for token in tokenizer.token_bytes], dtype=np.int64)
    sizes[list(tokenizer.special_ids.values())] = 0
    return sizes


def _sliding(total, block_size, stride=None):
    """-> where windows begin, and from where on a window's tokens are counted; both (windows,)"""
    stride = stride or block_size
    assert 1 <= stride <= block_size, "a longer stride would leave out tokens"
    starts = np.arange(0, max(1, total - 1 - block_size + stride), stride)
    counted_from = starts + 1 + block_size - stride
    counted_from[0] = 1
    return starts, counted_from


def _windows(net, tokens, starts, counted_from, block_size, batch_size, device):
    """Yield logits (batch, time, vocabulary) and targets (batch, time) of a batch of windows at a time.

    Beyond the end of the text a window is filled up with its last token: what follows a token cannot change it.
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
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_NOT_COUNTED, reduction="none").view_as(targets)
