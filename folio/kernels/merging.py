"""Learn the merges of byte pair encoding from counted pre-tokens, and apply them to pre-tokens.

tokenizer.py begins with the plain definition of both. The functions here give the same merges and the same ids:

- `learn_merges` counts pairs incrementally, in flat arrays (`LinkedTokens`).
- `apply_merges` encodes one pre-token with a heap, in n log n steps.
- `MergeTable.segment` encodes many: the short ones side by side as rows of a matrix, a lot of long ones merge by merge.
- `PretokenCache` remembers the ids of frequent pre-tokens.

A pre-token is a `bytes` object; an id below 256 is a byte, and 256 + n is the token that merge n makes.
"""

from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise

import numpy as np

from folio.kernels.splitting import to_bytes

WATCHED_PAIRS = 4000        # pairs counted incrementally: fewer need more rounds, more make each merge slower
MAX_LEARNED_BYTES = 256     # longest token that is learned: a long run of one character needs no token of its own
CACHED_PRETOKENS = 1 << 16  # pre-tokens whose ids are remembered: about 15 MB; four times as many hardly help
CACHED_CHARACTERS = 100     # longest pre-token that is remembered: longer ones hardly ever repeat
ROW_WIDTHS = (0, 8, 16, 32, 64)     # bytes: pre-tokens of similar length are merged side by side
MANY_BYTES = 100_000        # of longer pre-tokens: from here on it pays to apply each merge everywhere at once


# --- Learning ---

def learn_merges(pretoken_counts, num_merges):
    """Yield up to `num_merges` pairs of ids, the most frequent pair first each time; stop where no pair occurs twice.

    pretoken_counts: {pre-token: number of occurrences}. Ties go to the smallest pair of ids. Overlapping positions
    count, so "aaa" has the pair (a, a) twice. No token of more than MAX_LEARNED_BYTES bytes is made.
    >>> list(learn_merges({b"hug": 10, b"pug": 5, b"hugs": 5}, 2))         # u+g becomes 256, then h+ug 257
    [(117, 103), (104, 256)]

    The definition counts all pairs anew before each merge. This does less: a pair's count can grow only when the newer
    of its two tokens is made, and falls from then on. So a round counts all pairs once and watches the most frequent
    ones, whose counts it updates with each merge. A pair that falls below the round's threshold is dropped. When none
    is left, the next round counts all pairs of the text, which has become shorter.
    """
    occurrences = np.fromiter(pretoken_counts.values(), np.int64)
    tokens = LinkedTokens(pretoken_counts, occurrences, num_ids=256 + num_merges, max_bytes=MAX_LEARNED_BYTES)
    new_id = 256
    while new_id < tokens.num_ids:
        # Of the watched pairs: key -> count, key -> positions where the pair may be, and (-count, key).
        counts, places, heap = {}, {}, []
        threshold = tokens.watch_threshold()

        def watch(key, count, positions):
            if count >= threshold:
                counts[key], places[key] = count, positions
                heappush(heap, (-count, key))
            else:
                counts.pop(key, None)
                places.pop(key, None)

        for pair in tokens.pairs(min_count=threshold):
            watch(*pair)
        if not counts:
            return
        while counts and new_id < tokens.num_ids:
            count, best = heappop(heap)
            if counts.get(best) != -count:
                continue                                # an entry from before the count changed
            yield divmod(best, tokens.num_ids)
            tokens.set_length(new_id, *divmod(best, tokens.num_ids))
            left = tokens.find(best, places[best])
            for key, count, _ in tokens.pairs(np.concatenate((tokens.before[left], left, tokens.after[left]))):
                if key in counts:
                    watch(key, counts[key] - count, places[key])
            tokens.merge(left, new_id)
            for pair in tokens.pairs(np.concatenate((tokens.before[left], left))):
                watch(*pair)
            new_id += 1


