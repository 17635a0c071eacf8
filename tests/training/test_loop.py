"""The loop: a run is a function of its settings; names are free, and nothing useless is kept."""


import math
import os

import pytest
import torch

from conftest import FullDisk
from folio.base.errors import FolioError
from folio.formats import checkpoint, run_log
from folio.training import runs
from training_runs import (  # noqa: F401
    FLAGS,
    assert_ended_like,
    continued,
    half_done,
    make_run,
    project,
    same_weights,
    train_here,
    uninterrupted,
    weights_of,
    without_times,
)


def test_another_process_with_the_same_settings_makes_the_same_weights(project, uninterrupted, monkeypatch, capsys):
    code, _ = train_here(project, monkeypatch, capsys, *FLAGS)
    assert not code
    assert_ended_like(project, uninterrupted)


def test_another_seed_makes_other_weights(make_run):
    one, same, other = make_run(), make_run(), make_run(seed=2)
    for run in (one, same, other):
        run.step()
    assert same_weights(one.net.state_dict(), same.net.state_dict())
    assert not same_weights(one.net.state_dict(), other.net.state_dict())


def test_reporting_does_not_change_the_weights(project, make_run):
    one, other = make_run("one"), make_run("other", sample_tokens=0, eval_interval=2)
    for run in (one, other):
        run.train()
    assert same_weights(one.net.state_dict(), other.net.state_dict())


def test_a_taken_name_becomes_the_next_free_one_with_a_message(project, monkeypatch, capsys):
    words = ("--emb-len 16 --num-heads 2 --num-layers 1 --block-size 16 --batch-size 4 --steps 1 --sample-tokens 0 "
             "--threads 1").split()
    said = []
    for _ in range(3):
        said.append(train_here(project, monkeypatch, capsys, *words)[1])
    assert "already" not in said[0] and "run       default:" in said[0]
    assert "There is a run named default already; this one is default-2." in said[1]
    assert "There is a run named default already; this one is default-3." in said[2]
    before = {path: path.read_bytes() for path in project.saved_weights.iterdir() if path.is_file()}
    assert "night-2" not in train_here(project, monkeypatch, capsys, *words, "--name", "night")[1]
    assert (
        "There is a run named night already; this one is night-2."
        in train_here(project, monkeypatch, capsys, *words, "--name", "night")[1]
    )
    for path, content in before.items():
        assert path.read_bytes() == content, path               # nothing of another run was touched
    names = {path.name for path in project.saved_weights.glob("weights-*")}
    assert names == {f"weights-{name}.pth" for name in ("default", "default-2", "default-3", "night", "night-2")}


def test_unfinished_files_of_killed_runs_are_removed_by_the_next_run(project, make_run):
    half_done(make_run, "alive")
    left = [path.with_name(f".{path.name}.{'0123456789abcdef' * 2}.tmp") for path in
            (project.weights("dead"), project.resume("default"), project.log("dead.2"), project.weights("alive"))]
    for path in [*left, project.saved_weights / ".note.tmp"]:
        path.write_bytes(b"half")
    with continued(project, "alive"):
        left[-1].write_bytes(b"half")               # as if it were being written right now
        with runs._claimed(project, "default", say=pytest.fail):
            assert [path.exists() for path in left] == [False, False, False, True]
    assert (project.saved_weights / ".note.tmp").exists()


@pytest.mark.parametrize("taken_by", ["weights", "resume", "log"])
def test_any_file_of_a_run_reserves_its_name(project, taken_by):
    project.saved_weights.mkdir()
    path = getattr(project, taken_by)("default")
    path.write_bytes(b"mine")
    with runs._claimed(project, "default", say=lambda text: None) as name:
        assert name == "default-2"
    assert path.read_bytes() == b"mine"


def test_a_run_that_saved_nothing_releases_its_name(project):
    with pytest.raises(RuntimeError), runs._claimed(project, "default", say=pytest.fail):
        raise RuntimeError
    with runs._claimed(project, "default", say=pytest.fail) as name:
        assert name == "default"
    assert not list(project.saved_weights.glob("log-*"))


