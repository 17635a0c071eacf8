"""Which part of a text is held out for validation: whole documents, the ends of long ones, or the end of the text.

With hold_out="documents", a document of at most half of what is wanted is held out as a whole or not at all. The
choice is by a hash of its content without case and white space, so it depends neither on names nor on order, and equal
documents are on the same side. Of every longer document the end is held out, as large a part of it as of the whole
text. Documents that are alike (folio.data.likeness) are kept on one side, too. A text of one document is split where
hold_out="end" splits it.
"""

from array import array
from collections import deque
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from folio.data.likeness import Likeness, folded, folded_together
from folio.kernels.splitting import to_bytes

# More measures hardly better and takes time: of 2.2 minutes of one core, validating on 4 MB (vocabulary of 16,384) left
# time for two steps.
VAL_BYTES_LIMIT = 1_000_000
CANDIDATES = 4              # times VAL_BYTES_LIMIT: documents kept in memory while it is not known how many are wanted
SPARE = 2                   # times the bytes wanted: candidates that are compared, as some will be like other documents
MOST_LONG = 10_000          # documents in a list before those that have turned out short are taken from it
_WHITE_SPACE = b" \t\n\r\v\f"


@dataclass(frozen=True)
class Split:
    """Which part of a text is for validation: everything from `position` on, or else what `held_out` and `cuts` say."""
    position: int | None = None             # in bytes
    held_out: frozenset = frozenset()       # numbers of documents, from 0
    cuts: dict = field(default_factory=dict)        # {number of a document: bytes of it that are for training}

    @property
    def identity(self):
        """Bytes that differ between two splits of one text unless both hold out its end."""
        return b"" if self.position is not None else repr((sorted(self.held_out), sorted(self.cuts.items()))).encode()

    def in_order(self, chunks):
        """Turn a stream of (chunk, ends_document) into one of (chunk, is_val, ends_document), in the same order."""
        groups = (([chunk], ends_document) for chunk, ends_document in chunks)
        for texts, is_val, ends_document in self.groups_in_order(groups):
            for chunk in texts:
                yield chunk, is_val, ends_document

    def groups_in_order(self, groups):
        """Turn a stream of (texts, ends_document) into one of (texts, is_val, ends_document).

        It is in the order of the text, but that of a group the documents for training come first.
        groups: as Documents.groups yields them
        """
        number = start = 0              # of the document; where the group begins, in the document or in the text
        for texts, ends_document in groups:
            numbers = range(number, number + len(texts))
            number += len(texts) * ends_document
            if self.position is not None:
                end = start + len(to_bytes("".join(texts)))
                if not start < self.position < end:
                    yield texts, start >= self.position, ends_document
                else:
                    yield from self._cut_groups(texts, self.position - start, ends_document)
                start = end
            elif not self.cuts.keys().isdisjoint(numbers):
                for place, text in zip(numbers, texts):
                    cut = self.cuts.get(place)
                    if cut is None:
                        yield [text], place in self.held_out, ends_document
                    else:
                        content = to_bytes(text)
                        yield from self._cut(text, content, cut - start, ends_document)
                        start = 0 if ends_document else start + len(content)
            elif not (held_out := self.held_out.intersection(numbers)):
                yield texts, False, ends_document
            else:
                rest = list(texts)
                chosen = [rest.pop(place - numbers.start) for place in sorted(held_out, reverse=True)]
                if rest:
                    yield rest, False, ends_document
                yield chosen[::-1], True, ends_document

    def parts(self, groups):
        """Yield what `groups_in_order` yields, but all that is for training first; the rest is in memory meanwhile.

        For training, a document ends where it is cut; only a text that is cut at `position` goes on.
        """
        if self.position is not None:
            yield from self.groups_in_order(groups)
            return
        waiting, is_open = [], False    # at most VAL_BYTES_LIMIT bytes; whether the document is still going on
        for part in self.groups_in_order(groups):
            _, is_val, ends_document = part
            if is_val:
                waiting.append(part)
                if is_open:
                    yield [""], False, True
            else:
                yield part
            is_open = not is_val and not ends_document
        yield from waiting

    def _cut_groups(self, texts, cut, ends_document):
        """Yield some texts as groups, of which what is after byte `cut` is for validation."""
        for text in texts:
            content = to_bytes(text)
            yield from self._cut(text, content, cut, ends_document)
            cut -= len(content)

    def _cut(self, chunk, content, cut, ends_document):
        """Yield a chunk, `content` in bytes, as one or two groups: what is before byte `cut` and what is after it."""
        if cut >= len(content):
            yield [chunk], False, ends_document
        elif cut <= 0:
            yield [chunk], True, ends_document
        else:
            for _ in range(3):               # back to the first byte of a character, which has four at most
                cut -= cut > 0 and content[cut] & 0xC0 == 0x80
            yield [content[:cut].decode("utf-8", errors="surrogateescape")], False, False
            yield [content[cut:].decode("utf-8", errors="surrogateescape")], True, ends_document


