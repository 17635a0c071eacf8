"""Front door 2: train a transformer on your text.

    python train.py                     # about three minutes; enough for a megabyte of text
    python train.py --minutes 30        # better
    python train.py --resume            # go on where a stopped or killed run was
    python train.py --start-from NAME   # fine-tune: begin with trained weights
"""

import re
import time
from dataclasses import replace

STARTED_AT = time.perf_counter()        # before the imports: what --minutes promises includes them

from folio.command_line import Parser, chosen, front_door, given
from folio.spelling import nearest
from Model_Params import FINE_TUNING, PRESETS, ModelParams, TrainingParams, one_length


def main():
    parser = Parser("Train a transformer on the text that init.py prepared.")
    parser.add_argument("--preset", metavar="NAME", help=f"named settings to start from: {', '.join(PRESETS)} (default: default)")
    parser.add_argument("--name", help="what to call the run's files (default: the preset's name, or tuned)")
    parser.add_argument("--start-from", metavar="WEIGHTS", help="fine-tune: begin with these weights and their tokenizer, at a learning rate of "
                        f"{FINE_TUNING['learning_rate']} unless you give one (a path, a file in Saved_Weights, or a run's name)")
    parser.add_argument("--resume", action="store_true", help="go on with the newest unfinished run, or with the one that --name says")
    parser.add_fields("training", TrainingParams)
    parser.add_fields("model", ModelParams, without=["vocab_size"])
    arguments = parser.parse()
    preset = arguments.preset or "default"
    if preset not in PRESETS:
        parser.error(f"there is no preset {preset}{nearest(preset, PRESETS)} (there are: {', '.join(PRESETS)})")
    if arguments.name is not None and not re.fullmatch(r"\w[\w.-]*", arguments.name):
        parser.error(f"--name {arguments.name} cannot be part of a file's name: take letters, digits, and . _ -")
    if arguments.start_from and (arguments.resume or arguments.preset):
        parser.error("--start-from begins a new run with the model that is in the file, and --resume and --preset name another; give one of them")
    flags = one_length(given(arguments, TrainingParams, ModelParams))
    params = chosen(PRESETS[preset], FINE_TUNING | flags if arguments.start_from else flags)
    if not arguments.resume:            # a resumed run has its own settings, which these are compared with
        parser.check(params)

    from folio import distributed       # torch comes with it, which --help need not wait for
    with distributed.joined():
        return train(arguments, preset, flags, params)


def train(arguments, preset, flags, params):
    """Open the run that the command line means and train it. -> exit code"""
    from folio import corpus, distributed, language_model, runs
    if arguments.start_from:
        start = language_model.load(language_model.find_weights(arguments.home, arguments.start_from))
        params = replace(params, model=runs.tuned_model(start, flags))
        text = distributed.after_the_first(corpus.find_with, start.tokenizer, arguments.home)
        opened = runs.new_run(arguments.home, arguments.name or "tuned", params, start.tokenizer, text, STARTED_AT, start=start)
    elif arguments.resume:
        tokenizer, text = distributed.after_the_first(corpus.find, arguments.home)
        opened = runs.resumed_run(arguments.home, arguments.name, arguments.preset and PRESETS[preset], flags, tokenizer, text, STARTED_AT)
    else:
        tokenizer, text = distributed.after_the_first(corpus.find, arguments.home)
        if arguments.preset and tokenizer.kind != params.text.tokenizer:
            raise ValueError(f"The preset {preset} wants the tokenizer {params.text.tokenizer}, and {arguments.home.tokenizer} holds {tokenizer.kind}. "
                             f"Give it a home of its own: python init.py --home DIR --tokenizer {params.text.tokenizer} TEXT; then add --home DIR here.")
        opened = runs.new_run(arguments.home, arguments.name or preset, params, tokenizer, text, STARTED_AT)
    with opened as run:
        stopped_by = run.train()
        weights = arguments.home.weights(run.name)
        if stopped_by:
            print(f"Stopped after step {run.progress.step:,}; everything is saved. "
                  f"To go on: {distributed.launcher()} train.py --resume --name {run.name}{arguments.home.flag}")
            return 128 + stopped_by
        print(f"Done. The best weights, of step {run.progress.best_step:,} with {run.progress.best_nats:.4f} nats per byte, are in {weights}\n"
              f"Next: python run.py{arguments.home.flag}")


if __name__ == "__main__":
    front_door(main)
