"""Training and validation loss of runs in one unit, their learning rate and speed."""

import math
import textwrap
from dataclasses import dataclass

import numpy as np

from folio.base.errors import FolioError
from folio.base.spelling import counted
from folio.pictures.canvas import COLORS, GRAY, darker, shortened, style

DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
MAX_RUNS = len(COLORS) * len(DASHES)


@dataclass(frozen=True)
class Panel:
    """One part of the picture, with one field of every run."""
    field: str              # of the log
    title: str
    unit: str
    is_noisy: bool = False  # draw a running mean over many reports
    is_rate: bool = False   # a low panel with an axis from zero


SCORE = "val_nats_per_byte"             # runs are compared by it
TRAINING = "train_eval_nats_per_byte"   # training text, measured like the validation set
RUNNING = "train_nats_per_byte"         # running training loss, with dropout and BPE-dropout
LOSS = Panel(SCORE, "Loss", "nats per byte")
PER_TOKEN = Panel("train_loss", "Training loss", "nats per token", is_noisy=True)       # for logs without nats per byte
RATES = (Panel("learning_rate", "Learning rate", "", is_rate=True),
         Panel("tokens_per_second", "Speed", "tokens per second", is_noisy=True, is_rate=True))
CLIFF = 0.05                            # share of a run at its start that does not set the y axis: losses fall too far
SMOOTH_FROM = 200                       # reports: more cannot be told apart in a panel
POSITIONS = {"steps": "step", "seconds": "seconds", "tokens": "tokens"}         # --x -> field of the log
# An axis uses the first unit of which it has two.
TIMES = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


# --- The figure ---

