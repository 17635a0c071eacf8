"""The picture of runs: it shows the values of their logs, and its marks and labels stay readable."""

import math
import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.base.errors import FolioError
from folio.base.home import Home
from folio.pictures.canvas import save
from folio.pictures.logs import reports_of
from folio.pictures.loss import MAX_RUNS, SMOOTH_FROM, loss_figure, running_mean, spread
from test_plot import panel, reports, write_log

pytest.importorskip("matplotlib")


def line_of(figure, field, name):
    """Return x and y of a run's line, as lists."""
    line, = (line for line in panel(figure, field).lines if line.get_label() == name)
    return line.get_xdata().tolist(), line.get_ydata().tolist()


def texts(figure):
    return "\n".join(text.get_text()
                     for text in [*figure.texts, *(text for axis in figure.axes for text in axis.texts)])


def decays(figure, field="val_nats_per_byte"):
    return [line.get_xdata()[0] for line in panel(figure, field).lines if line.get_label() == "decay_start"]


@pytest.mark.parametrize("x, field, scale, unit", [("steps", "step", 1, "steps"),
                                                   ("tokens", "tokens", 1, "tokens"),
                                                   ("seconds", "seconds", 60, "minutes")])
def test_each_run_is_a_line_with_the_values_of_its_log_in_each_panel(x, field, scale, unit):
    runs = {"night": reports(), "short": reports(steps=50, evaluated=25)}
    figure = loss_figure(runs, x)
    for panel_field in ("val_nats_per_byte", "learning_rate", "tokens_per_second"):
        for name, log in runs.items():
            drawn = [report for report in log if panel_field in report]
            assert line_of(figure, panel_field, name) == ([report[field] / scale for report in drawn],
                                                          [report[panel_field] for report in drawn])
    assert [panel(figure, name).get_xlabel() for name in ("learning_rate", "tokens_per_second")] == [unit, unit]
    assert all(axis.get_xlim()[0] == 0 and axis.get_xlim()[1] == runs["night"][-1][field] / scale
               for axis in figure.axes)


RATES = [("Learning rate", ""), ("Speed", "tokens per second")]


def titles(figure):
    return [(axis.get_title(loc="left"), axis.texts[0].get_text()) for axis in figure.axes]


def test_training_and_validation_are_in_one_panel_in_one_unit():
    log = reports()
    figure = loss_figure({"night": log})
    assert titles(figure) == [("Loss", "nats per byte"), *RATES]
    for label, field in (("night", "val_nats_per_byte"), ("training", "train_eval_nats_per_byte"),
                         ("running", "train_nats_per_byte")):
        drawn = [report for report in log if field in report]
        assert line_of(figure, "val_nats_per_byte", label) == ([report["step"] for report in drawn],
                                                               [report[field] for report in drawn])
    said = [text.get_text() for text in panel(figure, "val_nats_per_byte").get_legend().get_texts()]
    assert said == ["validation text", "training text, measured the same way",
                    "training text as learned from: with dropout and BPE-dropout"]
    low, high = panel(figure, "val_nats_per_byte").get_ylim()
    assert low < 1 and high > 2.8


@pytest.mark.parametrize("name", ["training", "running"])
def test_a_run_named_like_a_curve_of_its_own_has_all_three_in_the_legend(name):
    legend = panel(loss_figure({name: reports()}), "val_nats_per_byte").get_legend()
    names = [text.get_text().partition(" text")[0] for text in legend.get_texts()]
    assert names == ["validation", "training", "training"]
    assert legend.get_lines()[0].get_color() not in [line.get_color() for line in legend.get_lines()[1:]]


def test_beside_other_runs_each_has_one_training_curve_in_its_own_color():
    short = [{key: value for key, value in report.items() if key != "train_eval_nats_per_byte"} for report in reports()]
    runs = {"night": reports(), "short": short}
    axis = panel(figure := loss_figure(runs), "val_nats_per_byte")
    lines = {line.get_label(): line for line in axis.lines}
    assert lines["training"].get_color() == lines["night"].get_color()
    assert lines["running"].get_color() == lines["short"].get_color() != lines["night"].get_color()
    assert [line.get_label() for line in axis.lines].count("running") == 1 and axis.get_legend() is None
    assert "thin: training text, measured the same way" in texts(figure)
    assert "pale: training text as learned from" in texts(figure)


