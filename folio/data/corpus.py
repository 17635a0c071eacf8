"""Documents to token files: what init.py does, and what train.py finds or makes up for.

The text is read in three passes, never held whole: one to measure and fingerprint it, one to learn from the training part, one to
encode. The tokens of the training part, then those of the validation part, lie in one memory-mapped .npy file, so that the first
validation token can be predicted from the last training token. `corpus.json` beside it says what it was made from. It
has checksums over the tokens and over itself; what does not match them is made again from the text.
"""

import io
import json
import math
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePath

import numpy as np
from tqdm import tqdm

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.files import fingerprint, only_one, ordinary, remove_leftovers, replace_together, replacing
from folio.base.parallel import cores, in_order
from folio.data.paths import STANDARD_INPUT, absolute_paths, find_files, supply_text
from folio.data.sources import Documents, separated_by_line_ends
from folio.kernels.splitting import in_batches, to_bytes
from folio.base.fields import field_problems
from Model_Params import READING, TextParams
from tokenizer import (END_OF_TEXT, FILES, BPETokenizer, CharTokenizer, PieceCounter, count_batch, from_dict,
                       learn_merges, load)

VAL_BYTES_LIMIT = 1_000_000         # more measures hardly better and takes time away: of 2.2 minutes of one core, 4 MB (16,384 tokens in the vocabulary) left two steps
PARALLEL_BYTES = 16_000_000         # one process encodes them in 0.7 s; two take as long with their start
SHORTEST_TRAINING = 3               # tokens: a window of two and the token after it
# A token file up to this size is read, not mapped: a mapped one that somebody cuts short ends the process (SIGBUS).
IN_MEMORY_BYTES = 1 << 28
CHECKED_AT_ONCE = 1 << 24           # tokens
SPELLED_AT_ONCE = 1 << 19           # tokens: one to three megabytes of text


@dataclass(frozen=True)
class Corpus:
    """A text as tokens: integers in an array, maybe memory-mapped. The bytes are the text's, separators not counted."""
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
        return _training_part(self.text_fingerprint, self.train_bytes)


@dataclass(frozen=True)
class ReadText:
    """A text in its two parts, for those who only measure: nothing of it is kept."""
    val: np.ndarray                 # as Corpus has it
    val_bytes: int
    train_bytes: int
    training_part: dict             # as Corpus has it
    training_text: Callable         # () -> the bytes of the training part, piece by piece


@dataclass(frozen=True)
class _Record:
    """What corpus.json says."""
    paths: list                     # as _relative has them
    stamps: list
    text: TextParams
    tokenizer_fingerprint: str
    tokens: str                     # the name of their file
    corpus: dict                    # what Corpus has beside the tokens and `text`
    sha256: str | None = None       # of the tokens; None: an older Folio wrote it, which had no checksums


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


def prepare(home, text, paths=(), say=print):
    """Learn a tokenizer from the training part of the text at `paths` (default: Train_Data) and encode all of it.

    text: TextParams; paths: as absolute_paths takes them. An old tokenizer that runs need is kept, as
    replace_tokenizer has it. -> (tokenizer, Corpus). Raises FolioError or FileNotFoundError, with the old files as
    they were, where the text cannot be read or is too short, and BlockingIOError where another process is at it.
    """
    with _alone(home):
        try:
            return _prepare(home, text, absolute_paths(paths, home), say)
        except BaseException:
            record, damage = _read_record(home)
            if not damage:          # else nobody knows which of the files there is the old one
                _remove_stale(home, record)
            raise


def _prepare(home, text, paths, say):
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
    corpus = _encode(home, tokenizer, documents, survey, text, _relative(home, paths), stamps)
    _keep_tokenizer(home, tokenizer, say)
    tokenizer.save(home.tokenizer, survey.fingerprint)
    return tokenizer, corpus


def replace_tokenizer(home, tokenizer, say=print):
    """Save a tokenizer that came from elsewhere in place of the one a home has.

    One that unfinished runs need is kept beside it, and that is said. Raises BlockingIOError where another process is
    encoding with it.
    """
    with _alone(home):
        _keep_tokenizer(home, tokenizer, say)
        tokenizer.save(home.tokenizer)


