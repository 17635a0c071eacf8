"""How fast a trained model writes: beams against as many streams of plain sampling.

    python benchmarks/generate.py               # about half a minute

The two take turns in one process, and the figures are medians; the shipped model answers. A beam's tokens are counted like a stream's: with eight of either
a step makes eight tokens.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from folio import load                                          # noqa: E402  (it lies at the root)
from folio.beam import beam_search                              # noqa: E402
from folio.decoder import Generation, Stream                    # noqa: E402
from Model_Params import GenerationParams                       # noqa: E402

PROMPT = "MERRAN:\n"


def streams_of(model, count, **settings):
    """So many Streams that go on with the prompt and end at their length alone."""
    params = GenerationParams(seed=1, **settings).resolved()
    return [Stream(model.tokenizer.encode(PROMPT), params, number) for number in range(count)]


def sample(model, count, tokens):
    """Sample so many streams at once."""
    generation = Generation(model.net, streams_of(model, count, tokens=tokens))
    while generation.running:
        generation.step()


def search(model, count, tokens):
    """One search with so many beams."""
    beam_search(model.net, *streams_of(model, 1, tokens=tokens, beams=count))


def tokens_per_second(ways, count, tokens, turns):
    """{name: median tokens per second, all streams together} of several ways to write, which take turns."""
    speeds = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, write in ways.items():
            started_at = time.perf_counter()
            write(count, tokens)
            if turn:                    # the first turn warms up
                speeds[name].append(count * tokens / (time.perf_counter() - started_at))
    return {name: statistics.median(each) for name, each in speeds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=8, help="streams, or beams (default: 8)")
    parser.add_argument("--tokens", type=int, default=300, help="tokens of each (default: 300)")
    parser.add_argument("--turns", type=int, default=5, help="times that each way is measured (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    ways = {"plain sampling": lambda count, tokens: sample(model, count, tokens), "beam search": lambda count, tokens: search(model, count, tokens)}
    speeds = tokens_per_second(ways, arguments.streams, arguments.tokens, arguments.turns)
    for name, speed in speeds.items():
        print(f"{name:<16}{speed:>8,.0f} tokens/s, {speed / arguments.streams:>6,.0f} each of {arguments.streams}")
    print(f"{'beams / plain':<16}{speeds['beam search'] / speeds['plain sampling']:>8.2f}")


if __name__ == "__main__":
    main()
