"""The command `folio`, and what pyproject.toml says of the package."""

import re
import tomllib

import pytest

from conftest import ROOT, refusal, run_python
from folio.base import startup
from test_layers import FILES

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def folio(*words, cwd):
    """Run `python -m folio`, which is what the installed command does, in another folder than the repository."""
    code = (f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'folio'; "
            "runpy.run_module('folio', run_name='__main__')")
    return run_python("-c", code, *words, cwd=cwd)


def pins(name):
    """{"torch==2.13.0", ...} of a file of requirements."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {line.split("#")[0].strip() for line in lines} - {""}


def test_every_command_is_a_name_of_folio(tmp_path):
    shown = folio("--help", cwd=tmp_path).stdout
    names = [re.sub(r"-m folio\.|\.py", "", script) for script in startup.TO_RUN]
    assert [line.split()[1] for line in shown.splitlines()] == names


@pytest.mark.parametrize("words, problem", [([], "no command was given"), (["trian"], "there is no command trian")])
def test_an_unknown_command_is_answered_with_those_that_exist(words, problem, tmp_path):
    message = refusal(folio(*words, cwd=tmp_path), code=2)
    assert message.startswith(f"folio: {problem}.") and "\n  folio train " in message


@pytest.mark.parametrize("name", ["init", "train", "run", "evaluate", "tokens"])
def test_a_command_has_its_name_in_its_help_and_in_its_errors(name, tmp_path):
    assert folio(name, "--help", cwd=tmp_path).stdout.startswith(f"usage: folio {name} ")
    message = refusal(folio(name, "--hoem", "x", cwd=tmp_path), code=2)
    assert f"(folio {name}" in message and "did you mean --home?" in message


def test_the_current_folder_is_the_project(tmp_path):
    (tmp_path / "Train_Data").mkdir()
    (tmp_path / "Train_Data" / "input.txt").write_text("To be, or not to be.\n" * 200, encoding="utf-8")
    done = folio("init", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("Next: folio train\n"), done.stderr
    assert (tmp_path / "tokenizer_save" / "merges.json").exists()
    assert folio("tokens", "or not", "--only", "tokens", cwd=tmp_path).stdout.endswith("\u00b7not\n")


def test_everything_that_is_imported_is_installed():
    top_level = {name for name in FILES if not name.startswith("folio")}
    assert set(PROJECT["tool"]["setuptools"]["py-modules"]) == top_level
    folders = {path.parent for path in (ROOT / "folio").rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)
    assert (ROOT / "folio" / "py.typed").exists()


def test_dependencies_and_extras_are_those_of_the_requirements_files():
    assert PROJECT["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}
    extras = [pin for extra in PROJECT["project"]["optional-dependencies"].values() for pin in extra]
    assert sorted(extras) == sorted(pins("requirements-extras.txt"))


def test_the_oldest_python_is_the_same_everywhere():
    assert PROJECT["project"]["requires-python"] == ">=" + ".".join(map(str, startup.OLDEST_PYTHON))


def test_every_requirement_is_pinned_and_has_its_reason():
    for name in ("requirements.txt", "requirements-extras.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            assert line.startswith(("#", "-r ")) or re.fullmatch(r"[\w-]+(\[\w+\])?==[\w.]+ +# .+", line), line
