"""Convert text to token ids and back: byte-level byte pair encoding from scratch, and a tokenizer of characters.

    >>> from tokenizer import BPETokenizer
    >>> tokenizer = BPETokenizer.train(["low lower lowest"], vocab_size=260)
    >>> tokenizer.encode("slowest")
    [115, 257, 101, 115, 116]
    >>> tokenizer.decode([115, 257, 101, 115, 116])
    'slowest'

Byte pair encoding (Gage, 1994; Sennrich et al., 2016) first splits a text into pre-tokens: words, numbers, punctuation.
A pre-token begins as a list of bytes. Training merges the most frequent pair of adjacent tokens into a new token, again
and again. No merge reaches across two pre-tokens. This is the whole definition of training:

    >>> from collections import Counter
    >>> from itertools import pairwise
    >>> def merge_pair(ids, pair, new_id):
    ...     '''Replace `pair` by `new_id`, left to right; where two matches overlap, the left one wins.'''
    ...     merged = []
    ...     while ids:
    ...         matches = tuple(ids[:2]) == pair
    ...         merged.append(new_id if matches else ids[0])
    ...         ids = ids[2:] if matches else ids[1:]
    ...     return merged
    >>> merge_pair([1, 1, 1, 2], (1, 1), 9)
    [9, 1, 2]
    >>> pretokens, merges = [list(b"low"), list(b" lower"), list(b" lowest")], {}
    >>> for new_id in range(256, 259):
    ...     counts = Counter(pair for ids in pretokens for pair in pairwise(ids))
    ...     best = min(counts, key=lambda pair: (-counts[pair], pair))      # ties go to the smallest pair of ids
    ...     merges[best] = new_id
    ...     pretokens = [merge_pair(ids, best, new_id) for ids in pretokens]
    >>> list(merges) == tokenizer.merges
    True

Encoding repeats the merges in the order they were learned:

    >>> ids = list(b"slowest")
    >>> for pair, new_id in merges.items():
    ...     ids = merge_pair(ids, pair, new_id)
    >>> ids
    [115, 257, 101, 115, 116]

folio/kernels/merging.py does both faster with the same results, and folio/kernels/splitting.py splits text.
Ids: byte b is id b, then one id per merge in the order learned, then the special tokens.
"""

import codecs
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import regex

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.files import fingerprint, finish_replacing, ordinary, replace_together
from folio.kernels.merging import MergeTable, PretokenCache, apply_merges, gather_runs, learn_merges
from folio.kernels.splitting import LONG_TEXT, SPLIT_PATTERNS, count_pretokens, distinct_pretokens, splitter

END_OF_TEXT = "<|endoftext|>"
# What ends a document in other tokenizers: GPT-2, Llama 3, Llama and RoBERTa, Gemma and others, ChatML.
END_TOKENS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<EOS>", "[EOS]", "<|im_end|>")
FORMAT = 1                              # version of the four JSON files and of to_dict()
FILES = ("stoi.json", "itos.json", "merges.json", "vocab_size.json")        # the last one has the hashes of the others
MAX_TOKEN_BYTES = 1 << 20               # of one token: each merge in a file may double the longest token
MAX_VOCAB_BYTES = 1 << 25               # of all tokens together: MAX_LEARNED_BYTES each of 131,072
MAX_SPECIAL_TOKENS = 1 << 14            # a text is searched with one pattern of all of them


