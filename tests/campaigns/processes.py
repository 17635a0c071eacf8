"""Real processes under watch: on a terminal of their own, with limits of time and memory; what they leave running."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from select import select

from campaigns.engine import Fall

PROCESSOR_SECONDS = 10
MEGABYTES = 1000
PATIENCE = 180              # seconds by the clock: a machine may be busy, but what waits for ever has to end
MARK = "\x1b]0;MARK\x07"    # sets a terminal's title; what a hostile file has in its texts
_COMMANDS_TO_TERMINAL = re.compile(rb"\x1b\]|\x07|\xc2[\x80-\x9f]")        # none that the scripts ever write themselves
_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Ended:
    """A process that ended, or was ended."""
    code: int
    output: bytes           # all that reached the terminal
    over: str = ""          # which limit it was ended for

    def check(self, codes=(1, 2)):
        """Raise Fall where it was ended, showed a traceback, commanded the terminal, or ended with none of `codes`."""
        if self.over:
            raise Fall(self.over)
        text = self.output.decode("utf-8", errors="replace")
        if "Traceback" in text:
            where = re.findall(r'File "([^"]+)", line (\d+)', text)
            own = [f"{Path(path).name}:{line}" for path, line in where if Path(path).is_relative_to(_ROOT)]
            raise Fall(f"A traceback: {' '.join(text.split()[-14:])[-120:]} (at {own[-1] if own else where[-1:]})")
        if found := _COMMANDS_TO_TERMINAL.search(self.output):
            before = self.output[max(0, found.start() - 40):found.start()].decode("utf-8", errors="replace")
            raise Fall(f"{found[0]!r} reached the terminal, after {before!r}")
        if self.code not in codes:
            raise Fall(f"Exit code {self.code}, not one of {codes}: {text[-150:]!r}")
        if self.code and not text.strip():
            raise Fall("It failed without a word")


def on_terminal(command, typed=()):
    """Run a command on a terminal of its own until it ends or goes beyond a limit. -> Ended

    typed: what is typed, one after the other, whenever the command asks by "> ", on what is then a simple terminal
    """
    import pty
    ours, theirs = pty.openpty()
    child = subprocess.Popen(command, stdin=theirs if typed else subprocess.DEVNULL, stdout=theirs, stderr=theirs,
                             start_new_session=True, env=os.environ | {"TERM": "dumb" if typed else "xterm-256color"})
    os.close(theirs)
    output, over, began = bytearray(), "", time.monotonic()
    typed = list(typed)
    try:
        while not over:
            has_ended = child.poll() is not None
            if select([ours], [], [], 0 if has_ended else 0.05)[0]:
                with suppress(OSError):             # Linux: nobody has the other end open any more
                    if chunk := os.read(ours, 1 << 16):
                        output += chunk
                        if typed and output.endswith(b"> "):
                            os.write(ours, typed.pop(0))
                        continue
                if not has_ended:
                    time.sleep(0.01)
            if has_ended:
                break
            over = _over(child.pid, time.monotonic() - began)
    finally:
        end_session(child.pid)
        child.wait()
        os.close(ours)
    return Ended(child.returncode, bytes(output), over)


def _over(pid, seconds):
    """What limit a process is over, if any; where there is no /proc only the clock counts."""
    with suppress(OSError, IndexError):
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK") > PROCESSOR_SECONDS:
            return f"More than {PROCESSOR_SECONDS} seconds of a processor"
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        if peak and int(peak[1]) > 1000 * MEGABYTES:
            return f"More than {MEGABYTES} MB"
    return f"Still there after {PATIENCE} seconds" if seconds > PATIENCE else ""


def in_session(session):
    """The ids of the processes in a session that still run, by /proc; none where the system has none."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
            if int(sid) == session and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def end_session(session):
    """End all processes of a session that this program began."""
    for pid in in_session(session):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)
