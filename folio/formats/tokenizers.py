"""Tokenizers of other libraries, in and out: Hugging Face's tokenizer.json, GPT-2's vocab.json and merges.txt, tiktoken's rank file.

    from folio.formats.tokenizers import read, write
    write(load("tokenizer_save"), "huggingface", "tokenizer.json")
    tokenizer = read("tokenizer.json")

On the way out every id stays what it is. On the way in the segmentation stays: a text becomes the same token bytes in the same order.
The ids become Folio's (byte b is id b, then one id a merge, then the special tokens), so an import is for training a new model, and a
model that was trained on the foreign ids has no use for it.
"""

import base64
import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.files import refuse_foreign, replace_together, replacing
from folio.kernels.merging import apply_merges
from folio.kernels.splitting import SPLIT_PATTERNS
from tokenizer import END_OF_TEXT, BPETokenizer

MERGES_HEADER = "#version: 0.2"

# Other spellings of our split patterns: Qwen's own, where (?i:...) also takes "'ſ" for a contraction (the only difference), and tiktoken's.
_PATTERNS = {pattern: name for name, pattern in SPLIT_PATTERNS.items()} | {
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""": "qwen2",
    r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""": "gpt2",
}

# Parts of a tokenizer.json that do something to a text, or to its ids, which Folio never does.
DROPPABLE = {"normalizer": "changes a text before it is split", "post_processor": "adds tokens to every text",
             "truncation": "cuts long texts", "padding": "fills up short texts"}

# What marks a special token in a vocab.json, which has no other sign: it comes from no merge, and looks like <|endoftext|> or </s>.
_LOOKS_SPECIAL = re.compile(r"<[^<>]+>")


# --- Out ---

def write(tokenizer, format, path):
    """Write a BPETokenizer for another library, all ids as they are. path: a file; for "gpt2" a folder, which gets two.

    format: "huggingface", "gpt2" or "tiktoken". Raises FolioError where the format cannot say what the tokenizer does.
    """
    if tokenizer.kind != "bpe":
        raise FolioError(f"The tokenizer is one of characters, and the format {format} holds byte pairs only. Learn some: {command('init.py')}")
    ending = {"huggingface": ".json", "tiktoken": ".tiktoken"}.get(format)
    # Without an ending a folder may be meant, and transformers looks for a tokenizer.json in one.
    if ending and (Path(path).is_dir() or str(path).endswith(("/", os.sep)) or ending == ".json" and Path(path).suffix != ending):
        raise IsADirectoryError(f"{path} is a folder, or may be meant as one; the format {format} is one file. "
                                f"Name it, as in {Path(path) / 'tokenizer'}{ending}")
    for name, looks in _LOOKS[format].items():
        refuse_foreign(Path(path, name), f"a tokenizer in the format {format}", looks.match)
    WRITERS[format](tokenizer, Path(path))


def _write_tokenizer_json(tokenizer, path):
    """What tokenizers.Tokenizer.from_file and transformers' PreTrainedTokenizerFast(tokenizer_file=...) read.

    They take a special token for one wherever a text spells it, as encode(text, allow_special=True) does.
    """
    special = [{"id": token, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
               for name, token in tokenizer.special_ids.items()]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT_PATTERNS[tokenizer.pattern]}, "behavior": "Isolated", "invert": False}
    ordinary = tokenizer.names()[:256 + len(tokenizer.merges)]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {name: token for token, name in enumerate(ordinary)}, "merges": _merge_lines(tokenizer)}
    written = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
               "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
               "post_processor": None, "decoder": byte_level, "model": model}
    with replacing(path) as file:
        file.write(_json(written))


def _write_vocab_and_merges(tokenizer, folder):
    """GPT-2's two files. They do not say how text is split: GPT2Tokenizer splits as `gpt2` does."""
    replace_together(folder, {
        "vocab.json": _json({name: token for token, name in enumerate(tokenizer.names())}),
        "merges.txt": "\n".join([MERGES_HEADER, *_merge_lines(tokenizer), ""]).encode("utf-8")})


