"""Text to token ids and back: byte-level byte pair encoding from scratch, and a tokenizer of characters.

Byte pair encoding (Gage, 1994; Sennrich et al., 2016) starts from the 256 bytes and learns merges: the pair of neighbouring tokens
seen most often in the text becomes a token of its own, again and again. To encode is to repeat those merges, in the order they
were learned. Text is first split into pieces (words, numbers, punctuation), and no merge reaches across two pieces.

    from tokenizer import BPETokenizer
    tokenizer = BPETokenizer.train(["low lower lowest"], vocab_size=260)
    tokenizer.decode(tokenizer.encode("slowest")) == "slowest"

Ids: byte b is id b, then one id a merge in the order learned, then the special tokens.
"""

import codecs
import json
import sys
from collections import Counter
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path

import numpy as np
import regex

from folio.files import fingerprint, replace_together

END_OF_TEXT = "<|endoftext|>"
FORMAT = 1                                              # of the four JSON files and of to_dict()
FILES = ("stoi.json", "itos.json", "merges.json", "vocab_size.json")      # the last one vouches for the others
WATCHED_PAIRS = 4000                                    # while merges are learned: fewer make more rounds, more make each merge slower
LONGEST_TOKEN = 1 << 20                                 # bytes: merges may double a token each time, and a file may hold any merges
CACHED_PIECES = 1 << 18                                 # pieces whose ids are remembered: about 60 MB when full

SPLIT_PATTERNS = {
    # Named as in llama.cpp; the contractions are spelt out instead of (?i:...), so that no case folding rule is involved.
    "qwen2": r"""'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"""
             r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    "gpt2": r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
}


# --- Learning merges ---

def count_pieces(texts, pattern="qwen2"):
    """Split texts into pieces and count each distinct piece once: all that training needs to know of a text.
    count_pieces(["to be, or not to be"]) -> {"to": 1, " be": 2, ",": 1, " or": 1, " not": 1, " to": 1}
    """
    split = regex.compile(SPLIT_PATTERNS[pattern]).findall
    counts = Counter()
    for text in texts:
        counts.update(split(text))
    return counts


def learn_merges(piece_counts, num_merges):
    """Yield up to `num_merges` pairs of ids, the most frequent pair first each time; fewer where no pair is seen twice.

    Ties go to the smallest pair of ids; overlapping positions count, so "aaa" has the pair (a, a) twice.
    list(learn_merges({"hug": 10, "pug": 5, "hugs": 5}, 2)) -> [(117, 103), (104, 256)], which is u+g, then h+ug

    The plain way is to count all pairs, merge the most frequent one everywhere, and begin again. What follows comes to the same, sooner:
    a pair's count can grow only at the moment when the newer of its two tokens is made; from then on it falls. So a round watches
    the most frequent pairs alone, and lets go of each that falls below the rarest of them. When none is left, the next round counts
    all pairs anew, in what has become a shorter text.
    """
    words = _Words(piece_counts, num_ids=256 + num_merges)
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
            lost, made = words.merge(best, places[best], new_id)
            for key, count, _ in lost:
                if key in counts:
                    watch(key, counts[key] - count, places[key])
            for pair in made:
                watch(*pair)
            new_id += 1


