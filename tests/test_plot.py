"""python -m folio.plot: which logs it reads, where it writes, and that it never overwrites a foreign file."""

import errno
import json
import math
import os
import sys

import pytest

from conftest import ROOT, FullDisk, refusal, run_python
from folio import plot
from folio.base.home import Home
from folio.cli.command_line import sentence
from folio.formats import run_log
from folio.pictures.logs import default_output, find_logs, reports_of

pytest.importorskip("matplotlib")


def reports(steps=100, every=10, evaluated=20, decay_start=60, best_at=None, **fields):
    """Return a log as training writes it; the validation loss falls until `best_at` and rises after it."""
    made = []
    for step in range(every, steps + 1, every):
        report = {"step": step, "seconds": 3.0 * step, "tokens": 512 * step, "train_nats_per_byte": 7 - math.log(step),
                  "tokens_per_second": 170 + step % 3,
                  "learning_rate": 0.002 * min(1, (steps - step + 1) / (steps - decay_start))}
        if step == every:
            report["decay_start"] = decay_start
        if evaluated and step % evaluated == 0:
            report["val_nats_per_byte"] = 2 + abs(step - (best_at or steps)) / steps
            report["train_eval_nats_per_byte"] = 2 - step / steps
        made.append(report | fields)
    return made


def write_log(home, name, lines):
    home.saved_weights.mkdir(parents=True, exist_ok=True)
    home.log(name).write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines),
                              encoding="utf-8")
    return home.log(name)


def panel(figure, field):
    return next(axis for axis in figure.axes if axis.get_label() == field)


def draw(monkeypatch, capsys, *words):
    """Run the command in this process. -> exit code, stdout, stderr"""
    monkeypatch.setattr(sys, "argv", ["plot.py", *map(str, words)])
    code = 0
    try:
        plot.main()
    except SystemExit as ended:
        code = ended.code
    except (ValueError, OSError) as error:          # as the front door does
        print(sentence(error), file=sys.stderr)
        code = 1
    return code, *capsys.readouterr()


@pytest.fixture
def project(tmp_path):
    return Home(tmp_path / "project")


# --- Which logs ---

def test_logs_are_found_by_name_by_path_and_by_age(project, tmp_path):
    for age, name in enumerate(["night", "day", "old"]):
        os.utime(write_log(project, name, reports()), (10**9 - age, 10**9 - age))
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_text("", encoding="utf-8")
    assert find_logs(project, []) == {"night": project.log("night")}
    assert find_logs(project, ["old", str(elsewhere), "day"]) == {"old": project.log("old"), "elsewhere": elsewhere,
                                                                  "day": project.log("day")}


def test_a_run_passed_twice_is_drawn_once_and_two_runs_of_one_name_are_both_drawn(project, tmp_path):
    one, other = write_log(project, "night", reports()), write_log(Home(tmp_path / "other"), "night", reports())
    assert find_logs(project, ["night", str(one.parent / ".." / one.parent.name / one.name)]) == {"night": one}
    assert find_logs(project, ["night", str(other)]) == {str(one): one, str(other): other}


def test_for_an_unknown_run_the_error_lists_the_known_ones(project, monkeypatch, capsys):
    for name in ("night", "day"):
        write_log(project, name, reports())
    code, out, err = draw(monkeypatch, capsys, "loss", "nigth", "--home", project.folder)
    assert (code, out) == (1, "")
    assert "no run nigth" in err and "did you mean night?" in err and "day" in err


def test_before_any_run_it_says_how_to_get_one(project, monkeypatch, capsys):
    code, out, err = draw(monkeypatch, capsys, "loss", "--home", project.folder)
    assert (code, out) == (1, "") and f"python train.py --home {project.folder}" in err


@pytest.mark.parametrize("lines", [[], [""], ["{"], ["5", "[]", "null", '{"loss": 3}', '{"step": "many"}'],
                                   ["\x00\x01"]])
def test_a_log_without_a_report_is_refused(project, lines, monkeypatch, capsys):
    write_log(project, "night", lines)
    code, out, err = draw(monkeypatch, capsys, "loss", "--home", project.folder)
    assert (code, out) == (1, "") and "nothing to draw yet" in err and len(err.splitlines()) == 1
    assert [path.name for path in project.saved_weights.iterdir()] == ["log-night.jsonl"]


