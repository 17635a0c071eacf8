"""What takes a GPU to measure, in one command: whether CUDA computes what the CPU computes, how fast, and how soon it reaches a known loss.

    python benchmarks/gpu.py                    # ten minutes on one GPU
    python benchmarks/gpu.py correctness        # or some parts alone: correctness, throughput, quality, generation

Each part says what it found; without a GPU the command says so and measures nothing. Nothing of Folio's figures for GPUs has been measured yet.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from folio.data import corpus                                  # noqa: E402  (they lie at the root)
from folio.training import runs                                  # noqa: E402  (they lie at the root)
from folio.base.home import Home                                     # noqa: E402
from Model_Params import PRESETS, TextParams                    # noqa: E402

import torch                                                    # noqa: E402  (after folio, which bounds how long its threads spin)

STEPS = 20


def losses(home, device, precision, compile=False):
    """The losses of the first steps of a small run on a device."""
    preset = PRESETS["default"]
    params = replace(preset, model=preset.model.sized(64),
                     training=replace(preset.training, steps=STEPS, minutes=None, device=device, precision=precision, compile=compile))
    tokenizer, text = corpus.find(home)
    with runs.new_run(home, f"{device}-{precision}-{compile}", params, tokenizer, text, time.perf_counter(), say=lambda words: None) as run:
        run.compile()
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


def generation():
    """Whether streams of different lengths say on the GPU what they say on the CPU, and tokens a second at 11 million parameters."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from generate import in_folio, network, prompts_of, speeds
    from folio.generation.decoder import Decoder
    net, largest = network("11M"), 0.0
    on_gpu, prompts = deepcopy(net).to("cuda"), prompts_of(net, range(1, 65))
    decoders = Decoder(net, prompts), Decoder(on_gpu, prompts)
    for _ in range(600):                # past the context of 512
        found, other = (torch.as_tensor(decoder.logits).cpu().log_softmax(-1) for decoder in decoders)
        largest = max(largest, (found - other).abs().max().item())
        for decoder in decoders:
            decoder.read([[token] for token in found.argmax(-1).tolist()])
    print(f"64 streams of different lengths, 600 tokens: largest difference from the CPU's log-probabilities {largest:.6f}")
    for count in (1, 256):
        [speed] = speeds(on_gpu, {"Folio": in_folio}, prompts_of(net, [16] * count), 300, 5).values()
        print(f"cuda, {count:>3} streams: {speed:>10,.0f} tokens/s")


def quality():
    """Seconds to 1.4697 nats per byte on tiny shakespeare, and what three minutes reach."""
    subprocess.run([sys.executable, ROOT / "benchmarks" / "quality.py", "--recipes", "gpu-20-seconds", "gpu-3-minutes"], check=True)


def main():
    parts = {each.__name__: each for each in (correctness, throughput, quality, generation)}
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
