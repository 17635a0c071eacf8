"""The logs of runs that a picture is drawn from: which files, which name for each, and their reports."""

import sys
from pathlib import Path

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.run_files import files_of_runs, listed, meant
from folio.base.run_files import run_name as name_of
from folio.base.spelling import counted
from folio.formats import run_log

LOGS = "log-*.jsonl"


def find_logs(home, words):
    """Return {name: path} of the logs that names of runs, paths or globs refer to; without words, of the newest log.

    The logs of a glob come newest first. Raises FileNotFoundError that lists the runs there are.
    """
    existing = home.newest(LOGS)
    if not existing and not words:
        raise FileNotFoundError(f"There is no log of a run in {home.saved_weights}. "
                                f"Train first ({command('train.py')}), or name a log file.")
    found = {}
    for path in [path for word in words for path in _find_logs(home, word, existing)] or existing[:1]:
        if path.resolve() not in map(Path.resolve, found.values()):
            found[path] = path
    names = [run_name(path) for path in found]
    return {name if names.count(name) == 1 else str(path): path for name, path in zip(names, found)}


def _find_logs(home, word, existing):
    if found := files_of_runs(home, LOGS, word):
        return found
    names = [run_name(path) for path in existing]
    there = f"Runs with a log in {home.saved_weights}: {listed(names)}."
    if home.weights(word).is_file():
        raise FileNotFoundError(f"The run {word} has weights, but no log: it was imported, or made elsewhere. {there}")
    raise FileNotFoundError(f"There is no run {word}, nor a log file of that name{meant(word, names)} {there}")


def run_name(path):
    """Return the name of the run that a log belongs to."""
    return name_of(path, LOGS)


def default_output(logs):
    """Return the path of the picture if none is given: beside the first log. logs: {name: path}"""
    path = next(iter(logs.values()))
    others = f"-and-{len(logs) - 1}-more" if len(logs) > 1 else ""
    return path.with_name(f"loss-{run_name(path)}{others}.png")


def reports_of(path):
    """Return the reports in a log. Warn on stderr about damaged lines.

    Raises FolioError for a log without reports.
    """
    lines = list(run_log.each_line(path))
    reports = [report for report in lines if report is not None]
    if not reports:
        raise FolioError(f"{path} has nothing to draw yet: of its {counted(len(lines), 'line')} none is a report. "
                         "A run writes its first one after some steps.")
    # The last line may be incomplete because it is being written, or because the run was killed.
    if damaged := lines[:-1].count(None):
        print(f"{path}: {counted(damaged, 'damaged line')} skipped.", file=sys.stderr)
    return reports