def _keep_tokenizer(home, new, say):
    """Copy the tokenizer of a home to a folder of its own where `new` is another and runs need the old one."""
    try:
        old = load(home.tokenizer)
    except (OSError, FolioError):
        return
    if old.fingerprint != new.fingerprint and (names := _unfinished_runs(home, old)):
        kept = home.kept_tokenizer(old.fingerprint)
        replace_together(kept, {name: (home.tokenizer / name).read_bytes() for name in FILES})
        say(f"Unfinished runs need the tokenizer that was in {home.tokenizer}: {', '.join(names)}. "
            f"It is kept in {kept}. To go on with one of them, copy the files there back to {home.tokenizer}, "
            f"and with the text that it had: {command('train.py', '--resume', '--name', names[0])}")


def _unfinished_runs(home, tokenizer):
    """The names of the runs that are not at their end and can only go on with this tokenizer, the newest first."""
    names = []
    for path in home.newest("resume-*.pth"):
        from folio.formats import checkpoint        # torch comes with it, which most calls of init.py need not wait for
        with suppress(OSError, FolioError, KeyError, TypeError):        # what cannot be read needs nothing
            contents = checkpoint.load_metadata(path)
            if contents["tokenizer"] == tokenizer.fingerprint and not contents["progress"]["finished"]:
                names.append(path.stem.removeprefix("resume-"))
    return names


def find(home, say=print):
    """The tokenizer that init.py made and the corpus encoded with it.

    Where the text has changed since, or the tokens are damaged, it is encoded again, and that is said.

    -> (tokenizer, Corpus). Raises FileNotFoundError where there is no tokenizer or no text, FolioError where
    the one has no token for the other.
    """
    tokenizer = load(home.tokenizer)
    return tokenizer, _find(home, tokenizer, say)


def prepared(home, wanted, say=print):
    """The tokenizer and the corpus of a home, made where they are missing as `wanted` ({field of TextParams: value}) says; the text too, as
    paths.supply_text has it.

    -> (tokenizer, Corpus). Raises FolioError, with everything as it was, where the home has them already and made otherwise.
    """
    record, _ = _read_record(home)
    if record is None:
        supply_text(home, say)
    if not _has_tokenizer(home):
        text, paths = (record.text, [home.folder / name for name in record.paths]) if record else (TextParams(), ())
        tokenizer, made = prepare(home, replace(text, **wanted), paths)
        say(f"Learned a {tokenizer.kind} tokenizer of {tokenizer.vocab_size:,} tokens from the text; it is in {home.tokenizer}.")
        return tokenizer, made
    tokenizer = load(home.tokenizer)
    return tokenizer, _find(home, tokenizer, say, wanted)


def find_with(tokenizer, home, wanted=(), say=print):
    """The corpus encoded with a tokenizer that came from elsewhere, as weights bring it along; the home takes it over where it has none.

    -> Corpus. Raises FolioError where the home has another tokenizer, and the same as `find` and `prepared`; nothing is
    changed then.
    """
    is_new = not _has_tokenizer(home)
    if not is_new and load(home.tokenizer).fingerprint != tokenizer.fingerprint:
        raise FolioError(f"{home.tokenizer} has another tokenizer than the weights, and the runs that were trained "
                         "with it need it. Give the new run a home of its own: put its text into DIR/Train_Data, "
                         "add --home DIR and name the weights by their path (or move that folder away).")
    corpus = _find(home, tokenizer, say, wanted)
    if is_new:
        replace_tokenizer(home, tokenizer, say)
        say(f"The tokenizer of the weights is now in {home.tokenizer}.")
    return corpus


