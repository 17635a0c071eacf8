"""How fast a model writes: one stream beside its peers, and beams beside as many streams of plain sampling.

    OPENBLAS_NUM_THREADS=2 python benchmarks/generate.py one-stream         # three sizes, about a minute and a half
    python benchmarks/generate.py beams                                     # the shipped model, about half a minute

All ways take turns in one process, and the figures are medians. One stream: 300 tokens after a prompt of 16, context 512, temperature 0.8, top-k 40, for
random weights, which are the same in all; `transformers` is its `generate` with cache, `torch` is Model.py with its cache and folio/sampling.py, which is
how one stream was generated before NumPy came in. Beams: a beam's tokens are counted like a stream's: with eight of either a step makes eight tokens.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from folio import load, networks, sampling                      # noqa: E402  (it lies at the root)
from folio.beam import beam_search                              # noqa: E402
from folio.decoder import Generation, Stream                    # noqa: E402
from Model_Params import GenerationParams, ModelParams          # noqa: E402

PROMPT = "MERRAN:\n"
PROMPT_TOKENS, CONTEXT, TEMPERATURE, TOP_K = 16, 512, 0.8, 40      # of one stream
SIZES = {"1M": ModelParams(num_layers=4, emb_len=128, hidden_len=352, num_heads=4, vocab_size=1024, block_size=CONTEXT),
         "4.6M": ModelParams(num_layers=6, emb_len=224, hidden_len=608, num_heads=4, vocab_size=2048, block_size=CONTEXT),
         "11M": ModelParams(num_layers=6, emb_len=384, hidden_len=1024, num_heads=6, vocab_size=1024, block_size=CONTEXT)}


# --- One stream: each way takes a network and gives what writes (streams, tokens), of which one-stream asks for one ---

def in_folio(net, prompt):
    """As Folio generates."""
    def write(count, tokens):
        generation = Generation(net, [Stream(prompt, GenerationParams(tokens=tokens, temperature=TEMPERATURE, top_k=TOP_K, seed=1).resolved())])
        while generation.running:
            generation.step()
    return write


def in_torch(net, prompt):
    """With Model.py's cache and folio/sampling.py."""
    @torch.inference_mode()
    def write(count, tokens):
        state, random, token = net.empty_state(1), np.random.default_rng(1), torch.tensor([prompt])
        for _ in range(tokens):
            logits, state = net.continue_from(state, token)
            token = sampling.pick(*sampling.probabilities(logits[:, -1], TEMPERATURE, TOP_K), torch.from_numpy(random.random(1)))[:, None]
    return write


def in_transformers(net, prompt):
    """As transformers generates with the same weights in its Qwen3, and the attention that it takes by itself."""
    from test_model import as_qwen3
    model = as_qwen3(net)
    model.set_attn_implementation("sdpa")
    how = {"do_sample": True, "temperature": TEMPERATURE, "top_k": TOP_K, "use_cache": True, "pad_token_id": 0}

    def write(count, tokens):
        ids = torch.tensor([prompt])
        written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, **how)
        assert written.shape[1] == len(prompt) + tokens, "transformers ended before its time"
    return write


PEERS = {"transformers": in_transformers, "torch": in_torch, "Folio": in_folio}


def one_stream(tokens, turns):
    """Print a line for each size."""
    print(f"{'':<6}{'parameters':>12}" + "".join(f"{name:>14}" for name in PEERS) + "      tokens/s")
    for size, params in SIZES.items():
        torch.manual_seed(0)
        net = networks.build(params).eval().requires_grad_(False)
        prompt = np.random.default_rng(0).integers(params.vocab_size, size=PROMPT_TOKENS).tolist()
        speeds = tokens_per_second({name: way(net, prompt) for name, way in PEERS.items()}, 1, tokens, turns)
        print(f"{size:<6}{networks.count_parameters(net):>12,}" + "".join(f"{speed:>14,.0f}" for speed in speeds.values()), flush=True)


# --- Beams ---

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


def beams(count, tokens, turns):
    """Print how fast so many beams are, and so many streams."""
    model = load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    ways = {"plain sampling": lambda count, tokens: sample(model, count, tokens), "beam search": lambda count, tokens: search(model, count, tokens)}
    speeds = tokens_per_second(ways, count, tokens, turns)
    for name, speed in speeds.items():
        print(f"{name:<16}{speed:>8,.0f} tokens/s, {speed / count:>6,.0f} each of {count}")
    print(f"{'beams / plain':<16}{speeds['beam search'] / speeds['plain sampling']:>8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("one-stream", "beams"))
    parser.add_argument("--streams", type=int, default=8, help="with beams: streams, or beams (default: 8)")
    parser.add_argument("--tokens", type=int, default=300, help="tokens of each (default: 300)")
    parser.add_argument("--turns", type=int, default=5, help="times that each way is measured (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="torch's processor threads; NumPy's are OPENBLAS_NUM_THREADS (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.what == "one-stream":
        one_stream(arguments.tokens, arguments.turns)
    else:
        beams(arguments.streams, arguments.tokens, arguments.turns)


if __name__ == "__main__":
    main()
