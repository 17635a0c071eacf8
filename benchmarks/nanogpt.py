"""How soon Folio is as good as nanoGPT's recipe for a CPU, in one run on the same cores.

    python benchmarks/nanogpt.py                    # some six minutes: the recipe once, Folio with the time it took and
    with a twelfth of it, three seeds python benchmarks/nanogpt.py --only recipe      # the recipe alone

The recipe is the one that nanoGPT's README gives for a laptop: characters of tiny shakespeare, 4 layers and heads,
width 128, context 64, 12 sequences a step, AdamW, 2,000 steps, a validation every 250. Here it is a program of its own,
as plain as that: torch's layers in float32, nothing compiled. Its validation loss (random windows, in nats per
character, which are bytes in this text) should end at 1.88 +- 0.02. Folio gets the seconds that the recipe's whole
process took, with no flag but --minutes, and is measured in windows that do not overlap (see quality.py).
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

TARGETS = {12: 1.886, 1: 1.4697}            # nats per byte that Folio is to reach in the recipe's time divided by this


# --- The recipe, in a process of its own ---

@dataclass(frozen=True)
class Recipe:
    """What nanoGPT's README gives for a CPU; what it leaves out are nanoGPT's defaults for characters."""
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
        """The learning rate at a step: a warm-up, then half a cosine."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / (self.steps - self.warmup)
        return self.lowest_rate + 0.5 * (1 + math.cos(math.pi * progress)) * (self.learning_rate - self.lowest_rate)


def network(recipe, characters):
    """A GPT-2 without biases or dropout, its head tied to its embedding."""
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
            x = x + self.mixed(F.scaled_dot_product_attention(query, key, value,
                                                              is_causal=True).transpose(1, 2).flatten(2))
            return x + self.down(F.gelu(self.up(self.norms[1](x))))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places = nn.Embedding(characters,
                                                    recipe.width), nn.Embedding(recipe.context, recipe.width)
            self.blocks = nn.Sequential(*(Block() for _ in range(recipe.layers)))
            self.norm, self.head = nn.LayerNorm(recipe.width,
                                                bias=False), nn.Linear(recipe.width, characters, bias=False)
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2:
                    nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * recipe.layers)
                                                           if name.endswith(("mixed.weight", "down.weight")) else 1))
            self.head.weight = self.tokens.weight

        def forward(self, tokens):
            return self.head(self.norm(self.blocks(self.tokens(tokens) + self.places.weight)))

    return GPT()


def train_recipe(path):
    """Train the recipe on a text and print its validation losses, the last one last."""
    import numpy as np
    import torch
    from torch.nn import functional as F
    recipe, text = Recipe(), path.read_text(encoding="utf-8")
    torch.manual_seed(recipe.seed)
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    tokens = torch.from_numpy(np.array([alphabet[character] for character in text]))
    parts = tokens[:len(tokens) * 9 // 10], tokens[len(tokens) * 9 // 10:]
    net = network(recipe, len(alphabet))
    matrices, others = ([each for each in net.parameters() if (each.ndim == 2) == are_matrices]
                        for are_matrices in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": recipe.weight_decay},
                                   {"params": others, "weight_decay": 0.0}], betas=recipe.betas)

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


# --- All of it ---

def compare(path, seeds):
    """Print the recipe's time and loss, then what Folio makes of shares of that time."""
    import subprocess
    from quality import Recipe as Flags
    from quality import prepare, train_and_measure
    began = time.perf_counter()
    said = subprocess.run([sys.executable, __file__, "--only", "recipe", "--text", path], capture_output=True,
                          text=True, check=True).stdout
    seconds = time.perf_counter() - began
    print(f"nanoGPT's recipe: {said.split()[-1]} nats per character (random windows) after {seconds:.1f} s, the whole process", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for divisor, target in TARGETS.items():
            flags = Flags(train=(f"--minutes={seconds / divisor / 60:.4f}",))
            name = f"a-{divisor}th"
            homes = prepare(Path(folder) / name, path.read_text(encoding="utf-8"), {name: flags})
            found = [train_and_measure(name, flags, seed, homes[name], []) for seed in seeds]
            columns = {what: [run[what] for run in found] for what in ("windows", "wall_seconds", "steps")}
            print(f"Folio in 1/{divisor} of it, {seconds / divisor:.1f} s: {statistics.mean(columns['windows']):.4f} nats per byte "
                  f"({_list(columns['windows'], '.4f')}) after {_list(columns['wall_seconds'], '.1f')} s and {_list(columns['steps'], 'd')} steps; "
                  f"to reach: {target}", flush=True)


def _list(numbers, form):
    return ", ".join(format(number, form) for number in numbers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, default=ROOT.parent / "shared" / "data" / "tinyshakespeare.txt",
                        metavar="FILE",
                        help="a text in UTF-8 (default: tinyshakespeare.txt)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N",
                        help="of Folio's runs (default: 1 2 3)")
    parser.add_argument("--only", choices=["recipe"], help="the recipe alone")
    arguments = parser.parse_args()
    if not arguments.text.exists():
        return print(f"Skipped: there is no text at {arguments.text}.")
    if arguments.only:
        train_recipe(arguments.text)
    else:
        compare(arguments.text, arguments.seeds)


if __name__ == "__main__":
    main()
