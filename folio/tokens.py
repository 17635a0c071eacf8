"""Show how the tokenizer splits a text: its tokens side by side, and statistics of them.

    python -m folio.tokens "To be, or not to be"
    python -m folio.tokens novel.txt --only report
    python -m folio.tokens --compare-sizes 512,1024,4096        # which vocabulary size suits the text
"""

import shutil
import sys
from argparse import ArgumentTypeError
from dataclasses import fields, replace
from itertools import chain, islice, pairwise

import numpy as np
import regex
from tqdm import tqdm

from folio.base.errors import FolioError
from folio.base.fields import bounds_problem
from folio.base.lines import columns, cut, head, table
from folio.base.visible import shown, shown_lines
from folio.cli.command_line import Parser, front_door, given
from folio.cli.screen import send, shows_colors
from folio.data.corpus import read_corpus
from folio.data.named import named_text
from folio.data.sources import Documents
from folio.evaluation.census import KINDS, longest_tokens, most_fragmented, take_census
from folio.evaluation.vocabulary_sizes import compare_sizes, count_parts, count_project
from folio.kernels.splitting import to_bytes
from folio.readers.mending import remarks
from Model_Params import READING, TextParams
from tokenizer import load

SHOWN_LINES = 60
SMALLEST_SIZE, LARGEST_SIZE = 257, 1 << 20      # of a vocabulary: all bytes and the separator; more than anybody needs
PALETTE = (153, 223, 157, 225)      # light backgrounds of the 256-color palette, for black letters
_BLACK, _GRAY, _RESET = "\x1b[38;5;16m", "\x1b[38;5;243m", "\x1b[0m"
_MARKS = regex.compile("[·→⏎◌]+")


def main():
    """Parse the arguments and print tokens and report."""
    arguments, reading = _parse()
    named, home = arguments.named, arguments.home
    width = max(20, shutil.get_terminal_size().columns)
    if arguments.compare_sizes and named is None and arguments.text is None:
        print("\n".join(_sizes_of_project(home, arguments.compare_sizes, width)))
        return
    chunks = [(arguments.text, True)] if named is None else named_text(named, reading)
    if not any(text for text, _ in chunks):
        raise FolioError("The text is empty: there are no tokens to show.")
    if arguments.compare_sizes:
        counts = count_parts(chunks, TextParams.pattern)
        print("\n".join(lines_of_sizes(*counts, arguments.compare_sizes, TextParams.pattern, width)))
        return
    tokenizer = load(home.tokenizer)
    census = None
    if arguments.only != "tokens":      # before anything is printed: it may refuse the text
        census = take_census(tokenizer, _with_bar(chunks))
    mended = dict(getattr(chunks, "mended", {}))            # a second pass counts from zero again
    if arguments.only != "report":
        shown_bytes = _print_tokens(tokenizer, chunks, width, arguments)
        text_bytes = census.bytes if census else sum(len(to_bytes(text)) for text, _ in chunks)
        if text_bytes > shown_bytes:
            print(f"... {text_bytes - shown_bytes:,} bytes more (--lines 0: all)")
    if census:
        if arguments.only is None:
            print()
        for remark in remarks(mended):
            print(remark)
        print("\n".join(report(tokenizer, census, width)))


def _parse():
    """-> the arguments, TextParams"""
    parser = Parser("Show how the tokenizer splits a text: its tokens, and statistics of them.", free_text=["--text"])
    parser.add_argument("named", nargs="?", metavar="TEXT-OR-FILE",
                        help="a text, or a file or folder to read; -: standard input")
    parser.add_argument("--text", metavar="TEXT", help="a text, even if it looks like a file name or a flag")
    parser.add_argument("--only", choices=["tokens", "report"], help="print only the tokens or only the report")
    parser.add_argument("--ids", action="store_true", help="print the id below each token")
    parser.add_number("--lines", SHOWN_LINES, f"lines of tokens to show; 0: all (default: {SHOWN_LINES})",
                      low=0, high=10**9)
    parser.add_argument("--compare-sizes", type=_sizes, metavar="N,N",
                        help="compare these vocabulary sizes on the last tenth of the text, learning from the rest "
                        "(without a text: on the held-out part of the project's)")
    # Every byte is shown: one that is not UTF-8, too.
    usual = TextParams(invalid_bytes="keep")
    parser.add_fields("reading a file", usual, without={each.name for each in fields(TextParams)} - {*READING})
    arguments = parser.parse()
    if arguments.named is None and arguments.text is None and not arguments.compare_sizes:
        parser.error("pass a text or a file, or - for standard input")
    if arguments.named is not None and arguments.text is not None:
        parser.error("pass a text or a file, once")
    reading = replace(usual, **given(arguments, TextParams))
    parser.check(reading)
    return arguments, reading