class _Words:
    """The distinct pieces of a text in flat arrays, so that a merge is a few NumPy calls, however many places it changes.

    Every position has an id (BORDER between pieces, GONE where a token was merged into the one before it), the count of its piece,
    and the positions of its two neighbours. A pair of ids is one number, its key: left * num_ids + right.
    """

    BORDER, GONE = -1, -2

    def __init__(self, piece_counts, num_ids):
        contents = [_to_bytes(piece) for piece in piece_counts]
        lengths = np.fromiter(map(len, contents), np.int64, len(contents))
        counts = np.fromiter(piece_counts.values(), np.int64, len(contents))
        letters = np.frombuffer(b"".join(contents), np.uint8).astype(np.int32)
        self.num_ids = num_ids
        self.ids = np.insert(letters, np.append(0, lengths.cumsum()), self.BORDER)      # a border before, between and behind the pieces
        self.counts = np.insert(counts.repeat(lengths + 1), 0, 0)
        self._close_gaps()

    def _close_gaps(self):
        kept = self.ids != self.GONE
        self.ids, self.counts = self.ids[kept], self.counts[kept]
        positions = np.arange(len(self.ids), dtype=np.int32)
        self.before, self.after = positions - 1, positions + 1
        self.before[0], self.after[-1] = positions[0], positions[-1]

    def rarest_worth_watching(self):
        """The count down to which a round watches pairs: that of pair number WATCHED_PAIRS, and never 1, which teaches nothing."""
        self._close_gaps()
        _, counts, *_ = self._grouped(np.arange(len(self.ids)))
        place = max(0, len(counts) - WATCHED_PAIRS)
        return max(2, np.partition(counts, place)[place].item()) if len(counts) else 2

    def pairs(self, positions=None, at_least=0):
        """-> [(key, count, positions of the left token)] of the pairs that begin at some positions (None: at all)."""
        keys, counts, starts, stops, places = self._grouped(np.arange(len(self.ids)) if positions is None else np.unique(positions))
        wanted = np.flatnonzero(counts >= at_least)
        return [(key, count, places[start:stop]) for key, count, start, stop in
                zip(keys[wanted].tolist(), counts[wanted].tolist(), starts[wanted].tolist(), stops[wanted].tolist())]

    def merge(self, key, places, new_id):
        """Replace a pair by `new_id`, left to right; `places` has all its positions, and perhaps some that it has left since.

        -> the pairs that there are no more, and the new ones, as (key, count, positions)
        """
        first, second = divmod(key, self.num_ids)
        left = places[(self.ids[places] == first) & (self.ids[self.after[places]] == second)]
        if first == second:
            left = self._without_overlaps(left)
        right = self.after[left]
        lost = self.pairs(np.concatenate((self.before[left], left, right)))
        self.ids[left], self.ids[right] = new_id, self.GONE
        self.after[left] = self.after[right]
        self.before[self.after[right]] = left
        return lost, self.pairs(np.concatenate((self.before[left], left)))

    def _without_overlaps(self, left):
        """Of positions that follow each other without a gap, the first, third, fifth..."""
        left = np.sort(left)
        number = np.arange(len(left))
        begins_run = np.append(True, self.after[left[:-1]] != left[1:])
        run_began = np.maximum.accumulate(np.where(begins_run, number, 0))
        return left[(number - run_began) % 2 == 0]

    def _grouped(self, positions):
        """The pairs that begin at positions, sorted by key. -> keys, counts, and the start and stop of each one's places"""
        left, right = self.ids[positions], self.ids[self.after[positions]]
        whole = (left >= 0) & (right >= 0)
        keys = left[whole].astype(np.int64) * self.num_ids + right[whole]
        places = positions[whole]
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        counts = np.add.reduceat(self.counts[places], starts) if len(starts) else starts
        return keys[starts], counts, starts, np.append(starts[1:], len(keys)), places


def apply_merges(ids, new_ids):
    """Merge the pairs of one piece in the order they were learned, until none is left; `new_ids` maps a pair to its token.
    apply_merges(b"hugs", {(117, 103): 256, (104, 256): 257}) -> [257, 115]

    A heap holds the merges that are possible, a linked list the neighbours, so that n bytes take n log n steps: a piece may be
    ten letters or ten million.
    """
    ids = list(ids)
    end = len(ids)
    right_of = list(range(1, end + 1))
    left_of = list(range(-1, end - 1))
    possible = [(new_ids[pair], left) for left, pair in enumerate(pairwise(ids)) if pair in new_ids]
    heapify(possible)                                   # the earliest merge first, and among equals the leftmost
    while possible:
        new_id, left = heappop(possible)
        right = right_of[left]
        if right == end or new_ids.get((ids[left], ids[right])) != new_id:
            continue                                    # one of the two has been merged into something else since
        after, before = right_of[right], left_of[left]
        ids[left], ids[right] = new_id, None
        right_of[left] = after
        if after < end:
            left_of[after] = left
            if (pair := (new_id, ids[after])) in new_ids:
                heappush(possible, (new_ids[pair], left))
        if before >= 0 and (pair := (ids[before], new_id)) in new_ids:
            heappush(possible, (new_ids[pair], before))
    return [token for token in ids if token is not None]


