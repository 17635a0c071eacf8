"""Front door 2: train a transformer on your text.

    python train.py                     # about three minutes; enough for a megabyte of text
    python train.py --minutes 30        # better
    python train.py --resume            # continue a stopped or killed run
    python train.py --start-from NAME   # fine-tune: begin with trained weights
    python train.py --start-from NAME --chat dialogues.jsonl        # teach it to answer
    python train.py --start-from NAME --preferences FILE            # teach it which of two answers is better
    python train.py --preset personal --home personal       # prepares what is missing as well
    python train.py --sweep learning_rate=1e-3,3e-3 --minutes 5     # a run for each value, and a table
"""

import os
import re
import shutil
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from folio.base import startup

if __name__ == "__main__":
    STARTED_AT = time.perf_counter()        # before the imports: what --minutes promises includes them
    startup.require("train.py")

from folio.base.commands import command
from folio.base.defaults import FINE_TUNING, TUNED_MODEL, tuning_defaults
from folio.base.lines import terminal_width
from folio.base.run_files import one_file, run_name
from folio.cli import configuration, example
from folio.cli.command_line import Parser, chosen, front_door
from folio.cli.screen import Screen, say, send, shows_colors
from folio.formats.find_weights import find_weights
from Model_Params import LENGTHS, PRESETS, READING, ModelParams, TextParams, TrainingParams, TuningParams

RESUME = "resume-*.pth"
USUAL_NAMES = {"text": "tuned", "chat": "chat", "preferences": "preferred"}     # of runs from trained weights


def main(started_at=None):
    """Parse the command line, and train a new or a resumed run. -> exit code

    started_at: when --minutes began, by time.perf_counter (default: now)
    """
    started_at = time.perf_counter() if started_at is None else started_at
    parser = Parser("Train a transformer on the text that init.py prepared, or on one that a preset prepares itself.",
                    stray="a text is named to init.py, a run by --name")
    parser.add_preset()
    parser.add_argument("--name", help="what to call the run's files (default: the preset's name, or "
                        f"{', '.join(USUAL_NAMES.values())})")
    parser.add_argument("--start-from", metavar="WEIGHTS",
                        help="fine-tune: begin with these weights and their tokenizer, at a learning rate of "
                        f"{FINE_TUNING['learning_rate']} for a text unless you give one "
                        "(a run's name, a file in Saved_Weights, a path, or a glob that means one of these)")
    parser.add_argument("--chat", nargs="*", metavar="FILE",
                        help="with --start-from: teach the model to answer, from conversations in these files, folders "
                        "and globs (default: those in the text that init.py prepared)")
    parser.add_argument("--preferences", nargs="*", metavar="FILE",
                        help="with --start-from: teach the model which of two answers is better, from lines with a "
                        "prompt, the chosen answer and a rejected one (default: the choices kept by run.py and the "
                        "page, Train_Data/preferences.jsonl)")
    parser.add_argument("--resume", action="store_true",
                        help="continue the newest unfinished run, or the one that --name says (also as a glob)")
    parser.add_argument("--sweep", action="append", default=[], metavar="FIELD=VALUE,VALUE",
                        help="train a run for each value, one after another; given several times, for each "
                        "combination. --minutes, --steps and --epochs are those of each run; the same command "
                        "continues a sweep that was stopped")
    parser.add_argument("--verbose", action="store_true",
                        help="show every setting at the start (the run's log has them in any case)")
    parser.add_configuration()
    parser.add_fields("training", TrainingParams)
    parser.add_fields("training from trained weights", TuningParams, without=["learns"])
    parser.add_fields("model", ModelParams, without=["vocab_size"])
    parser.add_fields("text, where init.py has not prepared it", TextParams)
    words = sys.argv[1:]
    arguments = parser.parse(words)
    if arguments.sweep:
        return train_sweep(parser, arguments, words)
    preset, flags, params = settings_of(parser, arguments)

    from folio.training import distributed  # imports torch: --help need not wait for it
    with distributed.joined():
        return train(arguments, preset, flags, params, started_at)


