"""The text of a home as tokens: `open_corpus` finds them, or makes them; `read_corpus` reads and never writes.

The tokens of the training part, then those of the validation part, are one array, so that the first validation token
can be predicted from the last training token. They lie in Train_Data/tokens (see folio.data.token_files) with checksums
over the tokens and over what they were made from. Whatever does not match its checksum is made again from the text.
"""

from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.files import fingerprint, only_one, remove_leftovers, replace_together
from folio.data.encoding import (
    encode_validation,
    ends_by_lines,
    learn_tokenizer,
    survey_text,
    training_text,
    write_tokens,
)
from folio.data.paths import absolute_paths, find_files, supply_text
from folio.data.sides import one_sided
from folio.data.sources import Documents
from folio.data.token_files import (
    RECORD_NAME,
    Record,
    inspect,
    open_tokens,
    read_record,
    remove_stale,
    token_file_name,
    write_record,
)
from Model_Params import READING, TextParams
from tokenizer import FILES, load

DECODED_AT_ONCE = 1 << 19           # tokens: one to three megabytes of text


@dataclass(frozen=True)
class Corpus:
    """A text as tokens. Bytes are those of the text, without separators."""
    tokens: np.ndarray              # (train_tokens + val_tokens,) integers, possibly memory-mapped
    train_tokens: int
    train_bytes: int
    val_bytes: int
    characters: int
    documents: int
    fingerprint: str                # equal exactly if the tokens and the split are
    text_fingerprint: str
    mended: dict                    # {what reading corrected: how often}
    text: TextParams                # how it was made

    @property
    def train(self):
        """The training tokens."""
        return self.tokens[:self.train_tokens]

    @property
    def val(self):
        """The validation tokens, after the one token that the first of them is predicted from."""
        return self.tokens[self.train_tokens - 1:]

    @property
    def val_tokens(self):
        """How many tokens are for validation."""
        return len(self.tokens) - self.train_tokens

    @property
    def training_part(self):
        """What identifies the text that is trained on, by whatever tokenizer."""
        return _training_part(self.text_fingerprint, self.train_bytes)


@dataclass(frozen=True)
class ReadText:
    """A text in its two parts, for commands that only measure: nothing of it is stored."""
    val: np.ndarray                 # as Corpus.val
    val_bytes: int
    train_bytes: int
    training_part: dict             # as Corpus.training_part
    training_text: Callable         # () -> an iterator over the bytes of the training part, chunk by chunk


def open_corpus(home, text=None, paths=(), held_out=(), *, wanted=(), tokenizer=None, runs_needing=None, report=None,
                say=print):
    """Return a tokenizer and the text of a home encoded with it: (tokenizer, Corpus). Encode what is missing or stale.

    text: TextParams, to learn a new tokenizer from the text at `paths` (as absolute_paths takes them) and encode that
        text. Nothing of what the home has is used. None: use the tokenizer that the home has.
    held_out: paths like `paths` of what is held out; then nothing else is, and it is not trained on.
    wanted: {field of TextParams: value}, which what the home has must match. If not empty, a tokenizer that is missing
        is learned with these values, and a text that is missing is supplied as by paths.supply_text.
    tokenizer: use this one, which came with weights. The home takes it over if it has none, and must not have another.
    runs_needing: (home, tokenizer) -> names of unfinished runs that need a tokenizer which is about to be replaced; it
        is then kept, see replace_tokenizer. None: no run does.
    report: a FolderReport, which is told what is read and what is skipped where `text` is given.
    say: called with a sentence about whatever is made again, or is on one side only.

    Raises FolioError if the home does not match, or the tokenizer cannot encode the text, or there is too little text;
    FileNotFoundError if there is no tokenizer or no text; BlockingIOError if another process is encoding. The files are
    then as they were.
    """
    if text is not None:
        return _learned(home, text, paths, held_out, runs_needing, report, say)
    if tokenizer is not None:
        return tokenizer, _corpus_of_weights(home, tokenizer, wanted, say)
    if wanted:
        record, _ = read_record(home)
        if record is None:
            supply_text(home, say)
        if not _has_tokenizer(home):
            last = record.text if record else TextParams()
            text = replace(last, **wanted)
            tokenizer, corpus = _learned(home, text, *_paths_of(home, record), runs_needing, None, say)
            say(f"Learned a {tokenizer.kind} tokenizer of {tokenizer.vocab_size:,} tokens from the text; "
                f"it is in {home.tokenizer}.")
            return tokenizer, corpus
    tokenizer = load(home.tokenizer)
    return tokenizer, _current_corpus(home, tokenizer, wanted, say)


