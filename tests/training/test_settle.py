"""What is decided before a run's first step: what is open follows the text and the machine, what is set stays."""

import time
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from folio.base import hardware
from folio.base.errors import FolioError
from folio.base.hardware import Machine
from folio.cli.command_line import one_length
from folio.training import fastest
from folio.training import settle as settling
from folio.training.lessons import TextLessons
from folio.training.settle import bpe_dropout_for, pays_to_compile, settle
from Model_Params import PRESETS, ModelParams, Params, TextParams, TrainingParams

HERE = Machine(devices=("cpu",), compilers=("cpu",), threads=2)
TOKENIZER = SimpleNamespace(vocab_size=270)


def text_of(train_bytes, tokenizer="bpe"):
    """Return the numbers of a corpus of this many bytes."""
    return SimpleNamespace(train_bytes=train_bytes, train_tokens=train_bytes // 3 + 1,
                           text=TextParams(tokenizer=tokenizer))


@pytest.fixture(autouse=True)
def no_measurement(monkeypatch):
    """Let a step take a tenth of a second in float32."""
    def choose(model, training, most_threads):
        precision = "fp32" if training.precision == "auto" else training.precision
        return replace(training, precision=precision, threads=training.threads or most_threads), 0.1
    monkeypatch.setattr(fastest, "choose", choose)


def settled(machine=HERE, train_bytes=450_000, model=ModelParams(), **training):
    params = Params(model=model, training=replace(TrainingParams(), **one_length(training)))
    return settle(params, TextLessons(TOKENIZER, text_of(train_bytes)), machine)[0]


@pytest.mark.parametrize("name", PRESETS)
def test_everything_is_decided_and_deciding_again_changes_nothing(name):
    text = text_of(450_000, PRESETS[name].text.tokenizer)
    once, seconds_per_step = settle(PRESETS[name], TextLessons(TOKENIZER, text), HERE)
    open_fields = {field.name for part in (once.model, once.training) for field in fields(part)
                   if getattr(part, field.name) in (None, "auto")}
    in_blocks = {"num_heads", "num_kv_heads", "head_len", "attention_dropout", "norm", "norm_eps", "positions", "mlp",
                 "query_key_norm", "biases"} if once.model.is_recurrent else set()
    assert open_fields <= {"steps", "minutes", "epochs", "eval_interval", "patience", "rope_base", "track"} | in_blocks
    assert seconds_per_step == 0.1
    other = Machine(devices=("cuda", "cpu"), compilers=(), threads=64)
    # As a resumed run does.
    assert settle(once, TextLessons(TOKENIZER, text), other, ends_at=0.0)[0] == once


def test_a_long_text_keeps_its_context_and_a_short_one_shrinks_it():
    assert settled(train_bytes=450_000).model.block_size == 256
    assert settled(train_bytes=3_000).model.block_size == 64


def test_a_resumed_run_keeps_its_context_and_vocabulary():
    model = settled(train_bytes=3_000, model=ModelParams(vocab_size=300)).model
    assert (model.vocab_size, model.block_size) == (300, 256)


def test_epochs_are_steps():
    training = settled(epochs=2.0).training
    assert (training.epochs, training.steps) == (None, 147)         # 150,001 tokens in steps of 8 x 256


def test_a_run_by_the_clock_has_the_schedule_of_the_steps_that_fit_into_the_time_left():
    params = Params(training=TrainingParams(minutes=1.0))
    whole, half = (settle(params, TextLessons(TOKENIZER, text_of(450_000)), HERE, ends_at)[0].training
                   for ends_at in (None, time.perf_counter() + 30))
    assert whole.warmup_steps == 20 and half.warmup_steps == 14         # a twentieth of 571 and of 286 steps
    assert whole.learning_rate < half.learning_rate and whole.bpe_dropout > half.bpe_dropout > 0


@pytest.mark.parametrize("steps, values, expected", [
    (50, {}, 0.0),                              # less than a pass
    (366, {}, 0.1),                             # 750 thousand tokens: 5 passes
    (1000, {}, 0.2),
    (590, {"bpe_dropout": 0.05}, 0.05),         # what is set stays
    (590, {"bpe_dropout": 0.0}, 0.0),
    (590, {"batches": "shuffled"}, 0.161),
])
def test_bpe_dropout_follows_how_often_the_text_is_read(steps, values, expected):
    assert settled(steps=steps, **values).training.bpe_dropout == expected


def test_text_that_can_be_said_in_one_way_only_has_no_bpe_dropout():
    model, training = ModelParams(vocab_size=270).resolved(), TrainingParams()
    assert bpe_dropout_for(1000, training, model, text_of(450_000, "char")) == 0.0
    assert bpe_dropout_for(1000, replace(training, batches="consecutive"), model, text_of(450_000)) == 0.0


# --- The machine ---

def test_what_is_set_stays_whatever_the_machine():
    said = {"device": "cpu", "precision": "fp32", "threads": 3, "compile": True, "micro_batch_size": 4}
    training = settled(Machine(("cuda", "mps", "cpu"), (), 64), steps=100, **said).training
    assert said.items() <= vars(training).items()


def test_compiling_is_for_runs_that_are_long_enough_where_there_is_a_compiler():
    without = replace(HERE, compilers=())
    assert not settled(minutes=3.0).training.compile and settled(minutes=60.0).training.compile
    assert not settled(without, minutes=60.0).training.compile
    assert not settled(minutes=60.0, model=ModelParams(family="lstm")).training.compile
    assert not settled(steps=100).training.compile and settled(steps=10**6).training.compile


def test_a_run_is_long_enough_by_its_operations(monkeypatch):
    model, training = ModelParams(vocab_size=270).resolved(), TrainingParams(minutes=None, steps=1000)
    for flops, pays in ((10**9, False), (10**12, True)):
        monkeypatch.setattr(settling.plan, "flops_per_step", lambda model, training: flops)
        assert pays_to_compile(model, training, "cpu", HERE) is pays
    assert not pays_to_compile(model, training, "mps", replace(HERE, compilers=("mps",)))         # not measured there


def test_this_machine_has_a_processor():
    here = Machine.here()
    assert here.devices[-1] == "cpu" and here.threads >= 1 and set(here.compilers) <= set(here.devices)
    assert hardware.settle_device("auto") == here.devices[0]


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "tpu", "meta", "", "cpu:1", "cpu:x"])
def test_a_device_that_is_not_here_is_refused_and_what_is_here_named(device):
    with pytest.raises(FolioError, match=f"device={device} is not available; on this machine, .*: cpu."):
        settled(device=device)


def test_everything_that_is_wrong_is_said_together():
    with pytest.raises(FolioError) as refused:
        settled(model=ModelParams(emb_len=100, num_heads=3), steps=10, micro_batch_size=3)
    assert "num_heads=3" in str(refused.value) and "micro_batch_size=3" in str(refused.value)