@dataclass
class Group:
    """Documents with the same content, but for case and white space."""
    bytes: int
    numbers: array                      # of the documents
    content: str                        # of the first


class Candidates:
    """Keeps the documents with the smallest keys: CANDIDATES * VAL_BYTES_LIMIT bytes of them, and equal ones together.

    Twice as many are kept before the largest keys are dropped, so that sorting is rare.
    """

    def __init__(self):
        self._keys, self._numbers, self._sizes, self._texts = array("Q"), array("Q"), array("Q"), []
        self._bytes = 0
        self._first_rejected = None         # keys from here on are not kept
        self._too_large = set()             # keys of groups that are larger than what may be held out

    def add(self, texts, sizes, keys, first_number):
        """Take whole documents. sizes: (n,) in bytes; keys: (n,) uint64; first_number: of the first document"""
        is_candidate = sizes <= VAL_BYTES_LIMIT
        if self._first_rejected is not None:
            is_candidate &= keys < self._first_rejected
        if self._too_large:
            is_candidate &= ~np.isin(keys, list(self._too_large))
        places = np.flatnonzero(is_candidate)
        self._keys.frombytes(keys[places].tobytes())
        self._numbers.frombytes((first_number + places).astype(np.uint64).tobytes())
        self._sizes.frombytes(sizes[places].astype(np.uint64).tobytes())
        self._texts += [texts[place] for place in places.tolist()]
        self._bytes += int(sizes[places].sum())
        if self._bytes > 2 * CANDIDATES * VAL_BYTES_LIMIT:
            self._prune()

    def groups(self):
        """Return the Groups, in the order of their keys, which has nothing to do with the documents' order or length.

        """
        firsts = self._prune()
        sizes = np.add.reduceat(np.array(self._sizes), firsts).tolist() if len(firsts) else []
        ends = [*firsts[1:].tolist(), len(self._keys)]
        return [Group(size, self._numbers[first:end], self._texts[first])
                for size, first, end in zip(sizes, firsts.tolist(), ends)]

    def _prune(self):
        """Drop the largest keys until the bytes left are allowed. -> where the groups begin, (groups,)"""
        keys, numbers, sizes = (np.array(values) for values in (self._keys, self._numbers, self._sizes))
        order = np.argsort(keys, kind="stable")
        firsts = self._firsts(keys[order])
        if len(firsts):
            group_keys, group_sizes = keys[order][firsts], np.add.reduceat(sizes[order], firsts)
            is_too_large = group_sizes > VAL_BYTES_LIMIT
            self._too_large.update(group_keys[is_too_large].tolist())
            is_rejected = np.cumsum(group_sizes * ~is_too_large) > CANDIDATES * VAL_BYTES_LIMIT
            if is_rejected.any():
                self._first_rejected = group_keys[np.argmax(is_rejected)]
            order = order[np.repeat(~(is_rejected | is_too_large), np.diff(firsts, append=len(order)))]
        self._keys, self._numbers, self._sizes = (array("Q", values[order].tobytes())
                                                  for values in (keys, numbers, sizes))
        self._texts = [self._texts[place] for place in order.tolist()]
        self._bytes = sum(self._sizes)
        return self._firsts(keys[order])

    @staticmethod
    def _firsts(keys):
        return np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, np.int64)


