"""Learning rate schedules, and the step at which the decay begins."""


import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from folio.training.schedules import (
    SCHEDULES,
    decay_start_for,
    end_in_time,
    seconds_needed,
    share_of_peak,
    time_to_decay,
    total_steps_for,
)


def rates(total_steps, warmup_steps, decay_fraction, schedule="trapezoid"):
    decay_start = decay_start_for(total_steps, decay_fraction)
    return [share_of_peak(schedule, step, warmup_steps=warmup_steps, decay_start=decay_start, total_steps=total_steps)
            for step in range(total_steps)]


def test_the_rate_rises_stays_and_falls():
    found = rates(100, 10, 0.4)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[9:61] == [1.0] * 52            # from the last step of the rise to the first of the descent
    assert found[61:] == pytest.approx([(100 - step) / 40 for step in range(61, 100)])
    assert found[99] == pytest.approx(1 / 40)   # the last step still moves; the one after it would be at zero


def test_without_a_warmup_the_first_step_is_at_the_top():
    assert rates(10, 0, 0.0) == [1.0] * 10
    assert rates(10, 1, 0.0) == [1.0] * 10


def test_an_undecided_descent_has_not_begun():
    assert share_of_peak("trapezoid", 10**9, warmup_steps=10, decay_start=None, total_steps=None) == 1.0
    assert share_of_peak("trapezoid", 4, warmup_steps=10, decay_start=None, total_steps=None) == 0.5


