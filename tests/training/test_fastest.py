"""Precision and threads: chosen by measuring where they are open, kept where they are not, and never measured again."""

import time
from dataclasses import replace

import pytest
import torch

from conftest import run_script
from folio.base import hardware
from folio.data import corpus
from folio.formats import checkpoint
from folio.training import fastest, plan, runs
from Model_Params import PRESETS, ModelParams, TextParams, TrainingParams

MODEL = ModelParams(vocab_size=100, emb_len=32, num_layers=2, num_heads=1, block_size=32).resolved()
OPEN = TrainingParams(steps=10, minutes=None, device="cpu", compile=False)


@pytest.fixture
def costs(monkeypatch):
    """Lets passes cost what a test says, {(precision, threads): seconds}, and returns those tried, in a list."""
    tried = []

    def say(seconds):
        monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
        monkeypatch.setattr(fastest, "not_emulated", lambda: ["fp32", "bf16"])
        monkeypatch.setattr(fastest, "SECONDS", (0.0, 0.0))
        monkeypatch.setattr(fastest._Part, "_seconds", lambda self, *choice: tried.append(choice) or seconds[choice])
        return tried
    return say


@pytest.mark.parametrize("seconds, chosen", [
    # bf16 is listed, and slow
    ({("fp32", 1): 1.0, ("bf16", 1): 2.0, ("fp32", 2): 0.6, ("fp32", 4): 0.4, ("fp32", 8): 0.3}, ("fp32", 8)),
    ({("fp32", 1): 2.0, ("bf16", 1): 1.0, ("bf16", 2): 0.6, ("bf16", 4): 0.7}, ("bf16", 2)),
    # within what a moment can tell
    ({("fp32", 1): 1.0, ("bf16", 1): 0.98, ("fp32", 2): 0.97}, ("fp32", 1)),
])
def test_the_fastest_precision_is_taken_and_threads_are_doubled_as_long_as_it_pays(seconds, chosen, costs):
    tried = costs(seconds)
    found, _ = fastest.choose(MODEL, OPEN, most_threads=8)
    assert (found.precision, found.threads) == chosen
    assert set(tried) == set(seconds)


def test_what_was_said_is_kept_and_what_is_all_said_is_not_measured(costs):
    tried = costs({("fp32", 3): 1.0, ("bf16", 3): 0.5, ("bf16", 1): 1.0, ("bf16", 2): 1.0})
    assert fastest.choose(MODEL, replace(OPEN, threads=3), 8)[0] == replace(OPEN, threads=3, precision="bf16")
    assert fastest.choose(MODEL, replace(OPEN, precision="bf16"), 8)[0] == replace(OPEN, threads=1, precision="bf16")
    del tried[:]
    said = replace(OPEN, precision="fp32", threads=3)
    assert fastest.choose(MODEL, said, 8)[0] == said and not tried


@pytest.mark.parametrize("device, precision", [("cuda", "bf16"), ("mps", "fp32")])
def test_other_devices_are_not_measured(device, precision, costs, monkeypatch):
    monkeypatch.setattr(hardware, "usual_precision", lambda device: precision)
    monkeypatch.setattr(plan.Resources, "of", lambda training: plan.Resources("cpu", 16, 1, None))
    tried = costs({})
    found, _ = fastest.choose(MODEL, replace(OPEN, device=device), 8)
    assert (found.precision, found.threads, tried) == (precision, 8, [])


def test_measuring_really_chooses_something_of_this_machine_in_little_time_and_leaves_the_threads_as_they_were():
    torch.set_num_threads(2)
    began = time.process_time()
    found, seconds_per_step = fastest.choose(MODEL, OPEN, most_threads=2)
    assert time.process_time() - began < 5                  # a tenth of a second is asked for; a machine may be slow
    assert found.precision in ("fp32", "bf16", "fp16") and found.threads in (1, 2) and torch.get_num_threads() == 2
    assert 0 < seconds_per_step < 5


def test_every_family_can_be_measured():
    for family in ("classic", "lstm"):
        model = ModelParams(vocab_size=100, emb_len=32, num_layers=2, block_size=32, family=family).resolved()
        assert fastest.choose(model, OPEN, 1)[0].precision != "auto"


def test_float32_is_never_left_out_and_a_half_that_is_slower_is(monkeypatch):
    assert fastest.not_emulated()[0] == "fp32"
    monkeypatch.setattr(fastest.time, "perf_counter", iter([0, 1, 0, 1, 0, 1, 0, 1, *[0, 9] * 4, *[0, 1] * 4]).__next__)
    assert fastest.not_emulated() == ["fp32", "fp16"]


def test_a_resumed_run_has_what_was_chosen_and_measures_nothing(home, plays, monkeypatch):
    made = home(plays[:20_000])
    tokenizer, text = corpus.open_corpus(made, TextParams(vocab_size=300))
    how = replace(PRESETS["default"], model=ModelParams(emb_len=16, num_layers=1, num_heads=1, block_size=16),
                  training=TrainingParams(steps=3, minutes=None, sample_tokens=0, device="cpu"))
    with runs.new_run(made, "auto", how, tokenizer, text, time.perf_counter(), say=lambda words: None) as run:
        chosen = run.training
        run.step()
        run.save_resume()
    assert chosen.precision != "auto" and chosen.threads
    stored = checkpoint.load(made.resume("auto"))["params"]["training"]
    assert (stored["precision"], stored["threads"]) == (chosen.precision, chosen.threads)
    monkeypatch.setattr(fastest, "_Part", None)             # would fail where anything is measured
    with runs.resumed_run(made, "auto", None, {}, tokenizer, text, time.perf_counter(), say=lambda words: None) as run:
        assert (run.training.precision, run.training.threads) == (chosen.precision, chosen.threads)


def test_what_was_chosen_is_shown(home, plays):
    made = home(plays[:20_000])
    assert run_script("init.py", "--home", made.folder, "--vocab-size", 300).returncode == 0
    done = run_script("train.py", "--home", made.folder, "--steps", 2, "--emb-len", 16, "--num-layers", 1,
                      "--num-heads", 1, "--sample-tokens", 0, "--verbose")
    assert done.returncode == 0 and "precision=auto" not in done.stdout and "precision=" in done.stdout, done.stderr
