"""Documents to token files: what init.py does, and what train.py finds or makes up for.

The text is read in three passes, never held whole: one to measure and fingerprint it, one to learn from the training part, one to
encode. The tokens of the training part, then those of the validation part, lie in one memory-mapped .npy file, so that the first
validation token can be predicted from the last training token. `corpus.json` beside it says what it was made from.
"""

import json
import math
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePath

import numpy as np
from tqdm import tqdm

from folio.errors import FolioError
from folio.files import fingerprint, replacing
from folio.parallel import cores, in_order
from folio.paths import STANDARD_INPUT, absolute_paths, find_files, supply_text
from folio.sources import Documents, separated_by_line_ends
from folio.splitting import in_batches, to_bytes
from Model_Params import READING, TextParams
from tokenizer import (END_OF_TEXT, FILES, BPETokenizer, CharTokenizer, PieceCounter, count_batch, from_dict,
                       learn_merges, load)

VAL_BYTES_LIMIT = 1_000_000         # more measures hardly better and takes time away: of 2.2 minutes of one core, 4 MB (16,384 tokens in the vocabulary) left two steps
PARALLEL_BYTES = 16_000_000         # one process encodes them in 0.7 s; two take as long with their start
SHORTEST_TRAINING = 3               # tokens: a window of two and the token after it


@dataclass(frozen=True)
class Corpus:
    """A text as tokens. `train` and `val` are integers in memory-mapped arrays; the bytes are the text's, separators not counted."""
    tokens: np.ndarray
    train_tokens: int
    train_bytes: int
    val_bytes: int
    characters: int
    documents: int
    fingerprint: str                # the same exactly where tokens and split are the same
    text_fingerprint: str
    mended: dict                    # what reading put right -> how often
    text: TextParams                # how it was made

    @property
    def train(self):
        return self.tokens[:self.train_tokens]

    @property
    def val(self):
        """The validation tokens, after the one token that the first of them is predicted from."""
        return self.tokens[self.train_tokens - 1:]

    @property
    def val_tokens(self):
        return len(self.tokens) - self.train_tokens

    @property
    def training_part(self):
        """What names the text that is learned from, in whatever tokens."""
        return {"text_fingerprint": self.text_fingerprint, "train_bytes": self.train_bytes}


@dataclass(frozen=True)
class _Survey:
    """What one pass over the text finds out."""
    bytes: int
    characters: int
    documents: int
    train_bytes: int                # the training part ends here; inside a document only where no document ends near by
    fingerprint: str
    mended: dict
    alphabet: tuple                 # the distinct characters, sorted, if they were asked for


def default_vocab_size(text_bytes):
    """A vocabulary that grows with the root of the text, in powers of two: 1,024 for the plays, 2,048 for tiny shakespeare, 4,096 from 4 MB on.

    More tokens make shorter sequences, but leave fewer examples of each to learn from; BPE-dropout shows a model the shorter ones too. Beyond 4,096 a small
    model's short run sees too little of each: on 100 MB two minutes of one core ended at 1.770 nats per byte, with 16,384 tokens at 1.907.
    """
    return 1 << math.isqrt(4 * min(max(text_bytes, 256 ** 2), 2048 ** 2)).bit_length() - 1


def prepare(home, text, paths=()):
    """Learn a tokenizer from the training part of the text at `paths` (default: Train_Data) and encode all of it.

    text: TextParams; paths: as absolute_paths takes them. -> (tokenizer, Corpus). Raises FolioError or FileNotFoundError, with the old
    files as they were, where the text cannot be read or is too short.
    """
    try:
        return _prepare(home, text, absolute_paths(paths, home))
    except BaseException:
        if about := _open(home)[0]:             # else nobody knows which of the files there is the old one
            _remove_stale(home, about)
        raise


def _prepare(home, text, paths):
    documents = _documents(home, text, paths)
    stamps = _stamps(documents)
    survey = _survey(documents, text.val_fraction, want_alphabet=text.tokenizer == "char")
    if text.tokenizer == "char":
        tokenizer = CharTokenizer(survey.alphabet, (END_OF_TEXT,) if survey.documents > 1 else ())
    else:
        num_merges = BPETokenizer.merges_for(text.vocab_size or default_vocab_size(survey.bytes))
        parts = _split(_bar(documents, "Counting words"), survey.train_bytes)
        counts = count_all_pieces((part for part, is_val, _ in parts if not is_val), text.pattern, _processes(survey))
        merges = learn_merges(counts, num_merges)
        tokenizer = BPETokenizer(tqdm(merges, "Learning merges", total=num_merges, **_QUIET), text.pattern)
    corpus = _encode(home, tokenizer, documents, survey, {"paths": _relative(home, paths), "stamps": stamps, "text": asdict(text)})
    tokenizer.save(home.tokenizer, survey.fingerprint)
    return tokenizer, corpus


