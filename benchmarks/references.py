"""The presets that follow other projects, each trained by its one command, and Folio's default in the same time beside it.

    python benchmarks/references.py                                 # on two cores some hours: half an hour a preset,
    and as long for the default python benchmarks/references.py --presets personal llm-v0 --limit 5 --jobs 2 --json
    references.json

On tiny shakespeare where it is, else on the plays. A few steps of each preset are timed first. Where all of them would
take longer than --limit, as many are made as fit into it (whole epochs, where a preset counts in these), and the time
of all is predicted from theirs; where not even a tenth fit, the few that were timed, which are not compiled, are all
there is. Nats per byte are those of the weights that are best on the text held out, as they are kept for run.py. The
default holds out as much of the text as the preset beside it, and has the time that the preset took, all of its
process, or else the limit.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from quality import TINY_SHAKESPEARE, run_process       # noqa: E402  (it lies there)

from folio.formats import checkpoint, run_log     # noqa: E402  (they lie at the root)
from folio.data import corpus     # noqa: E402  (they lie at the root)
from folio.training import sizes     # noqa: E402  (they lie at the root)
from folio.data.batches import steps_per_epoch               # noqa: E402
from folio.cli.command_line import front_door               # noqa: E402
from folio.base.files import fingerprint, replacing          # noqa: E402
from folio.base.home import Home                             # noqa: E402
from Model_Params import PRESETS, ModelParams           # noqa: E402

PLAYS = ROOT / "Train_Data" / "input.txt"
PROJECTS = {                # what the page of the project that a preset follows tells of the result
    "personal": "about 85K parameters",
    "llm-example": "about 4M parameters",
    "shakespeare-10m": "10,788,929 parameters",
    "micropgpt": "",
    "llm-v0": "training loss about 1.28 after 10 epochs of about 2 minutes on a GTX 1660 Ti",
}
TIMED_STEPS = 30            # with an evaluation every hundred, the log has a line every ten; the first ten warm up
WORTH_TRAINING = 0.1        # of a preset's steps


# --- One run of each kind ---

def train_preset(preset, home, limit, flags):
    """Train a preset for at most about `limit` seconds. -> {what: value}: of_steps are all that the preset has, predicted_seconds what these take,
    where they are not all made; of a finished run also what `train` tells."""
    training, block_size = PRESETS[preset].training, PRESETS[preset].model.block_size
    run_process(ROOT / "train.py", "--home", home.folder, "--preset", preset, "--name", "timed", "--steps", TIMED_STEPS,
                "--eval-interval", 100,
                "--closing-tokens", 0, *flags)
    speed = statistics.median(line["tokens_per_second"] for line in run_log.read(home.log("timed"))[1:])
    seconds_per_step = training.batch_size * block_size / speed
    fitting = int(limit / seconds_per_step)
    epoch = math.ceil(steps_per_epoch(corpus.open_corpus(home)[1].train_tokens, batch_size=training.batch_size,
                                      block_size=block_size, batches=training.batches))
    whole = training.steps or training.epochs * epoch
    if not training.steps and epoch < fitting < whole:
        fitting -= fitting % epoch
    if fitting < WORTH_TRAINING * whole:
        return {"preset": preset, "of_steps": whole, "predicted_seconds": whole * seconds_per_step,
                "parameters": parameters_of(home, "timed")}
    run = train("all", home, ["--preset", preset, *(["--steps", fitting] if fitting < whole else []), *flags])
    return {"preset": preset, "of_steps": whole, "predicted_seconds": run["seconds"] * whole / fitting
            if fitting < whole else None, **run}


def train(name, home, flags):
    """Train in a process of its own. -> its parameters, steps and seconds (of the whole process), nats per byte and perplexity (by token) of the text
    held out, the loss in training (nats per token), and the longest line that it wrote at the end"""
    seconds = run_process(ROOT / "train.py", "--home", home.folder, "--name", name, *flags)["wall_seconds"]
    nats, text, last = checkpoint.load(home.weights(name))["val_nats_per_byte"], corpus.open_corpus(home)[1], run_log.read(home.log(name))[-1]
    return {"parameters": parameters_of(home, name), "steps": last["step"], "seconds": seconds, "nats_per_byte": nats,
            "perplexity": math.exp(nats * text.val_bytes / text.val_tokens), "training_loss": last["train_loss"],
            "sample": max(last["sample"].split("\n"), key=len)}


def parameters_of(home, name):
    """How many parameters the network of a run has."""
    return sizes.count_parameters(ModelParams(**checkpoint.load(home.weights(name))["params"]))


# --- All of them ---

def prepare(folder, text, presets):
    """Run init.py for each preset, and for the default with as much of the text held out. -> {preset: its Home}, {val_fraction: the default's Home}"""
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8", newline="")
    homes, defaults = {}, {}
    for preset in presets:
        homes[preset] = Home(folder / preset)
        run_process(ROOT / "init.py", path, "--home", homes[preset].folder, "--preset", preset)
        held_out = PRESETS[preset].text.val_fraction
        if held_out not in defaults:
            defaults[held_out] = Home(folder / f"default-{held_out}")
            run_process(ROOT / "init.py", path, "--home", defaults[held_out].folder, "--val-fraction", held_out)
    return homes, defaults


def run_all(homes, defaults, limit, flags, jobs):
    """Yield a result for each preset, with the default's under "default": `jobs` runs side by side, as they come."""
    with ThreadPoolExecutor(jobs) as workers:           # the work is done in the processes that they wait for
        trained = [workers.submit(train_preset, preset, home, limit, flags) for preset, home in homes.items()]
        beside, waiting = {}, {}
        try:
            for done in as_completed(trained):
                result = done.result()
                # Those that stop at the limit share one run of the default.
                seconds = round(limit if result["predicted_seconds"] else result["seconds"])
                key = PRESETS[result["preset"]].text.val_fraction, seconds
                if key not in beside:
                    beside[key] = workers.submit(train, f"default-{seconds}", defaults[key[0]],
                                                 ["--minutes", seconds / 60, *flags])
                waiting.setdefault(beside[key], []).append(result)
            for done in as_completed(waiting):
                yield from ({**result, "default": done.result()} for result in waiting[done])
        finally:
            workers.shutdown(cancel_futures=True)


def markdown(results):
    """The lines of a table, in the order of PROJECTS."""
    yield ("| preset | parameters | steps | seconds | nats per byte | perplexity | training loss | a line of it | the project's own figure "
           "| Folio's default in that time |")
    yield "| --- " * 10 + "|"
    for result in sorted(results, key=lambda result: list(PROJECTS).index(result["preset"])):
        steps = f"{result['of_steps']:,}" if not result["predicted_seconds"] else f"{result.get('steps', 0):,} of {result['of_steps']:,}"
        seconds = _figure(result, "seconds",
                          ",.0f") + f" (of {_figure(result, 'predicted_seconds', ',.0f')}, predicted)" * bool(result["predicted_seconds"])
        default = result["default"]
        beside = f"{_figure(default, 'nats_per_byte', '.4f')} ({default['parameters']:,} parameters): {_quoted(default['sample'])}"
        cells = [f"`{result['preset']}`", f"{result['parameters']:,}", steps, seconds.strip(),
                 _figure(result, "nats_per_byte", ".4f"),
                 _figure(result, "perplexity", ".2f"), _figure(result, "training_loss", ".3f"),
                 _quoted(result.get("sample", "")),
                 PROJECTS[result["preset"]], beside]
        yield f"| {' | '.join(cells)} |"


def _figure(values, what, form):
    return "" if values.get(what) is None else format(values[what], form)


def _quoted(line):
    """A line in italics, without what would mean something else in a table."""
    line = "".join(letter if letter.isprintable() and letter not in "|*" else " " for letter in line).strip()
    return f"*{line}*" if line else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, metavar="FILE",
                        help="a text in UTF-8 (default: tiny shakespeare where it is, else the plays)")
    parser.add_argument("--presets", nargs="+", default=list(PROJECTS), choices=PROJECTS, metavar="NAME",
                        help=f"of: {', '.join(PROJECTS)} (default: all)")
    parser.add_argument("--limit", type=float, default=30, metavar="MINUTES",
                        help="longest that a preset trains (default: 30)")
    parser.add_argument("--threads", type=int, metavar="N",
                        help="of each run (default: one a core, or 1 with several jobs)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, again after each preset")
    arguments = parser.parse_args()
    path = arguments.text or (TINY_SHAKESPEARE if TINY_SHAKESPEARE.exists() else PLAYS)
    text = path.read_bytes().decode("utf-8")
    threads = arguments.threads or (1 if arguments.jobs > 1 else None)
    flags = [f"--threads={threads}"] if threads else []
    about = {"text": path.name, "bytes": len(text.encode("utf-8")), "fingerprint": fingerprint(text.encode("utf-8")),
             "limit_minutes": arguments.limit,
            "flags": flags, "jobs": arguments.jobs, "machine": f"{platform.platform()}, {os.cpu_count()} cores"}
    results = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        homes, defaults = prepare(Path(folder), text, dict.fromkeys(arguments.presets))
        for result in run_all(homes, defaults, 60 * arguments.limit, flags, arguments.jobs):
            results.append(result)
            print(f"{result['preset']}: done", file=sys.stderr, flush=True)
            if arguments.json:
                with replacing(arguments.json) as file:
                    file.write(json.dumps({**about, "results": results}, indent=1, ensure_ascii=False).encode("utf-8"))
    print("\n".join(markdown(results)))


if __name__ == "__main__":
    front_door(main)
