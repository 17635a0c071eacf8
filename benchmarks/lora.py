"""Compare LoRA with training all weights, on a model of GPT-2's shape: peak memory, files, tokens per second.

    python benchmarks/lora.py                   # about five minutes on two cores, and 4 GB of memory
    python benchmarks/lora.py --device cuda

The weights are random: 124,439,808 of them, as an import of GPT-2 has them. Each line of the table is a process of its
own, which opens a run as train.py --start-from does, measures the text held out, makes a few steps and saves. Memory is
the peak of the process, less what it has after its imports; on a GPU, the peak that torch took there.
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
BATCH_SIZE, CONTEXT, STEPS = 2, 256, 3
MICRO_BATCH_SIZE = 1            # sequences at a time: where memory is scarce
RANKS = [None, 8]               # None: all weights
TEXT_BYTES = 60_000             # of the repository's text, a few thousand of which are held out


def prepare(folder):
    """Write a text and the weights `base` into a home."""
    import torch

    from folio.base.home import Home
    from folio.formats import checkpoint, trained_model
    from folio.networks.build import build_network
    from Model_Params import ModelParams
    from tokenizer import END_OF_TEXT, BPETokenizer
    home = Home(folder)
    home.train_data.mkdir()
    home.saved_weights.mkdir()
    text = (ROOT / "Train_Data" / "input.txt").read_bytes()[:TEXT_BYTES]
    (home.train_data / "input.txt").write_bytes(text)
    # Any pairs of bytes make a vocabulary of GPT-2's size.
    tokenizer = BPETokenizer([[first, second] for first in range(256) for second in range(256)][:50_000], "gpt2",
                             [END_OF_TEXT])
    torch.manual_seed(0)
    net = build_network(ModelParams(vocab_size=tokenizer.vocab_size, block_size=1024, emb_len=768, num_layers=12,
                                    num_heads=12, family="classic", mlp="gelu", biases="gpt2", tied_head=True))
    checkpoint.save(home.weights("base"), trained_model.imported("base", net.params, net.state_dict(), tokenizer,
                                                                 [tokenizer.end_of_text]))


def measure(folder, rank, device):
    """Print one line of the table."""
    import torch

    from folio.base.defaults import tuning_defaults
    from folio.base.home import Home
    from folio.cli.command_line import chosen
    from folio.data import corpus
    from folio.generation import language_model
    from folio.networks.build import count_parameters
    from folio.training import runs
    from Model_Params import Params
    home, before = Home(folder), peak_bytes()
    start = language_model.load(home.weights("base"))
    tokenizer, text = corpus.open_corpus(home, tokenizer=start.tokenizer, say=lambda words: None)
    values = {"steps": STEPS, "minutes": None, "threads": None if device == "cuda" else 1,
              "batch_size": BATCH_SIZE, "micro_batch_size": MICRO_BATCH_SIZE, "device": device, "precision": "fp32",
              "compile": False, "bpe_dropout": 0.0, "sample_tokens": 0}
    params = chosen(Params(), tuning_defaults("text", rank is not None) | values)
    params = replace(params, text=text.text, tuning=replace(params.tuning, lora_rank=rank),
                     model=replace(runs.tuned_model(start, {"block_size": CONTEXT}), vocab_size=None))
    total = count_parameters(start.net)
    opened = runs.new_run(home, f"rank-{rank}", params, tokenizer, text, time.perf_counter(), start=start,
                          say=lambda words: None)
    start = None                                        # as in train.py, the run alone has it
    with opened as run:
        run.step()                                      # the first step also takes memory and makes kernels
        started_at, processor_at = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            run.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = (time.perf_counter() if device == "cuda" else time.process_time()) \
            - (started_at if device == "cuda" else processor_at)
        run.save_resume()
        run.save_weights(None)
        trained = sum(weight.numel() for weight in run.net.parameters() if weight.requires_grad)
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else peak_bytes() - before
    sizes = [path.stat().st_size / 1e6 for path in (home.weights(run.name), home.resume(run.name))]
    tokens = STEPS * BATCH_SIZE * CONTEXT
    what = "all weights" if rank is None else f"LoRA, rank {rank}"
    print(f"| {what} | {trained:,} of {total:,} | {memory / 1e9:.2f} | {sizes[0]:.2f} "
          f"| {sizes[1]:.2f} | {tokens / seconds:.0f} |", flush=True)


def peak_bytes():
    """Return the most memory that this process has had."""
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    device = parser.parse_args().device
    pace = "tokens/s" if device == "cuda" else "tokens per processor second"
    print(f"| trained | parameters | GB of memory | MB of weights file | MB of resume file | {pace} |\n"
          "| --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        here = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import pathlib, lora; "
        home = f"pathlib.Path({folder!r})"
        for call in [f"prepare({home})", *(f"measure({home}, {rank}, {device!r})" for rank in RANKS)]:
            subprocess.run([sys.executable, "-c", f"{here}lora.{call}"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
