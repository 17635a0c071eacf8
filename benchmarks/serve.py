"""How fast the server answers, beside the same model in a process and beside llama.cpp's server.

    python benchmarks/serve.py                      # the shipped model and one of 4.6 million parameters: 5 minutes
    python benchmarks/serve.py --only shipped --rounds 3
    python benchmarks/serve.py --soak 600           # random clients for that many seconds: memory, errors

Each server is a process of its own on the same cores, asked over loopback by clients that stream 200 tokens at
temperature 0.8 after a prompt of their own. The peers take turns, and the figures are medians:

in a process    LanguageModel.stream_each with the same 32 prompts
llama.cpp       llama-server from the package xllamacpp with the same weights as GGUF in float32, two threads, as many
                slots as clients; where the package is installed
first token     from sending the request to the first text: one client alone, and beside 31 that stream
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import folio
from folio.base.home import Home
from folio.formats import checkpoint, gguf, trained_model
from folio.networks.build import build_network
from Model_Params import ModelParams

# isort: split
import psutil
import torch

TOKENS, TEMPERATURE = 200, 0.8
# 4.6 million parameters with the shipped tokenizer.
LARGER = ModelParams(emb_len=256, num_layers=5, num_heads=4, block_size=256, hidden_len=704)
LLAMA_SERVER = """
import sys, time
import xllamacpp
path, slots = sys.argv[1], int(sys.argv[2])
params = xllamacpp.CommonParams()
params.model.path, params.n_parallel, params.n_ctx, params.warmup = path, slots, 256 * slots, False
params.hostnames, params.verbosity = ["127.0.0.1"], 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


class Served:
    """A server in a process of its own, which prints its address in its first line; ended with the block."""

    def __init__(self, *command):
        self._process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8")
        line = self._process.stdout.readline()
        assert "http://" in line, "the server did not start"
        self.host, port = line.rpartition("http://")[2].strip().strip("/").split(":")
        self.port = int(port)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.terminate()
        self._process.wait()

    def memory(self):
        """Return the bytes that the process has in memory."""
        return psutil.Process(self._process.pid).memory_info().rss


async def streamed(server, prompt, tokens=TOKENS, seed=0, leave_after=None):
    """Ask for a streamed answer. -> status, seconds to the first text, texts; leave_after: of so many texts"""
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": TEMPERATURE, "seed": seed, "stream": True,
                       "ignore_eos": True}).encode("utf-8")
    begun, first, texts = time.perf_counter(), None, 0
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                     b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        status = int((await reader.readline()).split()[1])
        async for line in reader:
            if line.startswith(b"data: {") and b'"text":""' not in line:
                first = first or time.perf_counter() - begun
                texts += 1
                if texts == leave_after:
                    break
    finally:
        writer.close()
    return status, first, texts


def tokens_per_second(server, prompts, seed):
    """Return how many tokens per second all clients together get."""
    async def all_at_once():
        begun = time.perf_counter()
        answers = await asyncio.gather(*(streamed(server, prompt, seed=seed + number)
                                         for number, prompt in enumerate(prompts)))
        assert all(status == 200 for status, _, _ in answers)
        return len(prompts) * TOKENS / (time.perf_counter() - begun)
    return asyncio.run(all_at_once())


def first_token(server, prompts, seed):
    """Return the seconds to the first text of the last prompt, beside the others, which stream already."""
    async def beside():
        others = [asyncio.create_task(streamed(server, prompt, 4 * TOKENS, seed)) for prompt in prompts[:-1]]
        await asyncio.sleep(0.5 if others else 0)
        _, first, _ = await streamed(server, prompts[-1], seed=seed)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.2)        # the server finds that they have left
        return first
    return asyncio.run(beside())


def in_process(model, prompts, seed):
    """Return the tokens per second of LanguageModel.stream_each."""
    begun = time.perf_counter()
    for _ in model.stream_each(prompts, tokens=TOKENS, temperature=TEMPERATURE, seed=seed):
        pass
    return len(prompts) * TOKENS / (time.perf_counter() - begun)


