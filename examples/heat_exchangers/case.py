"""Run the whole case: write the texts, train a model on sheets, teach it to answer, and measure what it answers.

    python examples/heat_exchangers/case.py FOLDER                          # 1 million parameters, 30 minutes
    python examples/heat_exchangers/case.py FOLDER --size 5M --minutes 30
    python examples/heat_exchangers/case.py FOLDER --size 30M               # for a GPU
    python examples/heat_exchangers/case.py FOLDER --digits merged --answers short

Each step is one of Folio's own commands, which is printed before it runs.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Width, layers and heads: 0.06, 0.9, 5.0 and 32 million parameters.
SIZES = {"tiny": (32, 2, 1), "1M": (128, 4, 4), "5M": (256, 6, 4), "30M": (576, 8, 9)}
# A pattern of single digits, and one with up to three digits in a token: those need a vocabulary with room for them.
DIGITS = {"single": ("qwen2", 512), "merged": ("llama3", 2048)}
SHARE_OF_SHEETS = 0.125         # of the time; the rest is for the questions
# The questions are most of what is learned, not a last touch: batches and a learning rate as for text.
TEACHING = ("--batch-size", 8, "--learning-rate", 0.003)


def run(script, *words):
    """Run one of Folio's commands. Exits with its code where it fails."""
    command = [*script, *map(str, words)]
    print("\n$ python", *command, flush=True)
    if code := subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        sys.exit(code)


def main():
    """Parse the command line and run the case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="1M")
    parser.add_argument("--digits", choices=DIGITS, default="single")
    parser.add_argument("--answers", choices=("steps", "short"), default="steps")
    parser.add_argument("--minutes", type=float, default=30, help="of training in all (default: %(default)s)")
    parser.add_argument("--exchangers", type=int, default=30_000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="processor threads (default: up to one per core, measured)")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    run([HERE / "generate.py"], folder, "--exchangers", arguments.exchangers, "--answers", arguments.answers)
    pattern, vocab_size = DIGITS[arguments.digits]
    run(["init.py"], folder / "sheets.txt", "--home", folder, "--pattern", pattern, "--vocab-size", vocab_size)
    width, layers, heads = SIZES[arguments.size]
    # A form that never varies: names of fields in other tokens would only make it harder to find their values.
    usual = "--home", folder, "--device", arguments.device, "--bpe-dropout", 0
    usual += ("--threads", arguments.threads) if arguments.threads else ()
    run(["train.py"], *usual, "--name", "sheets", "--emb-len", width, "--num-layers", layers, "--num-heads", heads,
        "--minutes", SHARE_OF_SHEETS * arguments.minutes)
    run(["train.py"], *usual, "--name", "answers", "--start-from", "sheets", "--chat", folder / "questions.jsonl",
        *TEACHING, "--minutes", (1 - SHARE_OF_SHEETS) * arguments.minutes)
    for kind in ("fields", "formulas"):
        run(["-m", "folio.evaluate"], "--home", folder, "--weights", "answers", "--pairs", folder / f"{kind}.jsonl",
            "--learned", folder / "questions.jsonl", "--tokens", 250, "--csv", folder / f"{kind}.csv")


if __name__ == "__main__":
    main()
