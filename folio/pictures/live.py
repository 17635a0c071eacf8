"""A bar and the loss curve of a run below a cell of a notebook, while it trains."""

import time
from html import escape

from folio.pictures.canvas import rendered
from folio.pictures.loss import loss_figure

REST = 20           # a drawing may take one part in so many of the time


class LiveCurve:
    """Follow the log of a run (folio/formats/run_log.py) and show it; a notebook's own display does the drawing."""

    def __init__(self, name, *, steps=None, minutes=None):
        """name: of the run; steps, minutes: its length, if one of them is known"""
        from IPython.display import display
        self.name, self.steps, self.minutes = name, steps, minutes
        self.reports = []
        self._next = 0.0                # when it may be drawn again, by time.monotonic
        self._bar, self._curve = (display(self._as_html(), display_id=True) for _ in range(2))

    def append(self, report):
        """Take one more report; draw where there is time for it."""
        self.reports.append(report)
        self.steps = report.get("total_steps", self.steps)
        if time.monotonic() >= self._next:
            self._draw()

    def replace(self, reports):
        """Take the reports so far of a run that goes on."""
        self.reports = list(reports)

    def close(self):
        """Draw the last state."""
        if self.reports:
            self._draw()

    @property
    def share(self):
        """How much of the run is done, from 0 to 1; None where nobody knows."""
        if not self.reports:
            return 0.0
        last = self.reports[-1]
        done = last["step"] / self.steps if self.steps else None
        if done is None and self.minutes:
            done = last["seconds"] / (60 * self.minutes)
        return None if done is None else min(1.0, done)

    def _draw(self):
        from IPython.display import Image
        started = time.monotonic()
        self._bar.update(self._as_html())
        if any("val_nats_per_byte" in report for report in self.reports):
            figure = loss_figure({self.name: self.reports}, x="seconds")
            self._curve.update(Image(rendered(figure), width=900))
        self._next = time.monotonic() + REST * (time.monotonic() - started)

    def _as_html(self):
        from IPython.display import HTML
        if not self.reports:
            return HTML("")
        last, share = self.reports[-1], self.share
        value = "" if share is None else f' value="{share:.3f}"'
        words = f"{self.name}: step {last['step']:,}, {last['seconds']:.0f} s"
        return HTML(f'<progress max="1"{value} style="width: 20em"></progress> {escape(words)}')
