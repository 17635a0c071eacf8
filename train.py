"""Front door 2: train a transformer on your text.

    python train.py                     # about three minutes; enough for a megabyte of text
    python train.py --minutes 30        # better
    python train.py --resume            # continue a stopped or killed run
    python train.py --start-from NAME   # fine-tune: begin with trained weights
    python train.py --preset personal --home personal       # prepares what is missing as well
"""

import re
import time
from dataclasses import asdict, replace
from functools import partial

from folio.base import startup

if __name__ == "__main__":
    STARTED_AT = time.perf_counter()        # before the imports: what --minutes promises includes them
    startup.require("train.py")

from folio.base.commands import command
from folio.base.run_files import one_file, run_name
from folio.cli import configuration
from folio.cli.command_line import Parser, chosen, front_door
from folio.cli.screen import Screen
from folio.formats.find_weights import find_weights
from Model_Params import FINE_TUNING, PRESETS, READING, ModelParams, TextParams, TrainingParams

RESUME = "resume-*.pth"


def main(started_at=None):
    """Parse the command line, and train a new or a resumed run. -> exit code

    started_at: when --minutes began, by time.perf_counter (default: now)
    """
    started_at = time.perf_counter() if started_at is None else started_at
    parser = Parser("Train a transformer on the text that init.py prepared, or on one that a preset prepares itself.",
                    stray="a text is named to init.py, a run by --name")
    parser.add_preset()
    parser.add_argument("--name", help="what to call the run's files (default: the preset's name, or tuned)")
    parser.add_argument("--start-from", metavar="WEIGHTS",
                        help="fine-tune: begin with these weights and their tokenizer, at a learning rate of "
                        f"{FINE_TUNING['learning_rate']} unless you give one "
                        "(a run's name, a file in Saved_Weights, a path, or a glob that means one of these)")
    parser.add_argument("--resume", action="store_true",
                        help="continue the newest unfinished run, or the one that --name says (also as a glob)")
    parser.add_configuration()
    parser.add_fields("training", TrainingParams)
    parser.add_fields("model", ModelParams, without=["vocab_size"])
    parser.add_fields("text, where init.py has not prepared it", TextParams)
    arguments = parser.parse()
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
    flags = parser.settings(arguments, TextParams, ModelParams, TrainingParams)
    params = chosen(PRESETS[preset], FINE_TUNING | flags if is_tuned else flags)
    # A resumed run has its own settings, which these are compared with, and with --start-from the model is in the file.
    parser.check(params, one_by_one=arguments.resume or is_tuned)

    from folio.training import distributed  # imports torch: --help need not wait for it
    with distributed.joined():
        return train(arguments, preset, flags, params, started_at)


def train(arguments, preset, flags, params, started_at):
    """Open the run that the command line asks for, and train it. -> exit code, None for success

    preset: a name; flags: {field: value} as given; params: Params with the preset's values and the flags
    """
    with opened_run(arguments, preset, flags, params, started_at) as run:
        stopped_by = run.train()
        if stopped_by:
            report_stop(run)
            return 128 + stopped_by
        report_end(run)


def opened_run(arguments, preset, flags, params, started_at):
    """Return the context manager of the run that the command line asks for: fine-tuned, resumed or new."""
    from folio.data import corpus
    from folio.generation import language_model
    from folio.training import distributed, runs
    home = arguments.home
    wanted = {name: value for name, value in flags.items() if hasattr(params.text, name)}
    if arguments.preset:                # it says how a text becomes tokens, but not how files are read and chosen
        own = asdict(params.text).items()
        wanted = {name: value for name, value in own if name not in (*READING, "hold_out")} | wanted
    if arguments.start_from is not None:
        start = language_model.load(find_weights(home, arguments.start_from))
        model = replace(runs.tuned_model(start, flags), vocab_size=None)            # the tokenizer's, as always
        opening = partial(corpus.open_corpus, home, wanted=wanted, tokenizer=start.tokenizer)
        _, text = distributed.after_the_first(opening)
        params = replace(params, text=text.text, model=model)
        opened = runs.new_run(home, arguments.name or "tuned", params, start.tokenizer, text, started_at, start=start)
    elif arguments.resume:
        tokenizer, text = distributed.after_the_first(corpus.open_corpus, home)
        own_preset = PRESETS[preset] if arguments.preset else None
        name = run_to_resume(home, arguments.name)
        opened = runs.resumed_run(home, name, own_preset, flags, tokenizer, text, started_at)
    else:
        tokenizer, text = distributed.after_the_first(partial(corpus.open_corpus, home, wanted=wanted))
        params = replace(params, text=text.text)
        opened = runs.new_run(home, arguments.name or preset, params, tokenizer, text, started_at)
    if arguments.save_config and distributed.is_first():
        configuration.save(arguments.save_config, params.values())
    return opened


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
    print(f"Stopped after step {run.progress.step:,}; everything is saved. To go on: {resume}")


def report_end(run):
    """Print where a finished run's weights are and what they write, and what to do next."""
    from folio.generation import language_model
    from folio.training import distributed, summary
    if missed := summary.shortfall(run):
        print(missed)
    weights = run.home.weights(run.name)
    best = f"The best weights, of step {run.progress.best_step:,} with {run.progress.best_nats:.4f} nats per byte"
    print(f"Done. {best}, are in {weights}")
    if run.training.closing_tokens and distributed.is_first():
        screen = Screen()
        screen.write("\n")
        model = language_model.load(weights)
        for text in model.stream(tokens=run.training.closing_tokens, seed=run.training.seed):
            screen.write(text)
        screen.end_line()
        screen.write("\n")
    print(f"Next: {command('run.py')}")


if __name__ == "__main__":
    front_door(partial(main, STARTED_AT), outlives_reader=True)