def read_corpus(home, say=print):
    """Return the tokenizer of a home and its text as it is now: (tokenizer, ReadText). Write nothing.

    If the stored tokens are damaged or of another text, the text itself is read, and `say` is told.
    Raises FileNotFoundError if there is no tokenizer or no text, and FolioError if the one cannot encode the other.
    """
    tokenizer = load(home.tokenizer)
    record, corpus, damage = _stored(home, tokenizer)
    text, _, documents = _find_text(home, tokenizer, record, corpus, damage, say)
    if documents is not None and not (corpus and record.stamps == _stamps(documents)):
        survey = survey_text(documents, text)
        if not corpus or corpus.text_fingerprint != survey.fingerprint:
            reason = damage or f"{home.tokens} has no tokens of the text that is there now."
            say(f"{reason} The text itself is read instead; train.py will encode it.")
            val, val_bytes, train_bytes = encode_validation(documents, tokenizer, survey)
            return tokenizer, ReadText(val, val_bytes, train_bytes, _training_part(survey.fingerprint, train_bytes),
                                       partial(training_text, documents, tokenizer, survey))
    return tokenizer, ReadText(corpus.val, corpus.val_bytes, corpus.train_bytes, corpus.training_part,
                               partial(_decoded, tokenizer, corpus.train))


def replace_tokenizer(home, tokenizer, runs_needing=None, say=print):
    """Save a tokenizer in place of the one a home has.

    If unfinished runs need the old one, as runs_needing(home, old) says, it is kept beside the new one, and `say` is
    told. Raises BlockingIOError if another process is encoding with it.
    """
    with _locked(home):
        _keep_tokenizer(home, tokenizer, runs_needing, say)
        tokenizer.save(home.tokenizer)


def ordinary_bytes(tokenizer, tokens):
    """Return the bytes of some tokens, without special tokens, as these are not part of the text."""
    return tokenizer.decode_bytes(tokens[~np.isin(tokens, list(tokenizer.special_ids.values()))].tolist())


def _decoded(tokenizer, tokens):
    for start in range(0, len(tokens), DECODED_AT_ONCE):
        yield ordinary_bytes(tokenizer, tokens[start:start + DECODED_AT_ONCE])


# --- A new tokenizer ---

def _learned(home, text, paths, held_out, runs_needing, report, say):
    """Learn a tokenizer, encode the text, and save both. -> (tokenizer, Corpus)"""
    with _locked(home):
        try:
            paths = absolute_paths(paths, home), absolute_paths(held_out, home) if held_out else []
            documents = documents_in(home, text, *paths, report)
            stamps = _stamps(documents)
            with documents.kept_in(home.tokens):
                survey = survey_text(documents, text, want_alphabet=text.tokenizer == "char")
                tokenizer = learn_tokenizer(documents, survey, text)
                corpus = _encode(home, tokenizer, documents, survey, text, paths, stamps, say)
            _keep_tokenizer(home, tokenizer, runs_needing, say)
            tokenizer.save(home.tokenizer, survey.fingerprint)
            return tokenizer, corpus
        except BaseException:
            record, damage = read_record(home)
            if not damage:          # else nobody knows which of the files there is the old one
                remove_stale(home, record)
            raise