def read(home, say=print):
    """The tokenizer that init.py made, and the text as it is now. Nothing is written.

    Where the tokens that are kept are not of this text, or are damaged, the text itself is read, and that is said.
    -> (tokenizer, ReadText). Raises the same as `find`.
    """
    tokenizer = load(home.tokenizer)
    record, corpus, damage = _open(home, tokenizer)
    text, _, documents = _look_for_text(home, tokenizer, record, corpus, damage, say)
    if documents is not None and not (corpus and record.stamps == _stamps(documents)):
        survey = _survey(documents, text.val_fraction)
        if not corpus or corpus.text_fingerprint != survey.fingerprint:
            reason = damage or f"{home.tokens} has no tokens of the text that is there now."
            say(f"{reason} The text itself is read instead; train.py will encode it.")
            return tokenizer, _read_text(tokenizer, documents, survey)
    return tokenizer, ReadText(corpus.val, corpus.val_bytes, corpus.train_bytes, corpus.training_part,
                               partial(_spelled, tokenizer, corpus.train))


def _read_text(tokenizer, documents, survey):
    before, held_out, train_bytes = [], [], 0
    for part in _parts(_bar(documents, "Reading"), tokenizer, survey):
        chunk, is_val, _ = part
        if is_val:
            held_out.append(part)                               # VAL_BYTES_LIMIT at most
        else:
            before = [*(before if not chunk else []), part]     # the last one with a text in it, and what may follow
            train_bytes += len(to_bytes(chunk))
    encoded = list(encode_all([*before, *held_out], tokenizer, _separator(tokenizer, survey), 1))
    tokens = np.concatenate([np.frombuffer(content, tokenizer.dtype) for content, *_ in encoded])
    (tokens_before, _), (_, val_bytes) = (np.sum(amounts, axis=0).tolist() for amounts in list(zip(*encoded))[1:])
    if not tokens_before or not val_bytes:
        raise FolioError(f"The text is too short: of its {survey.bytes} bytes {val_bytes} are held out.")
    training_text = partial(_training_text, documents, tokenizer, survey)
    return ReadText(tokens[tokens_before - 1:], val_bytes, train_bytes, _training_part(survey.fingerprint, train_bytes),
                    training_text)


def _training_text(documents, tokenizer, survey):
    for chunk, is_val, _ in _parts(documents, tokenizer, survey):
        if is_val:
            return
        yield to_bytes(chunk)


def _spelled(tokenizer, tokens):
    for start in range(0, len(tokens), SPELLED_AT_ONCE):
        yield ordinary_bytes(tokenizer, tokens[start:start + SPELLED_AT_ONCE])


def ordinary_bytes(tokenizer, tokens):
    """The bytes of some tokens, without those of special tokens, which are no text."""
    return tokenizer.decode_bytes(tokens[~np.isin(tokens, list(tokenizer.special_ids.values()))].tolist())


def _find(home, tokenizer, say, wanted=()):
    record, corpus, damage = _open(home, tokenizer)
    if different := list(_differences(tokenizer, _made_with(record, tokenizer), dict(wanted))):
        raise FolioError(f"The text of {home.folder} is prepared in another way than is wanted: {'; '.join(different)}. What was trained on it "
                         "needs it as it is. Give this run a home of its own: add --home DIR, where DIR may be a new folder. "
                         f"(Or prepare this one anew: {command('init.py')})")
    text, paths, documents = _look_for_text(home, tokenizer, record, corpus, damage, say, wanted)
    if documents is None:
        return corpus
    stamps = _stamps(documents)
    is_checked = corpus is not None and record.sha256 is not None
    if is_checked and record.stamps == stamps and text == record.text:
        return corpus
    survey = _survey(documents, text.val_fraction, want_alphabet=tokenizer.kind == "char")
    if is_checked and corpus.text_fingerprint == survey.fingerprint:       # the files are new, what they say is not
        with suppress(BlockingIOError), _alone(home):
            _write_record(home, replace(record, stamps=stamps, text=text))
        return replace(corpus, text=text)
    by_line_ends = _ends_by_lines(tokenizer, survey)
    if by_line_ends and tokenizer.kind == "char" and tokenizer.unknown_characters("\n"):
        raise FolioError(f"The text has {survey.documents:,} documents, and the tokenizer nothing to set them apart: "
                         "no token that ends a document, and no line end. Put them into one file, or train from nothing "
                         f"with a tokenizer that is learned from them: {command('init.py')}")
    try:
        tokenizer.encode("".join(survey.alphabet))
    except FolioError as error:
        raise FolioError(f"{error} Replace them in the text, or train from nothing with a tokenizer that is learned "
                         f"from it: {command('init.py')}") from None
    if corpus and corpus.text_fingerprint == survey.fingerprint:
        damage = f"The tokens in {home.tokens} have no checksum, as an older Folio wrote them."
    if damage:
        say(f"{damage} Encoding the text in {', '.join(map(str, paths))} again with the tokenizer there is.")
    elif corpus:
        say(f"The text is not the one whose tokens are kept; encoding it with the tokenizer there is ({command('init.py')} learns a new one).")
    else:
        say("Encoding the text with the tokenizer there is.")
    if by_line_ends:
        say("The tokenizer has no token that ends a document: "
            f"a line end sets the {survey.documents:,} documents apart, and an answer ends at none of them.")
    del corpus          # Windows replaces no file that is mapped
    with _alone(home):
        return _encode(home, tokenizer, documents, survey, text, _relative(home, paths), stamps)


