"""train.py --track: a tracker sees what the log says, goes on with a resumed run, and never ends a training."""

import json
import sqlite3

import pytest

from folio.base.errors import FolioError
from folio.formats import run_log
from folio.training import tracking
from folio.training.loop import Run
from folio.training.tracking import Tracking
from training_runs import Killed, continued, make_run, project  # noqa: F401  (fixtures)


class Recording:
    """A tracker that remembers what it was told."""

    def __init__(self, fails_at=None):
        self.begun, self.sent, self.ended, self.fails_at = [], [], 0, fails_at

    def __call__(self, name, settings, folder, own_id, has_begun):
        self.begun.append((name, own_id, has_begun))
        self.settings = settings
        return own_id, self._send, self._end

    def _send(self, numbers, texts, step):
        if step == self.fails_at:
            raise ConnectionError("no network")
        self.sent.append((step, numbers, texts))

    def _end(self):
        self.ended += 1


@pytest.fixture
def tracker(monkeypatch):
    made = Recording()
    monkeypatch.setitem(tracking.TRACKERS, "wandb", made)
    monkeypatch.setattr(tracking, "find_spec", lambda name: True)
    return made


def said(reports):
    """What a tracker is to be told of the reports of a log."""
    return [(report["step"], {name: value for name, value in report.items() if isinstance(value, (int, float))
                              and name not in ("step", "seconds", "tokens")},
             {name: value for name, value in report.items() if isinstance(value, str)}) for report in reports]


def test_a_tracker_sees_every_report_and_the_settings(project, make_run, tracker):
    run = make_run(track="wandb")
    run.train()
    run.reporter.log.close()
    assert tracker.sent == said(run_log.read(project.log("test"))) and len(tracker.sent) > 3
    assert tracker.settings["batch_size"] == 4 and tracker.settings["emb_len"] == 16
    assert tracker.begun[0][0] == "test" and not tracker.begun[0][2] and tracker.ended == 1


def test_a_resumed_run_goes_on_with_the_trackers_run_and_sends_nothing_twice(
        project, make_run, tracker, monkeypatch):
    run, step = make_run(track="wandb"), Run.step

    def dies(self):
        if self.progress.step == 12:
            raise Killed
        step(self)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "step", dies)
        run.train()
    before = [step for step, *_ in tracker.sent]
    assert before[-1] == 12             # two more than what was saved
    with continued(project, "test") as resumed:
        resumed.train()
    steps = [step for step, *_ in tracker.sent]
    assert steps == sorted(set(steps)) and steps[:len(before)] == before and steps[-1] == 20
    assert tracker.begun == [("test", tracker.begun[0][1], False), ("test", tracker.begun[0][1], True)]
    assert tracker.ended == 1


def test_a_run_that_is_tracked_only_from_its_continuation_on_is_sent_whole(tmp_path, tracker):
    reports = [{"step": step, "seconds": 1.0, "tokens": 8, "val_bpb": 2.0, "sample": "To be"} for step in (5, 10)]
    follower = Tracking("wandb", tmp_path, "night", {})
    follower.replace(reports)
    assert tracker.sent == said(reports)
    (tmp_path / "night.json").write_text("damaged", encoding="utf-8")
    Tracking("wandb", tmp_path, "night", {}).replace(reports)
    assert tracker.sent == 2 * said(reports) and tracker.begun[0][1] != tracker.begun[1][1]


def test_a_tracker_that_fails_is_warned_of_once_and_training_goes_on(project, make_run, tracker):
    tracker.fails_at = 10
    with pytest.warns(RuntimeWarning) as warned:
        run = make_run(track="wandb")
        run.train()
        run.reporter.log.close()
    assert [str(each.message) for each in warned if "wandb" in str(each.message)] == [
        "wandb failed. Training continues without it; the run's log is complete "
        "(ConnectionError: no network)."]
    assert run.progress.step == 20 and tracker.sent[-1][0] < 10 and tracker.ended == 0


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(FolioError, match="--track mlflow needs mlflow, which is not installed: python -m pip install"):
        Tracking("mlflow", tmp_path, "night", {})


def leveldb_records(content, offset):
    """Yield the records of a log in LevelDB's form, as wandb writes it: blocks of 32 KB, parts with a head of 7 bytes.

    offset: of `content` in its file
    """
    place, record = 0, b""
    while place + 7 <= len(content):
        left = 32768 - (place + offset) % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4:place + 6], "little"), content[place + 6]
        record += content[place + 7:place + 7 + length]
        place += 7 + length
        if kind in (1, 4):          # whole, or its last part
            yield record
            record = b""


# --- The trackers themselves, where they are installed ---

def test_what_mlflow_stored_is_the_log(project, make_run, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = make_run(track="mlflow")
    run.train()
    run.reporter.log.close()
    client = mlflow.MlflowClient(f"sqlite:///{project.tracking.as_posix()}/mlflow.db")
    own_id = json.loads((project.tracking / "test.json").read_text(encoding="utf-8"))["id"]
    stored = client.get_run(own_id)
    assert stored.info.status == "FINISHED" and stored.data.params["emb_len"] == "16"
    log = run_log.read(project.log("test"))
    for name in ("train_loss", "val_bpb"):
        points = {(point.step, point.value) for point in client.get_metric_history(own_id, name)}
        assert points == {(report["step"], report[name]) for report in log if name in report}


def test_what_trackio_stored_is_the_log(project, make_run, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    run = make_run(track="trackio")
    run.train()
    run.reporter.log.close()
    [path] = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(path) as store:
        rows = store.execute("select step, metrics from metrics order by step").fetchall()
    found = {step: json.loads(metrics) for step, metrics in rows}
    log = {report["step"]: report for report in run_log.read(project.log("test"))}
    assert found.keys() == log.keys()
    assert all(found[step]["train_loss"] == report["train_loss"] for step, report in log.items())


def test_what_wandb_stored_offline_is_the_log(project, make_run, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = make_run(track="wandb")
    run.train()
    run.reporter.log.close()
    [path] = project.tracking.glob("wandb/offline-run-*/*.wandb")
    found = {}
    for content in leveldb_records(path.read_bytes()[7:], offset=7):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "history":
            values = {item.key or ".".join(item.nested_key): json.loads(item.value_json)
                      for item in record.history.item}
            found[values["_step"]] = values
    log = {report["step"]: report for report in run_log.read(project.log("test"))}
    assert found.keys() == log.keys()
    assert all(found[step]["train_loss"] == pytest.approx(report["train_loss"]) for step, report in log.items())
