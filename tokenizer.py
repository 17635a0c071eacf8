"""Text to token ids and back: byte-level byte pair encoding from scratch, and a tokenizer of characters.

Byte pair encoding (Gage, 1994; Sennrich et al., 2016) starts from the 256 bytes and learns merges: the pair of neighbouring tokens
seen most often in the text becomes a token of its own, again and again. To encode is to repeat those merges, in the order they
were learned. Text is first split into pieces (words, numbers, punctuation), and no merge reaches across two pieces.

    >>> from tokenizer import BPETokenizer
    >>> tokenizer = BPETokenizer.train(["low lower lowest"], vocab_size=260)
    >>> tokenizer.encode("slowest")
    [115, 257, 101, 115, 116]
    >>> tokenizer.decode([115, 257, 101, 115, 116])
    'slowest'

Ids: byte b is id b, then one id a merge in the order learned, then the special tokens.
"""

import codecs
import json
import sys
from collections import Counter
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import regex

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.files import fingerprint, finish_replacing, ordinary, replace_together
from folio.kernels.splitting import LONG_TEXT, SPLIT_PATTERNS, distinct_pieces, in_batches, splitter, to_bytes

END_OF_TEXT = "<|endoftext|>"
# What ends a document in the tokenizers of others: GPT-2, Llama 3, Llama and RoBERTa, Gemma and others, ChatML.
END_TOKENS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<EOS>", "[EOS]", "<|im_end|>")
FORMAT = 1                                              # of the four JSON files and of to_dict()
FILES = ("stoi.json", "itos.json", "merges.json", "vocab_size.json")      # the last one vouches for the others
WATCHED_PAIRS = 4000                                    # while merges are learned: fewer make more rounds, more make each merge slower
PIECES_ROOM = 1 << 23                                   # bytes of distinct pieces: learning takes 60 times that
LONGEST_LEARNED = 256                                   # bytes: longer rows of one sign need no token of their own
LONGEST_TOKEN = 1 << 20                                 # bytes: merges may double a token each time, and a file may hold any merges
MOST_TOKEN_BYTES = 1 << 25                              # of all tokens: LONGEST_LEARNED each of 131,072
MOST_SPECIAL_TOKENS = 1 << 14                           # finding them in a text takes a pattern of all
CACHED_PIECES = 1 << 16                                 # pieces whose ids are remembered, about 15 MB when full; four times as many help little
ROW_WIDTHS = (0, 8, 16, 32, 64)                         # bytes: pieces of about one length are merged side by side
MANY_BYTES = 100_000                                    # in longer pieces: from here on it pays to merge a pair everywhere at once


# --- Learning merges ---

def count_pieces(texts, pattern="qwen2"):
    """Split texts into pieces and count each distinct piece once: all that training needs to know of a text.
    >>> dict(count_pieces(["to be, or not to be"]))
    {b'to': 1, b' be': 2, b',': 1, b' or': 1, b' not': 1, b' to': 1}
    """
    counts = PieceCounter()
    for batch in in_batches(texts):
        counts.add(count_batch(batch, pattern))
    return counts


def count_batch(texts, pattern):
    """Count the distinct pieces of texts that fit into memory together. -> {piece: how often it is seen}"""
    pieces, numbers, _ = distinct_pieces(texts, pattern)
    return dict(zip(pieces, np.bincount(numbers).tolist()))