def _made_with(record, tokenizer):
    """The TextParams with which a tokenizer was used before, or None."""
    return record.text if record and record.tokenizer_fingerprint == tokenizer.fingerprint else None


def _look_for_text(home, tokenizer, record, corpus, damage, say, wanted=()):
    """-> (TextParams, where the text is, its Documents); None for these where it is gone and the Corpus serves.

    record, corpus, damage: as _open has them. Raises FileNotFoundError or FolioError where there is neither.
    """
    wanted = dict(wanted)
    if text := _made_with(record, tokenizer):
        text = replace(text, **{name: value for name, value in wanted.items() if name in READING})
    else:
        text = replace(record.text if record else TextParams(), **wanted | {
            "tokenizer": tokenizer.kind, "pattern": tokenizer.pattern or TextParams.pattern, "vocab_size": None})
    paths = [home.folder / name for name in record.paths] if record else [home.train_data]
    try:
        return text, paths, _documents(home, text, paths)
    except (FileNotFoundError, FolioError) as error:
        if damage:
            raise type(error)(f"{damage} {error}") from None
        if not corpus:
            raise
        say(f"The text itself is gone ({paths[0]}); its tokens in {home.tokens} are still there and serve.")
        return text, paths, None


def _differences(tokenizer, text, wanted):
    """-> a phrase for everything in which a tokenizer, and the TextParams it was used with or None, are not as wanted.

    wanted: {field of TextParams: value}
    """
    has = {"tokenizer": tokenizer.kind, "pattern": tokenizer.pattern, "vocab_size": tokenizer.vocab_size,
           "val_fraction": text and text.val_fraction}
    for name in [name for name in has if name in wanted]:
        # Of a text too small for the vocabulary that was asked for, the fewer tokens it has got are what was asked for.
        asked_for = text and getattr(text, name)
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


def _parts(chunks, tokenizer, survey):
    """Return the text as it is encoded: (text, is_val, ends_document), with line ends where they set documents apart."""
    parts = _split(chunks, survey.train_bytes)
    return separated_by_line_ends(parts) if _ends_by_lines(tokenizer, survey) else parts


