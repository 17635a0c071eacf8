"""Write one HTML file about a run: curves, samples, surprise, hardest passages, copying, tokens, settings.

    python -m folio.report                          # the newest run
    python -m folio.report night default            # two runs side by side
    python -m folio.report night --to night.html
"""

import math
import platform
import sys
from dataclasses import dataclass, field, fields
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.files import refuse_foreign, replacing
from folio.base.home import Home
from folio.base.visible import harmless
from folio.cli.command_line import Parser, front_door
from folio.data.corpus import ordinary_bytes
from folio.data.token_files import names_of_texts
from folio.evaluate import SAMPLES, SAMPLING
from folio.evaluation.census import KINDS, kinds_of_tokens, take_census
from folio.evaluation.texts import Project, Text, doubts, find_project, held_out_text
from folio.formats import run_list, run_log
from folio.pictures.report_page import MARK, Piece, RunReport, Script, report_page
from folio.pictures.report_sections import MAX_RUNS, flag, shown_value
from Model_Params import Params

MEASURED_TOKENS = 1 << 18           # of the held-out text: seconds for a small model, a minute or two for a large one
COUNTED_CHARACTERS = 4_000_000      # of the training text, of which the tokens are counted by script
PASSAGE_BYTES = 1500                # about a page
HARDEST, HARDEST_BYTES = 6, 96      # passages, and the bytes of each: a line or two
EXPECTED = 4                        # tokens that the model expected most, for each place of the passage
CONTEXT_TOKENS = 512                # before the passage, at most
TOKENS_AT_ONCE = 128                # read in one call, where the network takes as many
PARTS_OF_CHARACTERS = "parts of characters"
ON_HELD_OUT_TEXT = ("yardsticks", "surprise", "hardest", "copying")             # sections that need it and the weights
MEASURED = (*ON_HELD_OUT_TEXT, "scripts")                                       # sections that need the weights
ENDINGS = (".html", ".htm")


def main():
    """Parse the arguments, measure the runs, and write the report."""
    arguments = _parse()
    home = arguments.home
    runs = find_runs(home, arguments.runs)
    path = arguments.to or default_output(home, runs)
    refuse_foreign(path, "a report of Folio", lambda head: MARK.encode("utf-8") in head)
    reports = gather(home, runs, arguments.samples, arguments.device)
    helps = {each.name: each.metadata["help"].partition(" (default: ")[0]
             for part in fields(Params) for each in fields(part.type)}
    page = report_page(reports, helps=helps, made=_made()).encode("utf-8")
    with replacing(path) as file:
        file.write(page)
    names = ", ".join(harmless(run.name) for run in runs)
    print(f"{names}: a report of {len(page) / 1000:,.0f} kB, for any browser -> {path}")


def _parse():
    parser = Parser("Write a report on a run as one HTML file: curves, samples, surprise, hardest passages, copying, "
                    "tokens, settings; several runs side by side.", stray="a name of several words needs quotes")
    parser.add_argument("runs", nargs="*", metavar="RUN",
                        help='names of runs, or globs such as "night*" (default: the newest)')
    parser.add_argument("--to", type=Path, metavar="FILE",
                        help="path of the .html file (default: report-NAME.html beside the weights)")
    parser.add_number("--samples", SAMPLES, "texts that each model writes for the search for copies; 0: do not search "
                      f"(default: {SAMPLES})", low=0, high=4096)
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or mps (default: cpu)")
    arguments = parser.parse()
    if arguments.to and arguments.to.suffix.lower() not in ENDINGS:
        parser.error(f"--to {arguments.to} has to end in .html")
    return arguments


def find_runs(home, words):
    """Return the run_list.Runs that are meant, each once, in the order of the words; without words the newest.

    Raises FileNotFoundError for a word that means no run, FolioError for more runs than fit side by side.
    """
    texts = names_of_texts(home)
    if words:
        found = {run.name: run for word in words for run in run_list.list_runs(home, [word], texts)}
    else:
        found = {run.name: run for run in run_list.list_runs(home, text_names=texts)[:1]}
    if not found:
        raise FileNotFoundError(f"There is no run in {home.saved_weights} yet. Train one: {command('train.py')}")
    if len(found) > MAX_RUNS:
        raise FolioError(f"{len(found)} runs are too many for one report: name {MAX_RUNS} or fewer.")
    return list(found.values())


def default_output(home, runs):
    """Return the path of the report if none is given: beside the weights."""
    others = f"-and-{len(runs) - 1}-more" if len(runs) > 1 else ""
    return home.saved_weights / f"report-{runs[0].name}{others}.html"


def _made():
    """Return the sentence on when and where the report was made."""
    return (f"Measured on {datetime.now().astimezone():%Y-%m-%d %H:%M} with Python {platform.python_version()} on "
            f"{platform.system()} {platform.machine()}. This file asks no network for anything.")


# --- What there is to say about the runs ---

