"""Killed, stopped and resumed: a run ends as if nothing had happened, and --resume refuses what would change it."""


import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import folio
from conftest import ROOT, refusal, run_python, run_script
from folio.data import corpus
from folio.formats import checkpoint, run_log, torch_file
from folio.formats.tokenizers import write
from folio.training.loop import Run
from Model_Params import PRESETS
from tokenizer import BPETokenizer, load
from training_runs import (  # noqa: F401
    FLAGS,
    TRAINING,
    VOCABULARY,
    Clock,
    Killed,
    assert_ended_like,
    continued,
    events,
    half_done,
    make_run,
    project,
    refusal_of,
    run_train,
    same_weights,
    train_here,
    uninterrupted,
    wait_for,
    weights_of,
    without_times,
)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_run_killed_repeatedly_ends_with_the_same_weights_and_log(project, uninterrupted, seed):
    chance = random.Random(seed)
    words, lines = FLAGS, 0
    for _ in range(2):
        process = run_train(project, *words)
        # Beyond the first save, and beyond what the last one had.
        lines = max(lines, 10) + chance.randrange(3, 14)
        wait_for(
            process,
            lambda: project.resume("default").exists() and len(run_log.read(project.log("default"))) >= min(lines, 52),
        )
        time.sleep(chance.random() * 0.05)
        process.kill()
        process.communicate()
        words = ["--resume"]
    process = run_train(project, "--resume")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "resuming after step" in out
    assert_ended_like(project, uninterrupted)


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM")
def test_ctrl_c_and_sigterm_save_and_print_how_to_resume(project, uninterrupted):
    words = FLAGS
    for number, lines in ((signal.SIGINT, 7), (signal.SIGTERM, 33)):
        process = run_train(project, *words)
        wait_for(process, lambda: len(run_log.read(project.log("default"))) >= lines)
        process.send_signal(number)
        out, err = process.communicate()
        assert process.returncode == 128 + number and "Traceback" not in err, err
        said = re.fullmatch(
            r"Stopped after step (\d+); everything is saved\. To continue: python train\.py (.*)", out.splitlines()[-1]
        )
        assert int(said[1]) == checkpoint.load(project.resume("default"))["progress"]["step"] >= 5 * lines
        assert project.weights("default").exists()
        words = said[2].split()
        assert words == ["--resume", "--name", "default", "--home", str(project.folder)]
    process = run_train(project, *words)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert_ended_like(project, uninterrupted)


@pytest.mark.skipif(os.name != "posix", reason="SIGHUP")
def test_closing_the_terminal_saves_the_run(project):
    process = run_train(project, *FLAGS, "--steps", 100_000)
    wait_for(process, lambda: len(run_log.read(project.log("default"))) >= 3)
    for _ in range(3):                                          # the shell sends it, and then the system
        process.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGHUP and "everything is saved" in out, err
    assert checkpoint.load(project.resume("default"))["progress"]["step"] >= 15 and project.weights("default").exists()


