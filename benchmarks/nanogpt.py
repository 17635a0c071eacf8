"""How fast Folio reaches the loss of nanoGPT's recipe for a CPU, in one run on the same cores.

    python benchmarks/nanogpt.py                    # about six minutes, three seeds of Folio
    python benchmarks/nanogpt.py --only recipe      # the recipe alone

The recipe is that of nanoGPT's README for a laptop: characters of tiny shakespeare, 4 layers and heads, width 128,
context 64, 12 sequences per step, AdamW, 2,000 steps, an evaluation every 250. Here it is a plain program: torch's
layers in float32, not compiled. Its validation loss (random windows, in nats per character; in this text a character is
a byte) should end at 1.88 +- 0.02. Folio trains for the wall-clock time of the recipe's process and for a twelfth of
it, with no flag but --minutes, and is measured in windows that do not overlap (see quality.py).
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

TARGETS = {12: 1.886, 1: 1.4697}            # divisor of the recipe's time -> nats per byte to reach


# --- The recipe, in a process of its own ---

@dataclass(frozen=True)
class Recipe:
    """The recipe of nanoGPT's README for a CPU, completed by nanoGPT's defaults for characters."""
    layers: int = 4
    heads: int = 4
    width: int = 128
    context: int = 64
    batch: int = 12
    steps: int = 2000
    learning_rate: float = 1e-3
    lowest_rate: float = 1e-4
    warmup: int = 100
    weight_decay: float = 0.1
    betas: tuple = (0.9, 0.99)
    clip: float = 1.0
    eval_interval: int = 250
    eval_batches: int = 20
    seed: int = 1337

    def rate(self, step):
        """Return the learning rate at a step: linear warm-up, then cosine decay."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / (self.steps - self.warmup)
        return self.lowest_rate + 0.5 * (1 + math.cos(math.pi * progress)) * (self.learning_rate - self.lowest_rate)


def network(recipe, characters):
    """Build a GPT-2 without biases or dropout, its head tied to its embedding."""
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            width = recipe.width
            self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
            self.qkv, self.mixed = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

        def forward(self, x):
            query, key, value = (part.unflatten(-1, (recipe.heads, -1)).transpose(1, 2)
                                 for part in self.qkv(self.norms[0](x)).chunk(3, -1))
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + self.mixed(mixed.transpose(1, 2).flatten(2))
            return x + self.down(F.gelu(self.up(self.norms[1](x))))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(characters, recipe.width)
            self.places = nn.Embedding(recipe.context, recipe.width)
            self.blocks = nn.Sequential(*(Block() for _ in range(recipe.layers)))
            self.norm = nn.LayerNorm(recipe.width, bias=False)
            self.head = nn.Linear(recipe.width, characters, bias=False)
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2:
                    in_residual = name.endswith(("mixed.weight", "down.weight"))
                    nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * recipe.layers) if in_residual else 0.02)
            self.head.weight = self.tokens.weight

        def forward(self, tokens):
            return self.head(self.norm(self.blocks(self.tokens(tokens) + self.places.weight)))

    return GPT()


def train_recipe(path):
    """Train the recipe on a text and print its losses at every evaluation."""
    import numpy as np
    import torch
    from torch.nn import functional as F
    recipe, text = Recipe(), path.read_text(encoding="utf-8")
    torch.manual_seed(recipe.seed)
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    tokens = torch.from_numpy(np.array([alphabet[character] for character in text]))
    parts = tokens[:len(tokens) * 9 // 10], tokens[len(tokens) * 9 // 10:]
    net = network(recipe, len(alphabet))
    matrices = [parameter for parameter in net.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in net.parameters() if parameter.ndim != 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": recipe.weight_decay},
                                   {"params": vectors, "weight_decay": 0.0}], betas=recipe.betas)

    def loss_of(part):
        starts = torch.randint(len(part) - recipe.context, (recipe.batch,))
        inputs = torch.stack([part[start:start + recipe.context] for start in starts])
        targets = torch.stack([part[start + 1:start + 1 + recipe.context] for start in starts])
        return F.cross_entropy(net(inputs).flatten(0, 1), targets.flatten())

    for step in range(recipe.steps + 1):
        if step % recipe.eval_interval == 0:
            with torch.no_grad():
                training, validation = (statistics.mean(loss_of(part).item() for _ in range(recipe.eval_batches))
                                        for part in parts)
            print(f"step {step} training {training:.4f} validation {validation:.4f}", flush=True)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        loss = loss_of(parts[0])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        optimizer.step()


# --- The comparison ---

def compare(path, seeds):
    """Print the time and loss of the recipe, then the losses of Folio after fractions of that time."""
    import subprocess

    from quality import Recipe as Flags
    from quality import prepare, train_and_measure
    began = time.perf_counter()
    output = subprocess.run([sys.executable, __file__, "--only", "recipe", "--text", path], capture_output=True,
                            text=True, check=True).stdout
    seconds = time.perf_counter() - began
    print(f"nanoGPT's recipe: {output.split()[-1]} nats per character (random windows) after {seconds:.1f} s, "
          "the whole process", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for divisor, target in TARGETS.items():
            flags = Flags(train=(f"--minutes={seconds / divisor / 60:.4f}",))
            name = f"a-{divisor}th"
            homes = prepare(Path(folder) / name, path.read_text(encoding="utf-8"), {name: flags})
            runs = [train_and_measure(name, flags, seed, homes[name], []) for seed in seeds]
            losses, times, steps = ([run[figure] for run in runs] for figure in ("windows", "wall_seconds", "steps"))
            print(f"Folio in 1/{divisor} of it, {seconds / divisor:.1f} s: {statistics.mean(losses):.4f} nats per byte "
                  f"({_list(losses, '.4f')}) after {_list(times, '.1f')} s and {_list(steps, 'd')} steps; "
                  f"to reach: {target}", flush=True)


def _list(numbers, form):
    return ", ".join(format(number, form) for number in numbers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, default=ROOT.parent / "shared" / "data" / "tinyshakespeare.txt",
                        metavar="FILE", help="a text in UTF-8 (default: tinyshakespeare.txt)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N",
                        help="seeds of Folio's runs (default: 1 2 3)")
    parser.add_argument("--only", choices=["recipe"], help="run the recipe alone")
    arguments = parser.parse_args()
    if not arguments.text.exists():
        return print(f"Skipped: there is no text at {arguments.text}.")
    if arguments.only:
        train_recipe(arguments.text)
    else:
        compare(arguments.text, arguments.seeds)


if __name__ == "__main__":
    main()