def gather(home, runs, samples, device="cpu"):
    """Return a RunReport for each run. What cannot be measured is left out, with the reason in its place.

    samples: number of texts for the search for copies
    """
    project, missing = None, None
    if any("weights" in run.files for run in runs):
        project, missing = find_project(home, say=lambda message: print(message, file=sys.stderr))
    shared = Shared(home, project, missing, samples)
    reports = []
    for run in runs:
        log = _log_of(run)
        report = RunReport(run, log, notes=list(changes_of_settings(log)))
        _say_what_is_missing(report)
        try:
            model = _load(run, device)
        except (FolioError, OSError) as error:
            report.missing |= dict.fromkeys(MEASURED, str(error))
        else:
            _measure(report, model, shared)
        reports.append(report)
    return reports


@dataclass
class Shared:
    """What the reports on several runs have in common."""
    home: Home
    project: Project | None
    missing: str | None                             # why there is no project
    samples: int
    start: int | None = None                        # of the passage, in bytes of the held-out text, once it is chosen
    baselines: dict = field(default_factory=dict)   # {held-out text, as bytes: Baselines}


def _log_of(run):
    try:
        return run_log.read(Path(run.files["log"]["path"])) if "log" in run.files else []
    except OSError as error:
        run.problems.append(f"The log cannot be read: {error.strerror}.")
        return []


def _say_what_is_missing(report):
    if not report.log:
        report.missing["curves"] = "There is no log of this run here, so nobody can tell how it learned."
        report.missing["samples"] = "There is no log of this run here, so there are no samples of its training."
    elif not any(isinstance(line.get("sample"), str) for line in report.log):
        report.missing["samples"] = "There are no samples in the log of this run: it was not evaluated, or wrote none."
    if not report.run.settings:
        report.missing["settings"] = "No file of this run says what it was trained with."


