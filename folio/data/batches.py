"""Map a step's number to its batch, as a function of (seed, step) alone, so that a resumed run sees the same batches.

The field `batches` chooses where the sequences of a batch start in the training text:
- random: anywhere, each start drawn independently
- shuffled: at every position once an epoch, in an order that differs between epochs
- consecutive: where those of the step before ended. The text is cut into batch_size parts of the same length, read in
  parallel; a step takes the next sequence of each, and after the last one all start again.
"""

from dataclasses import dataclass, fields
from math import prod
from typing import Any

import numpy as np

from folio.base.errors import FolioError

IGNORED = -100          # a target with this value is not learned from: torch's default ignore_index
# Rounds of mixing. Four are enough for no simple test to tell an order from chance (Luby and Rackoff, 1988); eight
# serve very few positions too.
ROUNDS = 8


@dataclass(frozen=True)
class Batch:
    """Token sequences and what to predict after each token: NumPy arrays or tensors.

    A subclass may have more arrays as fields, with a row for each row of these, of which the first size is the batch.
    """
    inputs: Any         # (batch, time) int64; (batch, sequences, time) where several sequences belong together
    targets: Any        # of the same shape, int64; IGNORED where nothing is to be learned

    def __len__(self):
        return len(self.inputs)

    @property
    def arrays(self):
        """Return all arrays, in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def row_tokens(self):
        """Return the number of tokens in a row."""
        return prod(self.inputs.shape[1:])

    def mapped(self, function):
        """Return a Batch with function(array) in place of each array."""
        return type(self)(*map(function, self.arrays))

    def rows(self, rows):
        """Return the Batch of some of the rows. rows: a slice"""
        return self.mapped(lambda array: array[rows])

    @property
    def counted_targets(self):
        """Return the targets that are learned from: (any,)."""
        return self.targets[self.targets != IGNORED]


def batch_at(tokens, step, *, batch_size, block_size, seed, resegment=None, batches="random"):
    """Return the Batch of a step: sequences of the text, and the same one token later.

    tokens: (total,) integers, more than block_size of them; resegment(windows, random) returns the same texts in other
    tokens, for BPE-dropout; batches: how the starts are chosen. Arrays in the Batch are (batch_size, block_size).
    """
    random = np.random.default_rng((seed, step))
    starts = STARTS[batches](len(tokens), step, batch_size, block_size, seed, random)
    windows = tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)          # (B, T + 1)
    if resegment:
        # Mostly into more tokens. A window that was cut inside a word may become shorter, and stays as it is.
        for window, resegmented in zip(windows, resegment(windows, random)):
            window[:] = resegmented[:block_size + 1] if len(resegmented) > block_size else window
    return Batch(windows[:, :-1], windows[:, 1:])


# --- Where sequences start: (total, step, batch_size, block_size, seed, random) -> (batch,) ---

def _random(total, step, batch_size, block_size, seed, random):
    return random.integers(total - block_size, size=batch_size)


def _shuffled(total, step, batch_size, block_size, seed, random):
    positions = total - block_size
    # A batch may contain the end of one epoch and the start of the next.
    epochs, indices = np.divmod(step * batch_size + np.arange(batch_size), positions)
    return np.concatenate([permuted(indices[epochs == epoch], positions, (seed, epoch))
                           for epoch in range(epochs[0], epochs[-1] + 1)])


def _consecutive(total, step, batch_size, block_size, seed, random):
    windows = windows_per_stream(total, batch_size, block_size)
    epoch, window = divmod(step, windows)
    stream_len = windows * block_size
    # Tokens that are too few for one more window each: different ones in every epoch, before and after the streams.
    left_over = total - 1 - batch_size * stream_len
    before = np.random.default_rng((seed, epoch)).integers(left_over + 1)
    return before + stream_len * np.arange(batch_size) + block_size * window


STARTS = {"random": _random, "shuffled": _shuffled, "consecutive": _consecutive}


def windows_per_stream(total, batch_size, block_size):
    """Return the number of consecutive windows in each of batch_size streams.

    Raises FolioError where the text has not one window for each.
    """
    windows = (total - 1) // batch_size // block_size
    if not windows:
        raise FolioError(f"batches=consecutive needs batch_size={batch_size} windows of block_size={block_size} in "
                         f"parallel, and the text has only {total:,} tokens to train on: "
                         f"take batch_size={max(1, (total - 1) // block_size)}.")
    return windows


def steps_per_epoch(total, *, batch_size, block_size, batches):
    """Return the steps (a float) that read the text once, or, with batches=shuffled, every window of it once.

    >>> steps_per_epoch(1001, batch_size=10, block_size=20, batches="random")
    5.0
    >>> steps_per_epoch(1020, batch_size=10, block_size=20, batches="shuffled")
    100.0
    """
    if batches == "consecutive":
        return float(windows_per_stream(total, batch_size, block_size))
    return (total - block_size if batches == "shuffled" else (total - 1) / block_size) / batch_size


def permuted(numbers, total, key):
    """Return the images of `numbers` under a random permutation of range(total) that is a function of `key`.

    Only these images are computed, whatever the total. The halves of a number's bits are mixed with each other in turn
    (a Feistel network; Luby and Rackoff, 1988), repeatedly until the result is below the total (cycle walking; Black
    and Rogaway, 2002): at most four times on average.

    numbers: (any,) integers below the total -> the same shape
    >>> sorted(permuted(np.arange(5), 5, key=(1, 0)).tolist())
    [0, 1, 2, 3, 4]
    """
    bits = np.uint64((total - 1).bit_length() + 1 >> 1)         # of a half
    mask = np.uint64((1 << int(bits)) - 1)
    round_keys = np.random.default_rng(key).integers(1 << 63, size=ROUNDS, dtype=np.uint64)
    result = np.empty(len(numbers), np.int64)
    pending, values = np.arange(len(numbers)), numbers.astype(np.uint64)
    while len(pending):
        left, right = values >> bits, values & mask
        for round_key in round_keys:
            left, right = right, left ^ _mixed(right ^ round_key) & mask
        values = left << bits | right
        result[pending] = values
        outside = values >= total
        pending, values = pending[outside], values[outside]
    return result


def _mixed(numbers):
    """Return 64 bits that each depend on every bit of the number (the end of SplitMix64; Steele et al., 2014)."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)


def parts_of_a_sequence(block_size):
    """Return into how many parts a sequence is cut during the length warm-up: 4, or 1 where parts would be too short.

    >>> parts_of_a_sequence(256), parts_of_a_sequence(32)
    (4, 1)
    """
    return 4 if block_size >= 64 and block_size % 4 == 0 else 1


def fitting_block_size(block_size, train_tokens):
    """Return the largest block_size that the text is long enough for: at least eight windows of it.

    A block_size that must shrink becomes a power of two.
    >>> fitting_block_size(256, 1000)
    64
    """
    if train_tokens >= 8 * block_size:
        return block_size
    return 1 << max(1, (train_tokens // 8).bit_length() - 1)
