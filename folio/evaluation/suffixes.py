"""Where a text is found in another one: all suffixes of a text in sorted order, where a passage is looked up as a word in a dictionary."""

from bisect import bisect_left
from itertools import takewhile

import numpy as np

_FIRST = 7          # bytes that fit into one number of 64 bits, 9 bits each: 256 values, and 0 behind the end


def suffix_array(content, depth=None):
    """Where the suffixes of some bytes begin, in the order of the suffixes, or of their first `depth` bytes: (bytes,) int64.

    Prefix doubling (Manber and Myers, 1993): once the suffixes are sorted by their first h bytes, the place of the suffix h bytes further on
    sorts them by 2h. Only those that are still equal to a neighbour are looked at again (Larsson and Sadakane, 2007).
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
    rank = np.empty(len(content) + 1, np.int64)         # a suffix's place, or that of the first of its equals
    rank[-1] = -1                                       # the empty suffix comes before all others
    rank[order] = _first_of_equals(keys[order], np.arange(len(content)))
    length = _FIRST
    while (depth is None or length < depth) and len(tied := _tied(rank[order])):
        # Equals stand side by side, so that sorting all that are tied moves none out of its group.
        starts = order[tied]
        keys = rank[starts] * (len(content) + 1) + rank[np.minimum(starts + length, len(content))] + 1
        again = np.argsort(keys)
        order[tied] = starts[again]
        rank[order[tied]] = _first_of_equals(keys[again], tied)
        length *= 2
    return order


def longest_matches(parts, passages):
    """How far each passage, from each of its bytes on, is found in a text, and no further than the passage goes.

    parts: the text's bytes, an iterable of pieces, of which one at a time is sorted (which takes about 80 bytes of memory a byte); a match may reach
    over several. passages: a list of bytes. -> for each passage an array (bytes,) int64
    >>> longest_matches([b"to be or no", b"t to be"], [b"not be"])[0].tolist()          # "not ", "ot ", "t ", " be", "be", "e"
    [4, 3, 2, 3, 2, 1]
    """
    longest = [np.zeros(len(passage), np.int64) for passage in passages]
    depth = max(map(len, passages), default=0)
    kept = b""              # of the pieces before, as much as a match with something in the next one can reach back
    for part in parts:
        text = kept + part
        array = suffix_array(text, depth)
        for found, passage in zip(longest, passages):
            for start in range(len(passage)):
                found[start] = max(found[start], _longest_match(text, array, passage[start:]))
        kept = text[max(0, len(text) - depth + 1):]
    return longest


def _longest_match(text, array, wanted):
    """How many of the first bytes of `wanted` are found together in a text: as many as its neighbours in the dictionary share with it."""
    place = bisect_left(array, wanted, key=lambda start: text[start:start + len(wanted)])
    return max((_common_length(wanted, text[start:start + len(wanted)]) for start in array[max(0, place - 1):place + 1].tolist()), default=0)


def _common_length(one, other):
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other)))


def _first_of_equals(keys, places):
    """keys: (n,) sorted, places: (n,) -> for each key the place of the first of its equals: (n,)"""
    begins = np.append(True, keys[1:] != keys[:-1])[:len(keys)]
    return places[begins][np.cumsum(begins) - 1]


def _tied(ranks):
    """ranks: (n,) in ascending order -> the places of those that are not alone with theirs"""
    same = ranks[1:] == ranks[:-1]
    return np.flatnonzero(np.append(same, False) | np.append(False, same)[:len(ranks)])
