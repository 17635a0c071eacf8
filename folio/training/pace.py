"""Time: how long a step takes at present, and how long a run has taken."""

import time
from collections import deque
from statistics import median

BLOCK = 1 / 200             # of the run's time, up to which steps are counted together: long runs keep few numbers
WINDOW = 1 / 10             # of the run's time that counts as the present
MIN_BLOCKS = 5              # in the window, however long a step is
STALL = 3                   # times the median block: a longer one counts as that long, for a burst is not the speed
MIN_SECONDS = 1e-6          # of a step: clocks are coarse, and nothing is divided by zero


class Pace:
    """Estimate the seconds per step from recent steps: robust against a stall, quick to follow a change of speed."""

    def __init__(self, run_seconds):
        """run_seconds: the time limit of the whole run."""
        self.run_seconds = run_seconds
        self.steps = 0
        self._first = None          # allocates and fills caches, so it counts only while there is no other step
        self._blocks = deque()      # [seconds, steps]

    def add(self, seconds):
        """Count one more step."""
        self.steps += 1
        if self._first is None:
            self._first = seconds
            return
        if self._blocks and self._blocks[-1][0] < BLOCK * self.run_seconds:
            self._blocks[-1][0] += seconds
            self._blocks[-1][1] += 1
        else:
            self._blocks.append([seconds, 1])
        window = WINDOW * self.run_seconds
        while len(self._blocks) > MIN_BLOCKS and sum(seconds for seconds, _ in self._blocks) > window:
            self._blocks.popleft()

    @property
    def seconds_per_step(self):
        """Return the mean of the recent steps, with stalls cut short."""
        if not self._blocks:
            return max(self._first, MIN_SECONDS)
        longest = STALL * median(seconds / steps for seconds, steps in self._blocks)
        total = sum(steps for _, steps in self._blocks)
        return max(MIN_SECONDS, sum(min(seconds, longest * steps) for seconds, steps in self._blocks) / total)


class Stopwatch:
    """Measure the time of a run over all its processes, one after another."""

    def __init__(self, started_at, clock):
        """started_at: what `clock`, in seconds, read when this process started."""
        self.started_at, self.clock = started_at, clock
        self.earlier_seconds = 0.0          # of the processes before this one
        self._trained_from = None           # the clock, and the processor time of this process

    @property
    def seconds(self):
        """Return the time spent on the run so far."""
        return self.earlier_seconds + self.clock() - self.started_at

    def start_training(self):
        """Note when this process starts to train."""
        self._trained_from = self.clock(), time.process_time()

    def processor_share(self, threads):
        """Return the processor time since `start_training` as a share of what so many threads could have used."""
        elapsed, used = self.clock() - self._trained_from[0], time.process_time() - self._trained_from[1]
        return used / max(elapsed * threads, 1e-9)