def _corpus_of_weights(home, tokenizer, wanted, say):
    """Return the Corpus by a tokenizer that came with weights. The home takes it over if it has none."""
    is_new = not _has_tokenizer(home)
    if not is_new and load(home.tokenizer).fingerprint != tokenizer.fingerprint:
        raise FolioError(f"{home.tokenizer} has another tokenizer than the weights, and the runs that were trained "
                         "with it need it. Give the new run a home of its own: put its text into DIR/Train_Data, "
                         "add --home DIR and name the weights by their path (or move that folder away).")
    corpus = _current_corpus(home, tokenizer, wanted, say)
    if is_new:
        replace_tokenizer(home, tokenizer, say=say)
        say(f"The tokenizer of the weights is now in {home.tokenizer}.")
    return corpus


def _has_tokenizer(home):
    return any((home.tokenizer / name).exists() for name in FILES)


def _keep_tokenizer(home, new, runs_needing, say):
    """Copy the tokenizer of a home to a folder of its own if `new` is another one and runs need the old one."""
    try:
        old = load(home.tokenizer)
    except (OSError, FolioError):
        return
    if runs_needing is None or old.fingerprint == new.fingerprint:
        return
    if names := runs_needing(home, old):
        kept = home.kept_tokenizer(old.fingerprint)
        replace_together(kept, {name: (home.tokenizer / name).read_bytes() for name in FILES})
        say(f"Unfinished runs need the tokenizer that was in {home.tokenizer}: {', '.join(names)}. "
            f"It is kept in {kept}. To go on with one of them, copy the files there back to {home.tokenizer}, "
            f"and with the text that it had: {command('train.py', '--resume', '--name', names[0])}")


# --- The tokenizer there is ---

def _current_corpus(home, tokenizer, wanted, say):
    """Return the Corpus of the text as it is now. Encode it if it has changed or the stored tokens are damaged."""
    record, corpus, damage = _stored(home, tokenizer)
    _refuse_differences(home, tokenizer, _made_with(record, tokenizer), dict(wanted))
    text, paths, documents = _find_text(home, tokenizer, record, corpus, damage, say, wanted)
    if documents is None:
        return corpus
    stamps = _stamps(documents)
    is_checked = corpus is not None and record.sha256 is not None
    if is_checked and record.stamps == stamps and text == record.text:
        return corpus
    survey = survey_text(documents, text, want_alphabet=tokenizer.kind == "char")
    is_same_text = corpus is not None and corpus.text_fingerprint == survey.fingerprint
    if is_checked and is_same_text:                 # the files are new, but not what is in them
        with suppress(BlockingIOError), _locked(home):
            write_record(home, replace(record, stamps=stamps, text=text))
        return replace(corpus, text=text)
    _refuse_unfit_text(tokenizer, survey)
    if is_same_text:
        damage = f"The tokens in {home.tokens} have no checksum, as an older Folio wrote them."
    if damage:
        say(f"{damage} Encoding the text in {', '.join(map(str, [*paths[0], *paths[1]]))} again with the tokenizer "
            "there is.")
    elif corpus:
        say("The text is not the one whose tokens are kept; encoding it with the tokenizer there is "
            f"({command('init.py')} learns a new one).")
    else:
        say("Encoding the text with the tokenizer there is.")
    if ends_by_lines(tokenizer, survey):
        say("The tokenizer has no token that ends a document: "
            f"a line end sets the {survey.documents:,} documents apart, and an answer ends at none of them.")
    del corpus          # Windows replaces no file that is mapped
    with _locked(home):
        return _encode(home, tokenizer, documents, survey, text, paths, stamps, say)


def _made_with(record, tokenizer):
    """Return the TextParams that a tokenizer was used with before, or None."""
    return record.text if record and record.tokenizer_fingerprint == tokenizer.fingerprint else None