def test_damaged_lines_are_skipped_with_a_warning(project, monkeypatch, capsys):
    log = reports()
    path = write_log(project, "night", [*log[:3], '{"step": 35, "tr', "5", *log[3:]])
    with path.open("ab") as file:
        file.write(b'{"step": 110, "train_l')             # a line that is being written is not damaged
    assert reports_of(path) == log == run_log.read(path)
    assert "2 damaged lines" in capsys.readouterr().err
    path.write_bytes(path.read_bytes().replace(b"train_nats", b"train_\xff\xfe", 1))
    assert len(run_log.read(path)) == 10


# --- The file ---

def test_the_picture_is_written_beside_the_log_and_replaced(project, monkeypatch, capsys):
    path = write_log(project, "night", reports()[:5])
    code, out, _ = draw(monkeypatch, capsys, "loss", "--home", project.folder)
    picture = project.saved_weights / "loss-night.png"
    assert code == 0 and out == f"night: 5 reports -> {picture}\n"
    before = picture.read_bytes()
    write_log(project, "night", reports())
    assert draw(monkeypatch, capsys, "loss", path)[0] == 0
    assert picture.read_bytes() != before
    assert default_output({"night": path, "day": path, "old": path}).name == "loss-night-and-2-more.png"


@pytest.mark.parametrize("name", ["mine.png", "mine.svg"])
def test_a_foreign_file_is_never_overwritten(project, tmp_path, name, monkeypatch, capsys):
    write_log(project, "night", reports())
    mine = tmp_path / name
    mine.write_bytes(b"mine")
    code, out, err = draw(monkeypatch, capsys, "loss", "--home", project.folder, "--output", mine)
    assert (code, out) == (1, "")
    assert "is not a picture that python -m folio.plot drew" in err
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    for _ in range(2):
        assert draw(monkeypatch, capsys, "loss", "--home", project.folder, "--output", mine)[0] == 0


def test_a_missing_folder_is_created(project, tmp_path, monkeypatch, capsys):
    write_log(project, "night", reports())
    picture = tmp_path / "new" / "folder" / "night.svg"
    assert draw(monkeypatch, capsys, "loss", "--home", project.folder, "--output", picture)[0] == 0
    assert picture.exists()


@pytest.mark.parametrize("output", ["night.jpg", "night", "night.png.txt"])
def test_an_unknown_file_type_is_wrong_usage(project, output, monkeypatch, capsys):
    code, out, err = draw(monkeypatch, capsys, "loss", "--home", project.folder, "--output", output)
    assert (code, out) == (2, "") and ".png or .svg" in err


def test_a_full_disk_leaves_the_old_picture(project, monkeypatch, capsys):
    write_log(project, "night", reports())
    draw(monkeypatch, capsys, "loss", "--home", project.folder)
    picture = project.saved_weights / "loss-night.png"
    before = picture.read_bytes()
    write_log(project, "night", reports()[:5])
    monkeypatch.setattr(os, "fsync", FullDisk(good_calls=0))
    code, out, err = draw(monkeypatch, capsys, "loss", "--home", project.folder)
    assert (code, out) == (1, "") and os.strerror(errno.ENOSPC) in err and str(picture) in err
    assert picture.read_bytes() == before and len(list(project.saved_weights.iterdir())) == 2


# --- The command ---

def test_without_matplotlib_one_line_gives_the_install_command(project, monkeypatch, capsys):
    write_log(project, "night", reports())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = draw(monkeypatch, capsys, "loss", "--home", project.folder)
    assert (code, out) == (1, "") and "python -m pip install matplotlib" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("words, said", [(["lss"], "did you mean loss?"),
                                         (["--x", "steps"], "its name comes first"),
                                         (["loss", "--x", "epochs"], "epochs"),
                                         (["loss", "--outptu", "a.png"], "did you mean --output?")])
def test_a_misspelled_command_is_answered_with_the_right_one(words, said, monkeypatch, capsys):
    code, out, err = draw(monkeypatch, capsys, *words)
    assert (code, out) == (2, "") and said in err


def test_the_command_draws_what_train_wrote_without_torch_and_without_pyplot(project):
    write_log(project, "night", reports())
    code = ("import runpy, sys\nsys.argv = ['plot.py', *sys.argv[1:]]\n"
            "try: runpy.run_module('folio.plot', run_name='__main__')\n"
            "finally: print([name for name in ('torch', 'matplotlib.pyplot') if name in sys.modules])")
    done = run_python("-c", code, "loss", "--home", project.folder)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith("loss-night.png\n[]\n")
    done = run_python("-m", "folio.plot", "loss", "no such run", "--home", project.folder)
    assert "night" in refusal(done)
    assert run_python("-m", "folio.plot", cwd=ROOT).stdout.startswith("usage: python -m folio.plot")
