"""The files in Train_Data/tokens: the tokens of a text, and corpus.json, which says what they were made from.

tokens-TEXT-TOKENIZER.npy   the tokens of the training part, then those of the validation part, as one array of integers
                            in NumPy's format 1.0; named by the fingerprints of the text and of the tokenizer
corpus.json                 the fields of Record, and `checksum`, the fingerprint of the others
"""

import io
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import PurePath

import numpy as np
from tqdm import tqdm

from folio.base.files import fingerprint, ordinary, replacing
from folio.data.paths import STANDARD_INPUT
from Model_Params import OLDER_TEXT, TextParams, field_problems

RECORD_NAME = "corpus.json"
SHORTEST_TRAINING = 3               # tokens: a window of two and the token after it
# A token file up to this size is read, not mapped: if a mapped file is truncated, the process ends (SIGBUS).
IN_MEMORY_BYTES = 1 << 28
CHECKED_AT_ONCE = 1 << 24           # tokens
QUIET_BAR = {"leave": False, "disable": None, "delay": 1}       # tqdm: none outside a terminal or in the first second


@dataclass(frozen=True)
class Record:
    """The contents of corpus.json."""
    paths: list                     # of the text; relative to the home if below it, so that a home can be moved
    stamps: list                    # [name, size, time of change] of every file
    text: TextParams
    tokenizer_fingerprint: str
    tokens: str                     # the name of the token file
    corpus: dict                    # the fields of Corpus except the tokens and `text`
    sha256: str | None = None       # of the tokens; None: written by an older Folio, without any checksums
    held_out: list = field(default_factory=list)        # paths like `paths`: what was given for validation


def token_file_name(text_fingerprint, tokenizer_fingerprint):
    """Return the name of the file with the tokens of a text by a tokenizer.
    >>> token_file_name("01ab", "23cd")
    'tokens-01ab-23cd.npy'
    """
    return f"tokens-{text_fingerprint}-{tokenizer_fingerprint}.npy"


# --- The tokens ---

def npy_header(dtype, length):
    """Return the header of a one-dimensional .npy file. Its size does not depend on `length`, so it can be overwritten.

    NumPy pads it so that the length can grow.
    """
    file = io.BytesIO()
    description = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": (length,)})
    return file.getvalue()


def open_tokens(path, dtype):
    """Return the integers in a one-dimensional .npy file: (tokens,), or None if it is not exactly such a file.

    The header is compared, not evaluated.
    """
    try:
        with open(path, "rb", opener=ordinary) as file:
            file_bytes = path.stat().st_size
            start = len(npy_header(dtype, 0))
            length, rest = divmod(file_bytes - start, dtype.itemsize)
            if length < 0 or rest or file.read(start) != npy_header(dtype, length):
                return None
            if file_bytes > IN_MEMORY_BYTES:
                return np.memmap(path, dtype, "r", offset=start, shape=(length,))
            tokens = np.frombuffer(file.read(), dtype)
            return tokens if len(tokens) == length else None
    except (OSError, ValueError):
        return None


def inspect(tokens):
    """Return the SHA-256 of an array of tokens, and the largest of them. It takes about a second for a gigabyte."""
    digest, largest = sha256(), 0
    with tqdm(total=tokens.nbytes, desc="Checking the tokens", unit="B", unit_scale=True, **QUIET_BAR) as bar:
        for start in range(0, len(tokens), CHECKED_AT_ONCE):
            block = tokens[start:start + CHECKED_AT_ONCE]
            digest.update(block)
            largest = max(largest, block.max().item())
            bar.update(block.nbytes)
    return digest.hexdigest(), largest


def remove_stale(home, record):
    """Remove the token files, and the copies of standard input, that `record` does not name; all if it is None."""
    named = {record.tokens, *(PurePath(path).name for path in [*record.paths, *record.held_out])} if record else set()
    for pattern in ("tokens-*.npy", STANDARD_INPUT):
        for stale in home.tokens.glob(pattern):
            if stale.name not in named:
                with suppress(PermissionError):             # Windows keeps a file that another process still has open
                    stale.unlink()


# --- corpus.json ---

def read_record(home):
    """Return (Record, None), (None, a sentence about damage) or, if there is no corpus.json, (None, None)."""
    path = home.tokens / RECORD_NAME
    try:
        with open(path, "rb", opener=ordinary) as file:
            contents = json.load(file)
        checksum = contents.pop("checksum", None)
        record = Record(**contents | {"text": TextParams(**OLDER_TEXT | contents["text"])})
        if _is_valid(record) and checksum == (fingerprint(contents) if record.sha256 else None):
            return record, None
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None, f"{path} is damaged, so nobody knows which text the tokens beside it are of."


def names_of_texts(home):
    """Return {fingerprint: name} of the text that a home has now, by its own fingerprint and by that of its tokens."""
    record, _ = read_record(home)
    if record is None:
        return {}
    first, *others = [str(stamp[0]) for stamp in record.stamps if isinstance(stamp, list) and stamp] or record.paths
    name = first.replace("\\", "/").rpartition("/")[2]
    name += f" and {len(others)} more" if others else ""
    return {record.corpus["text_fingerprint"]: name, record.corpus["fingerprint"]: name}


def _is_valid(record):
    """Whether everything in a record is of its type and within its bounds."""
    numbers = dict(record.corpus)
    mended, text_fingerprint = numbers.pop("mended"), numbers.pop("text_fingerprint")
    names = [numbers.pop("fingerprint"), text_fingerprint, record.tokenizer_fingerprint, *record.paths,
             *record.held_out, *mended]
    return (all(isinstance(name, str) for name in names)
            and isinstance(record.paths, list) and record.paths != [] and isinstance(record.held_out, list)
            and isinstance(record.stamps, list)
            and record.tokens == token_file_name(text_fingerprint, record.tokenizer_fingerprint)
            and isinstance(record.sha256, str | None) and not list(field_problems(record.text))
            and numbers.keys() == {"train_tokens", "train_bytes", "val_bytes", "characters", "documents"}
            and all(type(number) is int and number > 0 for number in [*numbers.values(), *mended.values()])
            and numbers["train_tokens"] >= SHORTEST_TRAINING
            and numbers["characters"] <= numbers["train_bytes"] + numbers["val_bytes"])


def write_record(home, record):
    """Write corpus.json, whole or not at all."""
    contents = asdict(record)
    with replacing(home.tokens / RECORD_NAME) as file:
        file.write(json.dumps(contents | {"checksum": fingerprint(contents)}, indent=1).encode("utf-8"))
