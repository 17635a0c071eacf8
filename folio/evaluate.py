"""How good a trained model is: how well it predicts a text, what it finds hardest, and how much of what it writes is copied.

    python -m folio.evaluate                            # the newest weights, on the part of the text that training did not see
    python -m folio.evaluate --weights night --text other.txt
"""

import json
import math
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from folio.cli.command_line import Parser, front_door, given
from folio.data.corpus import ordinary_bytes, read_corpus
from folio.base.errors import FolioError
from folio.data.paths import find_files, nearest_path
from folio.data.mending import remarks
from folio.data.sources import Documents, separated_by_line_ends
from folio.kernels.splitting import to_bytes
from folio.evaluation.suffixes import longest_matches
from folio.base.lines import cut, folded, styled, table
from folio.base.visible import harmless, on_one_line
from folio.cli.screen import send, shows_colours, warmth
from Model_Params import SHORT_NAMES, GenerationParams, TextParams
from tokenizer import StreamingDecoder

WRITING = GenerationParams(tokens=300, temperature=1.0, sampling_seed=1)         # temperature 1: what the model itself believes, not a safer choice
SAMPLES = 8
HARDEST = 5                         # passages that are shown
PASSAGE_BYTES = 48                  # of each: a clause; with its figure a line of 80 columns
SEARCHED_BYTES = 64_000_000         # of the training text at most: a minute or two
_QUIET = {"leave": False, "disable": None, "delay": 1}


