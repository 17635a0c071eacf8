r"""Surprisal of every token and every word of a document, in bits.

A word is what stands between white space. Its tokens mostly begin with the space before it, so the sum of their
surprisals is the cost of "a space, then the word", and says nothing of whether the word ends there: " use" is also the
beginning of " useful". The probability of a word is that of its letters *and* of its end, after the end of the word
before it (Pimentel and Meister, 2024; Oh and Schuler, 2024):

    surprisal(word) = sum of its tokens - boundary(before its first token) + boundary(after its last token)

where boundary(place) = -log2 of the probability that the token at this place begins with white space or ends the
document. What is taken from one word is given to the word before it, so a document's sum changes only at its ends.
Nothing is moved where the tokens have settled the matter: at the beginning of a document; before a token that has no
white space, after a line end; and after a token that contains the end of its word, such as ".\n".

Every document is measured by itself, from the token that opens a text, in windows that slide by `stride` tokens as in
folio.evaluation.bits_per_byte.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from folio.evaluation.bits_per_byte import (
    bytes_of_tokens,
    check_finite,
    counted_logits,
    window_len,
    windows_at_once,
)
from folio.evaluation.census import codes_and_sizes
from folio.kernels.splitting import to_bytes

_WORD = re.compile(r"\S+")
_LONGEST_CHARACTER = 4              # bytes in UTF-8


@dataclass(frozen=True)
class Surprisal:
    """The surprisal of a document's tokens and words, in bits."""
    text: str
    tokens: np.ndarray              # (tokens,) ids
    sizes: np.ndarray               # (tokens,) bytes
    bits: np.ndarray                # (tokens,) float64
    boundary: np.ndarray            # (tokens + 1,) float64: of a word's end before each token, and after the last one
    begins_blank: np.ndarray        # (tokens,) bool: whether the token begins with white space

    @property
    def bytes(self):
        """Number of bytes of the document."""
        return self.sizes.sum().item()

    @cached_property
    def words(self):
        """The places of the words as characters: (words, 2) int64, each [start, end)."""
        return np.array([word.span() for word in _WORD.finditer(self.text)], np.int64).reshape(-1, 2)

    @cached_property
    def token_starts(self):
        """The byte at which each token starts: (tokens,)."""
        return np.cumsum(self.sizes) - self.sizes

    @cached_property
    def word_ends(self):
        """The byte at which each word ends: (words,)."""
        return np.append(0, np.cumsum(codes_and_sizes(self.text)[1]))[self.words[:, 1]]

    @cached_property
    def word_of_token(self):
        """The word to which each token belongs: (tokens,) indices; len(words) for white space after the last word.

        A token belongs to the word in which it starts, or else to the next one.
        """
        return np.searchsorted(self.word_ends, self.token_starts, side="right")

    @cached_property
    def tokens_of_words(self):
        """Number of tokens of each word: (words,)."""
        return np.bincount(self.word_of_token, minlength=len(self.words))[:len(self.words)]

    @cached_property
    def uncorrected(self):
        """Sum of the surprisals of each word's tokens: (words,)."""
        return np.bincount(self.word_of_token, self.bits, minlength=len(self.words))[:len(self.words)]

    @cached_property
    def of_words(self):
        """Surprisal of each word including its end, as the module defines it: (words,)."""
        before = np.append(-1, self.word_ends)[self.word_of_token]      # the end of the word before each token's word
        moved = np.flatnonzero((before == self.token_starts) & self.begins_blank)
        found = np.append(self.uncorrected, 0.0)                        # one more, for white space after the last word
        np.subtract.at(found, self.word_of_token[moved], self.boundary[moved])
        np.add.at(found, self.word_of_token[moved] - 1, self.boundary[moved])
        found = found[:-1]
        if len(found) and self.word_ends[-1] == self.bytes:
            found[-1] += self.boundary[-1]
        return found


def measure_document(model, text, stride=None):
    """Measure a document by itself. -> Surprisal

    model: LanguageModel; text: a str that is not empty; stride: in tokens (default: half a window).
    Raises FolioError where a character tokenizer does not know a character, or the model's output is not finite.
    """
    tokens = model.tokenizer.encode_to_array(to_bytes(text))
    # The token after the last one is not known: any one stands in its place, and only the boundary before it counts.
    context = np.concatenate([model.opening[-1:], tokens, [0]]).astype(model.tokenizer.dtype)
    window = window_len(model.net)
    # A document shorter than a window is not padded to one.
    block_size = min(window, len(context) - 1)
    device = next(model.net.parameters()).device
    starts_boundary = torch.tensor(boundary_tokens(model.tokenizer), device=device)
    bits, boundary = [], []
    for logits, targets in counted_logits(model.net, context, block_size=block_size,
                                          batch_size=windows_at_once(model.net), device=device,
                                          stride=min(stride or max(1, window // 2), block_size)):
        logprobs = logits.log_softmax(-1)
        bits.append(-logprobs.gather(-1, targets[:, None])[:, 0].cpu().numpy())
        boundary.append(-logprobs[:, starts_boundary].logsumexp(-1).cpu().numpy())
    bits, boundary = (np.concatenate(part).astype(np.float64) / math.log(2) for part in (bits, boundary))
    check_finite(bits)
    begins_blank = np.isin(tokens, boundary_tokens(model.tokenizer))
    return Surprisal(text, tokens, bytes_of_tokens(model.tokenizer)[tokens], bits[:-1], np.maximum(boundary, 0),
                     begins_blank)


def boundary_tokens(tokenizer):
    r"""Return the ids of the tokens that end the word before them: (ids,) int64, ascending.

    They begin with white space, or are special tokens. A token that begins with only a part of a character does not
    count.
    >>> from tokenizer import BPETokenizer
    >>> ids = boundary_tokens(BPETokenizer([(32, 97), (98, 32)]))           # " a", "b "
    >>> [bytes([token]) for token in ids if token < 256], ids[-2:]
    ([b'\t', b'\n', b'\x0b', b'\x0c', b'\r', b'\x1c', b'\x1d', b'\x1e', b'\x1f', b' '], array([256, 258]))
    """
    special = set(tokenizer.special_ids.values())
    return np.array([number for number, content in enumerate(tokenizer.token_bytes)
                     if number in special or _begins_blank(content)], np.int64)


def _begins_blank(content):
    return content[:_LONGEST_CHARACTER].decode("utf-8", errors="replace")[:1].isspace()
