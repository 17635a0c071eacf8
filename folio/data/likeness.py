"""Documents that are alike: copies with changes, of which one would tell a model what another one says.

Documents are compared by shingles: 32 letters in a row, without what is no letter in ASCII and without case, so that
other numbers, line ends and punctuation make no difference. About every eighth shingle counts, chosen by its hash
(Broder, 1997; Manku et al., 2007). Two documents are alike if they share three in ten of the shingles of
the shorter one.
"""

import numpy as np

from folio.kernels.splitting import to_bytes

# Of the shingles of the shorter document. 32 letters are about seven words: where one word in ten is replaced, nearly
# half of the shingles are left; two passages of 3,000 characters of the shipped plays share 4 % at most.
SHARED = 0.3
LEAST_SHINGLES = 4      # of a document that is compared: about 60 letters
PIECE_BYTES = 1 << 18   # letters of a longer document are compared piece by piece
BATCH_BYTES = 1 << 18   # letters that are hashed at once; each takes about 20 bytes of memory for a moment
MOST_OWNERS = 8         # candidates that a shingle is looked up for; `closure` finds the others through them
_NO_LETTERS = bytes(byte for byte in range(128) if not chr(byte).isalpha())
_WORD, _SHINGLE = 8, 32     # bytes
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)     # odd, bits mixed
_FILTER_BITS = 22           # of a table of 4 MB that rules out most shingles at once


def folded(text):
    """Return a text without case, as bytes. Parts of a text give parts of the result."""
    return text.encode("ascii").lower() if text.isascii() else to_bytes(text.casefold())


def folded_together(texts, left_out):
    """Return what `folded` makes of each text, without the bytes in `left_out`, joined by NUL; it is in none of them.

    >>> folded_together(["A b", "C"], b" ")
    b'ab\\x00c'
    """
    content = folded("\0".join(texts)).translate(None, left_out.replace(b"\0", b""))
    if content.count(0) == len(texts) - 1:
        return content
    return b"\0".join(folded(text).translate(None, left_out + b"\0") for text in texts)


def letters(text):
    """Return what documents are compared by.
    >>> letters("Page 12: The End")
    b'pagetheend'
    """
    return folded(text).translate(None, _NO_LETTERS)


def shingles(pieces):
    """Return the hashes of the shingles of some pieces, and in which piece each is: (n,) uint64, (n,) int.

    pieces: [bytes of letters]
    """
    return _shingles(b"\0".join(pieces))


def _shingles(content):
    """Return what `shingles` does of pieces joined by NUL."""
    if len(content) < _SHINGLE:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    ends = np.append(np.flatnonzero(np.frombuffer(content, np.uint8) == 0), len(content))
    words = np.ndarray(len(content) - _WORD + 1, "<u8", content, strides=1)         # at every byte, with seven after it
    mixed = words * np.uint64(_MULTIPLIERS[0])
    starts = np.flatnonzero(mixed[:len(words) - _SHINGLE + _WORD] < np.uint64(1 << 61))         # one in eight
    owners = np.repeat(np.arange(len(ends)), np.diff(np.searchsorted(starts, ends, "right"), prepend=0))
    is_whole = starts + _SHINGLE <= ends[owners]
    starts, owners = starts[is_whole], owners[is_whole]
    hashes = mixed[starts]
    for number, multiplier in enumerate(_MULTIPLIERS[1:], start=1):
        hashes ^= hashes >> np.uint64(29)
        hashes = (hashes + words[starts + number * _WORD]) * np.uint64(multiplier)
    return hashes ^ hashes >> np.uint64(32), owners


