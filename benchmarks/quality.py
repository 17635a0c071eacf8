"""How well recipes learn a text: every recipe with several seeds, by the real scripts, measured by every protocol.

    python benchmarks/quality.py                                # the default preset on tiny shakespeare, three seeds:
    ten minutes python benchmarks/quality.py --recipes default shakespeare-10m --jobs 2 --json quality.json python
    benchmarks/quality.py --holdout --minutes 1          # to choose between recipes, without looking at the validation
    part

init.py learns a tokenizer once for all runs that take the same; each train.py is a process of its own, whose seconds
and memory are those of the whole process. Measured are the last weights of the schedule, in nats per byte of the
validation part (the last tenth of the text):

- windows: of block_size tokens, which do not overlap (what training reports)
- sliding: a window every quarter of block_size, so that nearly all tokens are predicted from at least three quarters of it
- random: the mean loss over windows that begin anywhere, as nanoGPT's estimate_loss has it
- 256 bytes: windows that do not overlap, of about as much text as character models with a context of 256 see
- best: the weights with the best validation, as the run itself found and kept them; chosen by what they are measured on
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

from folio.cli.command_line import front_door               # noqa: E402  (it lies at the root)
from folio.base.files import fingerprint, replacing          # noqa: E402
from folio.base.home import Home                             # noqa: E402
from Model_Params import PRESETS, TextParams            # noqa: E402

TINY_SHAKESPEARE = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
PROTOCOLS = ("windows", "sliding", "random", "256 bytes", "best")
COSTS = ("steps", "wall_seconds", "cpu_seconds", "peak_megabytes")
RANDOM_PASSES = 4           # so many times as much as the validation part has
VIEW_BYTES = 256


@dataclass(frozen=True)
class Recipe:
    """Flags for init.py and for train.py."""
    init: tuple = ()
    train: tuple = ()


def of_preset(name):
    """The recipe that is a preset. One whose text is prepared as by default says nothing to init.py, and shares what that makes with the other recipes."""
    preset = "--preset", name
    return Recipe(preset if PRESETS[name].text != TextParams() else (), preset)


RECIPES = {
    **{name: of_preset(name) for name in PRESETS},
    **{f"{seconds}-seconds": Recipe(train=(f"--minutes={seconds / 60:.4f}",))
       for seconds in (5, 10, 20, 50, 90, 180, 600)},
    # The best that was found within 20 minutes of one core (it takes ten): wide, and not many passes over the text
    # (LOG.md).
    "best": Recipe(train=("--steps=640", "--threads=1", "--compile", "--emb-len=192", "--num-layers=6",
                          "--batch-size=16", "--learning-rate=0.003",
                          "--bpe-dropout=0.2")),
    "gpu-20-seconds": Recipe(train=("--minutes=0.3", "--no-compile")),
    "gpu-3-minutes": Recipe(train=("--minutes=3", "--emb-len=384", "--batch-size=16", "--learning-rate=0.002",
                                   "--bpe-dropout=0.2")),
}


# --- One run, in a worker process of its own ---

def train_and_measure(name, recipe, seed, home, flags):
    """Train a Recipe with one seed, then measure. -> {what: value} of PROTOCOLS, COSTS and what tells the run"""
    run = f"{name}-{seed}"
    usage = run_process(ROOT / "train.py", "--home", home.folder, "--name", run, "--seed", seed, *recipe.train, *flags)
    return {"recipe": name, "seed": seed, **measure(home, run, seed), **usage}


def run_process(*words):
    """Run Python on `words` to the end. -> its seconds and its largest memory, as far as the system tells. Raises SystemExit where it fails."""
    started_at = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, *map(str, words)], stdout=output, stderr=subprocess.STDOUT)
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            # Of ru_maxrss, in bytes
            cpu_seconds, unit = usage.ru_utime + usage.ru_stime, 1 if sys.platform == "darwin" else 1024
            told = {"cpu_seconds": cpu_seconds, "peak_megabytes": usage.ru_maxrss * unit / 1e6}
        else:       # Windows keeps no such account of its children
            process.wait()
            told = {"cpu_seconds": time.perf_counter() - started_at, "peak_megabytes": None}
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(map(str, words))} failed:\n{output.read().decode('utf-8', errors='replace')[-2000:]}")
    return {"wall_seconds": time.perf_counter() - started_at, **told}


def measure(home, name, seed):
    """Nats per byte of a finished run's last weights by every protocol, and of its best ones as it found them."""
    # Torch comes with it, and its memory would count as the training's if it came before
    from folio.formats import checkpoint
    from folio.data import corpus
    from folio.base import hardware
    from folio.networks import build as networks
    from folio.evaluation.bits_per_byte import bytes_of_tokens, evaluate, evaluate_random_windows, window_len
    tokenizer, text = corpus.open_corpus(home)
    last, best = checkpoint.load(home.resume(name)), checkpoint.load(home.weights(name))
    device = hardware.settle_device("auto")
    net = checkpoint.network(last | {"params": last["params"]["model"]}, home.resume(name)).to(device).eval()
    block_size = window_len(net)
    view = min(block_size, max(1, round(VIEW_BYTES * text.val_tokens / text.val_bytes)))
    how = {"batch_size": 16, "device": device}
    windows = -(-RANDOM_PASSES * text.val_tokens // block_size)
    scores = {
        "windows": evaluate(net, text.val, text.val_bytes, block_size=block_size, **how),
        "sliding": evaluate(net, text.val, text.val_bytes, block_size=block_size, stride=max(1, block_size // 4),
                            **how),
        "random": evaluate_random_windows(net, text.val, bytes_of_tokens(tokenizer), windows=windows, seed=seed,
                                          block_size=block_size, **how),
        "256 bytes": evaluate(net, text.val, text.val_bytes, block_size=view, **how),
    }
    return {**{protocol: score.nats_per_byte for protocol, score in scores.items()}, "best": best["val_nats_per_byte"],
            "best_step": best["step"], "steps": last["progress"]["step"], "view_tokens": view,
            "parameters": networks.count_parameters(net)}


# --- All runs ---

def prepare(folder, text, recipes):
    """Run init.py once for all recipes, {name: Recipe}, that want the same of it. -> {name: Home}"""
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
    """Yield the results of all runs, `jobs` of them side by side, as they come. recipes: {name: Recipe}, homes: {name: Home}"""
    context = get_context("spawn")
    # A new worker each time is a small one: see measure
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as workers:
        waiting = [workers.submit(train_and_measure, name, recipe, seed, homes[name], flags) for name,
                   recipe in recipes.items() for seed in seeds]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            workers.shutdown(cancel_futures=True)


def summary(runs):
    """{recipe: {"mean": {what: value}, "deviation": {what: value}}}, over the seeds; no deviation of a single one."""
    told = {}
    for recipe in dict.fromkeys(run["recipe"] for run in runs):
        columns = {what: [run[what] for run in runs if run["recipe"] == recipe and run[what] is not None]
                   for what in (*PROTOCOLS, *COSTS)}
        told[recipe] = {"mean": {what: statistics.mean(values) for what, values in columns.items() if values},
                        "deviation": {what: statistics.stdev(values) for what, values in columns.items()
                                      if len(values) > 1}}
    return told


def markdown(runs):
    """The lines of a table: seed by seed, then mean and standard deviation of each recipe."""
    yield f"| recipe | seed | {' | '.join(PROTOCOLS)} | steps | wall s | CPU s | peak MB |"
    yield "| --- " * (2 + len(PROTOCOLS) + len(COSTS)) + "|"
    for recipe, told in summary(runs).items():
        for run in sorted((run for run in runs if run["recipe"] == recipe), key=lambda run: run["seed"]):
            yield _row(recipe, run["seed"], run)
        yield _row(recipe, "**mean**", told["mean"])
        if told["deviation"]:
            yield _row(recipe, "deviation", told["deviation"])


def _row(recipe, seed, values):
    cells = [f"{values[what]:.4f}" if values.get(what) is not None else "" for what in PROTOCOLS]
    cells += [f"{values[what]:,.0f}" if values.get(what) is not None else "" for what in COSTS]
    return f"| {' | '.join([recipe, str(seed), *cells])} |"


def add_arguments(parser, text):
    """What every study of recipes takes. text: the path that is read by default"""
    parser.add_argument("--text", type=Path, default=text, metavar="FILE",
                        help=f"a text in UTF-8 (default: {text.name})")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N", help="(default: 1 2 3)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="X",
                        help="how long each run trains (default: as its recipe says)")
    length.add_argument("--steps", type=int, metavar="N", help="the same, in steps")
    parser.add_argument("--jobs", type=int, default=1, metavar="N",
                        help="runs side by side, then of one thread each (default: 1, with all threads)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, again after each run")


def study(recipes, arguments, holdout):
    """Train and measure all recipes, {name: Recipe}, as the arguments say, and write what is asked for. -> the results of all runs

    holdout: whether to cut off the last tenth of the text first.
    """
    text = arguments.text.read_bytes().decode("utf-8")
    if holdout:
        text = text[:len(text) * 9 // 10]
    flags = [f"--{name}={value}" for name, value in (("minutes", arguments.minutes), ("steps", arguments.steps))
             if value is not None]
    flags += ["--threads=1"] if arguments.jobs > 1 else []
    about = {"text": str(arguments.text), "bytes": len(text.encode("utf-8")),
             "fingerprint": fingerprint(text.encode("utf-8")),
             "holdout": holdout, "flags": flags, "jobs": arguments.jobs,
             "machine": f"{platform.platform()}, {os.cpu_count()} cores",
             "recipes": {name: {"init": recipe.init, "train": recipe.train} for name, recipe in recipes.items()}}
    runs, seeds = [], list(dict.fromkeys(arguments.seeds))          # twice the same says nothing more
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for run in run_all(recipes, prepare(Path(folder), text, recipes), seeds, flags, arguments.jobs):
            runs.append(run)
            print(_row(run["recipe"], run["seed"], run), file=sys.stderr, flush=True)
            if arguments.json:
                with replacing(arguments.json) as file:
                    file.write(json.dumps({**about, "runs": runs, "summary": summary(runs)}, indent=1).encode("utf-8"))
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, TINY_SHAKESPEARE)
    parser.add_argument("--recipes", nargs="+", default=["default"], choices=list(RECIPES), metavar="NAME",
                        help=f"of: {', '.join(RECIPES)} (default: default)")
    parser.add_argument("--holdout", action="store_true",
                        help="cut off the last tenth of the text first: for choosing hyperparameters, so that the true validation part is never seen")
    arguments = parser.parse_args()
    if not arguments.text.exists():
        print(f"Skipped: there is no text at {arguments.text}.")
        return
    print("\n".join(markdown(study({name: RECIPES[name] for name in arguments.recipes}, arguments, arguments.holdout))))


if __name__ == "__main__":
    front_door(main)
