"""The reports of a run as TensorBoard shows them: event files that say what the log says, and nothing else.

Each number is a curve and each text a text, by the name it has in the log. The log is the one source: a run that goes on writes its
events anew from the log, so that there are no doubled points and no gaps, also where the run began without TensorBoard.
"""

import time
from contextlib import suppress

POSITIONS = ("step", "seconds", "tokens")       # where a report stands, not what it says


class Events:
    """Writes reports to event files in a folder of their own."""

    def __init__(self, folder):
        """Raises ValueError where TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("--tensorboard takes TensorBoard, which is not installed: python -m pip install tensorboard") from None
        self.folder, self.new_writer, self.writer = folder, SummaryWriter, None

    def append(self, report):
        """Write a report of the log, a dict, at once to the disk."""
        if self.writer is None:
            self._begin(report)
        self._add(report)
        self.writer.flush()

    def replace(self, reports):
        """Begin anew with the reports of a run so far."""
        if reports:
            self._begin(reports[-1])
            for report in reports:
                self._add(report)
            self.writer.flush()

    def _begin(self, newest):
        for old in self.folder.glob("events.out.tfevents.*"):
            with suppress(PermissionError):         # Windows keeps a file that TensorBoard has open; purge_step makes it count no more
                old.unlink()
        self.writer = self.new_writer(self.folder, purge_step=0)
        self.began_at = time.time() - newest["seconds"]     # as if there had been no pause: TensorBoard's relative time is the log's

    def _add(self, report):
        for name, value in report.items():
            where = {"global_step": report["step"], "walltime": self.began_at + report["seconds"]}
            if isinstance(value, str):
                self.writer.add_text(name, "".join(f"    {line}\n" for line in value.splitlines()), **where)     # Markdown for "as it is"
            elif name not in POSITIONS:
                self.writer.add_scalar(name, value, **where)
