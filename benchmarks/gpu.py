"""What takes a GPU to measure, in one command: whether CUDA computes what the CPU computes, how fast, and how soon it reaches a known loss.

    python benchmarks/gpu.py                    # ten minutes on one GPU
    python benchmarks/gpu.py correctness        # or one part alone: correctness, throughput, quality

Each part says what it found; without a GPU the command says so and measures nothing. Nothing of Folio's figures for GPUs has been measured yet.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch                                                    # noqa: E402

from folio import corpus, runs                                  # noqa: E402  (they lie at the root)
from folio.home import Home                                     # noqa: E402
from Model_Params import PRESETS, TextParams                    # noqa: E402

STEPS = 20


def losses(home, device, precision, compile=False):
    """The losses of the first steps of a small run on a device."""
    preset = PRESETS["default"]
    params = replace(preset, model=preset.model.sized(64),
                     training=replace(preset.training, steps=STEPS, minutes=None, device=device, precision=precision, compile=compile))
    tokenizer, text = corpus.find(home)
    with runs.new_run(home, f"{device}-{precision}-{compile}", params, tokenizer, text, time.perf_counter(), say=lambda words: None) as run:
        run._compile()
        return torch.tensor([run.step() for _ in range(STEPS)])


def correctness():
    """Print how far the losses on the GPU are from those on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        corpus.prepare(home, TextParams(vocab_size=512), [str(ROOT / "Train_Data" / "input.txt")])
        exact = losses(home, "cpu", "fp32")
        for precision, compile in (("fp32", False), ("bf16", False), ("bf16", True), ("fp16", False)):
            difference = (losses(home, "cuda", precision, compile) - exact).abs().max().item()
            print(f"cuda {precision}{', compiled' * compile:10}  largest difference from the CPU's loss in {STEPS} steps: {difference:.5f} nats per token")


def throughput():
    """Tokens a second at 10.8 million parameters, beside a plain program compiled in bfloat16."""
    subprocess.run([sys.executable, ROOT / "benchmarks" / "training.py", "--shape", "10m", "--batch-size", "64"], check=True)


def quality():
    """Seconds to 1.4697 nats per byte on tiny shakespeare, and what three minutes reach."""
    subprocess.run([sys.executable, ROOT / "benchmarks" / "quality.py", "--recipes", "gpu-20-seconds", "gpu-3-minutes"], check=True)


def main():
    parts = {each.__name__: each for each in (correctness, throughput, quality)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(parts), metavar="PART", help=f"{', '.join(parts)} (default: all)")
    arguments = parser.parse_args()
    if unknown := [part for part in arguments.parts if part not in parts]:
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(parts)}")
    if not torch.cuda.is_available():
        return print("There is no CUDA GPU here: nothing was measured.")
    print(torch.cuda.get_device_name())
    for part in arguments.parts:
        parts[part]()


if __name__ == "__main__":
    main()