# --- The two tokenizers ---

class Tokenizer:
    """What both tokenizers share: special tokens, decoding, and their life on disk. Tokens are bytes; special tokens come last.

    A subclass knows its ordinary tokens: `_encode_ordinary(text)`, an array, `_ordinary_names()` and `_own_fields()`.
    """

    pattern = None          # of the split, where there is one

    def __init__(self, ordinary_tokens, special_tokens):
        self.special_tokens = tuple(special_tokens)
        self.token_bytes = list(ordinary_tokens) + [special.encode("utf-8") for special in self.special_tokens]
        self.dtype = np.dtype(np.uint16 if len(self.token_bytes) <= 1 << 16 else np.uint32)     # the smallest that holds every id
        self.special_ids = {special: len(ordinary_tokens) + index for index, special in enumerate(self.special_tokens)}
        self._special_pattern = regex.compile("(" + "|".join(map(regex.escape, self.special_tokens)) + ")")
        names = self.names()
        if len(set(names)) != len(names) or "" in names:
            twice = [name for name, count in Counter(names).items() if count > 1 or not name]
            raise ValueError(f"Every token needs a spelling of its own; these have none: {twice[:5]}.")

    @property
    def vocab_size(self):
        """Number of tokens, special ones included."""
        return len(self.token_bytes)

    @property
    def end_of_text(self):
        """The id of <|endoftext|>, or None where the vocabulary has no such token."""
        return self.special_ids.get(END_OF_TEXT)

    @property
    def fingerprint(self):
        """16 hexadecimal digits that are the same exactly where all ids mean the same."""
        return fingerprint(self.to_dict())

    def encode(self, text, allow_special=False):
        """The ids of a text. A text that spells a special token is ordinary text, unless `allow_special`.

        Raises ValueError, with the position, where the text has half a surrogate pair, which is no character.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"Character {error.start} of the text, {text[error.start]!r}, is half a surrogate pair and no character; "
                             "it cannot be encoded.") from None
        if not (allow_special and self.special_tokens):
            return self._encode_ordinary(text).tolist()
        ids = []
        for part in self._special_pattern.split(text):      # ordinary text and special tokens in turn
            ids += [self.special_ids[part]] if part in self.special_ids else self._encode_ordinary(part).tolist()
        return ids

    def encode_bytes(self, content):
        """The ids of bytes. With byte pairs decode_bytes(encode_bytes(content)) == content, whether it is UTF-8 or not.

        Raises ValueError where a character tokenizer finds a character that it does not know.
        """
        return self.encode_to_array(content).tolist()

    def encode_to_array(self, content):
        """The same as an array of `dtype`, for those who have much to encode."""
        return self._encode_ordinary(content.decode("utf-8", errors="surrogateescape"))

    def decode(self, ids):
        """The text of some ids; what is not UTF-8 becomes U+FFFD. Raises ValueError for an id outside the vocabulary."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids):
        """The bytes of some ids, exactly. Raises ValueError for an id outside the vocabulary."""
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(token for token in ids if not 0 <= token < self.vocab_size)
            raise ValueError(f"Token id {wrong} is outside the vocabulary, which has the ids 0 to {self.vocab_size - 1}.")
        return b"".join([self.token_bytes[token] for token in ids])

    def to_dict(self):
        """Everything the tokenizer is, in plain values; `from_dict` makes it again."""
        return {"format": FORMAT, "kind": self.kind, "special_tokens": list(self.special_tokens), **self._own_fields()}

    def save(self, folder, text_fingerprint=""):
        """Write the four JSON files, all or none. `text_fingerprint` names the text this was learned from."""
        names = self.names()
        written = {
            "stoi.json": _json({name: token for token, name in enumerate(names)}),
            "itos.json": _json({str(token): name for token, name in enumerate(names)}),
            "merges.json": _json(self._named_merges()),
        }
        written["vocab_size.json"] = _json({
            "format": FORMAT, "vocab_size": self.vocab_size, "kind": self.kind, "pattern": self.pattern,
            "special_tokens": list(self.special_tokens), "text_fingerprint": text_fingerprint,
            "hashes": {name: fingerprint(content) for name, content in written.items()}})
        replace_together(folder, {name: written[name] for name in FILES})

    def names(self):
        """Every token's printable name, by id: the keys of stoi.json."""
        return self._ordinary_names() + list(self.special_tokens)

    def _named_merges(self):
        return []


