"""Check that train.py chooses the fastest precision and threads here: whole steps with every choice, interleaved.

    python benchmarks/choices.py                # widths 48, 128 and 256; some two minutes on two cores
    python benchmarks/choices.py --widths 384

Each choice is a Run of its own in this process; they take turns, and the medians of their tokens per second count.
16-bit formats that are emulated here are left out.
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from folio.base import hardware  # they lie at the root
from folio.base.home import Home
from folio.data import corpus
from folio.training import fastest, runs
from Model_Params import PRESETS, TextParams

# isort: split
import torch

ROUNDS, SECONDS = 7, 0.7


def tokens_per_second(run, seconds):
    """Return the speed of a Run's steps, measured for this many seconds."""
    hardware.use(run.training)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        run.step()
        steps += 1
    return steps * run.tokens_per_step / (time.perf_counter() - began)


def compare(home, width):
    """Print the speed of every choice at a width, and what was chosen."""
    tokenizer, text = corpus.open_corpus(home)
    preset = PRESETS["default"]
    most = torch.get_num_threads()
    threads = sorted({min(2 ** power, most) for power in range(most.bit_length() + 1)})
    choices = [(precision, count) for precision in fastest.not_emulated() for count in threads]
    with ExitStack() as stack:
        made = {}
        for choice in ["auto", *choices]:
            precision, count = ("auto", None) if choice == "auto" else choice
            torch.set_num_threads(most)
            training = replace(preset.training, minutes=3.0, compile=False, precision=precision, threads=count)
            params = replace(preset, model=preset.model.sized(width), training=training)
            opened = runs.new_run(home, "choices", params, tokenizer, text, time.perf_counter(), say=lambda words: None)
            made[choice] = stack.enter_context(opened)
            made[choice].step()                         # the first step also takes memory and makes kernels
        chosen = made.pop("auto").training
        found = {choice: [] for choice in choices}
        for _ in range(ROUNDS):
            for choice in choices:
                found[choice].append(tokens_per_second(made[choice], SECONDS))
        medians = {choice: statistics.median(speeds) for choice, speeds in found.items()}
        best, own = max(medians.values()), (chosen.precision, chosen.threads)
        for (precision, count), speed in medians.items():
            print(f"width {width:4}  {precision}, {count} thread{'s' if count > 1 else ' '}  {speed:10,.0f} tokens/s  "
                  f"{speed / best:5.2f} of the best{'  <- chosen' if own == (precision, count) else ''}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", nargs="+", type=int, default=[48, 128, 256], metavar="N",
                        help="of the default preset's network (default: 48 128 256)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        corpus.open_corpus(home, TextParams(vocab_size=1024), [str(ROOT / "Train_Data" / "input.txt")])
        for width in arguments.widths:
            compare(home, width)


if __name__ == "__main__":
    main()
