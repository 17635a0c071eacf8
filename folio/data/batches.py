"""A step's number to its batch: windows of the training text, a function of (seed, step) alone, so that a resumed run sees the same.

Where its windows begin is one of
- random: anywhere, each drawn by itself
- shuffled: at every place once an epoch, in an order that is another one each epoch
- consecutive: where those of the step before ended. The text is cut into batch_size streams of the same length; a step takes the next window of each,
  and after the last one all begin anew.
"""

import numpy as np

from folio.base.errors import FolioError

ROUNDS = 8              # of mixing; four are enough for no simple test to tell an order from chance (Luby and Rackoff, 1988), for very few places too


def batch_at(tokens, step, *, batch_size, block_size, seed, resegment=None, batches="random"):
    """Windows of the text, and the same one token later.

    tokens: (total,) integers, more than block_size of them; resegment(windows, random): the same texts in other tokens, for BPE-dropout;
    batches: how windows are chosen -> inputs, targets: (batch, time) int64 each
    """
    random = np.random.default_rng((seed, step))
    starts = STARTS[batches](len(tokens), step, batch_size, block_size, seed, random)
    windows = tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)          # (B, T + 1)
    if resegment:       # mostly into more tokens; a window that was cut inside a word may become shorter, and stays as it is
        for window, other in zip(windows, resegment(windows, random)):
            window[:] = other[:block_size + 1] if len(other) > block_size else window
    return windows[:, :-1], windows[:, 1:]


# --- Where windows begin: (total, step, batch_size, block_size, seed, random) -> (batch,) ---

def _random(total, step, batch_size, block_size, seed, random):
    return random.integers(total - block_size, size=batch_size)


def _shuffled(total, step, batch_size, block_size, seed, random):
    places = total - block_size
    epochs, turns = np.divmod(step * batch_size + np.arange(batch_size), places)            # a batch may hold the end of one epoch and the next one's start
    return np.concatenate([permuted(turns[epochs == epoch], places, (seed, epoch)) for epoch in range(epochs[0], epochs[-1] + 1)])


def _consecutive(total, step, batch_size, block_size, seed, random):
    windows = windows_per_stream(total, batch_size, block_size)
    epoch, window = divmod(step, windows)
    stream_len = windows * block_size
    left_over = total - 1 - batch_size * stream_len         # too few for another window of each: other ones in every epoch, before and after the streams
    before = np.random.default_rng((seed, epoch)).integers(left_over + 1)
    return before + stream_len * np.arange(batch_size) + block_size * window


STARTS = {"random": _random, "shuffled": _shuffled, "consecutive": _consecutive}


def windows_per_stream(total, batch_size, block_size):
    """How many windows follow each other in a stream of consecutive batches before it begins anew. Raises FolioError where there is not one for each."""
    windows = (total - 1) // batch_size // block_size
    if not windows:
        raise FolioError(f"batches=consecutive wants batch_size={batch_size} windows of block_size={block_size} side by side, and the text has only {total:,} "
                         f"tokens to train on: take batch_size={max(1, (total - 1) // block_size)}.")
    return windows


def steps_per_epoch(total, *, batch_size, block_size, batches):
    """Steps (a number with a fraction) in which the text is read once, or where windows are shuffled each of them.
    >>> steps_per_epoch(1001, batch_size=10, block_size=20, batches="random"), steps_per_epoch(1020, batch_size=10, block_size=20, batches="shuffled")
    (5.0, 100.0)
    """
    if batches == "consecutive":
        return float(windows_per_stream(total, batch_size, block_size))
    return (total - block_size if batches == "shuffled" else (total - 1) / block_size) / batch_size


def permuted(numbers, total, key):
    """Where a random order of range(total), which is a function of `key`, has some numbers; computed for them alone, whatever the total.

    The halves of a number's bits are mixed with each other in turn (a Feistel network; Luby and Rackoff, 1988), again and again until it is below the
    total (Black and Rogaway, 2002): four times on average, or fewer.

    numbers: (any,) integers below the total -> the same shape
    >>> sorted(permuted(np.arange(5), 5, key=(1, 0)).tolist())
    [0, 1, 2, 3, 4]
    """
    bits = np.uint64((total - 1).bit_length() + 1 >> 1)         # of a half
    mask = np.uint64((1 << int(bits)) - 1)
    keys = np.random.default_rng(key).integers(1 << 63, size=ROUNDS, dtype=np.uint64)
    result = np.empty(len(numbers), np.int64)
    walking, places = np.arange(len(numbers)), numbers.astype(np.uint64)
    while len(walking):
        left, right = places >> bits, places & mask
        for each in keys:
            left, right = right, left ^ _mixed(right ^ each) & mask
        places = left << bits | right
        result[walking] = places
        outside = places >= total
        walking, places = walking[outside], places[outside]
    return result


def _mixed(numbers):
    """64 bits, each of which depends on every bit of the number (the end of SplitMix64; Steele et al., 2014)."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)


def parts_of_a_sequence(block_size):
    """In how many parts a sequence is cut while the network warms up to its length: four, or one where they would be too short to say much.
    >>> parts_of_a_sequence(256), parts_of_a_sequence(32)
    (4, 1)
    """
    return 4 if block_size >= 64 and block_size % 4 == 0 else 1


def fitting_block_size(block_size, train_tokens):
    """The context a text is long enough for: at least eight different windows' worth of it, in powers of two where it must shrink.
    >>> fitting_block_size(256, 1000)
    64
    """
    if train_tokens >= 8 * block_size:
        return block_size
    return 1 << max(1, (train_tokens // 8).bit_length() - 1)
