"""Token healing: continue a prompt from its bytes, whatever tokens its end would have in a longer text.

A tokenizer gives the end of a prompt other tokens than the same bytes have in a longer text: "The fox fi" ends with
" f", "i", where "The fox finds" has " find", "s". So the end is taken back, and the first piece that follows is drawn
from the distribution that the network has after the bytes of the prompt (Phan et al., 2024; Vieira et al., 2024).

How far back. No merge crosses two pre-tokens of the split pattern. More text can change only the last pre-token and
white space at the end ("a  " splits into "a", "  ", but "a  b" into "a", " ", " b"). So these tokens are taken back:
- those of the last pre-token;
- where the prompt ends with white space, those of all pre-tokens that begin in it;
- none that begins more than MOST_TAKEN_BACK bytes before the end, and none at all if the last token alone is longer.

What takes their place. A cover of the bytes taken back is a path of tokens inside them and one token that crosses their
end. The first tokens of a pre-token are the ones that their bytes have alone, so each place in the bytes has one path;
white space, which may be split in several ways, has one for each way. The crossing tokens are all that begin with the
remaining bytes and are longer. The probability of a cover is the product of its tokens' probabilities. Covers that add
the same bytes to the prompt are one continuation, generated with the tokens of its likeliest cover.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import regex

from folio.generation.sampling import as_array, log_softmax, penalized
from folio.kernels.splitting import splitter, to_bytes

MOST_TAKEN_BACK = 64                # bytes: longer than nearly every token, so earlier bytes hardly matter
SPLIT_LEN = 4 * MOST_TAKEN_BACK     # characters at the end of a prompt that are split: enough for the last pre-tokens
# Nothing, a letter, white space: after each, the white space before it is split in another way.
FOLLOWING = "", "x", "\n"


class Cover(NamedTuple):
    """The covers that share one path."""
    path: tuple                             # ids
    tokens: np.ndarray | None               # ids that cross the end; None: any, after a path of all bytes taken back
    continuations: np.ndarray | None        # what each adds: the id of a token, or vocab_size + a place in others


@dataclass(frozen=True)
class Healing:
    """The end of a prompt that was taken back, and its covers."""
    taken: bytes
    covers: tuple
    others: tuple = ()                      # byte strings that continuations add and that are no token


@dataclass(frozen=True)
class Continuations:
    """What may come first after a prompt whose end was taken back."""
    logits: np.ndarray                      # (continuations,), log-probabilities in nats, float64
    _paths: list
    _path: np.ndarray                       # of each continuation: the likeliest cover's place in _paths
    _token: np.ndarray                      # of each continuation: the id that crosses the end

    def tokens(self, number):
        """Return the ids of a continuation, those of the bytes taken back included."""
        return [*self._paths[self._path[number]], int(self._token[number])]


class Healer:
    """Take back the ends of prompts. Make one for each tokenizer."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self._split = splitter(tokenizer.pattern) if tokenizer.pattern else None    # None: every character is a token
        special = set(tokenizer.special_ids.values())
        contents = enumerate(tokenizer.token_bytes)
        ordinary = sorted((content, token) for token, content in contents if token not in special)
        self._contents, self._ids = [content for content, _ in ordinary], np.array([token for _, token in ordinary])
        self._id_of = dict(reversed(ordinary))          # of tokens with the same bytes, the first

    def take_back(self, prompt, ids):
        """Return the ids that stay, and a Healing; or all ids and None where no longer text gives the end other tokens.

        prompt: a text; ids: its tokens
        """
        if self._split is None or not ids:
            return ids, None
        ways = self._ways_to_split(prompt[-SPLIT_LEN:])
        wanted, taken, count = sum(map(len, ways[0])), 0, 0         # bytes, bytes, tokens
        for token in reversed(ids):
            length = len(self.tokenizer.token_bytes[token])
            if taken == wanted or taken + length > MOST_TAKEN_BACK:
                break
            taken, count = taken + length, count + 1
        end = b"".join(ways[0])[wanted - taken:]
        paths = self._paths(end, [_without_first(pieces, wanted - taken) for pieces in ways])
        alike = 0                               # tokens with which all paths begin: they stay
        while all(len(path) > alike and path[alike] == paths[0][alike] for path in paths):
            alike += 1
        if all(len(path) == alike for path in paths):
            return ids, None
        stays = paths[0][:alike]
        end = end[sum(len(self.tokenizer.token_bytes[token]) for token in stays):]
        return [*ids[:len(ids) - count], *stays], self._healing(end, [path[alike:] for path in paths])

    def _ways_to_split(self, text):
        """Return all ways to split the end of a text that more text can change: lists of pre-tokens, bytes."""
        pieces, start = self._split(text), len(text)
        blank = len(text) - len(regex.search(r"\s*\Z", text)[0])
        while pieces and (start == len(text) or start - len(pieces[-1]) >= blank):
            start -= len(pieces.pop())
        ways = {}
        for more in FOLLOWING:
            place, way = 0, []
            for piece in self._split(text + more):
                if own := piece[max(0, start - place):max(0, len(text) - place)]:
                    way.append(to_bytes(own))
                place += len(piece)
            ways[tuple(way)] = None
        return list(ways)

    def _paths(self, end, ways):
        """Return the paths to all places of `end` from which a token crosses it. ways: lists of its pre-tokens"""
        paths = {}
        for place in range(len(end) + 1):
            if place == len(end) or len(self._crossing(end[place:])):
                for pieces in ways:
                    before = _without_last(pieces, len(end) - place)
                    paths[tuple(token for piece in before for token in self.tokenizer.encode_pretoken(piece))] = None
        return list(paths)

    def _crossing(self, rest):
        """Return the ids of all ordinary tokens that begin with `rest`, at least one byte, and are longer."""
        first = bisect_right(self._contents, rest)
        last = bisect_left(self._contents, True, lo=first, key=lambda content: not content.startswith(rest))
        return self._ids[first:last]

    def _healing(self, end, paths):
        covers, others = [], {}
        for path in paths:
            rest = end[sum(len(self.tokenizer.token_bytes[token]) for token in path):]
            if not rest:
                covers.append(Cover(path, None, None))
                continue
            tokens = self._crossing(rest)
            numbers = []
            for token in tokens.tolist():
                added = self.tokenizer.token_bytes[token][len(rest):]
                if added in self._id_of:
                    numbers.append(self._id_of[added])
                else:
                    numbers.append(self.tokenizer.vocab_size + others.setdefault(added, len(others)))
            covers.append(Cover(path, tokens, np.array(numbers)))
        return Healing(end, tuple(covers), tuple(others))