class Tokenizer:
    """What both tokenizers share: special tokens, decoding and files. Tokens are bytes; special tokens come last.

    A subclass defines `kind`, `_encode_ordinary(text)`, which returns an array, and `_own_fields()`.
    """

    kind: str
    pattern: str | None = None          # name of the split pattern; None: text is not split

    def __init__(self, ordinary_tokens: Sequence[bytes], ordinary_names: Sequence[str], special_tokens: Iterable[str]):
        """ordinary_tokens: the bytes of each token, by id; ordinary_names: its printable name."""
        self.special_tokens = tuple(special_tokens)
        if len(self.special_tokens) > MAX_SPECIAL_TOKENS:
            raise FolioError(f"A tokenizer may have {MAX_SPECIAL_TOKENS:,} special tokens, "
                             f"and this one has {len(self.special_tokens):,}.")
        self.token_bytes = [*ordinary_tokens, *(special.encode("utf-8") for special in self.special_tokens)]
        self._names = [*ordinary_names, *self.special_tokens]
        self.dtype = np.dtype(np.uint16 if len(self.token_bytes) <= 1 << 16 else np.uint32)     # holds every id
        self.special_ids = {special: len(ordinary_tokens) + index for index, special in enumerate(self.special_tokens)}
        if len(set(self._names)) != len(self._names) or "" in self._names:
            duplicates = [name for name, count in Counter(self._names).items() if count > 1 or not name]
            raise FolioError(f"Tokens must be distinct and not empty; these are not: {duplicates[:5]}.")

    @cached_property
    def _special_pattern(self):
        longest_first = sorted(self.special_tokens, key=len, reverse=True)      # one may be a prefix of another
        return regex.compile("(" + "|".join(map(regex.escape, longest_first)) + ")")

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special tokens included."""
        return len(self.token_bytes)

    @property
    def end_of_text(self) -> int | None:
        """Id of the special token that ends a document: the first of END_TOKENS that the tokenizer has."""
        return next((self.special_ids[name] for name in END_TOKENS if name in self.special_ids), None)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, equal for two tokenizers exactly where all their ids mean the same."""
        return fingerprint(self.to_dict())

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of a text. A spelled-out special token is ordinary text, unless `allow_special`.

        Raises FolioError, with the position, for half a surrogate pair, which is not a character.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise FolioError(f"Character {error.start} of the text, {text[error.start]!r}, is half a surrogate pair "
                             "and no character; it cannot be encoded.") from None
        if not (allow_special and self.special_tokens):
            return self._encode_ordinary(text).tolist()
        ids = []
        for part in self._special_pattern.split(text):      # ordinary text and special tokens alternate
            ids += [self.special_ids[part]] if part in self.special_ids else self._encode_ordinary(part).tolist()
        return ids

    def encode_bytes(self, content: bytes) -> list[int]:
        """Return the ids of bytes, valid UTF-8 or not. With BPE decode_bytes(encode_bytes(content)) == content.

        Raises FolioError where a character tokenizer does not know a character.
        """
        return self.encode_to_array(content).tolist()

    def encode_to_array(self, content: bytes) -> np.ndarray:
        """Return the ids of bytes as an array of `dtype`, which is faster than a list."""
        return self._encode_ordinary(content.decode("utf-8", errors="surrogateescape"))

    def encode_many(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all texts, concatenated, and the number of ids up to the end of each text."""
        ids = [self._encode_ordinary(text) for text in texts]
        return np.concatenate([np.empty(0, self.dtype), *ids]), np.cumsum(list(map(len, ids)), dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; invalid UTF-8 becomes U+FFFD. Raises FolioError for an id outside the vocabulary."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the exact bytes of ids. Raises FolioError for an id outside the vocabulary."""
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(token for token in ids if not 0 <= token < self.vocab_size)
            raise FolioError(f"Token id {wrong} is outside the vocabulary, which has the ids 0 to "
                             f"{self.vocab_size - 1}.")
        return b"".join([self.token_bytes[token] for token in ids])

    def resegment(self, windows: Sequence[np.ndarray], dropout: float, random: np.random.Generator) -> list[np.ndarray]:
        """Encode the text of each window, an array of ids, anew with BPE-dropout; characters give the same ids."""
        return list(windows)

    def to_dict(self) -> dict:
        """Return everything that defines the tokenizer as plain values; `from_dict` makes it again."""
        return {"format": FORMAT, "kind": self.kind, "special_tokens": list(self.special_tokens), **self._own_fields()}

    def with_special_tokens(self, added: Iterable[str]) -> "Tokenizer":
        """Return a tokenizer with more special tokens after all others, whose ids do not change."""
        return from_dict(self.to_dict() | {"special_tokens": [*self.special_tokens, *added]})

    def save(self, folder: str | Path, text_fingerprint: str = "") -> None:
        """Write the four JSON files, all or none. text_fingerprint: identifies the text this was learned from."""
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

    def names(self) -> list[str]:
        """Return the printable name of each token, by id: the keys of stoi.json."""
        return list(self._names)

    def _named_merges(self):
        return []


class BPETokenizer(Tokenizer):
    """Byte-level byte pair encoding: it encodes any bytes and decodes them exactly."""

    kind = "bpe"

    def __init__(self, merges: Iterable[tuple[int, int]], pattern: str = "qwen2",
                 special_tokens: Iterable[str] = (END_OF_TEXT,)):
        """merges: pairs of ids in the order learned; pair n makes token 256 + n."""
        if pattern not in SPLIT_PATTERNS:
            raise FolioError(f"Split pattern {pattern!r} is not one of {', '.join(SPLIT_PATTERNS)}.")
        self.pattern = pattern
        self.merges = list(map(tuple, merges))
        super().__init__(*self._tokens_and_names(), special_tokens)
        self._split = splitter(pattern)
        self._cache = PretokenCache(MergeTable(self.merges), self.dtype)

    def _tokens_and_names(self):
        """Return the bytes and the printable name of each ordinary token. Raises FolioError for impossible merges."""
        tokens, names = [bytes([value]) for value in range(256)], [chr(_PRINTABLE[value]) for value in range(256)]
        known, size = set(tokens), len(tokens)          # a file may contain anything, so its memory is bounded
        for left, right in self.merges:
            if left < 0 or right < 0 or left >= len(tokens) or right >= len(tokens):
                raise FolioError(f"Merge {len(tokens) - 256} joins the tokens {left} and {right}, "
                                 f"but only 0 to {len(tokens) - 1} exist by then.")
            token = tokens[left] + tokens[right]
            if len(token) > MAX_TOKEN_BYTES:
                raise FolioError(f"Token {len(tokens)} would have {len(token):,} bytes; "
                                 "a tokenizer like this was never learned from a text.")
            if (size := size + len(token)) > MAX_VOCAB_BYTES:
                raise FolioError(f"The first {len(tokens) + 1:,} tokens would have more than {MAX_VOCAB_BYTES:,} bytes "
                                 "together; a tokenizer like this was never learned from a text.")
            tokens.append(token)
            names.append(names[left] + names[right])
            if token in known:
                raise FolioError(f"Tokens must be distinct and not empty; these are not: {names[-1:]}.")
            known.add(token)
        return tokens, names

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, pattern: str = "qwen2",
              special_tokens: Iterable[str] = (END_OF_TEXT,)) -> "BPETokenizer":
        """Learn up to `vocab_size` tokens from texts; fewer where no pair occurs twice any more.

        Raises FolioError where `vocab_size` has no room for the 256 bytes and the special tokens.
        """
        num_merges = cls.merges_for(vocab_size, special_tokens)
        return cls(learn_merges(count_pretokens(texts, pattern), num_merges), pattern, special_tokens)

    @staticmethod
    def merges_for(vocab_size: int, special_tokens: Sequence[str] = (END_OF_TEXT,)) -> int:
        """Return how many merges a vocabulary has room for. Raises FolioError where it has no room for the bytes."""
        smallest = 256 + len(special_tokens)
        if vocab_size < smallest:
            raise FolioError(f"vocab_size={vocab_size} is below the smallest possible, {smallest}: "
                             f"256 bytes and {len(special_tokens)} special tokens.")
        return vocab_size - smallest

    def _encode_ordinary(self, text):
        if len(text) >= LONG_TEXT:
            return self.encode_many([text])[0]
        return np.frombuffer(b"".join(map(self._cache.__getitem__, self._split(text))), self.dtype)

    def encode_pretoken(self, content: bytes) -> list[int]:
        """Return the ids of bytes as one pre-token, whether the pattern would split them or not."""
        return apply_merges(content, self._cache.merges.new_ids)

    def encode_many(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        pretokens, indices, ends = distinct_pretokens(texts, self.pattern)
        found = self._cache.get_many(pretokens)
        counts = np.fromiter(map(len, found), np.int64, len(found)) // self.dtype.itemsize
        firsts = np.cumsum(counts) - counts
        ids = gather_runs(np.frombuffer(b"".join(found), self.dtype), firsts[indices], counts[indices])
        return ids, np.append(0, np.cumsum(counts[indices]))[ends]

    def resegment(self, windows: Sequence[np.ndarray], dropout: float, random: np.random.Generator) -> list[np.ndarray]:
        """Encode the text of each window anew with BPE-dropout (Provilkov et al., 2020), mostly into more tokens.

        windows: arrays of ids; dropout: the share of merges that is skipped. Special tokens stay as they are.
        """
        first_special = 256 + len(self.merges)
        parts, texts, places = [[] for _ in windows], [], []        # places: the window and part that each text fills
        for window, ids in enumerate(windows):
            special = np.flatnonzero(ids >= first_special)
            for part in np.split(ids, np.union1d(special, special + 1)):
                if len(part) and part[0] < first_special:
                    texts.append(self.decode_bytes(part.tolist()).decode("utf-8", errors="surrogateescape"))
                    places.append((window, len(parts[window])))
                parts[window].append(part)
        pretokens, indices, ends = distinct_pretokens(texts, self.pattern)
        ids, counts = self._cache.merges.segment(pretokens, indices, dropout, random)
        ends = np.append(0, np.cumsum(counts))[ends]
        for (window, place), part in zip(places, np.split(ids, ends[:-1])):
            parts[window][place] = part
        return [np.concatenate(window_parts) for window_parts in parts]

    def _named_merges(self):
        return [[self._names[left], self._names[right]] for left, right in self.merges]

    def _own_fields(self):
        return {"pattern": self.pattern, "merges": [list(pair) for pair in self.merges]}


class CharTokenizer(Tokenizer):
    """One token per character. It encodes only the characters of the text it was made from."""

    kind = "char"

    def __init__(self, characters: Iterable[str], special_tokens: Iterable[str] = ()):
        """characters: the vocabulary, in the order of the ids."""
        self.characters = list(characters)
        if longer := [character for character in self.characters if len(character) != 1]:
            raise FolioError(f"The vocabulary of a character tokenizer has single characters, not {longer[0]!r}.")
        self._id_of_code = np.full(sys.maxunicode + 1, -1, np.int32)        # -1: unknown
        self._id_of_code[list(map(ord, self.characters))] = np.arange(len(self.characters))
        super().__init__([character.encode("utf-8") for character in self.characters], self.characters, special_tokens)

    @classmethod
    def train(cls, texts: Iterable[str], special_tokens: Iterable[str] = ()) -> "CharTokenizer":
        """Take the sorted characters of texts as the vocabulary."""
        return cls(sorted(set().union(*texts)), special_tokens)

    def unknown_characters(self, text: str) -> list[str]:
        """Return the characters of a text that have no token, sorted."""
        return sorted(set(text) - set(self.characters))

    def _encode_ordinary(self, text):
        codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
        ids = self._id_of_code[codes]
        if ids.size and ids.min() < 0:
            unknown = self.unknown_characters(text)
            listed = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in unknown[:10])
            others = " and others" if len(unknown) > 10 else ""
            raise FolioError(f"This character tokenizer has no token for {listed}{others}; it can encode only "
                             f"the {len(self.characters)} characters of the text it was made from.")
        return ids.astype(self.dtype)

    def _own_fields(self):
        return {"characters": self.characters}


