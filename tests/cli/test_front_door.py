"""What ends a script: one message for what a user can cause, a traceback with a request for all else."""

import errno

import pytest

from conftest import refusal, run_python

PROGRAM = """
from folio.cli.command_line import front_door
from folio.base.errors import FolioError
def main():
    raise {error}
front_door(main)
"""


@pytest.mark.parametrize("error, said", [
    ("FolioError('what to do')", "what to do\n"),
    ("FileNotFoundError('what to do')", "what to do\n"),
    ("FolioError('\\x1b[2J')", "\\x1b[2J\n"),
    ("BrokenPipeError('a pipe that is not stdout')", "a pipe that is not stdout\n"),
    ("MemoryError()", "There is not enough memory for this. Try a smaller --block-size or --emb-len.\n"),
    ("RuntimeError('[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate memory')",
     "There is not enough memory for this. Try a smaller --block-size or --emb-len.\n"),
])
def test_what_a_user_can_cause_is_one_message(error, said):
    assert refusal(run_python("-c", PROGRAM.format(error=error))) == said


@pytest.mark.parametrize("error",
                         ["ValueError('a fault')", "KeyError('a fault')", "RuntimeError('a fault')",
                          "AssertionError('a fault')",
                          "Exception('a fault \\x1b[2J')", "ValueError('it cannot allocate memory: a fault')"])
def test_a_bug_shows_its_traceback_and_asks_for_a_report(error):
    done = run_python("-c", PROGRAM.format(error=error))
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, lines[0]) == (1, "", "Traceback (most recent call last):")
    assert "a fault" in lines[-2] and "\x1b" not in done.stderr
    assert lines[-1].startswith("This is a bug in Folio, not in what you did. Please report it with the command, "
                                "all lines from Traceback on, and: Python 3.")
    assert ", torch 2." in lines[-1]


def test_what_ends_well_ends_with_its_own_code():
    for value, code in (("None", 0), ("3", 3)):
        done = run_python("-c", f"from folio.cli.command_line import front_door\nfront_door(lambda: {value})")
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("number, code, said", [
    (errno.EPIPE, 0, ""), (errno.EINVAL, 0, ""),            # EINVAL: as Windows has it
    (errno.EIO, 1, "gone"), (errno.ENOSPC, 1, "gone"),      # a disk
])
def test_who_leaves_stdout_unread_ends_the_script_without_an_error(number, code, said):
    program = f"""
import sys
from folio.cli.command_line import front_door
class Left:
    def write(self, text):
        raise OSError({number}, 'gone')
    def __getattr__(self, name):
        return getattr(sys.__stdout__, name)
def main():
    sys.stdout.stream = Left()
    print('to nobody')
    return 3
front_door(main)
"""
    done = run_python("-c", program)
    assert (done.returncode, done.stdout) == (code, "") and said in done.stderr and bool(said) == bool(done.stderr)
