"""Split text into pre-tokens, which no merge reaches across, and count the distinct ones.

A split pattern is a regular expression, which defines the pre-tokens. Short texts are split by it. Long ones are split
in NumPy, with the same result and about ten times faster: nearly always the classes of two adjacent characters decide
whether a pre-token begins between them. Both follow from the facts in SPLIT_RULES.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise

import numpy as np
import regex


@dataclass(frozen=True)
class SplitRules:
    r"""What distinguishes a split pattern from the others: all descend from GPT-2's.

    In each of them a pre-token is a contraction such as 's, a word, a number, a run of other signs, or white space;
    and white space leaves its last character to the pre-token after it.
    """
    most_digits: int | None             # characters of a number in a pre-token; None: all, and a space before them
    # The rules of tiktoken's cl100k_base: contractions in both cases, any sign or blank as the first character of a
    # word, and newlines belong to the signs or blanks before them.
    is_cl100k: bool = False
    numbers_first: bool = False         # the text is cut around numbers first: white space before one stays whole

    @property
    def expression(self):
        """The pattern as a regular expression, in a spelling that all libraries read alike."""
        contractions, word, signs = "'s|'t|'re|'ve|'m|'ll|'d", r" ?\p{L}+", r" ?[^\s\p{L}\p{N}]+"
        if self.is_cl100k:
            # Both cases are spelled out instead of (?i:...), which would involve case folding.
            contractions = re.sub("[a-z]", lambda letter: f"[{letter[0]}{letter[0].upper()}]", contractions)
            word, signs = r"[^\r\n\p{L}\p{N}]?\p{L}+", signs + r"[\r\n]*|\s*[\r\n]+"
        number = {None: r" ?\p{N}+", 1: r"\p{N}"}.get(self.most_digits, rf"\p{{N}}{{1,{self.most_digits}}}")
        blanks = r"\s+(?![^\s\p{N}])|\s+" if self.numbers_first else r"\s+(?!\S)|\s+"
        return "|".join([contractions, word, number, signs, blanks])

    @property
    def continues(self):
        """A class of characters -> the classes that it may follow inside a pre-token; after any other a new one begins.
        """
        numbers = {None: [NUMBER, SPACE], 1: []}.get(self.most_digits, [NUMBER])
        continues = {LETTER: [LETTER, SPACE], NUMBER: numbers, OTHER: [OTHER, SPACE], SPACE: [SPACE, BLANK],
                     BLANK: [SPACE, BLANK]}
        if self.is_cl100k:
            continues |= {LETTER: [LETTER, SPACE, BLANK], NEWLINE: [OTHER, SPACE, BLANK, NEWLINE]}
        return continues


# Named as in llama.cpp.
SPLIT_RULES = {
    "qwen2": SplitRules(most_digits=1, is_cl100k=True),
    "gpt2": SplitRules(most_digits=None),
    "llama3": SplitRules(most_digits=3, is_cl100k=True),
    "smollm": SplitRules(most_digits=1, numbers_first=True),
}
SPLIT_PATTERNS = {name: rules.expression for name, rules in SPLIT_RULES.items()}
# Where a text may be cut without changing its pre-tokens: those of no pattern reach from a non-space into a
# space, nor from a letter into another kind of character. The second kind of place serves texts without spaces. (?r)
# searches backwards, for the last such place.
LAST_SAFE_CUT = regex.compile(r"(?r)\S(?= )|\p{L}(?=\P{L})")
# Characters without such a place after which a text is cut anyway. Otherwise a pre-token could be as long as the text,
# and learning and merging take a hundred bytes of memory for each of its bytes.
LONGEST_RUN = 1 << 18
CODE_POINTS = 0x110000
INHABITED = 0x40000                 # no letters, numbers or white space from here on (Unicode 17); searching takes time
LONG_TEXT = 10_000                  # characters from which arrays are faster than a regular expression
BATCH = 1 << 19                     # characters to split together: more is not faster, and takes more memory
COUNTER_BYTES = 1 << 23             # of all distinct pre-tokens that are counted: learning takes 60 times that
SHORT = 16                          # bytes, two machine words: pre-tokens up to here, 98 %, are compared as numbers
SLOT_BITS = 18                      # 262,144 slots for the 20,000 distinct pre-tokens of a megabyte: few collisions,
                                    # and a table of one megabyte, which stays in the cache

# Classes of characters. BLANK is white space other than U+0020. NEWLINE counts as BLANK in patterns without a rule for
# it. An END follows each text, so that many can be split together; its code is not a code point.
LETTER, NUMBER, OTHER, SPACE, BLANK, NEWLINE, END = range(7)
END_CODE = CODE_POINTS
_CLASS, _SIZE_SHIFT = 0b111, 4      # an entry of the code point table: the class, and above it the bytes in UTF-8


@cache
def splitter(pattern):
    """Return the function from a text to the list of its pre-tokens.
    >>> splitter("qwen2")("it's 42 trees")
    ['it', "'s", ' ', '4', '2', ' trees']
    """
    return regex.compile(SPLIT_PATTERNS[pattern]).findall


def to_bytes(text):
    """Encode a text as UTF-8; lone surrogates become the undecodable bytes that they stand for (PEP 383)."""
    return text.encode("utf-8", errors="surrogateescape")


def in_batches(items, length=len):
    """Yield lists of as many texts, or items of some length, as are worth splitting together.
    >>> [len(batch) for batch in in_batches(["long" * BATCH, "a", "b"])]
    [1, 2]
    """
    batch, characters = [], 0
    for item in items:
        batch.append(item)
        characters += length(item)
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def pack(texts):
    """Join texts, so that thousands of short ones go to another process or a file as one. -> (text, lengths (n,))"""
    return "".join(texts), np.fromiter(map(len, texts), np.int64, len(texts))


def unpack(text, lengths):
    """Return the texts that were packed.
    >>> unpack(*pack(["to", "", "be"]))
    ['to', '', 'be']
    """
    return [text[start:end] for start, end in pairwise(accumulate(lengths.tolist(), initial=0))]


def cut_runs(text):
    """Cut a text wherever LONGEST_RUN characters contain no safe place; most texts stay in one part.

    A cut depends only on the text from the last safe place on, not on how the text was divided into chunks.
    """
    parts, start, place = [], 0, 0          # start: of the current part; place: the last safe place or cut
    while len(text) - place > LONGEST_RUN:
        if cut := LAST_SAFE_CUT.search(text, place, place + LONGEST_RUN + 1):
            place = cut.end()
        else:
            place += LONGEST_RUN
            parts.append(text[start:place])
            start = place
    return [*parts, text[start:]]


# --- Distinct pre-tokens ---

def count_pretokens(texts, pattern="qwen2"):
    """Count the distinct pre-tokens of texts (an iterable of str): all that learning needs to know of a text.
    >>> dict(count_pretokens(["to be, or not to be"]))
    {b'to': 1, b' be': 2, b',': 1, b' or': 1, b' not': 1, b' to': 1}
    """
    counts = PretokenCounter()
    for batch in in_batches(texts):
        counts.add(count_batch(batch, pattern))
    return counts


def count_batch(texts, pattern):
    """Count the distinct pre-tokens of a list of texts that fit into memory together. -> {pre-token: count}"""
    pretokens, indices, _ = distinct_pretokens(texts, pattern)
    return dict(zip(pretokens, np.bincount(indices).tolist()))


class PretokenCounter(Counter):
    """Count pre-tokens in bounded memory (lossy counting: Manku and Motwani, 2002).

    Where the distinct ones exceed COUNTER_BYTES, the rarest half is dropped; of equally rare ones the first seen stay.
    The counts of frequent pre-tokens are not affected. Without this, random bytes would take any amount of memory.
    """

    size = 0                                            # bytes of the distinct pre-tokens, and one more for each

    def add(self, counts):
        """Add the counts of one batch."""
        self.size += sum(len(pretoken) + 1 for pretoken in counts if pretoken not in self)
        self.update(counts)
        if self.size > COUNTER_BYTES:
            self._prune()

    def _prune(self):
        pretokens = list(self)
        order = np.argsort(-np.fromiter(self.values(), np.int64, len(pretokens)), kind="stable")
        sizes = np.fromiter(map(len, pretokens), np.int64, len(pretokens))[order] + 1
        kept = np.sort(order[np.cumsum(sizes) <= COUNTER_BYTES // 2]).tolist()      # in the order they came in
        left = {pretokens[index]: self[pretokens[index]] for index in kept}
        self.clear()
        self.update(left)
        self.size = sum(map(len, left)) + len(left)


def distinct_pretokens(texts, pattern):
    """Split a list of texts.

    Returns the distinct pre-tokens, as bytes; for each pre-token its index among them, (N,); and the number of
    pre-tokens up to the end of each text, (len(texts),).
    >>> distinct_pretokens(["to be or not", " to be"], "qwen2")
    ([b'to', b' be', b' or', b' not', b' to'], array([0, 1, 2, 3, 4, 1], dtype=int32), array([4, 6]))
    """
    if max(map(len, texts), default=0) > LONGEST_RUN:
        runs = [cut_runs(text) for text in texts]
        pretokens, indices, ends = _distinct_by_arrays([part for parts in runs for part in parts], pattern)
        return pretokens, indices, ends[np.cumsum([len(parts) for parts in runs]) - 1]
    if sum(map(len, texts)) >= LONG_TEXT:
        return _distinct_by_arrays(texts, pattern)
    known, indices, ends = {}, [], []
    for text in texts:
        indices += [known.setdefault(to_bytes(pretoken), len(known)) for pretoken in splitter(pattern)(text)]
        ends.append(len(indices))
    return list(known), np.array(indices, np.int32), np.array(ends, np.int64)


def _distinct_by_arrays(texts, pattern):
    content, starts = _pretoken_starts(texts, pattern)
    lengths = np.diff(starts, append=len(content))
    ends = np.flatnonzero(lengths == 0) - np.arange(len(texts))     # an END is a pre-token of its own, of no bytes
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    # A short pre-token is stored as two numbers, filled with zeros; one that ends in NUL would equal a shorter one.
    is_short = (lengths <= SHORT) & (content[starts + lengths - 1] != 0)
    short, long = np.flatnonzero(is_short), np.flatnonzero(~is_short)
    # The eight bytes from each position on.
    words = np.ndarray(len(content) + 8, "<u8", np.append(content, np.zeros(SHORT, np.uint8)), strides=1)
    low, high = words[starts[short]] & _LOW[lengths[short]], np.zeros(len(short), np.uint64)
    longer = np.flatnonzero(lengths[short] > 8)             # one in ten
    high[longer] = words[starts[short][longer] + 8] & _LOW[lengths[short][longer] - 8]
    firsts, places = _distinct(low, high)
    indices = np.empty(len(starts), np.int32)
    indices[short] = places
    pretokens, known, whole = _as_bytes(low[firsts], high[firsts]).tolist(), {}, content.tobytes()
    stops = (starts + lengths)[long].tolist()
    indices[long] = [known.setdefault(whole[start:stop], len(pretokens) + len(known))
                     for start, stop in zip(starts[long].tolist(), stops)]
    return pretokens + list(known), indices, ends


def _distinct(low, high):
    """Find the distinct ones of short pre-tokens, like np.unique but unsorted.

    low, high: (N,) each -> the position of one representative of each distinct pre-token, (M,), and for each pre-token
    the index of its representative, (N,). Hash each pre-token into a table, last write wins; resolve the few collisions
    by sorting.
    """
    own = np.arange(len(low), dtype=np.int32)
    # Odd factors that spread pre-tokens over the slots; the first is 2^64 divided by the golden ratio (Knuth).
    hashes = low * np.uint64(0x9E3779B97F4A7C15) + high * np.uint64(0xC2B2AE3D27D4EB4F) >> np.uint64(64 - SLOT_BITS)
    slots = np.empty(1 << SLOT_BITS, np.int32)
    slots[hashes.astype(np.int32)] = own
    representative = slots[hashes.astype(np.int32)]
    collided = np.flatnonzero((low[representative] != low) | (high[representative] != high))
    _, firsts, inverse = np.unique(_as_bytes(low[collided], high[collided]), return_index=True, return_inverse=True)
    representative[collided] = collided[firsts][inverse]
    is_first = representative == own
    return np.flatnonzero(is_first), (np.cumsum(is_first, dtype=np.int32) - 1)[representative]


def _as_bytes(low, high):
    """Return short pre-tokens as bytes; NumPy removes the zeros that fill them."""
    return np.stack((low, high), axis=1).view(f"S{SHORT}").ravel()


# By the length of a pre-token, the bits of its first word that belong to it.
_LOW = np.array([(1 << 8 * min(8, length)) - 1 for length in range(SHORT + 1)], "<u8")


# --- Splitting in arrays ---

def _pretoken_starts(texts, pattern):
    """Return the bytes of the texts, (bytes,) uint8, and where pre-tokens begin; an END begins after each text."""
    whole = "".join(texts)
    content = np.frombuffer(to_bytes(whole), np.uint8)
    codes = np.frombuffer(whole.encode("utf-32-le", errors="surrogatepass"), np.uint32)
    codes = np.insert(codes, np.cumsum([len(text) for text in texts], dtype=np.int64), END_CODE)
    entries = np.take(_classes(pattern), codes, mode="clip")        # all codes are in the table: clip saves the check
    starts = np.flatnonzero(_begins(codes, entries & _CLASS, pattern))
    sizes = entries >> _SIZE_SHIFT
    if len(texts) > 1 or len(content) >= len(codes):        # else every character is one byte
        starts = np.cumsum(sizes, dtype=np.int64)[starts] - sizes[starts]
    return content, starts


def _begins(codes, classes, pattern):
    """Return whether a pre-token begins at each character. codes, classes: (characters,) -> (characters,) bool"""
    rules = SPLIT_RULES[pattern]
    before, after = np.roll(classes, 1), np.roll(classes, -1)       # the last is an END, so the first follows one too
    begins = _pair_table(pattern)[before * 8 + classes]
    is_blank = (classes == SPACE) | (classes == BLANK)
    # \s+(?!\S) leaves the last blank to the next pre-token.
    begins |= is_blank & (after <= OTHER) & (after != NUMBER if rules.numbers_first else True)
    if rules.is_cl100k:
        lone = begins[:-1] & (classes[:-1] == OTHER)        # [^\r\n\p{L}\p{N}]?\p{L}+ includes one sign before letters
        begins[1:] &= ~(lone & (classes[1:] == LETTER))
        _join_blank_lines(begins, classes, is_blank)
    if rules.most_digits not in (None, 1):
        _cut_numbers(begins, classes, rules.most_digits)
    _split_contractions(begins, codes, classes, either_case=rules.is_cl100k)
    return begins


def _cut_numbers(begins, classes, most_digits):
    """Set `begins` after every `most_digits` characters of a number, counted from its first one."""
    numbers = np.flatnonzero(classes == NUMBER)
    is_first = np.diff(numbers, prepend=-2) > 1
    firsts = numbers[is_first][np.cumsum(is_first) - 1]
    begins[numbers] = (numbers - firsts) % most_digits == 0


def _join_blank_lines(begins, classes, is_blank):
    r"""Clear `begins` between two newlines with only blanks between them.

    \s*[\r\n]+ reaches from the first blank to the last newline.
    """
    newlines = np.flatnonzero((classes[1:] == NEWLINE) & is_blank[:-1]) + 1
    previous = _last_before(newlines, ~is_blank)            # the character before the blanks before a newline
    previous = previous[(previous >= 0) & (classes[previous] == NEWLINE)]
    # [^\s\p{L}\p{N}]+[\r\n]*: newlines directly after a sign belong to it.
    opener = _last_before(previous, classes != NEWLINE)
    begins[previous[(opener < 0) | (classes[opener] != OTHER)] + 1] = False


def _split_contractions(begins, codes, classes, either_case):
    """Make 's and the like pre-tokens where one begins with the apostrophe, whatever letters follow."""
    quotes = np.flatnonzero(begins & (codes == ord("'")))
    first, second = (np.take(codes, quotes + ahead, mode="clip") * (quotes + ahead < len(codes)) for ahead in (1, 2))
    if either_case:
        first, second = first | 32, second | 32             # to lower case; nothing but ASCII letters becomes one
    is_short = np.isin(first, [ord(letter) for letter in "stmd"])
    is_long = np.logical_or.reduce([(first == ord(a)) & (second == ord(b)) for a, b in ("re", "ve", "ll")])
    begins[quotes[is_short | is_long] + 1] = False
    ends = (quotes + 2 + is_long)[is_short | is_long]
    ends = ends[ends < len(codes)]
    begins[ends[classes[ends] == LETTER]] = True


