"""When a run with a time limit ends: it starts its learning rate decay when that takes just the time that is left.

Decisions are in the log and in the resume file before the next step uses them, so a resumed run repeats them.
"""

from statistics import median

from folio.training import distributed
from folio.training.pace import Pace
from folio.training.schedules import end_in_time, seconds_needed, time_to_decay

CLOSING_SECONDS = 0.8           # the last sample, saving, and leaving Python, as measured on the machine of development
MIN_STEPS = 3                   # of a process before it decides: the first is slow, and a single other one says little
TOLERANCE = 0.02                # of the time limit: an end expected to be off by more than this is moved
# Of the time left, or of the steps left: for so long an end that was moved is not moved again, as every move is saved
# at once.
REST = 0.25


class Deadline:
    """Decide when the decay of a run starts, and move the run's end so that it ends on time."""

    def __init__(self, training, progress, schedule, stopwatch, evaluator):
        """training: TrainingParams, resolved; progress: the run's Progress, which takes the decisions"""
        self.training, self.progress, self.schedule = training, progress, schedule
        self.stopwatch, self.evaluator = stopwatch, evaluator
        self.pace = Pace(60 * (training.minutes or 0))
        # Steps that each evaluation took as long as. The median ignores one during which the machine's speed changed.
        self._evaluations = []
        self._grace = 0.0               # seconds that restarts cost since the decay started: no reason to end earlier
        self._rests_until = 0.0, 0      # the clock, and the step

    def start(self):
        """Note when this process starts to train."""
        self._grace = self._lost_seconds()

    def count_step(self, seconds):
        """Note how long a step took."""
        self.progress.training_seconds += seconds
        self.pace.add(seconds)

    def count_evaluation(self, seconds):
        """Note how long an evaluation took, with its sample and its saved weights."""
        self._evaluations.append(self._in_steps(seconds))
        self.progress.evaluation_steps = median(self._evaluations)

    def decide(self):
        """Start the decay or move the end, where it is time to. -> whether either happened"""
        progress, pace = self.progress, self.pace
        if self.training.steps:
            return False
        if progress.evaluation_steps is None and pace.steps == MIN_STEPS:
            seconds = self.evaluator.seconds_of_validation(progress.step, self.stopwatch.clock)
            progress.evaluation_steps = self._in_steps(seconds)
        left, costs = self._seconds_left(), self._costs(pace.seconds_per_step)
        if not distributed.first_says(pace.steps >= MIN_STEPS or left < 2 * pace.seconds_per_step):
            return False                    # too little is known of the pace, and there is time to wait for more
        starts_decay = progress.decay_start is None
        if starts_decay:
            if not distributed.first_says(time_to_decay(progress.step, seconds_left=left, **costs,
                                                        decay_fraction=self.training.decay_fraction)):
                return False
            progress.decay_start = progress.step
        end = end_in_time(progress.step, seconds_left=left, **costs)
        moves_end = distributed.first_says(self._is_off_time(end, left, costs))
        if moves_end:
            progress.moved_ends.append([progress.step, distributed.agreed(end)])
        if starts_decay or moves_end:
            self._rests_until = (self.stopwatch.clock() + REST * left,
                                 progress.step + REST * (self.schedule.total_steps - progress.step))
        return starts_decay or moves_end

    def _is_off_time(self, end, left, costs):
        """Return whether the run's end has to be moved to `end`, the one that suits the seconds left."""
        step, total = self.progress.step, self.schedule.total_steps
        clock_rests_until, step_rests_until = self._rests_until
        # An end that is due is never put off.
        rests = self.stopwatch.clock() < clock_rests_until and step < step_rests_until and end > step
        if rests or end == total or step >= total:
            return False
        return abs(seconds_needed(step, total, **costs) - left) > TOLERANCE * 60 * self.training.minutes

    def _seconds_left(self):
        """Return the time for steps and evaluations until the time limit."""
        return 60 * self.training.minutes + self._grace - self.stopwatch.seconds - CLOSING_SECONDS

    def _costs(self, seconds_per_step):
        """Return the arguments of `seconds_needed` that say what steps and evaluations cost."""
        steps = self.progress.evaluation_steps
        if steps is None:
            steps = self.evaluator.expected_steps
        return {"seconds_per_step": seconds_per_step, "seconds_per_evaluation": steps * seconds_per_step,
                "eval_interval": self.evaluator.interval}

    def _in_steps(self, seconds):
        """Return how many steps take as long at present.

        That cost stays the same where the machine becomes slower.
        """
        return seconds / self.pace.seconds_per_step

    def _lost_seconds(self):
        """Return by how much a run resumed during its decay would end late at its usual pace.

        That is what the kill and the restart cost.
        """
        progress = self.progress
        if self.training.steps or progress.decay_start is None:
            return 0.0
        seconds_per_step = progress.training_seconds / progress.step
        costs = self._costs(seconds_per_step)
        # The evaluation of the step that was saved is done.
        after_next = seconds_needed(progress.step + 1, self.schedule.total_steps, **costs)
        return max(0.0, seconds_per_step + after_next - self._seconds_left())
