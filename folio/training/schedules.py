"""The learning rate at every step: by default it rises, stays, and falls to zero (a trapezoid).

Staying at the top needs no knowledge of the end, so that a run with a time limit may decide late when to begin its descent
(Zhai et al., 2022; Hägele et al., 2024). Where the machine turns out faster or slower after that, the end is moved: the
rate goes on from where it is and falls to zero at the new end. These decisions, all integers, are all that time ever
decides.
"""

import math
from bisect import bisect_right


def share_of_peak(schedule, step, *, warmup_steps, decay_start, total_steps, moved_ends=()):
    """The share of the peak learning rate at a step (the first is 0), by the schedule's name.

    total_steps: as planned when the descent began; moved_ends: (step, total_steps from then on) of each later decision.
    >>> [share_of_peak("linear", step, warmup_steps=10, decay_start=None, total_steps=110) for step in (4, 10, 60)]
    [0.5, 1.0, 0.5]
    """
    rising = min(1.0, (step + 1) / max(1, warmup_steps))                # + 1: a first step at zero would be wasted
    return min(rising, SCHEDULES[schedule](step, warmup_steps=warmup_steps, decay_start=decay_start,
                                           total_steps=total_steps, moved_ends=moved_ends))


def trapezoid(step, *, decay_start, total_steps, moved_ends, **_):
    """Stay, and fall in a line, with a bend where the end was moved. `decay_start` None: the descent is not decided."""
    if decay_start is None or step < decay_start:
        return 1.0
    share, begin, end = 1.0, decay_start, total_steps
    for moved_at, moved_to in moved_ends:
        if moved_at > step:
            break
        share, begin, end = share * (end - moved_at) / (end - begin), moved_at, moved_to
    return share * (end - step) / max(1, end - begin)           # the step after the last would be the one at zero


def linear(step, *, warmup_steps, total_steps, **_):
    """Fall in a line, from the end of the warm-up."""
    return (total_steps - step) / max(1, total_steps - warmup_steps)


def cosine(step, *, warmup_steps, total_steps, **_):
    """Fall along half a cosine, from the end of the warm-up (Loshchilov and Hutter, 2017)."""
    progress = max(0.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 0.5 * (1 + math.cos(math.pi * progress))


def constant(step, **_):
    """Stay to the end."""
    return 1.0


SCHEDULES = {"trapezoid": trapezoid, "cosine": cosine, "linear": linear, "constant": constant}


def decay_start_for(total_steps, decay_fraction):
    """Where the descent begins in a run of so many steps.
    >>> decay_start_for(1000, 0.4)
    600
    """
    return total_steps - round(total_steps * decay_fraction)


def total_steps_for(decay_start, decay_fraction):
    """Where a run ends whose descent begins here; never before the step after it.
    >>> total_steps_for(600, 0.4)
    1000
    """
    return max(decay_start + 1, round(decay_start / (1 - decay_fraction)))


def seconds_needed(steps_done, end, *, seconds_per_step, eval_interval, seconds_per_evaluation):
    """Return the time from now to a run's end with its evaluations; that of the step just made is still to come."""
    evaluations = (end - 1) // eval_interval - (steps_done - 1) // eval_interval + 1
    return (end - steps_done) * seconds_per_step + evaluations * seconds_per_evaluation


def time_to_decay(steps_done, *, decay_fraction, seconds_left, **costs):
    """Return whether a descent that begins now takes all the time that is left. costs: as in `seconds_needed`"""
    return seconds_needed(steps_done, total_steps_for(steps_done, decay_fraction), **costs) >= seconds_left


def end_in_time(steps_done, *, seconds_left, seconds_per_step, **costs):
    """Return the last step at which a run can end in the time that is left, or the one just made.

    costs: as in `seconds_needed`
    >>> end_in_time(60, seconds_left=45, seconds_per_step=1, eval_interval=100, seconds_per_evaluation=5)
    100
    """
    def seconds_to(end):
        return seconds_needed(steps_done, end, seconds_per_step=seconds_per_step, **costs)
    ends = range(steps_done + 1, steps_done + 1 + int(max(0, seconds_left) / seconds_per_step))
    return steps_done + bisect_right(ends, seconds_left, key=seconds_to)