class PieceCounter(Counter):
    """Counts of pieces in bounded memory (lossy counting: Manku and Motwani, 2002).

    Where there are too many distinct ones, the rarest half is let go of; of equally rare ones those that were seen first
    stay. Frequent pieces are not touched by that; random bytes would take any memory.
    """

    size = 0                                            # bytes of the distinct pieces, and one more for each

    def add(self, counts):
        """Add the counts of one batch."""
        self.size += sum(len(piece) + 1 for piece in counts if piece not in self)
        self.update(counts)
        if self.size > PIECES_ROOM:
            self._prune()

    def _prune(self):
        pieces = list(self)
        order = np.argsort(-np.fromiter(self.values(), np.int64, len(pieces)), kind="stable")
        sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))[order] + 1
        kept = np.sort(order[np.cumsum(sizes) <= PIECES_ROOM // 2]).tolist()        # in the order they came in
        left = {pieces[place]: self[pieces[place]] for place in kept}
        self.clear()
        self.update(left)
        self.size = sum(map(len, left)) + len(left)


def learn_merges(piece_counts, num_merges):
    """Yield up to `num_merges` pairs of ids, the most frequent pair first each time; fewer where no pair is seen twice.

    Ties go to the smallest pair of ids; overlapping positions count, so "aaa" has the pair (a, a) twice. No pair is
    merged into a token of more than LONGEST_LEARNED bytes.
    >>> list(learn_merges({b"hug": 10, b"pug": 5, b"hugs": 5}, 2))         # u+g becomes 256, then h+ug 257
    [(117, 103), (104, 256)]

    The plain way is to count all pairs, merge the most frequent one everywhere, and begin again. What follows comes to the same, sooner:
    a pair's count can grow only at the moment when the newer of its two tokens is made; from then on it falls. So a round watches
    the most frequent pairs alone, and lets go of each that falls below the rarest of them. When none is left, the next round counts
    all pairs anew, in what has become a shorter text.
    """
    counts_of_pieces = np.fromiter(piece_counts.values(), np.int64)
    words = _Words(piece_counts, counts_of_pieces, num_ids=256 + num_merges, longest=LONGEST_LEARNED)
    new_id = 256
    while new_id < words.num_ids:
        counts, places, heap = {}, {}, []               # of the watched pairs: key -> how often it is seen, key -> where it may stand
        rarest = words.rarest_worth_watching()

        def watch(key, count, where):
            if count >= rarest:
                counts[key], places[key] = count, where
                heappush(heap, (-count, key))
            else:
                counts.pop(key, None)
                places.pop(key, None)

        for pair in words.pairs(at_least=rarest):
            watch(*pair)
        if not counts:
            return
        while counts and new_id < words.num_ids:
            count, best = heappop(heap)
            if counts.get(best) != -count:
                continue                                # an entry from before the count changed
            yield divmod(best, words.num_ids)
            words.note_length(new_id, *divmod(best, words.num_ids))
            left = words.find(best, places[best])
            for key, count, _ in words.pairs(np.concatenate((words.before[left], left, words.after[left]))):
                if key in counts:
                    watch(key, counts[key] - count, places[key])
            words.merge(left, new_id)
            for pair in words.pairs(np.concatenate((words.before[left], left))):
                watch(*pair)
            new_id += 1


class _Words:
    """The distinct pieces of a text in flat arrays, so that a merge is a few NumPy calls, however many places it changes.

    Every position has an id (BORDER between pieces, GONE where a token was merged into the one before it), the count of its piece,
    and the positions of its two neighbours. A pair of ids is one number, its key: left * num_ids + right.
    """

    BORDER, GONE = -1, -2

    def __init__(self, pieces, counts, num_ids, longest=None):
        """longest: bytes of a token that a pair may become; others count as no pairs."""
        self._longest = longest
        self._length_of = np.ones(num_ids, np.int32)        # in bytes, by id
        self._is_bounded = False                            # whether any two tokens would be too long together
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        letters = np.frombuffer(b"".join(pieces), np.uint8).astype(np.int32)
        self.num_ids = num_ids
        self.ids = np.insert(letters, np.append(0, lengths.cumsum()), self.BORDER)      # a border before, between and behind the pieces
        self.counts = np.insert(counts.repeat(lengths + 1), 0, 0)
        self._close_gaps()

    def note_length(self, new_id, left, right):
        """A token is made of two others, whose bytes it has."""
        self._length_of[new_id] = self._length_of[left] + self._length_of[right]
        self._is_bounded |= self._longest is not None and 2 * self._length_of[new_id].item() > self._longest

    def _close_gaps(self):
        kept = self.ids != self.GONE
        self.ids, self.counts = self.ids[kept], self.counts[kept]
        assert self.hold(len(self.ids), self.num_ids), "a pair and its position fit one 64-bit number"
        self._position_bits = len(self.ids).bit_length()
        positions = np.arange(len(self.ids), dtype=np.int32)
        self.before, self.after, self._last_asked = positions - 1, positions + 1, positions.copy()
        self.before[0], self.after[-1] = positions[0], positions[-1]

    @staticmethod
    def hold(positions, num_ids):
        """Whether so many positions can be held. The largest vocabulary that can be learned, 131,072 ids, leaves room for 500 million."""
        return num_ids ** 2 << positions.bit_length() <= 1 << 63 and positions < 1 << 31

    def rarest_worth_watching(self):
        """The count down to which a round watches pairs: that of pair number WATCHED_PAIRS, and never 1, which teaches nothing."""
        self._close_gaps()
        _, counts, *_ = self._grouped(np.arange(len(self.ids), dtype=np.int32))
        place = max(0, len(counts) - WATCHED_PAIRS)
        return max(2, np.partition(counts, place)[place].item()) if len(counts) else 2

    def pairs(self, positions=None, at_least=0):
        """-> [(key, count, positions of the left token)] of the pairs that begin at some positions (None: at all), each counted once."""
        positions = np.arange(len(self.ids), dtype=np.int32) if positions is None else self._once(positions)
        keys, counts, starts, stops, places = self._grouped(positions)
        wanted = np.flatnonzero(counts >= at_least)
        return [(key, count, places[start:stop]) for key, count, start, stop in
                zip(keys[wanted].tolist(), counts[wanted].tolist(), starts[wanted].tolist(), stops[wanted].tolist())]

    def find(self, key, places):
        """Where a pair is to be merged, left to right: its left tokens' positions among `places`, some of which it may have left since."""
        first, second = divmod(key, self.num_ids)
        left = places[(self.ids[places] == first) & (self.ids[self.after[places]] == second)]
        return self._without_overlaps(left) if first == second else left

    def merge(self, left, new_id):
        """Make the tokens at the positions `left`, and those that follow them, one token each."""
        right = self.after[left]
        self.ids[left], self.ids[right] = new_id, self.GONE
        self.after[left] = self.after[right]
        self.before[self.after[right]] = left

    def _once(self, positions):
        """Each position once: the last to leave its number there."""
        numbers = np.arange(len(positions), dtype=np.int32)
        self._last_asked[positions] = numbers
        return positions[self._last_asked[positions] == numbers]

    def _without_overlaps(self, left):
        """Of positions that follow each other without a gap, the first, third, fifth..."""
        left = np.sort(left, kind="stable")             # they come in sorted runs, which this sort only joins
        number = np.arange(len(left))
        begins_run = np.append(True, self.after[left[:-1]] != left[1:])
        run_began = np.maximum.accumulate(np.where(begins_run, number, 0))
        return left[(number - run_began) % 2 == 0]

    def _grouped(self, positions):
        """The pairs that begin at positions, sorted by key. -> keys, counts, and the start and stop of each one's places"""
        left, right = self.ids[positions], self.ids[self.after[positions]]
        whole = (left >= 0) & (right >= 0)
        if self._is_bounded:
            # What is looked up for BORDER and GONE does not matter: they are in no pair.
            whole &= self._length_of[left] + self._length_of[right] <= self._longest
        keys = left[whole].astype(np.int64)
        keys *= self.num_ids                        # in place: all positions at once take much memory
        keys += right[whole]
        keys <<= self._position_bits
        keys |= positions[whole]                    # one number to sort by, which is faster than sorting indices
        del left, right, whole
        keys.sort()
        places = (keys & (1 << self._position_bits) - 1).astype(np.int32)
        keys >>= self._position_bits
        starts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
        starts = np.append(0, starts) if len(keys) else starts
        counts = np.add.reduceat(self.counts[places], starts) if len(starts) else starts
        return keys[starts], counts, starts, np.append(starts[1:], len(keys)), places


# --- Applying merges ---

def apply_merges(ids, new_ids, dropout=0.0, random=None):
    """Merge the pairs of one piece in the order they were learned, until none is left; `new_ids` maps a pair to its token.
    >>> apply_merges(b"hugs", {(117, 103): 256, (104, 256): 257})          # hug, s
    [257, 115]

    A heap holds the merges that are possible, a linked list the neighbours, so that n bytes take n log n steps. With `dropout` each
    possible merge is passed over with that probability, each time one is to be chosen (BPE-dropout: Provilkov et al., 2020);
    `random` is a numpy Generator.
    """
    ids = list(ids)
    end = len(ids)
    right_of = list(range(1, end + 1))
    left_of = list(range(-1, end - 1))
    possible = [(new_ids[pair], left) for left, pair in enumerate(pairwise(ids)) if pair in new_ids]
    heapify(possible)                                   # the earliest merge first, and among equals the leftmost
    passed_over = []
    while possible:
        new_id, left = merge = heappop(possible)
        right = right_of[left]
        if right == end or new_ids.get((ids[left], ids[right])) != new_id:
            continue                                    # one of the two has been merged into something else since
        if dropout and random.random() < dropout:
            passed_over.append(merge)
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
        while passed_over:
            heappush(possible, passed_over.pop())
    return [token for token in ids if token is not None]


class MergeTable:
    """The merges, ready to be applied to any number of pieces.

    In arrays, a pair of ids is looked up in a hash table with linear probing: one row holds pairs, the other what they become.
    """

    NONE = np.iinfo(np.int32).max                       # no merge: it comes after all others
    FREE = -1

    def __init__(self, pairs, seats_a_pair=16):
        """pairs: of ids, in the order learned; the more seats, the fewer pairs meet."""
        self.new_ids = {pair: new_id for new_id, pair in enumerate(pairs, 256)}
        self._bits = (seats_a_pair * len(pairs) | 1).bit_length()           # of the number of seats: always one more than pairs at least

    @cached_property
    def _table(self):
        """The pairs in their seats, and what they become; made when first needed: a prompt does without."""
        pairs, becomes = np.full(1 << self._bits, self.FREE, np.int64), np.full(1 << self._bits, self.NONE, np.int32)
        left, right = np.fromiter(chain.from_iterable(self.new_ids), np.int64, 2 * len(self.new_ids)).reshape(-1, 2).T
        wanted, new_ids = self._key(left, right), np.arange(256, 256 + len(self.new_ids), dtype=np.int32)
        seats = self._seat(wanted)
        while len(wanted):
            free = pairs[seats] == self.FREE
            pairs[seats[free]] = wanted[free]
            seated = pairs[seats] == wanted                                 # of two that took the same seat, the last one has it
            becomes[seats[seated]] = new_ids[seated]
            wanted, new_ids, seats = wanted[~seated], new_ids[~seated], self._next(seats[~seated])
        return pairs, becomes

    def segment(self, pieces, which, dropout=0.0, random=None):
        """Merge the pieces number `which`, an array, each time anew. -> all ids, one piece after the other, and each piece's count of them

        pieces: bytes. Short ones are merged side by side, as rows of a matrix.
        """
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        counts, firsts, pools, pooled = np.empty(len(which), np.int64), np.empty(len(which), np.int64), [], 0

        def put(where, ids, count):
            nonlocal pooled
            counts[where] = count
            firsts[where] = pooled + np.cumsum(count) - count
            pools.append(ids)
            pooled += len(ids)

        row_of = np.empty(len(pieces), np.int64)
        for shorter, width in pairwise(ROW_WIDTHS):
            group = np.flatnonzero((lengths > shorter) & (lengths <= width))
            where = np.flatnonzero((lengths[which] > shorter) & (lengths[which] <= width))
            row_of[group] = np.arange(len(group))
            rows = np.array([pieces[number] for number in group.tolist()], f"S{width}").view(np.uint8).astype(np.int32).reshape(-1, width)
            rows[np.arange(width) >= lengths[group, None]] = self.FREE
            merged = self.merge_rows(rows[row_of[which[where]]], dropout, random)
            put(where, merged[merged >= 0], np.count_nonzero(merged >= 0, axis=1))
        where = np.flatnonzero(lengths[which] > ROW_WIDTHS[-1])
        long = [pieces[number] for number in which[where].tolist()]
        total = sum(map(len, long)) + len(long) + 1
        if dropout or total < MANY_BYTES or not _Words.hold(total, 256 + len(self.new_ids)):
            merged = [apply_merges(piece, self.new_ids, dropout, random) for piece in long]
            put(where, np.fromiter(chain.from_iterable(merged), np.int32), np.fromiter(map(len, merged), np.int64))
        else:
            put(where, *self.merge_everywhere(long))
        return _runs(np.concatenate(pools), firsts, counts), counts

    def merge_rows(self, rows, dropout=0.0, random=None):
        """apply_merges to many pieces at once: in each round each row makes its earliest merge, the leftmost of equals.

        rows: (pieces, width) int32, bytes and then FREE. -> (pieces, width) int32, ids and then FREE
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

    def merge_everywhere(self, pieces):
        """apply_merges to long pieces: each merge in its turn, at all places at once. -> all ids, and each piece's count of them"""
        words = _Words(pieces, np.ones(len(pieces), np.int64), num_ids=256 + len(self.new_ids))
        places = {}                                     # what a pair becomes -> where it may stand, and the pair's key

        def note(pairs):
            for key, _, where in pairs:
                new_id = self.new_ids.get(divmod(key, words.num_ids))
                if new_id is not None:
                    if new_id not in places:
                        places[new_id] = key, []
                        heappush(waiting, new_id)
                    places[new_id][1].append(where)

        waiting = []
        note(words.pairs())
        while waiting:
            new_id = heappop(waiting)
            key, where = places.pop(new_id)
            left = words.find(key, np.concatenate(where))
            words.merge(left, new_id)
            note(words.pairs(np.concatenate((words.before[left], left))))
        ids = words.ids[words.ids != words.GONE]
        borders = np.flatnonzero(ids == words.BORDER)
        return ids[ids >= 0], np.diff(borders) - 1

    def look_up(self, left, right):
        """What each left and right id become together, or NONE."""
        pairs, new_ids = self._table
        wanted = self._key(left, right).ravel()
        seats = self._seat(wanted)
        found = pairs[seats]
        becomes = np.where(found == wanted, new_ids[seats], self.NONE)
        astray = np.flatnonzero((found != wanted) & (found != self.FREE))
        seats = seats[astray]
        while len(astray):                              # another pair has the seat: the wanted one, if there is one, sits further on
            seats = self._next(seats)
            found = pairs[seats]
            at_home = found == wanted[astray]
            becomes[astray[at_home]] = new_ids[seats[at_home]]
            going_on = ~at_home & (found != self.FREE)
            astray, seats = astray[going_on], seats[going_on]
        return becomes.reshape(left.shape)

    def _key(self, left, right):
        return left.astype(np.int64) << 32 | right

    def _seat(self, keys):
        return (keys.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - self._bits)).view(np.int64)   # as Knuth spreads them

    def _next(self, seats):
        return seats + 1 & (1 << self._bits) - 1


# --- The two tokenizers ---

class Tokenizer:
    """What both tokenizers share: special tokens, decoding, and their life on disk. Tokens are bytes; special tokens come last.

    A subclass knows what is ordinary: `_encode_ordinary(text)`, an array, and `_own_fields()`.
    """

    pattern = None          # of the split, where there is one

    def __init__(self, ordinary_tokens, ordinary_names, special_tokens):
        """ordinary_tokens: the bytes of each, by id; ordinary_names: how each is printed."""
        self.special_tokens = tuple(special_tokens)
        if len(self.special_tokens) > MOST_SPECIAL_TOKENS:
            raise FolioError(f"A tokenizer may have {MOST_SPECIAL_TOKENS:,} special tokens, "
                             f"and this one has {len(self.special_tokens):,}.")
        self.token_bytes = [*ordinary_tokens, *(special.encode("utf-8") for special in self.special_tokens)]
        self._names = [*ordinary_names, *self.special_tokens]
        self.dtype = np.dtype(np.uint16 if len(self.token_bytes) <= 1 << 16 else np.uint32)     # the smallest that holds every id
        self.special_ids = {special: len(ordinary_tokens) + index for index, special in enumerate(self.special_tokens)}
        if len(set(self._names)) != len(self._names) or "" in self._names:
            twice = [name for name, count in Counter(self._names).items() if count > 1 or not name]
            raise FolioError(f"Every token needs a spelling of its own; these have none: {twice[:5]}.")

    @cached_property
    def _special_pattern(self):
        longest_first = sorted(self.special_tokens, key=len, reverse=True)      # one may begin like another
        return regex.compile("(" + "|".join(map(regex.escape, longest_first)) + ")")

    @property
    def vocab_size(self):
        """Number of tokens, special ones included."""
        return len(self.token_bytes)

    @property
    def end_of_text(self):
        """The id of the special token that ends a document, the first of END_TOKENS that there is, or None."""
        return next((self.special_ids[name] for name in END_TOKENS if name in self.special_ids), None)

    @property
    def fingerprint(self):
        """16 hexadecimal digits that are the same exactly where all ids mean the same."""
        return fingerprint(self.to_dict())

    def encode(self, text, allow_special=False):
        """The ids of a text. A text that spells a special token is ordinary text, unless `allow_special`.

        Raises FolioError, with the position, where the text has half a surrogate pair, which is no character.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise FolioError(f"Character {error.start} of the text, {text[error.start]!r}, is half a surrogate pair and no character; "
                             "it cannot be encoded.") from None
        if not (allow_special and self.special_tokens):
            return self._encode_ordinary(text).tolist()
        ids = []
        for part in self._special_pattern.split(text):      # ordinary text and special tokens in turn
            ids += [self.special_ids[part]] if part in self.special_ids else self._encode_ordinary(part).tolist()
        return ids

    def encode_bytes(self, content):
        """The ids of bytes. With byte pairs decode_bytes(encode_bytes(content)) == content, whether it is UTF-8 or not.

        Raises FolioError where a character tokenizer finds a character that it does not know.
        """
        return self.encode_to_array(content).tolist()

    def encode_to_array(self, content):
        """The same as an array of `dtype`, for those who have much to encode."""
        return self._encode_ordinary(content.decode("utf-8", errors="surrogateescape"))

    def encode_many(self, texts):
        """-> the ids of some texts, one after the other, as an array of `dtype`, and how many there are up to each text's end."""
        ids = [self._encode_ordinary(text) for text in texts]
        return np.concatenate([np.empty(0, self.dtype), *ids]), np.cumsum(list(map(len, ids)), dtype=np.int64)

    def decode(self, ids):
        """The text of some ids; what is not UTF-8 becomes U+FFFD. Raises FolioError for an id outside the vocabulary."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids):
        """The bytes of some ids, exactly. Raises FolioError for an id outside the vocabulary."""
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(token for token in ids if not 0 <= token < self.vocab_size)
            raise FolioError(f"Token id {wrong} is outside the vocabulary, which has the ids 0 to {self.vocab_size - 1}.")
        return b"".join([self.token_bytes[token] for token in ids])

    def resegment(self, windows, dropout, random):
        """The same texts in other tokens, where a tokenizer has several ways to say them; here it has one.

        windows: arrays of ids; dropout: share of the merges that is left out; random: a numpy Generator. -> an array of ids for each
        """
        return list(windows)

    def to_dict(self):
        """Everything the tokenizer is, in plain values; `from_dict` makes it again."""
        return {"format": FORMAT, "kind": self.kind, "special_tokens": list(self.special_tokens), **self._own_fields()}

    def with_special_tokens(self, more):
        """The same tokenizer with special tokens added behind all others, whose ids stay as they are."""
        return from_dict(self.to_dict() | {"special_tokens": [*self.special_tokens, *more]})

    def save(self, folder, text_fingerprint=""):
        """Write the four JSON files, all or none. `text_fingerprint` names the text this was learned from."""
        written = {
            "stoi.json": _json({name: token for token, name in enumerate(self._names)}),
            "itos.json": _json({str(token): name for token, name in enumerate(self._names)}),
            "merges.json": _json(self._named_merges()),
        }
        written["vocab_size.json"] = _json({
            "format": FORMAT, "vocab_size": self.vocab_size, "kind": self.kind, "pattern": self.pattern,
            "special_tokens": list(self.special_tokens), "text_fingerprint": text_fingerprint,
            "hashes": {name: fingerprint(content) for name, content in written.items()}})
        replace_together(folder, {name: written[name] for name in FILES})

    def names(self):
        """Every token's printable name, by id: the keys of stoi.json."""
        return list(self._names)

    def _named_merges(self):
        return []


class BPETokenizer(Tokenizer):
    """Byte-level byte pair encoding: any bytes can be encoded, and come back as they were."""

    kind = "bpe"

    def __init__(self, merges, pattern="qwen2", special_tokens=(END_OF_TEXT,)):
        """merges: pairs of ids in the order learned; pair number n makes token 256 + n."""
        if pattern not in SPLIT_PATTERNS:
            raise FolioError(f"Split pattern {pattern!r} is not one of {', '.join(SPLIT_PATTERNS)}.")
        self.pattern = pattern
        self.merges = list(map(tuple, merges))
        tokens, names = [bytes([value]) for value in range(256)], [chr(_PRINTABLE[value]) for value in range(256)]
        made, size = set(tokens), len(tokens)           # a file may say anything: it gets memory up to a bound
        for left, right in self.merges:
            if left < 0 or right < 0 or left >= len(tokens) or right >= len(tokens):
                raise FolioError(f"Merge {len(tokens) - 256} joins the tokens {left} and {right}, but only 0 to {len(tokens) - 1} exist by then.")
            token = tokens[left] + tokens[right]
            if len(token) > LONGEST_TOKEN:
                raise FolioError(f"Token {len(tokens)} would have {len(token):,} bytes; a tokenizer like this was never learned from a text.")
            size += len(token)
            if size > MOST_TOKEN_BYTES:
                raise FolioError(f"The first {len(tokens) + 1:,} tokens would have more than {MOST_TOKEN_BYTES:,} bytes "
                                 "together; a tokenizer like this was never learned from a text.")
            tokens.append(token)
            names.append(names[left] + names[right])
            if token in made:
                raise FolioError(f"Every token needs a spelling of its own; these have none: {names[-1:]}.")
            made.add(token)
        super().__init__(tokens, names, special_tokens)
        self._split = splitter(pattern)
        self._pieces = _PieceCache(MergeTable(self.merges), self.dtype)

    @classmethod
    def train(cls, texts, vocab_size, pattern="qwen2", special_tokens=(END_OF_TEXT,)):
        """Learn from texts (an iterable of str) up to `vocab_size` tokens; fewer where the text has too few pairs.

        Raises FolioError where `vocab_size` has no room for the 256 bytes and the special tokens.
        """
        num_merges = cls.merges_for(vocab_size, special_tokens)
        return cls(learn_merges(count_pieces(texts, pattern), num_merges), pattern, special_tokens)

    @staticmethod
    def merges_for(vocab_size, special_tokens=(END_OF_TEXT,)):
        """How many merges a vocabulary has room for. Raises FolioError where it has not even room for the bytes."""
        smallest = 256 + len(special_tokens)
        if vocab_size < smallest:
            raise FolioError(f"vocab_size={vocab_size} is below the smallest possible, {smallest}: 256 bytes and {len(special_tokens)} special tokens.")
        return vocab_size - smallest

    def _encode_ordinary(self, text):
        if len(text) >= LONG_TEXT:
            return self.encode_many([text])[0]
        return np.frombuffer(b"".join(map(self._pieces.__getitem__, self._split(text))), self.dtype)

    def encode_piece(self, content):
        """The ids of bytes that are one piece, however the pattern would split them."""
        return apply_merges(content, self._pieces.merges.new_ids)

    def encode_many(self, texts):
        pieces, numbers, ends = distinct_pieces(texts, self.pattern)
        found = self._pieces.look_up(pieces)
        counts = np.fromiter(map(len, found), np.int64, len(found)) // self.dtype.itemsize
        ids = _runs(np.frombuffer(b"".join(found), self.dtype), (np.cumsum(counts) - counts)[numbers], counts[numbers])
        return ids, np.append(0, np.cumsum(counts[numbers]))[ends]

    def resegment(self, windows, dropout, random):
        """The same texts in other tokens, mostly more: split anew, and merged with BPE-dropout (Provilkov et al., 2020). Special tokens stay."""
        first_special = 256 + len(self.merges)
        parts, texts, places = [[] for _ in windows], [], []        # of each window; the texts in them, and where they stand
        for window, ids in enumerate(windows):
            special = np.flatnonzero(ids >= first_special)
            for part in np.split(ids, np.union1d(special, special + 1)):
                if len(part) and part[0] < first_special:
                    texts.append(self.decode_bytes(part.tolist()).decode("utf-8", errors="surrogateescape"))
                    places.append((window, len(parts[window])))
                parts[window].append(part)
        pieces, numbers, ends = distinct_pieces(texts, self.pattern)
        ids, counts = self._pieces.merges.segment(pieces, numbers, dropout, random)
        ends = np.append(0, np.cumsum(counts))[ends]
        for (window, place), part in zip(places, np.split(ids, ends[:-1])):
            parts[window][place] = part
        return [np.concatenate(each) for each in parts]

    def _named_merges(self):
        return [[self._names[left], self._names[right]] for left, right in self.merges]

    def _own_fields(self):
        return {"pattern": self.pattern, "merges": [list(pair) for pair in self.merges]}


class CharTokenizer(Tokenizer):
    """One token a character. It knows the characters it was made from and no others."""

    kind = "char"

    def __init__(self, characters, special_tokens=()):
        """characters: the vocabulary, in the order of the ids."""
        self.characters = list(characters)
        if longer := [character for character in self.characters if len(character) != 1]:
            raise FolioError(f"The vocabulary of a character tokenizer has single characters, not {longer[0]!r}.")
        self._id_of_code = np.full(sys.maxunicode + 1, -1, np.int32)        # -1: unknown
        self._id_of_code[list(map(ord, self.characters))] = np.arange(len(self.characters))
        super().__init__([character.encode("utf-8") for character in self.characters], self.characters, special_tokens)

    @classmethod
    def train(cls, texts, special_tokens=()):
        """Take the sorted characters of texts (an iterable of str) as the vocabulary."""
        return cls(sorted(set().union(*texts)), special_tokens)

    def unknown_characters(self, text):
        """The characters of a text that have no token, sorted."""
        return sorted(set(text) - set(self.characters))

    def _encode_ordinary(self, text):
        codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
        ids = self._id_of_code[codes]
        if ids.size and ids.min() < 0:
            unknown = self.unknown_characters(text)
            listed = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in unknown[:10])
            raise FolioError(f"This tokenizer knows single characters, and its text never had {listed}{' and others' if len(unknown) > 10 else ''}; "
                             f"the {len(self.characters)} it had are all it knows.")
        return ids.astype(self.dtype)

    def _own_fields(self):
        return {"characters": self.characters}


