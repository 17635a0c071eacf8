"""A sweep: one run after another, one for each combination of some settings' values.

Each run is a process of its own: its memory is free when it ends, and what ends one run by force ends no other. Nothing
is kept of a sweep but the files of its runs, so the same command continues it: finished runs are skipped, an
unfinished one is continued.
"""

import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from folio.base.home import Home
from folio.base.spelling import counted
from folio.formats.run_list import Run, list_runs

STOPPED = 128               # exit codes above this are those of runs that a signal stopped


class Sweep:
    """The runs of a sweep, in the order in which they are trained."""

    def __init__(self, home: Home, runs: dict[str, list[str]], program: Sequence[str],
                 say: Callable[[str], None]):
        """runs: {name: words that begin it, less --name}; program: the words that start train.py

        say: is told which run is next; it flushes, as the run writes to the same terminal
        """
        self.home, self.runs, self.program, self.say = home, runs, list(program), say

    def train(self) -> int:
        """Train the runs that are not finished. -> exit code: of the signal that stopped them, 1 where one failed"""
        failed = []
        for number, (name, words) in enumerate(self.runs.items(), 1):
            place = f"Run {number} of {len(self.runs)}, {name}"
            state = self.states().get(name)
            if state in ("finished", "running"):
                self.say(f"{place}: {'already finished' if state == 'finished' else 'another process is training it'}.")
                continue
            self.say(f"{place}{', continued' if state == 'unfinished' else ''}:")
            code = run_to_its_end([*self.program, *(["--resume"] if state == "unfinished" else words), "--name", name])
            if code > STOPPED or code < 0:
                return code if code > 0 else STOPPED - code
            if code and name not in self.states():
                return 1            # it failed before it began, as for want of a text: the others would, too
            if code:
                failed.append(name)
        if failed:
            self.say(f"{counted(len(failed), 'run')} failed, for the reasons above: {', '.join(failed)}.")
        return 1 if failed else 0

    def states(self) -> dict[str, str]:
        """Return {name: state} of those runs that have files."""
        return {run.name: run.state for run in self._listed()}

    def conflict(self, wanted: dict[str, dict]) -> str | None:
        """Return a sentence about a run that has files and was trained with other settings, if there is one.

        wanted: {name: {field: value}}, as given; None for a value means any
        """
        settings = {run.name: run.settings for run in self._listed()}
        for name, values in wanted.items():
            has = settings.get(name, {})
            for field, value in values.items():
                if value is not None and has.get(field, value) != value:
                    return f"{name} was trained with {field}={has[field]}, not {value}: give this sweep another --name"
        return None

    def ranked(self) -> list[Run]:
        """Return the runs that have files, the best first."""
        return sorted(self._listed(), key=_rank)

    def _listed(self):
        return [run for run in list_runs(self.home) if run.name in self.runs]



def _rank(run):
    """Return what runs are sorted by: the loss that validation is about, those without one last."""
    nats = run.nats_per_byte if run.nats_per_pair is None else run.nats_per_pair
    return nats is None, nats


def run_to_its_end(words: Iterable[str]) -> int:
    """Run a command and return its exit code: below 0 where a signal ended it. It gets the signals that this one gets.

    A terminal sends Ctrl-C to both: the command saves its run and ends, and this process waits for it.
    """
    process = subprocess.Popen(list(words))
    with _passed_on(process):
        return process.wait()


@contextmanager
def _passed_on(process) -> Iterator[None]:
    def pass_on(number, frame):
        if number != signal.SIGINT and process.poll() is None:
            process.send_signal(number)
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, pass_on) for number in (getattr(signal, name) for name in names)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
