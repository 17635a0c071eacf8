"""The cost of every token of a text, and the passages that cost most."""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from folio.evaluation.bits_per_byte import (
    bytes_of_tokens,
    check_finite,
    predictions,
    window_len,
    windows_at_once,
)
from tokenizer import StreamingDecoder

PASSAGES = 5
PASSAGE_BYTES = 48                  # about a clause; with its figure a line of 80 columns


@dataclass(frozen=True)
class TokenCosts:
    """The cost of each predicted token in the order of the text; all arrays (tokens,)."""
    tokens: np.ndarray
    nats: np.ndarray
    correct: np.ndarray         # whether the token was the most likely one
    sizes: np.ndarray           # bytes of text in the token


def measure(model, text, stride=None):
    """Predict all tokens of a Text but the first. -> TokenCosts

    model: LanguageModel. Raises FolioError where the model's output is not finite.
    """
    batches = predictions(model.net, text.tokens, block_size=window_len(model.net),
                          batch_size=windows_at_once(model.net), device=next(model.net.parameters()).device,
                          stride=stride)
    nats, correct = [], []
    with tqdm(total=len(text.tokens) - 1, desc="Measuring", unit=" tokens", unit_scale=True, leave=False, disable=None,
              delay=1) as bar:
        for batch_nats, batch_correct in batches:
            nats.append(batch_nats)
            correct.append(batch_correct)
            bar.update(len(batch_nats))
    nats = np.concatenate(nats)
    check_finite(nats)
    tokens = text.tokens[1:]
    return TokenCosts(tokens, nats, np.concatenate(correct), bytes_of_tokens(model.tokenizer)[tokens])


@dataclass(frozen=True)
class Passage:
    """A part of a text with its cost."""
    start: int                  # offset in bytes
    text: str
    nats_per_byte: float
    tokens: list                # [(text, nats)]; a character of several tokens is listed with the last of them


def hardest_passages(costs, tokenizer, limit=PASSAGES, length=PASSAGE_BYTES):
    """Return the passages with the highest cost per byte: [Passage], the costliest first, without overlaps.

    A passage has `length` bytes, rounded up to the end of a token; a shorter text is one passage.
    """
    ends = np.cumsum(costs.sizes)
    starts = ends - costs.sizes
    last = np.searchsorted(ends, np.minimum(starts + length, ends[-1]))         # the last token of each passage
    is_whole = (ends[last] - starts >= length) | (starts == 0)
    summed = np.concatenate([[0.0], np.cumsum(costs.nats, dtype=np.float64)])
    nats_per_byte = np.where(is_whole, (summed[last + 1] - summed[:-1]) / np.maximum(ends[last] - starts, 1), -np.inf)
    chosen = []                 # the first token of each passage
    for first in np.argsort(-nats_per_byte, kind="stable").tolist():
        if len(chosen) == limit or not is_whole[first]:
            break
        if all(last[first] < earlier or first > last[earlier] for earlier in chosen):
            chosen.append(first)
    return [_passage(costs, tokenizer, slice(first, last[first] + 1), starts[first].item(), nats_per_byte[first].item())
            for first in chosen]


def _passage(costs, tokenizer, span, start, nats_per_byte):
    decoder, tokens = StreamingDecoder(tokenizer), costs.tokens[span].tolist()
    texts = [decoder.add(token) for token in tokens]
    text = without_cut_characters(tokenizer.decode_bytes(tokens))
    return Passage(start, text, nats_per_byte, list(zip(texts, costs.nats[span].tolist())))


def without_cut_characters(content):
    """Return bytes as text, without the parts of characters that were cut at either end.
    >>> without_cut_characters("né".encode()[:2])
    'n'
    """
    return content.decode("utf-8", errors="replace").strip("\ufffd")
