"""How fast a model writes, beside its peers, and what int8 costs.

    OPENBLAS_NUM_THREADS=2 python benchmarks/generate.py            # all of it, some ten minutes
    python benchmarks/generate.py one-stream                        # or some of the parts below

All peers take turns in one process, and the figures are medians. The weights are random and the same in all:
`transformers` is its `generate` with cache, `llama.cpp` is llama-cpp-python where that and gguf are installed, in
float32, `torch` is Model.py with its cache and folio/generation/sampling.py. Context 512, temperature 0.8, top-k 40,
two threads.

one-stream    300 tokens after a prompt of 16, of three sizes
streams       the same for 32 prompts at once, 4.6M parameters; of one length, and of lengths from 1 to 32
first-token   the time to the first token after a prompt of 500, 4.6M parameters
past-context  1,500 tokens of one sequence, and of eight at once: the average speed, in which windows restart, as a
              share of the speed within the context
int8          what int8 adds to the bits per byte of held-out text, with trained weights
beams         a beam's tokens counted like a sequence's: with eight of either a step makes eight tokens
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# They lie at the root, and come before torch: see folio/__init__.py.
import numpy as np

from folio import load
from folio.generation import sampling
from folio.generation.beam import beam_search
from folio.generation.decoder import Generation, Sequence
from folio.generation.numpy_decoder import in_numpy
from folio.networks.build import build_network, count_parameters
from Model_Params import GenerationParams, ModelParams

# isort: split
import torch

CONTEXT, TEMPERATURE, TOP_K = 512, 0.8, 40
SIZES = {
    "1M": ModelParams(num_layers=4, emb_len=128, hidden_len=352, num_heads=4, vocab_size=1024, block_size=CONTEXT),
    "4.6M": ModelParams(num_layers=6, emb_len=224, hidden_len=608, num_heads=4, vocab_size=2048, block_size=CONTEXT),
    "11M": ModelParams(num_layers=6, emb_len=384, hidden_len=1024, num_heads=6, vocab_size=1024, block_size=CONTEXT),
}


# --- The peers: each takes a network and returns a function of prompts (lists of ids) and a number of tokens ---

def in_folio(net, precision="float32"):
    """Generate as Folio does."""
    settings = GenerationParams(temperature=TEMPERATURE, top_k=TOP_K, sampling_seed=1, weight_precision=precision)

    def write(prompts, tokens):
        own = replace(settings, tokens=tokens).resolved()
        generation = Generation(net, [Sequence(prompt, own, number) for number, prompt in enumerate(prompts)])
        while generation.running:
            generation.step()
    return write


def in_int8(net):
    """Generate as Folio does with weight_precision=int8."""
    return in_folio(net, "int8")


def in_torch(net):
    """Generate with Model.py's cache and folio/generation/sampling.py."""
    @torch.inference_mode()
    def write(prompts, tokens):
        state, random, token = net.empty_state(len(prompts)), np.random.default_rng(1), torch.tensor(prompts)
        for _ in range(tokens):
            logits, state = net.continue_from(state, token)
            likely, ids = sampling.probabilities(logits[:, -1], TEMPERATURE, TOP_K)
            token = sampling.pick(likely, ids, torch.from_numpy(random.random(len(prompts))))[:, None]
    return write


def in_transformers(net):
    """Generate with the same weights in transformers' Qwen3 and the attention that it chooses by itself."""
    from test_model import as_qwen3
    model = as_qwen3(net)
    model.set_attn_implementation("sdpa")
    settings = {"do_sample": True, "temperature": TEMPERATURE, "top_k": TOP_K, "use_cache": True, "pad_token_id": 0}

    def write(prompts, tokens):
        ids = torch.tensor(prompts)
        written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens,
                                 min_new_tokens=tokens, **settings)
        assert written.shape[1] == ids.shape[1] + tokens, "transformers ended before its time"
    return write