def find(home, say=print):
    """The tokenizer that init.py made and the corpus encoded with it; encoded again, and that said, where the text has changed since.

    -> (tokenizer, Corpus). Raises FileNotFoundError where there is no tokenizer or no text, ValueError where the one has no token for the other.
    """
    tokenizer = load(home.tokenizer)
    return tokenizer, _find(home, tokenizer, say)


def prepared(home, wanted, say=print):
    """The tokenizer and the corpus of a home, made where they are missing as `wanted` ({field of TextParams: value}) says; the text too, as
    paths.supply_text has it.

    -> (tokenizer, Corpus). Raises FolioError, with everything as it was, where the home has them already and made otherwise.
    """
    about, made = _open(home)
    if about is None:
        supply_text(home, say)
    if not _has_tokenizer(home):
        text, paths = (made.text, [home.folder / name for name in about["paths"]]) if about else (TextParams(), ())
        tokenizer, made = prepare(home, replace(text, **wanted), paths)
        say(f"Learned a {tokenizer.kind} tokenizer of {tokenizer.vocab_size:,} tokens from the text; it is in {home.tokenizer}.")
        return tokenizer, made
    tokenizer = load(home.tokenizer)
    return tokenizer, _find(home, tokenizer, say, wanted)


def find_with(tokenizer, home, wanted=(), say=print):
    """The corpus encoded with a tokenizer that came from elsewhere, as weights bring it along; the home takes it over where it has none.

    -> Corpus. Raises FolioError where the home has another tokenizer, and the same as `find` and `prepared`; nothing is changed then.
    """
    is_new = not _has_tokenizer(home)
    if not is_new and load(home.tokenizer).fingerprint != tokenizer.fingerprint:
        raise FolioError(f"{home.tokenizer} has another tokenizer than the weights, and the runs that were trained with it need it. Give the new run a "
                         "home of its own: put its text into DIR/Train_Data, add --home DIR and name the weights by their path (or move that folder away).")
    corpus = _find(home, tokenizer, say, wanted)
    if is_new:
        tokenizer.save(home.tokenizer)
        say(f"The tokenizer of the weights is now in {home.tokenizer}.")
    return corpus


def _find(home, tokenizer, say, wanted=()):
    about, corpus = _open(home)
    current = about is not None and about["tokenizer_fingerprint"] == tokenizer.fingerprint
    if different := list(_differences(tokenizer, corpus if current else None, dict(wanted))):
        raise FolioError(f"The text of {home.folder} is prepared in another way than is wanted: {'; '.join(different)}. What was trained on it "
                         "needs it as it is. Give this run a home of its own: add --home DIR, where DIR may be a new folder. "
                         "(Or prepare this one anew: python init.py)")
    text = corpus.text if about else TextParams()
    if current:
        text = replace(text, **{name: value for name, value in dict(wanted).items() if name in READING})
    else:
        text = replace(text, **dict(wanted) | {"tokenizer": tokenizer.kind, "pattern": tokenizer.pattern or TextParams.pattern, "vocab_size": None})
    paths = [home.folder / name for name in about["paths"]] if about else [home.train_data]
    try:
        documents = _documents(home, text, paths)
    except (FileNotFoundError, ValueError):
        if not current:
            raise
        say(f"The text itself is gone ({paths[0]}); its tokens in {home.tokens} are still there and serve.")
        return corpus
    stamps = _stamps(documents)
    if current and about["stamps"] == stamps and text == corpus.text:
        return corpus
    survey = _survey(documents, text.val_fraction, want_alphabet=tokenizer.kind == "char")
    if current and corpus.text_fingerprint == survey.fingerprint:       # the files are new, what they say is not
        _write_about(home, {**about, "stamps": stamps, "text": asdict(text)})
        return replace(corpus, text=text)
    by_line_ends = survey.documents > 1 and tokenizer.end_of_text is None
    if by_line_ends and tokenizer.kind == "char" and tokenizer.unknown_characters("\n"):
        raise FolioError(f"The text has {survey.documents:,} documents, and the tokenizer nothing to set them apart: "
                         "no token that ends a document, and no line end. Put them into one file, or train from nothing "
                         "with a tokenizer that is learned from them: python init.py")
    try:
        tokenizer.encode("".join(survey.alphabet))
    except ValueError as error:
        raise FolioError(f"{error} Replace them in the text, or train from nothing with a tokenizer that is learned from it: python init.py") from None
    say("The text is not the one whose tokens are kept; encoding it with the tokenizer there is (python init.py learns a new one)."
        if current else "Encoding the text with the tokenizer there is.")
    if by_line_ends:
        say("The tokenizer has no token that ends a document: "
            f"a line end sets the {survey.documents:,} documents apart, and an answer ends at none of them.")
    return _encode(home, tokenizer, documents, survey, {"paths": _relative(home, paths), "stamps": stamps, "text": asdict(text)})


