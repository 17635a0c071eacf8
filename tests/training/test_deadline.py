"""Runs with a time limit: they end on time, and time decides nothing but the decay and the end."""


import re
import time
from dataclasses import replace

import pytest

from folio.formats import checkpoint, run_log
from folio.training import deadline, report, summary
from training_runs import FLAGS, Killed, by_the_clock, events, make_run, project, same_weights, train_here  # noqa: F401


@pytest.mark.parametrize("seconds_per_step", [0.2, 1.0])
@pytest.mark.parametrize("evaluation", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("decay_fraction", [0.0, 0.4, 0.6])
def test_a_run_takes_its_minutes_to_a_twentieth_everything_included(
    make_run, seconds_per_step, evaluation, decay_fraction
):
    run, clock = by_the_clock(
        make_run, "timed", seconds_per_step, evaluation, learns=False, decay_fraction=decay_fraction
    )
    assert run.train() is None
    assert 0.95 * 120 <= clock.now <= 1.05 * 120
    assert run.done and run.progress.finished
    assert run_log.read(run.reporter.log.path)[-1]["seconds"] == pytest.approx(clock.now, abs=0.01)
    assert "val_bpb" in run_log.read(run.reporter.log.path)[-1]


def changing(times, at):
    """Steps of 0.2 s, which from a share of two minutes on take `times` as long."""
    return lambda now, step: 0.2 * (times if now >= at * 120 else 1)


def slow_first(now, step):
    return 5.0 if step == 0 else 0.2


def stalling(at):
    """Steps of 0.2 s, but one after a share of two minutes takes five more."""
    stalled = []

    def seconds(now, step):
        stall = now >= at * 120 and not stalled
        stalled.extend([now] * stall)
        return 0.2 + 5.0 * stall
    return seconds


def in_bursts(now, step):
    """Steps of 0.2 s beside another program that comes and goes: three seconds in ten they take four times as long."""
    return 0.8 if now % 10 < 3 else 0.2


@pytest.mark.parametrize(
    "seconds_per_step",
    [
        *(
            pytest.param(changing(times, at), id=f"x{times} at {at}")
            for times in (0.5, 2, 4)
            for at in (0.3, 0.6, 0.65, 0.9)
        ),
        pytest.param(slow_first, id="slow first step"),
        *(pytest.param(stalling(at), id=f"stall at {at}") for at in (0.1, 0.58, 0.7, 0.95)),
        pytest.param(in_bursts, id="bursts"),
    ],
)
def test_a_run_ends_on_time_however_the_speed_of_the_machine_changes(make_run, seconds_per_step):
    run, clock = by_the_clock(make_run, "timed", seconds_per_step, learns=False, eval_interval=100)
    run.train()
    assert 0.95 * 120 <= clock.now <= 1.05 * 120
    assert run.done and run.progress.finished and len(run.progress.moved_ends) <= 8
    rates = [line["learning_rate"] for line in run_log.read(run.reporter.log.path)]
    assert rates[-1] < 0.1 * max(rates)             # the descent reached its end


@pytest.mark.parametrize("minutes, seconds_per_step, started", [(0.09, 0.1, 3.0), (0.09, 0.02, 2.5), (0.155, 0.2, 4.0)])
def test_a_slow_first_step_does_not_start_the_decay_of_a_run_of_seconds(
    make_run, minutes, seconds_per_step, started
):
    run, clock = by_the_clock(
        make_run,
        "short",
        lambda now, step: 6 * seconds_per_step if step == 0 else seconds_per_step,
        learns=False,
        minutes=minutes,
        eval_interval=1000,
    )
    run.stopwatch.started_at = 10.0 - started
    run.train()
    took, closing = clock.now - run.stopwatch.started_at, deadline.CLOSING_SECONDS
    assert 0.9 * 60 * minutes <= took + closing <= 1.05 * 60 * minutes
    most = (60 * minutes - started - closing - 5 * seconds_per_step) / seconds_per_step
    evaluation = report.evaluation_steps(run.corpus.val_tokens, run.tokens_per_step)
    assert most - 2 * evaluation - 3 <= run.progress.step <= most


def test_a_decay_that_started_at_the_lowest_speed_lasts_until_the_time_limit(make_run):
    run, clock = by_the_clock(
        make_run, "timed", lambda now, step: 1.6 if now < 80 else 0.2, learns=False, eval_interval=1000
    )
    run.train()
    assert run.progress.decay_start < 60 and run.progress.moved_ends
    assert 0.95 * 120 <= clock.now <= 1.05 * 120


def test_the_cost_of_evaluations_is_estimated_from_one_batch(make_run):
    run, clock = by_the_clock(make_run, "timed", 0.2, evaluation=8.0, learns=False, eval_interval=1000)
    run.train()
    assert 0.95 * 120 <= clock.now <= 1.05 * 120 and len(run.progress.moved_ends) <= 1


def test_the_log_has_every_decision_with_its_step(make_run):
    run, _ = by_the_clock(make_run, "timed", changing(2, 0.65), learns=False)
    run.train()
    decided = [line for line in run_log.read(run.reporter.log.path) if "total_steps" in line]
    assert [[line["step"], line["total_steps"]] for line in decided[1:]] == run.progress.moved_ends != []
    assert (
        decided[0]["decay_start"]
        == decided[0]["step"]
        == run.progress.decay_start
        < run.progress.step
        < decided[0]["total_steps"]
    )
    assert decided[-1]["total_steps"] == run.progress.step
    for line in run_log.read(run.reporter.log.path):
        assert line["learning_rate"] == pytest.approx(run.schedule.learning_rate(line["step"] - 1))


def replayed(make_run, run):
    """A run without a clock that makes the steps of another one, of whose decisions it knows."""
    again = make_run(f"{run.name}-replayed", steps=None, minutes=2.0, eval_interval=1000)
    again.progress.decay_start, again.progress.moved_ends = run.progress.decay_start, run.progress.moved_ends
    while not again.done:
        again.step()
    return again


def test_time_decides_the_start_and_the_end_of_the_decay_and_nothing_else(project, make_run):
    run, _ = by_the_clock(make_run, "timed", lambda now, step: 2.0 if now > 80 else 1.0)
    run.train()
    assert run.progress.moved_ends
    assert same_weights(run.net.state_dict(), replayed(make_run, run).net.state_dict())


def test_a_run_by_the_clock_equals_the_run_of_as_many_steps(project, make_run):
    run, _ = by_the_clock(make_run, "timed")
    run.train()
    decided = [line for line in run_log.read(run.reporter.log.path) if "decay_start" in line]
    assert [line["decay_start"] for line in decided] == [run.progress.decay_start] == [decided[0]["step"]]
    assert run.progress.moved_ends == []
    by_steps = make_run("by-steps", steps=run.progress.step, eval_interval=30)
    assert by_steps.progress.decay_start == run.progress.decay_start
    by_steps.train()
    assert same_weights(run.net.state_dict(), by_steps.net.state_dict())


@pytest.mark.parametrize("killed_after", [0, 1, 20])
def test_a_run_resumed_after_the_decision_repeats_it(project, make_run, killed_after):
    whole, _ = by_the_clock(make_run, "whole")
    whole.train()

    run, _ = by_the_clock(make_run, "killed")
    step = run.step

    def killed():
        if run.progress.decay_start is not None and run.progress.step >= run.progress.decay_start + killed_after:
            raise Killed
        return step()
    run.step = killed
    with pytest.raises(Killed):
        run.train()
    contents = checkpoint.load(project.resume("killed"))
    assert contents["progress"]["decay_start"] == whole.progress.decay_start            # on the disk before it is used

    again, _ = by_the_clock(make_run, "killed")
    again.restore(contents)
    again.train()
    assert (again.progress.decay_start, again.progress.step) == (whole.progress.decay_start, whole.progress.step)
    assert same_weights(again.net.state_dict(), whole.net.state_dict())


def test_a_run_resumed_during_its_decay_on_a_slower_machine_ends_on_time(project, make_run):
    half, _ = by_the_clock(make_run, "slower", 0.2, learns=False, eval_interval=1000)
    step = half.step

    def killed():
        if half.progress.decay_start is not None and half.progress.step >= half.progress.decay_start:
            raise Killed
        return step()
    half.step = killed
    with pytest.raises(Killed):
        half.train()
    again, clock = by_the_clock(make_run, "slower", 0.8, learns=False, eval_interval=1000)
    again.restore(checkpoint.load(project.resume("slower")))
    again.train()
    # Ten seconds were lost with the process.
    assert 0.95 * 120 <= again.stopwatch.seconds - 10 <= 1.05 * 120
    assert again.progress.moved_ends


def test_a_run_killed_around_any_decision_repeats_the_decisions_that_were_saved(
    project, make_run, monkeypatch
):
    options = dict(seconds_per_step=lambda now, step: 2.0 if now > 42 else 1.0, minutes=1.0, eval_interval=1000)
    with monkeypatch.context() as patched:
        happened = events(patched, die_at=None)
        whole, _ = by_the_clock(make_run, "whole", **options)
        whole.train()
    decided = {whole.progress.decay_start, *(step for step, _ in whole.progress.moved_ends)}
    assert len(decided) >= 2
    steps, around = 0, set()
    for number, name in enumerate(happened, 1):
        steps += name == "step"
        around |= {number} if steps in decided or steps - 1 in decided else set()
    for die_at in sorted(around):
        name = f"killed-{die_at}"
        with monkeypatch.context() as patched, pytest.raises(Killed):
            events(patched, die_at)
            by_the_clock(make_run, name, **options)[0].train()
        if not project.resume(name).exists():               # before the first decision nothing is saved: it begins anew
            continue
        contents = checkpoint.load(project.resume(name))
        again, _ = by_the_clock(make_run, name, **options)
        again.restore(contents)
        again.train()
        saved = contents["progress"]
        assert again.progress.decay_start == saved["decay_start"] == whole.progress.decay_start
        assert again.progress.moved_ends[:len(saved["moved_ends"])] == saved["moved_ends"]
        assert same_weights(again.net.state_dict(), replayed(make_run, again).net.state_dict()), die_at


def test_an_older_resume_file_without_moved_ends_can_be_resumed(project, make_run):
    run, clock = by_the_clock(make_run, "old")
    clock.now = 80.0
    run.progress.decay_start = 40
    run.progress.step = 50
    run.progress.training_seconds = 50.0
    run.save_resume()
    contents = checkpoint.load(project.resume("old"))
    for name in ("moved_ends", "evaluation_steps", "recent_bytes", "recent_tokens"):
        del contents["progress"][name]
    contents["progress"]["evaluation_seconds"] = 2.5
    again, _ = by_the_clock(make_run, "old")
    again.restore(contents)
    again.train()
    assert again.progress.step == again.schedule.total_steps == 67 and again.progress.moved_ends == []


def test_the_decision_reaches_the_log_even_if_the_run_is_killed_before_it_is_written(project, make_run, monkeypatch):
    run, _ = by_the_clock(make_run, "killed")
    report = run._report

    def killed(evaluates, decided):
        if decided:
            raise Killed
        report(evaluates, decided)
    run._report = killed
    with pytest.raises(Killed):
        run.train()
    again, _ = by_the_clock(make_run, "killed")
    again.restore(checkpoint.load(project.resume("killed")))
    again.train()
    assert [line["decay_start"] for line in run_log.read(project.log("killed")) if "decay_start" in line] == [
        again.progress.decay_start
    ]


@pytest.mark.parametrize(
    "share, seconds_per_step, minutes, said",
    [
        (
            0.4,
            1.0,
            2.0,
            "another program was probably using the machine, for this one had 40% of the processor time of its "
            "1 thread.",
        ),
        (0.95, 1.0, 2.0, "the estimate was for a faster machine than this one."),
        (0.4, 0.001, 0.15, None),
    ],
)
def test_a_run_with_far_fewer_steps_than_planned_prints_the_likely_cause(
    make_run, monkeypatch, share, seconds_per_step, minutes, said
):
    run, clock = by_the_clock(make_run, "timed", seconds_per_step, learns=False, minutes=minutes)
    run.stopwatch.started_at = clock.now - 1
    monkeypatch.setattr(time, "process_time", lambda: share * clock.now)
    run.train()
    planned = summary.expected(run).steps
    found = summary.shortfall(run)
    if said is None:
        assert run.progress.step >= 0.6 * planned and found is None
    else:
        assert found.startswith(f"This run made {run.progress.step} steps of about {planned:,} planned: {said}")
        assert "\n" not in found


def test_a_run_of_steps_has_no_plan_to_fall_short_of(make_run):
    run = make_run(steps=3)
    run.train()
    assert summary.shortfall(run) is None


def test_train_prints_at_its_end_that_it_made_fewer_steps_than_planned(project, monkeypatch, capsys):
    monkeypatch.setattr(summary, "expected", lambda run: replace(expected(run), steps=10**6))
    code, out = train_here(project, monkeypatch, capsys, *FLAGS[:8], "--minutes", 0.05, "--threads", 1)
    assert not code
    made, = re.findall(r"^This run made (\d+) steps? of about 1,000,000 planned: .+$", out, re.MULTILINE)
    assert out.index("This run made") < out.index("Done. The best weights") and int(made) >= 1


expected = summary.expected


def test_the_seconds_of_all_processes_of_a_run_count(project, make_run):
    first, clock = by_the_clock(make_run, "sittings")
    for _ in range(30):
        first.step()
    first.progress.training_seconds = 30.0
    first.save_resume()
    assert checkpoint.load(project.resume("sittings"))["progress"]["seconds"] == clock.now == 40.0
    second, clock = by_the_clock(make_run, "sittings")
    second.restore(checkpoint.load(project.resume("sittings")))
    assert second.stopwatch.seconds == 50.0                               # and ten seconds to start again
    second.train()
    assert 119 <= second.stopwatch.seconds <= 123
    assert run_log.read(second.reporter.log.path)[-1]["seconds"] == pytest.approx(second.stopwatch.seconds, abs=0.01)