def in_llama(net):
    """Generate one prompt with llama.cpp and the same weights in its format. -> None where it is not installed"""
    try:
        import gguf
        import llama_cpp
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_gguf(net, path, gguf)
        threads = torch.get_num_threads()
        model = llama_cpp.Llama(str(path), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads,
                                type_k=0, type_v=0,                         # float32, also for keys and values
                                use_mmap=False, verbose=False)
    prompt = np.random.default_rng(0).integers(net.params.vocab_size, size=16).tolist()
    if list(zip(range(20), model.generate(prompt, temp=0.0))) != list(enumerate(greedily(net, prompt, 20))):
        sys.exit("llama.cpp says something else with these weights: the file that was written for it is wrong.")

    def write(prompts, tokens):
        [prompt] = prompts
        model.reset()
        answer = model.generate(prompt, top_k=TOP_K, top_p=1.0, min_p=0.0, temp=TEMPERATURE, repeat_penalty=1.0)
        for _ in zip(range(tokens), answer):
            pass
    return write


def greedily(net, prompt, tokens):
    """Return the likeliest tokens, computed without a cache."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            ids.append(net(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[len(prompt):]


def write_gguf(net, path, gguf):
    """Write the weights of a network of the folio family for llama.cpp: as Qwen3, without a vocabulary."""
    params, writer = net.params, gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(params.block_size)
    writer.add_embedding_length(params.emb_len)
    writer.add_block_count(params.num_layers)
    writer.add_feed_forward_length(params.hidden_len)
    writer.add_head_count(params.num_heads)
    writer.add_head_count_kv(params.num_kv_heads)
    writer.add_key_length(params.head_len)
    writer.add_value_length(params.head_len)
    writer.add_layer_norm_rms_eps(params.norm_eps)
    writer.add_rope_freq_base(params.rope_base)
    writer.add_vocab_size(params.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    names = {"embedding": "token_embd", "norm": "output_norm", "head": "output", "attention_norm": "attn_norm",
             "attention.query": "attn_q", "attention.key": "attn_k", "attention.value": "attn_v",
             "attention.output": "attn_output", "attention.query_norm": "attn_q_norm",
             "attention.key_norm": "attn_k_norm", "mlp_norm": "ffn_norm", "mlp.gate": "ffn_gate", "mlp.up": "ffn_up",
             "mlp.down": "ffn_down"}
    for name, weight in net.state_dict().items():
        part = name.removesuffix(".weight")
        *block, part = part.split(".", 2) if part.startswith("blocks.") else [part]
        writer.add_tensor(f"blk.{block[1]}.{names[part]}.weight" if block else f"{names[part]}.weight", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- Measuring ---

def network(size):
    """Return a network of this size with random weights."""
    torch.manual_seed(0)
    return build_network(SIZES[size]).eval().requires_grad_(False)


def prompts_of(net, lengths):
    """Return random prompts of these lengths."""
    random = np.random.default_rng(0)
    return [random.integers(net.params.vocab_size, size=length).tolist() for length in lengths]


def seconds(peers, turns):
    """Return {name: median seconds} of several calls, which take turns."""
    found = {name: [] for name in peers}
    for turn in range(turns + 1):
        for name, write in peers.items():
            started_at = time.perf_counter()
            write()
            if turn:                    # the first turn warms up
                found[name].append(time.perf_counter() - started_at)
    return {name: statistics.median(times) for name, times in found.items()}


def speeds(net, peers, prompts, tokens, turns):
    """Return {name: median tokens per second of all sequences together} of the peers that are installed."""
    writers = {name: writer for name, peer in peers.items() if (writer := peer(net))}
    found = seconds({name: lambda writer=writer: writer(prompts, tokens) for name, writer in writers.items()}, turns)
    return {name: len(prompts) * tokens / time for name, time in found.items()}


def show(title, figures, unit):
    """Print a line with a figure for each peer that has one."""
    columns = [f"{figures[name]:>14,.0f}" if name in figures else f"{'-':>14}" for name in PEERS]
    print(f"{title:<34}{''.join(columns)}  {unit}", flush=True)


PEERS = {"transformers": in_transformers, "llama.cpp": in_llama, "torch": in_torch, "Folio": in_folio,
         "Folio int8": in_int8}
OURS = {name: PEERS[name] for name in ("Folio", "Folio int8")}
SEVERAL = {name: PEERS[name] for name in PEERS if name != "llama.cpp"}


# --- The parts ---

def one_stream(tokens, turns):
    for size in SIZES:
        net = network(size)
        found = speeds(net, PEERS, prompts_of(net, [16]), tokens, turns)
        show(f"one stream, {count_parameters(net):,}", found, "tokens/s")


def streams(tokens, turns, count=32):
    net = network("4.6M")
    show(f"{count} streams", speeds(net, SEVERAL, prompts_of(net, [16] * count), tokens, turns), "tokens/s")
    found = speeds(net, OURS, prompts_of(net, range(1, count + 1)), tokens, turns)
    show(f"... of lengths 1 to {count}", found, "tokens/s")


def first_token(tokens, turns):
    net = network("4.6M")
    found = speeds(net, PEERS, prompts_of(net, [500]), 1, 4 * turns)
    show("prompt of 500, first token", {name: 1e6 / speed for name, speed in found.items()}, "us")


def past_context(tokens, turns):
    for size, count in [*((size, 1) for size in SIZES), ("1M", 8)]:
        net, lengths = network(size), [16 + 8 * number for number in range(count)]
        within, beyond = (speeds(net, OURS, prompts_of(net, lengths), length, turns)
                          for length in (CONTEXT - max(lengths), 1500))
        shares = {name: 100 * beyond[name] / within[name] for name in OURS}
        show(f"past the context, {count} of {size}", shares, "% of the speed within")


def int8(tokens, turns):
    model, windows = load(ROOT / "Saved_Weights" / "weights-pretrained.pth"), 128
    text = (ROOT / "Train_Data" / "input.txt").read_text(encoding="utf-8")
    ids = torch.tensor(model.tokenizer.encode(text[int(len(text) * 0.9):]))         # its last tenth was held out
    length = model.net.params.block_size
    windows = min(windows, (len(ids) - 1) // length)
    inputs, targets = (ids[start:start + windows * length].view(windows, length) for start in (0, 1))
    content = sum(len(model.tokenizer.token_bytes[token]) for token in targets.flatten().tolist())
    for precision in ("float32", "int8"):
        transformer, nats = in_numpy(model.net, precision), 0.0
        for rows, wanted in zip(inputs.split(16), targets.split(16)):
            state = model.net.empty_state(len(rows))
            for place in range(length):
                logits, state = transformer.continue_from(state, rows[:, place].tolist())
                # in NumPy: torch's threads would slow down OpenBLAS's
                nats -= sampling.log_softmax(logits)[np.arange(len(rows)), wanted[:, place].numpy()].sum()
        print(f"{count_parameters(model.net):,} parameters, {content:,} bytes, {precision:<8} "
              f"{nats / content / math.log(2):.5f} bits per byte", flush=True)


def beams(tokens, turns, count=8):
    model = load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    prompt = model.tokenizer.encode("MERRAN:\n")

    def sample():
        settings = GenerationParams(sampling_seed=1, tokens=tokens).resolved()
        generation = Generation(model.net, [Sequence(prompt, settings, number) for number in range(count)])
        while generation.running:
            generation.step()

    def search():
        beam_search(model.net,
                    Sequence(prompt, GenerationParams(sampling_seed=1, tokens=tokens, beams=count).resolved()))

    measured = seconds({"plain sampling": sample, "beam search": search}, turns)
    found = {name: count * tokens / time for name, time in measured.items()}
    for name, speed in found.items():
        print(f"{name:<16}{speed:>8,.0f} tokens/s, {speed / count:>6,.0f} each of {count}")
    print(f"{'beams / plain':<16}{found['beam search'] / found['plain sampling']:>8.2f}")


PARTS = {"one-stream": one_stream, "streams": streams, "first-token": first_token, "past-context": past_context,
         "int8": int8, "beams": beams}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--tokens", type=int, default=300, help="tokens of each sequence (default: 300)")
    parser.add_argument("--turns", type=int, default=5, help="times that each peer is measured (default: 5)")
    parser.add_argument("--threads", type=int, default=2,
                        help="threads of torch and llama.cpp; NumPy's are OPENBLAS_NUM_THREADS (default: 2)")
    arguments = parser.parse_args()
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(PARTS)}")
    torch.set_num_threads(arguments.threads)
    parts = arguments.parts or list(PARTS)
    if set(parts) - {"int8", "beams"}:
        print(" " * 34 + "".join(f"{name:>14}" for name in PEERS))
    for part in parts:
        PARTS[part](arguments.tokens, arguments.turns)


if __name__ == "__main__":
    main()
