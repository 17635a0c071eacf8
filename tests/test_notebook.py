"""The notebook runs from top to bottom, in a folder of its own, and is stored without results."""

import re
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from conftest import ROOT
from folio.base.home import Home
from folio.data import corpus
from Model_Params import PRESETS, ModelParams, TextParams

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
    exercises = next(cell for cell in notebook.cells if "TRY_SOLUTIONS =" in cell.source)
    exercises.source = exercises.source.replace("TRY_SOLUTIONS = True", "TRY_SOLUTIONS = False")
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3",
                            resources={"metadata": {"path": NOTEBOOK.parent}}).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    # Merges, the curve while it trained, the curve after that, surprise, attention, its steps, embeddings.
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 7
    assert any('<progress max="1" value="1.000"' in output.get("data", {}).get("text/html", "") for output in outputs)
    written = "".join(output.get("text", "") for output in outputs)
    assert re.search(r"MERRAN:\n.{30}", written, re.DOTALL) and "bits per byte" in written
    assert "--- temperature 1.5\nI have the key" in written
    assert (tmp_path / "home" / "Saved_Weights" / "weights-notebook.pth").exists()
    assert files_that_matter() == before                    # no file of the repository was changed


def test_it_writes_where_git_does_not_look():
    assert "notebooks/home/" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()


# --- The exercises ---

def solutions(notebook):
    """Return {name: {old: new}} of the changes to Model.py that the notebook tries out."""
    found = {}
    for cell in code_cells(notebook):
        if re.search(r"(?m)^try_out\(", cell.source):
            exec(cell.source, {"try_out": lambda name, changes: found.update({name: changes})})
    return found


def model_with(changes):
    """Return Model.py as a module, with the changes in it, each of which it has exactly once."""
    source = (ROOT / "Model.py").read_text(encoding="utf-8")
    for old, new in changes.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    module = ModuleType("changed_model")
    exec(compile(source, "Model.py", "exec"), vars(module))
    return module


def test_each_solution_is_a_network_that_learns_and_does_not_see_the_future(notebook):
    found = solutions(notebook)
    assert len(found) == 4
    params = ModelParams(vocab_size=50, emb_len=16, num_layers=2, num_heads=2, block_size=12).resolved()
    tokens = torch.arange(24).view(2, 12)
    torch.manual_seed(0)
    unchanged = model_with({}).Transformer(params)
    for name, changes in found.items():
        torch.manual_seed(0)
        net = model_with(changes).Transformer(params)
        with torch.no_grad():
            for weight in [*unchanged.parameters(), *net.parameters()]:
                weight.add_(0.1)                    # some begin as zeros, and would hide what is changed
        logits = net(tokens)
        assert logits.shape == (2, 12, 50) and not torch.allclose(logits, unchanged(tokens)), name
        other = tokens.clone()
        other[:, 8:] = 3
        torch.testing.assert_close(net(other)[:, :8], logits[:, :8])
        cached, state = net.continue_from(net.empty_state(2), tokens[:, :5])
        cached = [cached, *(net.continue_from(state, tokens[:, 5:])[:1])]
        torch.testing.assert_close(torch.cat(cached, 1), logits, rtol=1e-4, atol=1e-4)
        logits.float().logsumexp(-1).mean().backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters()), name


@pytest.mark.slow
@pytest.mark.campaign
def test_the_solutions_are_trained_by_train_py(notebook, plays, tmp_path, capsys):
    home = Home(tmp_path / "home")
    (tmp_path / "text.txt").write_text(plays[:15_000], encoding="utf-8")
    corpus.open_corpus(home, TextParams(), [str(tmp_path / "text.txt")])
    cells = [cell.source for cell in code_cells(notebook) if "try_out(" in cell.source]
    known = {"HOME": home.folder, "ROOT": ROOT, "sys": sys}
    exec(cells[0].replace("STEPS = 150", "STEPS = 3").replace("TRY_SOLUTIONS = False", "TRY_SOLUTIONS = True"), known)
    for cell in cells[1:]:
        exec(cell, known)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(re.fullmatch(r"unchanged [\d.]+, \w+ [\d.]+ nats per byte", line) for line in lines)
