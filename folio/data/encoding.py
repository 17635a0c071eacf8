"""Text to tokens in three passes, none of which holds the whole text: survey it, learn a tokenizer from it, encode it.

A part of the text is held out for validation, see folio.data.hold_out. The learning pass reads the training part only.
"""

import math
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import accumulate, chain, islice

import numpy as np
from tqdm import tqdm

from folio.base.errors import FolioError
from folio.base.files import replacing
from folio.base.parallel import cores, in_order
from folio.data.hold_out import Choice, Split
from folio.data.sides import Columns, Files, Scripts
from folio.data.sources import separated_by_line_ends
from folio.data.token_files import QUIET_BAR, SHORTEST_TRAINING, npy_header
from folio.kernels.merging import learn_merges
from folio.kernels.splitting import PretokenCounter, count_batch, in_batches, pack, to_bytes, unpack
from tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, from_dict

PARALLEL_BYTES = 16_000_000         # one process encodes them in 0.7 s; two take as long, including their start


@dataclass(frozen=True)
class Survey:
    """What the first pass over a text finds."""
    bytes: int
    characters: int
    documents: int
    split: Split                    # which part is for validation
    fingerprint: str                # of the text, of where its documents end, and of the split if it holds out no end
    mended: dict                    # as Documents.mended
    alphabet: tuple                 # the distinct characters, sorted, if they were asked for
    held_out_files: tuple           # paths of the files of which everything is held out
    likeness_counts: bool           # whether documents that are alike are on one side
    columns: tuple = ()             # as Documents.columns


@dataclass(frozen=True)
class TokenCounts:
    """What was written to a token file; pairs are (training part, validation part)."""
    tokens: tuple
    bytes: tuple                    # of the text, without separators
    sha256: str                     # of the tokens of both parts
    one_sided_scripts: tuple = ()   # as Scripts.one_sided
    one_sided_columns: tuple = ()   # as Columns.one_sided


def default_vocab_size(text_bytes):
    """Return a vocabulary size that grows with the square root of the size of the text, a power of two.

    It is 1,024 for the plays, 2,048 for tiny shakespeare and 4,096 from 4 MB on. More tokens make shorter sequences,
    but leave fewer examples of each token to learn from; BPE-dropout also shows a model the shorter tokens. Above 4,096
    a small model's short run sees each token too rarely: on 100 MB, two minutes of one core ended at 1.770 nats per
    byte with 4,096 tokens and at 1.907 with 16,384.

    >>> default_vocab_size(1_115_394)
    2048
    """
    return 1 << math.isqrt(4 * min(max(text_bytes, 256 ** 2), 2048 ** 2)).bit_length() - 1


# --- The first pass: survey ---

def survey_text(documents, text, want_alphabet=False):
    """Measure and fingerprint a text, and choose what is held out. -> Survey

    text: TextParams, of which val_fraction and hold_out count. Raises FolioError if there is no text.
    """
    identity, alphabet, files = Identity(), set(), Files()
    choice = Choice(text.val_fraction, text.hold_out == "documents" and not documents.held_out)
    characters = 0
    for texts, ends_document in _with_progress(documents, "Reading"):
        files.add(documents.path, choice)
        choice.add(texts, identity.add(texts, ends_document), ends_document)
        characters += _characters(texts)
        if want_alphabet:
            alphabet.update(*texts)
    if not choice.bytes:
        others = " and others" if len(documents.files) > 1 else ""
        raise FolioError(f"There is nothing in {documents.files[0]}{others}: no text, nothing to learn.")
    mended, columns = dict(documents.mended), documents.columns
    if documents.held_out:
        split, likeness_counts = Split(files.start_of(documents.held_out, choice.bytes)), True
    else:
        split, likeness_counts = choice.split(_with_progress(documents, "Comparing documents"))
    return Survey(choice.bytes, characters, choice.documents, split, identity.fingerprint(split), mended,
                  tuple(sorted(alphabet)), files.held_out(split, choice), likeness_counts, columns)


