"""Threads that wait sleep after a moment: bounded before torch and numpy load, in every way in, unless the user has
said otherwise.
"""

import os
import sys

import pytest

from conftest import ROOT, run_python
from folio import SPIN_BEFORE_SLEEP

WISHES = {*SPIN_BEFORE_SLEEP, "OMP_WAIT_POLICY"}
SHOW = "import os, folio; print([os.environ.get(name) for name in folio.SPIN_BEFORE_SLEEP])"


def environment(**wishes):
    """This process's environment with nothing said about waiting but what the test says."""
    return {name: value for name, value in os.environ.items() if name not in WISHES} | wishes


@pytest.mark.parametrize("wishes, expected", [
    ({}, [*SPIN_BEFORE_SLEEP.values()]),
    ({"GOMP_SPINCOUNT": "7"}, ["7", *[*SPIN_BEFORE_SLEEP.values()][1:]]),
    ({"OMP_WAIT_POLICY": "active"}, [None] * len(SPIN_BEFORE_SLEEP)),
])
def test_waiting_is_bounded_unless_the_user_has_said_how(wishes, expected):
    assert run_python("-c", SHOW, env=environment(**wishes)).stdout.strip() == str(expected)


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP, which shows what it goes by")
@pytest.mark.parametrize("words", [
    [ROOT / "run.py", "--weights", "nobody", "x"], [ROOT / "train.py", "--start-from", "nobody"],
    ["-m", "folio.evaluate", "--weights", "nobody"],
    ["-c", "from folio import load; load('nobody')"],
], ids=["run.py", "train.py", "-m folio.evaluate", "folio.load"])
def test_the_runtime_has_the_bound_when_it_is_loaded(words):
    shown = run_python(*words, env=environment(OMP_DISPLAY_ENV="VERBOSE")).stderr
    assert f"GOMP_SPINCOUNT = '{SPIN_BEFORE_SLEEP['GOMP_SPINCOUNT']}'" in shown, shown
