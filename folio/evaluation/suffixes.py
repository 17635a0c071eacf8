"""Longest common substrings by suffix arrays: binary search for a passage among the sorted suffixes of a text."""

from bisect import bisect_left
from itertools import takewhile

import numpy as np

_FIRST = 7          # bytes in one 64-bit integer at 9 bits each: 256 values, and 0 beyond the end


def suffix_array(content, depth=None):
    """Return the starts of the suffixes of `content` in sorted order: (bytes,) int64.

    depth: sort by this many bytes only (default: by all). Prefix doubling (Manber and Myers, 1993): when the suffixes
    are sorted by their first h bytes, the rank of the suffix h bytes later sorts them by 2h. Only suffixes that still
    equal a neighbor are sorted again (Larsson and Sadakane, 2007).
    >>> suffix_array(b"banana").tolist()            # a, ana, anana, banana, na, nana
    [5, 3, 1, 0, 4, 2]
    """
    digits = np.zeros(len(content) + _FIRST, np.int64)
    digits[:len(content)] = np.frombuffer(content, np.uint8)
    digits[:len(content)] += 1
    keys = np.zeros(len(content), np.int64)
    for ahead in range(_FIRST):
        keys = keys << 9 | digits[ahead:ahead + len(content)]
    order = np.argsort(keys)
    rank = np.empty(len(content) + 1, np.int64)         # position of a suffix, or of the first of its equals
    rank[-1] = -1                                       # the empty suffix sorts before all others
    rank[order] = _first_of_equals(keys[order], np.arange(len(content)))
    length = _FIRST
    while (depth is None or length < depth) and len(tied := _tied(rank[order])):
        # Equal suffixes are adjacent, so sorting all tied ones together moves none out of its group.
        starts = order[tied]
        keys = rank[starts] * (len(content) + 1) + rank[np.minimum(starts + length, len(content))] + 1
        again = np.argsort(keys)
        order[tied] = starts[again]
        rank[order[tied]] = _first_of_equals(keys[again], tied)
        length *= 2
    return order


def longest_matches(parts, passages):
    """Return the length of the longest match in a text that starts at each byte of each passage.

    parts: the text as an iterable of bytes objects; one at a time is sorted, which takes about 80 bytes of memory per
    byte. A match may span several parts, but never goes beyond the end of its passage.
    passages: a list of bytes objects. -> an array (bytes,) int64 for each passage
    >>> longest_matches([b"to be or no", b"t to be"], [b"not be"])[0].tolist()      # not_, ot_, t_, _be, be, e
    [4, 3, 2, 3, 2, 1]
    """
    longest = [np.zeros(len(passage), np.int64) for passage in passages]
    depth = max(map(len, passages), default=0)
    kept = b""              # the end of the text so far, where a match that continues in the next part may start
    for part in parts:
        text = kept + part
        array = suffix_array(text, depth)
        for found, passage in zip(longest, passages):
            for start in range(len(passage)):
                found[start] = max(found[start], longest_match(text, array, passage[start:])[0])
        kept = text[max(0, len(text) - depth + 1):]
    return longest


def longest_match(text, array, wanted):
    """Return (length, start in a text) of the longest prefix of `wanted` there.

    array: of the text, as suffix_array returns it; one of the neighbors of `wanted` in it shares the prefix. If it was
    sorted by fewer bytes than `wanted` has, the match may be too short.
    >>> longest_match(b"banana", suffix_array(b"banana"), b"nab")
    (2, 4)
    """
    place = bisect_left(array, wanted, key=lambda start: text[start:start + len(wanted)])
    neighbors = array[max(0, place - 1):place + 1].tolist()
    return max(((_common_length(wanted, text[start:start + len(wanted)]), start) for start in neighbors),
               default=(0, 0))


def _common_length(first, second):
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second)))


def _first_of_equals(keys, places):
    """Return, for each key, the place of the first of its equals: (n,). keys: (n,) sorted; places: (n,)"""
    begins = np.append(True, keys[1:] != keys[:-1])[:len(keys)]
    return places[begins][np.cumsum(begins) - 1]


def _tied(ranks):
    """Return the indices of ranks that occur more than once. ranks: (n,) in ascending order"""
    same = ranks[1:] == ranks[:-1]
    return np.flatnonzero(np.append(same, False) | np.append(False, same)[:len(ranks)])