def settings_of(parser, arguments):
    """Return the name of the preset, {field: value} as given, and the Params of both. Exits where one is wrong."""
    preset = parser.preset_of(arguments)
    is_new_name = arguments.name is not None and not arguments.resume
    if arguments.name == "" or is_new_name and not re.fullmatch(r"\w[\w.-]*", arguments.name):
        parser.error(f"--name {arguments.name} cannot be part of a file's name: take letters, digits, and . _ -")
    is_tuned = arguments.start_from is not None
    if is_tuned and (arguments.resume or arguments.preset):
        parser.error("--start-from begins a new run with the model that is in the file, and --resume and --preset name "
                     "another; give one of them")
    if arguments.resume and arguments.save_config:
        parser.error("--save-config writes what a new run is made of; one that --resume continues was made before")
    flags = parser.settings(arguments, TextParams, ModelParams, TrainingParams, TuningParams)
    taught_by = [name for name in ("chat", "preferences") if getattr(arguments, name) is not None]
    if len(taught_by) == 2:
        parser.error("--chat and --preferences are two runs, one after the other: --preferences starts from what "
                     "--chat has made")
    if taught_by:
        flags["learns"], = taught_by
    learns = flags.get("learns", "text")
    if taught_by and arguments.resume:
        parser.error(f"a run that --resume continues reads the files that it began with; leave --{learns} out")
    if learns != "text" and not is_tuned and not arguments.resume:
        parser.error(f"--{learns} teaches trained weights; name them by --start-from (pretrained: those that come with "
                     "Folio)")
    has_adapters = flags.get("lora_rank") is not None
    if has_adapters and not is_tuned and not arguments.resume:
        parser.error("--lora-rank trains adapters on trained weights; name them by --start-from, or leave it out")
    params = chosen(PRESETS[preset], tuning_defaults(learns, has_adapters) | flags if is_tuned else flags)
    # A resumed run has its own settings, which these are compared with, and with --start-from the model is in the file.
    parser.check(params, one_by_one=arguments.resume or is_tuned)
    return preset, flags, params


def train_sweep(parser, arguments, words):
    """Train a run for each combination of the values that --sweep gives, and print a table. -> exit code

    words: the command line. All combinations are checked before anything is trained.
    """
    from folio.cli.sweep import combinations, command_line, lines_of, without_flags
    from folio.training.sweep import Sweep
    for flag in ("resume", "save_config"):
        if getattr(arguments, flag):
            parser.error(f"--sweep is several runs, and --{flag.replace('_', '-')} is for one; leave it out (the same "
                         "command continues a sweep)")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        parser.error("--sweep starts processes itself: call it by python, not by torchrun")
    learns = "chat" if arguments.chat is not None else "text" if arguments.preferences is None else "preferences"
    prefix = arguments.name or arguments.preset or (USUAL_NAMES[learns] if arguments.start_from else "sweep")
    swept = combinations(parser, arguments.sweep, prefix)
    runs = {name: command_line(words, combination) for name, combination in swept.items()}
    home = f"--home={arguments.home.folder}"
    sweep = Sweep(arguments.home, runs, [sys.executable, str(Path(__file__).resolve()), home], say)
    flags = {name: settings_of(parser, parser.parse([*of_run, home, "--name", name]))[1]
             for name, of_run in runs.items()}
    if problem := sweep.conflict(flags):
        parser.error(problem)
    code = sweep.train()
    if trained := sweep.ranked():
        print("\n".join(["", *lines_of(trained, swept, shutil.get_terminal_size().columns)]))
    if code > 1:
        same = command("train.py", *without_flags(words, ("--home",)))
        say(f"Stopped; the runs so far are saved. To continue: {same}")
    return code


def train(arguments, preset, flags, params, started_at):
    """Open the run that the command line asks for, and train it. -> exit code, None for success

    preset: a name; flags: {field: value} as given; params: Params with the preset's values and the flags
    """
    with opened_run(arguments, preset, flags, params, started_at) as run:
        show_example(run)
        stopped_by = run.train()
        if stopped_by:
            report_stop(run)
            return 128 + stopped_by
        report_end(run)


