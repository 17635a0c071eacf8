"""The runs in a project, as their files describe them.

A run has Saved_Weights/weights-NAME.pth, resume-NAME.pth and log-NAME.jsonl, any of which may be missing. No tensor is
read, and no checksum verified: this serves to choose a run, not to use one. `python -m folio.runs --json` prints a list
of objects, the run that was written last first, with the fields of `Run`; null is what no file of the run says:

    name                str: of the run, as its files have it; every command takes it
    state               running: a process trains it now; unfinished: it can be continued; finished; imported: from
                        another program; weights only: nothing is left to continue it from; log only; damaged: what
                        would say it cannot be read
    go_on               str: the command that continues an unfinished run
    started_from        {name, fingerprint} of the weights that a fine-tuned run began with
    differs             {field: value}: the settings that are not the defaults, by the names in Model_Params.py. Of what
                        the text or the machine decides (BPE-dropout, precision, threads...) nobody can tell, so that
                        is in `settings` only
    settings            {field: value}: all settings in effect, by the resume file, the weights, or else the log
    text                {name, train_bytes, fingerprint}: what it learned from; the name only while the project has that
                        text
    nats_per_byte       float: the best of the validation set; of a run that learns from preferences, what its weights
                        reach on ordinary text
    bits_per_byte       float: the same in bits
    nats_per_pair       float: of a run that learns from preferences, the best loss on the pairs held out
    steps               int: training steps made
    planned_steps       int: training steps that it is to make, unless the clock decides
    minutes             float: spent on them
    tokens_per_second   float: in training, without evaluations; the median of the last reports
    parameters          int: trainable parameters; tied weights count once
    changed             str: when the newest file was written, in ISO 8601 with the offset from UTC
    files               {"weights", "resume", "log": {"path", "bytes"}}: those that there are
    problems            [str]: a sentence for each file that cannot be read
"""

import math
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.files import only_one
from folio.base.home import Home
from folio.base.run_files import listed, means, meant, run_name
from folio.formats import run_log, run_settings
from folio.formats.find_weights import WEIGHTS, is_imported

PATTERNS = {"weights": WEIGHTS, "resume": "resume-*.pth", "log": "log-*.jsonl"}
LOCKS = ".lock-*"
LARGEST = 1 << 63           # number that a file is believed
# Read of the end of a log, some thousand reports, and of its first line; the best of a run is in its other files.
LOG_BYTES = 1 << 20


@dataclass
class Run:
    """What is known about a run; the fields are described above."""
    name: str
    state: str = "damaged"
    go_on: str | None = None
    started_from: dict[str, str] | None = None
    differs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(("name", "train_bytes", "fingerprint")))
    nats_per_byte: float | None = None
    bits_per_byte: float | None = None
    nats_per_pair: float | None = None
    steps: int | None = None
    planned_steps: int | None = None
    minutes: float | None = None
    tokens_per_second: float | None = None
    parameters: int | None = None
    changed: str | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def list_runs(home: Home, words=(), text_names=()) -> list[Run]:
    """Return the runs of a project, the one that was written last first.

    words: names or globs of those that are wanted (default: all); text_names: {fingerprint of a text or of its tokens:
    its name}
    Raises FileNotFoundError for a word that means no run.
    """
    found = _files_of_all(home)
    if words:
        wanted = {name for word in words for name in _meant(home, word, found)}
        found = {name: files for name, files in found.items() if name in wanted}
    dated = sorted(((_changed(home, name, files), name) for name, files in found.items()), reverse=True)
    return [_described(home, name, changed, found[name], dict(text_names)) for changed, name in dated]


def names_of_runs(home: Home) -> list[str]:
    """Return the names of all runs of a project."""
    return list(_files_of_all(home))


# --- Which files ---

def _files_of_all(home):
    """Return {name of a run: {"weights", "resume" or "log": path}}."""
    found = {}
    for kind, pattern in PATTERNS.items():
        for path in home.newest(pattern):
            found.setdefault(run_name(path, pattern), {})[kind] = path
    names = {run_name(path, LOCKS) for path in home.newest(LOCKS)} | set(found)
    # A lock stays behind when its run ends, and an empty log where a run fails before its first report.
    for name in names:
        if not any(_size(path) for path in found.get(name, {}).values()) and not _is_running(home, name):
            found.pop(name, None)
        else:
            found.setdefault(name, {})
    return found


def _meant(home, word, found):
    """Return the names of the runs that a word means: a name, a glob, or the name or path of one of their files."""
    if word in found:
        return [word]
    is_path_here = Path(word).parent.resolve() == home.saved_weights.resolve()
    pattern = Path(word).name if is_path_here else word
    names = [name for name, files in found.items()
             if fnmatch(name, pattern) or any(means(pattern, path, PATTERNS[kind]) for kind, path in files.items())]
    if not names:
        raise FileNotFoundError(f"There is no run {word}{meant(word, list(found))} "
                                f"{home.saved_weights} has {listed(list(found))}.")
    return names


