"""Training speed of Folio and of a plain program that trains the same network in the same process.

    python benchmarks/training.py                       # about three minutes on two cores
    python benchmarks/training.py --compile             # compile Folio's step (the first time: half a minute more)
    python benchmarks/training.py --shape 10m           # 11 million parameters: for comparisons of GPUs
    python benchmarks/training.py --preset micropgpt    # the shape, batch, optimizer and tokenizer of a preset
    python benchmarks/training.py --preset llm-v0 --precision fp32      # beside torch.nn.LSTM in the same precision

The plain program is what PyTorch's documentation teaches: the same layers from torch.nn.functional, with float32 and
AdamW on a CPU, and bfloat16 under autocast and torch.compile on a GPU. It starts from Folio's weights, and both must
have the same first loss. It is measured twice: before Folio changes any setting of the process, as it would run by
itself, and again interleaved with Folio, whose settings for the C library's memory then serve both.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from folio.base import hardware  # after the change of sys.path
from folio.base.home import Home
from folio.cli.command_line import chosen, one_length
from folio.data import corpus
from folio.data.batches import batch_at
from folio.networks import build as networks
from folio.networks.build import count_parameters
from folio.training import runs
from Model_Params import PRESETS, TextParams

# isort: split
import torch  # after folio, which bounds its spinning threads
import torch.nn.functional as F

SHAPES = {"default": 128, "wide": 256, "10m": 384}          # widths, which set the numbers of layers and heads
TURNS, STEPS_PER_TURN = 7, 4


class Plain(torch.nn.Module):
    """A copy of the parameters of a Folio network, for a network built from torch's own functions."""

    def __init__(self, net):
        super().__init__()
        self.params = net.params
        self.weights = torch.nn.ParameterDict({name.replace(".", "_"): torch.nn.Parameter(value.clone())
                                               for name, value in net.state_dict().items()})

    def of_layer(self, layer):
        """Return the parameters of a block: {name: parameter}."""
        return {name.removeprefix(f"blocks_{layer}_"): value for name, value in self.weights.items()
                if name.startswith(f"blocks_{layer}_")}

    def in_heads(self, x, own):
        """x: (B, T, C) -> query, key, value: (B, heads, T, D) each"""
        return (F.linear(x, own[f"attention_{name}_weight"]).unflatten(-1, (-1, self.params.head_len)).transpose(1, 2)
                for name in ("query", "key", "value"))


class PlainFolio(Plain):
    """The folio family."""

    def forward(self, tokens):
        weights = self.weights
        x = F.embedding(tokens, weights["embedding_weight"])
        cos, sin = self.angles(tokens.shape[1], x.device)
        for layer in range(self.params.num_layers):
            own = self.of_layer(layer)
            query, key, value = self.in_heads(F.rms_norm(x, x.shape[-1:], own["attention_norm_weight"], 1e-6), own)
            query, key = (part * cos + torch.cat((-part.chunk(2, -1)[1], part.chunk(2, -1)[0]), -1) * sin
                          for part in (F.rms_norm(query, query.shape[-1:], own["attention_query_norm_weight"], 1e-6),
                                       F.rms_norm(key, key.shape[-1:], own["attention_key_norm_weight"], 1e-6)))
            mixed = F.scaled_dot_product_attention(query, key.type_as(query), value.type_as(query), is_causal=True)
            x = x + F.linear(mixed.transpose(1, 2).flatten(2), own["attention_output_weight"])
            y = F.rms_norm(x, x.shape[-1:], own["mlp_norm_weight"], 1e-6)
            x = x + F.linear(F.silu(F.linear(y, own["mlp_gate_weight"])) * F.linear(y, own["mlp_up_weight"]),
                             own["mlp_down_weight"])
        return F.linear(F.rms_norm(x, x.shape[-1:], weights["norm_weight"], 1e-6), weights["head_weight"])

    def angles(self, length, device):
        head_len = self.params.head_len
        speeds = 10_000 ** -(torch.arange(0, head_len, 2, device=device) / head_len)
        angles = torch.outer(torch.arange(length, device=device), speeds).repeat(1, 2)
        return angles.cos(), angles.sin()


class PlainClassic(Plain):
    """The classic family, with biases as lectures have them."""

    def forward(self, tokens):
        weights, params = self.weights, self.params
        activation = {"relu": F.relu, "gelu": partial(F.gelu, approximate="tanh")}[params.mlp]
        x = F.embedding(tokens, weights["embedding_weight"]) + weights["positions_table_weight"][:tokens.shape[1]]
        for layer in range(params.num_layers):
            own = self.of_layer(layer)
            query, key, value = self.in_heads(self.norm(x, own, "attention_norm"), own)
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True,
                                                   dropout_p=params.attention_dropout if self.training else 0.0)
            y = self.linear(mixed.transpose(1, 2).flatten(2), own, "attention_output")
            x = x + F.dropout(y, params.dropout, self.training)
            y = self.linear(activation(self.linear(self.norm(x, own, "mlp_norm"), own, "mlp_up")), own, "mlp_down")
            x = x + F.dropout(y, params.dropout, self.training)
        return self.linear(self.norm(x, weights, "norm"), weights, "head")

    def norm(self, x, weights, name):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}_weight"], weights[f"{name}_bias"], self.params.norm_eps)

    def linear(self, x, weights, name):
        return F.linear(x, weights[f"{name}_weight"], weights[f"{name}_bias"])