def _sizes(words):
    """Return the sizes in "512,1024,4096". Raises argparse.ArgumentTypeError where one is no number or too small."""
    try:
        sizes = [int(word) for word in words.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"{words} is no list of sizes such as 512,1024,4096") from None
    for size in sizes:
        if problem := bounds_problem(size, SMALLEST_SIZE, high=LARGEST_SIZE):
            raise ArgumentTypeError(problem.removesuffix("."))
    return sizes


def _with_bar(chunks):
    """Yield the chunks, with a progress bar if they are read from files."""
    if not isinstance(chunks, Documents):
        yield from chunks
        return
    with tqdm(total=chunks.file_bytes, desc="Counting tokens", unit="B", unit_scale=True, leave=False, disable=None,
              delay=1) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(chunks.bytes_read - bar.n)


def _print_tokens(tokenizer, chunks, width, arguments):
    """Print the first lines of tokens. -> number of bytes of the text in them"""
    layout = rows_with_ids if arguments.ids else flow
    shown_bytes = 0
    lines = islice(layout(tokenizer, chunks, width, shows_colors()), arguments.lines or None)
    for line, shown_bytes in lines:  # noqa: B007  (the last one is returned)
        send(line + "\n")
    return shown_bytes


# --- The report ---

def report(tokenizer, census, width):
    """Return the lines of the report on a Census, at most `width` columns wide."""
    totals = [("bytes", f"{census.bytes:,}"), ("characters", f"{census.characters:,}"),
              ("tokens", f"{census.tokens:,}"), ("bytes per token", f"{census.bytes_per_token:.2f}"),
              ("vocabulary", f"{tokenizer.vocab_size:,}"),
              ("of it used", _percent(census.used_tokens, tokenizer.vocab_size))]
    kinds = [(KINDS[kind], f"{census.kind_tokens[kind]:,}", _percent(census.kind_tokens[kind], census.tokens),
              f"{census.kind_bytes[kind] / census.kind_tokens[kind]:.2f}")
             for kind in np.argsort(-census.kind_tokens, kind="stable").tolist() if census.kind_tokens[kind]]
    longest = [(shown(tokenizer.token_bytes[token]), f"{times:,}", str(token))
               for token, times in longest_tokens(tokenizer, census.uses)]
    words = [(shown(word), f"{times:,}", str(len(ids)), "|".join(shown(tokenizer.token_bytes[token]) for token in ids))
             for word, times, ids in most_fragmented(tokenizer, census.pieces)]
    tables = [table(totals, "<>", width),
              table([("by script", "tokens", "share", "bytes each"), *kinds], "<>>>", width),
              table([("longest tokens", "times", "id"), *longest], "<>>", width)]
    if words:
        tables.append(table([("costly words", "times", "tokens", "in pieces"), *words], "<>><", width))
    return [line for lines in tables for line in ["", *lines]][1:]


def _sizes_of_project(home, sizes, width):
    """Return the lines of lines_of_sizes for the text of a project."""
    tokenizer, text = read_corpus(home, say=lambda message: print(message, file=sys.stderr))
    pattern = tokenizer.pattern or TextParams.pattern
    return lines_of_sizes(*count_project(text, tokenizer, pattern), sizes, pattern, width)