def _is_running(home, name):
    """Return whether a process holds the lock of a run."""
    if not home.lock(name).exists():
        return False
    try:
        with only_one(home.lock(name), "it is being trained"):
            return False
    except BlockingIOError:
        return True
    except OSError:             # a folder that nobody may write into
        return False


def _size(path):
    with suppress(OSError):     # it may be removed at any moment
        return path.stat().st_size
    return 0


def _changed(home, name, files):
    """Return when the newest file of a run was written, in seconds; 0.0 where none is left."""
    times = [0.0]
    for path in files.values() or [home.lock(name)]:
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


# --- What they say ---

def _described(home, name, changed, files, text_names):
    """Return the Run with these files."""
    run = Run(name, changed=_as_date(changed))
    run.files = {kind: {"path": str(path), "bytes": _size(path)} for kind, path in files.items()}
    weights = _read(run, files.get("weights"), _of_weights)
    resume = _read(run, files.get("resume"), _of_resume)
    log = _read(run, files.get("log"), _of_log)
    sources = [source for source in (resume, weights, log) if source]
    for part in ("settings", "differs", "started_from", "parameters", "planned_steps"):
        setattr(run, part, next((source[part] for source in sources if source.get(part)), getattr(run, part)))
    for source in sources:
        run.text |= {key: value for key, value in source.get("text", {}).items() if value is not None}
    run.text["name"] = next(filter(None, map(text_names.get, [source.get("corpus") for source in sources]
                                             + [run.text["fingerprint"]])), None)
    run.steps, seconds = _largest(sources, "steps"), _largest(sources, "seconds")
    run.minutes = None if seconds is None else seconds / 60
    run.nats_per_byte, run.nats_per_pair = (min((source[name] for source in sources if source.get(name) is not None),
                                                default=None) for name in ("nats", "pair_nats"))
    run.bits_per_byte = None if run.nats_per_byte is None else run.nats_per_byte / math.log(2)
    speeds = [source["speed"] for source in (log, resume) if source and source.get("speed")]
    run.tokens_per_second = next(iter(speeds), None)
    run.state = _state(home, run, weights, resume)
    if run.state == "unfinished":
        run.go_on = command("train.py", "--resume", *_named(name))
    return run


def _as_date(seconds):
    with suppress(OSError, OverflowError, ValueError):          # a file system may say anything
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _named(name):
    # argparse takes a value with a leading hyphen only after an equals sign.
    return (f"--name={name}",) if name.startswith("-") else ("--name", name)


def _state(home, run, weights, resume):
    if _is_running(home, run.name):
        return "running"
    if resume:
        return "finished" if resume["finished"] else "unfinished"
    if "resume" in run.files or run.problems and not weights:
        return "damaged"
    if weights:
        return "imported" if weights["imported"] else "weights only"
    return "log only"


def _largest(sources, key):
    return max((source[key] for source in sources if source.get(key) is not None), default=None)


def _read(run, path, read):
    """Return what `read` finds in a file; None where there is none, or where `run` now has a problem more."""
    if path is None:
        return None
    try:
        return read(path)
    except FolioError as error:
        problem = str(error).replace(str(path), path.name, 1)         # a command that follows needs its path
    except OSError as error:
        problem = f"{path.name}: {error.strerror or error}."
    except (ValueError, TypeError) as error:
        problem = f"{path.name} cannot be read: {error}."
    run.problems.append(problem)


def _of_weights(path):
    """Return what a weights file says. Raises FolioError, OSError, ValueError or TypeError where it cannot be read."""
    contents = _metadata(path)
    imported = is_imported(contents)
    parts = {"text": contents.get("text"), "model": contents.get("params"), "training": contents.get("training"),
             "tuning": contents.get("tuning") or {}}
    params = run_settings.read(parts)
    steps, seconds = _number(contents.get("step")), _number(contents.get("seconds"))
    learned_from = _fields(contents.get("learned_from"), {"text_fingerprint": str, "train_bytes": int})
    bits = _number(contents.get("val_bpb"))
    nats = _number(contents.get("val_nats_per_byte"))
    expected = _steps_by_the_clock(params.training, _per(seconds, steps))
    return _of_settings(params, parts, contents.get("started_from"), expected, imported) | {
        "imported": imported, "parameters": _count(_trained(contents)), "steps": steps, "seconds": seconds,
        "nats": bits * math.log(2) if nats is None and bits is not None else nats,
        "pair_nats": _number(contents.get("val_nats_per_pair")),
        "text": {"train_bytes": learned_from["train_bytes"], "fingerprint": learned_from["text_fingerprint"]}}


