"""The learning rate at every step: by default it rises, stays, and falls to zero (a trapezoid).

The constant part needs no knowledge of the end, so a run with a time limit can decide late when to start the decay
(Zhai et al., 2022; Hägele et al., 2024). Where the machine turns out faster or slower after that, the end is moved: the
rate continues from its current value and falls to zero at the new end. These decisions, all integers, are the only ones
that depend on time.
"""

import math
from bisect import bisect_right

from folio.data.batches import parts_of_a_sequence


class Schedule:
    """What depends on the step: learning rate, BPE-dropout, sequence length, and the total number of steps."""

    def __init__(self, training, progress):
        """training: TrainingParams, resolved; progress: the run's Progress, with the decisions that time has made."""
        self.training, self.progress = training, progress

    @property
    def total_steps(self):
        """Return the steps of the whole run by the latest decision, or None while time has not decided."""
        return self.progress.moved_ends[-1][1] if self.progress.moved_ends else self._first_total_steps

    @property
    def _first_total_steps(self):
        if self.training.steps:
            return self.training.steps
        if self.progress.decay_start is None:
            return None
        return total_steps_for(self.progress.decay_start, self.training.decay_fraction)

    def learning_rate(self, step):
        """Return the learning rate of a step."""
        return self.training.learning_rate * self._share_of_peak(step)

    def bpe_dropout(self, step):
        """Return the share of merges that is left out at a step.

        It falls with the learning rate, so the last steps learn from the text as it will be encoded. On tiny
        shakespeare that gives 1.445 nats per byte instead of 1.472, on the plays 1.635 instead of 1.644 (without any
        BPE-dropout 1.447 and 1.714).
        """
        return self.training.bpe_dropout * self._share_of_peak(step)

    def parts_per_sequence(self, step, block_size):
        """Return into how many parts sequences are cut at a step: several during the length warm-up, else 1."""
        decay_start = self.progress.decay_start
        if step < self.training.length_warmup and (decay_start is None or step < decay_start):
            return parts_of_a_sequence(block_size)
        return 1

    def _share_of_peak(self, step):
        return share_of_peak(self.training.schedule, step, warmup_steps=self.training.warmup_steps,
                             decay_start=self.progress.decay_start, total_steps=self._first_total_steps,
                             moved_ends=self.progress.moved_ends)


def share_of_peak(schedule, step, *, warmup_steps, decay_start, total_steps, moved_ends=()):
    """Return the share of the peak learning rate at a step (the first is 0), by the schedule's name.

    total_steps: as planned when the decay started; moved_ends: (step, total_steps from then on) of each later decision.
    >>> [share_of_peak("linear", step, warmup_steps=10, decay_start=None, total_steps=110) for step in (4, 10, 60)]
    [0.5, 1.0, 0.5]
    """
    rising = min(1.0, (step + 1) / max(1, warmup_steps))                # + 1: a first step at zero would be wasted
    return min(rising, SCHEDULES[schedule](step, warmup_steps=warmup_steps, decay_start=decay_start,
                                           total_steps=total_steps, moved_ends=moved_ends))


def trapezoid(step, *, decay_start, total_steps, moved_ends, **_):
    """Stay, then fall linearly, with a bend where the end was moved. decay_start: None while it is not decided"""
    if decay_start is None or step < decay_start:
        return 1.0
    share, begin, end = 1.0, decay_start, total_steps
    for moved_at, moved_to in moved_ends:
        if moved_at > step:
            break
        share, begin, end = share * (end - moved_at) / (end - begin), moved_at, moved_to
    return share * (end - step) / max(1, end - begin)           # the step after the last would be the one at zero


def linear(step, *, warmup_steps, total_steps, **_):
    """Fall linearly from the end of the warm-up."""
    return (total_steps - step) / max(1, total_steps - warmup_steps)


def cosine(step, *, warmup_steps, total_steps, **_):
    """Fall along half a cosine from the end of the warm-up (Loshchilov and Hutter, 2017)."""
    progress = max(0.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 0.5 * (1 + math.cos(math.pi * progress))


def constant(step, **_):
    """Stay to the end."""
    return 1.0


SCHEDULES = {"trapezoid": trapezoid, "cosine": cosine, "linear": linear, "constant": constant}


def decay_start_for(total_steps, decay_fraction):
    """Return the step at which the decay starts in a run of total_steps.

    >>> decay_start_for(1000, 0.4)
    600
    """
    return total_steps - round(total_steps * decay_fraction)


def total_steps_for(decay_start, decay_fraction):
    """Return the total steps of a run whose decay starts at a step; at least one more than that.

    >>> total_steps_for(600, 0.4)
    1000
    """
    return max(decay_start + 1, round(decay_start / (1 - decay_fraction)))


def seconds_needed(steps_done, end, *, seconds_per_step, eval_interval, seconds_per_evaluation):
    """Return the time from now to a run's end with its evaluations; that of the last step is still to come."""
    evaluations = (end - 1) // eval_interval - (steps_done - 1) // eval_interval + 1
    return (end - steps_done) * seconds_per_step + evaluations * seconds_per_evaluation


def time_to_decay(steps_done, *, decay_fraction, seconds_left, **costs):
    """Return whether a decay that starts now takes all the time that is left. costs: as in `seconds_needed`"""
    return seconds_needed(steps_done, total_steps_for(steps_done, decay_fraction), **costs) >= seconds_left


def end_in_time(steps_done, *, seconds_left, seconds_per_step, **costs):
    """Return the last step at which a run can end in the time that is left, at least steps_done.

    costs: as in `seconds_needed`
    >>> end_in_time(60, seconds_left=45, seconds_per_step=1, eval_interval=100, seconds_per_evaluation=5)
    100
    """
    def seconds_to(end):
        return seconds_needed(steps_done, end, seconds_per_step=seconds_per_step, **costs)
    ends = range(steps_done + 1, steps_done + 1 + int(max(0, seconds_left) / seconds_per_step))
    return steps_done + bisect_right(ends, seconds_left, key=seconds_to)
