"""TensorBoard sees what the log says: no more, no less, also after a run was killed, stopped, or begun without it."""


import os
import sys
import time
from dataclasses import replace

import pytest

from conftest import run_python, run_script
from folio.base.errors import FolioError
from folio.formats import run_log
from folio.training import runs
from folio.training.tensorboard import POSITIONS, Events
from training_runs import FLAGS, VOCABULARY, continued, make_run, project  # noqa: F401  (fixtures)

pytest.importorskip("tensorboard")


def seen(folder):
    """Return what TensorBoard's own reader finds: ({(step, name): number}, {(step, name): text}).

    Fails where a point is duplicated.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    numbers = [((event.step, name), event.value) for name in reader.Tags()["scalars"] for event in reader.Scalars(name)]
    texts = [
        ((event.step, name), event.tensor_proto.string_val[0].decode())
        for name in reader.Tags()["tensors"]
        for event in reader.Tensors(name)
    ]
    assert len(dict(numbers)) == len(numbers) and len(dict(texts)) == len(texts)
    return dict(numbers), dict(texts)


def said(reports):
    """The same, of a log."""
    numbers = {(report["step"], name): value for report in reports for name, value in report.items()
               if name not in POSITIONS and not isinstance(value, str | dict)}
    texts = {(report["step"], f"{name}/text_summary"): "".join(f"    {line}\n" for line in value.splitlines())
             for report in reports for name, value in report.items() if isinstance(value, str)}
    texts |= {(report["step"], "settings/text_summary"): "".join(f"    {name}={value}\n" for name, value in
                                                                 report["settings"].items())
              for report in reports if "settings" in report}
    return pytest.approx(numbers, rel=1e-6), texts          # TensorBoard keeps 32 bits


def test_tensorboard_shows_every_report_of_a_run(project, make_run):
    run = make_run(tensorboard=True)
    run.train()
    log = run_log.read(project.log("test"))
    assert {"train_loss", "val_bpb", "learning_rate", "gradient_length", "sample"} <= log[-1].keys()
    assert seen(project.tensorboard("test")) == said(log)


def test_a_run_without_it_writes_no_events_and_imports_nothing_for_it(project, make_run):
    make_run().train()
    assert not (project.saved_weights / "tensorboard").exists()
    done = run_python(
        "-c", "import sys, folio.training.runs; print([name for name in sys.modules if 'tensorboard' in name])"
    )
    assert (done.stdout, done.stderr) == ("['folio.training.tensorboard']\n", "")


def test_it_changes_nothing_that_is_computed(project, make_run):
    plain, watched = make_run("plain"), make_run("watched", tensorboard=True)
    for run in (plain, watched):
        run.train()
    assert all((one == other).all() for one, other in zip(plain.net.parameters(), watched.net.parameters()))


class Killed(Exception):
    pass


@pytest.mark.parametrize("before, flags", [(True, {}), (False, {"tensorboard": True})])
def test_a_resumed_run_has_no_duplicate_or_missing_points(project, make_run, before, flags):
    run = make_run(tensorboard=before, sample_tokens=0)
    step = run.step

    def killed():
        if run.progress.step == 13:         # three steps, and reports, after the last save
            raise Killed
        return step()
    run.step = killed
    with pytest.raises(Killed):
        run.train()
    assert len(run_log.read(project.log("test"))) == 13
    with continued(project, **flags) as run:
        run.train()
    log = run_log.read(project.log("test"))
    assert [report["step"] for report in log] == list(range(1, 21))
    assert [report["step"] for report in log if "decay_start" in report] == [1]
    assert seen(project.tensorboard("test")) == said(log)
    assert len(list(project.tensorboard("test").iterdir())) == 1


def test_points_of_a_file_that_cannot_be_removed_are_superseded(tmp_path, monkeypatch):
    events = Events(tmp_path)
    for step in range(1, 6):
        events.append({"step": step, "seconds": 1.0 * step, "train_loss": 9.0})

    def refused(path, **options):
        raise PermissionError
    monkeypatch.setattr("pathlib.Path.unlink", refused)
    kept = [{"step": step, "seconds": 1.0 * step, "train_loss": 9.0} for step in (1, 2, 3)]
    events.replace(kept)
    events.append({"step": 4, "seconds": 4.0, "train_loss": 1.0})
    assert len(list(tmp_path.iterdir())) == 2
    assert seen(tmp_path) == said([*kept, {"step": 4, "train_loss": 1.0}])


def test_a_new_run_does_not_inherit_events_of_an_earlier_one(project, make_run):
    Events(project.tensorboard("test")).append({"step": 900, "seconds": 1.0, "train_loss": 9.0})
    make_run(tensorboard=True, steps=3).train()
    assert {step for step, _ in seen(project.tensorboard("test"))[0]} == {1, 2, 3}


def test_relative_time_is_the_time_of_the_log(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = Events(tmp_path)
    events.replace([{"step": step, "seconds": 100.0 * step, "train_loss": 1.0} for step in (1, 2, 3)])
    events.append({"step": 4, "seconds": 400.0, "train_loss": 1.0})
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    times = [event.wall_time for event in reader.Scalars("train_loss")]
    assert [one - times[0] for one in times] == pytest.approx([0, 100, 200, 300], abs=1e-3)
    assert abs(times[2] - time.time()) < 60         # the newest when it began anew was written just now


def test_missing_tensorboard_is_one_message_before_training_starts(project, make_run, monkeypatch):
    run = make_run("plain")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    params = replace(run.params, training=replace(run.training, tensorboard=True))
    said = []
    with pytest.raises(FolioError, match="python -m pip install tensorboard"):
        with runs.new_run(project, "night", params, run.tokenizer, run.corpus, 0.0, say=said.append):
            pass
    assert not said and not list(project.saved_weights.glob("*night*"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_one_message(project, tmp_path):
    events = Events(tmp_path)
    events.append({"step": 1, "seconds": 1.0, "train_loss": 1.0})
    events.path.unlink()
    events.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        events.append({"step": 2, "seconds": 2.0, "train_loss": 1.0})


def test_the_script_prints_how_to_start_tensorboard(project):
    done = run_script("train.py", "--home", project.folder, *FLAGS, "--steps", "10", "--tensorboard")
    assert done.returncode == 0, done.stderr
    assert f"tensorboard --logdir {project.saved_weights / 'tensorboard'}" in done.stdout
    assert seen(project.tensorboard("default")) == said(run_log.read(project.log("default")))