def opened_run(arguments, preset, flags, params, started_at):
    """Return the context manager of the run that the command line asks for: fine-tuned, resumed or new."""
    from folio.data import corpus
    from folio.generation import language_model
    from folio.training import bases, chat, distributed, preferences, runs
    home, telling = arguments.home, {"say": say, "verbose": arguments.verbose}
    wanted = {name: value for name, value in flags.items() if hasattr(params.text, name)}
    if arguments.preset:                # it says how a text becomes tokens, but not how files are read and chosen
        own = asdict(params.text).items()
        wanted = {name: value for name, value in own if name not in (*READING, "hold_out")} | wanted
    if arguments.start_from is not None:
        start = language_model.load(find_weights(home, arguments.start_from))
        changes = TUNED_MODEL.get(params.tuning.learns, {}) | flags
        model = replace(runs.tuned_model(start, changes), vocab_size=None)          # the tokenizer's, as always
        params = replace(params, model=model)
        if params.tuning.lora_rank:
            bases.Base.checked_name(start, home)
        if params.tuning.learns == "chat":
            opening = partial(chat.open_dialogues, home, arguments.chat or [], params, start.tokenizer,
                              start.opening, say)
        elif params.tuning.learns == "preferences":
            opening = partial(preferences.open_pairs, home, arguments.preferences or [], params, start, say)
        else:
            opening = partial(corpus.open_corpus, home, wanted=wanted, tokenizer=start.tokenizer, say=say)
        tokenizer, text = distributed.after_the_first(opening)
        params = replace(params, text=text.text)
        if params.tuning.learns == "chat" and all(flags.get(name) is None for name in LENGTHS):
            params = chosen(params, chat.usual_length(text, params))
        opened = runs.new_run(home, arguments.name or USUAL_NAMES[params.tuning.learns], params, tokenizer, text,
                              started_at, start=start, **telling)
    elif arguments.resume:
        name = distributed.agreed(run_to_resume(home, arguments.name) or runs.newest_unfinished(home, say))
        contents, stored = runs.stored_run(home, name)
        if stored.tuning.learns == "chat":
            opening = partial(chat.reopen_dialogues, home, contents, stored, say)
        elif stored.tuning.learns == "preferences":
            opening = partial(preferences.reopen_pairs, home, contents, stored, say)
        else:
            opening = partial(corpus.open_corpus, home, say=say)
        tokenizer, text = distributed.after_the_first(opening)
        own_preset = PRESETS[preset] if arguments.preset else None
        opened = runs.resumed_run(home, name, own_preset, flags, tokenizer, text, started_at, **telling)
    else:
        tokenizer, text = distributed.after_the_first(partial(corpus.open_corpus, home, wanted=wanted, say=say))
        params = replace(params, text=text.text)
        opened = runs.new_run(home, arguments.name or preset, params, tokenizer, text, started_at, **telling)
    if arguments.save_config and distributed.is_first():
        configuration.save(arguments.save_config, params.values())
    return opened


def show_example(run):
    """Print the tokens of what a new run learns first, if its lessons have an example: learned, or only read."""
    pieces = run.lessons.example()
    if not pieces or run.progress.step:
        return
    has_colors = shows_colors()
    say(example.headline(has_colors))
    send("\n".join(example.lines_of(pieces, terminal_width(sys.stdout), has_colors)) + "\n")


def run_to_resume(home, wanted):
    """Return the name of the run whose resume file a name, path or glob means; `wanted` itself where there is none.

    Raises FolioError where a glob matches several.
    """
    path = one_file(home, RESUME, wanted) if wanted else None
    is_here = path is not None and path.parent.resolve() == home.saved_weights.resolve()
    return run_name(path, RESUME) if is_here else wanted


def report_stop(run):
    """Print where a run that a signal stopped has got to, and how to continue it."""
    from folio.training import distributed
    resume = command("train.py", "--resume", "--name", run.name, launcher=distributed.launcher())
    say(f"Stopped after step {run.progress.step:,}; everything is saved. To continue: {resume}")


def report_end(run):
    """Print where a finished run's weights are and what they write, and what to do next."""
    from folio.generation import language_model
    from folio.training import distributed, summary
    if missed := summary.shortfall(run):
        say(missed)
    weights = run.home.weights(run.name)
    best = (f"The best weights, of step {run.progress.best_step:,} with {run.progress.best_nats:.4f} nats per "
            f"{run.lessons.unit}")
    say(f"Done. {best}, are in {weights}")
    if not distributed.is_first():
        return
    if quality := run.lessons.quality(run):
        say(f"Quality:  {quality}")
    if run.training.closing_tokens:
        screen = Screen()
        screen.write("\n")
        model = language_model.load(weights)
        for text in model.stream(tokens=run.training.closing_tokens, seed=run.training.seed):
            screen.write(text)
        screen.end_line()
        screen.write("\n")
    say(f"Next: {command('run.py')}")


if __name__ == "__main__":
    front_door(partial(main, STARTED_AT), outlives_reader=True)