def _last_before(positions, wanted):
    """Return for each position the last one before it where `wanted`, (characters,) bool, is true; -1 for none."""
    places = np.append(-1, np.flatnonzero(wanted)) if len(positions) else np.zeros(1, np.int64)
    return places[np.searchsorted(places, positions) - 1]


@cache
def _classes(pattern):
    """Return the class (as `regex` sees it) and size in UTF-8 of each code point and END: (CODE_POINTS + 1,) uint8."""
    inhabited = np.arange(INHABITED, dtype="<u4").tobytes().decode("utf-32-le", errors="surrogatepass")
    table = np.full(CODE_POINTS + 1, OTHER, np.uint8)
    for run in regex.finditer(r"(\p{L}+)|(\p{N}+)|(\s+)", inhabited):
        table[run.start():run.end()] = (LETTER, NUMBER, BLANK)[run.lastindex - 1]
    table[[ord(" "), END_CODE]] = SPACE, END
    if NEWLINE in SPLIT_RULES[pattern].continues:
        table[[ord("\r"), ord("\n")]] = NEWLINE
    bounds = [0, 0x80, 0x800, 0x10000, CODE_POINTS, CODE_POINTS + 1]
    sizes = np.repeat(np.array([1, 2, 3, 4, 0], np.uint8), np.diff(bounds))
    sizes[0xDC80:0xDD00] = 1                                # surrogates that to_bytes turns into one byte
    return table | sizes << _SIZE_SHIFT


@cache
def _pair_table(pattern):
    """Return whether a pre-token begins between two classes: (64,) bool, indexed by before * 8 + class."""
    begins = np.ones((8, 8), bool)
    for following, preceding in SPLIT_RULES[pattern].continues.items():
        begins[preceding, following] = False
    return begins.ravel()
