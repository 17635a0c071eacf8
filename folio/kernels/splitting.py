"""Where a text is split into pieces, which no merge reaches across: two patterns, for a line as regular expressions, for a book in NumPy.

Both ways give the same pieces. The regular expression says what they are; the arrays find those of a megabyte ten times sooner, because
a piece's beginning can be told, nearly always, from the classes of two neighbouring characters.
"""

from functools import cache

import numpy as np
import regex

SPLIT_PATTERNS = {
    # Named as in llama.cpp; the contractions are spelt out instead of (?i:...), so that no case folding rule is involved.
    "qwen2": r"""'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"""
             r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    "gpt2": r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
}
# Where a text may be cut for tokenizing: pieces of either split pattern never reach from a non-space character into a
# space, nor from a letter to what is none; a text without spaces has the latter. (?r) searches backwards, for the last
# such place.
LAST_SAFE_CUT = regex.compile(r"(?r)\S(?= )|\p{L}(?=\P{L})")
# Characters from one such place to the next after which a text is cut nevertheless: a piece could get as long as the
# text, and learning and merging take a hundred bytes of memory for each of its own.
LONGEST_RUN = 1 << 18
CODE_POINTS = 0x110000
INHABITED = 0x40000                 # there are no letters, numbers or blanks from here on (Unicode 17), and looking for them takes time
LONG_TEXT = 10_000                  # characters from which arrays are quicker than a regular expression
BATCH = 1 << 19                     # characters worth splitting together: more is no quicker, and takes more memory
SHORT = 16                          # bytes, two machine words: pieces up to here are compared as numbers; 98 of 100 are
SEATS_BITS = 18                     # 262,144 seats for the 20,000 distinct pieces of a megabyte: few meet, and a megabyte of them stays near

# Classes of characters. BLANK is white space but U+0020, and NEWLINE is a BLANK to the pattern that has no rule for it. An END stands
# behind each text, so that many can be split together; its code is none that a text can have.
LETTER, NUMBER, OTHER, SPACE, BLANK, NEWLINE, END = range(7)
END_CODE = CODE_POINTS
_CLASS, _SIZE_SHIFT = 0b111, 4      # the table of code points holds both: the class, and above it the bytes in UTF-8

# A class -> the classes that it continues the piece of; a character that follows any other class begins a piece.
_CONTINUES = {
    "qwen2": {LETTER: [LETTER, SPACE, BLANK], NUMBER: [], OTHER: [OTHER, SPACE], SPACE: [SPACE, BLANK], BLANK: [SPACE, BLANK],
              NEWLINE: [OTHER, SPACE, BLANK, NEWLINE]},
    "gpt2": {LETTER: [LETTER, SPACE], NUMBER: [NUMBER, SPACE], OTHER: [OTHER, SPACE], SPACE: [SPACE, BLANK], BLANK: [SPACE, BLANK]},
}


@cache
def splitter(pattern):
    """The function from a text to the list of its pieces.
    >>> splitter("qwen2")("it's 42 trees")
    ['it', "'s", ' ', '4', '2', ' trees']
    """
    return regex.compile(SPLIT_PATTERNS[pattern]).findall


def to_bytes(text):
    """A text's bytes; undecodable ones travel through text as lone surrogates (PEP 383), and come back as they were."""
    return text.encode("utf-8", errors="surrogateescape")


