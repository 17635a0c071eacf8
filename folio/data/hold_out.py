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
from heapq import heappop, heappush

from folio.data.likeness import Likeness, folded
from folio.kernels.splitting import to_bytes

# More measures hardly better and takes time: of 2.2 minutes of one core, validating on 4 MB (vocabulary of 16,384) left
# time for two steps.
VAL_BYTES_LIMIT = 1_000_000
CANDIDATES = 4              # times VAL_BYTES_LIMIT: documents kept in memory while it is not known how many are wanted
SPARE = 2                   # times the bytes wanted: candidates that are compared, as some will be like other documents
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
        """Turn a stream of (chunk, ends_document) into one of (chunk, is_val, ends_document), in the order of the text.

        """
        number = start = 0              # of the document; where the chunk begins, in the document or in the text
        for chunk, ends_document in chunks:
            cut = self.cuts.get(number) if self.position is None else self.position
            if cut is None:
                yield chunk, number in self.held_out, ends_document
            else:
                content = to_bytes(chunk)
                yield from self._cut(chunk, content, cut - start, ends_document)
                start = 0 if ends_document and self.position is None else start + len(content)
            number += ends_document

    def parts(self, chunks):
        """Yield what `in_order` yields, but all that is for training first; the rest is held in memory meanwhile.

        For training, a document ends where it is cut; only a text that is cut at `position` goes on.
        """
        if self.position is not None:
            yield from self.in_order(chunks)
            return
        waiting, is_open = [], False    # at most VAL_BYTES_LIMIT bytes; whether the document is still going on
        for part in self.in_order(chunks):
            _, is_val, ends_document = part
            if is_val:
                waiting.append(part)
                if is_open:
                    yield "", False, True
            else:
                yield part
            is_open = not is_val and not ends_document
        yield from waiting

    def _cut(self, chunk, content, cut, ends_document):
        """Yield a chunk, `content` in bytes, in one or two parts: what is before byte `cut` and what is after it."""
        if cut >= len(content):
            yield chunk, False, ends_document
        elif cut <= 0:
            yield chunk, True, ends_document
        else:
            for _ in range(3):               # back to the first byte of a character, which has four at most
                cut -= cut > 0 and content[cut] & 0xC0 == 0x80
            yield content[:cut].decode("utf-8", errors="surrogateescape"), False, False
            yield content[cut:].decode("utf-8", errors="surrogateescape"), True, ends_document


@dataclass
class Group:
    """Documents with the same content, but for case and white space."""
    bytes: int
    numbers: array                      # of the documents
    content: str                        # of the first


class Choice:
    """Chooses what to hold out, from one pass over a text; see `split`. Memory does not grow with the text."""

    def __init__(self, val_fraction, by_documents):
        self.val_fraction, self.by_documents = val_fraction, by_documents
        self.bytes = self.documents = 0         # of the text so far
        self._ends = deque()            # of the documents in the last VAL_BYTES_LIMIT bytes; none before them serves
        self._groups, self._largest_keys, self._kept_bytes = {}, [], 0      # {key: Group}, a heap of negative keys
        self._first_rejected = 1 << 64          # keys from here on are not kept
        self._too_large = set()         # keys of groups that are larger than what may be held out
        self._long = []                 # (number, bytes) of documents that may turn out too long to be held out whole
        self._chunks, self._document_bytes, self._digest = [], 0, blake2b(digest_size=8)

    def add(self, chunk, size, ends_document):
        """Take the next chunk of the text, of `size` bytes."""
        self.bytes += size
        self._document_bytes += size
        if self.by_documents:
            self._digest.update(folded(chunk).translate(None, _WHITE_SPACE))
            if self._document_bytes <= VAL_BYTES_LIMIT:
                self._chunks.append(chunk)
        if ends_document:
            self._end_document()

    def _end_document(self):
        self._ends.append(self.bytes)
        while self.bytes - self._ends[0] > VAL_BYTES_LIMIT:
            self._ends.popleft()
        if self.by_documents:
            if self._document_bytes > self._wanted() / 2:
                self._long.append((self.documents, self._document_bytes))
            if self._document_bytes <= VAL_BYTES_LIMIT:
                self._keep(int.from_bytes(self._digest.digest()))
            if self.documents % 10_000 == 0:
                self._long = self._too_long()
            self._chunks, self._digest = [], blake2b(digest_size=8)
        self._document_bytes = 0
        self.documents += 1

    def _keep(self, key):
        """Keep the document that has ended if its key is among the smallest ones."""
        if key >= self._first_rejected or key in self._too_large:
            return
        if key not in self._groups:
            self._groups[key] = Group(0, array("Q"), "".join(self._chunks))
            heappush(self._largest_keys, -key)
        group = self._groups[key]
        group.bytes += self._document_bytes
        group.numbers.append(self.documents)
        self._kept_bytes += self._document_bytes
        if group.bytes > VAL_BYTES_LIMIT:
            self._too_large.add(key)
            self._kept_bytes -= self._groups.pop(key).bytes
        while self._kept_bytes > CANDIDATES * VAL_BYTES_LIMIT:
            self._first_rejected = -heappop(self._largest_keys)
            if self._first_rejected in self._groups:
                self._kept_bytes -= self._groups.pop(self._first_rejected).bytes

    def _wanted(self):
        return self.bytes - self._usual_end()

    def _usual_end(self):
        return self.bytes - min(self.bytes - int(self.bytes * (1 - self.val_fraction)), VAL_BYTES_LIMIT)

    def _too_long(self):
        return [(number, size) for number, size in self._long if size > self._wanted() / 2]

    def split(self, documents):
        """Return the Split, and whether documents that are alike are on one side of it.

        documents: yields the text again, as (chunk, ends_document)
        """
        if self.by_documents and self.documents > 1:
            wanted, long = self._wanted(), self._too_long()
            share = wanted / self.bytes
            cuts = {number: size - int(size * share) for number, size in long if int(size * share)}
            held_out = sum(size - cuts[number] for number, size in long if number in cuts)
            short = self.bytes - sum(size for _, size in long)
            # Keys are in the order of hashes: a choice that has nothing to do with the documents' order or length.
            candidates = [self._groups[key] for key in sorted(self._groups)
                          if self._groups[key].bytes <= wanted]
            numbers_of_long = {number for number, _ in long}
            candidates = [group for group in candidates if numbers_of_long.isdisjoint(group.numbers)]
            target, most = short * share, min(2 * wanted, VAL_BYTES_LIMIT) - held_out
            chosen, is_strict = choose_unlike(candidates, target, most, documents)
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


def choose_unlike(candidates, target, most, documents):
    """Return some of the candidates, about `target` bytes of them and at most `most`, that no other document is like.

    Also return whether there were enough of those. If not, as among rows or lines of a log, which are all alike, the
    first candidates are returned. candidates: [Group]; documents: the text as (chunk, ends_document)
    """
    first = choose(candidates, target, most)
    if not first:
        return [], True
    compared = choose(candidates, SPARE * target, SPARE * most)
    likeness = Likeness([group.content for group in compared])
    rejected = likeness.like_any_document(documents, {number for group in compared for number in group.numbers})
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
