"""How well a network predicts a text: bits per byte, which no choice of tokenizer can flatter.

The cross-entropy of all tokens is summed and divided by the bytes they stand for. Separators between documents cost nats, but
count no bytes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


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


@torch.inference_mode()
def evaluate(net, tokens, text_bytes, *, block_size, batch_size, device):
    """Predict every token but the first, in windows of block_size that do not overlap. -> Score

    net: tokens (batch, time) -> logits; tokens: (total,) integers, of which the first only serves to predict the second;
    text_bytes: bytes of text that tokens[1:] stand for.
    """
    total = len(tokens) - 1
    nats = torch.zeros((), dtype=torch.float64)
    for start in range(0, total, batch_size * block_size):
        stretch = np.asarray(tokens[start:start + batch_size * block_size + 1], dtype=np.int64)
        rows = -(-(len(stretch) - 1) // block_size)
        padded = np.zeros(rows * block_size + 1, dtype=np.int64)        # the last window is filled up; what follows a token cannot change it
        padded[:len(stretch)] = stretch
        inputs, targets = (torch.from_numpy(part.reshape(rows, block_size)).to(device) for part in (padded[:-1], padded[1:]))
        losses = F.cross_entropy(net(inputs).float().flatten(0, 1), targets.flatten(), reduction="none")
        nats += losses[:len(stretch) - 1].cpu().double().sum()
    return Score(nats.item(), total, text_bytes)
