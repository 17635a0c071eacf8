"""How long a step takes at present: stalls do not count, a machine that has become another one does."""

import pytest

from folio.training.pace import MIN_BLOCKS, Pace


def pace_after(*seconds, run_seconds=100.0):
    pace = Pace(run_seconds)
    for each in seconds:
        pace.add(each)
    return pace.seconds_per_step


def test_a_slow_first_step_counts_only_as_long_as_it_is_alone():
    assert pace_after(0.0) == pace_after(0.0, 0.0) > 0
    assert pace_after(7.0) == 7.0
    assert pace_after(7.0, 0.5) == pace_after(7.0, 0.5, 0.5) == 0.5


def test_the_pace_is_the_mean_of_recent_steps():
    assert pace_after(9, *[1.0, 2.0] * 3) == pytest.approx(1.5)
    assert pace_after(9, *[0.01, 0.03] * 1000) == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("usual", [0.01, 0.1, 1.0])
def test_one_stall_is_not_the_pace(usual):
    steps = [usual] * int(20 / usual)
    assert usual <= pace_after(9, *steps, 5.0) <= 1.35 * usual
    assert usual <= pace_after(9, *steps, 5.0, *steps[:MIN_BLOCKS]) <= 1.5 * usual


@pytest.mark.parametrize("usual", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("times", [0.25, 0.5, 2, 4])
def test_a_new_speed_is_known_after_a_tenth_of_the_time(usual, times):
    now = usual * times
    assert pace_after(9, *[usual] * int(40 / usual), *[now] * int(max(12 / now, MIN_BLOCKS + 1))) == pytest.approx(
        now, rel=0.01
    )


def test_long_runs_of_short_steps_keep_few_numbers():
    pace = Pace(10.0)
    for _ in range(20_000):
        pace.add(0.0001)
    assert len(pace._blocks) <= 22 and pace.steps == 20_000
