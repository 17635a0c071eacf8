"""What it costs that each answer is the same alone and in company, and how long clients wait.

    python benchmarks/engine.py                     # the shipped model and one of 4.6 million parameters: 5 minutes
    python benchmarks/engine.py --rounds 3 --only shipped

apart: the rows of a batch are computed one by one, with the same bits in any batch; together: by products of all rows;
Generation: the same answers without an engine. They take turns; the figures are medians of tokens per second of the
thread's processor time, so that other programs count little. Then 200 requests of mixed sizes are answered one by one
and in company: how many texts differ. Then one long prompt after another arrives beside streams: the longest time for
which a stream stalls. Alone and beside 31 streams: the time to the first token. One thread for NumPy.
"""

import argparse
import os
import statistics
import sys
import threading
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")      # read when NumPy is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import folio
from folio.generation.decoder import Generation
from folio.generation.engine import Adjustments, Engine, Request
from folio.generation.language_model import LanguageModel
from folio.networks.build import build_network
from Model_Params import GenerationParams, ModelParams
from tokenizer import StreamingDecoder

# isort: split
import numpy as np
import torch

PROMPT = "MERRAN:\nWhat"
TEXT = "The night was long, and nobody came to the gate. Who is it? said the king, and rose. " * 8
PROMPTS = [TEXT[start:start + 20] for start in range(32)]
ENDLESS = Adjustments(ignore_end=True)
# 4.6 million with the shipped tokenizer
LARGER = ModelParams(emb_len=256, num_layers=5, num_heads=4, block_size=256, hidden_len=704)


def models(only):
    """Yield (name, LanguageModel)."""
    shipped = folio.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    torch.manual_seed(0)
    vocab_size = shipped.tokenizer.vocab_size
    net = build_network(ModelParams(**vars(LARGER) | {"vocab_size": vocab_size})).eval().requires_grad_(False)
    for name, model in (("shipped", shipped), ("larger", LanguageModel("larger", net, shipped.tokenizer,
                                                                     shipped.opening, 0, None))):
        if only in (None, name):
            yield f"{name}, {sum(map(torch.numel, model.net.parameters())) / 1e6:.1f}M parameters", model


class Asked:
    """A request; when its first token came, and all others."""

    def __init__(self, engine, prompt, settings, **options):
        self.text, self.times, self.ended = "", [], threading.Event()
        self.begun = time.perf_counter()
        self.ticket = engine.submit(Request(prompts=[prompt], settings=settings, deliver=self.deliver, **options))

    def deliver(self, events):
        self.times.append(time.perf_counter())
        for event in events:
            self.text += event.text
            if event.finish is not None:
                self.ended.set()

    def wait(self):
        self.ended.wait()
        return self


def settings(tokens, seed):
    return GenerationParams(tokens=tokens, temperature=0.8, sampling_seed=seed)


def tokens_per_second(engine, rows, tokens, seed):
    begun = engine.call(time.thread_time).result()
    asked = [Asked(engine, PROMPTS[row], settings(tokens, seed + row), adjustments=ENDLESS)
             for row in range(rows)]
    for request in asked:
        request.wait()
    return rows * tokens / (engine.call(time.thread_time).result() - begun)


def without_engine(model, rows, tokens, seed):
    begun, count = time.thread_time(), 0
    params = settings(tokens, seed).resolved()
    generation = Generation(model.net, [model.after(PROMPTS[row], params, row) for row in range(rows)])
    texts = [StreamingDecoder(model.tokenizer) for _ in range(rows)]
    while generation.running:
        for key, token in generation.step():
            texts[key].add(token)
            count += 1
    return count / (time.thread_time() - begun)


def pace(model, rounds):
    """Print tokens per second of all three, by rows."""
    apart, together = Engine(model, apart_rows=32), Engine(model, apart_rows=0)
    print("  rows    apart  together  apart/together  Generation")
    for rows in (1, 4, 8, 16, 32):
        found, tokens = {"apart": [], "together": [], "without": []}, max(100, 400 // rows)
        for number in range(rounds + 1):                # the first round warms up
            found["apart"].append(tokens_per_second(apart, rows, tokens, number))
            found["together"].append(tokens_per_second(together, rows, tokens, number))
            found["without"].append(without_engine(model, rows, tokens, number))
        one, other, plain = (statistics.median(values[1:]) for values in found.values())
        ratio = statistics.median(a / b for a, b in zip(found["apart"][1:], found["together"][1:]))
        print(f"  {rows:4} {one:8.0f} {other:9.0f} {ratio:15.2f} {plain:11.0f}", flush=True)
    apart.close()
    together.close()


def differing(model, requests=200):
    """Print how many of 200 texts differ in company from the same alone."""
    random, found = np.random.default_rng(0), []
    for seed in range(requests):
        start, length = random.integers(200), random.choice([0, 10, 40, 300])
        found.append((TEXT[start:start + length], GenerationParams(
            tokens=int(random.integers(1, 120)), sampling_seed=seed, temperature=float(random.choice([0, 0.8, 1.2])))))
    for name, apart_rows in (("apart", 32), ("together", 0), ("apart up to 8 rows", 8)):
        alone, crowd = Engine(model, rows=1, apart_rows=apart_rows), Engine(model, apart_rows=apart_rows)
        company = [Asked(crowd, *request) for request in found]
        texts = [request.wait().text for request in company]
        own = [Asked(alone, *request).wait().text for request in found]
        print(f"  {name}: {sum(map(str.__ne__, texts, own))} of {requests} texts differ in company", flush=True)
        alone.close()
        crowd.close()


def waiting(model, rounds):
    """Print the time to the first token, and the longest stall of a stream beside long prompts."""
    engine, one = Engine(model, rows=33), settings(1, 1)

    def first():
        return statistics.median((request := Asked(engine, PROMPT, one).wait()).times[0] - request.begun
                                 for _ in range(3 * rounds))
    idle = first()
    streams = [Asked(engine, PROMPT, GenerationParams(tokens=10**9, sampling_seed=seed), adjustments=ENDLESS)
               for seed in range(31)]
    while not all(stream.times for stream in streams):
        time.sleep(0.01)
    busy = first()
    for stream in streams[1:]:
        stream.ticket.cancel()
    begun, long = time.perf_counter(), "It was a long way home, and nobody knew. " * 40
    for request in [Asked(engine, long, one) for _ in range(20)]:
        request.wait()
    times = [moment for moment in streams[0].times if moment >= begun]
    streams[0].ticket.cancel()
    gaps = sorted(map(float.__sub__, times[1:], times))
    print(f"  first token: idle {1000 * idle:.1f} ms, beside 31 streams {1000 * busy:.1f} ms")
    print(f"  longest stall of a stream beside 20 long prompts: {1000 * gaps[-1]:.0f} ms "
          f"({1000 * gaps[len(gaps) // 2]:.1f} ms in the median)")
    engine.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pace", action="store_true", help="measure the pace alone")
    parser.add_argument("--only", choices=("shipped", "larger"))
    options = parser.parse_args()
    for name, model in models(options.only):
        print(name)
        pace(model, options.rounds)
        if not options.pace:
            waiting(model, options.rounds)
            differing(model)


if __name__ == "__main__":
    main()
