"""Prove that train.py --preferences changes what is preferred and little else: a synthetic preference for questions.

    python benchmarks/preferences.py            # on two quiet cores about three minutes

The shipped model writes what MERRAN says after some lines of its plays. Of its own continuations, cut after their first
sentence, those that end in a question mark are preferred to others of the same prompt. After the run the rate of
questions in fresh continuations is compared with the rate before, and so are the bits per byte of the held-out text.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from folio.base.home import Home  # they lie at the root
from folio.formats import checkpoint
from folio.generation import language_model

SHIPPED = ROOT / "Saved_Weights" / "weights-pretrained.pth"
AT_ONCE = 128               # continuations in a batch
FRESH = 200                 # prompts that are continued before and after
TOKENS = 40                 # of a continuation


def beginnings(text, count, seed):
    """Return lines of a text, each with the name of the one who speaks next."""
    drawn = random.Random(seed)
    lines = [line for line in text.split("\n") if len(line) > 25]
    return [f"{drawn.choice(lines)}\n\nMERRAN:\n" for _ in range(count)]


def sentences(model, prompts, seed, temperature=1.0):
    """Yield (prompt, its continuation up to the end of a sentence) of those that have one."""
    for first in range(0, len(prompts), AT_ONCE):
        part = prompts[first:first + AT_ONCE]
        found = model.complete_each(part, tokens=TOKENS, temperature=temperature, seed=seed + first)
        for prompt, text in zip(part, found):
            if end := re.search("[.!?]", text):
                yield prompt, text[:end.end()]


def question_rate(model, prompts):
    """Return the share of fresh continuations whose first sentence is a question, at run.py's usual temperature."""
    found = list(sentences(model, prompts, seed=10_000, temperature=None))
    return sum(text.endswith("?") for _, text in found) / len(found)


def write_pairs(model, text, path, prompts, answers, most):
    """Write pairs of a model's own continuations: questions are preferred. -> how many there are"""
    questions, others = defaultdict(list), defaultdict(list)
    asked = [prompt for prompt in beginnings(text, prompts, seed=1) for _ in range(answers)]
    for prompt, answer in sentences(model, asked, seed=1):
        (questions if answer.endswith("?") else others)[prompt].append(answer)
    pairs = [{"prompt": prompt, "chosen": question, "rejected": other}
             for prompt in questions for question, other in zip(questions[prompt], others[prompt])]
    random.Random(1).shuffle(pairs)
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs[:most]), encoding="utf-8")
    return len(pairs[:most])


def measure(home, prompts=700, answers=4, most=500, flags=()):
    """Train on such pairs in a home. -> {what was measured: number}"""
    text = (ROOT / "Train_Data" / "input.txt").read_text(encoding="utf-8")
    for name in ("Train_Data", "tokenizer_save"):
        shutil.copytree(ROOT / name, home.folder / name)
    model, fresh = language_model.load(SHIPPED), beginnings(text, FRESH, seed=2)
    pairs = home.folder / "pairs.jsonl"
    count = write_pairs(model, text, pairs, prompts, answers, most)
    done = subprocess.run([sys.executable, ROOT / "train.py", "--home", home.folder, "--start-from", SHIPPED,
                           "--preferences", pairs, "--sample-tokens", "0", "--closing-tokens", "0", *flags],
                          capture_output=True, encoding="utf-8")
    if done.returncode:
        raise SystemExit(done.stderr)
    before, after = re.search(r"([\d.]+) bits/byte before and ([\d.]+) after", done.stdout).groups()
    tuned = home.weights("preferred")
    return {"pairs": count, "rate_before": question_rate(model, fresh),
            "rate_after": question_rate(language_model.load(tuned), fresh), "bits_before": float(before),
            "bits_after": float(after), "steps": checkpoint.load_metadata(tuned)["step"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500, help="to learn from and to hold out, at most")
    arguments, flags = parser.parse_known_args()        # others are train.py's
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Home(Path(folder)), most=arguments.pairs, flags=flags)
    print("{pairs} pairs, {steps} steps: questions {rate_before:.0%} -> {rate_after:.0%}, held-out text "
          "{bits_before:.4f} -> {bits_after:.4f} bits/byte".format(**found))


if __name__ == "__main__":
    main()