class Choice:
    """Chooses what to hold out, from one pass over a text; see `split`. Memory does not grow with the text."""

    def __init__(self, val_fraction, by_documents):
        self.val_fraction, self.by_documents = val_fraction, by_documents
        self.bytes = self.documents = 0         # of the text so far
        self._ends = deque()            # of the documents in the last VAL_BYTES_LIMIT bytes; none before them serves
        self._candidates = Candidates()
        self._long = []                 # (number, bytes) of documents that may turn out too long to be held out whole
        self._chunks, self._document_bytes, self._digest = [], 0, None      # of the document that goes on

    def add(self, texts, sizes, ends_document):
        """Take the next group of the text, as Documents.groups yields it. sizes: of the texts, in bytes"""
        self.bytes += sum(sizes)
        if ends_document and self._digest is None:
            keys = [blake2b(content, digest_size=8).digest() for content in self._folded(texts)]
            self._end_documents(texts, np.array(sizes), keys)
            return
        (chunk,), (size,) = texts, sizes
        self._document_bytes += size
        self._digest = self._digest or blake2b(digest_size=8)
        if self.by_documents:
            self._digest.update(folded(chunk).translate(None, _WHITE_SPACE))
            if self._document_bytes <= VAL_BYTES_LIMIT:
                self._chunks.append(chunk)
        if ends_document:
            self._end_documents(["".join(self._chunks)], np.array([self._document_bytes]), [self._digest.digest()])
            self._chunks, self._document_bytes, self._digest = [], 0, None

    def _folded(self, texts):
        """Return what equal documents have in common, for each of them."""
        return folded_together(texts, _WHITE_SPACE).split(b"\0") if self.by_documents else []

    def _end_documents(self, texts, sizes, keys):
        ends = self.bytes - int(sizes.sum()) + np.cumsum(sizes)
        self._ends.extend(ends[ends >= self.bytes - VAL_BYTES_LIMIT].tolist())
        while self.bytes - self._ends[0] > VAL_BYTES_LIMIT:
            self._ends.popleft()
        if self.by_documents:
            too_long = np.flatnonzero(sizes > self._wanted() / 2)
            self._long += zip((self.documents + too_long).tolist(), sizes[too_long].tolist())
            if len(self._long) > MOST_LONG:
                self._long = self._too_long()
            self._candidates.add(texts, sizes, np.frombuffer(b"".join(keys), ">u8").astype(np.uint64), self.documents)
        self.documents += len(texts)

    def _wanted(self):
        return self.bytes - self._usual_end()

    def _usual_end(self):
        return self.bytes - min(self.bytes - int(self.bytes * (1 - self.val_fraction)), VAL_BYTES_LIMIT)

    def _too_long(self):
        return [(number, size) for number, size in self._long if size > self._wanted() / 2]

    def split(self, groups):
        """Return the Split, and whether documents that are alike are on one side of it.

        groups: the text again, as Documents.groups yields it
        """
        if self.by_documents and self.documents > 1:
            wanted, long = self._wanted(), self._too_long()
            share = wanted / self.bytes
            cuts = {number: size - int(size * share) for number, size in long if int(size * share)}
            held_out = sum(size - cuts[number] for number, size in long if number in cuts)
            short = self.bytes - sum(size for _, size in long)
            numbers_of_long = {number for number, _ in long}
            candidates = [group for group in self._candidates.groups()
                          if group.bytes <= wanted and numbers_of_long.isdisjoint(group.numbers)]
            target, most = short * share, min(2 * wanted, VAL_BYTES_LIMIT) - held_out
            chosen, is_strict = choose_unlike(candidates, target, most, groups)
            if held_out + sum(group.bytes for group in chosen) >= wanted / 2:
                return Split(None, frozenset(number for group in chosen for number in group.numbers), cuts), is_strict
        return Split(self._end()), True

    def _end(self):
        """Return how many bytes are for training: up to the end of a document if a suitable one is near, else any byte.

        An end of a document is suitable if it holds out between half and twice as many bytes as were asked for.
        """
        usual = self._usual_end()
        wanted = self.bytes - usual
        most = min(wanted * 2, self.bytes / 2, VAL_BYTES_LIMIT)
        suitable = [end for end in self._ends if wanted / 2 <= self.bytes - end <= most]
        return min(suitable, key=lambda end: abs(end - usual), default=usual)


def choose_unlike(candidates, target, most, groups):
    """Return some of the candidates, about `target` bytes of them and at most `most`, that no other document is like.

    Also return whether there were enough of those. If not, as among rows or lines of a log, which are all alike, the
    first candidates are returned. candidates: [Group]; groups: the text as Documents.groups yields it
    """
    first = choose(candidates, target, most)
    if not first:
        return [], True
    compared = choose(candidates, SPARE * target, SPARE * most)
    likeness = Likeness([group.content for group in compared])
    rejected = likeness.like_any_document(groups, {number for group in compared for number in group.numbers})
    while True:                         # those left over are for training: none of the chosen may be like one of them
        rejected = likeness.closure(rejected)
        chosen = choose([group for number, group in enumerate(compared) if number not in rejected], target, most)
        numbers = {number for group in chosen for number in group.numbers}
        left_over = {number for number, group in enumerate(compared) if group.numbers[0] not in numbers}
        alike = likeness.closure(left_over) - left_over
        if not alike:
            break
        rejected |= alike
    is_enough = sum(group.bytes for group in chosen) >= target / 2
    return (chosen, True) if is_enough else (first, False)


def choose(groups, target, most):
    """Return those groups that bring the sum of their bytes nearer to `target`, each in turn, and never above `most`.

    >>> [group.bytes for group in choose([Group(size, array("Q"), "") for size in (40, 130, 50, 30)], 100, 200)]
    [40, 50]
    """
    chosen, total = [], 0
    for group in groups:
        after = total + group.bytes
        if abs(after - target) < abs(total - target) and after <= most:
            chosen.append(group)
            total = after
    return chosen