class PlainLSTM(torch.nn.Module):
    """The LSTM: torch.nn.LSTM between an embedding and a linear layer."""

    def __init__(self, net):
        super().__init__()
        params = net.params
        self.embedding = torch.nn.Embedding(params.vocab_size, params.emb_len)
        self.blocks = torch.nn.LSTM(params.emb_len, params.hidden_len, params.num_layers, batch_first=True,
                                    dropout=params.dropout)
        self.head = torch.nn.Linear(params.hidden_len, params.vocab_size)
        self.load_state_dict(net.state_dict())

    def forward(self, tokens):
        return self.head(self.blocks(self.embedding(tokens))[0])


FAMILIES = {"folio": PlainFolio, "classic": PlainClassic, "lstm": PlainLSTM}


class PlainTraining:
    """The plain program's step."""

    def __init__(self, net, device):
        self.device, self.kind = device, torch.device(device).type
        self.net = FAMILIES[net.params.family](net).to(device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3, fused=self.kind == "cuda")
        self.compute = torch.compile(self.net) if self.kind == "cuda" else self.net

    def loss(self, inputs, targets):
        with torch.autocast(self.kind, torch.bfloat16, enabled=self.kind == "cuda"):
            return F.cross_entropy(self.compute(inputs).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def loss_without_dropout(self, inputs, targets):
        self.net.eval()
        loss = self.loss(inputs, targets).item()
        self.net.train()
        return loss

    def step(self, inputs, targets):
        loss = self.loss(inputs, targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def seconds_of(step, steps):
    """Return the seconds of some steps, including all the work that they queue on a GPU."""
    started_at = time.perf_counter()
    for _ in range(steps):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started_at


def in_turns(*steps):
    """Return the median seconds per step of each program, measured interleaved."""
    for step in steps:
        seconds_of(step, 3)             # warm-up
    turns = [[seconds_of(step, STEPS_PER_TURN) / STEPS_PER_TURN for step in steps] for _ in range(TURNS)]
    return [statistics.median(column) for column in zip(*turns)]


def compare(run, plain, batch, alone):
    """Print the speed of a Run beside that of a PlainTraining, which took `alone` seconds per step by itself."""
    together, ours = in_turns(lambda: plain.step(*batch), run.step)
    model, training = run.params.model, run.training
    print(f"{count_parameters(run.net):,} parameters ({model.num_layers} layers, width {model.emb_len}, "
          f"{model.vocab_size:,} tokens), {training.batch_size} x {model.block_size} tokens per step; "
          f"{training.device}, {training.threads} threads; "
          f"Folio in {training.precision}{', compiled' if training.compile else ''}")
    for name, seconds in (("plain, by itself", alone), ("plain, beside Folio", together), ("Folio", ours)):
        print(f"{name:20} {1000 * seconds:7.1f} ms/step {run.tokens_per_step / seconds:10,.0f} tokens/s "
              f"{alone / seconds:6.2f}x")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--shape", default="default", choices=SHAPES,
                         help="width of the default preset's network (default: its own)")
    network.add_argument("--preset", default="default", choices=PRESETS, help="preset to train (default: default)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available(),
                        help="compile Folio's step")
    parser.add_argument("--vocab-size", type=int,
                        help="vocabulary of a BPE tokenizer learned from the plays (default: 1024, or the preset's)")
    parser.add_argument("--batch-size", type=int, help="sequences per step (default: the preset's)")
    parser.add_argument("--precision", default="auto",
                        help="precision of Folio's matrix products (default: chosen by training)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(),
                        help="threads of both programs (default: one per core)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    preset = PRESETS[arguments.preset]
    if arguments.preset == "default":
        preset = replace(preset, text=TextParams(vocab_size=1024), model=preset.model.sized(SHAPES[arguments.shape]))
    wanted = {name: value for name, value in vars(arguments).items()
              if name in ("vocab_size", "batch_size", "threads", "precision", "compile") and value is not None}
    wanted["compile"] &= not preset.model.is_recurrent          # compile is refused for recurrent networks
    params = chosen(preset, one_length({"steps": 1000}) | wanted)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        tokenizer, text = corpus.open_corpus(home, params.text, [str(ROOT / "Train_Data" / "input.txt")])
        torch.manual_seed(params.training.seed)             # as in a Run, so that both start from the same weights
        net = networks.build_network(replace(params.model, vocab_size=tokenizer.vocab_size))
        plain = PlainTraining(net, hardware.settle_device("auto"))
        arrays = batch_at(text.train, 0, batch_size=params.training.batch_size, block_size=params.model.block_size,
                          seed=1)
        batch = [torch.from_numpy(part).to(plain.device) for part in (arrays.inputs, arrays.targets)]
        first_loss = plain.loss_without_dropout(*batch)
        alone, = in_turns(lambda: plain.step(*batch))
        with runs.new_run(home, "speed", params, tokenizer, text, time.perf_counter(), say=lambda words: None) as run:
            run.precision.working_net.eval()
            with torch.no_grad():
                # bfloat16 has three digits
                loss = run.train_step.loss(*batch).item() / batch[1].numel()
            assert abs(loss - first_loss) < 0.02, "the two networks do not compute the same"
            run.precision.working_net.train()
            run.compile()
            compare(run, plain, batch, alone)


if __name__ == "__main__":
    main()