def _differences(tokenizer, made, wanted):
    """-> a phrase for everything in which a tokenizer, and a Corpus made with it (or None), are not as wanted ({field of TextParams: value})."""
    has = {"tokenizer": tokenizer.kind, "pattern": tokenizer.pattern, "vocab_size": tokenizer.vocab_size,
           "val_fraction": made and made.text.val_fraction}
    for name in [name for name in has if name in wanted]:
        # Of a text too small for the vocabulary that was asked for, the fewer tokens it has got are what was asked for.
        asked_for = made and getattr(made.text, name)
        if has[name] is not None and wanted[name] not in (None, has[name], asked_for):
            yield f"{name} is {has[name]}, not {wanted[name]}"


def _has_tokenizer(home):
    return any((home.tokenizer / name).exists() for name in FILES)


# --- The passes ---

def _survey(documents, val_fraction, want_alphabet=False):
    """Measure and fingerprint the text, and find where its training part ends."""
    digest, alphabet = sha256(), set()
    total = characters = number = 0
    document_ends = deque()                     # those near enough to the end of what has been read; none that has left can come back
    for chunk, ends_document in _bar(documents, "Reading"):
        content = to_bytes(chunk)
        digest.update(content)
        total += len(content)
        characters += len(chunk)
        if want_alphabet:
            alphabet.update(chunk)
        if ends_document:
            number += 1
            document_ends.append(total)
            while total - document_ends[0] > VAL_BYTES_LIMIT:
                document_ends.popleft()
            digest.update(b"\xff%d\xff" % total)        # where documents end, so that two differ from one
    if not total:
        raise FolioError(f"There is nothing in {documents.files[0]}{' and others' if len(documents.files) > 1 else ''}: no text, nothing to learn.")
    train_bytes = total - min(total - int(total * (1 - val_fraction)), VAL_BYTES_LIMIT)
    wanted = total - train_bytes
    # A document's end serves as well, and cuts no document, if it holds out between half and twice as much as was asked for.
    suitable = [end for end in document_ends if wanted / 2 <= total - end <= min(wanted * 2, total / 2, VAL_BYTES_LIMIT)]
    train_bytes = min(suitable, key=lambda end: abs(end - train_bytes), default=train_bytes)
    return _Survey(total, characters, number, train_bytes, digest.hexdigest()[:16], dict(documents.mended), tuple(sorted(alphabet)))


def _split(chunks, train_bytes):
    """Turn (chunk, ends_document) into (chunk, is_val, ends_document); the chunk in which the training part ends becomes two."""
    position = 0
    for chunk, ends_document in chunks:
        content = to_bytes(chunk)
        cut = train_bytes - position
        position += len(content)
        if cut >= len(content):
            yield chunk, False, ends_document
        elif cut <= 0:
            yield chunk, True, ends_document
        else:
            for _ in range(3):                              # back to the first byte of a character, which has four at most
                cut -= cut > 0 and content[cut] & 0xC0 == 0x80
            yield content[:cut].decode("utf-8", errors="surrogateescape"), False, False
            yield content[cut:].decode("utf-8", errors="surrogateescape"), True, ends_document


def _encode(home, tokenizer, documents, survey, about):
    """Write the token file and corpus.json. -> Corpus"""
    separator = [tokenizer.end_of_text] if survey.documents > 1 and tokenizer.end_of_text is not None else []
    name = f"tokens-{survey.fingerprint}-{tokenizer.fingerprint}.npy"
    tokens, sizes = [0, 0], [0, 0]                          # of the training and the validation part
    with replacing(home.tokens / name) as file:
        _write_header(file, tokenizer.dtype, 0)
        parts = _split(_bar(documents, "Encoding"), survey.train_bytes)
        parts = separated_by_line_ends(parts) if survey.documents > 1 and not separator else parts
        for content, more_tokens, more_bytes in encode_all(parts, tokenizer, separator, _processes(survey)):
            file.write(content)
            for part in (0, 1):
                tokens[part] += more_tokens[part]
                sizes[part] += more_bytes[part]
        file.seek(0)
        _write_header(file, tokenizer.dtype, sum(tokens))
        if tokens[0] < SHORTEST_TRAINING or not sizes[1]:
            raise FolioError(f"The text is too short: its {survey.bytes} bytes make {tokens[0]} tokens to train on and {tokens[1]} held out "
                             "for validation. A few thousand bytes are the least that can be learned from.")
    about = {**about, "tokenizer_fingerprint": tokenizer.fingerprint, "tokens": name, "corpus": {
        "train_tokens": tokens[0], "train_bytes": sizes[0], "val_bytes": sizes[1], "characters": survey.characters,
        "documents": survey.documents, "fingerprint": fingerprint([survey.fingerprint, tokenizer.fingerprint, tokens]),
        "text_fingerprint": survey.fingerprint, "mended": survey.mended}}
    _write_about(home, about)
    _remove_stale(home, about)
    return _corpus(home, about)