class StreamingDecoder:
    """Decodes token by token and hands out whole characters only: a character's bytes may be spread over several tokens."""

    def __init__(self, tokenizer, skip=0):
        """skip: bytes at the beginning that are known already"""
        self._tokenizer = tokenizer
        self._skip = skip
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token):
        """The text that has become certain with this token; often a word, sometimes nothing yet."""
        content = self._tokenizer.decode_bytes([token])
        known, self._skip = self._skip, max(0, self._skip - len(content))
        return self._decoder.decode(content[known:])

    def end(self):
        """What is left when no token follows: nothing, or U+FFFD for half a character."""
        return self._decoder.decode(b"", final=True)


# --- From disk and from checkpoints ---

def size_of(values):
    """How many tokens the tokenizer would have that `to_dict` described, without making it."""
    ordinary = 256 + len(values["merges"]) if values["kind"] == "bpe" else len(values["characters"])
    return ordinary + len(values["special_tokens"])


def from_dict(values):
    """The tokenizer that `to_dict` described. Raises FolioError where the values describe none."""
    try:
        if values["format"] > FORMAT:
            raise FolioError(f"The tokenizer is of format {values['format']}; this Folio reads up to {FORMAT}. A newer Folio is needed.")
        if values["kind"] == "bpe":
            return BPETokenizer(values["merges"], values["pattern"], values["special_tokens"])
        if values["kind"] == "char":
            return CharTokenizer(values["characters"], values["special_tokens"])
        raise FolioError(f"Tokenizer kind {values['kind']!r} is neither bpe nor char.")
    except FolioError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FolioError(f"These values describe no tokenizer: {type(error).__name__} at {error}.") from None


