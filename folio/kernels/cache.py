"""The KV cache of a transformer: the keys and values of every position so far, for sequences of different lengths.

A `State` has one `Cache` for each block. The rows of a cache are slots in memory: the first of them are in use, and the
others wait for sequences that join. A `Span` says where the tokens of one forward pass stand.

Letters: B sequences, T positions computed now, S positions seen, G key/value heads, D channels per head.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch


class Span(NamedTuple):
    """The positions of the T tokens of one forward pass."""
    indices: slice | torch.Tensor       # the same in all sequences; or those of each sequence, (B, T)
    end: int                            # one more than the last of them
    visible: torch.Tensor | None        # the mask for `attend`: (T, S) or (B, 1, T, S), or None for a causal one

    @classmethod
    def packed(cls, segments, dtype):
        """Return the positions of sequences that are packed into rows, each with positions of its own from 0 on.

        segments: (B, T) integers, the same within a sequence and other ones next to it; dtype: of the scores. The mask
        is block-diagonal and causal, in the form that is added to the scores.
        """
        time = torch.arange(segments.shape[1], device=segments.device)
        begins = segments != segments.roll(1, 1)
        begins[:, 0] = True
        starts = torch.where(begins, time, 0).cummax(1).values                          # (B, T)
        hidden = (time > time[:, None]) | (time < starts[..., None])                    # (B, T, T)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=segments.device).masked_fill_(hidden, -math.inf)
        return cls(time - starts, segments.shape[1], mask[:, None])

    @classmethod
    def of(cls, start, time):
        """Return `time` positions from `start` on in all sequences: start is 0, or time is 1."""
        return cls(slice(start, start + time), start + time, None)

    @classmethod
    def after(cls, lengths, time, device):
        """Return the next `time` positions of sequences that have seen `lengths` tokens (a list of integers)."""
        start, end = lengths[0], max(lengths) + time
        are_alike = all(length == start for length in lengths)
        if are_alike and (time == 1 or start == 0):
            return cls.of(start, time)
        seen, ahead = torch.arange(end, device=device), torch.arange(time, device=device)
        if are_alike:
            return cls(slice(start, end), end, seen <= start + ahead[:, None])          # (T, S)
        indices = torch.tensor(lengths, device=device)[:, None] + ahead                 # (B, T)
        return cls(indices, end, (seen <= indices[..., None])[:, None])


class Cache:
    """The keys and values of one block: computed once, read by every later position."""

    def __init__(self, keys, values, rows=None):
        """keys, values: (slots, G, block_size, D) each; rows: how many slots are in use (default: all)"""
        self._slots = keys, values
        self.keys, self.values = keys[:rows], values[:rows]

    @classmethod
    def empty(cls, shape, like):
        """Return a cache of zeros. shape: (slots, G, block_size, D); like: a tensor of the same type and device"""
        return cls(like.new_zeros(shape), like.new_zeros(shape))

    @cached_property
    def arrays(self):
        """The keys and values as NumPy arrays in the same memory; the tensors where NumPy cannot read them."""
        parts = self.keys, self.values
        return tuple(part.numpy() for part in parts) if self.keys.is_cpu and self.keys.dtype == torch.float32 else parts

    def extend(self, key, value, span):
        """Write key, value: (B, G, T, D), at the positions of `span` -> (B, G, S, D) of all positions so far"""
        for part, new in ((self.keys, key), (self.values, value)):
            if isinstance(span.indices, slice):
                part[:, :, span.indices] = new
            else:
                rows = torch.arange(len(part), device=part.device)[:, None]
                part[rows, :, span.indices] = new.transpose(1, 2)                       # (B, T, G, D)
        return self.keys[:, :, :span.end], self.values[:, :, :span.end]

    def select(self, rows, seen):
        """Return a Cache with copies of these rows (a list), up to position `seen`."""
        copy = Cache.empty((len(rows), *self.keys.shape[1:]), self.keys)
        for part, own in ((copy.keys, self.keys), (copy.values, self.values)):
            # own[rows, :, :seen] takes five times as long
            part[:, :, :seen] = own[:, :, :seen].index_select(0, self._indices(rows))
        return copy

    def put(self, rows, other, seen):
        """Overwrite these rows with the rows of another cache, up to position `seen`."""
        for own, part in ((self.keys, other.keys), (self.values, other.values)):
            own[:, :, :seen].index_copy_(0, self._indices(rows), part[:, :, :seen])

    def move(self, origins, rows, start, end):
        """Overwrite positions `start` to `end` of `rows` with those of `origins`, all at once."""
        for part in self.arrays:            # in NumPy: its copies start no threads that the next step would wait for
            part[rows, :, start:end] = part[origins, :, start:end]

    def resize(self, count):
        """Return a Cache of the first `count` rows, in the same memory where it has as many slots.

        Memory grows by half, so that sequences that join one by one are copied a bounded number of times.
        """
        slots = len(self._slots[0])
        if count > slots:
            used, grown = len(self.keys), Cache.empty((max(count, slots + slots // 2), *self.keys.shape[1:]), self.keys)
            grown.keys[:used], grown.values[:used] = self.keys, self.values
            return grown.resize(count)
        return Cache(*self._slots, count)

    def _indices(self, rows):
        return torch.tensor(rows, device=self.keys.device)


class NoCache:
    """Remember nothing: in training all positions are computed at once."""

    def extend(self, key, value, span):
        return key, value


NO_CACHE = NoCache()


@dataclass(frozen=True)
class State:
    """What a transformer has seen: how many tokens of each sequence, and each block's keys and values of them."""
    lengths: list
    caches: list

    def check_room(self, time, block_size):
        """Raise ValueError where `time` more tokens do not fit into the context."""
        if max(self.lengths) + time > block_size:
            raise ValueError(f"{max(self.lengths) + time} tokens do not fit into a context of block_size={block_size}.")

    def select(self, rows):
        """Return a State with copies of these rows (a list), in this order; a row may be named several times."""
        lengths = [self.lengths[row] for row in rows]
        return State(lengths, [cache.select(rows, max(lengths)) for cache in self.caches])

    def put(self, rows, other):
        """Overwrite these rows with the rows of another State."""
        for row, length in zip(rows, other.lengths):
            self.lengths[row] = length
        for cache, others in zip(self.caches, other.caches):
            cache.put(rows, others, max(other.lengths))

    def move(self, origins, rows, alike=0):
        """Overwrite `rows` with copies of `origins`, whose first `alike` tokens are the same and need no copy."""
        for row, length in zip(rows, [self.lengths[origin] for origin in origins]):
            self.lengths[row] = length
        for cache in self.caches:
            cache.move(origins, rows, alike, max(self.lengths))

    def resize(self, count):
        """Return a State of the first `count` rows, in the same memory if it has room; new rows are empty."""
        lengths = self.lengths[:count] + [0] * (count - len(self.lengths))
        return State(lengths, [cache.resize(count) for cache in self.caches])
