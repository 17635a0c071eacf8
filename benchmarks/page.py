"""How fast the page writes, beside Python, and how large it is.

    python benchmarks/page.py                       # the shipped model, a minute or two

The page is opened from a file in headless Chromium, without a network. Ready: from its opening until the model can
write; first token: from then on, after a prompt of 11 tokens; long prompt: the time to the first token after one of 250
tokens. Page and Python write the same number of tokens in turns, at temperature 0.8, Python on one thread, as the page
does; the figures are medians. No vectors: the page where WebAssembly is missing.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")      # read when NumPy is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from playwright.sync_api import sync_playwright

from folio import load
from folio.formats import page, trained_model

# isort: split
import torch

PROMPT = "MERRAN:\nWhat"
WRITE = """async ([prompt, tokens, seed]) => {
  const begun = performance.now();
  let first = null;
  const [answer] = await engine.generate(prompt, { count: 1, settings: { tokens, sampling_seed: seed },
    onPiece() { first ??= performance.now() - begun; } });
  return { first, seconds: (performance.now() - begun) / 1000, tokens: answer.tokens };
}"""
READY = "() => !document.getElementById('continue').disabled && performance.now()"


def opened(browser, path):
    """Open a page from a file. -> the page, milliseconds until it was ready"""
    tab = browser.new_context(offline=True).new_page()
    tab.goto(path.as_uri(), wait_until="commit")
    return tab, tab.wait_for_function(READY).json_value()


def in_page(tab, tokens, seed):
    """Return the tokens per second of the page."""
    found = tab.evaluate(WRITE, [PROMPT, tokens, seed])
    return found["tokens"] / found["seconds"]


def in_python(model, tokens, seed):
    """Return the tokens per second of Python."""
    begun = time.perf_counter()
    model.complete(PROMPT, tokens=tokens, seed=seed)
    return tokens / (time.perf_counter() - begun)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=ROOT / "Saved_Weights" / "weights-pretrained.pth",
                        help="a weights file (default: the shipped one)")
    parser.add_argument("--tokens", type=int, default=1000, help="tokens of each answer (default: 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured (default: 5)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trained, model = trained_model.load(arguments.weights), load(arguments.weights)
    long_prompt = model.tokenizer.decode(model.tokenizer.encode((ROOT / "README.md").read_text(encoding="utf-8"))[:250])
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"),
                                             args=["--no-sandbox", "--disable-gpu"])
        for type in page.TYPES[::-1]:
            path = Path(folder) / f"{type}.html"
            page.write(trained, path, type)
            print(f"file, {type:5} {path.stat().st_size:>12,} bytes")
        ready, firsts, longs, fast, python = [], [], [], [], []
        for seed in range(arguments.rounds):
            tab, milliseconds = opened(browser, path)
            ready.append(milliseconds)
            firsts.append(tab.evaluate(WRITE, [PROMPT, 20, seed])["first"])
            longs.append(tab.evaluate(WRITE, [long_prompt, 1, seed])["first"])
            fast.append(in_page(tab, arguments.tokens, seed))
            python.append(in_python(model, arguments.tokens, seed))
            tab.context.close()
        path.write_text(path.read_text(encoding="utf-8").replace("new WebAssembly.Instance(", "new Missing("),
                        encoding="utf-8")
        tab, _ = opened(browser, path)
        slow = [in_page(tab, arguments.tokens, seed) for seed in range(arguments.rounds)]
        browser.close()
    report(ready=ready, firsts=firsts, longs=longs, fast=fast, python=python, slow=slow)


def report(ready, firsts, longs, fast, python, slow):
    """Print the medians."""
    for name, values, unit in (("ready", ready, "ms"), ("first token", firsts, "ms"), ("long prompt", longs, "ms"),
                               ("page", fast, "tokens/s"), ("Python", python, "tokens/s"),
                               ("no vectors", slow, "tokens/s")):
        print(f"{name:11} {statistics.median(values):>12,.0f} {unit} ({min(values):,.0f} to {max(values):,.0f})")
    print(f"page / Python {statistics.median(map(lambda one, other: one / other, fast, python)):.2f}")


if __name__ == "__main__":
    main()