class Likeness:
    """Finds which of some candidates, texts, other documents are like."""

    def __init__(self, candidates):
        self._hashes, self._owners = _distinct(*shingles([letters(text) for text in candidates]))
        self._sizes = np.bincount(self._owners, minlength=len(candidates))
        self._index(np.arange(len(self._hashes)))

    def like_any_document(self, groups, left_out):
        """Return the numbers of those candidates that a document is like.

        groups: of documents, as Documents.groups yields them; left_out: numbers of documents that are not compared
        """
        found = set()
        if not len(self._sizes):
            return found
        for content in _batches(_pieces(groups, left_out)):
            found |= self._like(*_shingles(content))
        return found

    def closure(self, numbers):
        """Return these candidates and all that are like one of them, or like one of those, and so on."""
        found, new = set(numbers), set(numbers)
        while new:
            self._index(np.flatnonzero(~np.isin(self._owners, list(found))))        # without those that are known
            is_new = np.isin(self._owners, list(new))
            new = self._like(self._hashes[is_new], self._owners[is_new]) - found
            found |= new
        self._index(np.arange(len(self._hashes)))
        return found

    def _index(self, chosen):
        """Sort these of the candidates' shingles, and mark them in a table."""
        order = chosen[np.argsort(self._hashes[chosen], kind="stable")]
        self._sorted_owners = self._owners[order]
        self._known, self._firsts, self._counts = np.unique(self._hashes[order], return_index=True, return_counts=True)
        self._is_possible = np.zeros(1 << _FILTER_BITS, bool)
        self._is_possible[self._known >> np.uint64(64 - _FILTER_BITS)] = True

    def _like(self, hashes, owners):
        """Return the numbers of the candidates that documents with these shingles are like.

        hashes, owners: (n,) as `shingles` returns them
        """
        if not len(self._known):
            return set()
        sizes = np.bincount(owners)
        possible = np.flatnonzero(self._is_possible[hashes >> np.uint64(64 - _FILTER_BITS)])
        hashes, owners = hashes[possible], owners[possible]
        places = np.minimum(np.searchsorted(self._known, hashes), len(self._known) - 1)
        is_known = self._known[places] == hashes
        shared = _unique(owners[is_known] * len(self._known) + places[is_known])
        owners, places = np.divmod(shared, len(self._known))
        firsts, counts = self._firsts[places], self._counts[places]
        pairs = []                      # document * candidates + candidate, once for every shingle that they share
        for offset in range(MOST_OWNERS):
            is_shared = offset < counts
            candidates = self._sorted_owners[firsts[is_shared] + offset]
            pairs.append(owners[is_shared] * len(self._sizes) + candidates)
        pairs, counts = np.unique(np.concatenate(pairs), return_counts=True)
        documents, candidates = np.divmod(pairs, len(self._sizes))
        shorter = np.minimum(sizes[documents], self._sizes[candidates])
        return set(candidates[(counts >= SHARED * shorter) & (shorter >= LEAST_SHINGLES)].tolist())


def _unique(values):
    """Return what np.unique does; it sorts, which is faster than its hashing where most values differ."""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def _distinct(hashes, owners):
    """Return every pair of hash and owner once."""
    order = np.lexsort((hashes, owners))
    hashes, owners = hashes[order], owners[order]
    is_first = np.ones(len(hashes), bool)
    is_first[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return hashes[is_first], owners[is_first]


def _pieces(groups, left_out):
    """Yield the letters of documents, joined by NUL, wherever the chunks of a document end.

    A long document is divided into pieces of PIECE_BYTES.
    """
    number, content, is_within = 0, b"", False
    for texts, ends_document in groups:
        numbers = range(number, number + len(texts) * ends_document)
        if ends_document and not is_within and max(map(len, texts)) <= PIECE_BYTES // 4:    # bytes of a character
            number = numbers.stop
            if not left_out.isdisjoint(numbers):
                texts = [text for place, text in zip(numbers, texts) if place not in left_out]
            if texts:
                yield folded_together(texts, _NO_LETTERS)
            continue
        is_within = not ends_document
        for text in texts:
            if number not in left_out:
                content += letters(text)
                while len(content) > PIECE_BYTES:
                    yield content[:PIECE_BYTES]
                    content = content[PIECE_BYTES:]
                if ends_document:
                    yield content
                    content = b""
            number += ends_document


def _batches(pieces):
    """Join pieces by NUL until they have BATCH_BYTES."""
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= BATCH_BYTES:
            yield b"\0".join(batch)
            batch, size = [], 0
    if batch:
        yield b"\0".join(batch)
