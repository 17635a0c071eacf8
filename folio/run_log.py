"""The log of a run: one JSON line a report, in a file that a resumed run cuts back to its step."""

import json

from folio.files import replacing


class RunLog:
    """Appends reports to a .jsonl file, each whole and at once on the disk."""

    def __init__(self, path):
        self.path = path

    def append(self, **report):
        """Write one line."""
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(report) + "\n")

    def cut_back(self, step):
        """Forget the reports after a step, and a last line that a kill left half-written."""
        kept = [line for line in read(self.path) if line["step"] <= step]
        with replacing(self.path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in kept).encode("utf-8"))


def read(path):
    """The reports in a log, oldest first; a line that is not whole is passed over."""
    reports = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            reports.append(json.loads(line))
        except ValueError:
            continue
    return reports
