"""How fast Folio trains, beside a plain program that trains the same network, in the same process.

    python benchmarks/training.py                # about three minutes on two cores
    python benchmarks/training.py --compile      # Folio's step compiled as well (half a minute more where it was never compiled)
    python benchmarks/training.py --shape 10m    # 11 million parameters: what GPUs are compared with
    python benchmarks/training.py --preset micropgpt        # a preset as it is: its shape, batch, optimizer and tokenizer
    python benchmarks/training.py --preset llm-v0 --precision fp32      # beside torch.nn.LSTM in the same numbers

The plain program is what a careful reader of PyTorch's documentation writes: the same layers from torch.nn.functional, float32 and AdamW on a CPU;
on a GPU bfloat16 under autocast and torch.compile. It starts from Folio's weights, and both must agree on the first loss. It is measured twice:
before Folio has set anything in the process, as it would run by itself, and again in turns with Folio, when the C library keeps memory for both.
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

from folio.data import corpus                      # noqa: E402  (they lie at the root)
from folio.base import hardware                      # noqa: E402  (they lie at the root)
from folio.networks import build as networks                      # noqa: E402  (they lie at the root)
from folio.training import runs                      # noqa: E402  (they lie at the root)
from folio.data.batches import batch_at                                      # noqa: E402
from folio.cli.command_line import chosen                                   # noqa: E402
from folio.base.home import Home                                             # noqa: E402
from folio.networks.build import count_parameters                             # noqa: E402
from Model import NORM_EPS                                              # noqa: E402
from Model_Params import PRESETS, TextParams, one_length                # noqa: E402

import torch                                                            # noqa: E402  (after folio, which bounds how long its threads spin)
import torch.nn.functional as F                                         # noqa: E402

SHAPES = {"default": 128, "wide": 256, "10m": 384}          # widths; layers and heads go with them
TURNS, STEPS_A_TURN = 7, 4


class Plain(torch.nn.Module):
    """The parameters of a Folio network, copied, for a network that torch's own layers compute."""

    def __init__(self, net):
        super().__init__()
        self.params = net.params
        self.weights = torch.nn.ParameterDict({name.replace(".", "_"): torch.nn.Parameter(value.clone()) for name, value in net.state_dict().items()})

    def of_layer(self, layer):
        """{name: parameter} of a block."""
        return {name.removeprefix(f"blocks_{layer}_"): value for name, value in self.weights.items() if name.startswith(f"blocks_{layer}_")}

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
            x = x + F.linear(F.silu(F.linear(y, own["mlp_gate_weight"])) * F.linear(y, own["mlp_up_weight"]), own["mlp_down_weight"])
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
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=params.attention_dropout if self.training else 0.0)
            x = x + F.dropout(self.linear(mixed.transpose(1, 2).flatten(2), own, "attention_output"), params.dropout, self.training)
            y = self.linear(activation(self.linear(self.norm(x, own, "mlp_norm"), own, "mlp_up")), own, "mlp_down")
            x = x + F.dropout(y, params.dropout, self.training)
        return self.linear(self.norm(x, weights, "norm"), weights, "head")

    def norm(self, x, weights, name):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}_weight"], weights[f"{name}_bias"], NORM_EPS)

    def linear(self, x, weights, name):
        return F.linear(x, weights[f"{name}_weight"], weights[f"{name}_bias"])


class PlainLSTM(torch.nn.Module):
    """The LSTM: torch.nn.LSTM between an embedding and a linear layer."""

    def __init__(self, net):
        super().__init__()
        params = net.params
        self.embedding = torch.nn.Embedding(params.vocab_size, params.emb_len)
        self.blocks = torch.nn.LSTM(params.emb_len, params.hidden_len, params.num_layers, batch_first=True, dropout=params.dropout)
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
    """Seconds that some steps take, with everything that they started on a GPU finished."""
    started_at = time.perf_counter()
    for _ in range(steps):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started_at


def in_turns(*steps):
    """Seconds a step of some programs that take turns, the median of each."""
    for step in steps:
        seconds_of(step, 3)             # the first ones warm up
    turns = [[seconds_of(step, STEPS_A_TURN) / STEPS_A_TURN for step in steps] for _ in range(TURNS)]
    return [statistics.median(column) for column in zip(*turns)]


def compare(run, plain, batch, alone):
    """Print the table of a Run beside the PlainTraining that began with the same weights and took `alone` seconds a step by itself."""
    together, ours = in_turns(lambda: plain.step(*batch), run.step)
    model, training = run.params.model, run.training
    print(f"{count_parameters(run.net):,} parameters ({model.num_layers} layers, width {model.emb_len}, {model.vocab_size:,} tokens), "
          f"{training.batch_size} x {model.block_size} tokens a step; {training.device}, {training.threads} threads; Folio in "
          f"{training.precision}{', compiled' if training.compile else ''}")
    for name, seconds in (("plain, by itself", alone), ("plain, beside Folio", together), ("Folio", ours)):
        print(f"{name:20} {1000 * seconds:7.1f} ms a step {run.tokens_per_step / seconds:10,.0f} tokens/s {alone / seconds:6.2f}x")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--shape", default="default", choices=SHAPES, help="of the default preset's network (default: its own)")
    what.add_argument("--preset", default="default", choices=PRESETS, help="(default: default)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available(), help="compile Folio's step")
    parser.add_argument("--vocab-size", type=int, help="of a bpe tokenizer, learned from the plays (default: 1024, or the preset's)")
    parser.add_argument("--batch-size", type=int, help="windows a step (default: the preset's)")
    parser.add_argument("--precision", default="auto", help="of Folio's matrix products (default: the best here)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both (default: one a core)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    preset = PRESETS[arguments.preset]
    if arguments.preset == "default":
        preset = replace(preset, text=TextParams(vocab_size=1024), model=preset.model.sized(SHAPES[arguments.shape]))
    wanted = {name: value for name, value in vars(arguments).items() if name in ("vocab_size", "batch_size", "threads", "precision", "compile") and value is not None}
    wanted["compile"] &= not preset.model.is_recurrent          # which would be refused
    params = chosen(preset, one_length({"steps": 1000}) | wanted)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        tokenizer, text = corpus.prepare(home, params.text, [str(ROOT / "Train_Data" / "input.txt")])
        torch.manual_seed(params.training.seed)             # as a Run does: it begins with the same weights
        net = networks.build(replace(params.model, vocab_size=tokenizer.vocab_size))
        plain = PlainTraining(net, hardware.settle_device("auto"))
        arrays = batch_at(text.train, 0, batch_size=params.training.batch_size, block_size=params.model.block_size, seed=1)
        batch = [torch.from_numpy(part).to(plain.device) for part in (arrays.inputs, arrays.targets)]
        first_loss = plain.loss_without_dropout(*batch)
        alone, = in_turns(lambda: plain.step(*batch))
        with runs.new_run(home, "speed", params, tokenizer, text, time.perf_counter(), say=lambda words: None) as run:
            run.precision.working_net.eval()
            with torch.no_grad():
                assert abs(run.train_step.loss(*batch).item() / batch[1].numel() - first_loss) < 0.02, "the two networks do not compute the same"        # bfloat16 has three digits
            run.precision.working_net.train()
            run.compile()
            compare(run, plain, batch, alone)


if __name__ == "__main__":
    main()