def in_batches(items, length=len):
    """Lists of as many texts, or things of some length, as are worth splitting together.
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


def cut_runs(text):
    """The parts of a text, cut wherever LONGEST_RUN characters have no safe place between them: mostly it is one part.

    Where it is cut depends on nothing but the text from the last safe place on, however the text came in.
    """
    parts, start, place = [], 0, 0          # of the part; a safe place, or where it was cut
    while len(text) - place > LONGEST_RUN:
        if cut := LAST_SAFE_CUT.search(text, place, place + LONGEST_RUN + 1):
            place = cut.end()
        else:
            place += LONGEST_RUN
            parts.append(text[start:place])
            start = place
    return [*parts, text[start:]]


def distinct_pieces(texts, pattern):
    """The distinct pieces of some texts, as bytes; each piece's number among them, (pieces,); how many there are up to each text's end, (texts,).
    >>> distinct_pieces(["to be or not", " to be"], "qwen2")
    ([b'to', b' be', b' or', b' not', b' to'], array([0, 1, 2, 3, 4, 1], dtype=int32), array([4, 6]))
    """
    if max(map(len, texts), default=0) > LONGEST_RUN:
        runs = [cut_runs(text) for text in texts]
        pieces, numbers, ends = _distinct_by_arrays([part for parts in runs for part in parts], pattern)
        return pieces, numbers, ends[np.cumsum([len(parts) for parts in runs]) - 1]
    if sum(map(len, texts)) >= LONG_TEXT:
        return _distinct_by_arrays(texts, pattern)
    known, numbers, ends = {}, [], []
    for text in texts:
        numbers += [known.setdefault(to_bytes(piece), len(known)) for piece in splitter(pattern)(text)]
        ends.append(len(numbers))
    return list(known), np.array(numbers, np.int32), np.array(ends, np.int64)


def _distinct_by_arrays(texts, pattern):
    content, starts = _piece_starts(texts, pattern)
    lengths = np.diff(starts, append=len(content))
    ends = np.flatnonzero(lengths == 0) - np.arange(len(texts))     # an END is a piece of its own, without a letter
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    # A short piece is the two numbers whose bytes it is; only one that ends in NUL could be taken for a shorter one.
    is_short = (lengths <= SHORT) & (content[starts + lengths - 1] != 0)
    short, long = np.flatnonzero(is_short), np.flatnonzero(~is_short)
    words = np.ndarray(len(content) + 8, "<u8", np.append(content, np.zeros(SHORT, np.uint8)), strides=1)   # the eight bytes from each one on
    low, high = words[starts[short]] & _LOW[lengths[short]], np.zeros(len(short), np.uint64)
    longer = np.flatnonzero(lengths[short] > 8)             # one in ten
    high[longer] = words[starts[short][longer] + 8] & _LOW[lengths[short][longer] - 8]
    firsts, places = _distinct(low, high)
    numbers = np.empty(len(starts), np.int32)
    numbers[short] = places
    pieces, known, whole = _names(low[firsts], high[firsts]).tolist(), {}, content.tobytes()
    stops = (starts + lengths)[long].tolist()
    numbers[long] = [known.setdefault(whole[start:stop], len(pieces) + len(known)) for start, stop in zip(starts[long].tolist(), stops)]
    return pieces + list(known), numbers, ends


def _piece_starts(texts, pattern):
    """The texts' bytes, (bytes,) uint8, and where in them pieces begin; behind the last piece of each text begins an END."""
    whole = "".join(texts)
    content = np.frombuffer(to_bytes(whole), np.uint8)
    codes = np.frombuffer(whole.encode("utf-32-le", errors="surrogatepass"), np.uint32)
    codes = np.insert(codes, np.cumsum([len(text) for text in texts], dtype=np.int64), END_CODE)
    about = np.take(_classes(pattern), codes, mode="clip")  # all codes are in the table: clip only spares NumPy the check
    starts = np.flatnonzero(_begins(codes, about & _CLASS, pattern))
    sizes = about >> _SIZE_SHIFT
    if len(texts) > 1 or len(content) >= len(codes):        # else the first character is the first byte, and so on
        starts = np.cumsum(sizes, dtype=np.int64)[starts] - sizes[starts]
    return content, starts


def _begins(codes, classes, pattern):
    """Whether a piece begins at each character. codes, classes: (characters,) -> (characters,) bool"""
    before, after = np.roll(classes, 1), np.roll(classes, -1)       # the last one is an END, and so the first one follows an END as well
    begins = _pair_table(pattern)[before * 8 + classes]
    is_blank = (classes == SPACE) | (classes == BLANK)
    begins |= is_blank & (after <= OTHER)                   # \s+(?!\S) leaves the last blank to what follows
    if pattern == "qwen2":
        lone = begins[:-1] & (classes[:-1] == OTHER)        # [^\r\n\p{L}\p{N}]?\p{L}+ takes a single sign along
        begins[1:] &= ~(lone & (classes[1:] == LETTER))
        _join_blank_lines(begins, classes, is_blank)
    _part_contractions(begins, codes, classes, pattern)
    return begins


def _join_blank_lines(begins, classes, is_blank):
    r"""\s*[\r\n]+ reaches from the first blank to the last newline: what lies between two newlines begins nothing, if it is only blanks."""
    newlines = np.flatnonzero((classes[1:] == NEWLINE) & is_blank[:-1]) + 1
    previous = _last_before(newlines, ~is_blank)            # what stands before the blanks before a newline
    previous = previous[(previous >= 0) & (classes[previous] == NEWLINE)]
    opener = _last_before(previous, classes != NEWLINE)     # newlines right behind a sign belong to it: [^\s\p{L}\p{N}]+[\r\n]*
    begins[previous[(opener < 0) | (classes[opener] != OTHER)] + 1] = False