def lines_of_sizes(learned, held_out, sizes, pattern, width):
    """Return a table of vocabulary sizes. learned, held_out: {pre-token: occurrences}; see compare_sizes"""
    def text_bytes(counts):
        return sum(len(piece) * times for piece, times in counts.items())

    rows = [(f"{found.vocab_size:,}", f"{found.bytes_per_token:.3f}", f"{found.tokens:,}", f"{found.unused:,}",
             f"{found.train_bytes_per_token:.3f}") for found in compare_sizes(learned, held_out, sizes, pattern)]
    return [cut(f"learned from {text_bytes(learned):,} bytes, measured on {text_bytes(held_out):,} others", width), "",
            *table([("vocabulary", "bytes per token", "tokens", "unused", "where learned"), *rows], "<>>>>", width)]


def _percent(part, whole):
    return f"{100 * part / whole:.1f} %"


# --- Tokens side by side ---

def flow(tokenizer, chunks, width, colored):
    """Yield (line, end): the tokens in lines of at most `width` columns.

    end: the number of bytes in the tokens that end in this line or before.
    Neighboring tokens differ in color, or have a | between them. Each line of the text starts a new line.
    """
    line, room, end = [], width, 0
    tokens_and_next = pairwise(chain(_tokens(tokenizer, chunks), [None]))
    for index, ((_, parts, ends_line, size), following) in enumerate(tokens_and_next):
        if following and not colored:
            parts[-1] += "|"
        for number, text in enumerate(parts, 1):
            if room < columns(text) <= width:               # a token that fits into one line is not broken
                yield "".join(line), end
                line, room = [], width
            while text:
                part = head(text, room)
                text = text[len(part):]
                room -= columns(part)
                line.append(painted(part, index) if colored else part)
                if text:
                    yield "".join(line), end
                    line, room = [], width
            is_last = number == len(parts)
            if is_last:
                end += size
            if ends_line or not is_last:
                yield "".join(line), end
                line, room = [], width
    if line:
        yield "".join(line), end


def rows_with_ids(tokenizer, chunks, width, colored):
    """Yield (line, end) as `flow` does, but in columns, with the id below each token.

    A token that contains line ends is not broken at them.
    """
    rows, room, end = ([], []), width, 0
    for index, (token, parts, ends_line, size) in enumerate(_tokens(tokenizer, chunks)):
        text = cut("".join(parts), width)
        cell = max(columns(text), len(str(token)))
        if cell > room:
            yield from _joined(rows, end)
            rows, room = ([], []), width
        rows[0].append((painted(text, index) if colored else text) + " " * (cell + 2 - columns(text)))
        rows[1].append(f"{token:<{cell + 2}}")
        room -= cell + 2
        end += size
        if ends_line:
            yield from _joined(rows, end)
            rows, room = ([], []), width
    if rows[0]:
        yield from _joined(rows, end)


def _joined(rows, end):
    for row in rows:
        yield "".join(row).rstrip(" "), end


def _tokens(tokenizer, chunks):
    """Yield each token of a text as (id, its visible lines, whether the last of them ends, its bytes in the text).

    If the tokenizer has a token that ends a document, it stands between documents: on a line of its own, and with no
    bytes in the text.
    """
    between_documents = False
    for text, ends_document in chunks:
        if between_documents and tokenizer.end_of_text is not None:
            yield tokenizer.end_of_text, [tokenizer.names()[tokenizer.end_of_text]], True, 0
        for token in tokenizer.encode_bytes(to_bytes(text)):
            lines = shown_lines(tokenizer.token_bytes[token])
            yield token, [line for line in lines if line], not lines[-1], len(tokenizer.token_bytes[token])
        between_documents = ends_document


def painted(text, index):
    """Return a text with the background of the token at `index`, and its marks for white space in gray."""
    letters = _MARKS.sub(lambda marks: _GRAY + marks[0] + _BLACK, text)
    return f"\x1b[48;5;{PALETTE[index % len(PALETTE)]}m{_BLACK}{letters}{_RESET}"


if __name__ == "__main__":
    front_door(main)
