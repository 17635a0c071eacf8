"""A prompt that ends anywhere: which tokens its end may have in the text that it is the beginning of.

A tokenizer gives the end of a prompt other tokens than the same bytes have in a longer text: "The fox fi" ends with " f", "i", and "The fox finds" has
" find", "s" there. So the end is taken back, and what comes next is drawn from what the model expects after the bytes of the prompt, not after its last
tokens (Phan et al., 2024; Vieira et al., 2024, cover the bytes of a prompt in the same way).

How far back. No merge crosses two pieces of the split pattern, and more text can change only the last piece, and white space at the end: "a  b" has the
pieces "a", " ", " b" and "a  " has "a", "  ". So taken back is
- the last piece, or
- where the prompt ends with white space, all pieces that begin in it, if those are more,
- but no token that begins more than MOST_TAKEN_BACK bytes before the end, and nothing if the last token alone is longer.

What comes in its place. A cover of the bytes taken back is a path, tokens that lie in these bytes, and a token that crosses their end. A text's tokens up to
any place are those that the same bytes have alone, within a piece. So for each place there is one path, or some where white space may be in other pieces,
and the tokens that cross the end from there are all that begin with the rest and go on. The probability of a cover is the product of those of
its tokens. Covers that go on with the same bytes are one continuation, whose tokens are those of its likeliest cover.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import regex

from folio.sampling import as_array, log_softmax, penalised
from folio.splitting import splitter, to_bytes

MOST_TAKEN_BACK = 64        # bytes: longer than nearly every token, so that nearly always nothing further back matters
GOES_ON = "", "x", "\n"      # the end of a text, a text that goes on with no blank, and with one: in each, white space before it is in other pieces
LOOKED_AT = 4 * MOST_TAKEN_BACK         # characters at the end of a prompt that are split: the pieces of the last ones are those of the whole


class Cover(NamedTuple):
    """Ways to cover the bytes taken back that have their path in common."""
    path: tuple                     # ids
    tokens: np.ndarray | None       # ids that cross the end from there; None: any, for the path is all that was taken back
    continuations: np.ndarray | None        # the number of what each adds to the prompt: the id of the token that reads the same, or vocab_size and more


@dataclass(frozen=True)
class Healing:
    """The end of a prompt that was taken back, and its Covers."""
    taken: bytes
    covers: tuple
    others: tuple = ()              # what the continuations from vocab_size on add to the prompt: bytes that are no token


@dataclass(frozen=True)
class Continuations:
    """What may come first after a prompt whose end was taken back."""
    logits: np.ndarray              # (continuations,), log-probabilities in nats, float64
    _paths: list
    _path: np.ndarray               # of each continuation: its likeliest cover
    _token: np.ndarray

    def tokens(self, number):
        """The ids of a continuation, those of the bytes taken back among them."""
        return [*self._paths[self._path[number]], int(self._token[number])]


class Healer:
    """Takes back the ends of prompts; made once for a tokenizer."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self._split = splitter(tokenizer.pattern) if tokenizer.pattern else None            # None: each character is a token, and no prompt ends inside one
        special = set(tokenizer.special_ids.values())
        ordinary = sorted((content, token) for token, content in enumerate(tokenizer.token_bytes) if token not in special)
        self._contents, self._ids = [content for content, _ in ordinary], np.array([token for _, token in ordinary])
        self._id_of = dict(reversed(ordinary))          # of tokens that read the same, the first

    def take_back(self, prompt, ids):
        """prompt: a text, and its ids -> the ids that stay, and a Healing; or all ids, and None, where there is only one way to go on."""
        if self._split is None or not ids:
            return ids, None
        ways = self._ways_to_split(prompt[-LOOKED_AT:])
        wanted, taken, count = sum(map(len, ways[0])), 0, 0
        for token in reversed(ids):
            length = len(self.tokenizer.token_bytes[token])
            if taken == wanted or taken + length > MOST_TAKEN_BACK:
                break
            taken, count = taken + length, count + 1
        end = b"".join(ways[0])[wanted - taken:]
        paths = self._paths(end, [_without_first(pieces, wanted - taken) for pieces in ways])
        alike = 0                               # tokens with which all paths begin stay
        while paths and all(len(path) > alike and path[alike] == paths[0][alike] for path in paths):
            alike += 1
        if all(len(path) == alike for path in paths):
            return ids, None
        stays = paths[0][:alike]
        end = end[sum(len(self.tokenizer.token_bytes[token]) for token in stays):]
        return [*ids[:len(ids) - count], *stays], self._healing(end, [path[alike:] for path in paths])

    def _ways_to_split(self, text):
        """The end of a text that may be in other pieces where it goes on, in all ways to split it: lists of bytes."""
        pieces, start = self._split(text), len(text)
        blank = len(text) - len(regex.search(r"\s*\Z", text)[0])
        while pieces and (start == len(text) or start - len(pieces[-1]) >= blank):
            start -= len(pieces.pop())
        ways = {}
        for more in GOES_ON:
            place, way = 0, []
            for piece in self._split(text + more):
                if own := piece[max(0, start - place):max(0, len(text) - place)]:
                    way.append(to_bytes(own))
                place += len(piece)
            ways[tuple(way)] = None
        return list(ways)

    def _paths(self, end, ways):
        """The path to each place of the end from which a token crosses it, or several; ways: lists of the pieces that make up the end."""
        paths = {}
        for place in range(len(end) + 1):
            if place == len(end) or len(self._crossing(end[place:])):
                for pieces in ways:
                    before = _without_last(pieces, len(end) - place)
                    paths[tuple(token for piece in before for token in self.tokenizer.encode_piece(piece))] = None
        return list(paths)

    def _crossing(self, rest):
        """The ids of all ordinary tokens that begin with some bytes, at least one, and go on."""
        first = bisect_right(self._contents, rest)
        return self._ids[first:bisect_left(self._contents, True, lo=first, key=lambda content: not content.startswith(rest))]

    def _healing(self, end, paths):
        covers, others = [], {}
        for path in paths:
            rest = end[sum(len(self.tokenizer.token_bytes[token]) for token in path):]
            if not rest:
                covers.append(Cover(path, None, None))
                continue
            tokens = self._crossing(rest)
            added = [self.tokenizer.token_bytes[token][len(rest):] for token in tokens.tolist()]
            numbers = [self._id_of[content] if content in self._id_of else self.tokenizer.vocab_size + others.setdefault(content, len(others))
                       for content in added]
            covers.append(Cover(path, tokens, np.array(numbers)))
        return Healing(end, tuple(covers), tuple(others))


