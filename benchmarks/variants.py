"""Which variant of the network learns most in the same time: each is the default but for one thing, trained by the real scripts with several seeds.

    python benchmarks/variants.py --jobs 2 --json variants.json --picture variants.png      # 14 variants, three seeds,
    90 s each: about half an hour python benchmarks/variants.py --variants folio relu2 --seeds 1 --minutes 0.5

The last tenth of the text is cut off first: this is for choosing, and what is chosen by it is measured elsewhere. The
figure is nats per byte of the last tenth of what remains, by the last weights, in windows that do not overlap; lower is
better.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from quality import Recipe, add_arguments, study, summary                                           # noqa: E402
from folio.cli.command_line import front_door                                                           # noqa: E402  (it lies at the root)
from folio.pictures.canvas import COLOURS, ENDINGS, GREY, Sheet, counted, require_matplotlib, save, style       # noqa: E402

PLAYS = ROOT / "Train_Data" / "input.txt"
MINUTES = 1.5               # long enough that a step's price and what it teaches both count
BASE = "folio"
# The default's own size, said aloud: train.py would choose another for another time.
SIZE = {"emb_len": 128, "num_layers": 4, "num_heads": 2}
VARIANTS = {
    BASE: {},
    "classic": {"family": "classic"},
    "grouped-queries": {"num_kv_heads": 1},
    "four-heads": {"num_heads": 4},
    "tied-head": {"tied_head": True},
    "relu": {"mlp": "relu"},
    "relu2": {"mlp": "relu2"},
    "gelu": {"mlp": "gelu"},
    "layer-norm": {"norm": "layer"},
    "no-query-key-norm": {"query_key_norm": False},
    "learned-positions": {"positions": "learned"},
    "no-positions": {"positions": "none"},
    # As many parameters in the blocks as 4 layers of 128, to a few in a hundred: they grow with layers x width^2.
    "deep": {"emb_len": 96, "num_layers": 7},
    "wide": {"emb_len": 192, "num_layers": 2, "num_heads": 3},
}


def flags_of(variant):
    """What train.py is told: ["--emb-len=128", ..., "--no-query-key-norm"]"""
    words = {name.replace("_", "-"): value for name, value in (SIZE | VARIANTS[variant]).items()}
    return tuple(f"--{'no-' * (value is False)}{name}" if isinstance(value, bool) else f"--{name}={value}" for name,
                 value in words.items())


def ranked(runs):
    """[(variant, mean, deviation, its runs)], the best first; the deviation is None where there is one seed."""
    told = summary(runs)
    order = sorted(told, key=lambda variant: told[variant]["mean"]["windows"])
    return [(variant, told[variant]["mean"]["windows"], told[variant]["deviation"].get("windows"),
             [run for run in runs if run["recipe"] == variant])
            for variant in order]


def markdown(runs):
    """The lines of a table, the best first."""
    rows = ranked(runs)
    base = next((mean for variant, mean, *_ in rows if variant == BASE), None)
    yield f"| variant | flags | nats per byte | against {BASE} | parameters | steps |"
    yield "| --- " * 6 + "|"
    for variant, mean, deviation, own in rows:
        flags = " ".join(f"`{flag}`" for flag in flags_of(variant) if flag not in flags_of(BASE))
        steps = sorted(run["steps"] for run in own)
        cells = [variant, flags, f"{mean:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else ""),
                 "" if base is None or variant == BASE else f"{mean - base:+.3f}", f"{own[0]['parameters']:,}",
                 f"{steps[0]:,}" + f" to {steps[-1]:,}" * (steps[0] != steps[-1])]
        yield f"| {' | '.join(cells)} |"


def variants_figure(runs, text):
    """Draw the seeds of each variant as dots, and their mean as a stroke, the best on top. -> matplotlib Figure

    runs: as quality.study hands them out; text: what they learned, and how long.
    """
    rows = ranked(runs)
    high = 0.32
    with style():
        sheet = Sheet()
        name_wide = max(sheet.width_of(variant, fontsize=10, weight="bold") for variant, *_ in rows) + 0.3
        top = sheet.begin(9.5, "Which variant learns most in the same time",
                          [text, "Nats per byte of text that was held out: lower is better. "
                          "A dot is a seed, the stroke their mean"], high * len(rows) + 0.3)
        axis = sheet.axes(sheet.MARGIN + name_wide, top - 0.3, sheet.width - 2 * sheet.MARGIN - name_wide,
                          high * len(rows), label="variants")
        for place, (variant, mean, _, own) in enumerate(rows):
            colour = COLOURS[variant == BASE]
            axis.plot([run["windows"] for run in own], [place] * len(own), "o", color=colour, markersize=5, alpha=0.55,
                      markeredgewidth=0, label=variant)
            axis.plot([mean, mean], [place - 0.28, place + 0.28], color=colour, linewidth=2)
            if variant == BASE:
                axis.axvline(mean, color=colour, linewidth=0.8, linestyle=(0, (1, 2)))
        axis.set(ylim=(len(rows) - 0.5, -0.5))
        axis.set_yticks(range(len(rows)), [variant for variant, *_ in rows], fontsize=10, color="black")
        axis.tick_params(axis="y", pad=10)
        axis.margins(x=0.04)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("nats per byte", color=GREY)
    return sheet.figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, PLAYS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME",
                        help=f"of: {', '.join(VARIANTS)} (default: all)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw it there, a .png or .svg")
    arguments = parser.parse_args()
    if arguments.picture:
        require_matplotlib()
        if arguments.picture.suffix.lower() not in ENDINGS:
            parser.error(f"--picture {arguments.picture} has to end in {' or '.join(ENDINGS)}")
    if not (arguments.minutes or arguments.steps):
        arguments.minutes = MINUTES
    runs = study({name: Recipe(train=flags_of(name)) for name in arguments.variants}, arguments, holdout=True)
    print("\n".join(markdown(runs)))
    if arguments.picture:
        length = f"{arguments.minutes:g} minutes" if arguments.minutes else counted(arguments.steps, "step")
        save(variants_figure(runs, f"{arguments.text.name}, {length} each"), arguments.picture)


if __name__ == "__main__":
    front_door(main)
