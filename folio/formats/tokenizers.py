"""Write and read the tokenizer files of other libraries: Hugging Face, GPT-2 and tiktoken.

    from folio.formats.tokenizers import read, write
    write(load("tokenizer_save"), "huggingface", "tokenizer.json")
    tokenizer = read("tokenizer.json")

An export keeps every id. An import keeps the segmentation: a text becomes the same token bytes in the same order. Its
ids become Folio's (byte b is id b, then one id per merge, then the special tokens). So an import serves to train a new
model; for one that was trained on the original ids, read_for_model returns those ids too.

The formats. A token's name is its bytes in GPT-2's alphabet, a printable character per byte; a merge is two names.

"huggingface"   tokenizer.json, of the tokenizers library. One JSON object:
    model           type "BPE", vocab {name: id}, merges ["left right"] or [["left", "right"]], and options
    added_tokens    special tokens [{id, content, special, lstrip, rstrip, single_word, normalized}]
    pre_tokenizer   how text is split: a Split by a regular expression, then ByteLevel, which names the bytes; or
                    ByteLevel alone, which splits with GPT-2's pattern; or Digits before it, as in SmolLM
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.files import refuse_foreign, replace_together, replacing
from folio.chat.template import JINJA
from folio.formats.tokenizer_parts import (
    LOOKS_SPECIAL,
    check_bytes,
    check_ids,
    check_model,
    content_of,
    errors_about,
    json_object,
    merges_of,
    pattern_name,
    required_pattern,
    sentence,
    special_tokens,
    tokenizer_from_names,
    unmade_tokens,
)
from tokenizer import END_OF_TEXT, SPLIT_PATTERNS, BPETokenizer

MERGES_HEADER = "#version: 0.2"        # first line of merges.txt

# Parts of a tokenizer.json that change a text or its ids in a way that Folio never does.
DROPPABLE = {"normalizer": "changes a text before it is split", "post_processor": "adds tokens to every text",
             "truncation": "cuts long texts", "padding": "fills up short texts"}


@dataclass(frozen=True)
class ModelTokenizer:
    """The tokenizer of a model that others trained."""
    tokenizer: BPETokenizer
    original_ids: np.ndarray    # (vocab_size,) int64: the id in the files of each of Folio's ids; -1: a byte they lack
    notes: list[str]            # what was left out, a sentence each


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
    if suffix and (names_folder or suffix == ".json" and Path(path).suffix.lower() != suffix):
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


def tokenizer_config(tokenizer, block_size, chat=None):
    """Return what the tokenizer_config.json beside a tokenizer.json says to transformers, as plain values.

    block_size: tokens in the model's context; chat: a ChatTemplate or None. The class is named because transformers
    would otherwise derive one from the model's architecture, and that of Qwen normalizes every text (NFC).
    """
    end = None if tokenizer.end_of_text is None else tokenizer.names()[tokenizer.end_of_text]
    own = {} if chat is None else {"eos_token": chat.end, "chat_template": JINJA}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "pad_token": end, "bos_token": None,
            **own, "unk_token": None, "add_bos_token": False, "add_eos_token": False, "add_prefix_space": False,
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
    if unmade := unmade_tokens(tokenizer):
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


def read_for_model(folder):
    """Read the tokenizer in the folder of a model, as a ModelTokenizer: for weights that know the original ids.

    A folder has a tokenizer.json, or a vocab.json and its merges.txt and a config.json that says model_type gpt2. What
    does not matter to the model is left out, with a sentence in notes. A special token's spelling is found in a text by
    other libraries always, and by Folio with encode(text, allow_special=True). Raises FileNotFoundError, or FolioError
    with the file's name for what Folio cannot do exactly.
    """
    folder, notes = Path(folder), []
    whole, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if whole.exists():
        with errors_about(whole, "a tokenizer.json"):
            return _for_model(whole.name, *_from_tokenizer_json(whole, (), notes), notes)
    if missing := [path for path in (vocab, merges) if not path.exists()]:
        raise FileNotFoundError(f"{folder} has no tokenizer that Folio can read: neither a tokenizer.json nor "
                                f"{missing[0].name}. SentencePiece's tokenizer.model is not byte-level BPE.")
    with errors_about(folder / "config.json", "a config.json"):
        kind = json_object(folder / "config.json").get("model_type")
    if kind != "gpt2":
        raise FolioError(f"{folder} has no tokenizer.json, and its {vocab.name} does not contain its split pattern, "
                         f"which Folio knows for model_type gpt2 only, not for {str(kind)[:60]}.")
    ids, lines, special = _read_names(vocab, merges)
    added = folder / "added_tokens.json"
    if added.exists():
        with errors_about(added, "an added_tokens.json"):
            extra = json_object(added)
            ids, special = ids | extra, [*dict.fromkeys([*special, *extra])]
    with errors_about(f"{vocab} with {merges.name}", "a vocabulary with its merges"):
        return _for_model(vocab.name, tokenizer_from_names(ids, lines, special, "gpt2", notes), ids, notes)


def _for_model(name, tokenizer, ids, notes):
    """Return a ModelTokenizer. name: of the file, for notes; ids: {name: original id}"""
    original_ids = np.array([ids.get(token, -1) for token in tokenizer.names()], np.int64)
    return ModelTokenizer(tokenizer, original_ids, [f"{name}: {sentence(problem)}" for problem in notes])


def read_tokenizer_json(path, drop=()):
    """Read the byte-level BPE of a Hugging Face tokenizer.json. drop: the parts of DROPPABLE to leave out.

    A normalizer such as NFC is refused unless it is dropped. Without it the segmentation is the same for text that is
    in NFC already.
    """
    with errors_about(path, "a tokenizer.json"):
        return _from_tokenizer_json(path, drop)[0]


def _check_droppable(values, drop, notes=None):
    """Refuse or note the parts of DROPPABLE in a tokenizer.json, except those in `drop`.

    A normalizer other than NFC is always refused: without it most texts would have other ids.
    """
    for part, effect in DROPPABLE.items():
        steps = [step for step in _steps(values.get(part)) if part != "post_processor" or _tokens_added(step) != []]
        if not steps or part in drop:
            continue
        kinds = [step.get("type", "") for step in steps]
        name = " ".join(filter(None, [part, " and ".join(kinds)]))
        if notes is None:
            raise FolioError(f"its {name} {effect}, and Folio does not. Leave it out with --drop {part}.")
        if part == "normalizer" and set(kinds) != {"NFC"}:
            raise FolioError(f"its {name} {effect}, and Folio does not.")
        if added := [token for step in steps for token in _tokens_added(step) or []]:
            effect = f"adds {' and '.join(map(repr, added))} to every text"
        notes.append(f"its {name} {effect}, and Folio does not.")


def _steps(part):
    """Return the steps of a part of a tokenizer.json, which may be a sequence of parts; [] for null."""
    if not part:
        return []
    if part.get("type") == "Sequence":
        return [step for inner in part.get("normalizers", part.get("processors")) for step in _steps(inner)]
    return [part]


def _tokens_added(step):
    """Return the names of the tokens that a step of a post-processor adds to a text; None where that is not known."""
    if step.get("type") == "ByteLevel":         # it changes offsets only
        return []
    if step.get("type") != "TemplateProcessing" or "single" not in step:
        return None
    return list(dict.fromkeys(piece["SpecialToken"]["id"] for piece in step["single"] if "SpecialToken" in piece))


def _from_tokenizer_json(path, drop, notes=None):
    """Return a BPETokenizer and the original ids, {name: id}. notes: as in folio.formats.tokenizer_parts"""
    values = json_object(path)
    if "model" not in values:
        raise FolioError("it has no model. If it is a vocab.json, pass its merges.txt as well.")
    model = values["model"]
    check_model(model)
    _check_droppable(values, drop, notes)
    pattern = pattern_name(values["pre_tokenizer"])
    special = special_tokens(values["added_tokens"], notes)
    if moved := [name for name, token in special.items() if model["vocab"].get(name, token) != token]:
        raise FolioError(f"it gives {moved[0]!r} two ids, {special[moved[0]]} and {model['vocab'][moved[0]]}.")
    ids = model["vocab"] | special
    tokenizer = tokenizer_from_names(ids, model["merges"], special, pattern, notes)
    # The library numbers added tokens itself, after the vocabulary, and does not take these ids from the file.
    after = [token for name, token in special.items() if name not in model["vocab"]]
    if after != list(range(len(model["vocab"]), len(ids))):
        raise FolioError("its added tokens do not have the ids after its vocabulary, in order.")
    if model.get("ignore_merges"):
        known = set(tokenizer.names())
        unmade = [tokenizer.names()[token] for token in unmade_tokens(tokenizer)]
        if unmade := unmade + [name for name in ids if name not in known]:
            raise FolioError(f"no merges make {len(unmade):,} of its tokens, for example {unmade[0]!r}; only "
                             "ignore_merges=true does, which Folio does not support.")
    return tokenizer, ids


def read_vocab_and_merges(vocab, merges, pattern):
    """Read the byte-level BPE of GPT-2's two files. A token like <this> that no merge makes is a special token."""
    ids, lines, special = _read_names(vocab, merges)
    with errors_about(f"{vocab} with {merges.name}", "a vocabulary with its merges"):
        return tokenizer_from_names(ids, lines, special, required_pattern(pattern))


