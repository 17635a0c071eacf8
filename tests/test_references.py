"""benchmarks/references.py: presets are trained within a time limit, and the time of the rest is extrapolated."""

import json
import sys
from types import SimpleNamespace

import pytest

from conftest import ROOT, run_script
from Model_Params import PRESETS
from test_quality import table_of

sys.path.insert(0, str(ROOT / "benchmarks"))

import references  # noqa: E402  (after the change of sys.path)


@pytest.mark.slow
@pytest.mark.campaign
def test_presets_are_trained_or_timed_and_the_default_trains_for_the_same_time(plays, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(plays[:20_000], encoding="utf-8", newline="\n")
    done = run_script("benchmarks/references.py", "--text", text, "--presets", "micropgpt", "personal", "--limit", 0.05,
                      "--threads", 1, "--json", tmp_path / "results.json")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert written["bytes"] == 20_000 and written["flags"] == ["--threads=1"]
    results = {result["preset"]: result for result in written["results"]}
    assert {name: result["of_steps"] for name, result in results.items()} == {"micropgpt": 3000, "personal": 5000}
    for result in results.values():
        assert result["predicted_seconds"] > 3
        assert 1 < result["default"]["nats_per_byte"] < 6
        assert result["default"]["sample"]
    heads, rows = table_of(done.stdout)
    assert [row[0] for row in rows] == ["`personal`", "`micropgpt`"] and all(len(row) == len(heads) for row in rows)


@pytest.fixture
def trained(monkeypatch):
    """Call train_preset with a fake training of 0.1 s per step.

    trained(limit, **fields of TrainingParams) -> result, the flags of each run after the timed one
    """
    calls = []

    def train(name, home, flags):
        calls.append(flags)
        steps = flags[flags.index("--steps") + 1] if "--steps" in flags else 5000
        return {"steps": steps, "seconds": 0.1 * steps}

    # The first line is warm-up.
    lines = [{"tokens_per_second": speed} for speed in (1, 16 * 32 / 0.1, 16 * 32 / 0.1)]
    monkeypatch.setattr(references, "run_process", lambda *words: None)
    monkeypatch.setattr(references, "train", train)
    monkeypatch.setattr(references, "parameters_of", lambda home, name: 7)
    monkeypatch.setattr(references.run_log, "read", lambda path: lines)
    monkeypatch.setattr(references.corpus, "open_corpus", lambda home: (None, SimpleNamespace(train_tokens=1632)))

    def of(limit, **fields):
        training = SimpleNamespace(**{"batches": "shuffled", "batch_size": 16, "steps": 5000} | fields)
        preset = SimpleNamespace(model=PRESETS["personal"].model, training=training)
        monkeypatch.setattr(references, "PRESETS", {"personal": preset})
        home = SimpleNamespace(folder=".", log=lambda name: name)
        return references.train_preset("personal", home, limit, ["--threads=1"]), calls
    return of


def test_a_preset_that_fits_is_trained_completely(trained):
    result, calls = trained(500)
    assert (result["predicted_seconds"], result["of_steps"], result["seconds"]) == (None, 5000, 500)
    assert calls == [["--preset", "personal", "--threads=1"]]


def test_a_preset_that_does_not_fit_makes_as_many_steps_as_fit_and_extrapolates(trained):
    result, calls = trained(100)
    assert calls == [["--preset", "personal", "--steps", 1000, "--threads=1"]]
    assert result["predicted_seconds"] == pytest.approx(500) and result["steps"] == 1000


def test_a_preset_of_which_less_than_a_tenth_fits_is_only_timed(trained):
    result, calls = trained(49)
    assert calls == [] and "steps" not in result and result["predicted_seconds"] == pytest.approx(500)


@pytest.mark.parametrize("limit, steps", [(45, 400), (40, 400), (39.9, 300), (12, 100), (10.5, 100)])
def test_a_preset_that_counts_in_epochs_makes_whole_epochs(trained, limit, steps):
    result, [flags] = trained(limit, steps=None, epochs=10)            # of (1632 - 32) / 16 steps
    assert (flags[3], result["of_steps"]) == (steps, 1000) and result["predicted_seconds"] == pytest.approx(100)


def test_a_default_with_the_same_time_and_validation_share_is_trained_once(monkeypatch):
    calls = []
    took = {"personal": (50, None), "shakespeare-10m": (None, 900), "micropgpt": (60, 900), "llm-example": (61, 700)}

    def train_preset(preset, home, limit, flags):
        seconds, predicted = took[preset]
        return {"preset": preset, "seconds": seconds, "predicted_seconds": predicted}

    def train(name, home, flags):
        calls.append((home, flags))
        return {"minutes": flags[1]}
    monkeypatch.setattr(references, "train_preset", train_preset)
    monkeypatch.setattr(references, "train", train)
    results = list(references.run_all(dict.fromkeys(took), {0.1: "tenth", 0.2: "fifth"}, 60, [], jobs=2))
    assert {result["preset"]: result["default"]["minutes"]
            for result in results} == {name: 50 / 60 if name == "personal" else 1 for name in took}
    assert sorted(home for home, _ in calls) == ["fifth", "tenth", "tenth"]


def test_the_table_shows_measured_and_extrapolated_figures():
    default = {"parameters": 2000, "nats_per_byte": 1.5, "sample": "a|b *c*\x1b"}
    whole = {"preset": "personal", "parameters": 1000, "of_steps": 5000, "steps": 5000, "seconds": 61.2,
             "predicted_seconds": None, "nats_per_byte": 2.0,
             "perplexity": 7.389, "training_loss": 1.9, "sample": " To be", "default": default}
    timed = {"preset": "shakespeare-10m", "parameters": 10_788_929, "of_steps": 5000, "predicted_seconds": 25_000.4,
             "default": default}
    _, rows = table_of("\n".join(references.markdown([timed, whole])))
    beside = "1.5000 (2,000 parameters): *a b  c*"
    assert rows[0] == ["`personal`", "1,000", "5,000", "61", "2.0000", "7.39", "1.900", "*To be*",
                       "about 85K parameters", beside]
    assert rows[1] == ["`shakespeare-10m`", "10,788,929", "0 of 5,000", "(of 25,000, predicted)", "", "", "", "",
                       "10,788,929 parameters", beside]


def test_every_preset_that_follows_a_project_is_listed():
    assert PRESETS.keys() - {"default"} == references.PROJECTS.keys()