class Identity:
    """Fingerprints a text while it is read."""

    def __init__(self):
        self._digest, self._bytes = sha256(), 0

    def add(self, texts, ends_document):
        """Take the next group, as Documents.groups yields it. -> the sizes of its texts in bytes"""
        is_ascii = "".join(texts).isascii()
        sizes = list(map(len, texts if is_ascii else map(to_bytes, texts)))
        if not ends_document:
            self._digest.update(to_bytes(texts[0]))
        else:                           # where documents end, so that two differ from one
            ends = islice(accumulate(sizes, initial=self._bytes), 1, None)
            if is_ascii:                # the fastest way to these bytes
                content = "".join([f"{text}\xff{end}\xff" for text, end in zip(texts, ends)]).encode("latin-1")
            else:
                content = b"".join([b"%b\xff%d\xff" % (to_bytes(text), end) for text, end in zip(texts, ends)])
            self._digest.update(content)
        self._bytes += sum(sizes)
        return sizes

    def fingerprint(self, split):
        """Return the fingerprint of what was added, with this Split of it."""
        digest = self._digest.copy()
        digest.update(split.identity)
        return digest.hexdigest()[:16]


# --- The second pass: learn ---

def learn_tokenizer(documents, survey, text):
    """Learn a tokenizer from the training part of a text, as `text` (TextParams) says.

    The alphabet of a character tokenizer is that of the whole text: survey.alphabet.
    """
    if text.tokenizer == "char":
        return CharTokenizer(survey.alphabet, (END_OF_TEXT,) if survey.documents > 1 else ())
    num_merges = BPETokenizer.merges_for(text.vocab_size or default_vocab_size(survey.bytes))
    parts = survey.split.groups_in_order(_with_progress(documents, "Counting words"))
    groups = (texts for texts, is_val, _ in parts if not is_val)
    counts = count_all_pretokens(groups, text.pattern, _processes(survey))
    merges = learn_merges(counts, num_merges)
    return BPETokenizer(tqdm(merges, "Learning merges", total=num_merges, **QUIET_BAR), text.pattern)


def count_all_pretokens(groups, pattern, processes):
    """Count the pre-tokens of a stream of lists of texts, in several processes. -> PretokenCounter"""
    counts = PretokenCounter()
    batches = (pack(list(chain.from_iterable(batch))) for batch in in_batches(groups, _characters))
    for counted in in_order(partial(_count_packed, pattern=pattern), batches, processes):
        counts.add(counted)
    return counts


def _characters(texts):
    return sum(map(len, texts))


def _count_packed(packed, pattern):
    return count_batch(unpack(*packed), pattern)


# --- The third pass: encode ---

def write_tokens(path, tokenizer, documents, survey, find_changed=lambda: None):
    """Encode a text into a token file at `path`. -> TokenCounts

    find_changed: called where the text is not the surveyed one; returns the file that has changed, or None
    Raises FolioError if the text is too short, or another one than was surveyed; a file that was at `path` is then as
    it was.
    """
    tokens, sizes, digest = [0, 0], [0, 0], sha256()
    with replacing(path) as file:
        file.write(npy_header(tokenizer.dtype, 0))
        groups = _unchanged(_with_progress(documents, "Encoding"), documents, survey, find_changed)
        parts = _parts(groups, tokenizer, survey)
        separator = _separator(tokenizer, survey)
        scripts, columns = Scripts(), Columns(survey.columns)
        parts = columns.watch(scripts.watch(parts))
        for content, more_tokens, more_bytes in encode_all(parts, tokenizer, separator, _processes(survey)):
            file.write(content)
            digest.update(content)
            for part in (0, 1):
                tokens[part] += more_tokens[part]
                sizes[part] += more_bytes[part]
        file.seek(0)
        file.write(npy_header(tokenizer.dtype, sum(tokens)))
        if tokens[0] < SHORTEST_TRAINING or not sizes[1]:
            raise FolioError(f"The text is too short: its {survey.bytes} bytes make {tokens[0]} tokens to train on and "
                             f"{tokens[1]} held out for validation. A few thousand bytes are the least that can be "
                             "learned from.")
    return TokenCounts(tuple(tokens), tuple(sizes), digest.hexdigest(), scripts.one_sided(), columns.one_sided())


def encode_validation(documents, tokenizer, survey):
    """Encode only the validation part of a text, in memory, with the token that the first one is predicted from.

    Returns (tokens, val_bytes, train_bytes); tokens as Corpus.val has them. Raises FolioError if the text is too short.
    """
    before, held_out, train_bytes = [], [], 0
    for part in _parts(_with_progress(documents, "Reading"), tokenizer, survey):
        texts, is_val, _ = part
        if is_val:
            held_out.append(part)                               # VAL_BYTES_LIMIT at most
        else:
            # The last part of training with any text in it, and the empty ones after it.
            before = [part] if any(texts) else [*before, part]
            train_bytes += len(to_bytes("".join(texts)))
    encoded = list(encode_all([*before, *held_out], tokenizer, _separator(tokenizer, survey), 1))
    tokens = np.concatenate([np.frombuffer(content, tokenizer.dtype) for content, *_ in encoded])
    (tokens_before, _), (_, val_bytes) = (np.sum(amounts, axis=0).tolist() for amounts in list(zip(*encoded))[1:])
    if not tokens_before or not val_bytes:
        raise FolioError(f"The text is too short: of its {survey.bytes} bytes {val_bytes} are held out.")
    return tokens[tokens_before - 1:], val_bytes, train_bytes


