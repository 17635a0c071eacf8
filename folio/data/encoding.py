"""Text to tokens in three passes, none of which holds the whole text: survey it, learn a tokenizer from it, encode it.

The first part of the text is for training and the rest for validation. The learning pass reads the training part only.
"""

import math
from collections import deque
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import numpy as np
from tqdm import tqdm

from folio.base.errors import FolioError
from folio.base.files import replacing
from folio.base.parallel import cores, in_order
from folio.data.sources import separated_by_line_ends
from folio.data.token_files import QUIET_BAR, SHORTEST_TRAINING, npy_header
from folio.kernels.merging import learn_merges
from folio.kernels.splitting import PretokenCounter, count_batch, in_batches, to_bytes
from tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, from_dict

# More measures hardly better and takes time: of 2.2 minutes of one core, validating on 4 MB (vocabulary of 16,384) left
# time for two steps.
VAL_BYTES_LIMIT = 1_000_000
PARALLEL_BYTES = 16_000_000         # one process encodes them in 0.7 s; two take as long, including their start


@dataclass(frozen=True)
class Survey:
    """What the first pass over a text finds."""
    bytes: int
    characters: int
    documents: int
    train_bytes: int                # of the training part, which ends inside a document only if none ends nearby
    fingerprint: str                # of the text and of where its documents end
    mended: dict                    # as Documents.mended
    alphabet: tuple                 # the distinct characters, sorted, if they were asked for


@dataclass(frozen=True)
class TokenCounts:
    """What was written to a token file; pairs are (training part, validation part)."""
    tokens: tuple
    bytes: tuple                    # of the text, without separators
    sha256: str                     # of the tokens of both parts


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

def survey_text(documents, val_fraction, want_alphabet=False):
    """Measure and fingerprint a text, and find where its training part ends. -> Survey

    Raises FolioError if there is no text.
    """
    digest, alphabet = sha256(), set()
    total = characters = number = 0
    document_ends = deque()         # those in the last VAL_BYTES_LIMIT bytes; validation starts at none before them
    for chunk, ends_document in _with_progress(documents, "Reading"):
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
        others = " and others" if len(documents.files) > 1 else ""
        raise FolioError(f"There is nothing in {documents.files[0]}{others}: no text, nothing to learn.")
    train_bytes = _end_of_training(total, document_ends, val_fraction)
    return Survey(total, characters, number, train_bytes, digest.hexdigest()[:16], dict(documents.mended),
                  tuple(sorted(alphabet)))


def _end_of_training(total, document_ends, val_fraction):
    """Return how many bytes are for training: up to the end of a document if a suitable one is near, else any byte.

    An end of a document is suitable if it holds out between half and twice as many bytes as were asked for.
    """
    train_bytes = total - min(total - int(total * (1 - val_fraction)), VAL_BYTES_LIMIT)
    wanted = total - train_bytes
    most = min(wanted * 2, total / 2, VAL_BYTES_LIMIT)
    suitable = [end for end in document_ends if wanted / 2 <= total - end <= most]
    return min(suitable, key=lambda end: abs(end - train_bytes), default=train_bytes)


# --- The second pass: learn ---

def learn_tokenizer(documents, survey, text):
    """Learn a tokenizer from the training part of a text, as `text` (TextParams) says.

    The alphabet of a character tokenizer is that of the whole text: survey.alphabet.
    """
    if text.tokenizer == "char":
        return CharTokenizer(survey.alphabet, (END_OF_TEXT,) if survey.documents > 1 else ())
    num_merges = BPETokenizer.merges_for(text.vocab_size or default_vocab_size(survey.bytes))
    parts = _split(_with_progress(documents, "Counting words"), survey.train_bytes)
    counts = count_all_pretokens((chunk for chunk, is_val, _ in parts if not is_val), text.pattern, _processes(survey))
    merges = learn_merges(counts, num_merges)
    return BPETokenizer(tqdm(merges, "Learning merges", total=num_merges, **QUIET_BAR), text.pattern)


def count_all_pretokens(chunks, pattern, processes):
    """Count the pre-tokens of a stream of text, in several processes. -> PretokenCounter"""
    counts = PretokenCounter()
    for counted in in_order(partial(count_batch, pattern=pattern), in_batches(chunks), processes):
        counts.add(counted)
    return counts


# --- The third pass: encode ---

def write_tokens(path, tokenizer, documents, survey):
    """Encode a text into a token file at `path`. -> TokenCounts

    Raises FolioError if the text is too short; a file that was at `path` is then as it was.
    """
    tokens, sizes, digest = [0, 0], [0, 0], sha256()
    with replacing(path) as file:
        file.write(npy_header(tokenizer.dtype, 0))
        parts = _parts(_with_progress(documents, "Encoding"), tokenizer, survey)
        separator = _separator(tokenizer, survey)
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
    return TokenCounts(tuple(tokens), tuple(sizes), digest.hexdigest())