class StreamingDecoder:
    """Decode token by token into whole characters: the bytes of a character may be spread over several tokens."""

    def __init__(self, tokenizer: Tokenizer, skip: int = 0):
        """skip: number of bytes at the beginning to leave out."""
        self._tokenizer = tokenizer
        self._skip = skip
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """Return the text that this token completes: often a word, sometimes nothing yet."""
        content = self._tokenizer.decode_bytes([token])
        known, self._skip = self._skip, max(0, self._skip - len(content))
        return self._decoder.decode(content[known:])

    def end(self) -> str:
        """Return what is left when no token follows: nothing, or U+FFFD for an incomplete character."""
        return self._decoder.decode(b"", final=True)


# --- From files and from plain values ---

def size_of(values: dict) -> int:
    """Return the vocabulary size of the tokenizer that `to_dict` described, without making it."""
    ordinary = 256 + len(values["merges"]) if values["kind"] == "bpe" else len(values["characters"])
    return ordinary + len(values["special_tokens"])


def from_dict(values: dict) -> Tokenizer:
    """Return the tokenizer that `to_dict` described. Raises FolioError where the values describe none."""
    try:
        if values["format"] > FORMAT:
            raise FolioError(f"The tokenizer is of format {values['format']}; this Folio reads up to {FORMAT}. "
                             "A newer Folio is needed.")
        if values["kind"] == "bpe":
            return BPETokenizer(values["merges"], values["pattern"], values["special_tokens"])
        if values["kind"] == "char":
            return CharTokenizer(values["characters"], values["special_tokens"])
        raise FolioError(f"Tokenizer kind {values['kind']!r} is neither bpe nor char.")
    except FolioError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FolioError(f"These values describe no tokenizer: {type(error).__name__} at {error}.") from None