class BPETokenizer(Tokenizer):
    """Byte-level byte pair encoding: any bytes can be encoded, and come back as they were."""

    kind = "bpe"

    def __init__(self, merges, pattern="qwen2", special_tokens=(END_OF_TEXT,)):
        """merges: pairs of ids in the order learned; pair number n makes token 256 + n."""
        if pattern not in SPLIT_PATTERNS:
            raise ValueError(f"Split pattern {pattern!r} is not one of {', '.join(SPLIT_PATTERNS)}.")
        self.pattern = pattern
        self.merges = [tuple(pair) for pair in merges]
        tokens = [bytes([value]) for value in range(256)]
        for left, right in self.merges:
            if not (0 <= left < len(tokens) and 0 <= right < len(tokens)):
                raise ValueError(f"Merge {len(tokens) - 256} joins the tokens {left} and {right}, but only 0 to {len(tokens) - 1} exist by then.")
            tokens.append(tokens[left] + tokens[right])
            if len(tokens[-1]) > LONGEST_TOKEN:
                raise ValueError(f"Token {len(tokens) - 1} would have {len(tokens[-1]):,} bytes; a tokenizer like this was never learned from a text.")
        super().__init__(tokens, special_tokens)
        self._split = regex.compile(SPLIT_PATTERNS[pattern]).findall
        self._pieces = _PieceCache({pair: 256 + index for index, pair in enumerate(self.merges)}, self.dtype)

    @classmethod
    def train(cls, texts, vocab_size, pattern="qwen2", special_tokens=(END_OF_TEXT,)):
        """Learn from texts (an iterable of str) up to `vocab_size` tokens; fewer where the text has too few pairs.

        Raises ValueError where `vocab_size` has no room for the 256 bytes and the special tokens.
        """
        num_merges = cls.merges_for(vocab_size, special_tokens)
        return cls(learn_merges(count_pieces(texts, pattern), num_merges), pattern, special_tokens)

    @staticmethod
    def merges_for(vocab_size, special_tokens=(END_OF_TEXT,)):
        """How many merges a vocabulary has room for. Raises ValueError where it has not even room for the bytes."""
        smallest = 256 + len(special_tokens)
        if vocab_size < smallest:
            raise ValueError(f"vocab_size={vocab_size} is below the smallest possible, {smallest}: 256 bytes and {len(special_tokens)} special tokens.")
        return vocab_size - smallest

    def _encode_ordinary(self, text):
        return np.frombuffer(b"".join(map(self._pieces.__getitem__, self._split(text))), self.dtype)

    def _ordinary_names(self):
        return [token.decode("latin-1").translate(_PRINTABLE) for token in self.token_bytes[:256 + len(self.merges)]]

    def _named_merges(self):
        names = self._ordinary_names()
        return [[names[left], names[right]] for left, right in self.merges]

    def _own_fields(self):
        return {"pattern": self.pattern, "merges": [list(pair) for pair in self.merges]}