def loss_figure(runs, x="steps"):
    """Draw the loss, learning rate and speed of runs. -> matplotlib Figure

    runs: {name: reports of its log, oldest first}; x: a key of POSITIONS. Each panel is an Axes with the field as its
    label, and each run in it a line with the run's name as its label. The panel of the validation loss also has the
    training loss, in lines with the labels `training` and `running`.
    Raises FolioError for more runs than can be told apart.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    if len(runs) > MAX_RUNS:
        raise FolioError(f"{len(runs)} runs are too many for one picture: take {MAX_RUNS} or fewer.")
    unit, scale = x_unit(runs.values(), x)
    curves = [Curves(name, reports, POSITIONS[x], scale, COLORS[number % len(COLORS)], DASHES[number // len(COLORS)])
              for number, (name, reports) in enumerate(runs.items())]
    with style():
        figure = Figure()
        FigureCanvasAgg(figure)         # needed to measure texts
        labels = [EndLabel(figure, run) for run in curves] if len(curves) > 1 else []
        rows = [[LOSS, PER_TOKEN] if any(run.is_per_token for run in curves) else [LOSS], RATES]
        axes = _lay_out(figure, labels, rows)
        for panel in sum(map(list, rows), []):
            _draw_panel(axes[panel.field], panel, curves, unit)
        if len(curves) == 1:
            _name_curves(axes[SCORE])
        if len(curves) <= len(COLORS):         # more lines would hide the curves, and the learning rate shows it too
            _mark_decays(axes, curves)
        _mark_best(axes[SCORE], curves)
        _place_labels(axes[SCORE], labels)
        _write_header(figure, curves)
    return figure


class Curves:
    """The values of one run, and the style of its lines."""

    def __init__(self, name, reports, position, scale, color, dashes):
        self.name, self.position, self.scale, self.color, self.dashes = name, position, scale, color, dashes
        self.reports = reports = [_with_nats(report) for report in reports]
        has_loss, has_unit = (any(field in report for report in reports) for field in (PER_TOKEN.field, RUNNING))
        self.is_per_token = has_loss and not has_unit
        placed = [report for report in reports if _is_number(report.get(position))]
        self.steps = [0, *(report["step"] for report in placed)]
        self.places = [0.0, *(report[position] / scale for report in placed)]
        self.best = min(self._with(SCORE), key=lambda report: report[SCORE], default=None)

    def _with(self, field):
        """Return the reports that have a number in a field."""
        return [report for report in self.reports if _is_number(report.get(field))]

    def points(self, field):
        """Return x and y, (reports,) each, of the reports with a field."""
        found = [(report[self.position] / self.scale, report[field]) for report in self.reports
                 if _is_number(report.get(self.position)) and _is_number(report.get(field))]
        return np.array(found, dtype=float).reshape(-1, 2).T

    def x_at(self, step):
        """Return the x of a step, interpolated between reports."""
        return float(np.interp(step, self.steps, self.places))

    def decays(self):
        """Yield the steps at which the learning rate starts to decay: several in a run that was extended."""
        rates = [(report["step"] - 1, report["learning_rate"]) for report in self._with("learning_rate")]
        for start in dict.fromkeys(report["decay_start"] for report in self._with("decay_start")):
            before = [rate for step, rate in rates if step <= start]
            after = [rate for step, rate in rates if step > start]
            # Not in a constant schedule, nor in a run that was stopped earlier.
            if before and after and after[0] < before[-1]:
                yield start


class EndLabel:
    """The name of a run in its color and its best validation loss, in the margin."""

    LINE = 13               # line height in points

    def __init__(self, figure, run):
        self.run = run
        name = textwrap.wrap(shortened(run.name, 120), 30) or [""]
        best = f"{run.best[SCORE]:.3f} at step {run.best['step']:,}" if run.best else "no validation yet"
        self.texts = [figure.text(0, 0, line, color=darker(run.color), weight="bold", va="top") for line in name]
        self.texts.append(figure.text(0, 0, best, color=GRAY, fontsize=8, va="top"))
        self.width = max(text.get_window_extent().width for text in self.texts) * 72 / figure.dpi
        self.height = self.LINE * len(self.texts) + 6

    def place(self, x, top):
        """Move the label, in points from the lower left corner of the figure."""
        for number, text in enumerate(self.texts):
            width, height = 72 * text.figure.get_size_inches()
            text.set_position((x / width, (top - number * self.LINE) / height))


def x_unit(logs, x):
    """Return the unit of the x axis, and how many of the log's own units it has. logs: lists of reports
    >>> x_unit([[{"step": 9, "seconds": 7300.5}]], "seconds")
    ('hours', 3600)
    """
    if x != "seconds":
        return x, 1
    longest = max((report[x] for reports in logs for report in reports if _is_number(report.get(x))), default=0)
    return next(((unit, length) for unit, length in TIMES.items() if longest >= 2 * length), ("seconds", 1))


def running_mean(values, width):
    """Return the mean of the `width` values, an odd number, around each value; of fewer at both ends: (n,) -> (n,).
    >>> running_mean(np.array([1.0, 2.0, 6.0, 4.0]), 3)
    array([1.5, 3. , 4. , 5. ])
    """
    places, sums = np.arange(len(values)), np.concatenate([[0.0], np.cumsum(values)])
    first, end = np.maximum(places - width // 2, 0), np.minimum(places + width // 2 + 1, len(values))
    return (sums[end] - sums[first]) / (end - first)


def spread(wanted, heights, low, high):
    """Return tops for labels that do not overlap, near the wanted ones and between low and high if they fit.

    wanted: the wanted tops, highest first; heights: of the labels.
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
    # Matplotlib cannot draw larger ones, NaN or infinity
    return isinstance(value, (int, float)) and abs(value) < 1e300


def _with_nats(report):
    """Return a report with its validation loss in nats per byte; older runs have it in bits alone."""
    if SCORE in report or not _is_number(report.get("val_bpb")):
        return report
    return report | {SCORE: math.log(2) * report["val_bpb"]}


def _lay_out(figure, labels, rows):
    """Set the size of the figure and add the Axes of two rows of panels. -> {field: Axes}"""
    left, middle, right, bottom, between, low = 0.65, 0.7, 10.65, 0.9, 0.75, 1.25       # all in inches
    width = right + (max(label.width for label in labels) / 72 + 0.6 if labels else 0.35)
    height = max(7, sum(label.height for label in labels) / 72 + 1.4)
    figure.set_size_inches(width, height)
    axes = {}
    for panels, y, row_height in zip(rows, (bottom + low + between, bottom),
                                     (height - 1.25 - between - low - bottom, low)):
        panel_width = (right - left - (len(panels) - 1) * middle) / len(panels)
        for number, panel in enumerate(panels):
            x = left + number * (panel_width + middle)
            rectangle = x / width, y / height, panel_width / width, row_height / height
            axes[panel.field] = figure.add_axes(rectangle, label=panel.field)
    return axes


