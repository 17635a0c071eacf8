"""What several tests share: projects of their own, the scripts as real processes, the texts."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path += map(str, (ROOT / "tests").glob("*/"))         # test modules that share their helpers import each other

from folio.base import commands  # noqa: E402  (it lies at the root)
from folio.base.home import Home  # noqa: E402

# isort: split
import torch  # noqa: E402  (after folio, which bounds how long its threads spin)

settings.register_profile("folio", deadline=None)       # a slow machine is not a wrong result
settings.load_profile("folio")


def run_python(*words, input=None, cwd=ROOT, env=None):
    """Run Python on `words` as a process of its own. -> CompletedProcess with the output as text"""
    return subprocess.run([sys.executable, *map(str, words)], input=input, cwd=cwd, env=env, capture_output=True,
                          encoding="utf-8")


def run_script(name, *words, input=None, cwd=ROOT):
    """Run a script of the repository, as in run_script("init.py", "--home", home.folder)."""
    return run_python(ROOT / name, *words, input=input, cwd=cwd)


def refusal(result, code=1):
    """The message of a process that had to refuse: on stderr alone, without a traceback, with this exit code."""
    assert "Traceback" not in result.stderr, result.stderr
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    return result.stderr


class InMemory:
    """As much of a path as reading a text takes."""

    def __init__(self, content, name="text.txt"):
        self.content, self.name = content, name

    def __str__(self):
        return self.name

    def open(self, mode):
        return io.BytesIO(self.content)


class FullDisk:
    """os.fsync on a disk that is full after some good calls."""

    def __init__(self, good_calls):
        self.calls_left, self.fsync = good_calls, os.fsync

    def __call__(self, descriptor):
        if self.calls_left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.calls_left -= 1
        self.fsync(descriptor)


def pytest_make_parametrize_id(config, val, argname):
    """Name the bytes of a file by their number: a packed one has the time in it, and all workers need equal names."""
    return f"{argname} of {len(val)} bytes" if isinstance(val, bytes) and len(val) > 20 else None


@pytest.fixture(autouse=True)
def one_thread():
    """Threads only get into each other's way where matrices are this small."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_home_remembered():
    """A process has one command line; the tests have many."""
    commands.remember_home(None)
    commands.remember_line(None, ())


@pytest.fixture
def home(tmp_path):
    """Makes projects: home("some text") or home({"a.txt": "some", "notes/b.txt": b"text"}) -> Home"""
    def make(texts):
        made = Home(tmp_path / f"project{len(list(tmp_path.iterdir()))}")
        for name, text in ({"input.txt": texts} if isinstance(texts, (str, bytes)) else texts).items():
            path = made.train_data / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
        return made
    return make


@pytest.fixture(scope="session")
def plays():
    """The text that comes with the repository."""
    return (ROOT / "Train_Data" / "input.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_shakespeare():
    path = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip("tiny shakespeare is not here: put it at ../shared/data/tinyshakespeare.txt")
    return path.read_text(encoding="utf-8")