def _write_ranks(tokenizer, path):
    """What tiktoken.load.load_tiktoken_bpe reads: the ordinary tokens; split pattern and special tokens are told to tiktoken.Encoding.

    tiktoken joins any two neighbours that make a token, whichever pair it was learned from. That comes to the same as our merges where
    every token is what its own bytes become, which is so for all that was learned from a text. (load_tiktoken_bpe remembers a file by
    its path; who writes to the same path again sets TIKTOKEN_CACHE_DIR="", or it reads the old one.)
    """
    if never := _never_made(tokenizer):
        raise FolioError(f"A rank file cannot say what this tokenizer does: it never makes its token {never[0]}, "
                         f"{tokenizer.token_bytes[never[0]]!r}, where tiktoken would. The formats huggingface and gpt2 can.")
    with replacing(path) as file:
        for rank, token in enumerate(tokenizer.token_bytes[:256 + len(tokenizer.merges)]):
            file.write(b"%s %d\n" % (base64.b64encode(token), rank))


WRITERS = {"huggingface": _write_tokenizer_json, "gpt2": _write_vocab_and_merges, "tiktoken": _write_ranks}


# How their files begin, by name in the folder where there is one. Nothing else is written over.
_LOOKS = {"huggingface": {"": re.compile(rb'\s*\{\s*"version"\s*:')},
          "gpt2": {"vocab.json": re.compile(rb'\s*\{\s*"[^"]+"\s*:\s*\d'), "merges.txt": re.compile(rb"#version")},
          "tiktoken": {"": re.compile(rb"[A-Za-z0-9+/]+=* \d+\n")}}


# --- In ---

