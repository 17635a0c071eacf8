"""All measurements that need a GPU: whether CUDA computes what the CPU computes, how fast, and time to a known loss.

    python benchmarks/gpu.py                    # ten minutes on one GPU
    python benchmarks/gpu.py correctness        # or some parts: correctness, throughput, quality, generation

Each part prints its figures; without a GPU the command says so and measures nothing.
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

from folio.base.home import Home  # after the change of sys.path
from folio.data import corpus
from folio.training import runs
from Model_Params import PRESETS, TextParams

# isort: split
import torch  # after folio, which bounds its spinning threads

STEPS = 20


def losses(home, device, precision, compile=False):
    """Return the losses of the first steps of a small run on a device."""
    preset = PRESETS["default"]
    params = replace(preset, model=preset.model.sized(64),
                     training=replace(preset.training, steps=STEPS, minutes=None, device=device, precision=precision,
                                      compile=compile))
    tokenizer, text = corpus.open_corpus(home)
    with runs.new_run(home, f"{device}-{precision}-{compile}", params, tokenizer, text, time.perf_counter(),
                      say=lambda words: None) as run:
        run.compile()
        return torch.tensor([run.step() for _ in range(STEPS)])


def correctness():
    """Print the difference of the losses on the GPU to those on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        corpus.open_corpus(home, TextParams(vocab_size=512), [str(ROOT / "Train_Data" / "input.txt")])
        exact = losses(home, "cpu", "fp32")
        for precision, compile in (("fp32", False), ("bf16", False), ("bf16", True), ("fp16", False)):
            difference = (losses(home, "cuda", precision, compile) - exact).abs().max().item()
            settings = f"{precision}, compiled" if compile else precision
            print(f"cuda {settings:14}  largest difference to the CPU's loss in {STEPS} steps: "
                  f"{difference:.5f} nats per token")


def throughput():
    """Print the tokens per second at 10.8 million parameters, beside a plain program compiled in bfloat16."""
    subprocess.run([sys.executable, ROOT / "benchmarks" / "training.py", "--shape", "10m", "--batch-size", "64"],
                   check=True)


def generation():
    """Compare log-probabilities on GPU and CPU, and print the tokens per second at 11 million parameters."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from generate import in_folio, network, prompts_of, speeds

    from folio.generation.decoder import Decoder
    net, largest = network("11M"), 0.0
    on_gpu, prompts = deepcopy(net).to("cuda"), prompts_of(net, range(1, 65))
    decoders = Decoder(net, prompts), Decoder(on_gpu, prompts)
    for _ in range(600):                # beyond the context of 512
        expected, found = (torch.as_tensor(decoder.logits).cpu().log_softmax(-1) for decoder in decoders)
        largest = max(largest, (found - expected).abs().max().item())
        for decoder in decoders:
            decoder.read([[token] for token in expected.argmax(-1).tolist()])
    print("64 sequences of different lengths, 600 tokens: largest difference to the CPU's log-probabilities "
          f"{largest:.6f}")
    for count in (1, 256):
        [speed] = speeds(on_gpu, {"Folio": in_folio}, prompts_of(net, [16] * count), 300, 5).values()
        print(f"cuda, {count:>3} sequences: {speed:>10,.0f} tokens/s")


def quality():
    """Train on tiny shakespeare for 20 seconds, against 1.4697 nats per byte, and for three minutes."""
    subprocess.run([sys.executable, ROOT / "benchmarks" / "quality.py", "--recipes", "gpu-20-seconds", "gpu-3-minutes"],
                   check=True)


def main():
    parts = {part.__name__: part for part in (correctness, throughput, quality, generation)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(parts), metavar="PART",
                        help=f"{', '.join(parts)} (default: all)")
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
