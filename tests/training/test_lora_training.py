"""train.py --lora-rank: only adapters are trained and saved, exactly resumed, and used like any other weights."""

import json
import sys
import time
from dataclasses import replace

import pytest
import torch

import folio
import train
from folio.base.errors import FolioError
from folio.data import corpus
from folio.evaluation.bits_per_byte import evaluate
from folio.formats import checkpoint
from folio.generation import language_model
from folio.training import runs
from folio.training.loop import Run
from Model_Params import ModelParams, Params, TextParams, TrainingParams

MODEL = ModelParams(emb_len=16, num_layers=2, num_heads=2, block_size=32)
TRAINING = TrainingParams(steps=30, minutes=None, batch_size=8, learning_rate=0.01, warmup_steps=2, eval_interval=30,
                          sample_tokens=4, threads=1, precision="fp32", compile=False, device="cpu", length_warmup=0)
FLAGS = ("--steps 12 --batch-size 8 --eval-interval 4 --sample-tokens 4 --threads 1 --precision fp32 "
         "--device cpu").split()


@pytest.fixture
def project(home, plays):
    """A home with a text and the weights `base`."""
    made = home(plays[:20_000])
    tokenizer, text = corpus.open_corpus(made, TextParams(vocab_size=300))
    params = Params(text.text, MODEL, TRAINING)
    with runs.new_run(made, "base", params, tokenizer, text, time.perf_counter(), say=lambda text: None) as run:
        run.train()
    return made


@pytest.fixture
def tune(project, monkeypatch, capsys):
    """train.py in this process: tune("--start-from", "base") -> what it printed"""
    def make(*words):
        monkeypatch.setattr(sys, "argv", ["train.py", "--home", str(project.folder), *map(str, words)])
        capsys.readouterr()
        assert not train.main()
        return capsys.readouterr().out
    return make


