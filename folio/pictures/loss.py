"""How runs learned: loss of training and validation text in one unit, learning rate and speed, from their logs."""

import math
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folio.formats import run_log
from folio.base.commands import command
from folio.base.errors import FolioError
from folio.pictures.canvas import COLOURS, GREY, counted, darker, shortened, style
from folio.base.spelling import nearest

DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
MOST_RUNS = len(COLOURS) * len(DASHES)


@dataclass(frozen=True)
class Panel:
    """What one part of the picture shows of every run."""
    field: str              # in the log
    title: str
    unit: str
    is_noisy: bool = False  # many reports get a running mean
    is_rate: bool = False   # a low panel, whose axis begins at zero


SCORE = "val_nats_per_byte"             # by which runs are compared
TRAINING = "train_eval_nats_per_byte"   # training text, measured as the validation is
RUNNING = "train_nats_per_byte"         # training text as it was learned from, with dropout and BPE-dropout
LOSS = Panel(SCORE, "Loss", "nats per byte")
PER_TOKEN = Panel("train_loss", "Training loss", "nats per token", is_noisy=True)       # of logs without another unit
RATES = (Panel("learning_rate", "Learning rate", "", is_rate=True),
         Panel("tokens_per_second", "Speed", "tokens per second", is_noisy=True, is_rate=True))
CLIFF = 0.05                            # share of a run, at its start, whose height would press all that follows flat
SMOOTH_FROM = 200                       # reports: more than can be told apart in a panel
POSITIONS = {"steps": "step", "seconds": "seconds", "tokens": "tokens"}         # --x, and the field of it
TIMES = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}             # an axis takes the first of which it has two


# --- Logs ---

def find_logs(home, words):
    """{name: path} of the logs that names of runs or paths say; without any, of the newest. Raises FileNotFoundError with a list of what there is."""
    there = home.newest("log-*.jsonl")
    if not there and not words:
        raise FileNotFoundError(f"There is no log of a run in {home.saved_weights}. Train first ({command('train.py')}), or name a log file.")
    found = {}
    for path in [_find_log(home, word, there) for word in words] or there[:1]:
        if path.resolve() not in map(Path.resolve, found.values()):
            found[path] = path
    names = [run_name(path) for path in found]
    return {name if names.count(name) == 1 else str(path): path for name, path in zip(names, found)}


def run_name(path):
    """The name of the run that a log is of."""
    return path.stem.removeprefix("log-")


def default_output(logs):
    """Where a picture goes that was given no place: beside the first log."""
    path = next(iter(logs.values()))
    others = f"-and-{len(logs) - 1}-more" if len(logs) > 1 else ""
    return path.with_name(f"loss-{run_name(path)}{others}.png")


def _find_log(home, word, there):
    for path in (home.log(word), Path(word)):
        if path.is_file():
            return path
    names = [run_name(path) for path in there]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    raise FileNotFoundError(f"There is no run {word}, nor a log file of that name{nearest(word, names)}. "
                            f"Runs with a log in {home.saved_weights}: {', '.join(names[:10]) or 'none'}{more}.")


def reports_of(path):
    """The reports in a log that is to be drawn. Raises FolioError where there are none; says how many lines were passed over."""
    lines = list(run_log.each_line(path))
    reports = [report for report in lines if report is not None]
    if not reports:
        raise FolioError(f"{path} has nothing to draw yet: of its {counted(len(lines), 'line')} none is a report. "
                         "A run writes its first one after some steps.")
    if damaged := lines[:-1].count(None):           # half a line at the end is being written, or was when the run was killed
        print(f"{path}: {counted(damaged, 'damaged line')} passed over.", file=sys.stderr)
    return reports


# --- The figure ---

