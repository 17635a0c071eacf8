"""How long a step takes at present: steady where one step stalls, quick where the machine has become another one."""

from collections import deque
from statistics import median

BLOCK = 1 / 200             # of the run's time, up to which steps are counted together: long runs keep few numbers
WINDOW = 1 / 10             # of the run's time that counts as the present
FEWEST = 5                  # blocks in it, however long a step is
STALL = 3                   # times the median block: what is longer counts as that long, for a burst is not the speed
SHORTEST = 1e-6             # seconds of a step: clocks are coarse, and nothing is divided by zero


class Pace:
    """Estimates the seconds of a step from those of the recent ones."""

    def __init__(self, run_seconds):
        """run_seconds: the time limit of the whole run."""
        self.run_seconds = run_seconds
        self.steps = 0
        self._first = None          # allocates, fills caches: counts only as long as there is no other
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
        while len(self._blocks) > FEWEST and sum(seconds for seconds, _ in self._blocks) > WINDOW * self.run_seconds:
            self._blocks.popleft()

    @property
    def seconds_per_step(self):
        """Return the mean of the recent steps, with stalls cut short."""
        if not self._blocks:
            return max(self._first, SHORTEST)
        longest = STALL * median(seconds / steps for seconds, steps in self._blocks)
        total = sum(steps for _, steps in self._blocks)
        return max(SHORTEST, sum(min(seconds, longest * steps) for seconds, steps in self._blocks) / total)