def _of_resume(path):
    """Return what a resume file says; raises as `_of_weights`."""
    contents = _metadata(path)
    parts, progress = contents.get("params"), contents.get("progress")
    if not isinstance(parts, dict) or not isinstance(progress, dict):
        raise ValueError("it does not say how far its run has come")
    params = run_settings.read(parts)
    steps, seconds = _number(progress.get("step")), _number(progress.get("seconds"))
    step_seconds = _per(_number(progress.get("training_seconds")), steps)
    measured = _number(progress.get("measured_step"))
    expected = _steps_by_the_clock(params.training, measured, _per(seconds, steps))
    tokens = params.training.batch_size * params.model.block_size
    return _of_settings(params, parts, progress.get("started_from"), expected) | {
        "finished": progress.get("finished") is True, "parameters": _count(contents.get("weights")), "steps": steps,
        "seconds": seconds, "speed": _per(tokens, step_seconds),
        "pair_nats" if params.tuning.learns == "preferences" else "nats": _number(progress.get("best_nats")),
        "corpus": contents.get("corpus") if isinstance(contents.get("corpus"), str) else None}


def _per(amount, number):
    """Return an amount divided by a number; None where one of them is not known, or nothing."""
    return amount / number if amount and number else None


def _steps_by_the_clock(training, *step_seconds):
    """Return estimates of the steps that a run of so many minutes expected, from seconds per step or None."""
    return [60 * training.minutes / seconds for seconds in step_seconds if training.minutes and seconds]


def _of_settings(params, parts, started_from, expected_steps, imported=False):
    """Return the part that weights and resume files share. parts: as run_settings.read takes them"""
    names = _fields(started_from, {"name": str, "fingerprint": str})
    origin = names if names["name"] else None
    differs = run_settings.differing(params, expected_steps, is_tuned=origin is not None, is_imported=imported)
    said = {name for part in parts.values() for name in part}       # an older run did not have what it does not say
    return {"settings": {name: value for name, value in params.values().items() if name in said},
            "differs": {name: value for name, value in differs.items() if name in said},
            "started_from": origin, "planned_steps": params.training.steps}


def _of_log(path):
    """Return what the first report and the end of a log say; raises ValueError where there is no report in it."""
    lines = list(run_log.each_line(path, LOG_BYTES))
    reports = [report for report in lines if report]
    if lines and not reports:
        raise ValueError("no line of it is a report")
    found = {key: [number for report in reports if (number := _number(report.get(key))) is not None]
             for key in ("step", "seconds", "tokens_per_second", "val_nats_per_byte", "val_nats_per_pair")}
    return {"steps": max(found["step"], default=None), "seconds": max(found["seconds"], default=None),
            "speed": median(found["tokens_per_second"]) if found["tokens_per_second"] else None,
            "nats": min(found["val_nats_per_byte"], default=None),
            "pair_nats": min(found["val_nats_per_pair"], default=None)} | _settings_in_log(path, reports)


def _settings_in_log(path, reports):
    """Return the part that a log shares with the other files; {} where it says no settings, or impossible ones.

    reports: of the end of the log; the settings in the first report hold until others are reported.
    """
    reported = [run_log.first_report(path, LOG_BYTES), *reports]
    logged = [report["settings"] for report in reported if report and isinstance(report.get("settings"), dict)]
    if not logged:
        return {}
    # A setting that is None is not in the log. Of those that may be, only this one has another default.
    values = {"minutes": None} | logged[-1]
    last = reports[-1]
    try:
        params = run_settings.read(dict.fromkeys(("text", "model", "training", "tuning"), values))
    except (ValueError, TypeError):
        return {}
    expected = _steps_by_the_clock(params.training, _per(_number(last.get("seconds")), _number(last["step"])))
    return _of_settings(params, {"log": values}, None, expected)


def _metadata(path):
    from folio.formats import checkpoint  # imports torch, which a project without such files does not wait for
    return checkpoint.load_metadata(path)


def _trained(contents):
    """Return the weights in a weights file: of all the model, or of an adapter."""
    adapter = contents.get("adapter")
    return adapter.get("weights") if isinstance(adapter, dict) else contents.get("weights")


def _count(weights):
    """Return the number of parameters in {name: torch_file.Outline}; tied weights share a record and count once."""
    if not isinstance(weights, dict):
        return None
    outlines = {(getattr(outline, "record", name), getattr(outline, "offset", 0)): outline
                for name, outline in weights.items()}
    return sum(math.prod(getattr(outline, "shape", (0,))) for outline in outlines.values())


def _number(value):
    """Return a value if it is a number that is not negative, and no larger than any run's; else None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and 0 <= value < LARGEST else None


def _fields(value, kinds):
    """Return {key: value} of a dict for the keys of {key: type}; None for what is missing or of another type."""
    value = value if isinstance(value, dict) else {}
    return {key: value[key] if type(value.get(key)) is kind else None for key, kind in kinds.items()}