def _without_first(pieces, count):
    """Some bytes, in pieces, less the first `count` of them."""
    kept = []
    for piece in pieces:
        kept.append(piece[count:])
        count = max(0, count - len(piece))
    return [piece for piece in kept if piece]


def _without_last(pieces, count):
    return [piece[::-1] for piece in _without_first([piece[::-1] for piece in reversed(pieces)], count)][::-1]


def continuations(decoder, row, healing, settings=None, unsaid=0):
    """What the network expects after a prompt whose end was taken back: Continuations, their probabilities summing up to 1.

    decoder: a Decoder that has read the rest of the prompt as its stream number `row`, and stays as it is; settings: GenerationParams whose penalties apply to the
    tokens that cross the end, to no other; unsaid: ids at the beginning of the stream that those do not count
    """
    logits = _logits_after(decoder, row, [cover.path for cover in healing.covers])
    likely = {path: log_softmax(each) for path, each in logits.items()}
    found, prompt = [], decoder.tokens[row][unsaid:]
    for cover in healing.covers:
        before = sum(likely[cover.path[:place]][token] for place, token in enumerate(cover.path))
        own = likely[cover.path]
        if settings is not None:
            own = log_softmax(penalised(logits[cover.path][None], [[*prompt, *cover.path]], settings)[0])
        found.append(before + (own if cover.tokens is None else own[cover.tokens]))
    vocab_size = len(logits[()])
    total = np.full(vocab_size + len(healing.others), -np.inf)
    best, path, token = total.copy(), np.zeros(len(total), np.int64), np.zeros(len(total), np.int64)
    everything = np.arange(vocab_size)
    for place, (cover, values) in enumerate(zip(healing.covers, found)):
        tokens, numbers = (everything, everything) if cover.tokens is None else (cover.tokens, cover.continuations)
        np.logaddexp.at(total, numbers, values)
        better = values > best[numbers]
        numbers, tokens = numbers[better], tokens[better]
        best[numbers], path[numbers], token[numbers] = values[better], place, tokens
    if not np.isfinite(total).any() and settings is not None:           # all is ruled out: let off, as everywhere
        return continuations(decoder, row, healing)
    return Continuations(log_softmax(total), [cover.path for cover in healing.covers], path, token)


def _logits_after(decoder, row, paths):
    """{path: logits} for some paths after a stream of a decoder and for all that they begin with; those of equal length are read at once."""
    levels = {}
    for path in paths:
        for length in range(len(path) + 1):
            levels.setdefault(length, {})[path[:length]] = None
    found, branch, rows = {(): as_array(decoder.logits[row])}, None, {(): row}
    for length in range(1, len(levels)):
        level = list(levels[length])
        parents = [rows[path[:-1]] for path in level]
        if branch is None:
            branch = decoder.branch(parents)
        else:
            branch.select(parents)
        logits = branch.read([[path[-1]] for path in level])
        rows = {path: place for place, path in enumerate(level)}
        found |= {path: as_array(logits[place]) for path, place in rows.items()}
    return found

