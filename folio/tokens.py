"""How the tokenizer sees a text: its tokens side by side, and what they are like in numbers.

    python -m folio.tokens "To be, or not to be"
    python -m folio.tokens novel.txt --only report
"""

import io
import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import regex
from tqdm import tqdm

from folio.cli.command_line import Parser, front_door
from folio.base.errors import FolioError
from folio.data.paths import find_files, is_pipe, nearest_path
from folio.data.sources import Documents, remarks
from folio.kernels.splitting import CODE_POINTS, INHABITED, PretokenCounter, count_batch, to_bytes
from folio.base.lines import columns, cut, head, table
from folio.base.visible import shown, shown_lines
from folio.cli.screen import send, shows_colours
from Model_Params import TextParams
from tokenizer import load

SHOWN_LINES = 60
ROWS = 10                           # of a table of examples

# What a character is: letters and accents first, by script, then the rest. What several scripts share, as the accents of Latin and Greek
# or the sign for a long vowel in both kana, counts for the first of them (scx: Unicode's Script_Extensions).
SCRIPTS = {"Latin": "Latin", "Cyrillic": "Cyrillic", "Greek": "Greek", "Arabic": "Arabic", "Hebrew": "Hebrew", "Devanagari": "Devanagari",
           "Thai": "Thai", "Han": "Han", "Hiragana": "kana", "Katakana": "kana", "Hangul": "Hangul"}
_PATTERNS = {r"\s": "white space", r"[\p{P}\p{S}]": "punctuation", r"\p{N}": "digits", r"[\p{L}\p{M}]": "other letters",
             **{rf"[\p{{scx={script}}}&&[\p{{L}}\p{{M}}]]": kind for script, kind in reversed(SCRIPTS.items())}}      # the last that fits
KINDS = (*dict.fromkeys(SCRIPTS.values()), "other letters", "digits", "punctuation", "white space", "other")

PALETTE = (153, 223, 157, 225)      # light backgrounds among the 256 colours of a terminal; the letters on them are black
_BLACK, _GREY, _RESET = "\x1b[38;5;16m", "\x1b[38;5;243m", "\x1b[0m"
_MARKS = regex.compile("[·→⏎◌]+")


def main():
    """Read what is wanted, and show tokens and report."""
    parser = Parser("Show how the tokenizer sees a text: its tokens, and a report on them.", free_text=["--text"])
    parser.add_argument("named", nargs="?", metavar="TEXT-OR-FILE",
                        help="a text, or a file or folder to read it from; - reads it from standard input")
    parser.add_argument("--text", metavar="TEXT", help="a text, also one that looks like a file or a flag")
    parser.add_argument("--only", choices=["tokens", "report"], help="tokens or report: only this part")
    parser.add_argument("--ids", action="store_true", help="put the id below each token")
    parser.add_number("--lines", SHOWN_LINES, f"show so many lines of tokens; 0: all (default: {SHOWN_LINES})", low=0, high=10**9)
    parser.add_argument("--field", default=TextParams.field, metavar="NAME", help="where .jsonl and .parquet files have their text (default: text)")
    arguments = parser.parse()
    if (arguments.named is None) == (arguments.text is None):
        parser.error("pass a text or a file, once" if arguments.text is not None else "pass a text or a file, or - for standard input")

    chunks = [(arguments.text, True)] if arguments.named is None else named_text(arguments.named, arguments.field)
    if not any(text for text, _ in chunks):
        raise FolioError("There is no text: nothing to make tokens of.")
    tokenizer = load(arguments.home.tokenizer)
    width = max(20, shutil.get_terminal_size().columns)
    counted = take_census(tokenizer, _with_bar(chunks)) if arguments.only != "tokens" else None     # first: it may refuse the text
    mended = dict(getattr(chunks, "mended", {}))            # before another pass begins to count anew
    if arguments.only != "report":
        shown_bytes = _show(tokenizer, chunks, width, arguments)
        more = (counted.bytes if counted else sum(len(to_bytes(text)) for text, _ in chunks)) - shown_bytes
        if more:
            print(f"... {more:,} bytes more (--lines 0: all)")
    if counted:
        if arguments.only is None:
            print()
        for remark in remarks(mended):
            print(remark)
        print("\n".join(report(tokenizer, counted, width)))