def adapter_of(path):
    return checkpoint.load(path)["adapter"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_only_adapters_are_trained_and_saved_and_the_base_stays(project, tune):
    before = project.weights("base").read_bytes()
    out = tune("--start-from", "base", "--lora-rank", 2, *FLAGS)
    assert "best" in out and project.weights("base").read_bytes() == before
    saved, resume = checkpoint.load(project.weights("tuned")), checkpoint.load(project.resume("tuned"))
    assert not saved.keys() & {"weights", "tokenizer"}
    assert saved["adapter"]["base"]["name"] == "base" and saved["adapter"]["rank"] == 2
    assert saved["adapter"]["alpha"] == 4.0 and saved["training"]["optimizer"] == "adamw"
    assert resume["weights"].keys() == saved["adapter"]["weights"].keys()
    names = [name.rpartition(".")[2] for name in resume["weights"]]
    assert set(names) == {"a", "b"}
    (optimizer,) = resume["optimizers"]
    assert len(optimizer["state"]) == len(names)
    assert saved["started_from"] == saved["adapter"]["base"]
    start = checkpoint.load(project.weights("base"))["val_nats_per_byte"]
    assert saved["val_nats_per_byte"] < start
    assert folio.load(project.weights("tuned")).complete("The", tokens=5, temperature=0)


def test_what_was_validated_is_what_the_merged_file_computes(project, tune):
    tune("--start-from", "base", "--lora-rank", 2, *FLAGS)
    _, text = corpus.open_corpus(project)
    model = language_model.load(project.weights("tuned"))
    score = evaluate(model.net, text.val, text.val_bytes, block_size=MODEL.block_size, batch_size=8, device="cpu")
    saved = checkpoint.load(project.weights("tuned"))["val_nats_per_byte"]
    assert score.nats_per_byte == pytest.approx(saved, abs=2e-4)


def test_a_resumed_run_ends_like_one_that_was_not_stopped(project, tune):
    tune("--start-from", "base", "--lora-rank", 2, "--name", "whole", *FLAGS)
    whole = checkpoint.load(project.resume("whole"))
    with pytest.MonkeyPatch.context() as patch:         # a run that is killed after six of twelve steps
        step = Run.step
        patch.setattr(Run, "step", lambda run: step(run) if run.progress.step < 6 else (_ for _ in ()).throw(
            KeyboardInterrupt))
        patch.setattr("folio.training.loop.SAVE_SECONDS", 0)
        with pytest.raises(KeyboardInterrupt):
            tune("--start-from", "base", "--lora-rank", 2, "--name", "killed", *FLAGS)
    assert checkpoint.load(project.resume("killed"))["progress"]["step"] == 6
    tune("--resume", "--name", "killed")
    killed = checkpoint.load(project.resume("killed"))
    assert same(killed["weights"], whole["weights"])
    assert same(adapter_of(project.weights("killed"))["weights"], adapter_of(project.weights("whole"))["weights"])


def test_a_run_whose_base_is_gone_or_another_does_not_resume(project, tune):
    tune("--start-from", "base", "--lora-rank", 2, *FLAGS)
    path = project.weights("base")
    content = path.read_bytes()
    contents = checkpoint.load(path)
    contents["weights"]["blocks.0.mlp.up.weight"] += 1
    checkpoint.save(path, contents)
    words = "--resume", "--name", "tuned", "--steps", 20
    with pytest.raises(FolioError, match="put the file back that the run began with"):
        tune(*words)
    path.unlink()
    with pytest.raises(FolioError, match="weights-base.pth, and that is gone"):
        tune(*words)
    path.write_bytes(content)
    tune(*words)


def test_an_adapter_can_start_from_an_adapter_and_all_weights_too(project, tune):
    tune("--start-from", "base", "--lora-rank", 2, "--name", "first", *FLAGS)
    tune("--start-from", "first", "--lora-rank", 1, "--name", "second", *FLAGS)
    tune("--start-from", "first", "--name", "whole", *FLAGS)
    assert adapter_of(project.weights("second"))["base"]["name"] == "first"
    assert "weights" in checkpoint.load(project.weights("whole"))
    nats = [checkpoint.load(project.weights(name))["val_nats_per_byte"] for name in ("first", "second", "whole")]
    assert nats[1] <= nats[0] + 1e-4 and nats[2] <= nats[0] + 1e-4


def test_chat_trains_the_rows_of_its_tokens(project, tune):
    dialogues = project.folder / "dialogues.jsonl"
    dialogues.write_text("".join(json.dumps({"messages": [{"role": "user", "content": f"Is it {number}?"},
                                                          {"role": "assistant", "content": "Yes."}]}) + "\n"
                                 for number in range(40)), "utf-8")
    tune("--start-from", "base", "--lora-rank", 2, "--chat", dialogues, "--name", "chat", *FLAGS)
    adapter = adapter_of(project.weights("chat"))
    assert adapter["rows"] == [300, 301] and adapter["special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert adapter["weights"]["embedding.rows"].shape == (2, 16) == adapter["weights"]["head.rows"].shape
    model = folio.load(project.weights("chat"))
    assert model.chat is not None and model.tokenizer.vocab_size == 302
    tune("--resume", "--name", "chat", "--steps", 14)
    assert checkpoint.load(project.resume("chat"))["progress"]["step"] == 14


def test_what_cannot_be_is_refused_before_anything_is_written(project, home, plays, tune, capsys):
    other = home(plays[:20_000])
    before = [sorted(place.folder.rglob("*")) for place in (project, other)]
    with pytest.raises(SystemExit):
        tune("--lora-rank", 2, *FLAGS)
    assert "name them by --start-from" in capsys.readouterr().err
    with pytest.raises(FolioError, match="An adapter lies beside its base: copy"):
        tune("--home", other.folder, "--start-from", project.weights("base"), "--lora-rank", 2, *FLAGS)
    assert [sorted(place.folder.rglob("*")) for place in (project, other)] == before


def test_an_lstm_has_no_adapters(home, plays):
    made = home(plays[:20_000])
    tokenizer, text = corpus.open_corpus(made, TextParams(vocab_size=300))
    params = Params(text.text, ModelParams(family="lstm", emb_len=8, block_size=16), replace(TRAINING, steps=1))
    with runs.new_run(made, "base", params, tokenizer, text, time.perf_counter(), say=lambda text: None) as run:
        run.train()
    start = language_model.load(made.weights("base"))
    tuning = replace(params.tuning, lora_rank=2)
    params = replace(params, model=replace(runs.tuned_model(start, {}), vocab_size=None), tuning=tuning)
    with pytest.raises(FolioError, match="lora_rank is for transformers"):
        with runs.new_run(made, "tuned", params, tokenizer, text, time.perf_counter(), say=lambda text: None,
                          start=start):
            pass
    assert not made.weights("tuned").exists()
