"""The presets that follow other projects, each trained by its own command, beside Folio's default in the same time.

    python benchmarks/references.py             # hours on two cores: half an hour a preset, and as long for the default
    python benchmarks/references.py --presets personal llm-v0 --limit 5 --jobs 2 --json references.json

The text is tiny shakespeare if it is there, and else the plays. A few steps of each preset are timed first. If all its
steps would take longer than --limit, it trains as many as fit (whole epochs for a preset that counts in epochs), and
the time of all steps is extrapolated. If less than a tenth fits, the timed steps, which are not compiled, are all.
Nats per byte are those of the weights with the best validation loss, which run.py uses. The default preset has the same
share of validation text as the preset beside it, and the wall-clock time of the preset's process or the limit.
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

from quality import TINY_SHAKESPEARE, run_process  # after the change of sys.path

from folio.base.files import fingerprint, replacing
from folio.base.home import Home
from folio.cli.command_line import front_door
from folio.data import corpus
from folio.data.batches import steps_per_epoch
from folio.formats import checkpoint, run_log
from folio.training import sizes
from Model_Params import PRESETS, ModelParams

PLAYS = ROOT / "Train_Data" / "input.txt"
PROJECTS = {                # preset -> the result that the project it follows states on its page
    "personal": "about 85K parameters",
    "llm-example": "about 4M parameters",
    "shakespeare-10m": "10,788,929 parameters",
    "micropgpt": "",
    "llm-v0": "training loss about 1.28 after 10 epochs of about 2 minutes on a GTX 1660 Ti",
}
TIMED_STEPS = 30            # with an evaluation every 100 the log has a line every 10; the first 10 steps warm up
WORTH_TRAINING = 0.1        # share of a preset's steps that has to fit into the limit


# --- One run of each kind ---

def train_preset(preset, home, limit, flags):
    """Train a preset for at most about `limit` seconds. -> {name: value}

    of_steps: all steps of the preset; predicted_seconds: their time, extrapolated if not all are made, and else None;
    with them the result of `train`, if the preset was trained.
    """
    training, block_size = PRESETS[preset].training, PRESETS[preset].model.block_size
    run_process(ROOT / "train.py", "--home", home.folder, "--preset", preset, "--name", "timed", "--steps", TIMED_STEPS,
                "--eval-interval", 100, "--closing-tokens", 0, *flags)
    speed = statistics.median(line["tokens_per_second"] for line in run_log.read(home.log("timed"))[1:])
    seconds_per_step = training.batch_size * block_size / speed
    fitting = int(limit / seconds_per_step)
    train_tokens = corpus.open_corpus(home)[1].train_tokens
    epoch = math.ceil(steps_per_epoch(train_tokens, batch_size=training.batch_size, block_size=block_size,
                                      batches=training.batches))
    whole = training.steps or training.epochs * epoch
    if not training.steps and epoch < fitting < whole:
        fitting -= fitting % epoch
    if fitting < WORTH_TRAINING * whole:
        return {"preset": preset, "of_steps": whole, "predicted_seconds": whole * seconds_per_step,
                "parameters": parameters_of(home, "timed")}
    if fitting >= whole:
        run = train("all", home, ["--preset", preset, *flags])
        return {"preset": preset, "of_steps": whole, "predicted_seconds": None, **run}
    run = train("all", home, ["--preset", preset, "--steps", fitting, *flags])
    return {"preset": preset, "of_steps": whole, "predicted_seconds": run["seconds"] * whole / fitting, **run}


def train(name, home, flags):
    """Train in a process of its own. -> {name: value}

    seconds: of the whole process; nats_per_byte and perplexity (per token): of the validation set; training_loss: in
    nats per token; sample: the longest line of the text generated at the end.
    """
    seconds = run_process(ROOT / "train.py", "--home", home.folder, "--name", name, *flags)["wall_seconds"]
    nats = checkpoint.load(home.weights(name))["val_nats_per_byte"]
    text, last = corpus.open_corpus(home)[1], run_log.read(home.log(name))[-1]
    return {"parameters": parameters_of(home, name), "steps": last["step"], "seconds": seconds, "nats_per_byte": nats,
            "perplexity": math.exp(nats * text.val_bytes / text.val_tokens), "training_loss": last["train_loss"],
            "sample": max(last["sample"].split("\n"), key=len)}


def parameters_of(home, name):
    """Return the number of trainable parameters of a run's network."""
    return sizes.count_parameters(ModelParams(**checkpoint.load(home.weights(name))["params"]))