def training_text(documents, tokenizer, survey):
    """Yield the bytes of the training part, chunk by chunk, as they are encoded."""
    for texts, is_val, _ in _parts(documents.groups(), tokenizer, survey):
        if is_val:
            return
        yield to_bytes("".join(texts))


def ends_by_lines(tokenizer, survey):
    """Whether a line end separates the documents, because the tokenizer has no token that does."""
    return survey.documents > 1 and tokenizer.end_of_text is None


def encode_all(parts, tokenizer, separator, processes):
    """Encode a stream of (texts, is_val, ends_document), with the ids in `separator` where a document ends.

    Yields (ids, tokens, bytes): the ids as the bytes of an array, and how many tokens and bytes of text they are, each
    as [training, validation].
    """
    encode = partial(_encode_batch, separator=np.array(separator, tokenizer.dtype))
    batches = in_batches(parts, lambda part: _characters(part[0]))
    return in_order(encode, map(_packed_parts, batches), processes, from_dict, tokenizer.to_dict())


def _packed_parts(parts):
    """parts: [(texts, is_val, ends_document)] -> (packed texts, is_val, ends_document), with an entry for each text"""
    groups, is_val, ends_document = zip(*parts)
    lengths = list(map(len, groups))
    return pack(list(chain.from_iterable(groups))), np.repeat(is_val, lengths), np.repeat(ends_document, lengths)


def _encode_batch(tokenizer, parts, separator):
    """parts: as _packed_parts returns them; separator: (ids,) -> as encode_all yields"""
    packed, is_val, ends_document = parts
    texts = unpack(*packed)
    ids, ends = tokenizer.encode_many(texts)
    counts = np.diff(ends, prepend=0) + len(separator) * ends_document
    places = ends[ends_document].repeat(len(separator))
    ids = np.insert(ids, places, np.tile(separator, ends_document.sum()))
    sizes = packed[1] if packed[0].isascii() else list(map(len, map(to_bytes, texts)))
    tokens, text_bytes = (np.bincount(is_val, amounts, minlength=2).astype(int).tolist() for amounts in (counts, sizes))
    return ids.tobytes(), tokens, text_bytes


def _separator(tokenizer, survey):
    """Return the ids that are written where a document ends: one if there are several documents and a token for it."""
    return [tokenizer.end_of_text] if survey.documents > 1 and tokenizer.end_of_text is not None else []


# --- What the passes share ---

def _with_progress(documents, label):
    """Yield what Documents.groups yields, under a progress bar."""
    with tqdm(total=documents.file_bytes, desc=label, unit="B", unit_scale=True, **QUIET_BAR) as bar:
        for group in documents.groups():
            yield group
            bar.update(documents.bytes_read - bar.n)


def _unchanged(groups, documents, survey, find_changed):
    """Pass the groups of documents on. Raise FolioError at their end if they are not the text of the survey."""
    if documents.are_kept:
        yield from groups
        return
    identity = Identity()
    for texts, ends_document in groups:
        identity.add(texts, ends_document)
        yield texts, ends_document
    if identity.fingerprint(survey.split) != survey.fingerprint:
        raise FolioError(f"{find_changed() or 'The text'} changed while it was being read, and nothing was written. "
                         "Run this again when no other program writes to it.")


def _parts(groups, tokenizer, survey):
    """Turn a stream of (texts, ends_document) into what is encoded: (texts, is_val, ends_document), training first.

    Line ends are added between documents if they have to separate them.
    """
    parts = survey.split.parts(groups)
    if not ends_by_lines(tokenizer, survey):
        return parts
    documents = ((text, is_val, ends_document) for texts, is_val, ends_document in parts for text in texts)
    return (([text], *values) for text, *values in separated_by_line_ends(documents))


def _processes(survey):
    """Return how many processes to use: one per core, or one if it would be done before a second has started."""
    return cores() if survey.bytes >= PARALLEL_BYTES else 1