def _show(tokenizer, chunks, width, arguments):
    """Print as many lines of tokens as are wanted. -> the bytes of text in them"""
    lines, shown_bytes = (rows_with_ids if arguments.ids else flow)(tokenizer, chunks, width, shows_colours()), 0
    for line, shown_bytes in islice(lines, arguments.lines or None):
        send(line + "\n")
    return shown_bytes


# --- What is named on the command line ---

_SUFFIXES = (".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".gz", ".html", ".xml", ".tex", ".log", ".py")


def named_text(name, field=TextParams.field, invalid_bytes="keep"):
    """The text that `name` stands for, or is, as often as it is iterated over: (text, ends_document), cut where no token is cut.

    Raises FileNotFoundError for what looks like a file and is none.
    """
    if name in ("-", "/dev/stdin"):
        return Documents([_Stream("standard input", sys.stdin.buffer)], invalid_bytes)
    if is_pipe(name):
        with open(name, "rb") as stream:
            return Documents([_Stream(name, stream)], invalid_bytes)
    if os.path.exists(name):
        return Documents(find_files([name]), invalid_bytes, field)
    if looks_like_a_path(name):
        raise FileNotFoundError(f"There is no {name}{nearest_path(Path(name)) or '.'} "
                                f"To see these very characters as tokens: --text {name}")
    return [(name, True)]


def looks_like_a_path(name):
    """Whether nobody would write this to mean the characters themselves.
    >>> looks_like_a_path("novel.txt"), looks_like_a_path("notes/May"), looks_like_a_path("Once, in novel.txt")
    (True, True, False)
    """
    return not regex.search(r"\s", name) and (name.lower().endswith(_SUFFIXES) or "/" in name or os.sep in name)


class _Stream:
    """As much of a path as reading a text takes, of what can be read only once."""

    def __init__(self, name, stream):
        self.name, self.content = name, stream.read()

    def __str__(self):
        return self.name

    def open(self, mode):
        return io.BytesIO(self.content)

    def stat(self):
        return SimpleNamespace(st_size=len(self.content))


def _with_bar(chunks):
    if not isinstance(chunks, Documents):
        yield from chunks
        return
    with tqdm(total=chunks.file_bytes, desc="Counting tokens", unit="B", unit_scale=True, leave=False, disable=None, delay=1) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(chunks.bytes_read - bar.n)


# --- Numbers ---

@dataclass(frozen=True)
class Census:
    """What there is in a text. Separators between documents are not counted."""
    bytes: int
    characters: int             # a byte that is not UTF-8 counts as one
    uses: np.ndarray            # (vocab_size,): how often each token is seen
    kind_tokens: np.ndarray     # (len(KINDS),): tokens of each kind
    kind_bytes: np.ndarray      # (len(KINDS),): and the bytes in them
    pieces: Counter             # a piece of the split -> how often it is seen; empty for a tokenizer that does not split

    @property
    def tokens(self):
        return self.uses.sum().item()


def take_census(tokenizer, chunks):
    """Count what is in a text: (text, ends_document), a chunk at a time. -> Census

    Raises FolioError where a character tokenizer finds a character that it does not know.
    """
    lengths = np.array([len(token) for token in tokenizer.token_bytes])
    total = characters = 0
    uses, kind_tokens, kind_bytes = (np.zeros(size, np.int64) for size in (tokenizer.vocab_size, len(KINDS), len(KINDS)))
    pieces = PretokenCounter()
    for text, _ in chunks:
        content = to_bytes(text)
        if not content:
            continue
        ids = tokenizer.encode_to_array(content)
        kinds = kinds_of_tokens(text, lengths[ids])
        total += len(content)
        characters += len(text)
        uses += np.bincount(ids, minlength=len(uses))
        kind_tokens += np.bincount(kinds, minlength=len(KINDS))
        kind_bytes += np.bincount(kinds, lengths[ids], len(KINDS)).astype(np.int64)
        if tokenizer.pattern:
            pieces.add(count_batch([text], tokenizer.pattern))
    return Census(total, characters, uses, kind_tokens, kind_bytes, pieces)


def kinds_of_tokens(text, token_lengths):
    """The kind, a number in KINDS, of every token of a text: of its first letter, or else the first that there is of digits and so on.

    A token that is only a part of a character is what the character is.
    token_lengths: (tokens,), in bytes, which together are the text's. -> (tokens,)
    >>> [KINDS[kind] for kind in kinds_of_tokens(" (да 2)", [4, 1, 1, 1, 2])]        # " (д", half an "а", the other half, " ", "2)"
    ['Cyrillic', 'Cyrillic', 'Cyrillic', 'white space', 'digits']
    """
    codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
    sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    sizes[(codes >= 0xDC80) & (codes < 0xDD00)] = 1         # undecodable bytes travel through text as lone surrogates (PEP 383)
    kinds = _kinds_of_characters()[codes].repeat(sizes)     # by the text's bytes
    starts = np.cumsum(token_lengths) - token_lengths
    # All letters are equal before the rest; among equals the first one counts, so it stands for its token if that is what is smallest.
    order = np.maximum(kinds, KINDS.index("other letters")).astype(np.int64) << 32 | np.arange(len(kinds))
    return kinds[np.minimum.reduceat(order, starts) & (1 << 32) - 1]


@cache
def _kinds_of_characters():
    """The kind of every code point: (CODE_POINTS,) uint8."""
    inhabited = np.arange(INHABITED, dtype="<u4").tobytes().decode("utf-32-le", errors="surrogatepass")
    table = np.full(CODE_POINTS, KINDS.index("other"), np.uint8)
    for pattern, kind in _PATTERNS.items():
        for run in regex.finditer(f"{pattern}+", inhabited, regex.V1):          # V1: the version of its patterns that has &&
            table[run.start():run.end()] = KINDS.index(kind)
    return table


def longest_tokens(tokenizer, uses, most=ROWS):
    """The longest tokens that are used: [(id, how often)], of equally long ones the most frequent first."""
    return sorted(((token, uses[token].item()) for token in np.flatnonzero(uses).tolist()),
                  key=lambda used: (-len(tokenizer.token_bytes[used[0]]), -used[1], used[0]))[:most]


def most_fragmented(tokenizer, pieces, most=ROWS):
    """The words that cost most tokens beyond one each, every time they are seen: [(word, how often, ids)], the costliest first.

    pieces: {piece: how often}; a word is a piece that has a letter in it.
    """
    def cost(word, times, ids):
        return (len(ids) - 1) * times

    found = []
    for piece, times in sorted(pieces.items(), key=lambda seen: cost(seen[0], seen[1], seen[0]), reverse=True):
        if len(found) == most and cost(piece, times, piece) < cost(*found[-1]):         # a byte a token is the worst that can happen
            break
        if regex.search(r"\p{L}", piece.decode("utf-8", errors="surrogateescape")) and len(ids := tokenizer.encode_bytes(piece)) > 1:
            found = sorted([*found, (piece, times, ids)], key=lambda word: (-cost(*word), word[0]))[:most]
    return found


# --- The report ---

def report(tokenizer, census, width):
    """The lines of a report of so many columns."""
    used = np.count_nonzero(census.uses)
    totals = [("bytes", f"{census.bytes:,}"), ("characters", f"{census.characters:,}"), ("tokens", f"{census.tokens:,}"),
              ("bytes per token", f"{census.bytes / census.tokens:.2f}"), ("vocabulary", f"{tokenizer.vocab_size:,}"),
              ("of it used", _share(used, tokenizer.vocab_size))]
    kinds = [(KINDS[kind], f"{census.kind_tokens[kind]:,}", _share(census.kind_tokens[kind], census.tokens),
              f"{census.kind_bytes[kind] / census.kind_tokens[kind]:.2f}")
             for kind in np.argsort(-census.kind_tokens, kind="stable").tolist() if census.kind_tokens[kind]]
    longest = [(shown(tokenizer.token_bytes[token]), f"{times:,}", str(token)) for token, times in longest_tokens(tokenizer, census.uses)]
    words = [(shown(word), f"{times:,}", str(len(ids)), "|".join(shown(tokenizer.token_bytes[token]) for token in ids))
             for word, times, ids in most_fragmented(tokenizer, census.pieces)]
    tables = [table(totals, "<>", width), table([("by script", "tokens", "share", "bytes each"), *kinds], "<>>>", width),
              table([("longest tokens", "times", "id"), *longest], "<>>", width)]
    if words:
        tables.append(table([("costly words", "times", "tokens", "in pieces"), *words], "<>><", width))
    return [line for lines in tables for line in ["", *lines]][1:]


def _share(part, whole):
    return f"{100 * part / whole:.1f} %"


# --- Tokens side by side ---

def flow(tokenizer, chunks, width, coloured):
    """A text as lines of at most `width` columns, and with each the bytes of the tokens that have ended: yields (line, bytes).

    Neighbouring tokens differ in colour, or have a | between them. A line of the text begins a line.
    """
    line, room, done = [], width, 0
    for number, ((_, texts, ends_line, size), following) in enumerate(pairwise(chain(_seen(tokenizer, chunks), [None]))):
        if following and not coloured:
            texts[-1] += "|"
        for place, text in enumerate(texts, 1):
            if room < columns(text) <= width:               # rather a new line than a token in two
                yield "".join(line), done
                line, room = [], width
            while text:
                part = head(text, room)
                text = text[len(part):]
                room -= columns(part)
                line.append(painted(part, number) if coloured else part)
                if text:
                    yield "".join(line), done
                    line, room = [], width
            is_last = place == len(texts)
            done += size * is_last
            if ends_line or not is_last:
                yield "".join(line), done
                line, room = [], width
    if line:
        yield "".join(line), done


def rows_with_ids(tokenizer, chunks, width, coloured):
    """Like flow, but in columns, with the id below each token; so one that has several lines is not broken."""
    rows, room, done = ([], []), width, 0
    for number, (token, texts, ends_line, size) in enumerate(_seen(tokenizer, chunks)):
        text = cut("".join(texts), width)
        wide = max(columns(text), len(str(token)))
        if wide > room:
            yield from _joined(rows, done)
            rows, room = ([], []), width
        rows[0].append((painted(text, number) if coloured else text) + " " * (wide + 2 - columns(text)))
        rows[1].append(f"{token:<{wide + 2}}")
        room -= wide + 2
        done += size
        if ends_line:
            yield from _joined(rows, done)
            rows, room = ([], []), width
    if rows[0]:
        yield from _joined(rows, done)


def _joined(rows, done):
    for row in rows:
        yield "".join(row).rstrip(" "), done


def _seen(tokenizer, chunks):
    """Each token of a text as (id, its lines to be shown, whether a line ends with it, its bytes in the text).

    Between documents there is the token that ends one, if the tokenizer has it: without bytes in the text, on a line
    of its own.
    """
    between_documents = False
    for text, ends_document in chunks:
        if between_documents and tokenizer.end_of_text is not None:
            yield tokenizer.end_of_text, [tokenizer.names()[tokenizer.end_of_text]], True, 0
        for token in tokenizer.encode_bytes(to_bytes(text)):
            lines = shown_lines(tokenizer.token_bytes[token])
            yield token, [line for line in lines if line], not lines[-1], len(tokenizer.token_bytes[token])
        between_documents = ends_document


def painted(text, number):
    """A text in the colours of token number so and so, the marks in it in grey."""
    return f"\x1b[48;5;{PALETTE[number % len(PALETTE)]}m{_BLACK}{_MARKS.sub(lambda marks: _GREY + marks[0] + _BLACK, text)}{_RESET}"


if __name__ == "__main__":
    front_door(main)