def homes(folder, only):
    """Yield (name, Home with one weights file) of each model."""
    shipped = checkpoint.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    torch.manual_seed(0)
    params = ModelParams(**vars(LARGER) | {"vocab_size": shipped["params"]["vocab_size"]}).resolved()
    larger = shipped | {"params": vars(params), "weights": build_network(params).state_dict(), "name": "larger"}
    for name, contents in (("shipped", shipped), ("larger", larger)):
        if only in (None, name):
            home = Home(Path(folder) / name)
            home.saved_weights.mkdir(parents=True)
            checkpoint.save(home.weights(name), {key: value for key, value in contents.items() if key != "format"})
            yield name, home


def measure(name, home, rounds):
    """Print the figures of one model."""
    model, path = folio.load(home.weights(name)), home.folder / f"{name}.gguf"
    gguf.write(trained_model.load(home.weights(name)), path)
    text = (ROOT / "Train_Data" / "input.txt").read_text(encoding="utf-8")
    prompts = [text[start:start + 40] for start in range(1000, 1000 + 32 * 997, 997)]
    found = {key: [] for key in ("server, 32 clients", "in a process, 32", "server, 8 clients", "llama.cpp, 8 clients",
                                 "llama.cpp, 32 clients", "first token alone", "first token beside 31")}
    with Served("-m", "folio.serve", "--home", home.folder, "--port", 0) as ours:
        tokens_per_second(ours, prompts, 0)         # both have read the model and their code
        for seed in range(0, 1000 * rounds, 1000):
            found["server, 32 clients"].append(tokens_per_second(ours, prompts, seed))
            found["in a process, 32"].append(in_process(model, prompts, seed))
            found["server, 8 clients"].append(tokens_per_second(ours, prompts[:8], seed))
            for count in (8, 32):
                if llama := llama_tokens_per_second(path, prompts[:count], seed):
                    found[f"llama.cpp, {count} clients"].append(llama)
            found["first token alone"].append(1000 * first_token(ours, prompts[:1], seed))
            found["first token beside 31"].append(1000 * first_token(ours, prompts, seed))
    print(f"\n{name}, medians of {rounds} rounds (from, to)")
    for key, values in found.items():
        if values:
            unit = "ms" if "first" in key else "tokens/s"
            print(f"  {key:24} {statistics.median(values):9,.0f} {unit} ({min(values):,.0f} to {max(values):,.0f})")
    for one, other in (("server, 32 clients", "in a process, 32"), ("server, 8 clients", "llama.cpp, 8 clients"),
                       ("server, 32 clients", "llama.cpp, 32 clients")):
        if found[other]:
            ratio = statistics.median(a / b for a, b in zip(found[one], found[other]))
            print(f"  {one} / {other}: {ratio:.2f}")


def llama_tokens_per_second(path, prompts, seed):
    """Return the same of llama-server, or None where xllamacpp is not installed."""
    try:
        import xllamacpp  # noqa: F401  (the other process needs it)
    except ImportError:
        return None
    with Served("-c", LLAMA_SERVER, path, len(prompts)) as server:
        tokens_per_second(server, prompts[:1], seed)
        return tokens_per_second(server, prompts, seed)


def soak(home, seconds):
    """Ask as random clients for some time; a tenth of them leave early. Print memory and statuses now and then."""
    draw, statuses = random.Random(1), {}

    async def client(server, ends_at):
        while time.perf_counter() < ends_at:
            try:
                status, _, _ = await streamed(server, "x" * draw.randrange(1, 2000), draw.randrange(1, 300),
                                              draw.randrange(1 << 31), 1 if draw.random() < 0.1 else None)
            except OSError as error:
                status = type(error).__name__
            statuses[status] = statuses.get(status, 0) + 1

    async def report(server, ends_at):
        while time.perf_counter() < ends_at:
            print(f"{server.memory() / 1e6:7.0f} MB   {statuses}", flush=True)
            await asyncio.sleep(min(60, seconds / 10))

    async def clients(server):
        ends_at = time.perf_counter() + seconds
        await asyncio.gather(report(server, ends_at), *(client(server, ends_at) for _ in range(48)))

    with Served("-m", "folio.serve", "--home", home.folder, "--port", 0) as server:
        asyncio.run(clients(server))
        print(f"{server.memory() / 1e6:7.0f} MB   {statuses}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["shipped", "larger"], help="one of the two models (default: both)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured (default: 5)")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="ask as random clients for so long instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, home in homes(folder, arguments.only or (arguments.soak and "shipped")):
            if arguments.soak:
                soak(home, arguments.soak)
            else:
                measure(name, home, arguments.rounds)


if __name__ == "__main__":
    main()