class LinkedTokens:
    """The tokens of many pre-tokens in flat arrays, linked to their neighbors: a merge is a few NumPy calls.

    Every position has an id (BORDER between pre-tokens, GONE where a token was merged into the one before it), the
    count of its pre-token, and the positions of its two neighbors. A pair of ids is one number, its key:
    left * num_ids + right.
    """

    BORDER, GONE = -1, -2

    def __init__(self, pretokens, counts, num_ids, max_bytes=None):
        """max_bytes: pairs that would become a longer token are not counted as pairs."""
        self._max_bytes = max_bytes
        self._length_of = np.ones(num_ids, np.int32)        # in bytes, by id
        self._is_bounded = False                            # whether any two tokens together would exceed max_bytes
        lengths = np.fromiter(map(len, pretokens), np.int64, len(pretokens))
        letters = np.frombuffer(b"".join(pretokens), np.uint8).astype(np.int32)
        self.num_ids = num_ids
        # A border stands before, between and behind the pre-tokens.
        self.ids = np.insert(letters, np.append(0, lengths.cumsum()), self.BORDER)
        self.counts = np.insert(counts.repeat(lengths + 1), 0, 0)
        self._close_gaps()

    def set_length(self, new_id, left, right):
        """Note the length of a token that joins two others."""
        self._length_of[new_id] = self._length_of[left] + self._length_of[right]
        self._is_bounded |= self._max_bytes is not None and 2 * self._length_of[new_id].item() > self._max_bytes

    def _close_gaps(self):
        kept = self.ids != self.GONE
        self.ids, self.counts = self.ids[kept], self.counts[kept]
        assert self.fits(len(self.ids), self.num_ids), "a pair and its position fit one 64-bit number"
        self._position_bits = len(self.ids).bit_length()
        positions = np.arange(len(self.ids), dtype=np.int32)
        self.before, self.after, self._scratch = positions - 1, positions + 1, positions.copy()
        self.before[0], self.after[-1] = positions[0], positions[-1]

    @staticmethod
    def fits(num_positions, num_ids):
        """Return whether a pair's key and a position fit one 64-bit number.

        The largest vocabulary that can be learned, 131,072 ids, leaves room for 500 million positions.
        """
        return num_ids ** 2 << num_positions.bit_length() <= 1 << 63 and num_positions < 1 << 31

    def watch_threshold(self):
        """Return the count of pair number WATCHED_PAIRS, at least 2: a pair that occurs once is not merged."""
        self._close_gaps()
        _, counts, *_ = self._grouped(np.arange(len(self.ids), dtype=np.int32))
        rank = max(0, len(counts) - WATCHED_PAIRS)
        return max(2, np.partition(counts, rank)[rank].item()) if len(counts) else 2

    def pairs(self, positions=None, min_count=0):
        """Return [(key, count, positions of the left token)] of the pairs that begin at `positions` (None: all).

        A position that is given more than once counts once.
        """
        positions = np.arange(len(self.ids), dtype=np.int32) if positions is None else self._unique(positions)
        keys, counts, starts, stops, places = self._grouped(positions)
        wanted = np.flatnonzero(counts >= min_count)
        return [(key, count, places[start:stop]) for key, count, start, stop in
                zip(keys[wanted].tolist(), counts[wanted].tolist(), starts[wanted].tolist(), stops[wanted].tolist())]

    def find(self, key, places):
        """Return the left positions at which to merge a pair, among `places`, some of which may be out of date.

        Where two matches overlap, the left one wins.
        """
        first, second = divmod(key, self.num_ids)
        left = places[(self.ids[places] == first) & (self.ids[self.after[places]] == second)]
        return self._without_overlaps(left) if first == second else left

    def merge(self, left, new_id):
        """Replace each token at the positions `left`, and the token after it, by one token."""
        right = self.after[left]
        self.ids[left], self.ids[right] = new_id, self.GONE
        self.after[left] = self.after[right]
        self.before[self.after[right]] = left

    def _unique(self, positions):
        """Return each position once: each writes its index to a table, and the last writer is kept."""
        indices = np.arange(len(positions), dtype=np.int32)
        self._scratch[positions] = indices
        return positions[self._scratch[positions] == indices]

    def _without_overlaps(self, left):
        """Return the first, third, fifth, ... of each run of adjacent positions."""
        left = np.sort(left, kind="stable")             # they come in sorted runs, and this sort only joins the runs
        index = np.arange(len(left))
        begins_run = np.append(True, self.after[left[:-1]] != left[1:])
        run_start = np.maximum.accumulate(np.where(begins_run, index, 0))
        return left[(index - run_start) % 2 == 0]

    def _grouped(self, positions):
        """Sort the pairs that begin at positions by key.

        Returns the distinct keys, their counts, the start and stop of each key's positions, and all positions.
        """
        left, right = self.ids[positions], self.ids[self.after[positions]]
        whole = (left >= 0) & (right >= 0)
        if self._is_bounded:
            # The lengths looked up for BORDER and GONE do not matter: they are in no pair.
            whole &= self._length_of[left] + self._length_of[right] <= self._max_bytes
        keys = left[whole].astype(np.int64)
        keys *= self.num_ids                        # in place: the keys of all positions take much memory
        keys += right[whole]
        keys <<= self._position_bits
        keys |= positions[whole]                    # one number to sort by: faster than sorting indices
        del left, right, whole
        keys.sort()
        places = (keys & (1 << self._position_bits) - 1).astype(np.int32)
        keys >>= self._position_bits
        starts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
        starts = np.append(0, starts) if len(keys) else starts
        counts = np.add.reduceat(self.counts[places], starts) if len(starts) else starts
        return keys[starts], counts, starts, np.append(starts[1:], len(keys)), places


