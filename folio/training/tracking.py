"""Forward the reports of a run to an experiment tracker: wandb, trackio or mlflow, whichever --track names.

A tracker gets what the log says, and the settings of the run: numbers as metrics under their names in the log, samples
as text. The log stays the source: a resumed run continues the tracker's run and sends what that does not have yet. A
tracker that fails is left alone for the rest of the process, after one warning; training continues.

Where the tracker puts things, and whether it uses a network, is its own business: WANDB_MODE=offline and the like are
what their manuals say. Without MLFLOW_TRACKING_URI mlflow writes into Saved_Weights/tracking.
"""

import json
import os
import secrets
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from folio.base.errors import FolioError
from folio.base.files import replacing

PROJECT = "folio"               # what trackers file the runs under
POSITIONS = ("step", "seconds", "tokens")


class Tracking:
    """Follow the log of one run."""

    def __init__(self, tracker: str, folder: Path, name: str, settings: dict[str, Any]):
        """tracker: a key of TRACKERS; folder: for what is kept of it; settings: of the run, for the tracker to show

        Raises FolioError where the tracker is not installed.
        """
        if find_spec(tracker) is None:
            raise FolioError(f"--track {tracker} needs {tracker}, which is not installed: "
                             f"python -m pip install {tracker}")
        self.tracker, self.folder, self.name, self.settings = tracker, folder, name, settings
        self._path = folder / f"{name}.json"        # {"tracker", "id", "step"} of the tracker's run
        self._id, self._sent = secrets.token_hex(8), -1
        self._send, self._end, self._has_failed = None, None, False

    def append(self, report: dict[str, Any]) -> None:
        """Send one more report of the log."""
        self._try(self._append, report)

    def replace(self, reports: list[dict[str, Any]]) -> None:
        """Continue the tracker's run of a resumed run: send those of its reports so far that it does not have."""
        with suppress(OSError, ValueError, KeyError, TypeError):        # none, or one that cannot be read: a new run
            known = json.loads(self._path.read_text(encoding="utf-8"))
            if known["tracker"] == self.tracker:
                self._id, self._sent = str(known["id"]), int(known["step"])
        for report in reports:
            self.append(report)

    def close(self) -> None:
        """End the tracker's run, so that it sends what it still has."""
        if self._end is not None:
            self._try(self._end)

    def _append(self, report):
        if report["step"] <= self._sent:
            return
        if self._send is None:
            begin = TRACKERS[self.tracker]
            self._id, self._send, self._end = begin(self.name, self.settings, self.folder, self._id, self._sent >= 0)
        numbers = {name: value for name, value in report.items()
                   if isinstance(value, (int, float)) and name not in POSITIONS}
        texts = {name: value for name, value in report.items() if isinstance(value, str)}
        self._send(numbers, texts, report["step"])
        self._sent = report["step"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._path) as file:
            file.write(json.dumps({"tracker": self.tracker, "id": self._id, "step": self._sent}).encode("utf-8"))

    def _try(self, action, *arguments):
        if self._has_failed:
            return
        try:
            action(*arguments)
        except Exception as error:          # of a library and its network: anything
            self._has_failed = True
            warnings.warn(f"{self.tracker} failed. Training continues without it; the run's log is complete "
                          f"({type(error).__name__}: {error}).", RuntimeWarning, stacklevel=2)


# --- The trackers: the id of the run, a function that sends (numbers, texts, step), and one that ends the run ---

Begun = tuple[str, Callable[[dict, dict, int], None], Callable[[], None]]


def begin_wandb(name: str, settings: dict, folder: Path, own_id: str, has_begun: bool) -> Begun:
    """Begin or continue a run of Weights & Biases."""
    import wandb
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(project=PROJECT, name=name, id=own_id, resume="allow", config=settings, dir=str(folder),
                     settings=wandb.Settings(console="off", silent=True))
    return own_id, lambda numbers, texts, step: run.log({**numbers, **texts}, step=step), run.finish


def begin_trackio(name: str, settings: dict, folder: Path, own_id: str, has_begun: bool) -> Begun:
    """Begin or continue a run of trackio, which knows runs by their names."""
    import trackio
    own_name = own_id if has_begun else f"{name}-{own_id[:4]}"
    trackio.init(project=PROJECT, name=own_name, config=settings, resume="allow", embed=False)
    return own_name, lambda numbers, texts, step: trackio.log({**numbers, **texts}, step=step), trackio.finish


def begin_mlflow(name: str, settings: dict, folder: Path, own_id: str, has_begun: bool) -> Begun:
    """Begin or continue a run of MLflow."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    folder.mkdir(parents=True, exist_ok=True)
    here = None if os.environ.get("MLFLOW_TRACKING_URI") else f"sqlite:///{folder.resolve().as_posix()}/mlflow.db"
    client = MlflowClient(here)
    if not has_begun:
        known = client.get_experiment_by_name(PROJECT)
        artifacts = None if here is None else (folder / "artifacts").resolve().as_uri()
        experiment = known.experiment_id if known else client.create_experiment(PROJECT, artifacts)
        own_id = client.create_run(experiment, run_name=name).info.run_id
        for setting, value in settings.items():
            client.log_param(own_id, setting, value)

    def send(numbers, texts, step):
        now = round(1000 * time.time())
        client.log_batch(own_id, [Metric(key, value, now, step) for key, value in numbers.items()])
        for key, text in texts.items():
            client.log_text(own_id, text, f"{key}-{step:09}.txt")
    return own_id, send, lambda: client.set_terminated(own_id)


TRACKERS = {"wandb": begin_wandb, "trackio": begin_trackio, "mlflow": begin_mlflow}
