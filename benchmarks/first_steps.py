"""What a new user waits for: init.py, the first new token of run.py, tokens per second, and the default training.

    python benchmarks/first_steps.py              # about a minute
    python benchmarks/first_steps.py --train      # and train the default preset on tiny shakespeare, three minutes more

Every figure is the median of several runs of the scripts in processes of their own, with the shipped model.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TINY_SHAKESPEARE = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
PROMPT = "MERRAN:\n"


def seconds_of(*words):
    """Return the wall-clock seconds of one script, from the start of its process to its end."""
    started_at = time.perf_counter()
    subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True)
    return time.perf_counter() - started_at


def seconds_to_first_token():
    """Return the seconds from the start of run.py to the first byte after the prompt."""
    started_at = time.perf_counter()
    words = [sys.executable, str(ROOT / "run.py"), PROMPT, "--weights", "pretrained", "--tokens", "50", "--seed", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.read(len(PROMPT) + 1)
        waited = time.perf_counter() - started_at
        process.stdout.read()
    return waited


def tokens_per_second(model, tokens=400):
    """Return the tokens per second of one sequence with a loaded model."""
    started_at = time.perf_counter()
    model.complete(PROMPT, tokens=tokens, seed=1)
    return tokens / (time.perf_counter() - started_at)


def median(measure, times):
    """Return the median of several measurements."""
    return statistics.median(measure() for _ in range(times))


def train_default(home):
    """Train the default preset on tiny shakespeare. -> the last line of its log, the seconds of the whole process"""
    subprocess.run([sys.executable, ROOT / "init.py", TINY_SHAKESPEARE, "--home", home], check=True,
                   capture_output=True)
    seconds = seconds_of(ROOT / "train.py", "--home", home)
    log = Path(home) / "Saved_Weights" / "log-default.jsonl"
    return json.loads(log.read_text(encoding="utf-8").splitlines()[-1]), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true", help="train the default preset on tiny shakespeare as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        seconds = median(lambda: seconds_of(ROOT / "init.py", ROOT / "Train_Data" / "input.txt", "--home", home), 3)
        print(f"init.py on the plays        {seconds:.2f} s")
    print(f"train.py --help             {median(lambda: seconds_of(ROOT / 'train.py', '--help'), 5):.2f} s")
    print(f"run.py to its first token   {median(seconds_to_first_token, 5):.2f} s")
    sys.path.insert(0, str(ROOT))
    from folio import load
    model = load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    tokens_per_second(model)        # the first call warms up
    print(f"run.py, one sequence        {median(lambda: tokens_per_second(model), 5):.0f} tokens/s")
    if arguments.train and not TINY_SHAKESPEARE.exists():
        print(f"The training is skipped: tiny shakespeare is not at {TINY_SHAKESPEARE}.")
    elif arguments.train:
        with tempfile.TemporaryDirectory() as home:
            last, seconds = train_default(home)
        print(f"train.py, tiny shakespeare  {last['val_nats_per_byte']:.4f} nats/byte after {seconds:.0f} s and "
              f"{last['step']} steps")


if __name__ == "__main__":
    main()