def load(folder):
    """The tokenizer saved in `folder`. Raises FileNotFoundError or FolioError, with what to do, where there is none or it is damaged."""
    folder = Path(folder)
    finish_replacing(folder)
    missing = [name for name in FILES if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"No tokenizer in {folder}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. "
                                f"Make one first: {command('init.py')}")
    contents = {}
    for name in FILES:
        with open(folder / name, "rb", opener=ordinary) as file:
            contents[name] = file.read()
    try:
        ids, merges, about = (_parsed(name, contents[name]) for name in FILES if name != "itos.json")       # that one is stoi.json, inverted
        tokenizer = from_dict({**about, **_from_names(ids, merges, about)})
        if tokenizer.names() != list(ids) or about["vocab_size"] != len(ids):
            raise FolioError("vocab_size.json does not describe the tokens in stoi.json")
        if changed := [name for name, known in about["hashes"].items() if fingerprint(contents[name]) != known]:
            raise FolioError(f"{', '.join(changed)} is not the file that was written with vocab_size.json")
        return tokenizer
    except ValueError as error:
        raise FolioError(f"The tokenizer in {folder} cannot be used: {str(error).rstrip('.')}. Make it again: {command('init.py')}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise FolioError(f"The tokenizer in {folder} cannot be used: vocab_size.json does not say what it should ({type(error).__name__} at {error}). "
                         f"Make it again: {command('init.py')}") from None


