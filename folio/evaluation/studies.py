"""Measure files document by document, for studies: figures per file, surprisal per word and token as CSV, two models.

The CSV files are UTF-8 with a line of column names. Numbers count from 1. Surprisals are in bits. Words, a row each:

    file, document, number          which word: the file, the document in it, the word in the document
    word                            without white space; bytes that are not UTF-8 as \\xe4
    start                           characters before it in the document
    tokens                          number of its tokens
    surprisal                       of the word and its end: see folio.evaluation.surprisal
    uncorrected                     sum over its tokens

Tokens, a row each:

    file, document, number          which token
    word_number                     the word in which its surprisal counts; empty after the last word
    token, id                       its text, with white space; bytes of a part of a character as \\xe4
    start                           bytes before it in the document
    surprisal                       of the token
    boundary                        the part of it that says that the word before ends here
"""

import csv
import io
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from folio.base.errors import FolioError
from folio.base.files import refuse_foreign, replacing
from folio.base.lines import cut, folded, table
from folio.base.spelling import counted
from folio.base.visible import harmless
from folio.data.corpus import ordinary_bytes
from folio.data.sources import Documents
from folio.evaluation.comparison import FEWEST_PARTS, STRETCH_BYTES, compare
from folio.evaluation.surprisal import measure_document
from folio.evaluation.texts import Project, documents_at
from folio.readers.mending import remarks

WORD_COLUMNS = ("file", "document", "number", "word", "start", "tokens", "surprisal", "uncorrected")
TOKEN_COLUMNS = ("file", "document", "number", "word_number", "token", "id", "start", "surprisal", "boundary")
STANDARD_OUTPUT = "-"
_LARGEST_EXPONENT = 1000            # 2.0 ** 1024 overflows


@dataclass(frozen=True)
class FileFigures:
    """The figures of one file: of all its documents together, each measured by itself."""
    file: str
    documents: int
    words: int
    tokens: int
    bytes: int
    bits_per_byte: float
    bits_per_word: float | None     # mean surprisal of the words including their ends; None without words
    perplexity_per_word: float | None
    perplexity_per_token: float


@dataclass
class _Totals:
    documents: int = 0
    words: int = 0
    tokens: int = 0
    bytes: int = 0
    bits: float = 0.0
    word_bits: float = 0.0

    def add(self, measured):
        self.documents += 1
        self.words += len(measured.words)
        self.tokens += len(measured.tokens)
        self.bytes += measured.bytes
        self.bits += measured.bits.sum().item()
        self.word_bits += measured.of_words.sum().item()

    def figures(self, file):
        bits_per_word = self.word_bits / self.words if self.words else None
        return FileFigures(file, self.documents, self.words, self.tokens, self.bytes, self.bits / self.bytes,
                           bits_per_word, None if bits_per_word is None else _perplexity(bits_per_word),
                           _perplexity(self.bits / self.tokens))


@dataclass(frozen=True)
class Study:
    """What `measure_files` found: `python -m folio.evaluate FILE --json` prints these fields."""
    weights: str
    other_weights: str | None       # of the model that it was compared with
    stride: int                     # tokens from the start of one window to the next
    files: list                     # of FileFigures
    comparison: object              # folio.evaluation.comparison.Comparison, or None
    notes: list


def measure_files(models, names, texts, *, stride, words=None, tokens=None):
    """Measure texts with a model, and compare it with another one. -> Study

    models: one or two LanguageModels; names: of their weights; texts: [NamedText]; stride: in tokens, at most a window
    of each model; words, tokens: where to write the CSV files, a path or "-" for standard output, or None.
    Raises FolioError where a text is empty or cannot be encoded; the CSV files are then as they were.
    """
    figures, pairs, notes = [], [], []
    with ExitStack() as stack:
        word_rows = _rows(stack, words, WORD_COLUMNS)
        token_rows = _rows(stack, tokens, TOKEN_COLUMNS)
        bar = stack.enter_context(tqdm(desc="Measuring", unit=" tokens", unit_scale=True, leave=False, disable=None,
                                       delay=1))
        for text in texts:
            totals = _Totals()
            for document in text.documents():
                measured = measure_document(models[0], document, stride)
                totals.add(measured)
                word_rows(words_of(text.name, totals.documents, measured))
                token_rows(tokens_of(text.name, totals.documents, measured, models[0].tokenizer))
                if len(models) == 2:
                    pairs.append((bytes_per_word(measured), bits_per_word(measured),
                                  bits_per_word(measure_document(models[1], document, stride))))
                bar.update(len(measured.tokens))
            if not totals.documents:
                raise FolioError(f"There is nothing in {text.name}: no text to measure.")
            figures.append(totals.figures(text.name))
            notes += text.notes()
    return Study(names[0], names[1] if len(models) == 2 else None, stride, figures,
                 compare(pairs) if pairs else None, notes)


# --- Texts ---

@dataclass(frozen=True)
class FileText:
    """The documents in a file, or in all files of a folder."""
    name: str
    chunks: Documents

    def documents(self):
        """Yield the documents, each a str that is not empty."""
        parts = []
        for chunk, ends_document in self.chunks:
            parts.append(chunk)
            if ends_document:
                if text := "".join(parts):
                    yield text
                parts = []
        if text := "".join(parts):
            yield text

    def notes(self):
        """Return what was mended while they were read, in sentences."""
        return remarks(self.chunks.mended)


