"""A step's number to its batch: windows of the training text, a function of (seed, step) alone, so that a resumed run sees the same."""

import numpy as np


def batch_at(tokens, step, *, batch_size, block_size, seed, resegment=None):
    """Windows at random places of the text, and the same one token later.

    tokens: (total,) integers, more than block_size of them; resegment(windows, random): the same texts in other tokens, for BPE-dropout
    -> inputs, targets: (batch, time) int64 each
    """
    random = np.random.default_rng((seed, step))
    starts = random.integers(len(tokens) - block_size, size=batch_size)
    windows = tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)          # (B, T + 1)
    if resegment:       # mostly into more tokens; a window that was cut inside a word may become shorter, and stays as it is
        for window, other in zip(windows, resegment(windows, random)):
            window[:] = other[:block_size + 1] if len(other) > block_size else window
    return windows[:, :-1], windows[:, 1:]


def fitting_block_size(block_size, train_tokens):
    """The context a text is long enough for: at least eight different windows' worth of it, in powers of two where it must shrink.
    >>> fitting_block_size(256, 1000)
    64
    """
    if train_tokens >= 8 * block_size:
        return block_size
    return 1 << max(1, (train_tokens // 8).bit_length() - 1)
