"""Validation loss of recipes: each is trained by the scripts with several seeds, and measured by several protocols.

    python benchmarks/quality.py                        # the default preset on tiny shakespeare, 3 seeds: ten minutes
    python benchmarks/quality.py --recipes default shakespeare-10m --jobs 2 --json quality.json
    python benchmarks/quality.py --holdout --minutes 1  # to choose between recipes: the validation set stays unseen

init.py learns one tokenizer for all recipes with the same flags for it. Each train.py is a process of its own; its
seconds and memory are those of the whole process. The figures are those of the last weights of the schedule, in nats
per byte of the validation set (the last tenth of the text):

- windows: windows of block_size tokens that do not overlap (what training reports)
- sliding: a window every quarter of block_size, so that nearly all tokens have at least three quarters of it as context
- random: the mean loss over windows at random positions, as in nanoGPT's estimate_loss
- 256 bytes: windows that do not overlap, with about as much text as a character model with a context of 256 sees
- best: the weights with the best validation loss, as the run itself measured it; biased, since it selects by that loss
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from folio.base.files import fingerprint, replacing  # after the change of sys.path
from folio.base.home import Home
from folio.cli.command_line import front_door
from Model_Params import PRESETS, TextParams

TINY_SHAKESPEARE = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
PROTOCOLS = ("windows", "sliding", "random", "256 bytes", "best")
COSTS = ("steps", "wall_seconds", "cpu_seconds", "peak_megabytes")
RANDOM_PASSES = 4           # tokens in random windows, in multiples of the validation set
VIEW_BYTES = 256


@dataclass(frozen=True)
class Recipe:
    """Flags for init.py and for train.py."""
    init: tuple = ()
    train: tuple = ()


def of_preset(name):
    """Return the Recipe of a preset; with default settings for the text it shares the prepared text with others."""
    preset = "--preset", name
    return Recipe(preset if PRESETS[name].text != TextParams() else (), preset)


RECIPES = {
    **{name: of_preset(name) for name in PRESETS},
    **{f"{seconds}-seconds": Recipe(train=(f"--minutes={seconds / 60:.4f}",))
       for seconds in (5, 10, 20, 50, 90, 180, 600)},
    # The best found within 20 minutes on one core (it takes ten): wide, with few passes over the text (LOG.md).
    "best": Recipe(train=("--steps=640", "--threads=1", "--compile", "--emb-len=192", "--num-layers=6",
                          "--batch-size=16", "--learning-rate=0.003", "--bpe-dropout=0.2")),
    "gpu-20-seconds": Recipe(train=("--minutes=0.3", "--no-compile")),
    "gpu-3-minutes": Recipe(train=("--minutes=3", "--emb-len=384", "--batch-size=16", "--learning-rate=0.002",
                                   "--bpe-dropout=0.2")),
}


# --- One run, in a worker process of its own ---

def train_and_measure(name, recipe, seed, home, flags):
    """Train a Recipe with one seed and measure it. -> {name: value}: recipe, seed, PROTOCOLS, COSTS and more"""
    run = f"{name}-{seed}"
    usage = run_process(ROOT / "train.py", "--home", home.folder, "--name", run, "--seed", seed, *recipe.train, *flags)
    return {"recipe": name, "seed": seed, **measure(home, run, seed), **usage}


def run_process(*words):
    """Run Python with the arguments `words`. -> its seconds and its peak memory, None on Windows

    Raises SystemExit with the end of its output where it fails.
    """
    started_at = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, *map(str, words)], stdout=output, stderr=subprocess.STDOUT)
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            unit = 1 if sys.platform == "darwin" else 1024          # bytes per unit of ru_maxrss
            used = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_megabytes": usage.ru_maxrss * unit / 1e6}
        else:       # Windows does not report the usage of child processes
            process.wait()
            used = {"cpu_seconds": time.perf_counter() - started_at, "peak_megabytes": None}
        if process.returncode:
            output.seek(0)
            end_of_output = output.read().decode("utf-8", errors="replace")[-2000:]
            raise SystemExit(f"{' '.join(map(str, words))} failed:\n{end_of_output}")
    return {"wall_seconds": time.perf_counter() - started_at, **used}


def measure(home, name, seed):
    """Return the nats per byte of a finished run by every protocol, its steps and its size: {name: value}."""
    # These import torch. In a process that had it loaded before, its memory would count as the child's.
    from folio.base import hardware
    from folio.data import corpus
    from folio.evaluation.bits_per_byte import bytes_of_tokens, evaluate, evaluate_random_windows, window_len
    from folio.formats import checkpoint
    from folio.networks import build as networks
    tokenizer, text = corpus.open_corpus(home)
    last, best = checkpoint.load(home.resume(name)), checkpoint.load(home.weights(name))
    device = hardware.settle_device("auto")
    net = checkpoint.network(last | {"params": last["params"]["model"]}, home.resume(name)).to(device).eval()
    block_size = window_len(net)
    view = min(block_size, max(1, round(VIEW_BYTES * text.val_tokens / text.val_bytes)))
    settings = {"batch_size": 16, "device": device}
    windows = -(-RANDOM_PASSES * text.val_tokens // block_size)
    scores = {
        "windows": evaluate(net, text.val, text.val_bytes, block_size=block_size, **settings),
        "sliding": evaluate(net, text.val, text.val_bytes, block_size=block_size, stride=max(1, block_size // 4),
                            **settings),
        "random": evaluate_random_windows(net, text.val, bytes_of_tokens(tokenizer), windows=windows, seed=seed,
                                          block_size=block_size, **settings),
        "256 bytes": evaluate(net, text.val, text.val_bytes, block_size=view, **settings),
    }
    return {**{protocol: score.nats_per_byte for protocol, score in scores.items()}, "best": best["val_nats_per_byte"],
            "best_step": best["step"], "steps": last["progress"]["step"], "view_tokens": view,
            "parameters": networks.count_parameters(net)}


# --- All runs ---

def prepare(folder, text, recipes):
    """Run init.py once for all recipes with the same flags for it. recipes: {name: Recipe} -> {name: Home}"""
    folder.mkdir(exist_ok=True)
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8", newline="")
    homes = {}
    for flags in (recipe.init for recipe in recipes.values()):
        if flags not in homes:
            homes[flags] = Home(folder / f"home-{len(homes)}")
            run_process(ROOT / "init.py", path, "--home", homes[flags].folder, *flags)
    return {name: homes[recipe.init] for name, recipe in recipes.items()}


def run_all(recipes, homes, seeds, flags, jobs):
    """Yield the result of each run when it is done, with `jobs` runs side by side.

    recipes: {name: Recipe}; homes: {name: Home}; flags: for every train.py.
    """
    context = get_context("spawn")
    # A new worker for each run, because a worker that has measured holds torch in its memory: see `measure`.
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as workers:
        waiting = [workers.submit(train_and_measure, name, recipe, seed, homes[name], flags)
                   for name, recipe in recipes.items() for seed in seeds]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            workers.shutdown(cancel_futures=True)


def summary(runs):
    """Return mean and standard deviation over the seeds: {recipe: {"mean": {figure: value}, "deviation": {...}}}.

    A single seed has no deviation.
    """
    result = {}
    for recipe in dict.fromkeys(run["recipe"] for run in runs):
        columns = {figure: [run[figure] for run in runs if run["recipe"] == recipe and run[figure] is not None]
                   for figure in (*PROTOCOLS, *COSTS)}
        mean = {figure: statistics.mean(values) for figure, values in columns.items() if values}
        deviation = {figure: statistics.stdev(values) for figure, values in columns.items() if len(values) > 1}
        result[recipe] = {"mean": mean, "deviation": deviation}
    return result


def markdown(runs):
    """Yield the lines of a table: each seed, then mean and standard deviation of each recipe."""
    yield f"| recipe | seed | {' | '.join(PROTOCOLS)} | steps | wall s | CPU s | peak MB |"
    yield "| --- " * (2 + len(PROTOCOLS) + len(COSTS)) + "|"
    for recipe, figures in summary(runs).items():
        for run in sorted((run for run in runs if run["recipe"] == recipe), key=lambda run: run["seed"]):
            yield _row(recipe, run["seed"], run)
        yield _row(recipe, "**mean**", figures["mean"])
        if figures["deviation"]:
            yield _row(recipe, "deviation", figures["deviation"])


def _row(recipe, seed, values):
    cells = [f"{values[figure]:.4f}" if values.get(figure) is not None else "" for figure in PROTOCOLS]
    cells += [f"{values[figure]:,.0f}" if values.get(figure) is not None else "" for figure in COSTS]
    return f"| {' | '.join([recipe, str(seed), *cells])} |"


def add_arguments(parser, text):
    """Add the flags of every study of recipes. text: the default of --text"""
    parser.add_argument("--text", type=Path, default=text, metavar="FILE",
                        help=f"a text in UTF-8 (default: {text.name})")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N",
                        help="seeds of the runs (default: 1 2 3)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="X",
                        help="length of each run (default: that of its recipe)")
    length.add_argument("--steps", type=int, metavar="N", help="length of each run, in steps")
    parser.add_argument("--jobs", type=int, default=1, metavar="N",
                        help="runs side by side, with one thread each if more than 1 (default: 1, with all threads)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to FILE, after each run")


def study(recipes, arguments, holdout):
    """Train and measure recipes, {name: Recipe}, with all seeds. -> the results of all runs

    arguments: those of `add_arguments`; holdout: whether to cut off the last tenth of the text first.
    """
    text = arguments.text.read_bytes().decode("utf-8")
    if holdout:
        text = text[:len(text) * 9 // 10]
    flags = [f"--{name}={value}" for name, value in (("minutes", arguments.minutes), ("steps", arguments.steps))
             if value is not None]
    flags += ["--threads=1"] if arguments.jobs > 1 else []
    about = {"text": str(arguments.text), "bytes": len(text.encode("utf-8")),
             "fingerprint": fingerprint(text.encode("utf-8")), "holdout": holdout, "flags": flags,
             "jobs": arguments.jobs,
             "machine": f"{platform.platform()}, {os.cpu_count()} cores",
             "recipes": {name: {"init": recipe.init, "train": recipe.train} for name, recipe in recipes.items()}}
    runs, seeds = [], list(dict.fromkeys(arguments.seeds))          # the same seed twice gives the same result
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for run in run_all(recipes, prepare(Path(folder), text, recipes), seeds, flags, arguments.jobs):
            runs.append(run)
            print(_row(run["recipe"], run["seed"], run), file=sys.stderr, flush=True)
            if arguments.json:
                with replacing(arguments.json) as file:
                    content = {**about, "runs": runs, "summary": summary(runs)}
                    file.write(json.dumps(content, indent=1).encode("utf-8"))
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, TINY_SHAKESPEARE)
    parser.add_argument("--recipes", nargs="+", default=["default"], choices=list(RECIPES), metavar="NAME",
                        help=f"of: {', '.join(RECIPES)} (default: default)")
    parser.add_argument("--holdout", action="store_true",
                        help="cut off the last tenth of the text first: for choosing hyperparameters without looking "
                        "at the true validation set")
    arguments = parser.parse_args()
    if not arguments.text.exists():
        print(f"Skipped: there is no text at {arguments.text}.")
        return
    runs = study({name: RECIPES[name] for name in arguments.recipes}, arguments, arguments.holdout)
    print("\n".join(markdown(runs)))


if __name__ == "__main__":
    front_door(main)