# --- Applying ---

def apply_merges(ids, new_ids, dropout=0.0, random=None):
    """Merge the pairs of one pre-token in the order they were learned, until none is left.

    new_ids: {pair of ids: the token it becomes}.
    >>> apply_merges(b"hugs", {(117, 103): 256, (104, 256): 257})          # hug, s
    [257, 115]

    A heap holds the possible merges and a linked list the neighbors: n bytes take n log n steps. With BPE-dropout
    (Provilkov et al., 2020) each possible merge is skipped with probability `dropout`, each time one is to be chosen;
    `random` is a numpy Generator.
    """
    ids = list(ids)
    end = len(ids)
    right_of = list(range(1, end + 1))
    left_of = list(range(-1, end - 1))
    possible = [(new_ids[pair], left) for left, pair in enumerate(pairwise(ids)) if pair in new_ids]
    heapify(possible)                                   # the earliest merge first, and among equals the leftmost
    skipped = []
    while possible:
        new_id, left = merge = heappop(possible)
        right = right_of[left]
        if right == end or new_ids.get((ids[left], ids[right])) != new_id:
            continue                                    # one of the two has since been merged into another token
        if dropout and random.random() < dropout:
            skipped.append(merge)
            continue
        after, before = right_of[right], left_of[left]
        ids[left], ids[right] = new_id, None
        right_of[left] = after
        if after < end:
            left_of[after] = left
            if (pair := (new_id, ids[after])) in new_ids:
                heappush(possible, (new_ids[pair], left))
        if before >= 0 and (pair := (ids[before], new_id)) in new_ids:
            heappush(possible, (new_ids[pair], before))
        while skipped:
            heappush(possible, skipped.pop())
    return [token for token in ids if token is not None]


