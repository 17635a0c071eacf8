"""The parts of other libraries' tokenizer files: vocabulary, merges, split pattern and special tokens.

folio.formats.tokenizers describes the files. A function here checks one part and returns it as Folio has it. A problem
is a sentence that begins with "it" or "its"; errors_about adds the name of the file.

Some problems do not matter to a model that was trained with the tokenizer. Functions with an argument `notes` add those
to this list, and raise FolioError where it is None.
"""

import json
import re
from contextlib import contextmanager
from itertools import groupby

from folio.base.errors import FolioError
from folio.base.files import read_up_to
from folio.base.visible import on_one_line
from tokenizer import SPLIT_PATTERNS, BPETokenizer, apply_merges

MAX_FILE_BYTES = 1 << 25        # Llama 3's tokenizer.json has 17 MB; parsed, a byte may take 20 bytes of memory
MAX_SENTENCE = 600              # characters of a message: a file may contain names of any length

# Other spellings of our split patterns: Qwen's own, Llama 3's own and tiktoken's for GPT-2. The first two have one
# difference: their (?i:...) also takes "'ſ" for a contraction.
_IN_ANY_CASE = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"""
_SIGNS_AND_BLANKS = r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
_PATTERNS = {pattern: name for name, pattern in SPLIT_PATTERNS.items()} | {
    _IN_ANY_CASE + r"\p{N}" + _SIGNS_AND_BLANKS: "qwen2",
    _IN_ANY_CASE + r"\p{N}{1,3}" + _SIGNS_AND_BLANKS: "llama3",
    r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""": "gpt2",
}

# A vocab.json does not mark its special tokens. They are those that no merge makes and that look like <|endoftext|>.
LOOKS_SPECIAL = re.compile(r"<[^<>]+>")


def note(notes, problem):
    """Add a problem to notes. Raises FolioError with it where notes is None."""
    if notes is None:
        raise FolioError(problem)
    notes.append(problem)


# --- Files ---

def content_of(path):
    """Return the bytes of a file. Raises FolioError where it is larger than any tokenizer's."""
    if (content := read_up_to(path, MAX_FILE_BYTES)) is None:
        raise FolioError(f"it has more than {MAX_FILE_BYTES:,} bytes, which no tokenizer's file has.")
    return content


def json_object(path):
    """Return the JSON object in a file as a dict."""
    try:
        values = json.loads(content_of(path))
    except FolioError:
        raise
    except (ValueError, RecursionError) as error:
        raise FolioError(f"it is not JSON ({error}).") from None
    if not isinstance(values, dict):
        raise FolioError("it is not a JSON object.")
    return values