def load(folder: str | Path) -> Tokenizer:
    """Load a saved tokenizer. Raises FileNotFoundError where there is none, FolioError where it is damaged."""
    folder = Path(folder)
    finish_replacing(folder)
    if missing := [name for name in FILES if not (folder / name).exists()]:
        raise FileNotFoundError(f"No tokenizer in {folder}: {', '.join(missing)} "
                                f"{'is' if len(missing) == 1 else 'are'} missing. Make one first: {command('init.py')}")
    contents = {}
    for name in FILES:
        with open(folder / name, "rb", opener=ordinary) as file:
            contents[name] = file.read()
    try:
        # itos.json is stoi.json inverted: only its hash is checked.
        ids, merges, metadata = (_parsed(name, contents[name]) for name in FILES if name != "itos.json")
        tokenizer = from_dict({**metadata, **_from_names(ids, merges, metadata)})
        if tokenizer.names() != list(ids) or metadata["vocab_size"] != len(ids):
            raise FolioError("vocab_size.json does not describe the tokens in stoi.json")
        if changed := [name for name, digest in metadata["hashes"].items() if fingerprint(contents[name]) != digest]:
            raise FolioError(f"{', '.join(changed)} is not the file that was written with vocab_size.json")
        return tokenizer
    except ValueError as error:
        raise FolioError(f"The tokenizer in {folder} cannot be used: {str(error).rstrip('.')}. "
                         f"Make it again: {command('init.py')}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise FolioError(f"The tokenizer in {folder} cannot be used: vocab_size.json has an unexpected structure "
                         f"({type(error).__name__} at {error}). Make it again: {command('init.py')}") from None


