"""Write and read the tokenizer files of other libraries: Hugging Face, GPT-2 and tiktoken.

    from folio.formats.tokenizers import read, write
    write(load("tokenizer_save"), "huggingface", "tokenizer.json")
    tokenizer = read("tokenizer.json")

An export keeps every id. An import keeps the segmentation: a text becomes the same token bytes in the same order. Its
ids become Folio's (byte b is id b, then one id per merge, then the special tokens). So an import serves to train a new
model; a model that was trained on the original ids cannot use it.

The formats. A token's name is its bytes in GPT-2's alphabet, a printable character per byte; a merge is two names.

"huggingface"   tokenizer.json, of the tokenizers library. One JSON object:
    model           type "BPE", vocab {name: id}, merges ["left right"] or [["left", "right"]], and options
    added_tokens    special tokens [{id, content, special, lstrip, rstrip, single_word, normalized}]
    pre_tokenizer   how text is split: a Split by a regular expression, then ByteLevel, which names the bytes; or
                    ByteLevel alone, which splits with GPT-2's pattern
    decoder         ByteLevel
    normalizer, post_processor, truncation, padding     null in our files; see DROPPABLE
"gpt2"          a folder with two files:
    vocab.json      {name: id} of all tokens, special ones included
    merges.txt      "#version: 0.2", then one merge per line, "left right", in the order learned
"tiktoken"      a rank file: one line per token, its bytes in base64, a space and its id. No merges, no special tokens.

The last two do not contain the split pattern.
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
from tokenizer import END_OF_TEXT, SPLIT_PATTERNS, BPETokenizer, apply_merges

MERGES_HEADER = "#version: 0.2"        # first line of merges.txt

# Other spellings of our split patterns: Qwen's own and tiktoken's for GPT-2. The first has one difference: its (?i:...)
# also takes "'ſ" for a contraction.
_PATTERNS = {pattern: name for name, pattern in SPLIT_PATTERNS.items()} | {
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"""
    r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""": "qwen2",
    r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""": "gpt2",
}

# Parts of a tokenizer.json that change a text or its ids in a way that Folio never does.
DROPPABLE = {"normalizer": "changes a text before it is split", "post_processor": "adds tokens to every text",
             "truncation": "cuts long texts", "padding": "fills up short texts"}

# A vocab.json does not mark its special tokens. They are those that no merge makes and that look like <|endoftext|>.
_LOOKS_SPECIAL = re.compile(r"<[^<>]+>")


# --- Export ---

def write(tokenizer, format, path):
    """Write a BPETokenizer for another library, with the same ids. path: a file; for "gpt2" a folder for two files.

    format: "huggingface", "gpt2" or "tiktoken". Raises FolioError where the format cannot represent the tokenizer, and
    FileExistsError where another kind of file is at the path.
    """
    if tokenizer.kind != "bpe":
        raise FolioError(f"The format {format} stores byte pair encoding, and this tokenizer is one of characters. "
                         f"Learn another tokenizer: {command('init.py')}")
    suffix = {"huggingface": ".json", "tiktoken": ".tiktoken"}.get(format)
    # A path without a suffix may be meant as a folder: transformers looks for a tokenizer.json in one.
    names_folder = Path(path).is_dir() or str(path).endswith(("/", os.sep))
    if suffix and (names_folder or suffix == ".json" and Path(path).suffix != suffix):
        raise IsADirectoryError(f"{path} is a folder, or may be meant as one; the format {format} is one file. "
                                f"Name it, as in {Path(path) / 'tokenizer'}{suffix}")
    for name, beginning in _BEGINNINGS[format].items():
        refuse_foreign(Path(path, name), f"a tokenizer in the format {format}", beginning.match)
    WRITERS[format](tokenizer, Path(path))