def _read_names(vocab, merges):
    """Return {name: id}, the merges as "left right", and the names of special tokens of GPT-2's two files."""
    with errors_about(vocab, "a vocab.json"):
        ids = json_object(vocab)
    with errors_about(merges, "a merges.txt"):
        lines = content_of(merges).decode("utf-8").splitlines()
        if lines and lines[0].startswith("#version"):
            del lines[0]
        lines = [line for line in lines if line]
    made = {line.replace(" ", "") for line in lines}
    return ids, lines, [name for name in ids if name not in made and LOOKS_SPECIAL.fullmatch(name)]


def read_ranks(path, pattern, special_tokens=(END_OF_TEXT,)):
    """Read the byte-level BPE of a tiktoken rank file, which has no special tokens: it gets `special_tokens`."""
    ranks = {}
    with errors_about(path, "a rank file"):
        for number, line in enumerate(content_of(path).splitlines(), 1):
            try:
                token, rank = line.split()
                token, rank = base64.b64decode(token, validate=True), int(rank)
            except ValueError:
                raise FolioError(f"line {number}, {line[:60]!r}, is not a token in base64 and its rank, "
                                 "as in a rank file.") from None
            if token in ranks:
                raise FolioError(f"line {number} has the token {token!r} again.")
            ranks[token] = rank
        check_ids(ranks)
        check_bytes(ranks, {bytes([value]): value for value in range(256)})
        merges = merges_of(token for token in sorted(ranks, key=ranks.get) if len(token) > 1)
        return BPETokenizer(merges, required_pattern(pattern), special_tokens)


def _merge_lines(tokenizer):
    names = tokenizer.names()
    return [f"{names[left]} {names[right]}" for left, right in tokenizer.merges]


def _json(values):
    return (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode("utf-8")