def _part_contractions(begins, codes, classes, pattern):
    """'s and the like are pieces of their own where a piece begins with the apostrophe, whatever letters follow."""
    quotes = np.flatnonzero(begins & (codes == ord("'")))
    first, second = (np.take(codes, quotes + ahead, mode="clip") * (quotes + ahead < len(codes)) for ahead in (1, 2))
    if pattern == "qwen2":
        first, second = first | 32, second | 32             # lower case, for ASCII letters; nothing else becomes one
    is_short = np.isin(first, [ord(letter) for letter in "stmd"])
    is_long = np.logical_or.reduce([(first == ord(one)) & (second == ord(other)) for one, other in ("re", "ve", "ll")])
    begins[quotes[is_short | is_long] + 1] = False
    ends = (quotes + 2 + is_long)[is_short | is_long]
    ends = ends[ends < len(codes)]
    begins[ends[classes[ends] == LETTER]] = True


def _last_before(positions, wanted):
    """For each position the last one before it where `wanted`, (characters,) bool, holds; -1 where there is none."""
    places = np.append(-1, np.flatnonzero(wanted)) if len(positions) else np.zeros(1, np.int64)
    return places[np.searchsorted(places, positions) - 1]


def _distinct(low, high):
    """Where each distinct one of some short pieces stands, once, and for each piece its number among them.

    low, high: (pieces,) each. It is np.unique, unsorted: each piece hurries to the seat that its hash tells it, and whoever comes last
    sits there for all its likes. The few who find another one in their seat are sorted, as np.unique would have sorted all.
    """
    own = np.arange(len(low), dtype=np.int32)
    # Odd numbers that spread pieces over the seats; the first is 2^64 divided by the golden ratio (Knuth).
    hashes = low * np.uint64(0x9E3779B97F4A7C15) + high * np.uint64(0xC2B2AE3D27D4EB4F) >> np.uint64(64 - SEATS_BITS)
    seats = np.empty(1 << SEATS_BITS, np.int32)
    seats[hashes.astype(np.int32)] = own
    standing_for = seats[hashes.astype(np.int32)]
    astray = np.flatnonzero((low[standing_for] != low) | (high[standing_for] != high))
    _, firsts, likes = np.unique(_names(low[astray], high[astray]), return_index=True, return_inverse=True)
    standing_for[astray] = astray[firsts][likes]
    is_first = standing_for == own
    return np.flatnonzero(is_first), (np.cumsum(is_first, dtype=np.int32) - 1)[standing_for]


def _names(low, high):
    """Short pieces as bytes; NumPy takes the zeros that fill them up for their end."""
    return np.stack((low, high), axis=1).view(f"S{SHORT}").ravel()


# By a piece's length the bits of its first word that are its own.
_LOW = np.array([(1 << 8 * min(8, length)) - 1 for length in range(SHORT + 1)], "<u8")


@cache
def _classes(pattern):
    """The class and the size in UTF-8 of every code point, as `regex` sees them, and of END: (CODE_POINTS + 1,) uint8."""
    inhabited = np.arange(INHABITED, dtype="<u4").tobytes().decode("utf-32-le", errors="surrogatepass")
    table = np.full(CODE_POINTS + 1, OTHER, np.uint8)
    for run in regex.finditer(r"(\p{L}+)|(\p{N}+)|(\s+)", inhabited):
        table[run.start():run.end()] = (LETTER, NUMBER, BLANK)[run.lastindex - 1]
    table[[ord(" "), END_CODE]] = SPACE, END
    if NEWLINE in _CONTINUES[pattern]:
        table[[ord("\r"), ord("\n")]] = NEWLINE
    sizes = np.repeat(np.array([1, 2, 3, 4, 0], np.uint8), np.diff([0, 0x80, 0x800, 0x10000, CODE_POINTS, CODE_POINTS + 1]))
    sizes[0xDC80:0xDD00] = 1                                # as to_bytes has it
    return table | sizes << _SIZE_SHIFT


@cache
def _pair_table(pattern):
    """Whether a piece begins between two classes: [before * 8 + class]."""
    begins = np.ones((8, 8), bool)
    for following, befores in _CONTINUES[pattern].items():
        begins[befores, following] = False
    return begins.ravel()
