"""Fixtures and helpers of the tests of training: small runs, in this process and in processes of their own."""


import subprocess
import sys
import time
from dataclasses import replace
from functools import cache

import pytest
import torch

import train
from conftest import ROOT
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.data import corpus
from folio.evaluation.bits_per_byte import Score, evaluate_windows
from folio.formats import checkpoint, run_log
from folio.training import report, runs
from folio.training.lessons import TextLessons
from folio.training.loop import Run
from Model_Params import ModelParams, Params, TextParams, TrainingParams

VOCABULARY = TextParams(vocab_size=270)
MODEL = ModelParams(emb_len=16, num_layers=1, num_heads=2, block_size=16, dropout=0.0)
TRAINING = TrainingParams(
    steps=20,
    minutes=None,
    batch_size=4,
    optimizer="muon",
    learning_rate=0.01,
    weight_decay=0.1,
    warmup_steps=2,
    decay_fraction=0.4,
    gradient_clip=1.0,
    eval_interval=5,
    sample_tokens=4,
    threads=1,
    precision="fp32",
    compile=False,
    device="cpu",
    seed=1,
    length_warmup=0,
)
# The same kind of run for the script. An evaluation every 50 steps, a line in the log every 5.
FLAGS = (
    "--emb-len 32 --num-layers 1 --num-heads 2 --block-size 32 --batch-size 8 --steps 300 --eval-interval 50 "
    "--learning-rate 0.01 --warmup-steps 20 --decay-fraction 0.4 --sample-tokens 5 --threads 1 --precision fp32 "
    "--dropout 0.1"
).split()


@pytest.fixture
def project(home, plays):
    """A home whose text is ready to train on."""
    made = home(plays[:20_000])
    corpus.open_corpus(made, VOCABULARY)
    return made


@pytest.fixture
def make_run(project):
    """Makes runs without a script around them: make_run(steps=3, dropout=0.1) -> Run"""
    def make(name="test", run_class=Run, **changes):
        tokenizer, text = corpus.open_corpus(project)
        options = {key: changes.pop(key) for key in ("clock", "started_at") if key in changes}
        model = replace(
            MODEL,
            vocab_size=tokenizer.vocab_size,
            **{key: changes.pop(key) for key in list(changes) if hasattr(MODEL, key)},
        )
        params = Params(text.text, model.resolved(), replace(TRAINING, **changes).resolved())
        assert not list(params.problems())
        project.saved_weights.mkdir(exist_ok=True)
        lessons = TextLessons(tokenizer, text)
        return run_class(project, name, params, lessons, **{"started_at": time.perf_counter(), **options})
    return make


def continued(project, name=None, preset=None, say=lambda text: None, **flags):
    """The Run with which --resume goes on, in a `with`."""
    tokenizer, text = corpus.open_corpus(project)
    return runs.resumed_run(project, name, preset, flags, tokenizer, text, time.perf_counter(), say=say)