def _without_first(pieces, count):
    """Return byte strings without the first `count` bytes of all together."""
    kept = []
    for piece in pieces:
        kept.append(piece[count:])
        count = max(0, count - len(piece))
    return [piece for piece in kept if piece]


def _without_last(pieces, count):
    return [piece[::-1] for piece in _without_first([piece[::-1] for piece in reversed(pieces)], count)][::-1]


def continuations(decoder, row, healing, settings=None, unsaid=0):
    """Return the Continuations of a prompt whose end was taken back; their probabilities sum to 1.

    decoder: a Decoder that has read the rest of the prompt in this row; it is not changed
    settings: GenerationParams, whose penalties apply to the tokens that cross the end, and to no other
    unsaid: leading ids of the row that penalties skip
    """
    logits = _logits_after(decoder, row, [cover.path for cover in healing.covers])
    likely = {path: log_softmax(values) for path, values in logits.items()}
    vocab_size, said = len(logits[()]), decoder.tokens[row][unsaid:]
    total = np.full(vocab_size + len(healing.others), -np.inf)
    best, path, token = total.copy(), np.zeros(len(total), np.int64), np.zeros(len(total), np.int64)
    for place, cover in enumerate(healing.covers):
        crossing = likely[cover.path]
        if settings is not None:
            crossing = log_softmax(penalized(logits[cover.path][None], [[*said, *cover.path]], settings)[0])
        tokens = np.arange(vocab_size) if cover.tokens is None else cover.tokens
        numbers = tokens if cover.tokens is None else cover.continuations
        before = sum(likely[cover.path[:step]][passed] for step, passed in enumerate(cover.path))
        values = crossing[tokens] + before
        np.logaddexp.at(total, numbers, values)
        better = values > best[numbers]
        chosen = numbers[better]
        best[chosen], path[chosen], token[chosen] = values[better], place, tokens[better]
    if not np.isfinite(total).any() and settings is not None:       # penalties exclude all: do without them
        return continuations(decoder, row, healing)
    return Continuations(log_softmax(total), [cover.path for cover in healing.covers], path, token)


def _logits_after(decoder, row, paths):
    """Return {path: logits} after a row of a decoder, for paths and their prefixes. Equal lengths are batched."""
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
