"""Measure a trained model: how well it predicts a text, which passages are hardest, and how much it copies.

    python -m folio.evaluate                            # the newest weights, on the validation part of the text
    python -m folio.evaluate --weights night --text other.txt
    python -m folio.evaluate items.txt --csv words.csv  # for studies: surprisal per word
    python -m folio.evaluate --weights night --compare day
    python -m folio.evaluate --pairs questions.jsonl    # which answers are right
"""

import json
import math
import shutil
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

from folio.base.errors import FolioError
from folio.base.lines import cut, folded, styled, table
from folio.base.visible import harmless, on_one_line
from folio.cli.command_line import Parser, front_door, given
from folio.cli.screen import send, shows_colors, warmth
from folio.data.corpus import ordinary_bytes
from folio.evaluation.texts import doubts, find_project, held_out_text, read_text
from folio.formats.find_weights import find_weights
from folio.readers.mending import remarks
from Model_Params import READING, SHORT_NAMES, GenerationParams, TextParams

# Temperature 1: the distribution of the model itself, not a safer choice from it.
SAMPLING = GenerationParams(tokens=300, temperature=1.0, sampling_seed=1)
SAMPLES = 8


def main():
    """Parse the arguments, measure, and print the report."""
    arguments, sampling, reading = _parse()
    if arguments.pairs:
        _print_answers(arguments, reading)
        return
    if arguments.files or arguments.csv or arguments.csv_tokens or arguments.compare:
        _print_study(study(arguments, reading), arguments)
        return
    report = evaluate(arguments, sampling, reading)
    if arguments.json:
        print(json.dumps(asdict(report), indent=1))
    else:
        width = max(40, shutil.get_terminal_size().columns)
        send("\n".join(lines_of(report, width, shows_colors())) + "\n")


