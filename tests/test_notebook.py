"""The notebook runs from top to bottom, in a folder of its own, and is stored without results."""

import re
from dataclasses import replace

import pytest

from conftest import ROOT
from Model_Params import PRESETS

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("matplotlib")

NOTEBOOK = ROOT / "notebooks" / "folio.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def files_that_matter():
    folders = "Train_Data", "tokenizer_save", "Saved_Weights", "notebooks"
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_results_are_not_stored(notebook):
    # They would be those of a model that has changed since, and every run would be a change to the file.
    assert [cell.source for cell in code_cells(notebook) if cell.outputs or cell.execution_count] == []


@pytest.mark.parametrize("preset", PRESETS)
def test_it_trains_each_preset_for_its_own_time(notebook, preset):
    [line] = [line for cell in code_cells(notebook) for line in cell.source.splitlines()
              if line.startswith("params = replace(")]
    known = {"replace": replace, "params": PRESETS[preset], "MINUTES": 2}
    exec(line, known)
    assert list(known["params"].problems()) == [] and known["params"].training.minutes == 2


def test_it_trains_completes_and_draws(notebook, plays, tmp_path):
    (tmp_path / "text.txt").write_text(plays[:15_000], encoding="utf-8")
    # Where it could write; elsewhere other tests leave caches meanwhile.
    before = files_that_matter()
    settings = next(cell for cell in notebook.cells if "MINUTES =" in cell.source)
    settings.source += (f"\nTEXT, HOME = Path({str(tmp_path / 'text.txt')!r}), Path({str(tmp_path / 'home')!r})")
    params = next(cell for cell in notebook.cells if "minutes=MINUTES" in cell.source)
    params.source = params.source.replace("steps=None, epochs=None, minutes=MINUTES",
                                          "steps=4, epochs=None, minutes=None, threads=1, compile=False")
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3",
                            resources={"metadata": {"path": NOTEBOOK.parent}}).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    written = "".join(output.get("text", "") for output in outputs)
    assert re.search(r"MERRAN:\n.{30}", written, re.DOTALL) and "bits per byte" in written
    assert "--- temperature 1.5\nI have the key" in written
    assert (tmp_path / "home" / "Saved_Weights" / "weights-notebook.pth").exists()
    assert files_that_matter() == before                    # no file of the repository was changed


def test_it_writes_where_git_does_not_look():
    assert "notebooks/home/" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()