@contextmanager
def errors_about(path, kind):
    """Raise every error about the content of a file as a FolioError with the file's name. kind: "a vocab.json", ..."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"it does not have the structure of {kind}, {type(error).__name__} at {error}."
    except ValueError as error:
        problem = str(error)
    else:
        return
    raise FolioError(f"{path} cannot be imported: {sentence(problem)}") from None


def sentence(problem):
    """Return a problem, in which a file may be quoted, as one line of bounded length."""
    return on_one_line(problem if len(problem) <= MAX_SENTENCE else problem[:MAX_SENTENCE] + "...")


# --- Parts of a tokenizer.json ---

def check_model(model):
    """Refuse a `model` that is not byte-level BPE as Folio has it."""
    if model.get("type", "BPE") != "BPE":
        raise FolioError(f"its model is {model['type']}; Folio supports byte-level BPE only.")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise FolioError(f"its model has {name}={model[name]!r}, which Folio does not support.")


def special_tokens(added, notes=None):
    """Return {name: id} of the added tokens of a tokenizer.json.

    One that is not special is found in any text there; with notes it becomes a special token, if it looks like one.
    """
    ordinary_ones = []
    for token in added:
        name = token["content"]
        advice = "Folio adds special tokens only, and finds them anywhere."
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            raise FolioError(f"it has the added token {name!r}, with lstrip, rstrip or single_word; {advice}")
        if token["special"]:
            continue
        if notes is None or not LOOKS_SPECIAL.fullmatch(name):
            raise FolioError(f"it has the added token {name!r}, which is not special; {advice}")
        ordinary_ones.append(name)
    if ordinary_ones:
        notes.append(f"its added tokens {', '.join(ordinary_ones[:10])}{' ...' if ordinary_ones[10:] else ''} are not "
                     "special, and are in Folio.")
    ids = {token["content"]: token["id"] for token in added}
    if len(ids) < len(added):
        raise FolioError("it adds a token twice.")
    return ids


def pattern_name(pre_tokenizer):
    """Return the name of the split pattern of a tokenizer.json. Raises FolioError where Folio does not have it."""
    if pre_tokenizer and pre_tokenizer["type"] == "Sequence":
        steps = pre_tokenizer["pretokenizers"]
    else:
        steps = [pre_tokenizer] if pre_tokenizer else []
    *splits, last = steps or [{"type": "nothing"}]
    if last["type"] != "ByteLevel":
        raise FolioError(f"its pre-tokenizer is {' and '.join(step['type'] for step in steps) or 'nothing'}; "
                         "Folio supports byte-level BPE only.")
    if last.get("add_prefix_space", True):
        raise FolioError("it puts a space before every text (add_prefix_space), and Folio does not.")
    splits_as_gpt2 = last.get("use_regex", True)        # what the splits before leave
    if not splits and splits_as_gpt2:
        return "gpt2"
    if splits_as_gpt2 and [(step["type"], step.get("individual_digits")) for step in splits] == [("Digits", True)]:
        return "smollm"
    if len(splits) == 1 and splits[0]["type"] == "Split" and not splits_as_gpt2:
        expression = splits[0]["pattern"].get("Regex")
        if expression in _PATTERNS and (splits[0]["behavior"], splits[0]["invert"]) == ("Isolated", False):
            return _PATTERNS[expression]
    theirs = json.dumps(splits[0].get("pattern", splits[0]) if len(splits) == 1 else steps, ensure_ascii=False)
    raise FolioError(f"it splits text with {theirs[:300]}; Folio supports only the patterns "
                     f"{', '.join(SPLIT_PATTERNS)}.")


def required_pattern(pattern):
    """Return the split pattern that was given for files without one. Raises FolioError where none was given."""
    if pattern is None:
        options = " or ".join(f"--pattern {name}" for name in SPLIT_PATTERNS)
        raise FolioError(f"it does not contain its split pattern; pass {options}.")
    return pattern


# --- Vocabulary and merges ---

def check_ids(ids):
    """Refuse ids that are not the whole numbers 0 to N - 1. ids: {name: id}"""
    if odd := [name for name, token in ids.items() if type(token) is not int or not 0 <= token < 1 << 31]:
        raise FolioError(f"the id of its token {odd[0]!r}, {ids[odd[0]]!r}, is not a whole number from 0 on.")
    if holes := set(range(len(ids))) - set(ids.values()):
        raise FolioError(f"the ids of its {len(ids):,} tokens are not 0 to {len(ids) - 1:,}: {min(holes)} is missing.")


def check_bytes(ids, bytes_of, notes=None):
    """Refuse or note a vocabulary without all bytes. ids: {name: id}; bytes_of: {name: value} of the 256 bytes"""
    if missing := [value for name, value in bytes_of.items() if name not in ids]:
        note(notes, f"it has no token for {len(missing)} of the 256 bytes, for example 0x{missing[0]:02X}; "
                    "Folio encodes any bytes.")


def tokenizer_from_names(ids, merges, special, pattern, notes=None):
    """Return a BPETokenizer, with Folio's ids. Raises FolioError where vocabulary and merges do not fit each other.

    ids: {name: original id} of all tokens; merges: "left right" or ["left", "right"] each; special: names.
    """
    check_ids(ids)
    made = {name: value for value, name in enumerate(BPETokenizer([], special_tokens=()).names())}
    check_bytes(ids, made, notes)
    new_ids = {}
    for name, number, options in _by_token(merges):
        subject = f"merge {number}, {' '.join(options[0])!r},"
        possible = [parts for parts in options if all(part in made for part in parts)]
        if not possible:
            unmade = next(part for part in options[0] if part not in made)
            raise FolioError(f"{subject} joins {unmade!r}, which no merge before it makes.")
        if name not in ids:
            raise FolioError(f"{subject} makes {name!r}, which is not in the vocabulary.")
        if name in made:
            raise FolioError(f"{subject} makes {name!r} a second time; in Folio a token has one merge.")
        pair = tuple(made[part] for part in possible[0])
        if len(options) > 1:
            pair = tuple(apply_merges(bytes(made[character] for character in name), new_ids))
            if pair not in [(made[left], made[right]) for left, right in possible]:
                raise FolioError(f"none of the {len(options)} merges that make {name!r} joins the {len(pair)} parts "
                                 "that the merges before them leave of it; in Folio a token has one merge.")
        new_ids[pair] = made[name] = len(made)
    unreachable = [name for name in ids if name not in made and name not in special]
    if unreachable:
        note(notes, f"no merge makes {len(unreachable):,} of its tokens, for example {unreachable[0]!r}, "
                    "and they are not special either.")
    return BPETokenizer(new_ids, pattern, sorted(special, key=ids.get))


def _by_token(merges):
    """Yield (name of a token, number of its first merge, the merges in a row that make it, as [(left, right)]).

    Llama 3's file has all pairs of tokens that make a token. BPE makes a token in one way only, whatever its context:
    the merges before, applied to its own bytes, leave the two parts that its merge joins. The others never apply.
    """
    parted = []
    for number, merge in enumerate(merges, 1):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if len(parts) != 2:
            raise FolioError(f"merge {number}, {merge!r}, does not join two tokens.")
        parted.append(tuple(parts))
    number = 1
    for name, group in groupby(parted, key="".join):
        group = list(group)
        yield name, number, list(dict.fromkeys(group))
        number += len(group)


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


def unmade_tokens(tokenizer):
    """Return the ids of tokens that are never made: even the token's own bytes become other tokens."""
    return [token for token in range(256, 256 + len(tokenizer.merges))
            if tokenizer.encode_pretoken(tokenizer.token_bytes[token]) != [token]]
