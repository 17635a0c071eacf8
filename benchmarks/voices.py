"""The pace of two models that write together, against one of them alone.

    python benchmarks/voices.py                     # the shipped model and one of 4.6 million parameters: 1 minute
    python benchmarks/voices.py --rounds 3

Two models of one shape are mixed half and half by each blend; the other one has the same weights with noise. They take
turns with the one model, so that other programs slow all of them alike. The figures are medians of the pace of each
turn against the turns of the one model before and after it: 0.5 would be twice the work and nothing else.
"""

import argparse
import os
import statistics
import sys
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")      # read when NumPy is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from engine import PROMPTS, models
from folio.generation.decoder import Generation
from folio.generation.voices import BLENDS
from Model_Params import GenerationParams

# isort: split
import torch


def noisy(model):
    """Return a model with other weights of the same shape."""
    torch.manual_seed(1)
    net = deepcopy(model.net)
    for parameter in net.parameters():
        parameter += 0.02 * torch.randn_like(parameter)
    return replace(model, name="other", net=net)


def tokens_per_second(model, rows, tokens, seed, precision):
    """Return tokens of all rows per second of this thread's processor time."""
    params = GenerationParams(tokens=tokens, temperature=0.8, sampling_seed=seed,
                              weight_precision=precision).resolved()
    sequences = [replace(model.after(PROMPTS[row], params, row), ends=()) for row in range(rows)]
    begun, count = time.thread_time(), 0
    generation = Generation(model.net, sequences)
    while generation.running:
        count += len(generation.step())
    return count / (time.thread_time() - begun)


def main():
    """Print the share of the pace for each model, number of rows and precision."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("shipped", "larger"))
    arguments = parser.parse_args()
    for name, model in models(arguments.only):
        print(name)
        mixed = {blend: model.mixed_with({"other": noisy(model)}, {"other": 0.5}, blend) for blend in BLENDS}
        print("  rows  precision  one model  " + "  ".join(BLENDS))
        for rows, precision in ((1, "float32"), (8, "float32"), (1, "int8")):
            tokens, paces, shares = max(60, 200 // rows), [], {blend: [] for blend in BLENDS}
            for seed in range(arguments.rounds + 1):
                own, before = {}, tokens_per_second(model, rows, tokens, seed, precision)
                for blend in BLENDS:
                    found = tokens_per_second(mixed[blend], rows, tokens, seed, precision)
                    after = tokens_per_second(model, rows, tokens, seed, precision)
                    own[blend], before = found / statistics.mean((before, after)), after
                if seed:                                # the first round warms up
                    paces.append(before)
                    for blend in BLENDS:
                        shares[blend].append(own[blend])
            print(f"  {rows:4}  {precision:9}  {statistics.median(paces):9.0f}  "
                  + "  ".join(f"{statistics.median(shares[blend]):{len(blend)}.2f}" for blend in BLENDS))


if __name__ == "__main__":
    main()