def test_two_runs_that_start_at_once_get_different_names(project):
    with (
        runs._claimed(project, "default", say=lambda text: None) as one,
        runs._claimed(project, "default", say=lambda text: None) as other,
    ):
        assert (one, other) == ("default", "default-2")


def test_a_new_run_removes_temporary_files_of_killed_runs_but_not_of_active_ones(project):
    project.saved_weights.mkdir()
    killed = [f".weights-k.pth.{'0' * 32}.tmp", f".resume-k.pth.{'1' * 32}.tmp", f".log-other.jsonl.{'2' * 32}.tmp"]
    kept = [f".weights-busy.pth.{'3' * 32}.tmp", f"..history.{'4' * 32}.tmp"]
    for name in [*killed, *kept]:
        (project.saved_weights / name).write_bytes(b"half")
    with runs._held(project, "busy"), runs._claimed(project, "k", say=pytest.fail):
        assert sorted(path.name for path in project.saved_weights.glob(".*.tmp")) == sorted(kept)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_files(project, make_run):
    run = make_run(steps=20)
    loss = run.train_step.loss
    run.train_step.loss = lambda *batch: loss(*batch) * (math.nan if run.progress.step == 7 else 1)
    with pytest.raises(FolioError, match="step 7 .*loss is nan.*--learning-rate"):
        run.train()
    contents = checkpoint.load(project.resume("test"))
    assert contents["progress"]["step"] == checkpoint.load(project.weights("test"))["step"] == 5
    assert all(tensor.isfinite().all() for tensor in contents["weights"].values())


def test_a_gradient_that_is_not_finite_changes_no_weight(make_run):
    run = make_run()
    before = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
    # Its slope at zero is infinite.
    run.train_step.loss = lambda *batch: (run.net.embedding.weight.sum() * 0).sqrt() + 1
    with pytest.raises(FolioError, match="step 0"):
        run.step()
    assert same_weights(before, run.net.state_dict())
    assert run.progress.step == 0


@pytest.mark.parametrize("sample_tokens", [0, 4])
def test_weights_that_are_not_finite_are_never_saved(project, make_run, sample_tokens):
    run = make_run(steps=20, eval_interval=1, sample_tokens=sample_tokens)
    step = run.step

    def spoiled():
        loss = step()
        if run.progress.step == 4:
            with torch.no_grad():
                run.net.head.weight[0, 0] = math.nan
        return loss
    run.step = spoiled
    with pytest.raises(FolioError, match="step"):
        run.train()
    for path in (project.weights("test"), project.resume("test")):
        assert all(tensor.isfinite().all() for tensor in weights_of(path).values()), path
    assert all(math.isfinite(line.get("val_bpb", 0)) for line in run_log.read(project.log("test")))


def test_weights_that_are_never_finite_leave_no_file(project, make_run):
    run = make_run(steps=20, eval_interval=1, optimizer="sgd", learning_rate=1000.0, gradient_clip=0.0, warmup_steps=0)
    with pytest.raises(FolioError, match="step"):
        run.train()
    for path in (project.weights("test"), project.resume("test")):
        assert not path.exists() or all(tensor.isfinite().all() for tensor in weights_of(path).values()), path


def test_a_full_disk_loses_nothing_that_was_saved(project, make_run, monkeypatch):
    run = make_run(steps=20)
    # Good are the weights and the resume file of step 5 and the weights of step 10, each with its folder.
    monkeypatch.setattr(os, "fsync", FullDisk(good_calls=6))
    with pytest.raises(OSError):
        run.train()
    monkeypatch.undo()
    assert checkpoint.load(project.resume("test"))["progress"]["step"] == 5
    assert checkpoint.load(project.weights("test"))["step"] in (5, 10)
    assert not list(project.saved_weights.glob("*.tmp")) and not list(project.saved_weights.glob(".*.tmp"))
    whole = make_run("whole", steps=20)
    whole.train()
    with continued(project, "test") as run:
        run.train()
    assert same_weights(weights_of(project.weights("test")), weights_of(project.weights("whole")))
    assert without_times(project.log("test")) == without_times(project.log("whole"))