def _encode(home, tokenizer, documents, survey, text, paths, stamps):
    """Write the token file and corpus.json. text, paths, stamps: as _Record has them. -> Corpus"""
    separator = _separator(tokenizer, survey)
    name = _token_file(survey.fingerprint, tokenizer.fingerprint)
    tokens, sizes, digest = [0, 0], [0, 0], sha256()        # of the training and the validation part; of both
    with replacing(home.tokens / name) as file:
        file.write(_header(tokenizer.dtype, 0))
        parts = _parts(_bar(documents, "Encoding"), tokenizer, survey)
        for content, more_tokens, more_bytes in encode_all(parts, tokenizer, separator, _processes(survey)):
            file.write(content)
            digest.update(content)
            for part in (0, 1):
                tokens[part] += more_tokens[part]
                sizes[part] += more_bytes[part]
        file.seek(0)
        file.write(_header(tokenizer.dtype, sum(tokens)))
        if tokens[0] < SHORTEST_TRAINING or not sizes[1]:
            raise FolioError(f"The text is too short: its {survey.bytes} bytes make {tokens[0]} tokens to train on and "
                             f"{tokens[1]} held out for validation. A few thousand bytes are the least that can be "
                             "learned from.")
    record = _Record(paths, stamps, text, tokenizer.fingerprint, name, {
        "train_tokens": tokens[0], "train_bytes": sizes[0], "val_bytes": sizes[1], "characters": survey.characters,
        "documents": survey.documents, "fingerprint": _fingerprint(survey.fingerprint, tokenizer.fingerprint, tokens),
        "text_fingerprint": survey.fingerprint, "mended": survey.mended}, digest.hexdigest())
    _write_record(home, record)
    _remove_stale(home, record)
    return _corpus(record, _open_tokens(home.tokens / name, tokenizer.dtype))


def _separator(tokenizer, survey):
    """The ids that stand where a document ends."""
    return [tokenizer.end_of_text] if survey.documents > 1 and tokenizer.end_of_text is not None else []


def _ends_by_lines(tokenizer, survey):
    """Whether a line end sets documents apart, for want of a token that does."""
    return survey.documents > 1 and tokenizer.end_of_text is None


def _training_part(text_fingerprint, train_bytes):
    """What names the text that is learned from, in whatever tokens."""
    return {"text_fingerprint": text_fingerprint, "train_bytes": train_bytes}


def _fingerprint(text_fingerprint, tokenizer_fingerprint, tokens):
    """tokens: [how many to train on, how many held out]"""
    return fingerprint([text_fingerprint, tokenizer_fingerprint, tokens])


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
    return in_order(encode, in_batches(parts, lambda part: len(part[0])), processes, from_dict, tokenizer.to_dict())


def _processes(survey):
    """As many as there are cores, unless the text is encoded before a second process has started."""
    return cores() if survey.bytes >= PARALLEL_BYTES else 1


def _encode_together(tokenizer, parts, separator):
    texts, is_val, ends_document = zip(*parts)
    ids, ends = tokenizer.encode_many(texts)
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


@contextmanager
def _alone(home):
    """Hold the tokens and the tokenizer of a home against other writers, and remove what killed ones left behind."""
    new_folders = [folder for folder in (home.tokens, *home.tokens.parents) if not folder.exists()]
    lock = home.tokens / ".lock"
    try:
        with only_one(lock, f"Another process is encoding the text of {home.folder} right now. "
                            "Wait until it has ended, and run this again."):
            try:
                for folder in (home.tokens, home.tokenizer):
                    remove_leftovers(folder / "*")
                yield
            finally:
                if not (home.tokens / _ABOUT).exists():     # then nothing came of it, and nothing is to be seen of it
                    with suppress(PermissionError):         # Windows keeps a file that is open, as the lock still is
                        lock.unlink()
    finally:
        with suppress(OSError):                             # not empty
            for folder in new_folders:
                folder.rmdir()


# --- The files ---

def _open(home, tokenizer):
    """-> (what corpus.json says, the Corpus made with this tokenizer, a sentence about damage); each may be None."""
    record, damage = _read_record(home)
    if record is None or record.tokenizer_fingerprint != tokenizer.fingerprint:
        return record, None, damage
    path, numbers = home.tokens / record.tokens, record.corpus
    tokens = _open_tokens(path, tokenizer.dtype)
    if tokens is None:
        return record, None, f"{path} is not whole."
    counts = [numbers["train_tokens"], len(tokens) - numbers["train_tokens"]]
    expected = _fingerprint(numbers["text_fingerprint"], tokenizer.fingerprint, counts)
    if counts[1] < 1 or numbers["fingerprint"] != expected:
        return record, None, f"{path} has not as many tokens as {_ABOUT} says."
    checksum, largest = _inspect(tokens)
    if largest >= tokenizer.vocab_size or record.sha256 not in (None, checksum):
        return record, None, f"{path} is damaged: its checksum does not match its contents."
    return record, _corpus(record, tokens), None