def run_train(project, *words, through=(), env=None):
    """train.py as a process of its own, `through` another command. -> Popen"""
    return subprocess.Popen(
        [*through, sys.executable, ROOT / "train.py", "--home", project.folder, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=env,
    )


def train_here(project, monkeypatch, capsys, *words):
    """train.py's main in this process. -> exit code, what it printed"""
    monkeypatch.setattr(sys, "argv", ["train.py", "--home", str(project.folder), *map(str, words)])
    capsys.readouterr()
    code = train.main()
    return code, capsys.readouterr().out


def weights_of(path):
    return checkpoint.load(path)["weights"]


def same_weights(one, other):
    """Whether two networks' tensors are the same, to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_times(path):
    """The lines of a log, less what no two runs have in common."""
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "tokens_per_second")}
        for line in run_log.read(path)
    ]


def torch_runs_out():
    torch.empty(1 << 50)            # a petabyte, which no CPU's allocator gives


def python_runs_out():
    raise MemoryError


def gpu_runs_out():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def onednn_runs_out():
    raise RuntimeError("could not create a primitive")


def with_room_for(run, windows, run_out, good_calls=0):
    """A Run whose network, after some good calls, computes no more than so many windows at once."""
    forward, calls = run.net.forward, []

    def limited(tokens):
        calls.append(1)
        if len(tokens) > windows and len(calls) > good_calls:
            run_out()
        return forward(tokens)
    run.net.forward = limited
    return run


def assert_the_same_to_rounding(run, reference):
    for one, other in zip(run_log.read(run.reporter.log.path), run_log.read(reference.reporter.log.path), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one.get("val_bpb", 0) == pytest.approx(other.get("val_bpb", 0), rel=1e-4)
    for one, other in zip(run.net.parameters(), reference.net.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.fixture
def uninterrupted(tmp_path_factory, plays):
    """A home, the weights, the log and the output of a run that nothing stopped, made once by a process of its own."""
    return make_uninterrupted(tmp_path_factory.getbasetemp() / "uninterrupted", plays)


@cache
def make_uninterrupted(folder, plays):
    made = Home(folder)
    made.train_data.mkdir(parents=True)
    (made.train_data / "input.txt").write_text(plays[:20_000], encoding="utf-8", newline="\n")
    corpus.open_corpus(made, VOCABULARY)
    process = run_train(made, *FLAGS)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return made, checkpoint.load(made.weights("default")), without_times(made.log("default")), out


def assert_ended_like(project, uninterrupted, name="default"):
    _, contents, log, _ = uninterrupted
    found = checkpoint.load(project.weights(name))
    assert same_weights(found["weights"], contents["weights"])
    assert (found["step"], found["val_bpb"]) == (contents["step"], contents["val_bpb"])
    assert without_times(project.log(name)) == log


def wait_for(process, condition):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


class Killed(BaseException):
    """The process is gone; nothing in it catches that."""


def events(monkeypatch, die_at):
    """Count what leaves a trace on the disk, and die before event number `die_at`. -> what happened so far"""
    happened = []

    def watch(owner, name):
        original = getattr(owner, name)

        def watched(*all, **named):
            happened.append(name)
            if len(happened) == die_at:
                raise Killed
            return original(*all, **named)
        monkeypatch.setattr(owner, name, watched)
    watch(Run, "step")
    watch(run_log.RunLog, "append")
    watch(checkpoint, "save")
    return happened


def half_done(make_run, name="test", **changes):
    """A run that was stopped in the middle."""
    run = make_run(name, **changes)
    for _ in range(3):
        run.step()
    run.save_resume()
    return run


def refusal_of(context):
    with pytest.raises((FolioError, OSError)) as refused:
        with context:
            pass
    return str(refused.value)


def with_scores(run, *scores):
    scores = iter(scores)
    run.evaluate = lambda: Score(next(scores), 1, 1)
    return run


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def slowing(self, run_class, seconds_per_step, evaluation=1.0, learns=True):
        """Return a Run class whose steps take a given time by this clock.

        seconds_per_step: a number, or (this clock's time, the number of the step) -> a number
        evaluation: how many times as long as expected an evaluation takes
        learns: False where only the time matters, so that a step takes no time of the test's
        """
        def seconds_at(step):
            return seconds_per_step(self.now, step) if callable(seconds_per_step) else seconds_per_step

        class Slow(run_class):
            def step(run):
                self.now += seconds_at(run.progress.step)
                if learns:
                    return super().step()
                run.progress.count_step(1.0, run.tokens_per_step, 0)
                run.grad_norm = 1.0

            def __init__(run, *parts, **options):
                super().__init__(*parts, **options)
                measured = run.evaluator._measured

                def slowly(measure, text, *more, block_size, step):
                    tokens = block_size * len(more[1]) if measure is evaluate_windows else len(text) - 1
                    self.now += evaluation * report.evaluation_steps(tokens, run.tokens_per_step) * seconds_at(step)
                    return (
                        measured(measure, text, *more, block_size=block_size, step=step) if learns else Score(1.0, 1, 1)
                    )

                run.evaluator._measured = slowly
        return Slow


def by_the_clock(make_run, name, seconds_per_step=1.0, evaluation=1.0, learns=True, **changes):
    """A run of two minutes, whose process took ten seconds to start."""
    clock = Clock()
    clock.now = 10.0
    options = {"steps": None, "minutes": 2.0, "eval_interval": 30, "sample_tokens": 0} | changes
    run = make_run(
        name, clock.slowing(Run, seconds_per_step, evaluation, learns), clock=clock, started_at=0.0, **options
    )
    return run, clock
