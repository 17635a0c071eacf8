"""Compare vocabulary sizes on one text: merges are learned once for the largest and cut for the others.

Byte pair encoding learns its merges one after the other, so the first merges of a large vocabulary are those of a
smaller one. What a size is worth shows on text that the merges were not learned from.
"""

from dataclasses import dataclass

from folio.base.errors import FolioError
from folio.base.spelling import counted
from folio.data.corpus import ordinary_bytes
from folio.kernels.merging import learn_merges
from folio.kernels.splitting import PretokenCounter, count_batch, in_batches
from tokenizer import BPETokenizer

HELD_OUT = 10                       # one in so many bytes, at the end, is measured and not learned from


@dataclass(frozen=True)
class SizeFigures:
    """What one vocabulary size does to the held-out text."""
    vocab_size: int
    tokens: int
    bytes_per_token: float
    train_bytes_per_token: float    # of the text that the merges were learned from
    unused: int                     # tokens that the held-out text does not have


def count_parts(chunks, pattern):
    """Count the pre-tokens of the first nine tenths of a text, and of the rest. -> two PretokenCounters

    chunks: (text, ends_document) pairs, which can be iterated twice. The cut is at the start of a line, if the chunk in
    question has one before it.
    """
    total = sum(len(text) for text, _ in chunks)
    counters, place, cut = (PretokenCounter(), PretokenCounter()), 0, total - total // HELD_OUT
    for text, _ in chunks:
        inside = min(max(cut - place, 0), len(text))
        place += len(text)
        if 0 < inside < len(text):
            inside = text.rfind("\n", 0, inside) + 1 or inside
        for counter, part in zip(counters, (text[:inside], text[inside:])):
            for batch in in_batches([part]):
                counter.add(count_batch(batch, pattern))
    return counters


def count_project(text, tokenizer, pattern):
    """Count the pre-tokens of the training and the validation part of a project's text. -> two PretokenCounters

    text: folio.data.corpus.ReadText; tokenizer: the one of its tokens.
    """
    counters = PretokenCounter(), PretokenCounter()
    parts = text.training_text(), [ordinary_bytes(tokenizer, text.val[1:])]
    for counter, part in zip(counters, parts):
        for content in part:
            counter.add(count_batch([content.decode("utf-8", errors="surrogateescape")], pattern))
    return counters


def compare_sizes(learned, held_out, sizes, pattern):
    """Return SizeFigures for each of `sizes`, ascending. learned, held_out: {pre-token: occurrences}

    Raises FolioError where there is nothing to learn from or to measure, a size has no room for the bytes, or the text
    has too few pairs for it.
    """
    if not learned or not held_out:
        raise FolioError("The text is too short: a part of it has to be held out to measure on.")
    sizes = sorted(set(sizes))
    merges = list(learn_merges(learned, max(map(BPETokenizer.merges_for, sizes))))
    found = []
    for size in sizes:
        wanted = BPETokenizer.merges_for(size)
        if wanted > len(merges):
            most = size - wanted + len(merges)
            raise FolioError(f"The text has pairs that occur twice for {counted(most, 'token')} at most; "
                             f"{size:,} cannot be learned from it.")
        found.append(_figures(BPETokenizer(merges[:wanted], pattern), learned, held_out))
    return found


def _figures(tokenizer, learned, held_out):
    uses = set()
    tokens = text_bytes = 0
    for piece, times in held_out.items():
        ids = tokenizer.encode_pretoken(piece)
        uses.update(ids)
        tokens += len(ids) * times
        text_bytes += len(piece) * times
    learned_tokens = sum(len(tokenizer.encode_pretoken(piece)) * times for piece, times in learned.items())
    learned_bytes = sum(len(piece) * times for piece, times in learned.items())
    return SizeFigures(tokenizer.vocab_size, tokens, text_bytes / tokens, learned_bytes / learned_tokens,
                       tokenizer.vocab_size - len(uses) - len(tokenizer.special_tokens))
