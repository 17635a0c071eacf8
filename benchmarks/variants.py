"""Validation loss of variants of the network after the same time: each differs from the default in one setting.

    python benchmarks/variants.py --jobs 2 --json variants.json --picture variants.png      # about half an hour
    python benchmarks/variants.py --variants folio relu2 --seeds 1 --minutes 0.5

Each variant is trained by the scripts with several seeds: 14 variants, three seeds, 90 s each. The last tenth of the
text is cut off first, so that choosing a variant does not use the validation set. The figure is nats per byte of the
last tenth of the rest, with the last weights, in windows that do not overlap; lower is better.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from quality import Recipe, add_arguments, study, summary  # after the change of sys.path

from folio.base.spelling import counted
from folio.cli.command_line import front_door
from folio.pictures.canvas import COLORS, ENDINGS, GRAY, Sheet, require_matplotlib, save, style

PLAYS = ROOT / "Train_Data" / "input.txt"
MINUTES = 1.5               # long enough that the time of a step and its effect on the loss both count
BASE = "folio"
# The size of the default preset, given explicitly: train.py would choose another one for another time.
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
    # About as many parameters in the blocks as 4 layers of width 128: they grow with layers x width^2.
    "deep": {"emb_len": 96, "num_layers": 7},
    "wide": {"emb_len": 192, "num_layers": 2, "num_heads": 3},
}


def flags_of(variant):
    """Return the flags of train.py.
    >>> flags_of("no-query-key-norm")
    ('--emb-len=128', '--num-layers=4', '--num-heads=2', '--no-query-key-norm')
    """
    return tuple(_flag(name.replace("_", "-"), value) for name, value in (SIZE | VARIANTS[variant]).items())


def _flag(name, value):
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


def ranked(runs):
    """Return [(variant, mean, deviation, its runs)], the best first; the deviation of a single seed is None."""
    figures = summary(runs)
    order = sorted(figures, key=lambda variant: figures[variant]["mean"]["windows"])
    return [(variant, figures[variant]["mean"]["windows"], figures[variant]["deviation"].get("windows"),
             [run for run in runs if run["recipe"] == variant])
            for variant in order]


def markdown(runs):
    """Yield the lines of a table, the best variant first."""
    rows = ranked(runs)
    base = next((mean for variant, mean, *_ in rows if variant == BASE), None)
    yield f"| variant | flags | nats per byte | against {BASE} | parameters | steps |"
    yield "| --- " * 6 + "|"
    for variant, mean, deviation, own in rows:
        flags = " ".join(f"`{flag}`" for flag in flags_of(variant) if flag not in flags_of(BASE))
        steps = sorted(run["steps"] for run in own)
        cells = [variant, flags, f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}",
                 "" if base is None or variant == BASE else f"{mean - base:+.3f}", f"{own[0]['parameters']:,}",
                 f"{steps[0]:,}" if steps[0] == steps[-1] else f"{steps[0]:,} to {steps[-1]:,}"]
        yield f"| {' | '.join(cells)} |"


def variants_figure(runs, text):
    """Draw the seeds of each variant as dots and their mean as a line, the best on top. -> matplotlib Figure

    runs: the results of quality.study; text: a line on the training text and the length of the runs.
    """
    rows = ranked(runs)
    row_height = 0.32           # inches
    with style():
        sheet = Sheet()
        name_width = max(sheet.width_of(variant, fontsize=10, weight="bold") for variant, *_ in rows) + 0.3
        top = sheet.begin(9.5, "Which variant learns most in the same time",
                          [text, "Nats per byte of text that was held out: lower is better. "
                                 "A dot is a seed, the stroke their mean"], row_height * len(rows) + 0.3)
        axis = sheet.axes(sheet.MARGIN + name_width, top - 0.3, sheet.width - 2 * sheet.MARGIN - name_width,
                          row_height * len(rows), label="variants")
        for place, (variant, mean, _, own) in enumerate(rows):
            color = COLORS[1] if variant == BASE else COLORS[0]
            axis.plot([run["windows"] for run in own], [place] * len(own), "o", color=color, markersize=5, alpha=0.55,
                      markeredgewidth=0, label=variant)
            axis.plot([mean, mean], [place - 0.28, place + 0.28], color=color, linewidth=2)
            if variant == BASE:
                axis.axvline(mean, color=color, linewidth=0.8, linestyle=(0, (1, 2)))
        axis.set(ylim=(len(rows) - 0.5, -0.5))
        axis.set_yticks(range(len(rows)), [variant for variant, *_ in rows], fontsize=10, color="black")
        axis.tick_params(axis="y", pad=10)
        axis.margins(x=0.04)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("nats per byte", color=GRAY)
    return sheet.figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, PLAYS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME",
                        help=f"of: {', '.join(VARIANTS)} (default: all)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the table as a .png or .svg")
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