def test_the_other_schedules_fall_from_the_end_of_the_warmup_or_not_at_all():
    assert rates(110, 10, 0.4, "constant")[9:] == [1.0] * 101
    assert rates(110, 10, 0.4, "linear")[10:] == pytest.approx([1 - step / 100 for step in range(100)])
    cosine = rates(110, 10, 0.4, "cosine")
    assert cosine[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert [cosine[step] for step in (10, 35, 60, 85)] == pytest.approx([1, 0.5 + 0.5 ** 1.5, 0.5, 0.5 - 0.5 ** 1.5])
    assert 0 < cosine[-1] < 0.001


@given(st.integers(1, 300), st.integers(0, 300), st.floats(0, 0.9), st.sampled_from(sorted(SCHEDULES)))
def test_every_step_of_every_run_has_a_rate_above_zero_that_rises_and_then_falls(
        total_steps, warmup_steps, decay_fraction, schedule):
    found = rates(total_steps, warmup_steps, decay_fraction, schedule)
    assert min(found) > 0 and max(found) <= 1
    top = found.index(max(found))
    assert found[:top] == sorted(found[:top]) and found[top:] == sorted(found[top:], reverse=True)


@given(st.integers(0, 10**7), st.floats(0, 0.9))
def test_where_a_run_ends_and_where_its_descent_begins_are_inverse(decay_start, decay_fraction):
    total_steps = total_steps_for(decay_start, decay_fraction)
    assert total_steps > decay_start
    if total_steps > decay_start + 1 or decay_fraction == 0:
        assert decay_start_for(total_steps, decay_fraction) in (decay_start, decay_start + (decay_fraction == 0))
    assert abs(total_steps_for(decay_start_for(total_steps, decay_fraction), decay_fraction) - total_steps) <= 1


def test_the_worked_examples_of_the_schedule():
    assert decay_start_for(1000, 0.4) == 600 and total_steps_for(600, 0.4) == 1000
    assert decay_start_for(7, 0.0) == 7 and total_steps_for(7, 0.0) == 8 and total_steps_for(0, 0.5) == 1


@pytest.mark.parametrize("seconds_left, decided", [(41, False), (40, True), (39, True), (0, True), (-5, True)])
def test_the_descent_begins_when_it_takes_just_the_time_that_is_left(seconds_left, decided):
    # After 60 steps with decay_fraction 0.4 the descent takes 40 steps more.
    assert time_to_decay(60, decay_fraction=0.4, seconds_left=seconds_left, seconds_per_step=1.0, eval_interval=20,
                         seconds_per_evaluation=0.0) == decided


@pytest.mark.parametrize("eval_interval, evaluations", [
    (1000, 1), (100, 1), (50, 1), (40, 2), (30, 3), (10, 5), (7, 7)])
def test_the_descent_leaves_time_for_its_evaluations_and_the_last_one(eval_interval, evaluations):
    # After 60 steps it ends at 100: the multiples of the interval from 60, which is still to come, to 99, and one at
    # the end.
    costs = dict(decay_fraction=0.4, seconds_per_step=1.0, eval_interval=eval_interval, seconds_per_evaluation=3.0)
    assert time_to_decay(60, seconds_left=40 + 3 * evaluations, **costs)
    assert not time_to_decay(60, seconds_left=40 + 3 * evaluations + 1, **costs)


@given(st.integers(1, 500), st.floats(-10, 500), st.floats(0.1, 10), st.integers(1, 200), st.floats(0, 20))
def test_a_run_that_ends_in_time_could_not_make_one_more_step(
        step, seconds_left, seconds_per_step, eval_interval, seconds_per_evaluation):
    costs = dict(seconds_per_step=seconds_per_step, eval_interval=eval_interval,
                 seconds_per_evaluation=seconds_per_evaluation)
    end = end_in_time(step, seconds_left=seconds_left, **costs)
    assert end == step or end > step and seconds_needed(step, end, **costs) <= seconds_left
    assert seconds_needed(step, end + 1, **costs) > seconds_left


@given(st.integers(1, 100), st.lists(st.tuples(st.integers(0, 30), st.integers(1, 60)), max_size=5))
def test_the_rate_falls_without_a_jump_to_zero_wherever_the_end_is_moved(decay_start, moves):
    end, moved_ends = decay_start + 40, []
    for later, longer in moves:
        at = min((moved_ends[-1][0] if moved_ends else decay_start) + later, end - 1)
        moved_ends.append([at, at + longer])
        end = at + longer
    planned = dict(warmup_steps=0, decay_start=decay_start, total_steps=decay_start + 40)
    for number in range(len(moved_ends) + 1):               # as it was known after each decision
        known = moved_ends[:number]
        last = known[-1][1] if known else decay_start + 40
        rate = [share_of_peak("trapezoid", step, moved_ends=known, **planned) for step in range(decay_start, last + 1)]
        assert rate[0] == 1 and rate[-1] == 0 and all(one > other for one, other in zip(rate, rate[1:]))
        if number:              # nothing of the past has changed, nor the step at which it was decided
            before = [share_of_peak("trapezoid", step, moved_ends=moved_ends[:number - 1], **planned)
                      for step in range(decay_start, known[-1][0] + 1)]
            assert rate[:len(before)] == pytest.approx(before, rel=1e-12)


def test_a_moved_end_bends_the_line():
    planned = dict(warmup_steps=0, decay_start=60, total_steps=100, moved_ends=[[80, 160], [120, 130]])
    shares = [share_of_peak("trapezoid", step, **planned) for step in (59, 60, 70, 80, 120, 125, 130)]
    assert shares == [1, 1, 0.75, 0.5, 0.25, 0.125, 0]


@given(st.floats(0.01, 10), st.floats(0, 0.9), st.floats(20, 2000))
def test_a_run_with_steady_steps_ends_at_about_its_time(seconds_per_step, decay_fraction, seconds):
    assume(seconds > 50 * seconds_per_step and seconds < 3000 * seconds_per_step)
    step = 1
    costs = dict(decay_fraction=decay_fraction, seconds_per_step=seconds_per_step, eval_interval=10**6,
                 seconds_per_evaluation=0.0)
    while not time_to_decay(step, seconds_left=seconds - step * seconds_per_step, **costs):
        step += 1
    ended = total_steps_for(step, decay_fraction) * seconds_per_step
    # 1 / (1 - 0.9) steps a decision, and one
    assert seconds - seconds_per_step <= ended <= seconds + 11 * seconds_per_step
