"""How much speed Folio keeps on a busy machine, and what its bound on spinning threads costs on a quiet one.

    python benchmarks/busy.py                       # all workloads: about twelve minutes on two cores
    python benchmarks/busy.py train-128 --rounds 3  # one workload, fewer rounds

Workloads: train-128 and train-48 (the default preset at these widths), write-1 and write-32 (generation of 1 and 32
sequences with the shipped model), and two-at-once (two train-128 side by side; the figure is their sum). Each
measurement is a process of its own, because the threading runtimes read their settings when they are loaded. The
measurements are interleaved: on the quiet machine and beside one spinning Python process per core, with Folio's bound
on spinning (folio/__init__.py) and with the runtimes' own defaults.
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

WORKLOADS = ("train-128", "train-48", "write-1", "write-32", "two-at-once")
# Set explicitly, so that Folio does not override them.
RUNTIME_DEFAULTS = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200", "OPENBLAS_THREAD_TIMEOUT": "26"}
SPIN = "while True: pass"


# --- In a process of its own: run one workload for some seconds and print tokens per second ---

def measure(workload, seconds, flags):
    """Print the tokens per second of one workload."""
    kind, _, size = workload.partition("-")
    print(RUN[kind](int(size), seconds, flags))


def training(width, seconds, flags):
    """Return the tokens per second of training steps at a width."""
    from folio.base.home import Home
    from folio.data import corpus
    from folio.training import runs
    from Model_Params import PRESETS, TextParams
    preset = PRESETS["default"]
    params = replace(preset, model=preset.model.sized(width),
                     training=replace(preset.training, steps=1000, minutes=None, **flags))
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        tokenizer, text = corpus.open_corpus(home, TextParams(vocab_size=1024),
                                             [str(ROOT / "Train_Data" / "input.txt")])
        with runs.new_run(home, "busy", params, tokenizer, text, time.perf_counter(), say=lambda message: None) as run:
            run.step()
            return run.tokens_per_step * per_second(run.step, seconds)


def writing(sequences, seconds, flags):
    """Return the tokens per second of sampled text."""
    from folio import load
    from folio.generation.decoder import Generation, Sequence
    from Model_Params import GenerationParams
    model = load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    settings = GenerationParams(tokens=10 ** 9, top_k=40, sampling_seed=1).resolved()
    generation = Generation(model.net, [Sequence(model.opening, settings, number) for number in range(sequences)])
    generation.step()
    return sequences * per_second(generation.step, seconds)


def per_second(step, seconds):
    """Return how often `step` runs in a second."""
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step()
        steps += 1
    return steps / (time.perf_counter() - began)


RUN = {"train": training, "write": writing}


# --- All measurements, interleaved ---

@contextmanager
def busy(processes):
    """Run spinning Python processes during the block."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def speed(workload, seconds, environment):
    """Return the tokens per second of a workload in new processes."""
    workloads = ["train-128"] * 2 if workload == "two-at-once" else [workload]
    words = [sys.executable, __file__, "--seconds", str(seconds), "--measure"]
    running = [subprocess.Popen([*words, name], stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True)
               for name in workloads]
    return sum(float(process.communicate()[0]) for process in running)


def compare(workload, rounds, seconds):
    """Print the medians of the speeds of a workload, and their ratios."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    alone = "train-128" if workload == "two-at-once" else workload
    states = {"quiet, Folio": (alone, 0, {}), "quiet, runtimes' own": (alone, 0, RUNTIME_DEFAULTS)}
    if workload == "two-at-once":
        states |= {"two, Folio": (workload, 0, {}), "two, runtimes' own": (workload, 0, RUNTIME_DEFAULTS)}
    else:
        states |= {"busy, Folio": (workload, cores, {}), "busy, runtimes' own": (workload, cores, RUNTIME_DEFAULTS)}
    found = {name: [] for name in states}
    for _ in range(rounds):
        for name, (measured, processes, environment) in states.items():
            with busy(processes):
                found[name].append(speed(measured, seconds, environment))
    medians = {name: statistics.median(values) for name, values in found.items()}
    quiet = medians["quiet, runtimes' own"]
    for name, median in medians.items():
        spread = f"{min(found[name]):,.0f} to {max(found[name]):,.0f}"
        print(f"{workload:12} {name:22} {median:10,.0f} tokens/s ({spread}), "
              f"{median / quiet:.2f} of quiet with the runtimes' own, "
              f"{median / medians['quiet, Folio']:.2f} of quiet with Folio's", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of: {', '.join(WORKLOADS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5,
                        help="measurements of each workload; their median is printed (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a measurement (default: 3)")
    parser.add_argument("--threads", type=int, help="threads of training (default: chosen by training)")
    parser.add_argument("--measure", metavar="WORKLOAD", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        flags = {"threads": arguments.threads} if arguments.threads else {}
        return measure(arguments.measure, arguments.seconds, flags)
    if unknown := [name for name in arguments.workloads if name not in WORKLOADS]:
        parser.error(f"there is no workload {unknown[0]}; there are {', '.join(WORKLOADS)}")
    for workload in arguments.workloads or WORKLOADS:
        compare(workload, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
