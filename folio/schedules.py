"""The learning rate at every step: by default it rises, stays, and falls to zero (a trapezoid).

Staying at the top needs no knowledge of the end, so that a run with a time limit may decide late when to begin its descent
(Zhai et al., 2022; Hägele et al., 2024). That decision, one integer, is all that time ever decides.
"""

import math


def share_of_peak(schedule, step, *, warmup_steps, decay_start, total_steps):
    """The share of the peak learning rate at a step (the first is 0), by the schedule's name.
    >>> [share_of_peak("linear", step, warmup_steps=10, decay_start=None, total_steps=110) for step in (4, 10, 60)]
    [0.5, 1.0, 0.5]
    """
    rising = min(1.0, (step + 1) / max(1, warmup_steps))                # + 1: a first step at zero would be wasted
    return min(rising, SCHEDULES[schedule](step, warmup_steps=warmup_steps, decay_start=decay_start, total_steps=total_steps))


def trapezoid(step, *, warmup_steps, decay_start, total_steps):
    """Stay, and fall in a line. `decay_start` None: the descent is not decided yet."""
    if decay_start is None or step < decay_start:
        return 1.0
    return (total_steps - step) / (total_steps - decay_start)           # the step after the last would be the one at zero


def linear(step, *, warmup_steps, decay_start, total_steps):
    """Fall in a line, from the end of the warm-up."""
    return (total_steps - step) / max(1, total_steps - warmup_steps)


def cosine(step, *, warmup_steps, decay_start, total_steps):
    """Fall along half a cosine, from the end of the warm-up (Loshchilov and Hutter, 2017)."""
    progress = max(0.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 0.5 * (1 + math.cos(math.pi * progress))


def constant(step, *, warmup_steps, decay_start, total_steps):
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


def time_to_decay(steps_done, *, decay_fraction, seconds_left, seconds_per_step, eval_interval, seconds_per_evaluation):
    """Whether a descent that begins now takes all the time that is left, with its evaluations; the one at its end comes in any case."""
    end = total_steps_for(steps_done, decay_fraction)
    evaluations = (end - 1) // eval_interval - steps_done // eval_interval + 1
    return (end - steps_done) * seconds_per_step + evaluations * seconds_per_evaluation >= seconds_left