class CharTokenizer(Tokenizer):
    """One token a character. It knows the characters it was made from and no others."""

    kind = "char"

    def __init__(self, characters, special_tokens=()):
        """characters: the vocabulary, in the order of the ids."""
        self.characters = list(characters)
        if longer := [character for character in self.characters if len(character) != 1]:
            raise ValueError(f"The vocabulary of a character tokenizer has single characters, not {longer[0]!r}.")
        self._id_of_code = np.full(sys.maxunicode + 1, -1, np.int32)        # -1: unknown
        self._id_of_code[list(map(ord, self.characters))] = np.arange(len(self.characters))
        super().__init__([character.encode("utf-8") for character in self.characters], special_tokens)

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
            raise ValueError(f"This tokenizer knows single characters, and its text never had {listed}{' and others' if len(unknown) > 10 else ''}; "
                             f"the {len(self.characters)} it had are all it knows.")
        return ids.astype(self.dtype)

    def _ordinary_names(self):
        return self.characters

    def _own_fields(self):
        return {"characters": self.characters}


class StreamingDecoder:
    """Decodes token by token and hands out whole characters only: a character's bytes may be spread over several tokens."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token):
        """The text that has become certain with this token; often a word, sometimes nothing yet."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def end(self):
        """What is left when no token follows: nothing, or U+FFFD for half a character."""
        return self._decoder.decode(b"", final=True)


# --- From disk and from checkpoints ---

def from_dict(values):
    """The tokenizer that `to_dict` described. Raises ValueError where the values describe none."""
    try:
        if values["format"] > FORMAT:
            raise ValueError(f"The tokenizer is of format {values['format']}; this Folio reads up to {FORMAT}. A newer Folio is needed.")
        if values["kind"] == "bpe":
            return BPETokenizer(values["merges"], values["pattern"], values["special_tokens"])
        if values["kind"] == "char":
            return CharTokenizer(values["characters"], values["special_tokens"])
        raise ValueError(f"Tokenizer kind {values['kind']!r} is neither bpe nor char.")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"These values describe no tokenizer: {type(error).__name__} at {error}.") from None


def load(folder):
    """The tokenizer saved in `folder`. Raises FileNotFoundError or ValueError, with what to do, where there is none or it is damaged."""
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"No tokenizer in {folder}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. "
                                "Make one first: python init.py")
    contents = {name: (folder / name).read_bytes() for name in FILES}
    values = {}
    for name, content in contents.items():
        try:
            values[name] = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{folder / name} is not JSON ({error}). Make it again: python init.py") from None
    about = values["vocab_size.json"]
    try:
        changed = [name for name, known in about["hashes"].items() if fingerprint(contents[name]) != known]
        if changed:
            raise ValueError(f"{', '.join(changed)} is not the file that was written with vocab_size.json")
        ids = values["stoi.json"]
        ordinary = list(ids)[:len(ids) - len(about["special_tokens"])]
        tokenizer = from_dict({**about, "characters": ordinary, "merges": [[ids[left], ids[right]] for left, right in values["merges.json"]]})
        if tokenizer.names() != list(ids) or about["vocab_size"] != len(ids):
            raise ValueError("vocab_size.json does not describe the tokens in stoi.json")
        return tokenizer
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"The tokenizer in {folder} is damaged: {error}. Make it again: python init.py") from None


# --- Small parts ---

class _PieceCache(dict):
    """piece -> the bytes of the array of its ids, worked out when first asked for: joining bytes is the fastest way to join arrays.

    It is emptied when full: rare pieces are many, frequent ones come back at once.
    """

    def __init__(self, new_ids, dtype):
        self._new_ids = new_ids
        self._dtype = dtype

    def __missing__(self, piece):
        if len(self) >= CACHED_PIECES:
            self.clear()
        ids = np.array(apply_merges(_to_bytes(piece), self._new_ids), self._dtype).tobytes()
        if len(piece) < 100:                            # longer pieces hardly ever come twice
            self[piece] = ids
        return ids


def _to_bytes(piece):
    return piece.encode("utf-8", errors="surrogateescape")      # undecodable bytes travel through text as lone surrogates (PEP 383)


def _json(value):
    return (json.dumps(value, ensure_ascii=False, indent=0) + "\n").encode("utf-8")


def _printable_bytes():
    """GPT-2's alphabet: a printable character for each byte, itself where it is printable: 65 -> "A", 32 -> "Ġ"."""
    itself = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in itself]
    return {value: value for value in itself} | {value: 256 + index for index, value in enumerate(others)}


_PRINTABLE = _printable_bytes()