def _find_text(home, tokenizer, record, corpus, damage, say, wanted=()):
    """Return (TextParams, paths, Documents); None for these if the text is gone but the Corpus serves.

    record, corpus, damage: as _stored returns them; paths: as _paths_of returns them.
    Raises FileNotFoundError or FolioError if there is neither.
    """
    wanted = dict(wanted)
    if text := _made_with(record, tokenizer):
        text = replace(text, **{name: value for name, value in wanted.items() if name in READING})
    else:
        text = replace(record.text if record else TextParams(), **wanted | {
            "tokenizer": tokenizer.kind, "pattern": tokenizer.pattern or TextParams.pattern, "vocab_size": None})
    paths = _paths_of(home, record)
    try:
        return text, paths, documents_in(home, text, *paths)
    except (FileNotFoundError, FolioError) as error:
        if damage:
            raise type(error)(f"{damage} {error}") from None
        if not corpus:
            raise
        say(f"The text itself is gone ({paths[0][0]}); its tokens in {home.tokens} are used instead.")
        return text, paths, None


def _refuse_differences(home, tokenizer, text, wanted):
    """Raise FolioError if a tokenizer, or the TextParams it was used with (or None), are not as wanted.

    wanted: {field of TextParams: value}; None for a value means any.
    """
    has = {"tokenizer": tokenizer.kind, "pattern": tokenizer.pattern, "vocab_size": tokenizer.vocab_size,
           "val_fraction": text and text.val_fraction, "hold_out": text and text.hold_out}
    different = []
    for name in [name for name in has if name in wanted]:
        # A text too small for the vocabulary that was asked for got fewer tokens: asking for the same again is right.
        asked_for = text and getattr(text, name)
        if has[name] is not None and wanted[name] not in (None, has[name], asked_for):
            different.append(f"{name} is {has[name]}, not {wanted[name]}")
    if different:
        raise FolioError(f"The text of {home.folder} is prepared in another way than is wanted: "
                         f"{'; '.join(different)}. What was trained on it needs it as it is. "
                         f"Give this run a home of its own: add --home DIR, where DIR may be a new folder. "
                         f"(Or prepare this one anew: {command('init.py')})")


def _refuse_unfit_text(tokenizer, survey):
    """Raise FolioError if a tokenizer cannot encode a text: it lacks a character, or anything that ends a document."""
    if ends_by_lines(tokenizer, survey) and tokenizer.kind == "char" and tokenizer.unknown_characters("\n"):
        raise FolioError(f"The text has {survey.documents:,} documents, and the tokenizer nothing to set them apart: "
                         "no token that ends a document, and no line end. Put them into one file, or train from "
                         f"nothing with a tokenizer that is learned from them: {command('init.py')}")
    try:
        tokenizer.encode("".join(survey.alphabet))
    except FolioError as error:
        raise FolioError(f"{error} Replace them in the text, or train from nothing with a tokenizer that is learned "
                         f"from it: {command('init.py')}") from None


# --- What a home has ---

def documents_in(home, text, paths, held_out=(), report=None):
    """Return the Documents in paths, without those that are held out, and these.

    text: TextParams; report: a FolderReport, which is told what is read and what is skipped
    Raises FileNotFoundError or FolioError where there are none.
    """
    ignored = [home.tokens, home.downloads, home.preferences]
    held_out = find_files(held_out, ignored, text, report) if held_out else []
    named = set(map(Path.resolve, held_out))
    files = [file for file in find_files(paths, ignored, text, report) if file.resolve() not in named]
    if not files:
        raise FolioError(f"All of the text is held out: {', '.join(map(str, paths))} has no file that is not named "
                         "with --val.")
    return Documents(files, text, held_out)


def documents_of(home):
    """Return the Documents that the tokens of a home are made of, and the TextParams; of Train_Data without tokens."""
    record, _ = read_record(home)
    text = record.text if record else TextParams()
    return documents_in(home, text, *_paths_of(home, record)), text