@dataclass(frozen=True)
class HeldOutText:
    """The documents in the validation part of a project's text."""
    name: str
    project: Project

    def documents(self):
        """Yield the documents, each a str that is not empty; the first may be the end of one."""
        tokenizer, tokens = self.project.tokenizer, self.project.text.val[1:]
        separators = np.flatnonzero(tokens == tokenizer.end_of_text) if tokenizer.end_of_text is not None else []
        for part in np.split(tokens, separators):
            if content := ordinary_bytes(tokenizer, part):
                yield content.decode("utf-8", errors="surrogateescape")

    def notes(self):
        """Return no sentences: this text was mended when it was prepared."""
        return []


def texts_in(paths, reading):
    """Return a FileText for each path. Raises FileNotFoundError where there is none."""
    return [FileText(str(path), documents_at(path, reading)) for path in paths]


# --- Words and tokens ---

def words_of(name, document, measured):
    """Yield the rows of WORD_COLUMNS. measured: Surprisal of the document with this number in the file `name`"""
    rows = zip(measured.words.tolist(), measured.tokens_of_words.tolist(), measured.of_words.tolist(),
               measured.uncorrected.tolist())
    for number, ((start, end), tokens, bits, uncorrected) in enumerate(rows, 1):
        word = measured.text[start:end].encode("utf-8", errors="surrogateescape")
        yield name, document, number, _visible(word), start, tokens, f"{bits:.6f}", f"{uncorrected:.6f}"


def tokens_of(name, document, measured, tokenizer):
    """Yield the rows of TOKEN_COLUMNS, as `words_of` does."""
    words = len(measured.words)
    rows = zip(measured.tokens.tolist(), measured.word_of_token.tolist(), measured.token_starts.tolist(),
               measured.bits.tolist(), measured.boundary.tolist())
    for number, (token, word, start, bits, boundary) in enumerate(rows, 1):
        yield (name, document, number, word + 1 if word < words else "", _visible(tokenizer.token_bytes[token]), token,
               start, f"{bits:.6f}", f"{boundary:.6f}")


def _visible(content):
    return content.decode("utf-8", errors="backslashreplace")


def bytes_per_word(measured):
    """Return the bytes of each word with the white space before it, the last one with all that follows: (words,).

    A document without words counts as one.
    """
    if len(measured.words) < 2:
        return np.array([measured.bytes])
    return np.diff(measured.word_ends[:-1], prepend=0, append=measured.bytes)


def bits_per_word(measured):
    """Return the bits of the tokens of the words that `bytes_per_word` measures, without correction: (words,)."""
    last = max(0, len(measured.words) - 1)
    return np.bincount(np.minimum(measured.word_of_token, last), measured.bits, minlength=last + 1)


def _rows(stack, target, columns):
    """Return a function that writes rows as CSV to a path or to standard output; with `None` it writes nothing."""
    if target is None:
        return lambda rows: None
    if target == STANDARD_OUTPUT:
        return _writer(sys.stdout, columns)
    refuse_foreign(target, f"a table with the columns {', '.join(columns)}",
                   lambda head: head.startswith(",".join(columns).encode("utf-8")))
    stream = io.TextIOWrapper(stack.enter_context(replacing(target)), encoding="utf-8", newline="",
                              write_through=True)
    stack.callback(stream.detach)
    return _writer(stream, columns)


def _writer(stream, columns):
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    return writer.writerows


def _perplexity(bits):
    return 2.0 ** min(bits, _LARGEST_EXPONENT)


# --- What is printed ---

def lines_of_study(study, width):
    """Return the lines of a Study, at most `width` columns wide."""
    names = [Path(file.file).name for file in study.files]
    if len(set(names)) < len(names):
        names = [file.file for file in study.files]
    rows = [(harmless(name), f"{file.documents:,}", f"{file.words:,}", f"{file.tokens:,}",
             f"{file.bits_per_byte:.4f}", _figure(file.bits_per_word), _figure(file.perplexity_per_word, 1),
             _figure(file.perplexity_per_token, 1)) for name, file in zip(names, study.files)]
    blocks = [[cut(f"{study.weights}: windows slide by {counted(study.stride, 'token')}", width)],
              table([("", "docs", "words", "tokens", "bits/byte", "bits/word", "ppl/word", "ppl/token"), *rows],
                    "<>>>>>>>", width)]
    if study.comparison:
        blocks.append(folded(sentence_of(study), width))
    if study.notes:
        blocks.append([line for note in study.notes for line in folded(harmless(note), width)])
    return [line for block in blocks for line in ["", *block]][1:]


def sentence_of(study):
    """Return what a Comparison says, in sentences."""
    found = study.comparison
    first, second = f"{found.first_bits_per_byte:.4f}", f"{found.second_bits_per_byte:.4f}"
    measured = f"{study.weights} needs {first} bits per byte and {study.other_weights} {second}."
    if found.low is None:
        return (f"{measured} The text is too short to say how much of that is chance: {FEWEST_PARTS} parts of "
                f"{STRETCH_BYTES} bytes are the least, and it has {found.parts}.")
    low, high = sorted([abs(found.low), abs(found.high)])
    parts = f"{100 * found.confidence:.0f} % interval from {found.parts:,} {found.kind}"
    if found.is_more_than_chance:
        better, worse = study.weights, study.other_weights
        if found.difference > 0:
            better, worse = worse, better
        return (f"{measured} {better} is better by {abs(found.difference):.4f}, between {low:.4f} and {high:.4f} "
                f"({parts}): more than the choice of this text explains.")
    return (f"{measured} The difference of {found.difference:+.4f} lies between {found.low:+.4f} and {found.high:+.4f} "
            f"({parts}): it may be chance.")


def _figure(value, digits=4):
    if value is None:
        return "-"
    return f"{value:,.{digits}f}" if value < 1e6 else f"{value:.2e}"