def test_an_older_log_shares_the_panel_of_the_validation_loss_and_has_its_training_loss_in_another():
    old = [{"step": step, "train_loss": 7 - math.log(step), "val_bpb": 3.0} for step in (10, 20, 30)]
    figure = loss_figure({"old": old, "night": reports()})
    assert titles(figure) == [("Loss", "nats per byte"), ("Training loss", "nats per token"), *RATES]
    assert line_of(figure, "val_nats_per_byte", "old")[1] == pytest.approx([3 * math.log(2)] * 3)
    assert line_of(figure, "train_loss", "old")[1] == [report["train_loss"] for report in old]
    assert "best: night, 2.000 nats = 2.885 bits per byte at step 100" in texts(figure)


@pytest.mark.parametrize("seconds, unit, last", [(90, "seconds", 90), (150, "minutes", 2.5), (9000, "hours", 2.5),
                                                 (259200, "days", 3)])
def test_times_are_in_a_unit_that_suits_the_longest_run(seconds, unit, last):
    log = [{"step": 1, "seconds": seconds / 2, "train_loss": 3.0}, {"step": 2, "seconds": seconds, "train_loss": 2.0}]
    figure = loss_figure({"night": log, "short": log[:1]}, "seconds")
    assert line_of(figure, "train_loss", "night")[0] == [last / 2, last]
    assert panel(figure, "learning_rate").get_xlabel() == unit


def test_the_best_validation_is_marked_with_its_value():
    figure = loss_figure({"night": reports(best_at=60)})
    ring = next(line for line in panel(figure, "val_nats_per_byte").lines if line.get_markerfacecolor() == "white")
    assert (*ring.get_xdata(), *ring.get_ydata()) == (60, 2.0)
    assert "2.000" in texts(figure).splitlines()
    assert "best validation 2.000 nats = 2.885 bits per byte at step 60" in texts(figure)


def test_several_runs_are_labeled_each_with_its_best():
    runs = {"night": reports(best_at=60), "day": reports(steps=80), "new": reports(evaluated=0)}
    figure = loss_figure(runs)
    found = texts(figure)
    assert re.search(r"night\n2\.000 at step 60\nday\n2\.000 at step 80\nnew\nno validation yet", found)
    assert "best: night, 2.000 nats = 2.885 bits per byte at step 60" in found
    lines = panel(figure, "val_nats_per_byte").lines
    assert len({line.get_color() for line in lines if line.get_label() in runs}) == 3


@pytest.mark.parametrize("x, scale", [("steps", 1), ("tokens", 512)])
def test_the_start_of_the_decay_is_marked_in_every_panel(x, scale):
    figure = loss_figure({"night": reports()}, x)
    for field in ("val_nats_per_byte", "learning_rate", "tokens_per_second"):
        assert decays(figure, field) == [60 * scale]


def test_a_decay_that_has_not_begun_or_never_comes_is_not_marked():
    assert decays(loss_figure({"stopped": reports()[:6]})) == []
    assert decays(loss_figure({"constant": reports(learning_rate=0.002)})) == []
    assert decays(loss_figure({"old": [{key: value for key, value in report.items() if key != "decay_start"}
                                       for report in reports()]})) == []


def test_an_extended_run_has_both_its_decays_marked():
    longer = [report | {"step": report["step"] + 100} for report in reports()]
    longer[0]["decay_start"] = 160
    assert decays(loss_figure({"night": reports() + longer})) == [60, 160]


def test_many_reports_are_drawn_pale_with_a_running_mean():
    many = reports(steps=10 * SMOOTH_FROM + 10, decay_start=1500)
    axis = panel(loss_figure({"night": many}), "tokens_per_second")
    pale, mean = axis.lines[:2]
    assert pale.get_ydata().tolist() == [report["tokens_per_second"] for report in many] and pale.get_alpha() < 0.5
    assert mean.get_ydata()[100] == pytest.approx(np.mean([report["tokens_per_second"] for report in many[98:103]]))
    assert "running mean" in texts(axis.figure)
    assert "running mean" not in texts(loss_figure({"night": reports()}))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.integers(0, 6).map(lambda half: 2 * half + 1))
def test_a_running_mean_is_the_mean_of_the_values_around(values, width):
    expected = [np.mean(values[max(0, place - width // 2):place + width // 2 + 1]) for place in range(len(values))]
    np.testing.assert_allclose(running_mean(np.array(values), width), expected, atol=1e-9)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1, 10)), min_size=1, max_size=8))
def test_labels_never_overlap_and_stay_inside(labels):
    wanted, heights = zip(*sorted(labels, reverse=True))
    tops = spread(wanted, heights, 0, 100)
    for top, height, below in zip(tops, heights, [*tops[1:], 0]):
        assert top - height >= below - 1e-9
    assert tops[0] <= 100 + 1e-9
    if all(one - height >= other for one, height, other in zip(wanted, heights, [*wanted[1:], 0])):
        assert tops == list(wanted)