def read(*paths, pattern=None, drop=()):
    """The BPETokenizer in a tokenizer.json, a vocab.json and its merges.txt, a rank file, or a folder that has the first or the second.

    The same segmentation, with Folio's ids. pattern: the name of the split pattern, for files that do not say; drop: which of DROPPABLE
    to leave out of a tokenizer.json. Raises FileNotFoundError, or FolioError, with the file's name, for what Folio cannot do as well.
    """
    paths = [Path(path) for path in paths]
    if len(paths) == 1 and paths[0].is_dir():
        whole, *pair = (paths[0] / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
        paths = pair if not whole.exists() and pair[0].exists() else [whole]
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(f"There is no {missing[0]}. An import takes a tokenizer.json, a vocab.json and its merges.txt, or a rank file.")
    if len(paths) == 2:
        vocab, merges = sorted(paths, key=lambda path: path.suffix != ".json")
        return read_vocab_and_merges(vocab, merges, pattern)
    if len(paths) != 1:
        raise FolioError(f"A tokenizer lies in one file or two, not in {len(paths)}.")
    if paths[0].suffix != ".json":
        return read_ranks(paths[0], pattern)
    tokenizer = read_tokenizer_json(paths[0], drop)
    if pattern not in (None, tokenizer.pattern):
        raise FolioError(f"{paths[0]} says that it splits text as {tokenizer.pattern} does, not as {pattern}.")
    return tokenizer


def read_tokenizer_json(path, drop=()):
    """The byte-level BPE of a Hugging Face tokenizer.json, with Folio's ids. drop: which of DROPPABLE to leave out.

    A normalizer such as NFC is refused unless it is dropped; then the segmentation is the same for text that is in NFC already.
    """
    with _about(path, "a tokenizer.json"):
        values = _from_json(path)
        if "model" not in values:
            raise FolioError("it has no model. If it is a vocab.json, pass its merges.txt as well.")
        for part, does in DROPPABLE.items():
            kind = values.get(part) and values[part].get("type", "")
            if values.get(part) and part not in drop and (part, kind) != ("post_processor", "ByteLevel"):       # that one moves offsets alone
                raise FolioError(f"its {' '.join(filter(None, [part, kind]))} {does}, and Folio does not. Leave it out with --drop {part}.")
        model = values["model"]
        if model.get("type", "BPE") != "BPE":
            raise FolioError(f"its model is {model['type']}; Folio has byte-level BPE only.")
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
            if model.get(name):
                raise FolioError(f"its model has {name}={model[name]!r}, which byte-level BPE in Folio has not.")
        pattern = _pattern_of(values["pre_tokenizer"])
        added = values["added_tokens"]
        if odd := [token for token in added if not token["special"] or token["lstrip"] or token["rstrip"] or token["single_word"]]:
            what = "which is not special" if not odd[0]["special"] else "with lstrip, rstrip or single_word"
            raise FolioError(f"it has the added token {odd[0]['content']!r}, {what}; Folio adds special tokens only, and finds them anywhere.")
        special = {token["content"]: token["id"] for token in added}
        if moved := [name for name, token in special.items() if model["vocab"].get(name, token) != token]:
            raise FolioError(f"it gives {moved[0]!r} two ids, {special[moved[0]]} and {model['vocab'][moved[0]]}.")
        tokenizer = _from_names(model["vocab"] | special, model["merges"], special, pattern)
        if model.get("ignore_merges") and (never := _never_made(tokenizer)):
            raise FolioError(f"no merges make its token {tokenizer.token_bytes[never[0]]!r}, and ignore_merges=true, which Folio has not, does.")
    return tokenizer


def read_vocab_and_merges(vocab, merges, pattern):
    """The byte-level BPE of GPT-2's two files, with Folio's ids. What looks like <this> and comes from no merge is a special token."""
    with _about(vocab, "a vocab.json"):
        ids = _from_json(vocab)
    with _about(merges, "a merges.txt"):
        lines = merges.read_text(encoding="utf-8").splitlines()
        lines = [line for line in lines[lines[:1] and lines[0].startswith("#version"):] if line]
    with _about(f"{vocab} with {merges.name}", "a vocabulary with its merges"):
        made = {line.replace(" ", "") for line in lines}
        special = [name for name in ids if name not in made and _LOOKS_SPECIAL.fullmatch(name)]
        return _from_names(ids, lines, special, _stated(pattern))


def read_ranks(path, pattern, special_tokens=(END_OF_TEXT,)):
    """The byte-level BPE of a tiktoken rank file, with Folio's ids. The file has no special tokens: here are Folio's."""
    ranks = {}
    with _about(path, "a rank file"):
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                token, rank = line.split()
                token, rank = base64.b64decode(token, validate=True), int(rank)
            except ValueError:
                raise FolioError(f"line {number}, {line[:60]!r}, is not a token in base64 and its rank, as in a rank file.") from None
            if token in ranks:
                raise FolioError(f"line {number} has the token {token!r} again.")
            ranks[token] = rank
        _check_ids(ranks)
        _check_bytes(ranks, {bytes([value]): value for value in range(256)})
        merges = merges_of(token for token in sorted(ranks, key=ranks.get) if len(token) > 1)
        return BPETokenizer(merges, _stated(pattern), special_tokens)


def merges_of(tokens):
    """The merges that make some tokens, bytes in rank order: a rank file does not have them. Raises FolioError where none make a token.

    The earlier merges, applied to a token's own bytes, leave the two parts that its own merge joins: BPE gets to a token in one way
    only, whatever stands around it. (Karpathy's minbpe recovers those of GPT-4 so.)
    >>> merges_of([b"lo", b"low"])
    [(108, 111), (256, 119)]
    """
    new_ids = {}
    for token in tokens:
        parts = apply_merges(token, new_ids)
        if len(parts) != 2:
            raise FolioError(f"no merge makes the token {token!r}: the tokens before it leave {len(parts)} parts of it, not two.")
        new_ids[tuple(parts)] = 256 + len(new_ids)
    return list(new_ids)


def _from_names(ids, merges, special, pattern):
    """ids: name -> foreign id, of all tokens; merges: two names each, or "one two"; special: the names of the special tokens."""
    _check_ids(ids)
    made = {name: value for value, name in enumerate(BPETokenizer([], special_tokens=()).names())}
    _check_bytes(ids, made)
    pairs = []
    for number, merge in enumerate(merges, 1):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if len(parts) != 2:
            raise FolioError(f"merge {number}, {merge!r}, is not one of two tokens.")
        name = "".join(parts)
        if unmade := [part for part in parts if part not in made]:
            raise FolioError(f"merge {number}, {' '.join(parts)!r}, joins {unmade[0]!r}, which no merge before it makes.")
        if name not in ids:
            raise FolioError(f"merge {number}, {' '.join(parts)!r}, makes {name!r}, which is not in the vocabulary.")
        if name in made:
            raise FolioError(f"merge {number}, {' '.join(parts)!r}, makes {name!r} a second time; in Folio a token has one merge.")
        pairs.append([made[part] for part in parts])
        made[name] = len(made)
    if unreachable := [name for name in ids if name not in made and name not in special]:
        raise FolioError(f"no merge makes {len(unreachable):,} of its tokens, as {unreachable[0]!r}, and they are not special either.")
    return BPETokenizer(pairs, pattern, sorted(special, key=ids.get))


def _check_ids(ids):
    if holes := set(range(len(ids))) - set(ids.values()):
        raise FolioError(f"its {len(ids):,} tokens have not the ids 0 to {len(ids) - 1:,}: {min(holes)} is missing.")


def _check_bytes(ids, bytes_of):
    if missing := [value for name, value in bytes_of.items() if name not in ids]:
        raise FolioError(f"it has no token for {len(missing)} of the 256 bytes, as 0x{missing[0]:02X}; Folio encodes any bytes.")


def _pattern_of(pre_tokenizer):
    """The name of our split pattern that a tokenizer.json splits with."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer and pre_tokenizer["type"] == "Sequence" else [pre_tokenizer or {"type": "nothing"}]
    *splits, last = steps
    if last["type"] != "ByteLevel":
        raise FolioError(f"its pre-tokenizer is {' and '.join(step['type'] for step in steps)}; Folio has byte-level BPE only.")
    if last.get("add_prefix_space", True):
        raise FolioError("it puts a space before every text (add_prefix_space), and Folio does not.")
    if not splits and last.get("use_regex", True):
        return "gpt2"
    if len(splits) == 1 and splits[0]["type"] == "Split" and not last.get("use_regex", True):
        how = splits[0]["pattern"].get("Regex"), splits[0]["behavior"], splits[0]["invert"]
        if how[0] in _PATTERNS and how[1:] == ("Isolated", False):
            return _PATTERNS[how[0]]
    ours = ", ".join(f"{name} {pattern}" for name, pattern in SPLIT_PATTERNS.items())
    theirs = json.dumps(splits[0].get("pattern", splits[0]) if len(splits) == 1 else steps, ensure_ascii=False)
    raise FolioError(f"it splits text with {theirs}; Folio has only {ours}.")


def _stated(pattern):
    if pattern is None:
        raise FolioError(f"it does not say how text is split; you have to: --pattern {' or --pattern '.join(SPLIT_PATTERNS)}.")
    return pattern


# --- Small parts ---

def _never_made(tokenizer):
    """The ids of merges that are there and never happen: even the token's own bytes become something else."""
    new_ids = {pair: 256 + index for index, pair in enumerate(tokenizer.merges)}
    return [token for token in new_ids.values() if apply_merges(tokenizer.token_bytes[token], new_ids) != [token]]


def _merge_lines(tokenizer):
    names = tokenizer.names()
    return [f"{names[left]} {names[right]}" for left, right in tokenizer.merges]


def _json(values):
    return (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def _from_json(path):
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FolioError(f"it is not JSON ({error}).") from None
    if not isinstance(values, dict):
        raise FolioError("it holds no JSON object.")
    return values


@contextmanager
def _about(path, kind):
    """Whatever is wrong with a file is said with its name."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise FolioError(f"{path} cannot be imported: it is not made as {kind} is, {type(error).__name__} at {error}.") from None
    except ValueError as error:
        raise FolioError(f"{path} cannot be imported: {error}") from None