def tokenizer_json(tokenizer):
    """Return the content of a tokenizer.json, in bytes, with the ids of a BPETokenizer.

    tokenizers.Tokenizer.from_file and transformers.PreTrainedTokenizerFast(tokenizer_file=...) read it. They encode a
    spelled-out special token as special, like encode(text, allow_special=True).
    """
    special = [{"id": token, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for name, token in tokenizer.special_ids.items()]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT_PATTERNS[tokenizer.pattern]},
             "behavior": "Isolated", "invert": False}
    ordinary = tokenizer.names()[:256 + len(tokenizer.merges)]
    model = {"type": "BPE", "dropout": None, "unk_token": None,
             "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {name: token for token, name in enumerate(ordinary)}, "merges": _merge_lines(tokenizer)}
    return _json({"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
                  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
                  "post_processor": None, "decoder": byte_level, "model": model})


def tokenizer_config(tokenizer, block_size):
    """Return what the tokenizer_config.json beside a tokenizer.json says to transformers, as plain values.

    block_size: tokens in the model's context. The class is named because transformers would otherwise derive one from
    the model's architecture, and that of Qwen normalizes every text (NFC).
    """
    end = None if tokenizer.end_of_text is None else tokenizer.names()[tokenizer.end_of_text]
    return {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "pad_token": end, "bos_token": None,
            "unk_token": None, "add_bos_token": False, "add_eos_token": False, "add_prefix_space": False,
            "clean_up_tokenization_spaces": False, "model_max_length": block_size}


def _write_tokenizer_json(tokenizer, path):
    with replacing(path) as file:
        file.write(tokenizer_json(tokenizer))


def _write_vocab_and_merges(tokenizer, folder):
    """Write GPT-2's two files. They do not contain the split pattern; GPT2Tokenizer splits like `gpt2`."""
    replace_together(folder, {
        "vocab.json": _json({name: token for token, name in enumerate(tokenizer.names())}),
        "merges.txt": "\n".join([MERGES_HEADER, *_merge_lines(tokenizer), ""]).encode("utf-8")})


def _write_ranks(tokenizer, path):
    """Write what tiktoken.load.load_tiktoken_bpe reads: the ordinary tokens.

    tiktoken.Encoding gets the split pattern and the special tokens as arguments. tiktoken joins any two neighbors that
    make a token, whichever merge made it. The ids are the same if each token's own bytes are merged into that token,
    which is true of every tokenizer learned from a text. load_tiktoken_bpe caches a file by its path: set
    TIKTOKEN_CACHE_DIR="" to read a new file at the same path.
    """
    if unmade := _unmade_tokens(tokenizer):
        raise FolioError(f"A rank file cannot represent this tokenizer: its merges never make its token {unmade[0]}, "
                         f"{tokenizer.token_bytes[unmade[0]]!r}, where tiktoken would. "
                         "The formats huggingface and gpt2 can.")
    with replacing(path) as file:
        for rank, token in enumerate(tokenizer.token_bytes[:256 + len(tokenizer.merges)]):
            file.write(b"%s %d\n" % (base64.b64encode(token), rank))


WRITERS = {"huggingface": _write_tokenizer_json, "gpt2": _write_vocab_and_merges, "tiktoken": _write_ranks}


# How the files of each format begin, by name in the folder if there is one. No other file is overwritten.
_BEGINNINGS = {"huggingface": {"": re.compile(rb'\s*\{\s*"version"\s*:')},
               "gpt2": {"vocab.json": re.compile(rb'\s*\{\s*"[^"]+"\s*:\s*\d'), "merges.txt": re.compile(rb"#version")},
               "tiktoken": {"": re.compile(rb"[A-Za-z0-9+/]+=* \d+\n")}}


# --- Import ---

def read(*paths, pattern=None, drop=()):
    """Read a BPETokenizer with the same segmentation and Folio's ids.

    paths: a tokenizer.json; a vocab.json and its merges.txt; a rank file; or a folder with the first or the second.
    pattern: name of the split pattern, for files that do not contain it; drop: the parts of DROPPABLE to leave out of a
    tokenizer.json. Raises FileNotFoundError, or FolioError, with the file's name, for what Folio cannot do exactly.
    """
    paths = [Path(path) for path in paths]
    if len(paths) == 1 and paths[0].is_dir():
        whole, *pair = (paths[0] / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
        paths = pair if not whole.exists() and pair[0].exists() else [whole]
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(f"There is no {missing[0]}. An import takes a tokenizer.json, "
                                "a vocab.json and its merges.txt, or a rank file.")
    if len(paths) == 2:
        vocab, merges = sorted(paths, key=lambda path: path.suffix != ".json")
        return read_vocab_and_merges(vocab, merges, pattern)
    if len(paths) != 1:
        raise FolioError(f"A tokenizer is one file or two, not {len(paths)}.")
    if paths[0].suffix != ".json":
        return read_ranks(paths[0], pattern)
    tokenizer = read_tokenizer_json(paths[0], drop)
    if pattern not in (None, tokenizer.pattern):
        raise FolioError(f"{paths[0]} splits text with the pattern {tokenizer.pattern}, not {pattern}.")
    return tokenizer


def read_tokenizer_json(path, drop=()):
    """Read the byte-level BPE of a Hugging Face tokenizer.json. drop: the parts of DROPPABLE to leave out.

    A normalizer such as NFC is refused unless it is dropped. Without it the segmentation is the same for text that is
    in NFC already.
    """
    with _errors_about(path, "a tokenizer.json"):
        values = _json_object(path)
        if "model" not in values:
            raise FolioError("it has no model. If it is a vocab.json, pass its merges.txt as well.")
        for part, effect in DROPPABLE.items():
            kind = values.get(part) and values[part].get("type", "")
            if not values.get(part) or part in drop or (part, kind) == ("post_processor", "ByteLevel"):
                continue                                # the post-processor ByteLevel changes offsets only
            raise FolioError(f"its {' '.join(filter(None, [part, kind]))} {effect}, and Folio does not. "
                             f"Leave it out with --drop {part}.")
        model = values["model"]
        if model.get("type", "BPE") != "BPE":
            raise FolioError(f"its model is {model['type']}; Folio supports byte-level BPE only.")
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
            if model.get(name):
                raise FolioError(f"its model has {name}={model[name]!r}, which Folio does not support.")
        pattern = _pattern_name(values["pre_tokenizer"])
        special = _special_tokens(values["added_tokens"])
        if moved := [name for name, token in special.items() if model["vocab"].get(name, token) != token]:
            raise FolioError(f"it gives {moved[0]!r} two ids, {special[moved[0]]} and {model['vocab'][moved[0]]}.")
        tokenizer = _tokenizer_from_names(model["vocab"] | special, model["merges"], special, pattern)
        if model.get("ignore_merges") and (unmade := _unmade_tokens(tokenizer)):
            raise FolioError(f"no merges make its token {tokenizer.token_bytes[unmade[0]]!r}; only ignore_merges=true "
                             "does, which Folio does not support.")
    return tokenizer


def _special_tokens(added):
    """Return {name: id} of the added tokens of a tokenizer.json. Raises FolioError for one that Folio cannot have."""
    for token in added:
        if not token["special"]:
            problem = "which is not special"
        elif token["lstrip"] or token["rstrip"] or token["single_word"]:
            problem = "with lstrip, rstrip or single_word"
        else:
            continue
        raise FolioError(f"it has the added token {token['content']!r}, {problem}; "
                         "Folio adds special tokens only, and finds them anywhere.")
    return {token["content"]: token["id"] for token in added}


def read_vocab_and_merges(vocab, merges, pattern):
    """Read the byte-level BPE of GPT-2's two files. A token like <this> that no merge makes is a special token."""
    with _errors_about(vocab, "a vocab.json"):
        ids = _json_object(vocab)
    with _errors_about(merges, "a merges.txt"):
        lines = merges.read_text(encoding="utf-8").splitlines()
        if lines and lines[0].startswith("#version"):
            del lines[0]
        lines = [line for line in lines if line]
    with _errors_about(f"{vocab} with {merges.name}", "a vocabulary with its merges"):
        made = {line.replace(" ", "") for line in lines}
        special = [name for name in ids if name not in made and _LOOKS_SPECIAL.fullmatch(name)]
        return _tokenizer_from_names(ids, lines, special, _required(pattern))


def read_ranks(path, pattern, special_tokens=(END_OF_TEXT,)):
    """Read the byte-level BPE of a tiktoken rank file, which has no special tokens: it gets `special_tokens`."""
    ranks = {}
    with _errors_about(path, "a rank file"):
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                token, rank = line.split()
                token, rank = base64.b64decode(token, validate=True), int(rank)
            except ValueError:
                raise FolioError(f"line {number}, {line[:60]!r}, is not a token in base64 and its rank, "
                                 "as in a rank file.") from None
            if token in ranks:
                raise FolioError(f"line {number} has the token {token!r} again.")
            ranks[token] = rank
        _check_ids(ranks)
        _check_bytes(ranks, {bytes([value]): value for value in range(256)})
        merges = merges_of(token for token in sorted(ranks, key=ranks.get) if len(token) > 1)
        return BPETokenizer(merges, _required(pattern), special_tokens)


def merges_of(tokens):
    """Recover the merges that make tokens, given as bytes in rank order. Raises FolioError where none make a token.

    The earlier merges, applied to a token's own bytes, leave the two parts that its own merge joins. BPE makes a token
    in one way only, whatever its context. (Karpathy's minbpe recovers the merges of GPT-4 in this way.)
    >>> merges_of([b"lo", b"low"])
    [(108, 111), (256, 119)]
    """
    new_ids = {}
    for token in tokens:
        parts = apply_merges(token, new_ids)
        if len(parts) != 2:
            raise FolioError(f"no merge makes the token {token!r}: "
                             f"the tokens before it leave {len(parts)} parts of it, not two.")
        new_ids[tuple(parts)] = 256 + len(new_ids)
    return list(new_ids)


# --- Checks and conversions ---

def _tokenizer_from_names(ids, merges, special, pattern):
    """Return a BPETokenizer, with Folio's ids. Raises FolioError where vocabulary and merges do not fit each other.

    ids: {name: original id} of all tokens; merges: "left right" or ["left", "right"] each; special: names.
    """
    _check_ids(ids)
    made = {name: value for value, name in enumerate(BPETokenizer([], special_tokens=()).names())}
    _check_bytes(ids, made)
    pairs = []
    for number, merge in enumerate(merges, 1):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if len(parts) != 2:
            raise FolioError(f"merge {number}, {merge!r}, does not join two tokens.")
        name, subject = "".join(parts), f"merge {number}, {' '.join(parts)!r},"
        if unmade := [part for part in parts if part not in made]:
            raise FolioError(f"{subject} joins {unmade[0]!r}, which no merge before it makes.")
        if name not in ids:
            raise FolioError(f"{subject} makes {name!r}, which is not in the vocabulary.")
        if name in made:
            raise FolioError(f"{subject} makes {name!r} a second time; in Folio a token has one merge.")
        pairs.append([made[part] for part in parts])
        made[name] = len(made)
    if unreachable := [name for name in ids if name not in made and name not in special]:
        raise FolioError(f"no merge makes {len(unreachable):,} of its tokens, for example {unreachable[0]!r}, "
                         "and they are not special either.")
    return BPETokenizer(pairs, pattern, sorted(special, key=ids.get))


def _check_ids(ids):
    if holes := set(range(len(ids))) - set(ids.values()):
        raise FolioError(f"the ids of its {len(ids):,} tokens are not 0 to {len(ids) - 1:,}: {min(holes)} is missing.")


def _check_bytes(ids, bytes_of):
    if missing := [value for name, value in bytes_of.items() if name not in ids]:
        raise FolioError(f"it has no token for {len(missing)} of the 256 bytes, for example 0x{missing[0]:02X}; "
                         "Folio encodes any bytes.")


def _pattern_name(pre_tokenizer):
    """Return the name of the split pattern of a tokenizer.json. Raises FolioError where Folio does not have it."""
    if pre_tokenizer and pre_tokenizer["type"] == "Sequence":
        steps = pre_tokenizer["pretokenizers"]
    else:
        steps = [pre_tokenizer or {"type": "nothing"}]
    *splits, last = steps
    if last["type"] != "ByteLevel":
        raise FolioError(f"its pre-tokenizer is {' and '.join(step['type'] for step in steps)}; "
                         "Folio supports byte-level BPE only.")
    if last.get("add_prefix_space", True):
        raise FolioError("it puts a space before every text (add_prefix_space), and Folio does not.")
    if not splits and last.get("use_regex", True):
        return "gpt2"
    if len(splits) == 1 and splits[0]["type"] == "Split" and not last.get("use_regex", True):
        expression = splits[0]["pattern"].get("Regex")
        if expression in _PATTERNS and (splits[0]["behavior"], splits[0]["invert"]) == ("Isolated", False):
            return _PATTERNS[expression]
    ours = ", ".join(f"{name} {pattern}" for name, pattern in SPLIT_PATTERNS.items())
    theirs = json.dumps(splits[0].get("pattern", splits[0]) if len(splits) == 1 else steps, ensure_ascii=False)
    raise FolioError(f"it splits text with {theirs}; Folio supports only {ours}.")


def _required(pattern):
    if pattern is None:
        options = " or ".join(f"--pattern {name}" for name in SPLIT_PATTERNS)
        raise FolioError(f"it does not contain its split pattern; pass {options}.")
    return pattern


def _unmade_tokens(tokenizer):
    """Return the ids of tokens that are never made: even the token's own bytes become other tokens."""
    return [token for token in range(256, 256 + len(tokenizer.merges))
            if tokenizer.encode_pretoken(tokenizer.token_bytes[token]) != [token]]


def _merge_lines(tokenizer):
    names = tokenizer.names()
    return [f"{names[left]} {names[right]}" for left, right in tokenizer.merges]


def _json(values):
    return (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def _json_object(path):
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FolioError(f"it is not JSON ({error}).") from None
    if not isinstance(values, dict):
        raise FolioError("it is not a JSON object.")
    return values


@contextmanager
def _errors_about(path, kind):
    """Raise every error about the content of a file as a FolioError with the file's name. kind: "a vocab.json", ..."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise FolioError(f"{path} cannot be imported: it does not have the structure of {kind}, "
                         f"{type(error).__name__} at {error}.") from None
    except ValueError as error:
        raise FolioError(f"{path} cannot be imported: {error}") from None