def test_a_high_loss_at_the_start_does_not_set_the_scale():
    log = [{"step": step, "train_loss": 50.0 if step == 1 else 3 - step / 100} for step in range(1, 101)]
    low, high = panel(loss_figure({"night": log}), "train_loss").get_ylim()
    assert low < 2 and 2.95 < high < 3.1


@pytest.mark.parametrize("log", [
    [{"step": 1}],
    [{"step": 10, "train_loss": 2.5}],
    reports(evaluated=0),
    reports(train_loss=math.nan, val_nats_per_byte=math.inf),
    reports(learning_rate=None, tokens="many", seconds=None),
    reports(train_loss=2.0, learning_rate=0.0, tokens_per_second=0),
], ids=["nothing", "one line", "no evaluation", "not finite", "other types", "flat"])
@pytest.mark.parametrize("x", ["seconds", "tokens"])
def test_whatever_a_log_lacks_the_rest_is_drawn(log, x):
    loss_figure({"night": log}, x).canvas.draw()
    figure = loss_figure({"night": log, "other": reports()}, x)
    figure.canvas.draw()
    assert len(line_of(figure, "learning_rate", "other")[0]) == 10


def test_empty_panels_say_so():
    figure = loss_figure({"night": [{"step": 10, "learning_rate": 0.1}]})
    assert "nothing here yet" in [text.get_text() for text in panel(figure, "val_nats_per_byte").texts]
    assert "nothing here yet" not in [text.get_text() for text in panel(figure, "learning_rate").texts]


@pytest.mark.parametrize("number", [8, MAX_RUNS])
def test_as_many_runs_as_can_be_told_apart_all_look_different(number):
    figure = loss_figure({f"run-{index}": reports() for index in range(number)})
    lines = [line for line in panel(figure, "val_nats_per_byte").lines if line.get_label().startswith("run-")]
    assert len({(line.get_color(), str(line.get_linestyle()), str(line._dash_pattern)) for line in lines}) == number
    height = 72 * figure.get_size_inches()[1]
    tops = [text.get_position()[1] * height for text in figure.texts if text.get_text().startswith("run-")]
    assert len(tops) == number and min(tops) > 0 and max(tops) < height
    with pytest.raises(FolioError, match=f"take {MAX_RUNS} or fewer"):
        loss_figure({f"run-{index}": reports() for index in range(MAX_RUNS + 1)})


@pytest.mark.filterwarnings("ignore:Glyph")         # which fonts there are differs from machine to machine
@pytest.mark.parametrize("name", ["n" * 240, "-".join(["long-name"] * 20), "$a$ and $b", "夜間の訓練",
                                  "a\nb\x1b[31m", "", " "])
def test_no_name_leaves_the_picture(name):
    figure = loss_figure({name: reports(), "other": reports()})
    width, height = figure.bbox.size
    assert width < 16 * figure.dpi
    for text in figure.texts:
        assert not text.get_parse_math()
        box = text.get_window_extent()
        assert 0 <= box.x0 and box.x1 <= width and 0 <= box.y0 and box.y1 <= height, text
    one = loss_figure({name: reports()})
    assert all(text.get_window_extent().x1 <= one.bbox.width for text in one.texts)


def test_the_users_own_settings_change_nothing(tmp_path):
    import matplotlib
    save(loss_figure({"night": reports()}), tmp_path / "plain.png")
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.facecolor": "black", "font.size": 30, "savefig.dpi": 10}):
        before = dict(matplotlib.rcParams)
        save(loss_figure({"night": reports()}), tmp_path / "styled.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


@pytest.mark.parametrize("ending, begins", [(".png", b"\x89PNG\r\n"), (".SVG", b"<?xml")])
def test_the_same_log_makes_the_same_file(ending, begins, tmp_path):
    one, other = tmp_path / f"one{ending}", tmp_path / f"other{ending}"
    for path in (one, other):
        save(loss_figure({"night": reports()}), path)
    assert one.read_bytes().startswith(begins) and one.read_bytes() == other.read_bytes()


def test_a_hundred_thousand_reports_are_drawn_in_seconds(tmp_path):
    path = write_log(Home(tmp_path), "endless", reports(steps=10**6, evaluated=1000, decay_start=600_000))
    started = time.process_time()
    log = reports_of(path)
    read = time.process_time() - started
    save(loss_figure({"endless": log}), path.with_suffix(".png"))
    # 0.6 and 3.3 s when this was written
    assert len(log) == 100_000 and read < 3 and time.process_time() - started < 15
