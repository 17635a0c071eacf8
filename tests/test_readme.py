"""The README is true: its commands run, its flags exist, its tree is the tree."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, run_python

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What git would hand out, without a home of anybody's."""
    folder = tmp_path_factory.mktemp("clone")
    for name in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if not name.startswith(("tests/", "benchmarks/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_a_fresh_clone_answers_before_anything_is_trained(clone):
    done = run_python("run.py", "I have the key", "--tokens", "20", "--seed", "1", cwd=clone)
    assert done.returncode == 0 and done.stdout.startswith("I have the key") and len(done.stdout) > 30
    assert done.stderr.startswith("weights-pretrained.pth: ")


def test_the_first_command_learns_trains_and_completes(clone):
    steps = [step.split(" ", 1)[1] for step in blocks("bash")[0].strip().split(" && ") if "/python " in step]
    assert [step.split()[0] for step in steps] == ["init.py", "train.py", "run.py"]
    for step, faster in zip(steps, ([], ["--steps", "3", "--sample-tokens", "5"], ["--tokens", "5"])):
        words = re.findall(r'"[^"]*"|\S+', step)
        done = run_python(*[word.strip('"') for word in words], *faster, cwd=clone)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("I have the key") and done.stderr.startswith("weights-default.pth: ")


def test_ci_runs_the_second_command():
    assert blocks("bash")[1].strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_windows_gets_the_same_two_commands():
    def in_posix(line):
        line = line.replace("; ", " && ").replace("py -m venv", "python3 -m venv").replace("\\", "/")
        return line.replace("Scripts", "bin")
    assert [in_posix(line) for line in blocks("powershell")[0].strip().splitlines()] == [block.strip() for block in blocks("bash")[:2]]


def test_every_flag_that_is_named_exists():
    helps = "".join(run_python(ROOT / name, "--help").stdout for name in ("init.py", "train.py", "run.py"))
    modules = ([ROOT / "benchmarks" / "first_steps.py"], ["-m", "torch.distributed.run"], ["-m", "folio.convert"], ["-m", "folio.tokens"],
               ["-m", "folio.plot", "loss"], ["-m", "folio.plot", "surprise"], ["-m", "folio.evaluate"])
    helps += "".join(run_python(*words, "--help").stdout for words in modules)
    assert {flag for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", README)} <= set(re.findall(r"--[a-z][a-z-]*", helps))


def test_the_tree_names_every_file():
    tree = next(text for text in blocks("text") if "folio/" in text)
    named = set(re.findall(r"^\s*([\w.]+\.py)\s+\S", tree, re.MULTILINE))
    assert named == {path.name for path in (*ROOT.glob("*.py"), *ROOT.glob("folio/**/*.py"))} - {"__init__.py"}


def test_the_python_example_runs():
    done = subprocess.run([sys.executable, "-c", blocks("python")[0]], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and len(done.stdout) > 50, done.stderr


def test_the_shipped_model_is_what_the_readme_says():
    from folio import load
    from folio.networks.build import count_parameters
    model = load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    assert f"{count_parameters(model.net):,} parameters" in README and f"{model.val_bpb:.3f} bits per byte" in README
    assert (ROOT / "Saved_Weights" / "weights-pretrained.pth").stat().st_size <= 10_000_000
