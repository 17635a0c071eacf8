"""How much of its speed Folio keeps on a machine that does other work as well, and what bounded spinning costs on a quiet one.

    python benchmarks/busy.py                       # all of it: some twelve minutes on two cores
    python benchmarks/busy.py train-128 --rounds 3  # one work alone, fewer rounds

Works: train-128 and train-48 (the default preset at these widths), write-1 and write-32 (sequences of the shipped
model), and two-at-once (two train-128 side by side; the figure is both together). Each measurement is a process of its
own, so that the threading runtimes are loaded anew, and all take turns: on the quiet machine and beside one spinning
Python process per core, with Folio's bound on spinning (folio/__init__.py) and with the runtimes' own defaults.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

WORKS = ("train-128", "train-48", "write-1", "write-32", "two-at-once")
# Their defaults, given so that Folio keeps away
RUNTIMES_OWN = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200", "OPENBLAS_THREAD_TIMEOUT": "26"}
SPIN = "while True: pass"


# --- In a process of its own: do one work for some seconds and print tokens per second ---

def measure(work, seconds, flags):
    """Print the tokens per second of one work."""
    kind, _, size = work.partition("-")
    print(WORK[kind](int(size), seconds, flags))


def training(width, seconds, flags):
    """Tokens per second of training steps at a width."""
    from folio.data import corpus
    from folio.training import runs
    from folio.base.home import Home
    from Model_Params import PRESETS, TextParams
    preset = PRESETS["default"]
    params = replace(preset, model=preset.model.sized(width),
                     training=replace(preset.training, steps=1000, minutes=None, **flags))
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        tokenizer, text = corpus.open_corpus(home, TextParams(vocab_size=1024), [str(ROOT / "Train_Data" / "input.txt")])
        with runs.new_run(home, "busy", params, tokenizer, text, time.perf_counter(), say=lambda words: None) as run:
            run.step()
            return run.tokens_per_step * per_second(run.step, seconds)


def writing(sequences, seconds, flags):
    """Tokens per second of sampled text."""
    from folio import load
    from folio.generation.decoder import Generation, Sequence
    from Model_Params import GenerationParams
    model = load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    settings = GenerationParams(tokens=10 ** 9, top_k=40, sampling_seed=1).resolved()
    generation = Generation(model.net, [Sequence(model.opening, settings, number) for number in range(sequences)])
    generation.step()
    return sequences * per_second(generation.step, seconds)


def per_second(step, seconds):
    """How often `step` runs in a second."""
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step()
        steps += 1
    return steps / (time.perf_counter() - began)


WORK = {"train": training, "write": writing}


# --- All measurements, in turns ---

@contextmanager
def busy(processes):
    """So many spinning Python processes during the block."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def speed(work, seconds, environment):
    """Tokens per second of a work in new processes."""
    works = ["train-128"] * 2 if work == "two-at-once" else [work]
    words = [sys.executable, __file__, "--seconds", str(seconds), "--measure"]
    running = [subprocess.Popen([*words, each], stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True)
               for each in works]
    return sum(float(process.communicate()[0]) for process in running)


def compare(work, rounds, seconds):
    """Print the medians of a work's speeds, and their ratios."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    alone = "train-128" if work == "two-at-once" else work
    states = {"quiet, Folio": (alone, 0, {}), "quiet, runtimes' own": (alone, 0, RUNTIMES_OWN)}
    if work == "two-at-once":
        states |= {"two, Folio": (work, 0, {}), "two, runtimes' own": (work, 0, RUNTIMES_OWN)}
    else:
        states |= {"busy, Folio": (work, cores, {}), "busy, runtimes' own": (work, cores, RUNTIMES_OWN)}
    found = {name: [] for name in states}
    for _ in range(rounds):
        for name, (what, processes, environment) in states.items():
            with busy(processes):
                found[name].append(speed(what, seconds, environment))
    medians = {name: statistics.median(values) for name, values in found.items()}
    quiet = medians["quiet, runtimes' own"]
    for name, median in medians.items():
        spread = f"{min(found[name]):,.0f} to {max(found[name]):,.0f}"
        print(f"{work:12} {name:22} {median:10,.0f} tokens/s ({spread}), {median / quiet:.2f} of quiet with the runtimes' own, "
              f"{median / medians['quiet, Folio']:.2f} of quiet with Folio's", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of: {', '.join(WORKS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5,
                        help="measurements of each, of which the median counts (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement (default: 3)")
    parser.add_argument("--threads", type=int, help="of training (default: what it chooses by itself)")
    parser.add_argument("--measure", metavar="WORK", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments.measure, arguments.seconds, {"threads": arguments.threads} if arguments.threads
                       else {})
    if unknown := [work for work in arguments.works if work not in WORKS]:
        parser.error(f"there is no work {unknown[0]}; there are {', '.join(WORKS)}")
    for work in arguments.works or WORKS:
        compare(work, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