def _open_tokens(path, dtype):
    """The integers in a one-dimensional .npy file, or None. Its header is compared, not evaluated."""
    try:
        with open(path, "rb", opener=ordinary) as file:
            file_bytes = path.stat().st_size
            start = len(_header(dtype, 0))
            length, rest = divmod(file_bytes - start, dtype.itemsize)
            if length < 0 or rest or file.read(start) != _header(dtype, length):
                return None
            if file_bytes > IN_MEMORY_BYTES:
                return np.memmap(path, dtype, "r", offset=start, shape=(length,))
            tokens = np.frombuffer(file.read(), dtype)
            return tokens if len(tokens) == length else None
    except (OSError, ValueError):
        return None


def _inspect(tokens):
    """-> the SHA-256 of an array of tokens, and the largest of them. It takes about a second for a gigabyte."""
    digest, largest = sha256(), 0
    with tqdm(total=tokens.nbytes, desc="Checking the tokens", unit="B", unit_scale=True, **_QUIET) as bar:
        for start in range(0, len(tokens), CHECKED_AT_ONCE):
            some = tokens[start:start + CHECKED_AT_ONCE]
            digest.update(some)
            largest = max(largest, some.max().item())
            bar.update(some.nbytes)
    return digest.hexdigest(), largest


def _corpus(record, tokens):
    return Corpus(tokens, text=record.text, **record.corpus)


def _read_record(home):
    """-> (what corpus.json says, a sentence about what is damaged in it); each may be None: it can be made again."""
    path = home.tokens / _ABOUT
    try:
        with open(path, "rb", opener=ordinary) as file:
            about = json.load(file)
        checksum = about.pop("checksum", None)
        record = _Record(**about | {"text": TextParams(**about["text"])})
        if _makes_sense(record) and checksum == (fingerprint(about) if record.sha256 else None):
            return record, None
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None, f"{path} is damaged, so nobody knows which text the tokens beside it are of."


def _makes_sense(record):
    """Whether everything in a record is of its type and in its bounds."""
    numbers = dict(record.corpus)
    mended, text_fingerprint = numbers.pop("mended"), numbers.pop("text_fingerprint")
    names = [numbers.pop("fingerprint"), text_fingerprint, record.tokenizer_fingerprint, *record.paths, *mended]
    return (all(isinstance(name, str) for name in names)
            and isinstance(record.paths, list) and record.paths != []
            and record.tokens == _token_file(text_fingerprint, record.tokenizer_fingerprint)
            and isinstance(record.sha256, str | None) and not list(field_problems(record.text))
            and numbers.keys() == {"train_tokens", "train_bytes", "val_bytes", "characters", "documents"}
            and all(type(number) is int and number > 0 for number in [*numbers.values(), *mended.values()])
            and numbers["train_tokens"] >= SHORTEST_TRAINING
            and numbers["characters"] <= numbers["train_bytes"] + numbers["val_bytes"])


def _write_record(home, record):
    about = asdict(record)
    with replacing(home.tokens / _ABOUT) as file:
        file.write(json.dumps(about | {"checksum": fingerprint(about)}, indent=1).encode("utf-8"))


def _token_file(text_fingerprint, tokenizer_fingerprint):
    return f"tokens-{text_fingerprint}-{tokenizer_fingerprint}.npy"


def _remove_stale(home, record):
    """Remove the token files and the kept standard input that corpus.json does not name; all where there is none."""
    named = {record.tokens, *(PurePath(path).name for path in record.paths)} if record else set()
    for pattern in ("tokens-*.npy", STANDARD_INPUT):
        for stale in home.tokens.glob(pattern):
            if stale.name not in named:
                with suppress(PermissionError):             # Windows keeps a file that another process still has open
                    stale.unlink()


def _header(dtype, length):
    """The header of a one-dimensional .npy file; NumPy leaves room for the length to grow, so that it can be written again."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)})
    return file.getvalue()
