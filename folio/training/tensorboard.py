"""Write the reports of a run for TensorBoard: an event file with the contents of the log, and nothing else.

Each number becomes a scalar and each text a text, under its name in the log. The log is the only source: a resumed run
rewrites its events from there, so that no point is duplicated or missing, also where the run started without it.
"""

import time
from contextlib import suppress

from folio.base.errors import FolioError

POSITIONS = ("step", "seconds", "tokens")       # fields that say where in the run a report is from; no curves


class Events:
    """Write reports to an event file in a folder of its own, each flushed at once."""

    def __init__(self, folder):
        """Raises FolioError where TensorBoard is not installed."""
        try:
            import torch.utils.tensorboard  # noqa: F401  (fails without the package, long before the first report)
        except ImportError:
            raise FolioError("--tensorboard needs TensorBoard, which is not installed: "
                             "python -m pip install tensorboard") from None
        self.folder, self.path = folder, None

    def append(self, report):
        """Write one more report of the log. report: dict"""
        if self.path is None:
            self._start_file(report)
        self._write(self._events_of(report))

    def replace(self, reports):
        """Start a new file with the reports of a run so far."""
        if reports:
            self._start_file(reports[-1])
            self._write(event for report in reports for event in self._events_of(report))

    def close(self):
        """Do nothing: no file is open between two reports."""

    def _start_file(self, newest):
        """Start a new file in place of older ones. newest: the last report of the run so far

        The file has a new name: a TensorBoard that is running goes on reading the file that it has open.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("*.tfevents.*"):
            with suppress(PermissionError):         # Windows keeps a file that TensorBoard has open; START overrides it
                old.unlink()
        self.path = self.folder / f"events.out.tfevents.{time.time_ns()}"
        # As if there had been no pause: TensorBoard's relative time is the log's.
        self.started_at = time.time() - newest["seconds"]
        # START makes TensorBoard forget everything from step 0 on.
        self._write({"wall_time": self.started_at} | event for event in
                    ({"file_version": "brain.Event:2"}, {"session_log": {"status": "START"}, "step": 0}))

    def _events_of(self, report):
        """Yield the fields of an event for every value of a report."""
        from torch.utils.tensorboard import summary
        for name, value in report.items():
            if isinstance(value, dict):
                value = "\n".join(f"{field}={setting}" for field, setting in value.items())
            if isinstance(value, str):
                # Four spaces make it a block of code in Markdown, shown as it is.
                value = summary.text(name, "".join(f"    {line}\n" for line in value.splitlines()))
            elif name not in POSITIONS and value is not None:
                value = summary.scalar(name, value)
            else:
                continue
            yield {"summary": value, "step": report["step"], "wall_time": self.started_at + report["seconds"]}

    def _write(self, events):
        # Not by torch's SummaryWriter: its thread would print a traceback of its own where the disk is full.
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard import RecordWriter
        with self.path.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(Event(**event).SerializeToString())