class MergeTable:
    """The merges as a dict (`new_ids`) and as a hash table in arrays, to apply them to many pre-tokens.

    The hash table uses linear probing: one array holds pairs of ids, the other the tokens they become.
    """

    NONE = np.iinfo(np.int32).max                       # the "token" of a pair without a merge: later than all others
    FREE = -1                                           # a slot without a pair; in a row, the end of its ids

    def __init__(self, pairs, slots_per_pair=16):
        """pairs: pairs of ids, in the order learned. More slots per pair mean fewer collisions."""
        self.new_ids = {pair: new_id for new_id, pair in enumerate(pairs, 256)}
        self._bits = (slots_per_pair * len(pairs) | 1).bit_length()         # 2 ** bits slots, more than there are pairs

    @cached_property
    def _table(self):
        """The pair in each slot, and the token it becomes; built when first needed, which a prompt never does."""
        pairs, becomes = np.full(1 << self._bits, self.FREE, np.int64), np.full(1 << self._bits, self.NONE, np.int32)
        left, right = np.fromiter(chain.from_iterable(self.new_ids), np.int64, 2 * len(self.new_ids)).reshape(-1, 2).T
        pending, new_ids = self._key(left, right), np.arange(256, 256 + len(self.new_ids), dtype=np.int32)
        slots = self._slot(pending)
        while len(pending):
            free = pairs[slots] == self.FREE
            pairs[slots[free]] = pending[free]
            stored = pairs[slots] == pending            # of two that wrote to the same slot, the last one is stored
            becomes[slots[stored]] = new_ids[stored]
            pending, new_ids, slots = pending[~stored], new_ids[~stored], self._next(slots[~stored])
        return pairs, becomes

    def segment(self, pretokens, indices, dropout=0.0, random=None):
        """Merge pretokens[index] for each index, each time anew.

        pretokens: list of bytes; indices: (N,) -> all ids, one pre-token after the other, and how many each has, (N,).
        With dropout, a pre-token whose index occurs twice may get different ids each time.
        """
        lengths = np.fromiter(map(len, pretokens), np.int64, len(pretokens))
        counts, firsts = np.empty(len(indices), np.int64), np.empty(len(indices), np.int64)
        pools, pooled = [], 0                           # ids in any order and their number; `firsts` points into them

        def put(where, ids, count):
            nonlocal pooled
            counts[where] = count
            firsts[where] = pooled + np.cumsum(count) - count
            pools.append(ids)
            pooled += len(ids)

        row_of = np.empty(len(pretokens), np.int64)
        for shorter, width in pairwise(ROW_WIDTHS):
            group = np.flatnonzero((lengths > shorter) & (lengths <= width))
            where = np.flatnonzero((lengths[indices] > shorter) & (lengths[indices] <= width))
            row_of[group] = np.arange(len(group))
            rows = np.array([pretokens[index] for index in group.tolist()], f"S{width}")
            rows = rows.view(np.uint8).astype(np.int32).reshape(-1, width)
            rows[np.arange(width) >= lengths[group, None]] = self.FREE
            merged = self.merge_rows(rows[row_of[indices[where]]], dropout, random)
            put(where, merged[merged >= 0], np.count_nonzero(merged >= 0, axis=1))
        where = np.flatnonzero(lengths[indices] > ROW_WIDTHS[-1])
        long = [pretokens[index] for index in indices[where].tolist()]
        total = sum(map(len, long)) + len(long) + 1
        if dropout or total < MANY_BYTES or not LinkedTokens.fits(total, 256 + len(self.new_ids)):
            merged = [apply_merges(pretoken, self.new_ids, dropout, random) for pretoken in long]
            put(where, np.fromiter(chain.from_iterable(merged), np.int32), np.fromiter(map(len, merged), np.int64))
        else:
            put(where, *self.merge_everywhere(long))
        return gather_runs(np.concatenate(pools), firsts, counts), counts

    def merge_rows(self, rows, dropout=0.0, random=None):
        """Apply the merges to short pre-tokens side by side.

        In each round each row makes its earliest merge, the leftmost of equals.
        rows: (N, width) int32, bytes and then FREE -> (N, width) int32, ids and then FREE
        """
        merged = np.full(rows.shape, self.FREE, np.int32)
        unfinished = np.arange(len(rows))
        while len(unfinished):
            width = rows.shape[1]
            if width == 1:
                merged[unfinished, 0] = rows[:, 0]
                break
            becomes = self.look_up(rows[:, :-1], rows[:, 1:])
            if dropout:
                becomes[random.random(becomes.shape, np.float32) < dropout] = self.NONE
            place = becomes.argmin(axis=1)
            new_ids = np.take_along_axis(becomes, place[:, None], axis=1)[:, 0]
            is_finished = new_ids == self.NONE
            merged[unfinished[is_finished], :width] = rows[is_finished]
            rows, place, new_ids, unfinished = (part[~is_finished] for part in (rows, place, new_ids, unfinished))
            np.put_along_axis(rows, place[:, None], new_ids[:, None], axis=1)
            rows = rows[np.arange(width) != place[:, None] + 1].reshape(-1, width - 1)
        return merged

    def merge_everywhere(self, pretokens):
        """Apply each merge in its turn, at all positions at once. Returns all ids, and how many each pre-token has."""
        tokens = LinkedTokens(pretokens, np.ones(len(pretokens), np.int64), num_ids=256 + len(self.new_ids))
        places = {}                                     # the token a pair becomes -> its key, and where it may be
        pending = []                                    # the same tokens, as a heap

        def note(pairs):
            for key, _, positions in pairs:
                new_id = self.new_ids.get(divmod(key, tokens.num_ids))
                if new_id is not None:
                    if new_id not in places:
                        places[new_id] = key, []
                        heappush(pending, new_id)
                    places[new_id][1].append(positions)

        note(tokens.pairs())
        while pending:
            new_id = heappop(pending)
            key, positions = places.pop(new_id)
            left = tokens.find(key, np.concatenate(positions))
            tokens.merge(left, new_id)
            note(tokens.pairs(np.concatenate((tokens.before[left], left))))
        ids = tokens.ids[tokens.ids != tokens.GONE]
        borders = np.flatnonzero(ids == tokens.BORDER)
        return ids[ids >= 0], np.diff(borders) - 1

    def look_up(self, left, right):
        """Return the token that each pair of ids becomes, or NONE. left, right: (...) each -> (...)"""
        pairs, new_ids = self._table
        wanted = self._key(left, right).ravel()
        slots = self._slot(wanted)
        stored = pairs[slots]
        becomes = np.where(stored == wanted, new_ids[slots], self.NONE)
        collided = np.flatnonzero((stored != wanted) & (stored != self.FREE))
        slots = slots[collided]
        while len(collided):                            # probe the next slot, until it has the pair or is free
            slots = self._next(slots)
            stored = pairs[slots]
            found = stored == wanted[collided]
            becomes[collided[found]] = new_ids[slots[found]]
            pending = ~found & (stored != self.FREE)
            collided, slots = collided[pending], slots[pending]
        return becomes.reshape(left.shape)

    def _key(self, left, right):
        return left.astype(np.int64) << 32 | right

    def _slot(self, keys):
        """Hash by multiplication (Knuth): the factor is 2^64 divided by the golden ratio."""
        return (keys.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - self._bits)).view(np.int64)

    def _next(self, slots):
        return slots + 1 & (1 << self._bits) - 1