def _parse():
    """-> the arguments, GenerationParams, TextParams"""
    parser = Parser("Measure a trained model: how well it predicts a text, which passages are hardest, "
                    "and how much of what it writes is copied.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE",
                        help="for studies: files or folders to measure document by document, with a line of figures "
                        "for each")
    parser.add_argument("--csv", metavar="FILE",
                        help="write the surprisal of every word there, in bits; -: standard output (without a FILE to "
                        "measure: of the validation part of the project's text)")
    parser.add_argument("--csv-tokens", metavar="FILE", help="write the surprisal of every token there")
    parser.add_argument("--compare", metavar="WEIGHTS", action="append", default=[],
                        help="measure these weights too, and say whether the difference is more than chance; with "
                        "--pairs it can be given several times")
    parser.add_argument("--pairs", nargs="+", type=Path, metavar="FILE",
                        help="let the model answer the questions in these files, and say how many answers are right: "
                        "questions and answers in any of the formats of conversations (docs/answers.md); greedy unless "
                        "you give a temperature; --csv writes every answer")
    parser.add_argument("--learned", nargs="+", type=Path, metavar="FILE",
                        help="pairs that were learned from, for the constant and the nearest answer beside the model's "
                        "(default: the project's conversations, else the other pairs of the file)")
    parser.add_argument("--weights", metavar="FILE",
                        help="a run's name, a file in Saved_Weights, a path, or a glob that means one of these "
                        "(default: the newest)")
    parser.add_argument("--text", type=Path, metavar="FILE",
                        help="measure on this file or folder (default: the validation part of the project's text)")
    parser.add_number("--stride", None, "tokens from the start of one window to the next; a smaller stride gives each "
                      "token more context and takes longer (default: windows do not overlap, as in training; for "
                      "studies half a window)",
                      low=1, high=1 << 24)
    parser.add_number("--samples", SAMPLES, "texts to generate for the search for copies; 0: do not search "
                      f"(default: {SAMPLES})", low=0, high=4096)
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or mps (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    # Beam search would generate the same text every time.
    parser.add_fields("generation", SAMPLING, without=["beams", "length_penalty"], short_names=SHORT_NAMES)
    parser.add_fields("reading FILE or --text", TextParams,
                      without={each.name for each in fields(TextParams)} - {*READING})
    arguments = parser.parse()
    sampling = replace(SAMPLING, **given(arguments, GenerationParams))
    reading = replace(TextParams(), **given(arguments, TextParams))
    parser.check(sampling)
    parser.check(reading)
    if arguments.csv == arguments.csv_tokens == "-":
        parser.error("--csv and --csv-tokens cannot both go to standard output")
    if arguments.csv and arguments.csv_tokens and Path(arguments.csv).resolve() == Path(arguments.csv_tokens).resolve():
        parser.error(f"--csv and --csv-tokens cannot both go to {arguments.csv}")
    if arguments.pairs and (arguments.files or arguments.text or arguments.csv_tokens):
        parser.error("--pairs measures answers, and takes no FILE, --text or --csv-tokens beside it")
    if arguments.learned and not arguments.pairs:
        parser.error("--learned goes with --pairs")
    if not arguments.pairs and len(arguments.compare) > 1:
        parser.error("--compare is given once, but for --pairs")
    if arguments.text and (arguments.files or arguments.csv or arguments.csv_tokens or arguments.compare):
        parser.error(f"--text is for the report on one model; name the file itself: {arguments.text} without --text")
    return arguments, sampling, reading


def evaluate(arguments, sampling, reading):
    """Measure the model that the arguments name. -> folio.evaluation.report.Report"""
    # These import torch; --help does not wait for it.
    from folio.evaluation.baselines import measure_baselines
    from folio.evaluation.bits_per_byte import window_len
    from folio.evaluation.copying import measure_copying, sample_texts
    from folio.evaluation.passages import measure
    from folio.evaluation.report import make_report
    from folio.generation.language_model import load
    from folio.networks.build import count_parameters
    home = arguments.home
    path = find_weights(home, arguments.weights)
    model = load(path, arguments.device)
    stride = arguments.stride or window_len(model.net)
    _check_stride(stride, model.net)
    project, missing, notes = None, None, []
    if arguments.samples or not arguments.text:
        project, missing = find_project(home, say=lambda message: print(message, file=sys.stderr))
    if arguments.text:
        text, mended = read_text(model, arguments.text, reading)
        notes += remarks(mended)
    elif project:
        text = held_out_text(model, project)
    else:
        raise FolioError(f"There is no held-out text to measure on ({missing}). Pass a text: --text FILE")
    costs = measure(model, text, stride)
    baselines = copying = None
    if project:
        notes += doubts(model, project, home)
        content = ordinary_bytes(model.tokenizer, text.tokens[1:])
        baselines = measure_baselines(project.text.training_text(), project.text.train_bytes, content)
    if arguments.samples and project:
        written = sample_texts(model, arguments.samples, sampling)
        copying = measure_copying(written, content, project.text)
    elif arguments.samples:
        notes.append("Without the training text there are no yardsticks, and copies cannot be searched for "
                     f"({missing}).")
    return make_report(path.name, model, text, costs, parameters=count_parameters(model.net), stride=stride,
                       baselines=baselines, copying=copying, notes=notes)


def _weights(arguments):
    """Return the paths of --weights and of each --compare. Raises FolioError where two are the same."""
    paths = [find_weights(arguments.home, arguments.weights)]
    for name in arguments.compare:
        path = find_weights(arguments.home, name)
        if path in paths:
            raise FolioError(f"--compare {name} names the weights that are measured already; "
                             "name others, or choose the first with --weights.")
        paths.append(path)
    return paths


def _check_stride(stride, net):
    from folio.evaluation.bits_per_byte import window_len
    if stride > window_len(net):
        raise FolioError(f"--stride {stride} would skip tokens: a window has {window_len(net)}, "
                         "so pass at most that.")


# --- For studies ---

def study(arguments, reading):
    """Measure the files, or the held-out text, with one or two models. -> folio.evaluation.studies.Study"""
    from folio.evaluation.bits_per_byte import window_len
    from folio.evaluation.studies import HeldOutText, measure_files, texts_in
    from folio.generation.language_model import load
    paths = _weights(arguments)
    if arguments.files:
        texts = texts_in(arguments.files, reading)
    else:
        project, missing = find_project(arguments.home, say=lambda message: print(message, file=sys.stderr))
        if project is None:
            raise FolioError(f"There is no held-out text to measure on ({missing}). Pass a file.")
        texts = [HeldOutText("held-out text", project)]
    models = [load(path, arguments.device) for path in paths]
    stride = arguments.stride or max(1, min(window_len(model.net) for model in models) // 2)
    for model in models:
        _check_stride(stride, model.net)
    found = measure_files(models, [path.name for path in paths], texts, stride=stride, words=arguments.csv,
                          tokens=arguments.csv_tokens)
    if not arguments.files:
        for model in models:
            found.notes.extend(doubts(model, project, arguments.home))
    return found


def _print_study(found, arguments):
    """Print a Study, on stderr where stdout has the table."""
    from folio.evaluation.studies import lines_of_study
    stream = sys.stderr if "-" in (arguments.csv, arguments.csv_tokens) else sys.stdout
    if arguments.json:
        text = json.dumps(asdict(found), indent=1)
    else:
        text = "\n".join(lines_of_study(found, max(40, shutil.get_terminal_size().columns)))
    print(text, file=stream)


# --- Answers ---

def answers(arguments, reading, say):
    """Let the models answer all pairs. -> folio.evaluation.answer_report: (AnswerReport, Answered)"""
    from folio.evaluation.answer_report import measure_answers, refuse_csv
    from folio.evaluation.pairs import answers_of, project_pairs, read_pairs, way_of
    from folio.generation.language_model import load
    refuse_csv(arguments.csv)
    pairs = read_pairs(arguments.pairs, reading, say)
    learned = read_pairs(arguments.learned, reading, say) if arguments.learned else project_pairs(arguments.home)
    paths = _weights(arguments)
    names = [path.name if [each.name for each in paths].count(path.name) == 1 else str(path) for path in paths]
    settings = given(arguments, GenerationParams)
    found, notes = {}, []
    for name, path in zip(names, paths):
        model = load(path, arguments.device)
        found[name] = answers_of(model, pairs, settings)
        notes.append(f"{name} {way_of(model, pairs)}.")
    return measure_answers(pairs, found, learned or None, notes)


def _print_answers(arguments, reading):
    """Print the report on answers, on stderr where stdout has the table."""
    from folio.evaluation.answer_report import lines_of_report, write_csv
    report, answered = answers(arguments, reading, lambda line: print(harmless(line), file=sys.stderr))
    if arguments.csv:
        write_csv(answered, arguments.csv)
    if arguments.json:
        text = json.dumps(asdict(report), indent=1)
    else:
        text = "\n".join(lines_of_report(report, max(40, shutil.get_terminal_size().columns)))
    print(text, file=sys.stderr if arguments.csv == "-" else sys.stdout)


# --- The report ---

def lines_of(report, width, colored=False):
    """Return the lines of a Report, at most `width` columns wide.

    colored: give costly tokens of the hardest passages a warm background.
    """
    blocks = [[cut(f"{report.weights}: {report.parameters:,} parameters"
                  + (f", step {report.step:,}" if report.step else ""), width),
               cut(f"measured on {harmless(report.text)}: {report.bytes:,} bytes, {report.tokens:,} tokens", width)],
              table([("", "per byte", "per token"),
                     ("bits", f"{report.bits_per_byte:.4f}", f"{report.nats_per_token / math.log(2):.4f}"),
                     ("nats", f"{report.nats_per_byte:.4f}", f"{report.nats_per_token:.4f}"),
                     ("perplexity", _number(report.perplexity_per_byte), _number(report.perplexity_per_token)),
                     ("likeliest token is right", "", f"{100 * report.accuracy:.1f} %")], "<>>", width),
              _lines_of_passages(report.hardest, width, colored)]
    notes = list(report.notes)
    if report.baselines:
        blocks[-1:-1] = [folded(f"in plain words: {report.quality}", width), _lines_of_baselines(report, width)]
        notes += filter(None, [report.baselines.limits])
    if copying := report.copying:
        blocks.append(_lines_of_copying(copying, width))
        if copying.searched_bytes < copying.train_bytes:
            notes.append(f"Copies were looked for in the first {copying.searched_bytes:,} of {copying.train_bytes:,} "
                         "bytes of the training text.")
    if notes:
        blocks.append([line for note in notes for line in folded(harmless(note), width)])
    return [line for block in blocks for line in ["", *block]][1:]


def _lines_of_baselines(report, width):
    rows = [(name, f"{bits:.4f}", f"{ratio:.2f}")
            for name, bits, ratio in report.baselines.ratios(report.bits_per_byte)]
    return table([("yardsticks: the same text by", "bits per byte", "ratio"), *rows], "<>>", width)


def _lines_of_passages(passages, width, colored):
    rows = [(on_one_line(passage.text), f"{passage.nats_per_byte:.2f}") for passage in passages]
    head, *lines = table([("hardest passages", "nats per byte"), *rows], "<>", width)
    if colored:
        lines = [highlighted(line, passage.tokens) for line, passage in zip(lines, passages)]
    return [head, *lines]


def _lines_of_copying(copying, width):
    rows = [(name, f"{matches.mean:.2f}", f"{matches.longest:,}", f"{matches.bytes:,}")
            for name, matches in (("from each byte that the model writes", copying.written),
                                  ("from each byte of the text above", copying.held_out))]
    return [*table([("bytes found in the training text", "on average", "at most", "of"), *rows], "<>>>", width),
            cut("the longest: " + on_one_line(copying.written.stretch), width)]


def highlighted(line, tokens):
    """Return a line that starts with a passage, with a background behind its costly tokens. tokens: [(text, nats)]"""
    done = ""
    for text, nats in tokens:
        text = on_one_line(text.strip("\ufffd"))
        if not line.startswith(text):               # the line is cut here
            break
        done += styled(text, warmth(nats))
        line = line[len(text):]
    return done + line


def _number(value):
    return f"{value:,.2f}" if value < 1e6 else f"{value:.2e}"


if __name__ == "__main__":
    front_door(main)