def main():
    """Read what is wanted, measure, and show the report."""
    parser = Parser("Tell how good a trained model is: how well it predicts a text, what it finds hardest, how much of what it writes is copied.")
    parser.add_argument("--weights", metavar="FILE", help="a file in Saved_Weights, or a run's name (default: the newest)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="measure on this file or folder (default: the part of the project's text that is held out)")
    parser.add_number("--stride", None, "begin a window every N tokens, so that nearly all are predicted from at least the context less N: better "
                      "figures, and more work (default: windows do not overlap, as in training)", low=1, high=1 << 24)
    parser.add_number("--samples", SAMPLES, "texts that the model writes to see how much is copied; 0: leave that out "
                      f"(default: {SAMPLES})", low=0, high=4096)
    parser.add_argument("--device", default="cpu", metavar="NAME", help="where to compute: cpu, cuda, mps (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    parser.add_fields("generation", WRITING, without=["beams", "length_penalty"], short_names=SHORT_NAMES)        # which would all write the same text
    parser.add_fields("reading --text", TextParams, without=["tokenizer", "vocab_size", "pattern", "val_fraction"])
    arguments = parser.parse()
    writing = replace(WRITING, **given(arguments, GenerationParams))
    reading = replace(TextParams(), **given(arguments, TextParams))
    parser.check(writing)
    parser.check(reading)

    from folio.generation.language_model import find_weights, load, newest_weights     # torch comes with it, which --help need not wait for
    path = find_weights(arguments.home, arguments.weights) if arguments.weights else newest_weights(arguments.home)
    model = load(path, arguments.device)
    from folio.evaluation.bits_per_byte import window_len
    if arguments.stride and arguments.stride > window_len(model.net):
        raise FolioError(f"--stride {arguments.stride} would leave out tokens: windows have {window_len(model.net)}, so take at most that.")
    notes = []
    project, missing = find_project(arguments.home) if arguments.samples or not arguments.text else (None, None)
    if arguments.text:
        text, mended = read_text(model, arguments.text, reading)
        notes += remarks(mended)
    elif project:
        text = held_out_text(model, project)
    else:
        raise FolioError(f"There is no held-out text to measure on ({missing}). Pass a text: --text FILE")
    measured = measure(model, text, arguments.stride)
    copying = None
    if project:
        notes += doubts(model, project, arguments.home)
    if arguments.samples and project:
        copying = look_for_copies(write(model, arguments.samples, writing), ordinary_bytes(model.tokenizer, text.tokens[1:]), project)
    elif arguments.samples:
        notes.append(f"How much is copied cannot be said without the training text ({missing}).")
    report = make_report(path.name, model, text, measured, arguments.stride, copying, notes)
    if arguments.json:
        print(json.dumps(asdict(report), indent=1))
    else:
        send("\n".join(lines_of(report, max(40, shutil.get_terminal_size().columns), shows_colours())) + "\n")


# --- The texts ---

@dataclass(frozen=True)
class Text:
    """A text in a model's tokens: of `tokens`, (total,) integers, the first only serves to predict the second; `bytes` of text are in the others."""
    name: str
    tokens: np.ndarray
    bytes: int


@dataclass(frozen=True)
class Project:
    """What a home has: its tokenizer, and its text as folio.data.corpus.read_corpus has it."""
    tokenizer: object
    text: object


def find_project(home):
    """-> Project and None, or None and the reason why there is none: weights may well be alone."""
    try:
        return Project(*read_corpus(home, say=lambda told: print(told, file=sys.stderr))), None
    except (OSError, FolioError) as error:
        return None, str(error).removesuffix(".")


def held_out_text(model, project):
    """The validation part of a project's text, token by token as training measures it; where the model has another tokenizer, in its tokens."""
    if model.tokenizer.fingerprint == project.tokenizer.fingerprint:
        return Text("the held-out text", project.text.val, project.text.val_bytes)
    content = ordinary_bytes(project.tokenizer, project.text.val[1:])
    return Text("the held-out text", np.append(model.opening[-1:], model.tokenizer.encode_to_array(content)), len(content))


def read_text(model, path, reading=TextParams()):
    """The text of a file, or of all files in a folder, and what was mended. Between documents stands what the model knows to stand there.

    Raises FileNotFoundError or FolioError where there is no text, or none that the model's tokenizer can say.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}{nearest_path(path) or '.'}")
    documents = Documents(find_files([path]), reading.invalid_bytes, reading.field)
    # A model that has seen no separator has only seen lines end.
    separator = [token for token in model.opening if token == model.tokenizer.end_of_text]
    parts, text_bytes, between = [model.opening[-1:]], 0, False
    with tqdm(total=documents.file_bytes, desc="Reading", unit="B", unit_scale=True, **_QUIET) as bar:
        for chunk, ends_document in documents if separator else separated_by_line_ends(documents):
            content = to_bytes(chunk)
            parts += [separator if between else [], model.tokenizer.encode_to_array(content)]
            text_bytes += len(content)
            between = ends_document
            bar.update(documents.bytes_read - bar.n)
    if not text_bytes:
        raise FolioError(f"There is nothing in {path}: no text to measure.")
    return Text(str(path), np.concatenate([np.asarray(part, model.tokenizer.dtype) for part in parts]), text_bytes), documents.mended


def doubts(model, project, home):
    """Yield a sentence where it is not sure that the model learned from the text that the project has now."""
    if model.learned_from is None:
        yield "These weights do not say which text they learned from; it is taken to be the one that is here."
    elif model.learned_from != project.text.training_part:
        yield (f"These weights learned from another text than the one that {home.train_data} has for training: they may know what is held out here, "
               "and what they copy may not be found.")


# --- How well it predicts ---

@dataclass(frozen=True)
class Measured:
    """What each predicted token cost, in the order of the text; (tokens,) each."""
    tokens: np.ndarray
    nats: np.ndarray
    right: np.ndarray           # whether it was the likeliest
    sizes: np.ndarray           # bytes of text that it stands for


def measure(model, text, stride=None):
    """Predict a Text. -> Measured. Raises FolioError where the model's output is not finite."""
    from folio.evaluation.bits_per_byte import bytes_of_tokens, predictions, window_len, windows_at_once
    block_size = window_len(model.net)
    parts = predictions(model.net, text.tokens, block_size=block_size, batch_size=windows_at_once(model.net),
                        device=next(model.net.parameters()).device, stride=stride)
    nats, right = [], []
    with tqdm(total=len(text.tokens) - 1, desc="Measuring", unit=" tokens", unit_scale=True, **_QUIET) as bar:
        for some_nats, some_right in parts:
            nats.append(some_nats)
            right.append(some_right)
            bar.update(len(some_nats))
    nats = np.concatenate(nats)
    if not np.isfinite(nats).all():
        raise FolioError("The model's output is not finite: its weights are unusable. Train it again with a lower learning rate.")
    return Measured(text.tokens[1:], nats, np.concatenate(right), bytes_of_tokens(model.tokenizer)[text.tokens[1:]])


@dataclass(frozen=True)
class Passage:
    """A part of a text: where it begins, in bytes, what a byte of it cost, and what each of its tokens."""
    start: int
    text: str
    nats_per_byte: float
    tokens: list                # [(text, nats)]; a character that is spread over several tokens stands with the last of them


def hardest(measured, tokenizer, most=HARDEST, length=PASSAGE_BYTES):
    """The passages of `length` bytes, to the end of a token, that cost most, none overlapping another; the costliest first."""
    ends = np.cumsum(measured.sizes)
    starts = ends - measured.sizes
    last = np.searchsorted(ends, np.minimum(starts + length, ends[-1]))         # each passage's last token
    whole = (ends[last] - starts >= length) | (starts == 0)                     # a text may be shorter than a passage
    summed = np.concatenate([[0.0], np.cumsum(measured.nats, dtype=np.float64)])
    nats_per_byte = np.where(whole, (summed[last + 1] - summed[:-1]) / np.maximum(ends[last] - starts, 1), -np.inf)
    found = []
    for first in np.argsort(-nats_per_byte, kind="stable").tolist():
        if len(found) == most or not whole[first]:
            break
        if all(last[first] < other or first > last[other] for other in found):
            found.append(first)
    return [_passage(measured, tokenizer, slice(first, last[first] + 1), starts[first].item(), nats_per_byte[first].item()) for first in found]


def _passage(measured, tokenizer, which, start, nats_per_byte):
    decoder, tokens = StreamingDecoder(tokenizer), measured.tokens[which].tolist()
    texts = [decoder.add(token) for token in tokens]
    return Passage(start, _readable(tokenizer.decode_bytes(tokens)), nats_per_byte, list(zip(texts, measured.nats[which].tolist())))


def _readable(content):
    """Bytes as text, less what is cut of characters at either end."""
    return content.decode("utf-8", errors="replace").strip("\ufffd")


# --- How much it copies ---

@dataclass(frozen=True)
class Copied:
    """How far some text, from each of its bytes on, is found in the training text: on the average, at most, and that longest stretch."""
    bytes: int
    mean: float
    longest: int
    stretch: str


@dataclass(frozen=True)
class Copying:
    """What a model writes beside text of the same kind that it has not seen: that too has phrases which the training text has."""
    written: Copied
    held_out: Copied
    searched_bytes: int         # of the training text
    train_bytes: int


def write(model, samples, writing=WRITING):
    """So many texts from the model, from nothing, as a list of bytes. writing: GenerationParams"""
    texts = [""] * samples
    with tqdm(desc="Writing", unit=" characters", **_QUIET) as bar:
        for which, text in model.stream_each([""] * samples, **asdict(writing)):
            texts[which] += text
            bar.update(len(text))
    return [text.encode("utf-8") for text in texts]


def look_for_copies(written, held_out, project):
    """written: a list of bytes; held_out: bytes, of which as much is looked for. -> Copying, or None where nothing is written"""
    passages = [text for text in written if text]
    yardsticks = spread(held_out, list(map(len, passages)))
    if not passages:
        return None
    train_bytes, searched = project.text.train_bytes, 0

    def training_text():
        """Yield up to SEARCHED_BYTES of it."""
        nonlocal searched
        total = min(train_bytes, SEARCHED_BYTES)
        with tqdm(total=total, desc="Looking for copies", unit="B", unit_scale=True, **_QUIET) as bar:
            for content in project.text.training_text():
                content = content[:SEARCHED_BYTES - searched]
                yield content
                searched += len(content)
                bar.update(len(content))
                if searched == SEARCHED_BYTES:
                    break

    found = longest_matches(training_text(), passages + yardsticks)
    return Copying(_copied(passages, found), _copied(yardsticks, found[len(passages):]), searched, train_bytes)


def spread(content, lengths):
    """As many stretches of some bytes, of these lengths, from the first bytes to the last and with equal gaps; all of it where it has not as many.
    >>> spread(b"abcdefghijk", [2, 3, 1])
    [b'ab', b'efg', b'k']
    """
    spare = len(content) - sum(lengths)
    if spare < 0:
        return [content]
    gaps = max(1, len(lengths) - 1)
    starts = [sum(lengths[:number]) + spare * number // gaps for number in range(len(lengths))]
    return [content[start:start + length] for start, length in zip(starts, lengths)]


def _copied(passages, found):
    lengths = [(length, passage[start:start + length]) for passage, matches in zip(passages, found) for start, length in enumerate(matches.tolist())]
    longest, stretch = max(lengths, key=lambda each: each[0])
    return Copied(len(lengths), sum(length for length, _ in lengths) / len(lengths), longest, _readable(stretch))


# --- The report ---

@dataclass(frozen=True)
class Report:
    """All that is told of a model, as plain values."""
    weights: str
    parameters: int
    step: int
    text: str
    bytes: int
    tokens: int
    stride: int                     # tokens from one window to the next
    bits_per_byte: float
    nats_per_byte: float
    nats_per_token: float
    perplexity_per_byte: float
    perplexity_per_token: float
    accuracy: float                 # share of tokens that were the likeliest
    hardest: list
    copying: Copying | None
    notes: list


def make_report(name, model, text, measured, stride, copying, notes):
    """Put together what was found out. -> Report"""
    from folio.evaluation.bits_per_byte import Score, window_len
    from folio.networks.build import count_parameters
    score = Score(measured.nats.sum(dtype=np.float64).item(), len(measured.nats), text.bytes)
    per_token = score.nats / score.tokens
    return Report(name, count_parameters(model.net), model.step, text.name, text.bytes, score.tokens, stride or window_len(model.net),
                  score.bits_per_byte, score.nats_per_byte, per_token, _perplexity(score.nats_per_byte), _perplexity(per_token),
                  measured.right.mean().item(), hardest(measured, model.tokenizer), copying, notes)


def _perplexity(nats):
    return math.exp(min(nats, 700))         # beyond that no float is large enough


def lines_of(report, width, coloured=False):
    """The lines of a report of so many columns; coloured: the tokens of the hardest passages stand on warmer ground the more they cost."""
    tables = [[cut(f"{report.weights}: {report.parameters:,} parameters, step {report.step:,}", width),
               cut(f"measured on {harmless(report.text)}: {report.bytes:,} bytes, {report.tokens:,} tokens", width)]]
    tables.append(table([("", "per byte", "per token"),
                         ("bits", f"{report.bits_per_byte:.4f}", f"{report.nats_per_token / math.log(2):.4f}"),
                         ("nats", f"{report.nats_per_byte:.4f}", f"{report.nats_per_token:.4f}"),
                         ("perplexity", _figure(report.perplexity_per_byte), _figure(report.perplexity_per_token)),
                         ("likeliest token is right", "", f"{100 * report.accuracy:.1f} %")], "<>>", width))
    head, *passages = table([("hardest passages", "nats per byte"), *((on_one_line(each.text), f"{each.nats_per_byte:.2f}") for each in report.hardest)],
                            "<>", width)
    tables.append([head, *(warmed(line, each.tokens) if coloured else line for line, each in zip(passages, report.hardest))])
    if copying := report.copying:
        tables.append([*table([("bytes found in the training text", "on average", "at most", "of"),
                               *((name, f"{copied.mean:.2f}", f"{copied.longest:,}", f"{copied.bytes:,}")
                                 for name, copied in (("from each byte that the model writes", copying.written),
                                                      ("from each byte of the text above", copying.held_out)))], "<>>>", width),
                       cut("the longest: " + on_one_line(copying.written.stretch), width)])
    notes = list(report.notes)
    if copying and copying.searched_bytes < copying.train_bytes:
        notes.append(f"Copies were looked for in the first {copying.searched_bytes:,} of {copying.train_bytes:,} bytes of the training text.")
    if notes:
        tables.append([line for note in notes for line in folded(harmless(note), width)])
    return [line for lines in tables for line in ["", *lines]][1:]


def warmed(line, tokens):
    """A line that begins with a passage, those of its tokens in colour that cost much. tokens: [(text, nats)]"""
    done = ""
    for text, nats in tokens:
        text = on_one_line(text.strip("\ufffd"))
        if not line.startswith(text):               # from here on the line is cut
            break
        done += styled(text, warmth(nats))
        line = line[len(text):]
    return done + line


def _figure(number):
    return f"{number:,.2f}" if number < 1e6 else f"{number:.2e}"


if __name__ == "__main__":
    front_door(main)