class PretokenCache(dict):
    """Map a pre-token to its ids, as the bytes of their array, computed when first needed.

    Joining bytes is the fastest way to join arrays. Keys are str in `cache[pretoken]`, bytes in `get_many`. The cache
    is emptied when full: there are many rare pre-tokens, and the frequent ones come back at once.
    """

    def __init__(self, merges, dtype):
        """merges: a MergeTable; dtype: of the ids."""
        self.merges = merges
        self._dtype = dtype

    def __missing__(self, pretoken):
        ids = np.array(apply_merges(to_bytes(pretoken), self.merges.new_ids), self._dtype).tobytes()
        self._remember([(pretoken, ids)])
        return ids

    def get_many(self, pretokens):
        """Return the ids of each pre-token in a list of bytes."""
        result = list(map(self.get, pretokens))
        unknown = [index for index, ids in enumerate(result) if ids is None]
        missing = [pretokens[index] for index in unknown]
        ids, counts = self.merges.segment(missing, np.arange(len(missing)))
        ids = ids.astype(self._dtype).tobytes()
        ends = (np.cumsum(counts) * self._dtype.itemsize).tolist()
        for index, start, end in zip(unknown, [0, *ends], ends):
            result[index] = ids[start:end]
        self._remember([(pretokens[index], result[index]) for index in unknown])
        return result

    def _remember(self, found):
        if len(found) > CACHED_PRETOKENS:
            return
        if len(self) + len(found) > CACHED_PRETOKENS:
            self.clear()
        self.update((pretoken, ids) for pretoken, ids in found if len(pretoken) < CACHED_CHARACTERS)


def gather_runs(values, firsts, counts):
    """Concatenate the runs values[first:first + count].
    >>> gather_runs(np.array([10, 11, 12, 13, 14]), np.array([3, 0]), np.array([2, 3]))
    array([13, 14, 10, 11, 12])
    """
    ends = np.cumsum(counts)
    return values[np.arange(counts.sum()) + np.repeat(firsts - (ends - counts), counts)]