# --- All presets ---

def prepare(folder, text, presets):
    """Run init.py for each preset, and for the default preset with each share of validation text.

    -> {preset: Home}, {val_fraction: Home of the default}
    """
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
    """Yield the result of each preset when it is done, with that of the default in the same time under "default".

    jobs: runs side by side.
    """
    with ThreadPoolExecutor(jobs) as workers:           # the threads only wait for processes
        trained = [workers.submit(train_preset, preset, home, limit, flags) for preset, home in homes.items()]
        beside, waiting = {}, {}
        try:
            for done in as_completed(trained):
                result = done.result()
                # Presets that stop at the limit share one run of the default.
                seconds = round(limit if result["predicted_seconds"] else result["seconds"])
                key = PRESETS[result["preset"]].text.val_fraction, seconds
                if key not in beside:
                    words = ["--minutes", seconds / 60, *flags]
                    beside[key] = workers.submit(train, f"default-{seconds}", defaults[key[0]], words)
                waiting.setdefault(beside[key], []).append(result)
            for done in as_completed(waiting):
                yield from ({**result, "default": done.result()} for result in waiting[done])
        finally:
            workers.shutdown(cancel_futures=True)


def markdown(results):
    """Yield the lines of a table, in the order of PROJECTS."""
    yield ("| preset | parameters | steps | seconds | nats per byte | perplexity | training loss | a line of it "
           "| the project's own figure | Folio's default in that time |")
    yield "| --- " * 10 + "|"
    for result in sorted(results, key=lambda result: list(PROJECTS).index(result["preset"])):
        steps, seconds = f"{result['of_steps']:,}", _figure(result, "seconds", ",.0f")
        if result["predicted_seconds"]:
            steps = f"{result.get('steps', 0):,} of {steps}"
            seconds = f"{seconds} (of {_figure(result, 'predicted_seconds', ',.0f')}, predicted)".strip()
        default = result["default"]
        beside = (f"{_figure(default, 'nats_per_byte', '.4f')} ({default['parameters']:,} parameters): "
                  f"{_quoted(default['sample'])}")
        cells = [f"`{result['preset']}`", f"{result['parameters']:,}", steps, seconds,
                 _figure(result, "nats_per_byte", ".4f"), _figure(result, "perplexity", ".2f"),
                 _figure(result, "training_loss", ".3f"), _quoted(result.get("sample", "")),
                 PROJECTS[result["preset"]], beside]
        yield f"| {' | '.join(cells)} |"


def _figure(values, name, form):
    return "" if values.get(name) is None else format(values[name], form)


def _quoted(line):
    """Return a line in italics, without characters that have a meaning in a Markdown table."""
    line = "".join(letter if letter.isprintable() and letter not in "|*" else " " for letter in line).strip()
    return f"*{line}*" if line else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, metavar="FILE",
                        help="a text in UTF-8 (default: tiny shakespeare if it is there, and else the plays)")
    parser.add_argument("--presets", nargs="+", default=list(PROJECTS), choices=PROJECTS, metavar="NAME",
                        help=f"of: {', '.join(PROJECTS)} (default: all)")
    parser.add_argument("--limit", type=float, default=30, metavar="MINUTES",
                        help="maximum time of a preset (default: 30)")
    parser.add_argument("--threads", type=int, metavar="N",
                        help="threads of each run (default: one per core, or 1 with several jobs)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to FILE, after each preset")
    arguments = parser.parse_args()
    path = arguments.text or (TINY_SHAKESPEARE if TINY_SHAKESPEARE.exists() else PLAYS)
    text = path.read_bytes().decode("utf-8")
    threads = arguments.threads or (1 if arguments.jobs > 1 else None)
    flags = [f"--threads={threads}"] if threads else []
    about = {"text": path.name, "bytes": len(text.encode("utf-8")), "fingerprint": fingerprint(text.encode("utf-8")),
             "limit_minutes": arguments.limit, "flags": flags, "jobs": arguments.jobs,
             "machine": f"{platform.platform()}, {os.cpu_count()} cores"}
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