# --- In several processes ---

def count_all_pieces(texts, pattern, processes):
    """count_pieces of a great many texts."""
    counts = PieceCounter()
    for counted in in_order(partial(count_batch, pattern=pattern), in_batches(texts), processes):
        counts.add(counted)
    return counts


def encode_all(parts, tokenizer, separator, processes):
    """Encode (text, is_val, ends_document), with the ids in `separator` where a document ends.

    Yields the ids as the bytes of an array, and how many tokens and bytes of text in them belong to training and to validation.
    """
    encode = partial(_encode_together, separator=np.array(separator, tokenizer.dtype))
    return in_order(encode, in_batches(parts, lambda part: len(part[0])), processes, _set_tokenizer, tokenizer.to_dict())


def _processes(survey):
    """As many as there are cores, unless the text is encoded before a second process has started."""
    return cores() if survey.bytes >= PARALLEL_BYTES else 1


def _set_tokenizer(values):
    global _tokenizer
    _tokenizer = from_dict(values)


def _encode_together(parts, separator):
    texts, is_val, ends_document = zip(*parts)
    ids, ends = _tokenizer.encode_many(texts)
    counts = np.diff(ends, prepend=0) + len(separator) * np.array(ends_document)
    ids = np.insert(ids, ends[np.flatnonzero(ends_document)].repeat(len(separator)), np.tile(separator, sum(ends_document)))
    sizes = [len(to_bytes(text)) for text in texts]
    return ids.tobytes(), *(np.bincount(is_val, amounts, minlength=2).astype(int).tolist() for amounts in (counts, sizes))


# --- Small parts ---

_ABOUT = "corpus.json"
_QUIET = {"leave": False, "disable": None, "delay": 1}      # tqdm: no bar where nobody looks, nor for what takes a second


def _documents(home, text, paths):
    return Documents(find_files(paths, ignored=[home.tokens, home.downloads]), text.invalid_bytes, text.field)


def _bar(documents, label):
    with tqdm(total=documents.file_bytes, desc=label, unit="B", unit_scale=True, **_QUIET) as bar:
        for chunk, ends_document in documents:
            yield chunk, ends_document
            bar.update(documents.bytes_read - bar.n)


def _stamps(documents):
    """What tells whether a file has changed, without reading it."""
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in documents.files]


def _relative(home, paths):
    """Paths below the home are kept relative to it, so that a home can be moved."""
    folder = home.folder.resolve()
    return [str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path) for path in map(Path.resolve, paths)]


def _open(home):
    """-> what corpus.json says, and its Corpus; None, None where they are missing or damaged: they can be made again."""
    try:
        about = json.loads((home.tokens / _ABOUT).read_bytes())
        assert {"paths", "stamps", "tokenizer_fingerprint"} <= about.keys(), "corpus.json is of another version"
        return about, _corpus(home, about)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
        return None, None


def _corpus(home, about):
    return Corpus(np.load(home.tokens / about["tokens"], mmap_mode="r"), text=TextParams(**about["text"]), **about["corpus"])


def _remove_stale(home, about):
    """Remove the token files and the kept standard input that corpus.json does not name."""
    named = {about["tokens"], *(PurePath(path).name for path in about["paths"])}
    for pattern in ("tokens-*.npy", STANDARD_INPUT):
        for stale in home.tokens.glob(pattern):
            if stale.name not in named:
                with suppress(PermissionError):             # Windows keeps a file that another process still has open
                    stale.unlink()


def _write_about(home, about):
    with replacing(home.tokens / _ABOUT) as file:
        file.write(json.dumps(about, indent=1).encode("utf-8"))


def _write_header(file, dtype, length):
    """The header of a one-dimensional .npy file; NumPy leaves room for the length to grow, so that it can be written again."""
    np.lib.format.write_array_header_1_0(file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)})