def loss_figure(runs, x="steps"):
    """Draw how runs learned. -> matplotlib Figure

    runs: {name: reports of its log, oldest first}; x: a key of POSITIONS. Each panel is an Axes whose label is the
    field; in it each run is a line whose label is the run's name, with the values that its log has. The loss of the
    training text lies beside that of the validation, in lines labelled `training` and `running`. Raises FolioError where
    the runs are too many to be told apart.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    if len(runs) > MOST_RUNS:
        raise FolioError(f"{len(runs)} runs are too many for one picture: take {MOST_RUNS} or fewer.")
    unit, scale = x_unit(runs.values(), x)
    curves = [Curves(name, reports, POSITIONS[x], scale, COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS)])
              for number, (name, reports) in enumerate(runs.items())]
    with style():
        figure = Figure()
        FigureCanvasAgg(figure)         # it measures texts
        labels = [EndLabel(figure, run) for run in curves] if len(curves) > 1 else []
        rows = [[LOSS, PER_TOKEN] if any(run.is_per_token for run in curves) else [LOSS], RATES]
        axes = _lay_out(figure, labels, rows)
        for panel in sum(map(list, rows), []):
            _draw_panel(axes[panel.field], panel, curves, unit)
        if len(curves) == 1:
            _name_curves(axes[SCORE])
        if len(curves) <= len(COLOURS):         # more lines than that would hide the curves; the learning rate shows it too
            _mark_decays(axes, curves)
        _mark_best(axes[SCORE], curves)
        _place_labels(axes[SCORE], labels)
        _write_header(figure, curves)
    return figure


class Curves:
    """What there is to draw of one run, and how its lines look."""

    def __init__(self, name, reports, position, scale, colour, dashes):
        self.name, self.position, self.scale, self.colour, self.dashes = name, position, scale, colour, dashes
        self.reports = reports = [_with_nats(report) for report in reports]
        has_loss, has_unit = (any(field in report for report in reports) for field in (PER_TOKEN.field, RUNNING))
        self.is_per_token = has_loss and not has_unit
        placed = [report for report in reports if _is_number(report.get(position))]
        self.steps = [0, *(report["step"] for report in placed)]
        self.places = [0.0, *(report[position] / scale for report in placed)]
        self.best = min((report for report in reports if _is_number(report.get(SCORE))), key=lambda report: report[SCORE], default=None)

    def points(self, field):
        """x and y, (reports,) each, of the reports that have a field."""
        found = [(report[self.position] / self.scale, report[field]) for report in self.reports
                 if _is_number(report.get(self.position)) and _is_number(report.get(field))]
        return np.array(found, dtype=float).reshape(-1, 2).T

    def x_at(self, step):
        """Where a step lies, between the reports around it."""
        return float(np.interp(step, self.steps, self.places))

    def decays(self):
        """Yield the steps at which the learning rate begins to fall: several in a run that was made longer later."""
        rates = [(report["step"] - 1, report["learning_rate"]) for report in self.reports if _is_number(report.get("learning_rate"))]
        for start in dict.fromkeys(report["decay_start"] for report in self.reports if _is_number(report.get("decay_start"))):
            before, after = [rate for step, rate in rates if step <= start], [rate for step, rate in rates if step > start]
            if before and after and after[0] < before[-1]:          # not where it stays to the end, nor where the run was stopped before
                yield start


class EndLabel:
    """A run's name and its best validation, in the margin, in the run's colour."""

    LINE = 13               # points from one line of text to the next

    def __init__(self, figure, run):
        self.run = run
        name = textwrap.wrap(shortened(run.name, 120), 30) or [""]
        best = f"{run.best[SCORE]:.3f} at step {run.best['step']:,}" if run.best else "no validation yet"
        self.texts = [figure.text(0, 0, line, color=darker(run.colour), weight="bold", va="top") for line in name]
        self.texts.append(figure.text(0, 0, best, color=GREY, fontsize=8, va="top"))
        self.width = max(text.get_window_extent().width for text in self.texts) * 72 / figure.dpi
        self.height = self.LINE * len(self.texts) + 6

    def place(self, x, top):
        """Put it there, in points from the figure's lower left corner."""
        for number, text in enumerate(self.texts):
            width, height = 72 * text.figure.get_size_inches()
            text.set_position((x / width, (top - number * self.LINE) / height))


