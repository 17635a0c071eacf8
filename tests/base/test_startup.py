"""What Folio needs and does not find is said in one message, also by Pythons that could not read the rest of it; so is
what there is to run.
"""

import ast
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from conftest import ROOT, refusal, run_python
from folio.base import startup
from test_layers import FILES

SCRIPTS = ["init.py", "train.py", "run.py"]
READ_BEFORE_THE_CHECK = ["init", "train", "run", "folio", "folio.base.startup", "folio.base.commands"]


def old_pythons():
    """The Pythons of this machine that are too old, by their usual names or beside the one that runs the tests."""
    for minor in (8, 9, 10):
        beside = sorted(Path(sys.base_prefix).parent.glob(f"3.{minor}.*/bin/python"))
        for path in filter(None, [*map(str, beside), shutil.which(f"python3.{minor}")]):
            if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
                yield path
                break


OLD = list(old_pythons())


def bare_environment(**others):
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **others}


@pytest.mark.parametrize("script", startup.TO_RUN)
def test_missing_packages_are_one_message_with_the_command_that_installs_them(script):
    message = refusal(run_python("-S", *script.split(), "--help", cwd=ROOT, env=bare_environment()))
    assert message.count("\n") == 1
    assert message.startswith(f"{script.split()[-1]}: This Python lacks what Folio needs: torch, numpy, regex, tqdm "
                              f"(it is ")
    assert "-m pip install -r requirements.txt" in message or ".venv" in message


@pytest.mark.parametrize("missing", startup.PACKAGES)
@pytest.mark.parametrize("script", ["train.py", "-m folio.tokens"])
def test_one_missing_package_is_named_alone(script, missing, tmp_path):
    for name in {*startup.PACKAGES} - {missing}:
        (tmp_path / f"{name}.py").write_text("raise ImportError('it must not be imported to know that it is there')")
    message = refusal(run_python("-S", *script.split(), cwd=ROOT, env=bare_environment(PYTHONPATH=str(tmp_path))))
    assert f"lacks what Folio needs: {missing} (it is" in message


@pytest.fixture
def copied(tmp_path):
    """What of Folio is read before anything is missing, in a folder of its own."""
    for name in READ_BEFORE_THE_CHECK:
        path = tmp_path / FILES[name].relative_to(ROOT)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(FILES[name].read_bytes())
    return tmp_path


@pytest.mark.skipif(os.name == "nt", reason="there it is .venv\\Scripts\\python.exe")
@pytest.mark.parametrize("script", ["init.py", "train.py", "run.py"])
def test_an_environment_that_is_not_active_is_named(script, copied):
    own = copied / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text("")
    message = refusal(run_python("-S", copied / script, cwd=copied, env=bare_environment()))
    assert message.endswith(f"Folio's own environment is there, only not active: .venv/bin/python {script}\n")


@pytest.mark.parametrize("module", READ_BEFORE_THE_CHECK)
def test_an_old_python_can_read_as_far_as_the_check(module):
    ast.parse(FILES[module].read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.skipif(not OLD, reason="no old Python here")
@pytest.mark.parametrize("python", OLD)
@pytest.mark.parametrize("script", ["init.py", "train.py", "run.py", "-m folio.evaluate"])
def test_an_old_python_is_told_so(python, script, copied):
    done = subprocess.run([python, *script.split()], cwd=copied, env=bare_environment(), capture_output=True,
                          encoding="utf-8")
    assert "This is Python 3." in refusal(done) and ", and Folio needs 3.11 or newer (it is " in done.stderr
    assert done.stderr.endswith("Install a newer Python, then do what README.md says under Start.\n")


def test_a_python_that_is_too_old_is_refused_before_packages_are_looked_for(monkeypatch):
    monkeypatch.setattr(startup, "OLDEST_PYTHON", (99, 1))
    monkeypatch.setattr(startup, "_ROOT", "nowhere")
    with pytest.raises(SystemExit,
                       match=r"^train.py: This is Python 3\.\d+, and Folio needs 99.1 or newer \(it is .*\). Install a "
                             r"newer Python"):
        startup.require("train.py")


def test_where_all_is_there_nothing_is_said():
    assert startup.require("init.py") is None


# --- What there is to run ---

@pytest.mark.parametrize("words",
                         ["-m folio.data.corpus", "-m folio.pictures", "Model.py", "Model_Params.py", "tokenizer.py"])
def test_a_part_that_does_nothing_by_itself_says_what_there_is(words):
    message = refusal(run_python(*words.split(), cwd=ROOT))
    assert message.startswith(f"python {words} does nothing by itself. What there is to run")
    assert all(f"python {script} " in message for script in startup.TO_RUN)


def test_the_name_of_a_file_in_place_of_a_modules_is_answered_with_the_module():
    message = refusal(run_python("-m", "folio.plot.py", cwd=ROOT))
    assert message.count("\n") == 1 and "Try using 'folio.plot'" in message


def test_all_that_can_be_run_is_listed():
    doors = {name for name, path in FILES.items()
             if "front_door(" in path.read_text(encoding="utf-8").partition('__name__ == "__main__":\n')[2]}
    assert doors == {script.removeprefix("-m ").removesuffix(".py") for script in startup.TO_RUN}


# --- The clock ---

def test_minutes_count_from_the_call_of_main_and_in_a_script_from_before_the_imports(monkeypatch):
    began, called = [], []
    monkeypatch.setattr(train, "train", lambda *arguments: began.append(arguments[-1]))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for _ in range(2):
        before = time.perf_counter()
        train.main()
        assert before <= began[-1] <= time.perf_counter()
    monkeypatch.setattr("folio.cli.command_line.front_door", lambda main, **how: called.append(main))
    before = time.perf_counter()
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    [main] = called
    assert before <= main.args[0] <= time.perf_counter()
    monkeypatch.setitem(main.func.__globals__, "train", lambda *arguments: began.append(arguments[-1]))
    main()
    assert began[-1] == main.args[0]