def _draw_panel(axis, panel, curves, unit):
    settled = []            # the values that set the y axis
    for run in curves:
        x, y = run.points(panel.field)
        is_pale = len(y) > SMOOTH_FROM and panel.is_noisy
        dots = "o" if len(y) == 1 or len(y) <= 40 and panel.field == SCORE else None
        axis.plot(x, y, label=run.name, color=run.color, linestyle="-" if is_pale else run.dashes,
                  linewidth=0.6 if is_pale else 1.7, alpha=0.25 if is_pale else 1, marker=dots, markersize=3.5,
                  clip_on=len(y) != 1)
        if is_pale:
            axis.plot(x, running_mean(y, len(y) // 50 | 1), color=run.color, linestyle=run.dashes, linewidth=1.7)
        settled += _settled(x, y)
        if panel is LOSS:
            settled += _draw_training(axis, run, alone=len(curves) == 1)
    title = axis.set_title(panel.title, loc="left", fontsize=10.5, weight="bold", pad=8)
    axis.annotate(panel.unit, (1, 1), xycoords=(title, axis.transAxes), xytext=(6, 8), textcoords="offset points",
                  color=GRAY, va="baseline")
    _set_scales(axis, panel, settled, last=max(run.places[-1] for run in curves), unit=unit)


def _settled(x, y):
    """Return the values after the first CLIFF of a run."""
    return y[x >= CLIFF * x.max(initial=0)].tolist()


def _draw_training(axis, run, alone):
    """Draw the training loss beside the validation loss. -> the values that set the y axis

    alone: whether the picture has no other run; then the training loss has a color of its own, and both its curves.
    """
    color, settled = COLORS[1] if alone else run.color, []
    measured, running = run.points(TRAINING), run.points(RUNNING)
    if alone or not measured.size:
        x, y = running
        axis.plot(x, y, label="running", color=color, linewidth=0.9, alpha=0.45)
        settled += _settled(x, y)
    if measured.size:
        x, y = measured
        axis.plot(x, y, label="training", color=color, linestyle="-" if alone else run.dashes,
                  linewidth=1.7 if alone else 0.8, marker="o" if len(y) <= 40 else None, markersize=3.5 if alone else 2)
        settled += _settled(x, y)
    return settled


def _name_curves(axis):
    """Write a legend of the curves of a single run above the panel."""
    validation, *others = axis.lines        # by position: a run may have the name of another curve
    others = {line.get_label(): line for line in others}
    names = [(validation, "validation text"),
             (others.get("training"), "training text, measured the same way"),
             (others.get("running"), "training text as learned from: with dropout and BPE-dropout")]
    shown = [(line, name) for line, name in names if line and len(line.get_xdata())]
    if any(line is not validation for line, _ in shown):
        axis.legend(*zip(*shown), loc="lower right", ncols=3, bbox_to_anchor=(1, 1), frameon=False, borderaxespad=0.2,
                    fontsize=8, labelcolor=GRAY)


def _set_scales(axis, panel, values, last, unit):
    """Scale the y axis to `values`, which may be empty, and the x axis to 0 to `last` in `unit`."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, ScalarFormatter
    plain, thousands = FuncFormatter(lambda value, _: f"{value:,.10g}"), EngFormatter(sep="")
    axis.set_xlim(0, last or 1)
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=unit in ("steps", "tokens")))
    axis.xaxis.set_major_formatter(thousands if unit == "tokens" else plain)
    axis.yaxis.set_major_locator(MaxNLocator(3 if panel.is_rate else 7, steps=[1, 2, 5, 10]))
    if panel.field == "learning_rate":
        axis.yaxis.set_major_formatter(plain)
    else:
        axis.yaxis.set_major_formatter(thousands if panel.is_rate else ScalarFormatter(useOffset=False))
    if not values:
        axis.text(0.5, 0.5, "nothing here yet", color=GRAY, ha="center", transform=axis.transAxes,
                  backgroundcolor="white")
        axis.set_yticks([])
    elif panel.is_rate:
        axis.set_ylim(0, 1.15 * max(values) or 1)
    else:
        air = 0.06 * (max(values) - min(values)) or 0.06 * abs(max(values)) or 1
        above = 2 * air if panel.field == SCORE else air            # the value of the best is written above it
        axis.set_ylim(min(values) - air, max(values) + above)
    if panel.is_rate:
        axis.set_xlabel(unit, color=GRAY)


def _mark_decays(axes, curves):
    for run in curves:
        for start in run.decays():
            for axis in axes.values():
                axis.axvline(run.x_at(start), color=run.color, linewidth=0.9, linestyle=(0, (1, 2)),
                             label="decay_start")


def _mark_best(axis, curves):
    for run in curves:
        if run.best:
            place = run.x_at(run.best["step"]), run.best[SCORE]
            axis.plot(*place, marker="o", markersize=8, markerfacecolor="white", markeredgecolor=run.color,
                      markeredgewidth=2,
                      clip_on=False, zorder=5)
            if len(curves) == 1:
                at_end = place[0] > 0.9 * axis.get_xlim()[1]
                axis.annotate(f"{run.best[SCORE]:.3f}", place, xytext=(5 if at_end else 0, 8),
                              textcoords="offset points", ha="right" if at_end else "center", va="bottom",
                              fontsize=13, weight="bold", color=darker(run.color))


def _place_labels(axis, labels):
    """Write each label to the right of the panel, at the height of its run's last point if there is room.

    A thin line connects the two. With more runs than colors, a sample of the run's line is drawn before the label
    instead, as in a legend.
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
        if len(labels) > len(COLORS):
            width, height = 72 * figure.get_size_inches()
            figure.add_artist(Line2D([(edge + 8) / width, (edge + 26) / width], [middle / height] * 2, color=run.color,
                                     linestyle=run.dashes))
        elif run.best:
            axis.annotate("", ends[label], xycoords="figure points", xytext=(edge + 27, middle),
                          textcoords="figure points", arrowprops={"arrowstyle": "-", "color": run.color,
                                                                  "linewidth": 0.7, "alpha": 0.6, "shrinkA": 0,
                                                                  "shrinkB": 6})


def _write_header(figure, curves):
    best = min((run for run in curves if run.best), key=lambda run: run.best[SCORE], default=None)
    if len(curves) == 1:
        title, facts = shortened(curves[0].name, 90), _facts(curves[0])
    else:
        title = f"{len(curves)} runs"
        facts = [f"best: {shortened(best.name, 60)}, {_best_of(best)}"] if best else []
    width, height = figure.get_size_inches()

    def write(text, from_top, **properties):
        figure.text(0.65 / width, 1 - from_top / height, text, **properties)

    write(title, 0.48, fontsize=17 if len(title) <= 50 else 11, weight="bold")
    write("   ".join(facts), 0.75, color=GRAY, fontsize=10)
    write("      ".join(_notes(figure, curves)), height - 0.22, color=GRAY, fontsize=8)


def _facts(run):
    """Return the length of a single run and its best validation loss, as texts."""
    last = run.reports[-1]
    facts = [counted(last["step"], "step")]
    if _is_number(last.get("seconds")):
        unit, length = x_unit([[last]], "seconds")
        facts.append(f"{last['seconds'] / length:.3g} {unit}")
    if _is_number(last.get("tokens")):
        facts.append(f"{last['tokens']:,} tokens")
    if run.best:
        facts.append(f"best validation {_best_of(run)}")
    return facts


def _best_of(run):
    nats = run.best[SCORE]
    return f"{nats:.3f} nats = {nats / math.log(2):.3f} bits per byte at step {run.best['step']:,}"


def _notes(figure, curves):
    """Return a note on each kind of mark in the figure, as texts."""
    drawn = {line.get_label() for line in figure.axes[0].lines}
    notes = []
    if any(run.best for run in curves):
        notes.append("ring: best validation")
    if len(curves) > 1 and "training" in drawn:
        notes.append("thick: validation; thin: training text, measured the same way")
    if len(curves) > 1 and "running" in drawn:
        notes.append("pale: training text as learned from, with dropout and BPE-dropout")
    if "decay_start" in drawn:
        notes.append("dotted: the learning rate begins to fall")
    if any(len(run.reports) > SMOOTH_FROM for run in curves):
        notes.append("pale: every report; strong: their running mean")
    return notes