def _parsed(name, content):
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FolioError(f"{name} is not JSON ({error})") from None


def _from_names(ids, merges, metadata):
    """Return the characters and merges for from_dict. ids: {name: id}; merges: [[left name, right name]]."""
    if not isinstance(ids, dict):
        raise FolioError("stoi.json does not map tokens to ids")
    if not (isinstance(merges, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in merges)):
        raise FolioError("merges.json is not a list of pairs")
    if (sorted_ids := sorted(ids.values())) != list(range(len(ids))):
        hole = min(set(range(len(ids))) - set(sorted_ids))
        raise FolioError(f"stoi.json has a hole: no token has the id {hole}")
    ordinary = len(ids) - len(metadata["special_tokens"])
    if metadata["kind"] == "bpe" and 256 + len(merges) != ordinary:
        raise FolioError(f"merges.json has {len(merges)} merges, and stoi.json has tokens for {ordinary - 256}")
    try:
        return {"characters": list(ids)[:ordinary], "merges": [(ids[left], ids[right]) for left, right in merges]}
    except KeyError as error:
        raise FolioError(f"merges.json joins {error}, which is not a token in stoi.json") from None


def _json(value):
    return (json.dumps(value, ensure_ascii=False, indent=0) + "\n").encode("utf-8")


def _printable_bytes():
    """Return GPT-2's alphabet, a printable character per byte: itself if it is printable, as 65 -> "A", 32 -> "Ġ"."""
    itself = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in itself]
    return {value: value for value in itself} | {value: 256 + index for index, value in enumerate(others)}


_PRINTABLE = _printable_bytes()


if __name__ == "__main__":
    from folio.base.startup import list_commands
    list_commands("python tokenizer.py")