def _stamps(documents):
    """Return what tells whether a file has changed without reading it, as Record.stamps."""
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in documents.files]


def _changed(documents, stamps):
    """Return the first file whose stamp is another than before, or None."""
    return next((path for path, *pair in zip(documents.files, stamps, _stamps(documents)) if pair[0] != pair[1]), None)


def _paths_of(home, record):
    """Return the paths of a text and of what is held out of it by name. record: Record or None"""
    if record is None:
        return [home.train_data], []
    return [home.folder / name for name in record.paths], [home.folder / name for name in record.held_out]


def _relative(home, paths):
    """Return paths as a record has them: relative to the home if they are below it."""
    folder = home.folder.resolve()
    return [str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
            for path in map(Path.resolve, paths)]


def _stored(home, tokenizer):
    """Return the Record, the Corpus by this tokenizer, and a sentence about damage; each may be None."""
    record, damage = read_record(home)
    if record is None or record.tokenizer_fingerprint != tokenizer.fingerprint:
        return record, None, damage
    path, numbers = home.tokens / record.tokens, record.corpus
    tokens = open_tokens(path, tokenizer.dtype)
    if tokens is None:
        return record, None, f"{path} is not whole."
    counts = [numbers["train_tokens"], len(tokens) - numbers["train_tokens"]]
    expected = _fingerprint(numbers["text_fingerprint"], tokenizer.fingerprint, counts)
    if counts[1] < 1 or numbers["fingerprint"] != expected:
        return record, None, f"{path} has not as many tokens as {RECORD_NAME} says."
    checksum, largest = inspect(tokens)
    if largest >= tokenizer.vocab_size or record.sha256 not in (None, checksum):
        return record, None, f"{path} is damaged: its checksum does not match its contents."
    return record, Corpus(tokens, text=record.text, **record.corpus), None


def _encode(home, tokenizer, documents, survey, text, paths, stamps, say):
    """Write the token file and corpus.json, and remove those that they replace. -> Corpus

    paths: as _paths_of returns them; say: is told what is on one side only
    """
    name = token_file_name(survey.fingerprint, tokenizer.fingerprint)
    written = write_tokens(home.tokens / name, tokenizer, documents, survey, partial(_changed, documents, stamps))
    for sentence in one_sided(survey, written):
        say(sentence)
    record = Record(_relative(home, paths[0]), stamps, text, tokenizer.fingerprint, name, {
        "train_tokens": written.tokens[0], "train_bytes": written.bytes[0], "val_bytes": written.bytes[1],
        "characters": survey.characters, "documents": survey.documents,
        "fingerprint": _fingerprint(survey.fingerprint, tokenizer.fingerprint, written.tokens),
        "text_fingerprint": survey.fingerprint, "mended": survey.mended}, written.sha256, _relative(home, paths[1]))
    write_record(home, record)
    remove_stale(home, record)
    return Corpus(open_tokens(home.tokens / name, tokenizer.dtype), text=text, **record.corpus)


def _fingerprint(text_fingerprint, tokenizer_fingerprint, tokens):
    """Return Corpus.fingerprint. tokens: (number of training tokens, number of validation tokens)"""
    return fingerprint([text_fingerprint, tokenizer_fingerprint, tokens])


def _training_part(text_fingerprint, train_bytes):
    return {"text_fingerprint": text_fingerprint, "train_bytes": train_bytes}


@contextmanager
def _locked(home):
    """Lock the tokens and the tokenizer of a home against other writers; remove what killed writers left behind.

    Raises BlockingIOError if another process holds the lock. If nothing was written, no new file or folder remains.
    """
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
                if not (home.tokens / RECORD_NAME).exists():
                    with suppress(PermissionError):         # Windows keeps a file that is open, as the lock still is
                        lock.unlink()
    finally:
        with suppress(OSError):                             # not empty
            for folder in new_folders:
                folder.rmdir()
