"""benchmarks/quality.py: runs of the scripts are measured by every protocol, and the table sums them up."""

import json
import sys

import pytest

from conftest import ROOT, run_script
from Model_Params import PRESETS

sys.path.insert(0, str(ROOT / "benchmarks"))

import quality  # noqa: E402  (after the change of sys.path)


def table_of(text):
    """Return the header and the rows of a Markdown table, as lists of cells."""
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]
    return heads, rows


def test_recipes_are_trained_by_the_scripts_and_measured_by_every_protocol(plays, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(plays[:20_000], encoding="utf-8", newline="\n")
    done = run_script("benchmarks/quality.py", "--text", text, "--seeds", 2, 2, "--steps", 2, "--jobs", 2, "--holdout",
                      "--json", tmp_path / "results.json")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert written["bytes"] == len(plays[:18_000].encode()) and written["holdout"] is True
    [run] = written["runs"]                     # the same seed twice is one run
    assert (run["recipe"], run["seed"], run["steps"]) == ("default", 2, 2)
    # The best is measured in the precision of the run; two steps have one evaluation.
    assert run["windows"] == pytest.approx(run["best"], rel=0.01)
    assert len({run[protocol] for protocol in quality.PROTOCOLS}) >= 4
    assert all(1 < run[protocol] < 6 for protocol in quality.PROTOCOLS)
    assert 0 < run["cpu_seconds"] and 0 < run["wall_seconds"]
    assert run["peak_megabytes"] is None or 100 < run["peak_megabytes"] < 4000
    heads, rows = table_of(done.stdout)
    assert heads[:3] == ["recipe", "seed", "windows"] and [row[1] for row in rows] == ["2", "**mean**"]
    assert rows[0][2] == rows[1][2] == f"{run['windows']:.4f}"


def test_without_a_text_it_says_so_and_does_nothing(tmp_path):
    done = run_script("benchmarks/quality.py", "--text", tmp_path / "no-such.txt")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Skipped: there is no text at {tmp_path / 'no-such.txt'}.\n"


def test_a_failed_run_shows_the_output_of_the_script(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("ab", encoding="utf-8")
    done = run_script("benchmarks/quality.py", "--text", text)
    assert done.returncode == 1
    assert "init.py" in done.stderr
    assert "too short" in done.stderr
    assert "Traceback" not in done.stderr


def run_of(recipe, seed, value, **others):
    return {"recipe": recipe, "seed": seed, **dict.fromkeys((*quality.PROTOCOLS, *quality.COSTS), value), **others}


def test_mean_and_deviation_are_over_the_seeds_of_a_recipe():
    figures = quality.summary([run_of("a", 1, 1.0), run_of("b", 1, 7.0, peak_megabytes=None), run_of("a", 2, 2.0),
                               run_of("a", 3, 6.0)])
    assert figures["a"]["mean"]["windows"] == 3
    assert figures["a"]["deviation"]["sliding"] == pytest.approx(7 ** 0.5)
    assert figures["b"]["mean"]["best"] == 7 and figures["b"]["deviation"] == {}
    assert "peak_megabytes" not in figures["b"]["mean"]
    lines = list(quality.markdown([run_of("a", 2, 2.0, peak_megabytes=None), run_of("a", 1, 1.0)]))
    assert lines[2] == "| a | 1 | 1.0000 | 1.0000 | 1.0000 | 1.0000 | 1.0000 | 1 | 1 | 1 | 1 |"
    assert lines[3] == "| a | 2 | 2.0000 | 2.0000 | 2.0000 | 2.0000 | 2.0000 | 2 | 2 | 2 |  |"


@pytest.mark.parametrize("name", PRESETS)
def test_the_recipe_of_a_preset_prepares_the_text_as_the_preset_wants_it(name):
    recipe = quality.of_preset(name)
    assert recipe.train == ("--preset", name)
    assert recipe.init == (() if name == "default" else ("--preset", name))


def test_the_seconds_and_the_memory_are_those_of_the_process():
    usage = quality.run_process("-c", "a = bytearray(200_000_000); a[::1000] = a[::1000]; sum(range(10_000_000))")
    assert usage["wall_seconds"] > usage["cpu_seconds"] * 0.5 > 0
    if usage["peak_megabytes"] is not None:
        # On Linux the peak includes the memory of the parent at the fork, so the workers have to be small.
        assert 190 < usage["peak_megabytes"] <= max(260, memory_of_this_process())


def memory_of_this_process():
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
