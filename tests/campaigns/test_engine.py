"""What runs the campaigns: it sees every way in which a case can fall, and goes on with the others."""

import os
import pickle
import subprocess
import sys
import time

import pytest

from campaigns import crafted, engine, processes
from folio.base.errors import FolioError


class Mixed(engine.Campaign):
    """Cases that hold, fall, fail, die, hang and take memory, one of each."""

    name, seconds, megabytes = "mixed", 5, 300

    def attempt(self, number, draw):
        self.draw = draw.random()
        [self._hold, self._fall, self._fail, self._die, self._hang, self._take_memory, self._hold][number]()

    def describe(self):
        return f"drew {self.draw}"

    def _hold(self):
        assert engine.answer_or_refusal(lambda: 7) == (7, None)
        assert engine.answer_or_refusal(self._refuse) == (None, "No.")

    def _refuse(self):
        raise FolioError("No.")

    def _fall(self):
        raise engine.Fall("It fell")

    def _fail(self):
        engine.answer_or_refusal(lambda: {}["x"])

    def _die(self):
        os._exit(3)

    def _hang(self):
        time.sleep(1000)

    def _take_memory(self):
        bytearray(10**9)


def test_every_way_to_fall_is_seen():
    found = dict(engine.run(Mixed(), range(7), 1, 2))
    assert (found[0], found[6]) == (None, None)
    assert "It fell" in found[1]
    assert "KeyError" in found[2]
    assert found[3] == "The process died of it (exit code 3)"
    assert found[4] == "Still at work after 5 seconds"
    if sys.platform == "linux":         # which limits the memory of a process
        assert "more than 300 MB" in found[5]
    assert found[1] == dict(engine.run(Mixed(), [1], 1, 1))[1]
    assert found[1] != dict(engine.run(Mixed(), [1], 2, 1))[1]          # drawn from another seed
    assert "1 x It fell" in engine.report([(1, found[1])])


@pytest.mark.parametrize("program, complaint", [
    ("1 / 0", "A traceback: .*ZeroDivisionError"), (f"print({processes.MARK!r})", "reached the terminal"),
    ("print()", "Exit code 0"), ("raise SystemExit(1)", "without a word"),
    ("while True: pass", "seconds of a processor"),
    ("it = bytearray(1_500_000_000); import time; time.sleep(9)", "More than 1000 MB"),
    ("raise SystemExit('No.')", None)])
def test_every_way_to_misbehave_on_a_terminal_is_seen(program, complaint, monkeypatch):
    pytest.importorskip("termios")
    if "while True" in program:             # only here: on a slow machine the others may need a second, too
        monkeypatch.setattr(processes, "PROCESSOR_SECONDS", 1)
    if "bytearray" in program and sys.platform != "linux":
        pytest.skip("only Linux says how much memory another process takes")
    ended = processes.on_terminal([sys.executable, "-c", program])
    if complaint is None:
        return ended.check()
    with pytest.raises(engine.Fall, match=complaint):
        ended.check()


def test_processes_left_behind_are_seen_and_ended():
    if sys.platform != "linux":
        pytest.skip("by /proc")
    program = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])"
    child = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    child.wait()
    assert len(processes.in_session(child.pid)) == 1
    processes.end_session(child.pid)
    while processes.in_session(child.pid):
        time.sleep(0.05)


def test_a_file_with_code_would_run_it(tmp_path):
    """Or else that none runs would say nothing."""
    pickle.loads(pickle.dumps(crafted.RunsCode(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()
