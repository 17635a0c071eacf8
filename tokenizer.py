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
from collections import Counter, defaultdict
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise
from pathlib import Path

import regex

from folio.files import fingerprint, replace_together

END_OF_TEXT = "<|endoftext|>"
FORMAT = 1                                              # of the four JSON files and of to_dict()
FILES = ("stoi.json", "itos.json", "merges.json", "vocab_size.json")      # the last one vouches for the others
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

    The pairs are counted once. After that a merge changes the counts only in the words that hold its pair, and a heap finds the
    next pair: a change pushes an entry, and an entry whose count is no longer true is passed over when it comes up.
    """
    words = [list(_to_bytes(piece)) for piece in piece_counts]
    word_counts = list(piece_counts.values())
    pair_counts = Counter()
    words_with = defaultdict(set)                       # pair -> indices of the words that hold it (or once held it)
    for index, (word, count) in enumerate(zip(words, word_counts)):
        for pair in pairwise(word):
            pair_counts[pair] += count
            words_with[pair].add(index)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapify(heap)

    for new_id in range(256, 256 + num_merges):
        while heap and -heap[0][0] != pair_counts[heap[0][1]]:
            heappop(heap)
        if not heap or heap[0][0] > -2:                 # a pair seen once teaches nothing
            return
        best = heappop(heap)[1]
        yield best

        changes = Counter()
        for index in words_with.pop(best):
            before, count = words[index], word_counts[index]
            after = words[index] = merge_pair(before, best, new_id)
            for pair in pairwise(before):
                changes[pair] -= count
            for pair in pairwise(after):
                changes[pair] += count
                if new_id in pair:
                    words_with[pair].add(index)
        for pair, change in changes.items():
            if change:
                pair_counts[pair] += change
                heappush(heap, (-pair_counts[pair], pair))


def merge_pair(ids, pair, new_id):
    """Replace `pair` by `new_id`, left to right; where two matches overlap, the left one wins.
    merge_pair([1, 1, 1, 2], (1, 1), 9) -> [9, 1, 2]
    """
    first, second = pair
    merged, position, last = [], 0, len(ids) - 1
    while position <= last:
        if ids[position] == first and position < last and ids[position + 1] == second:
            merged.append(new_id)
            position += 2
        else:
            merged.append(ids[position])
            position += 1
    return merged


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

    A subclass knows its ordinary tokens: `_encode_ordinary(text)`, `_ordinary_names()` and `_own_fields()`.
    """

    def __init__(self, ordinary_tokens, special_tokens):
        self.special_tokens = tuple(special_tokens)
        self.token_bytes = list(ordinary_tokens) + [special.encode("utf-8") for special in self.special_tokens]
        self.special_ids = {special: len(ordinary_tokens) + index for index, special in enumerate(self.special_tokens)}
        self._special_pattern = regex.compile("(" + "|".join(map(regex.escape, self.special_tokens)) + ")")
        names = self._names()
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
            return self._encode_ordinary(text)
        ids = []
        for part in self._special_pattern.split(text):      # ordinary text and special tokens in turn
            ids += [self.special_ids[part]] if part in self.special_ids else self._encode_ordinary(part)
        return ids

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
        names = self._names()
        written = {
            "stoi.json": _json({name: token for token, name in enumerate(names)}),
            "itos.json": _json({str(token): name for token, name in enumerate(names)}),
            "merges.json": _json(self._named_merges()),
        }
        written["vocab_size.json"] = _json({
            "format": FORMAT, "vocab_size": self.vocab_size, "kind": self.kind, "pattern": getattr(self, "pattern", None),
            "special_tokens": list(self.special_tokens), "text_fingerprint": text_fingerprint,
            "hashes": {name: fingerprint(content) for name, content in written.items()}})
        replace_together(folder, {name: written[name] for name in FILES})

    def _names(self):
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
        super().__init__(tokens, special_tokens)
        self._split = regex.compile(SPLIT_PATTERNS[pattern]).findall
        self._pieces = _PieceCache({pair: 256 + index for index, pair in enumerate(self.merges)})

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

    def encode_bytes(self, content):
        """The ids of any bytes, UTF-8 or not: decode_bytes(encode_bytes(content)) == content, always."""
        return self._encode_ordinary(content.decode("utf-8", errors="surrogateescape"))

    def _encode_ordinary(self, text):
        return list(chain.from_iterable(map(self._pieces.__getitem__, self._split(text))))

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
        self._ids = {character: token for token, character in enumerate(self.characters)}
        super().__init__([character.encode("utf-8") for character in self.characters], special_tokens)

    @classmethod
    def train(cls, texts, special_tokens=()):
        """Take the sorted characters of texts (an iterable of str) as the vocabulary."""
        return cls(sorted(set().union(*texts)), special_tokens)

    def encode_bytes(self, content):
        """The ids of the characters that these bytes spell in UTF-8. Raises ValueError where they spell none, or one unknown."""
        return self._encode_ordinary(content.decode("utf-8"))

    def unknown_characters(self, text):
        """The characters of a text that have no token, sorted."""
        return sorted(set(text) - self._ids.keys())

    def _encode_ordinary(self, text):
        try:
            return [self._ids[character] for character in text]
        except KeyError:
            unknown = self.unknown_characters(text)
            listed = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in unknown[:10])
            raise ValueError(f"This tokenizer knows single characters, and its text never had {listed}{' and others' if len(unknown) > 10 else ''}; "
                             f"the {len(self.characters)} it had are all it knows.") from None

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
        if tokenizer._names() != list(ids) or about["vocab_size"] != len(ids):
            raise ValueError("vocab_size.json does not describe the tokens in stoi.json")
        return tokenizer
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"The tokenizer in {folder} is damaged: {error}. Make it again: python init.py") from None


# --- Small parts ---

class _PieceCache(dict):
    """piece -> its ids, worked out when first asked for. It is emptied when full: rare pieces are many, frequent ones come back at once."""

    def __init__(self, new_ids):
        self._new_ids = new_ids

    def __missing__(self, piece):
        if len(self) >= CACHED_PIECES:
            self.clear()
        ids = apply_merges(_to_bytes(piece), self._new_ids)
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