@pytest.mark.skipif(os.name != "posix", reason="nohup")
def test_a_run_under_nohup_continues_without_its_terminal(project):
    process = run_train(project, *FLAGS, "--steps", 40, through=["nohup"])
    wait_for(process, lambda: run_log.read(project.log("default")))
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate()
    assert process.returncode == 0 and "Done." in out, err


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
def test_a_run_saves_even_where_its_terminal_is_gone(project):
    ours, its = os.openpty()
    words = [sys.executable, ROOT / "train.py", "--home", project.folder, *map(str, FLAGS), "--steps", "100000"]
    process = subprocess.Popen(words, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    wait_for(process, lambda: len(run_log.read(project.log("default"))) >= 3 or not os.read(ours, 1 << 16))
    os.close(ours)
    time.sleep(0.2)                                             # while it writes to what is not there any more
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 128 + signal.SIGHUP
    assert checkpoint.load(project.resume("default"))["progress"]["step"] >= 15


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_run_whose_reader_leaves_continues_and_prints_that(project, unbuffered):
    process = run_train(
        project, *FLAGS, "--steps", 60, "--eval-interval", 10, env=os.environ | {"PYTHONUNBUFFERED": unbuffered}
    )
    assert process.stdout.readline().startswith("run       default")        # a line is there when it is printed
    process.stdout.close()                                                  # as `| head -1` does
    err = process.stderr.read()
    assert process.wait() == 0
    assert (
        err.count("Nobody reads what is written here any more; the work goes on without it.") == 1
        and "Traceback" not in err
    )
    assert checkpoint.load(project.resume("default"))["progress"]["finished"]


def test_a_run_killed_between_any_two_writes_ends_with_the_same_weights_and_log(project, make_run, monkeypatch):
    changes = dict(steps=8, eval_interval=4, dropout=0.1)
    with monkeypatch.context() as patched:
        happened = events(patched, die_at=None)
        make_run("whole", **changes).train()
    weights, log = weights_of(project.weights("whole")), without_times(project.log("whole"))
    # Of the resume file; the weights come before.
    first_save = [number for number, name in enumerate(happened) if name == "save"][1]
    assert happened.count("save") == 4 and len(happened) > 15
    for die_at in range(1, len(happened) + 1):
        name = f"killed-{die_at}"
        with monkeypatch.context() as patched, pytest.raises(Killed):
            events(patched, die_at)
            make_run(name, **changes).train()
        if project.resume(name).exists():
            with continued(project, name) as run:
                run.train()
        else:                                               # it died before its first save: then it begins anew
            assert die_at <= first_save + 1
            project.log(name).unlink(missing_ok=True)
            make_run(name, **changes).train()
        assert same_weights(weights_of(project.weights(name)), weights), die_at
        assert without_times(project.log(name)) == log, die_at


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_after_the_step_and_leaves_weights_to_run(project, make_run, number):
    run = make_run()
    step = run.step

    def interrupted():
        if run.progress.step == 2:
            os.kill(os.getpid(), number)
        return step()
    run.step = interrupted
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert run.train() == number
    assert run.progress.step == 3
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    model = folio.load(project.weights("test"))                 # though no evaluation had come yet
    assert (model.step, model.val_bpb) == (3, None)
    assert len(model.complete("The", tokens=3, seed=0)) > 0


def test_a_signal_during_the_last_evaluation_does_not_stop_the_run(make_run, monkeypatch):
    run = make_run(steps=5)
    evaluate = run.evaluate
    monkeypatch.setattr(run, "evaluate", lambda: os.kill(os.getpid(), signal.SIGINT) or evaluate())
    assert run.train() is None
    assert checkpoint.load(run.home.resume("test"))["progress"]["finished"]


def test_a_run_with_rare_evaluations_is_saved_every_minute(project, make_run, monkeypatch):
    clock = Clock()
    run = make_run(
        "long", clock=clock, started_at=0, steps=20, eval_interval=20, run_class=clock.slowing(Run, seconds_per_step=25)
    )
    saved = []
    monkeypatch.setattr(run, "save_resume", lambda: saved.append(run.progress.step))
    run.train()
    assert saved == [3, 6, 9, 12, 15, 18, 20]


def test_resume_without_any_run_prints_how_to_start_one(project, monkeypatch, capsys):
    with pytest.raises(FileNotFoundError, match="no unfinished run.*python train.py"):
        train_here(project, monkeypatch, capsys, "--resume")


def test_resume_of_an_unknown_name_lists_the_known_ones(project, make_run):
    half_done(make_run, "night")
    assert "night" in refusal_of(continued(project, "day"))


def test_resume_takes_the_newest_unfinished_run(project, make_run):
    for name in ("first", "second"):
        half_done(make_run, name)
        time.sleep(0.02)
    make_run("finished").train()
    with continued(project) as run:
        assert run.name == "second"
    with continued(project, "first") as run:
        assert run.name == "first"


def test_resume_reads_only_one_file_whole_and_only_once(project, make_run, monkeypatch):
    for name in ("first", "second"):
        half_done(make_run, name)
        time.sleep(0.02)
    make_run("finished").train()
    whole, contents = [], torch_file.TorchFile.contents
    monkeypatch.setattr(
        torch_file.TorchFile, "contents", lambda self: whole.append(Path(self._file.name)) or contents(self)
    )
    said = []
    with continued(project, say=said.append) as run:
        assert run.name == "second"
    assert whole == [project.resume("second")]
    assert said[0] == "Going on with second, of 3 runs the newest that is not finished; --name takes another."


def test_resume_with_other_hyperparameters_lists_all_of_them(project, make_run):
    half_done(make_run)
    message = refusal_of(continued(project, emb_len=32, seed=2, batch_size=4, learning_rate=0.5, threads=7))
    for words in ("emb_len is 16, not 32", "seed is 1, not 2", "learning_rate is 0.01, not 0.5", "threads is 1, not 7"):
        assert words in message
    assert "batch_size" not in message              # which is as it was


def test_resume_with_a_preset_of_other_values_is_refused(project, make_run):
    half_done(make_run)
    message = refusal_of(continued(project, preset=PRESETS["shakespeare-10m"]))
    assert "family is folio, not classic" in message and "optimizer is muon, not adamw" in message


def test_resume_with_another_tokenizer_is_refused(project, make_run):
    half_done(make_run)
    corpus.open_corpus(project, replace(VOCABULARY, vocab_size=280))
    assert "tokenizer is another" in refusal_of(continued(project))


def test_init_keeps_the_tokenizer_of_an_unfinished_run_and_train_prints_where(project, make_run):
    half_done(make_run)
    old = load(project.tokenizer)
    kept = project.kept_tokenizer(old.fingerprint)
    words = "--home", project.folder, "--vocab-size", 280
    told = run_script("init.py", *words).stdout
    assert told.startswith(f"Unfinished runs need the tokenizer that was in {project.tokenizer}: test. It is")
    assert f"python train.py --resume --name test --home {project.folder}\n" in told
    assert "Unfinished" not in run_script("init.py", *words).stdout         # as nothing is replaced
    assert load(kept).to_dict() == old.to_dict() != load(project.tokenizer).to_dict()
    said = refusal(run_script("train.py", "--home", project.folder, "--resume"))
    assert f"its tokenizer is another than the one in {project.tokenizer} (its own was kept" in said
    assert f"copy the files in {kept} back there)" in said
    shutil.copytree(kept, project.tokenizer, dirs_exist_ok=True)
    with continued(project) as run:
        run.train()
    assert run.progress.finished


def test_an_import_keeps_the_tokenizer_of_an_unfinished_run(project, make_run, tmp_path):
    half_done(make_run)
    old = load(project.tokenizer)
    write(BPETokenizer([(97, 98)]), "huggingface", tmp_path / "other.json")
    words = "-m", "folio.convert", "import", tmp_path / "other.json", "--home", project.folder, "--replace"
    told = run_python(*words).stdout
    assert told.startswith(f"Unfinished runs need the tokenizer that was in {project.tokenizer}: test. It is")
    assert load(project.kept_tokenizer(old.fingerprint)).to_dict() == old.to_dict()
    assert load(project.tokenizer).merges == [(97, 98)]
    assert "Unfinished" not in run_python(*words).stdout


def test_a_finished_run_and_a_damaged_one_need_no_tokenizer(project, make_run):
    make_run(steps=3).train()
    project.resume("bad").write_bytes(b"nothing")
    told = run_script("init.py", "--home", project.folder, "--vocab-size", 280)
    assert (told.returncode, told.stderr) == (0, "") and "Unfinished" not in told.stdout
    assert not list(project.tokenizer.glob("before-*"))


def test_resume_with_another_text_is_refused(project, make_run):
    half_done(make_run)
    path = project.train_data / "input.txt"
    path.write_text(path.read_text(encoding="utf-8")[:-100], encoding="utf-8")
    corpus.open_corpus(project, say=lambda text: None)
    assert "text is another" in refusal_of(continued(project))


def test_a_run_is_resumed_by_one_process_at_a_time(project, make_run):
    half_done(make_run)
    before = project.resume("test").read_bytes()
    with continued(project):
        assert "another process" in refusal_of(continued(project))
    assert project.resume("test").read_bytes() == before
    with continued(project):
        pass                                        # and afterwards again


def test_a_finished_run_asks_for_more_steps_and_continues_with_them(project, make_run):
    make_run().train()
    assert "--steps" in refusal_of(continued(project, "test"))
    assert "--steps" in refusal_of(continued(project, "test", steps=20, minutes=None))
    assert "no unfinished run" in refusal_of(continued(project))
    with continued(project, "test", steps=25, minutes=None) as run:
        assert run.train() is None
    assert run.progress.step == 25
    assert [line["step"] for line in run_log.read(project.log("test")) if "val_bpb" in line] == [5, 10, 15, 20, 25]
    assert "--steps" in refusal_of(continued(project, "test"))


def test_a_run_of_steps_can_be_resumed_by_minutes_and_vice_versa(project, make_run):
    half_done(make_run, steps=1000)
    with continued(project, minutes=5.0, steps=None) as run:
        assert run.schedule.total_steps is None and run.progress.decay_start is None     # time has not decided yet
    with continued(project, minutes=None, steps=500) as run:
        assert (run.schedule.total_steps, run.progress.decay_start) == (500, 300)


def test_reporting_may_change_on_resume(project, make_run):
    half_done(make_run)
    with continued(project, sample_tokens=0) as run:
        assert run.training == replace(TRAINING.resolved(), sample_tokens=0)


@pytest.mark.parametrize("preset", [[], ["--preset", "default"]])
def test_the_same_command_with_resume_works_even_where_the_context_had_shrunk(
    home, plays, preset, monkeypatch, capsys
):
    small = home(plays[:1500])
    corpus.open_corpus(small, VOCABULARY)
    words = [
        *preset,
        *"--emb-len 16 --num-heads 2 --num-layers 1 --block-size 256 --batch-size 4".split(),
        *"--sample-tokens 0 --threads 1".split(),
    ]
    code, out = train_here(small, monkeypatch, capsys, *words, "--steps", 2)
    assert not code and "the context shrinks from 256 to" in out
    code, out = train_here(small, monkeypatch, capsys, *words, "--resume", "--name", "default", "--steps", 4)
    assert not code and "resuming after step 2" in out


def test_best_weights_that_are_deleted_are_searched_for_again(project, make_run):
    run = make_run(steps=20)
    for _ in range(5):
        run.step()
    run.progress.best_nats, run.progress.best_step = 0.001, 4           # better than anything that will come
    run.save_resume()
    said = []
    with continued(project, say=said.append) as run:
        assert "weights-test.pth is gone" in said[0]
        run.train()
    assert project.weights("test").exists() and run.progress.best_step > 5
