"""init.py and train.py killed at any moment, and run again: the end is the same, and nothing is left lying about.

Half of the kills come at a change of a file, the others at a moment of the clock.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import tokenizer as tokenizers
from campaigns import killer, processes, projects
from campaigns.engine import Campaign, Fall
from folio.formats import checkpoint

if not hasattr(signal, "SIGKILL"):
    pytest.skip("Windows has none of these signals", allow_module_level=True)

SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
INIT = ["init.py", *projects.VOCABULARY]
TRAIN = ["train.py", *projects.TINY, "--steps", 20, "--name", "k"]
RESUME = ["train.py", "--resume", "--name", "k", "--steps", 20, "--threads", 1]
LONGEST = 300               # seconds that a script may take
SHUFFLED = 6                # the order in which changes are taken: the first one of init.py is between two renames
ORPHANS_END = 10            # seconds after their parent


def init_result(home):
    """What init.py leaves, for comparison: the tokenizer and the tokens."""
    files = [*home.tokenizer.glob("*.json"), *home.tokens.glob("*.npy")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} | {
        "kinds of files": sorted(path.suffix for path in home.tokens.iterdir() if path.suffix != ".tmp")}


def train_result(home):
    """What train.py leaves, for comparison: the best weights, the last ones and the state of their optimizers."""
    newest = home.newest("weights-*.pth")[0].stem.removeprefix("weights-")
    weights, resume = (torch.load(path(newest), weights_only=True) for path in (home.weights, home.resume))
    return {"weights": checkpoint.checksum(weights["weights"]), "step": weights["step"], "val_bpb": weights["val_bpb"],
            "last weights": checkpoint.checksum(resume["weights"]),
            "optimizers": checkpoint.checksum(resume["optimizers"]),
            "finished": resume["progress"]["finished"], "last step": resume["progress"]["step"]}


def _only_text(home):
    for folder in (home.tokens, home.tokenizer, home.saved_weights):
        shutil.rmtree(folder)


def _no_weights(home):
    shutil.rmtree(home.saved_weights)


def _older_tokenizer(home):
    projects.finished(projects.script("init.py", home, "--vocab-size", 300))


def _as_it_is(home):
    pass


# name -> what makes its home of a trained one, the command, what is compared, cases: all, and a sample
SCENARIOS = {
    "init": (_only_text, INIT, init_result, 30, 0),
    "init again": (_older_tokenizer, INIT, init_result, 60, 1),
    "init from standard input": (_only_text, [*INIT, "-"], init_result, 20, 0),
    "init in several processes": (_only_text, INIT, init_result, 30, 1),
    "train": (_no_weights, TRAIN, train_result, 60, 1),
    "resume": (_as_it_is, RESUME, train_result, 40, 0),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_kills(scenario, trained_home, attack):
    """attack fails with the cases that fell."""
    *_, full, sample = SCENARIOS[scenario]
    attack(Kills(scenario, trained_home), full, sample)


class Kills(Campaign):
    """A script is killed, looked at, and run again."""

    seconds = 5 * LONGEST
    megabytes = 8000

    def __init__(self, scenario, home):
        self.name, self.scenario, self.trained = f"kills {scenario}", scenario, home
        self.case = ""

    def set_up(self, folder):
        self.folder = folder
        prepare, self.command, self.result, *_ = SCENARIOS[self.scenario]
        self.source = projects.copy(self.trained, folder / "source")
        prepare(self.source)
        self.before = tokenizers.load(self.source.tokenizer).fingerprint if self.source.tokenizer.exists() else None
        # Once undisturbed: what comes of it, how many changes of files it makes, how long it takes.
        home = self._home()
        began = time.monotonic()
        script = self._begin(home)
        if code := script.wait(LONGEST):
            raise RuntimeError(f"{self.command} ended with {code}: {self._words()}")
        self.usual_seconds = time.monotonic() - began
        self.changes = int(self._count.read_text())
        self.right, self.after = self.result(home), tokenizers.load(home.tokenizer).fingerprint

    def describe(self):
        return self.case

    def attempt(self, number, draw):
        home = self._home()
        self._kill(home, number, draw)
        self._look(home)
        self._run_again(home)
        found = self.result(home)
        if different := [name for name, value in self.right.items() if found.get(name) != value]:
            raise Fall(f"Run again, it ends with other results than undisturbed: {', '.join(different)}")
        if left := [str(path.relative_to(home.folder)) for path in home.folder.rglob("*.tmp")]:
            of = sorted({Path(path).name.split(".")[1].split("-")[0] for path in left})
            raise Fall(f"Run again, it leaves temporary files of {', '.join(of)}")

    # --- Parts of a case ---

    def _home(self):
        shutil.rmtree(self.folder / "home", ignore_errors=True)
        return projects.copy(self.source, self.folder / "home")

    @property
    def _count(self):
        return self.folder / ("several" if "several" in self.scenario else "count")

    def _words(self):
        return (self.folder / "output").read_text(encoding="utf-8", errors="replace")

    def _begin(self, home, number=signal.SIGKILL, change=0, command=None):
        """Start the script in a session of its own; what it says goes into a file."""
        self._count.unlink(missing_ok=True)
        name, *words = command or self.command
        python, *words = projects.script(name, home, *words)
        killing = [killer.__file__, str(int(number)), str(change), str(home.folder), str(self._count)]
        with open(self.folder / "output", "wb") as output, open(home.train_data / "input.txt", "rb") as text:
            return subprocess.Popen([python, *killing, *words], stdin=text, stdout=output, stderr=subprocess.STDOUT,
                                    start_new_session=True)

    def _kill(self, home, case, draw):
        """Run the script and end it somewhere. Raises Fall where it then does not behave."""
        number, delay = draw.choice(SIGNALS), draw.uniform(0, 1.1 * self.usual_seconds)
        how = "change" if case % 2 == 0 else draw.choice(["time", "worker"]) if "several" in self.scenario else "time"
        # Every change once before any comes twice.
        change = random.Random(SHUFFLED).sample(range(1, self.changes + 1), self.changes)[case // 2 % self.changes]
        self.case = {"change": f"{number.name} at change {change} of {self.changes}",
                     "time": f"{number.name} after {delay:.2f} s of {self.usual_seconds:.2f}",
                     "worker": "SIGKILL to a worker"}[how]
        script = self._begin(home, number, change if how == "change" else 0)
        try:
            if how == "time":
                with suppress(subprocess.TimeoutExpired):
                    script.wait(delay)
                if script.poll() is None:
                    os.kill(script.pid, number)
            elif how == "worker":
                _kill_worker(script)
            code = self._ended(script)
        finally:
            processes.end_session(script.pid)
            script.wait()
        self.case += f", exit code {code}"
        words = self._words()
        if how != "time" and "Traceback" in words or how == "worker" and (code not in (0, 1) or not words.strip()):
            raise Fall(f"What is said of the end: {' '.join(words.split()[-12:])}")
        if self.scenario == "train" and code and number != signal.SIGKILL:
            log = home.log("k")
            if log.exists() and log.read_bytes() and not home.resume("k").exists():
                raise Fall(f"{number.name} lost what was trained until then")
        if number == signal.SIGINT and how == "change" and code and list(home.folder.rglob("*.tmp")):
            raise Fall("Ctrl-C left temporary files")

    def _ended(self, script):
        """The exit code; raises Fall where the script does not end, or leaves processes behind."""
        try:
            code = script.wait(LONGEST)
        except subprocess.TimeoutExpired:
            raise Fall(f"It did not end in {LONGEST} seconds") from None
        deadline = time.monotonic() + ORPHANS_END
        while left := processes.in_session(script.pid):
            if time.monotonic() > deadline:
                raise Fall(f"It left {len(left)} processes behind")
            time.sleep(0.1)
        return code

    def _look(self, home):
        """Whether what lies there after a kill is the old or the new."""
        try:
            found = tokenizers.load(home.tokenizer).fingerprint
        except FileNotFoundError:
            found = None
        except ValueError as error:
            found = str(error)
        if found not in (self.before, self.after):          # where there was none before, there may be none now
            raise Fall("The tokenizer that is there after the kill is neither the old one nor the new one")

    def _run_again(self, home):
        """Run the script to its end, as one who finds it killed does."""
        command = self.command
        if command[0] == "train.py" and home.resume("k").exists():
            progress = torch.load(home.resume("k"), weights_only=True)["progress"]
            if progress["finished"] and progress["step"] == self.right["last step"]:
                return              # it was killed after its end
            command = RESUME
        script = self._begin(home, command=command)
        try:
            if code := self._ended(script):
                raise Fall(f"Run again, it ends with {code}: {self._words()[-200:]!r}")
        finally:
            processes.end_session(script.pid)
            script.wait()


def _kill_worker(script):
    """End one of the processes that a script has begun, as soon as there is one that works."""
    deadline = time.monotonic() + LONGEST
    while script.poll() is None and time.monotonic() < deadline:
        for pid in processes.in_session(script.pid):
            with suppress(OSError):
                if pid != script.pid and b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
