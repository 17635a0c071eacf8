"""Hash what training and generation compute, to prove that a change of the code's structure changes no result.

    python benchmarks/same_results.py                       # three minutes: a hash for each result, as JSON
    python benchmarks/same_results.py > before.json         # before the change
    python benchmarks/same_results.py --against before.json # after it: exit code 1 where a hash differs

Five presets train 50 steps each with one thread in float32, and every model completes a prompt. Variants cover what the
presets leave out: gradient accumulation, bfloat16, consecutive batches, a killed and resumed run, fine-tuning and two
processes. Only the scripts and commands are called, and only tensors, losses and texts are hashed, so names of modules
and settings may change between two measurements. Hashes hold for one machine, one processor and one version of torch.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
STEPS = 50
FIXED = ["--precision", "fp32", "--threads", "1", "--no-compile", "--device", "cpu", "--eval-interval", "25"]
PRESETS = {         # smaller batches where a step would take seconds
    "default": [],
    "personal": [],
    "llm-example": ["--batch-size", "4"],
    "micropgpt": ["--batch-size", "4"],
    "llm-v0": [],
}
VARIANTS = {
    "accumulated": ["--preset", "default", "--micro-batch-size", "2", "--emb-len", "64"],
    "bfloat16": ["--preset", "default", "--precision", "bf16", "--emb-len", "64"],
    "consecutive": ["--preset", "llm-v0", "--batches", "consecutive"],
    "gpt2": ["--preset", "default", "--family", "classic", "--positions", "learned", "--norm", "layer", "--mlp", "gelu",
             "--dropout", "0.1", "--emb-len", "64", "--batches", "shuffled", "--schedule", "cosine"],
}
GENERATION = {
    "sampled": ["--temperature", "0.9", "--top-p", "0.95", "--repetition-penalty", "1.1", "--samples", "3",
                "--seed", "7"],
    "greedy": ["--temperature", "0", "--tokens", "150"],
    "beams": ["--beams", "3", "--tokens", "40"],
}
PROMPT = "MERRAN:\nThe sea"


def run(script, *words, launcher=()):
    """Run a script or module of the repository. -> its stdout, as bytes"""
    target = [str(ROOT / script)] if script.endswith(".py") else ["-m", script]
    command = [sys.executable, *launcher, *target, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr.decode(errors='replace')[-2000:]}")
    return done.stdout


def hash_tensors(value):
    """Return the hash of all tensors in nested dicts and lists, with their keys, in the order of the keys."""
    digest = hashlib.sha256()

    def feed(path, value):
        if isinstance(value, torch.Tensor):
            digest.update(path.encode())
            # A scalar cannot be viewed as bytes.
            values = value.contiguous().view(torch.uint8) if value.dim() else value
            digest.update(values.numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                feed(f"{path}/{key}", value[key])
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                feed(f"{path}/{number}", item)

    feed("", value)
    return digest.hexdigest()[:16]


def hash_log(path):
    """Return the hash of the losses in a run's log."""
    losses = [[value for key, value in sorted(json.loads(line).items())
               if "nats" in key or "bits" in key or "loss" in key]
              for line in path.read_text(encoding="utf-8").splitlines()]
    return hashlib.sha256(json.dumps(losses).encode()).hexdigest()[:16]


def hash_run(home, name):
    """Hash the weights, the resume file, the losses and the generated texts of a run. -> {name: hash}"""
    saved = home / "Saved_Weights"
    hashes = {kind: hash_tensors(torch.load(saved / f"{kind}-{name}.pth", weights_only=True))
              for kind in ("weights", "resume")}
    hashes["losses"] = hash_log(saved / f"log-{name}.jsonl")
    for kind, flags in GENERATION.items():
        text = run("run.py", PROMPT, "--home", home, "--weights", name, "--tokens", 100, *flags)
        hashes[kind] = hashlib.sha256(text).hexdigest()[:16]
    return hashes


def measure(folder):
    """Yield (run, {name: hash}) of every run."""
    text = (ROOT / "Train_Data" / "input.txt").read_bytes()

    def home_with_text(name):
        home = folder / name
        (home / "Train_Data").mkdir(parents=True)
        (home / "Train_Data" / "input.txt").write_bytes(text)
        return home

    for preset, flags in PRESETS.items():
        home = home_with_text(preset)
        run("train.py", "--home", home, "--preset", preset, "--steps", STEPS, *FIXED, *flags)
        yield preset, hash_run(home, preset) | {"tokens": hash_files((home / "Train_Data" / "tokens").glob("*.npy"))}
    for name, flags in VARIANTS.items():
        home = home_with_text(name)
        run("train.py", "--home", home, "--name", name, "--steps", STEPS, *FIXED, *flags)
        yield name, hash_run(home, name)
    home = folder / "default"
    run("train.py", "--home", home, "--start-from", "default", "--name", "tuned", "--steps", 20, *FIXED)
    run("train.py", "--home", home, "--resume", "--name", "tuned", "--steps", 40)
    yield "tuned, resumed", hash_run(home, "tuned")
    run("train.py", "--home", home, "--name", "two", "--steps", 20, *FIXED, "--emb-len", 64,
        launcher=["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])
    yield "two processes", hash_run(home, "two")
    figures = run("folio.evaluate", "--home", home, "--weights", "default")
    yield "evaluate", {"figures": hashlib.sha256(figures).hexdigest()[:16]}
    report = run("folio.tokens", ROOT / "Train_Data" / "input.txt", "--home", home)
    yield "tokens", {"report": hashlib.sha256(report).hexdigest()[:16]}


def hash_files(paths):
    """Return the hash of the contents of files, in the order of their contents."""
    return hashlib.sha256(b"".join(sorted(path.read_bytes() for path in paths))).hexdigest()[:16]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--against", type=Path, metavar="FILE",
                        help="compare with the hashes of an earlier call")
    arguments = parser.parse_args()
    before = json.loads(arguments.against.read_text(encoding="utf-8")) if arguments.against else None
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, hashes in measure(Path(folder)):
            found[name] = hashes
            print(f"{name}: {hashes}", file=sys.stderr)
    print(json.dumps(found, indent=1))
    if before is not None:
        different = [f"{run}, {name}" for run in sorted({*found, *before})
                     for name in sorted({*found.get(run, {}), *before.get(run, {})})
                     if found.get(run, {}).get(name) != before.get(run, {}).get(name)]
        sys.exit(f"Not the same: {'; '.join(different)}" if different else None)


if __name__ == "__main__":
    main()