def _parsed(name, content):
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FolioError(f"{name} is not JSON ({error})") from None


def _from_names(ids, merges, about):
    """What from_dict wants to know of the tokens in stoi.json and merges.json: {name: id} and [[left name, right name]]."""
    if not isinstance(ids, dict):
        raise FolioError("stoi.json does not map tokens to ids")
    if not (isinstance(merges, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in merges)):
        raise FolioError("merges.json is no list of pairs")
    if (numbers := sorted(ids.values())) != list(range(len(ids))):
        hole = min(set(range(len(ids))) - set(numbers))
        raise FolioError(f"stoi.json has a hole: no token has the id {hole}")
    ordinary = len(ids) - len(about["special_tokens"])
    if about["kind"] == "bpe" and 256 + len(merges) != ordinary:
        raise FolioError(f"merges.json has {len(merges)} merges, and stoi.json has tokens for {ordinary - 256}")
    try:
        return {"characters": list(ids)[:ordinary], "merges": [(ids[left], ids[right]) for left, right in merges]}
    except KeyError as error:
        raise FolioError(f"merges.json joins {error}, which is no token in stoi.json") from None


# --- Small parts ---

class _PieceCache(dict):
    """piece, as text for __getitem__, as bytes for look_up -> the bytes of the array of its ids, worked out when first asked for.

    Joining bytes is the fastest way to join arrays. It is emptied when full: rare pieces are many, frequent ones come back at once.
    """

    def __init__(self, merges, dtype):
        self.merges = merges
        self._dtype = dtype

    def __missing__(self, piece):
        ids = np.array(apply_merges(to_bytes(piece), self.merges.new_ids), self._dtype).tobytes()
        self._remember([(piece, ids)])
        return ids

    def look_up(self, pieces):
        """The ids of many pieces, (bytes), in the same order."""
        result = list(map(self.get, pieces))
        unknown = [place for place, ids in enumerate(result) if ids is None]
        missing = [pieces[place] for place in unknown]
        ids, counts = self.merges.segment(missing, np.arange(len(missing)))
        ids = ids.astype(self._dtype).tobytes()
        ends = (np.cumsum(counts) * self._dtype.itemsize).tolist()
        for place, start, end in zip(unknown, [0, *ends], ends):
            result[place] = ids[start:end]
        self._remember([(pieces[place], result[place]) for place in unknown])
        return result

    def _remember(self, found):
        if len(found) > CACHED_PIECES:
            return
        if len(self) + len(found) > CACHED_PIECES:
            self.clear()
        self.update((piece, ids) for piece, ids in found if len(piece) < 100)       # longer ones hardly ever come twice


def _runs(values, firsts, counts):
    """The runs values[first:first + count], one after the other.
    >>> _runs(np.array([10, 11, 12, 13, 14]), np.array([3, 0]), np.array([2, 3]))
    array([13, 14, 10, 11, 12])
    """
    ends = np.cumsum(counts)
    return values[np.arange(counts.sum()) + np.repeat(firsts - (ends - counts), counts)]


def _json(value):
    return (json.dumps(value, ensure_ascii=False, indent=0) + "\n").encode("utf-8")


def _printable_bytes():
    """GPT-2's alphabet: a printable character for each byte, itself where it is printable: 65 -> "A", 32 -> "Ġ"."""
    itself = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in itself]
    return {value: value for value in itself} | {value: 256 + index for index, value in enumerate(others)}


_PRINTABLE = _printable_bytes()


if __name__ == "__main__":
    from folio.base.startup import list_commands
    list_commands("python tokenizer.py")