def changes_of_settings(log):
    """Yield a sentence for each report of a log in which settings are others than before.
    >>> list(changes_of_settings([{"step": 5, "settings": {"steps": 50}}, {"step": 60, "settings": {"steps": 90}}]))
    ['Settings that changed by step 60: steps from 50 to 90.']
    """
    logged = [(line["step"], line["settings"]) for line in log if isinstance(line.get("settings"), dict)]
    for (_, before), (step, after) in pairwise(logged):
        changes = [f"{flag(name)} from {shown_value(before.get(name))} to {shown_value(after.get(name))}"
                   for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
        if changes:
            yield f"Settings that changed by step {step:,}: {', '.join(changes)}."


def _load(run, device):
    if "weights" not in run.files:
        raise FolioError("There are no weights of this run here, so nothing can be measured.")
    # This imports torch; --help does not wait for it.
    from folio.generation.language_model import load
    return load(run.files["weights"]["path"], device)


def _measure(report, model, shared):
    """Add to a report all that the model and the text of its project say."""
    from folio.evaluation.copying import measure_copying, sample_texts
    project = shared.project
    report.scripts = _scripts(report, model.tokenizer, project)
    written = sample_texts(model, shared.samples, SAMPLING)
    report.written = [text.decode("utf-8") for text in written if text]
    if project is None:
        gone = f"There is no held-out text here to measure on: {shared.missing}."
        report.missing |= dict.fromkeys(ON_HELD_OUT_TEXT, gone)
        report.missing["text scripts"] = f"There is no text here whose tokens could be counted: {shared.missing}."
        return
    try:
        text, content = _beginning_of(held_out_text(model, project), model.tokenizer, report)
        _measure_text(report, model, text, shared)
    except FolioError as error:
        report.missing |= dict.fromkeys(ON_HELD_OUT_TEXT, str(error))
        return
    report.notes += doubts(model, project, shared.home)
    _add_baselines(report, content, shared)
    report.copying = measure_copying(written, content, project.text)
    if report.copying is None:
        report.missing["copying"] = ("Copies were not looked for (--samples 0)." if not shared.samples else
                                     "The model wrote nothing, so there is nothing to look for.")


def _add_baselines(report, content, shared):
    """Add what simple methods reach on `content`, on which the model was measured, and the quality in plain words."""
    from folio.evaluation.baselines import measure_baselines
    from folio.evaluation.plain_words import in_plain_words
    if content not in shared.baselines:
        text = shared.project.text
        shared.baselines[content] = measure_baselines(text.training_text(), text.train_bytes, content)
    report.baselines = shared.baselines[content]
    report.quality = in_plain_words(report.measured["bits_per_byte"] * math.log(2), report.baselines)


# --- The held-out text ---

def _beginning_of(text, tokenizer, report):
    """Return as much of a Text as is measured, and its bytes; `report` gets a note where that is not all of it."""
    tokens = text.tokens[:MEASURED_TOKENS + 1]
    if len(tokens) < len(text.tokens):
        report.notes.append(f"Measured on the first {MEASURED_TOKENS:,} of {len(text.tokens) - 1:,} tokens of the "
                            "held-out text.")
    content = ordinary_bytes(tokenizer, tokens[1:])
    return Text(text.name, tokens, len(content)), content


def _measure_text(report, model, text, shared):
    """Measure a Text, and choose its passages."""
    from folio.evaluation.passages import hardest_passages, measure
    costs = measure(model, text)
    ends = np.cumsum(costs.sizes)
    if not ends[-1]:
        raise FolioError("There is no text in the part that is held out.")
    nats = costs.nats.sum(dtype=np.float64).item()
    report.measured = {"bits_per_byte": nats / math.log(2) / ends[-1].item(),
                       "accuracy": costs.correct.mean().item()}
    report.hardest = hardest_passages(costs, model.tokenizer, HARDEST, HARDEST_BYTES)
    if shared.start is None:
        shared.start = typical_start(costs, model.tokenizer, PASSAGE_BYTES)
    first, last = np.searchsorted(ends, [shared.start, shared.start + PASSAGE_BYTES - 1], side="right")
    report.passage = _passage(model, text.tokens, int(first) + 1, min(int(last) + 2, len(text.tokens)))


def typical_start(costs, tokenizer, length):
    """Return where a passage of `length` bytes begins that costs about as much per byte as the whole text, in bytes.

    costs: TokenCosts. It begins with a line, if a line is long enough before the end; equal ones: the first.
    """
    ends = np.cumsum(costs.sizes)
    starts = ends - costs.sizes
    summed = np.concatenate([[0.0], np.cumsum(costs.nats, dtype=np.float64)])
    ends_line = np.array([token.endswith(b"\n") for token in tokenizer.token_bytes])[costs.tokens]
    fits = starts + length <= ends[-1]
    after_line = fits & np.concatenate([[True], ends_line[:-1]])
    places = np.flatnonzero(after_line if after_line.any() else fits)
    if not len(places):
        return 0
    last = np.minimum(np.searchsorted(ends, starts[places] + length), len(ends) - 1)
    nats_per_byte = (summed[last + 1] - summed[places]) / (ends[last] - starts[places])
    return starts[places[np.argmin(abs(nats_per_byte - summed[-1] / ends[-1]))]].item()


def _passage(model, tokens, first, end):
    """Return the Pieces of tokens[first:end], with what the model expected; it sees the tokens before them, too."""
    from folio.generation.scoring import scored
    from tokenizer import StreamingDecoder
    before = max(0, first - CONTEXT_TOKENS)
    scores = _finished(scored(model.net, tokens[before:end].tolist(), EXPECTED, TOKENS_AT_ONCE))[first - before:]
    decoder, pieces, bits = StreamingDecoder(model.tokenizer), [], 0.0
    names = model.tokenizer.token_bytes
    for token, (logprob, expected) in zip(tokens[first:end].tolist(), scores):
        bits -= (logprob or 0.0) / np.log(2).item()
        if text := decoder.add(token):
            likeliest = [(names[other].decode("utf-8", errors="replace"), np.exp(value).item())
                         for other, value in expected]
            pieces.append(Piece(text, bits, likeliest))
            bits = 0.0
    return pieces


def _finished(steps):
    """Run a generator to its end. -> what it returns"""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return ended.value


# --- Tokens by script ---

def _scripts(report, tokenizer, project):
    """Return the Scripts of a vocabulary and of the training text, the largest first."""
    vocabulary = vocabulary_kinds(tokenizer)
    tokens = sizes = np.zeros(len(KINDS), np.int64)
    if project is not None:
        try:
            census = take_census(tokenizer, _beginning(project.text.training_text(), COUNTED_CHARACTERS))
            tokens, sizes = census.kind_tokens, census.kind_bytes
        except FolioError as error:
            report.missing["text scripts"] = str(error)
    found = [Script(name, vocabulary.get(name, 0), int(count), int(size))
             for name, count, size in zip(KINDS, tokens, sizes)]
    found.append(Script(PARTS_OF_CHARACTERS, vocabulary.get(PARTS_OF_CHARACTERS, 0), 0, 0))
    return sorted((script for script in found if script.vocabulary or script.tokens),
                  key=lambda script: (-script.tokens, -script.vocabulary))


def vocabulary_kinds(tokenizer):
    """Return {kind: tokens of the vocabulary}; kinds are those of the census, and PARTS_OF_CHARACTERS."""
    whole, counts = [], {}
    for token in tokenizer.token_bytes:
        try:
            if text := token.decode("utf-8"):
                whole.append(text)
        except UnicodeDecodeError:
            counts[PARTS_OF_CHARACTERS] = counts.get(PARTS_OF_CHARACTERS, 0) + 1
    lengths = np.array([len(text.encode("utf-8")) for text in whole])
    kinds = np.bincount(kinds_of_tokens("".join(whole), lengths), minlength=len(KINDS))
    return counts | {name: int(count) for name, count in zip(KINDS, kinds)}


def _beginning(chunks, most):
    """Yield (text, True) of chunks of bytes, up to `most` characters together."""
    for content in chunks:
        text = content.decode("utf-8", errors="surrogateescape")[:most]
        yield text, True
        most -= len(text)
        if most <= 0:
            return


if __name__ == "__main__":
    front_door(main)
