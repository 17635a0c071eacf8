"""Small projects to attack: made once by the real scripts, copied for each case."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from folio.base.home import Home

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT_BYTES = 60_000
TINY = ["--emb-len", 32, "--num-layers", 1, "--num-heads", 1, "--threads", 1, "--precision", "fp32",
        "--sample-tokens", 0, "--eval-interval", 5]
VOCABULARY = ["--vocab-size", 400]


def script(name, home, *words):
    """The command line of a script of the repository for a home."""
    return [sys.executable, str(ROOT / name), *map(str, words), "--home", str(home.folder)]


def finished(command):
    """The CompletedProcess of a command that has to succeed."""
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr}")
    return done


def with_text(folder):
    """A Home with the beginning of the plays and nothing else."""
    home = Home(Path(folder))
    home.train_data.mkdir(parents=True)
    (home.train_data / "input.txt").write_bytes((ROOT / "Train_Data" / "input.txt").read_bytes()[:TEXT_BYTES])
    return home


def prepared(folder):
    """A Home where init.py has been."""
    home = with_text(folder)
    finished(script("init.py", home, *VOCABULARY))
    return home


def trained(folder):
    """A Home with a run "k" of ten steps."""
    home = prepared(folder)
    finished(script("train.py", home, *TINY, "--steps", 10, "--name", "k"))
    return home


def copy(home, folder):
    """The same project in another folder, with the times of its files."""
    shutil.copytree(home.folder, folder)
    return Home(Path(folder))


class Pristine:
    """The files of a home as they are now, to go back to."""

    def __init__(self, home):
        self.home = home
        self.files = {path: (path.read_bytes(), path.stat()) for path in home.folder.rglob("*") if path.is_file()}

    def restore(self):
        """Make every file what it was and remove what was not there."""
        for path in sorted(self.home.folder.rglob("*"), reverse=True):
            if path.is_symlink() or path.is_file():
                if path not in self.files or path.is_symlink():
                    path.unlink()
            elif path in self.files:
                shutil.rmtree(path)
        for path, (content, was) in self.files.items():
            if not path.exists() or path.stat().st_mtime_ns != was.st_mtime_ns or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)            # not written over: a memory map of it may still be alive
                path.write_bytes(content)
                os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