def encode_validation(documents, tokenizer, survey):
    """Encode only the validation part of a text, in memory, with the token that the first one is predicted from.

    Returns (tokens, val_bytes, train_bytes); tokens as Corpus.val has them. Raises FolioError if the text is too short.
    """
    before, held_out, train_bytes = [], [], 0
    for part in _parts(_with_progress(documents, "Reading"), tokenizer, survey):
        chunk, is_val, _ = part
        if is_val:
            held_out.append(part)                               # VAL_BYTES_LIMIT at most
        else:
            # The last part of training with any text in it, and the empty ones after it.
            before = [part] if chunk else [*before, part]
            train_bytes += len(to_bytes(chunk))
    encoded = list(encode_all([*before, *held_out], tokenizer, _separator(tokenizer, survey), 1))
    tokens = np.concatenate([np.frombuffer(content, tokenizer.dtype) for content, *_ in encoded])
    (tokens_before, _), (_, val_bytes) = (np.sum(amounts, axis=0).tolist() for amounts in list(zip(*encoded))[1:])
    if not tokens_before or not val_bytes:
        raise FolioError(f"The text is too short: of its {survey.bytes} bytes {val_bytes} are held out.")
    return tokens[tokens_before - 1:], val_bytes, train_bytes


def training_text(documents, tokenizer, survey):
    """Yield the bytes of the training part, chunk by chunk, as they are encoded."""
    for chunk, is_val, _ in _parts(documents, tokenizer, survey):
        if is_val:
            return
        yield to_bytes(chunk)


def ends_by_lines(tokenizer, survey):
    """Whether a line end separates the documents, because the tokenizer has no token that does."""
    return survey.documents > 1 and tokenizer.end_of_text is None


def encode_all(parts, tokenizer, separator, processes):
    """Encode a stream of (chunk, is_val, ends_document), with the ids in `separator` where a document ends.

    Yields (ids, tokens, bytes): the ids as the bytes of an array, and how many tokens and bytes of text they are, each
    as [training, validation].
    """
    encode = partial(_encode_batch, separator=np.array(separator, tokenizer.dtype))
    batches = in_batches(parts, lambda part: len(part[0]))
    return in_order(encode, batches, processes, from_dict, tokenizer.to_dict())


def _encode_batch(tokenizer, parts, separator):
    """parts: [(chunk, is_val, ends_document)]; separator: (ids,) -> as encode_all yields"""
    texts, is_val, ends_document = zip(*parts)
    ids, ends = tokenizer.encode_many(texts)
    counts = np.diff(ends, prepend=0) + len(separator) * np.array(ends_document)
    places = ends[np.flatnonzero(ends_document)].repeat(len(separator))
    ids = np.insert(ids, places, np.tile(separator, sum(ends_document)))
    sizes = [len(to_bytes(text)) for text in texts]
    tokens, text_bytes = (np.bincount(is_val, amounts, minlength=2).astype(int).tolist() for amounts in (counts, sizes))
    return ids.tobytes(), tokens, text_bytes


def _separator(tokenizer, survey):
    """Return the ids that are written where a document ends: one if there are several documents and a token for it."""
    return [tokenizer.end_of_text] if survey.documents > 1 and tokenizer.end_of_text is not None else []


# --- What the passes share ---

def _with_progress(documents, label):
    """Yield what Documents yield, under a progress bar."""
    with tqdm(total=documents.file_bytes, desc=label, unit="B", unit_scale=True, **QUIET_BAR) as bar:
        for chunk, ends_document in documents:
            yield chunk, ends_document
            bar.update(documents.bytes_read - bar.n)


def _split(chunks, train_bytes):
    """Turn a stream of (chunk, ends_document) into (chunk, is_val, ends_document), cut where the training part ends."""
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
            for _ in range(3):               # back to the first byte of a character, which has four at most
                cut -= cut > 0 and content[cut] & 0xC0 == 0x80
            yield content[:cut].decode("utf-8", errors="surrogateescape"), False, False
            yield content[cut:].decode("utf-8", errors="surrogateescape"), True, ends_document


def _parts(chunks, tokenizer, survey):
    """Turn a stream of (chunk, ends_document) into what is encoded: (chunk, is_val, ends_document).

    Line ends are added between documents if they have to separate them.
    """
    parts = _split(chunks, survey.train_bytes)
    return separated_by_line_ends(parts) if ends_by_lines(tokenizer, survey) else parts


def _processes(survey):
    """Return how many processes to use: one per core, or one if it would be done before a second has started."""
    return cores() if survey.bytes >= PARALLEL_BYTES else 1
