"""The reports of a run as TensorBoard shows them: an event file that says what the log says, and nothing else.

Each number is a curve and each text a text, under the name that it has in the log. The log is the one source: a run that goes on writes
its events anew from there, so that no point is doubled and none is missing, also where the run began without TensorBoard.
"""

import time
from contextlib import suppress

from folio.base.errors import FolioError

POSITIONS = ("step", "seconds", "tokens")       # where a report stands; the rest is what it says


class Events:
    """Writes reports to an event file in a folder of its own, and hands each to the system at once."""

    def __init__(self, folder):
        """Raises FolioError where TensorBoard is not installed."""
        try:
            import torch.utils.tensorboard      # noqa: F401  (it wants the package, and that long before the first report)
        except ImportError:
            raise FolioError("--tensorboard takes TensorBoard, which is not installed: python -m pip install tensorboard") from None
        self.folder, self.path = folder, None

    def append(self, report):
        """Write what one more report of the log, a dict, says."""
        if self.path is None:
            self._begin(report)
        self._write(self._said_by(report))

    def replace(self, reports):
        """Begin anew with the reports of a run so far."""
        if reports:
            self._begin(reports[-1])
            self._write(event for report in reports for event in self._said_by(report))

    def _begin(self, newest):
        """A new file in place of older ones; it has a new name, for a TensorBoard that is looking reads on in the file that it has open."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("*.tfevents.*"):
            with suppress(PermissionError):         # Windows keeps a file that TensorBoard has open; `start` makes it count no more
                old.unlink()
        self.path = self.folder / f"events.out.tfevents.{time.time_ns()}"
        self.began_at = time.time() - newest["seconds"]         # as if there had been no pause: TensorBoard's relative time is the log's
        self._write({"wall_time": self.began_at} | event for event in
                    ({"file_version": "brain.Event:2"}, {"session_log": {"status": "START"}, "step": 0}))       # forget all from step 0 on

    def _said_by(self, report):
        from torch.utils.tensorboard import summary
        for name, value in report.items():
            if isinstance(value, str):
                value = summary.text(name, "".join(f"    {line}\n" for line in value.splitlines()))        # four spaces: Markdown leaves it as it is
            elif name not in POSITIONS and value is not None:
                value = summary.scalar(name, value)
            else:
                continue
            yield {"summary": value, "step": report["step"], "wall_time": self.began_at + report["seconds"]}

    def _write(self, events):
        # Not by torch's SummaryWriter: its thread would print a traceback of its own where the disk is full.
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard import RecordWriter
        with self.path.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(Event(**event).SerializeToString())