def x_unit(logs, x):
    """What the x axis counts, and how many of the log's own units that is.
    >>> x_unit([[{"step": 9, "seconds": 7300.5}]], "seconds")
    ('hours', 3600)
    """
    if x != "seconds":
        return x, 1
    longest = max((report[x] for reports in logs for report in reports if _is_number(report.get(x))), default=0)
    return next(((unit, length) for unit, length in TIMES.items() if longest >= 2 * length), ("seconds", 1))


def running_mean(values, width):
    """(n,) -> (n,): the mean of `width` values around each, an odd number; of fewer at both ends.
    >>> running_mean(np.array([1.0, 2.0, 6.0, 4.0]), 3)
    array([1.5, 3. , 4. , 5. ])
    """
    places, sums = np.arange(len(values)), np.concatenate([[0.0], np.cumsum(values)])
    first, end = np.maximum(places - width // 2, 0), np.minimum(places + width // 2 + 1, len(values))
    return (sums[end] - sums[first]) / (end - first)


def spread(wanted, heights, low, high):
    """Tops for labels of some heights, highest first, that do not overlap: near the wanted ones, between low and high if they fit there.
    >>> spread([50, 49, 10], [10, 10, 10], 0, 100)
    [50, 40, 10]
    """
    tops = []
    for want, height in zip(wanted, heights):
        tops.append(min(want, high))
        high = tops[-1] - height
    for place in reversed(range(len(tops))):
        tops[place] = max(tops[place], low + heights[place])
        low = tops[place]
    return tops


def _is_number(value):
    return isinstance(value, (int, float)) and abs(value) < 1e300       # so much fits a picture; NaN and infinity do not


def _with_nats(report):
    """A report whose validation is in nats per byte, also where an older run wrote it in bits alone."""
    if SCORE in report or not _is_number(report.get("val_bpb")):
        return report
    return report | {SCORE: math.log(2) * report["val_bpb"]}


def _lay_out(figure, labels, rows):
    """Set the figure's size, with room for the labels. rows: two rows of panels -> {field: Axes}"""
    left, middle, right, bottom, between, low = 0.65, 0.7, 10.65, 0.9, 0.75, 1.25       # inches, as all of it
    width = right + (max(label.width for label in labels) / 72 + 0.6 if labels else 0.35)
    height = max(7, sum(label.height for label in labels) / 72 + 1.4)
    figure.set_size_inches(width, height)
    axes = {}
    for panels, y, high in zip(rows, (bottom + low + between, bottom), (height - 1.25 - between - low - bottom, low)):
        wide = (right - left - (len(panels) - 1) * middle) / len(panels)
        for number, panel in enumerate(panels):
            place = (left + number * (wide + middle)) / width, y / height, wide / width, high / height
            axes[panel.field] = figure.add_axes(place, label=panel.field)
    return axes


def _draw_panel(axis, panel, curves, unit):
    settled = []            # values after the cliff
    for run in curves:
        x, y = run.points(panel.field)
        is_pale = len(y) > SMOOTH_FROM and panel.is_noisy
        dots = "o" if len(y) == 1 or len(y) <= 40 and panel.field == SCORE else None
        axis.plot(x, y, label=run.name, color=run.colour, linestyle="-" if is_pale else run.dashes, linewidth=0.6 if is_pale else 1.7,
                  alpha=0.25 if is_pale else 1, marker=dots, markersize=3.5, clip_on=len(y) != 1)
        if is_pale:
            axis.plot(x, running_mean(y, len(y) // 50 | 1), color=run.colour, linestyle=run.dashes, linewidth=1.7)
        settled += _settled(x, y)
        if panel is LOSS:
            settled += _draw_training(axis, run, alone=len(curves) == 1)
    title = axis.set_title(panel.title, loc="left", fontsize=10.5, weight="bold", pad=8)
    axis.annotate(panel.unit, (1, 1), xycoords=(title, axis.transAxes), xytext=(6, 8), textcoords="offset points", color=GREY, va="baseline")
    _set_scales(axis, panel, settled, last=max(run.places[-1] for run in curves), unit=unit)


def _settled(x, y):
    """The values after the cliff at a run's start."""
    return y[x >= CLIFF * x.max(initial=0)].tolist()


def _draw_training(axis, run, alone):
    """Draw what the training text cost, beside the validation. -> values that have to be seen

    alone: whether there is no other run, so that it can have a colour of its own and both curves.
    """
    colour, settled = COLOURS[1] if alone else run.colour, []
    measured, running = run.points(TRAINING), run.points(RUNNING)
    if alone or not measured.size:
        x, y = running
        axis.plot(x, y, label="running", color=colour, linewidth=0.9, alpha=0.45)
        settled += _settled(x, y)
    if measured.size:
        x, y = measured
        axis.plot(x, y, label="training", color=colour, linestyle="-" if alone else run.dashes,
                  linewidth=1.7 if alone else 0.8, marker="o" if len(y) <= 40 else None, markersize=3.5 if alone else 2)
        settled += _settled(x, y)
    return settled


def _name_curves(axis):
    """Say above the panel which curve is which, where a single run has the colours to itself."""
    validation, *others = axis.lines        # the run may have any name, also that of another curve
    others = {line.get_label(): line for line in others}
    names = [(validation, "validation text"),
             (others.get("training"), "training text, measured the same way"),
             (others.get("running"), "training text as learned from: with dropout and BPE-dropout")]
    shown = [(line, name) for line, name in names if line and len(line.get_xdata())]
    if any(line is not validation for line, _ in shown):
        axis.legend(*zip(*shown), loc="lower right", ncols=3, bbox_to_anchor=(1, 1), frameon=False, borderaxespad=0.2,
                    fontsize=8, labelcolor=GREY)


def _set_scales(axis, panel, values, last, unit):
    """The y axis for some values, which may be none, the x axis up to the last place in `unit`."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, ScalarFormatter
    plain, thousands = FuncFormatter(lambda value, _: f"{value:,.10g}"), EngFormatter(sep="")
    axis.set_xlim(0, last or 1)
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=unit in ("steps", "tokens")))
    axis.xaxis.set_major_formatter(thousands if unit == "tokens" else plain)
    axis.yaxis.set_major_locator(MaxNLocator(3 if panel.is_rate else 7, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter(plain if panel.field == "learning_rate" else thousands if panel.is_rate else ScalarFormatter(useOffset=False))
    if not values:
        axis.text(0.5, 0.5, "nothing here yet", color=GREY, ha="center", transform=axis.transAxes, backgroundcolor="white")
        axis.set_yticks([])
    elif panel.is_rate:
        axis.set_ylim(0, 1.15 * max(values) or 1)
    else:
        air = 0.06 * (max(values) - min(values)) or 0.06 * abs(max(values)) or 1
        above = 2 * air if panel.field == SCORE else air            # above the best stands its value
        axis.set_ylim(min(values) - air, max(values) + above)
    if panel.is_rate:
        axis.set_xlabel(unit, color=GREY)


def _mark_decays(axes, curves):
    for run in curves:
        for start in run.decays():
            for axis in axes.values():
                axis.axvline(run.x_at(start), color=run.colour, linewidth=0.9, linestyle=(0, (1, 2)), label="decay_start")


def _mark_best(axis, curves):
    for run in curves:
        if run.best:
            place = run.x_at(run.best["step"]), run.best[SCORE]
            axis.plot(*place, marker="o", markersize=8, markerfacecolor="white", markeredgecolor=run.colour, markeredgewidth=2,
                      clip_on=False, zorder=5)
            if len(curves) == 1:
                at_end = place[0] > 0.9 * axis.get_xlim()[1]
                axis.annotate(f"{run.best[SCORE]:.3f}", place, xytext=(5 if at_end else 0, 8),
                              textcoords="offset points", ha="right" if at_end else "center", va="bottom",
                              fontsize=13, weight="bold", color=darker(run.colour))


def _place_labels(axis, labels):
    """Write each label to the right of the panel, at the height of its run's last point if there is room.

    A thread leads to it from there; where these would be too many, a piece of its line stands before it, as in a legend.
    """
    from matplotlib.lines import Line2D
    if not labels:
        return
    figure, points = axis.figure, 72 / axis.figure.dpi
    edge = axis.bbox.x1 * points
    ends = {}
    for label in labels:
        x, y = label.run.points(SCORE)
        ends[label] = axis.transData.transform((x[-1], y[-1])) * points if len(x) else (edge, 0)
    labels = sorted(labels, key=lambda label: -ends[label][1])
    heights = [label.height for label in labels]
    tops = spread([ends[label][1] + label.LINE / 2 for label in labels], heights, 20, axis.bbox.y1 * points + 10)
    for label, top in zip(labels, tops):
        run, middle = label.run, top - label.LINE / 2
        label.place(edge + 30, top)
        if len(labels) > len(COLOURS):
            width, height = 72 * figure.get_size_inches()
            figure.add_artist(Line2D([(edge + 8) / width, (edge + 26) / width], [middle / height] * 2, color=run.colour, linestyle=run.dashes))
        elif run.best:
            axis.annotate("", ends[label], xycoords="figure points", xytext=(edge + 27, middle), textcoords="figure points",
                          arrowprops={"arrowstyle": "-", "color": run.colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 0, "shrinkB": 6})


def _both(nats):
    return f"{nats:.3f} nats = {nats / math.log(2):.3f} bits per byte"


def _write_header(figure, curves):
    width, height = figure.get_size_inches()

    def write(text, from_top, **how):
        figure.text(0.65 / width, 1 - from_top / height, text, **how)
    best = min((run for run in curves if run.best), key=lambda run: run.best[SCORE], default=None)
    if len(curves) == 1:
        title = shortened(curves[0].name, 90)
        last = curves[0].reports[-1]
        unit, length = x_unit([[last]], "seconds")
        facts = [counted(last["step"], "step")]
        facts += [f"{last['seconds'] / length:.3g} {unit}"] if _is_number(last.get("seconds")) else []
        facts += [f"{last['tokens']:,} tokens"] if _is_number(last.get("tokens")) else []
        facts += [f"best validation {_both(best.best[SCORE])} at step {best.best['step']:,}"] if best else []
    else:
        title = f"{len(curves)} runs"
        facts = []
        if best:
            facts.append(f"best: {shortened(best.name, 60)}, {_both(best.best[SCORE])} at step {best.best['step']:,}")
    write(title, 0.48, fontsize=17 if len(title) <= 50 else 11, weight="bold")
    write("   ".join(facts), 0.75, color=GREY, fontsize=10)
    lines = {line.get_label() for line in figure.axes[0].lines}
    notes = ["ring: best validation"] if best else []
    if len(curves) > 1 and "training" in lines:
        notes.append("thick: validation; thin: training text, measured the same way")
    if len(curves) > 1 and "running" in lines:
        notes.append("pale: training text as learned from, with dropout and BPE-dropout")
    notes += ["dotted: the learning rate begins to fall"] if "decay_start" in lines else []
    notes += ["pale: every report; strong: their running mean"] if any(len(run.reports) > SMOOTH_FROM for run in curves) else []
    write("      ".join(notes), height - 0.22, color=GREY, fontsize=8)
