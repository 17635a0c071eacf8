"""Fine-tuning: training continues from trained weights on another text, with their tokenizer, and loses nothing."""

import re
import sys
import time
from dataclasses import replace

import pytest
import torch

import folio
import train
from conftest import ROOT, refusal, run_script
from folio.base.defaults import FINE_TUNING, for_length
from folio.base.errors import FolioError
from folio.data import corpus
from folio.formats import checkpoint, run_log
from folio.generation import language_model
from folio.networks import build as networks
from folio.training import runs
from Model_Params import ModelParams, Params, TextParams, TrainingParams

PRETRAINED = ROOT / "Saved_Weights" / "weights-pretrained.pth"
# Another style than the plays: what the modules and their tests say about themselves.
PROSE = "\n".join(sentence for path in sorted(ROOT.glob("**/*.py")) if ".venv" not in path.parts
                  for sentence in re.findall('"""(.+?)"""', path.read_text(encoding="utf-8"), re.DOTALL))[:20_000]
MODEL = ModelParams(emb_len=16, num_layers=1, num_heads=2, block_size=16)
TRAINING = TrainingParams(steps=6, minutes=None, batch_size=4, learning_rate=0.01, warmup_steps=2, eval_interval=3,
                          sample_tokens=4, threads=1, precision="fp32", compile=False, device="cpu")
LENGTH = ("--steps 6 --batch-size 4 --eval-interval 3 --sample-tokens 4 --threads 1 --precision fp32 "
          "--device cpu").split()


@pytest.fixture
def weights(home, plays):
    """Makes weights files: weights(), or weights(TextParams(tokenizer="char"), family="classic") -> path"""
    def make(text=TextParams(vocab_size=300), **changes):
        made = home(plays[:20_000])
        tokenizer, tokens = corpus.open_corpus(made, text)
        params = Params(tokens.text, replace(MODEL, **changes), TRAINING)
        with runs.new_run(made, "base", params, tokenizer, tokens, time.perf_counter(), say=lambda text: None) as run:
            run.train()
        return made.weights("base")
    return make


@pytest.fixture
def tune(monkeypatch, capsys):
    """train.py --start-from in this process: tune(home, path, "--dropout", 0.1) -> what it printed"""
    def make(project, path, *words):
        words = ["--home", str(project.folder), "--start-from", str(path), *LENGTH, *map(str, words)]
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        capsys.readouterr()
        assert not train.main()
        return capsys.readouterr().out
    return make


def everything_in(project):
    return {path: path.read_bytes() for path in sorted(project.folder.rglob("*")) if path.is_file()}


def tensors_of(path):
    return checkpoint.load(path)["weights"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- Its text ---

def test_the_flags_that_messages_about_a_text_name_are_there(home, weights, tune):
    start = weights()
    stories = "".join(f'{{"story": "Story {number} is told.\\n"}}\n' for number in range(60)).encode()
    project = home({"a.jsonl": stories + b'{"story": "caf\xe9"}\n'})
    words = ("train.py", "--home", project.folder, "--start-from", start, *LENGTH)
    assert "Say which one has the text: --field NAME." in refusal(run_script(*words))
    assert "--invalid-bytes keep" in refusal(run_script(*words, "--field", "story"))
    tune(project, start, "--field", "story", "--invalid-bytes", "replace")
    assert corpus.open_corpus(project, say=pytest.fail)[1].text == TextParams(field="story", invalid_bytes="replace")
    tune(project, start)                                    # which is remembered


def test_a_text_may_be_read_in_another_way_later(home):
    project = home({"a.jsonl": b'{"story": "To be, or not to be.\\n", "other": "That is the question.\\n"}\n' * 50})
    tokenizer, made = corpus.open_corpus(project, TextParams(vocab_size=300, field="story"))
    said = []
    _, other = corpus.open_corpus(project, wanted={"field": "other"}, say=said.append)
    assert tokenizer.decode(other.tokens).startswith("That is") and other.text.field == "other"
    assert "The text is not the one" in said[0]
    _, same = corpus.open_corpus(project, wanted={"invalid_bytes": "replace"}, say=pytest.fail)
    assert (same.fingerprint, same.text.invalid_bytes) == (other.fingerprint, "replace")
    assert corpus.open_corpus(project, say=pytest.fail)[1].text == same.text


def test_a_preset_reads_a_text_as_it_was_prepared(home, monkeypatch):
    asked_for = {}
    monkeypatch.setattr(corpus, "open_corpus", lambda home, wanted, say: asked_for.update(wanted) or sys.exit(0))
    words = ["--home", str(home(PROSE).folder), "--preset", "personal", "--invalid-bytes", "replace"]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    with pytest.raises(SystemExit):
        train.main()
    assert asked_for["invalid_bytes"] == "replace" and "field" not in asked_for and "pattern" in asked_for


# --- What it is for ---

def test_it_predicts_twenty_kilobytes_of_new_text_better_than_as_much_training_from_nothing(home):
    start, found = folio.load(PRETRAINED), {}
    made = home(PROSE)
    text = corpus.open_corpus(made, tokenizer=start.tokenizer)[1]
    length = replace(TRAINING, steps=20, eval_interval=20, batch_size=8, sample_tokens=0, learning_rate=None)
    for name, training, begins in (("tuned", replace(length, **FINE_TUNING), start), ("nothing", length, None)):
        params = Params(text.text, runs.tuned_model(start, {"block_size": 32}), training)
        with runs.new_run(made, name, params, start.tokenizer, text, time.perf_counter(), say=lambda text: None,
                          start=begins) as run:
            before = run.evaluate().nats_per_byte
            run.train()
            found[name] = before, run.progress.best_nats
    assert found["tuned"][1] < min(found["tuned"][0], found["nothing"][1]) - 0.1, found


def text_held_out(text, tokenizer):
    return tokenizer.decode(text.val[1:].tolist())


# --- Where it begins ---

def test_the_first_step_begins_with_the_weights_and_the_tokenizer_of_the_file(home, weights, tune):
    start, made = weights(), home(PROSE)
    out = tune(made, start, "--learning-rate", 1e-9)
    found = checkpoint.load(made.weights("tuned"))
    for name, tensor in tensors_of(start).items():
        torch.testing.assert_close(found["weights"][name], tensor, rtol=0, atol=1e-6)
    model = folio.load(start)
    text = text_held_out(corpus.open_corpus(made)[1], model.tokenizer)
    said = float(re.search(r"Before the first step: ([0-9.]+) bits/byte", out)[1])
    # The run's own figure alone begins with the last token of the training part.
    assert said == pytest.approx(model.bits_per_byte(text), abs=0.02)
    fingerprint = model.tokenizer.fingerprint
    assert folio.load(made.weights("tuned")).tokenizer.fingerprint == fingerprint
    assert corpus.open_corpus(made)[0].fingerprint == fingerprint


def test_a_home_with_nothing_but_a_text_gets_what_is_missing(home, weights, tune):
    start, made = weights(), home(PROSE)
    out = tune(made, start)
    assert f"The tokenizer of the weights is now in {made.tokenizer}." in out
    assert "Done." in out and made.weights("tuned").exists() and made.resume("tuned").exists()
    before = {path: content for path, content in everything_in(made).items()
              if path.parent in (made.tokens, made.tokenizer)}
    again = tune(made, start)
    assert "Encoding" not in again and "tokenizer of the weights" not in again
    assert "There is a run named tuned already; this one is tuned-2." in again
    assert everything_in(made).items() >= before.items()


def test_weights_are_found_by_path_file_name_and_run_name_and_else_what_there_is_is_listed(home, weights, tune):
    start, made = weights(), home(PROSE)
    tune(made, start, "--name", "first")
    for name in ("first", "weights-first.pth"):
        assert "starting from 'first'" in tune(made, name)
    with pytest.raises(FileNotFoundError, match="no weights named frist; .* weights-first.pth"):
        tune(made, "frist")


def test_a_run_knows_what_it_started_from(home, weights, tune):
    start, made = weights(), home(PROSE)
    out = tune(made, start)
    fingerprint = checkpoint.checksum(tensors_of(start))[:16]
    assert f"starting from 'base' ({fingerprint})" in out
    for contents in (checkpoint.load(made.weights("tuned")), checkpoint.load(made.resume("tuned"))["progress"]):
        assert contents["started_from"] == {"name": "base", "fingerprint": fingerprint}
    assert checkpoint.load(start)["started_from"] is None


def test_the_learning_rate_is_lower_and_sequences_are_whole_unless_it_is_said_otherwise(home, weights, tune):
    start, made = weights(), home(PROSE)
    tune(made, start)
    tune(made, start, "--learning-rate", 0.03, "--length-warmup", 3)
    used = [checkpoint.load(made.weights(name))["training"] for name in ("tuned", "tuned-2")]
    rate = FINE_TUNING["learning_rate"]
    assert [(params["learning_rate"], params["length_warmup"]) for params in used] == [(rate, 0), (0.03, 3)]
    assert all(rate < for_length(steps)["learning_rate"] for steps in (1, used[0]["steps"], 10**6))


def test_weights_that_training_only_makes_worse_are_kept_as_they_were(home, weights, tune):
    start, made = weights(), home(PROSE)
    out = tune(made, start, "--learning-rate", 10, "--warmup-steps", 0)
    assert "The best weights, of step 0" in out
    assert same(tensors_of(made.weights("tuned")), tensors_of(start))


# --- What may be different, and what not ---

def test_flags_that_change_the_shape_are_refused_together_before_anything_is_written(home, weights, tune):
    start, made = weights(), home(PROSE)
    before = everything_in(made)
    with pytest.raises(FolioError) as refused:
        tune(made, start, "--emb-len", 32, "--mlp", "gelu", "--num-layers", 1, "--dropout", 0.1)
    assert "as they are: emb_len is 16, not 32; mlp is swiglu, not gelu. Leave that as it is" in str(refused.value)
    assert everything_in(made) == before


@pytest.mark.parametrize("words", [["--resume"], ["--preset", "default"]])
def test_it_is_a_new_run_of_the_models_own_shape(home, words):
    message = refusal(run_script("train.py", "--home", home(PROSE).folder, "--start-from", "base", *words), code=2)
    assert "--start-from begins a new run" in message


def test_dropouts_may_be_given_anew(home, weights, tune):
    made, start = home(PROSE), weights(family="classic")
    tune(made, start, "--dropout", 0.2)
    assert folio.load(made.weights("tuned")).net.params.attention_dropout == 0.2           # classic: as dropout
    tune(made, start, "--dropout", 0.2, "--attention-dropout", 0.1)
    params = folio.load(made.weights("tuned-2")).net.params
    assert (params.dropout, params.attention_dropout) == (0.2, 0.1)


@pytest.mark.parametrize("family, block_size", [("folio", 8), ("folio", 64), ("classic", 8)])
def test_the_context_may_shrink_and_with_rotary_positions_grow(weights, family, block_size):
    start = folio.load(weights(family=family))
    net = networks.build_network(runs.tuned_model(start, {"block_size": block_size}))
    networks.take_over(net, start.net)
    tokens, shorter = torch.randint(300, (2, block_size)), min(block_size, 16)
    with torch.inference_mode():
        assert net.eval()(tokens).shape == (2, block_size, 300)
        torch.testing.assert_close(net(tokens[:, :shorter]), start.net(tokens[:, :shorter]))


def test_learned_positions_do_not_grow(weights):
    with pytest.raises(FolioError, match="learned the positions up to block_size=16, not 17"):
        runs.tuned_model(folio.load(weights(family="classic")), {"block_size": 17})


def test_another_tokenizer_in_the_home_is_neither_used_nor_replaced(home, weights, tune):
    start, made = weights(), home(PROSE)
    corpus.open_corpus(made, TextParams(vocab_size=280))
    before = everything_in(made)
    with pytest.raises(FolioError, match=r"tokenizer_save has another tokenizer than the weights, .* --home DIR"):
        tune(made, start)
    assert everything_in(made) == before


def test_characters_that_a_character_tokenizer_lacks_are_named_in_one_message_and_nothing_is_written(home, weights):
    start, made = weights(TextParams(tokenizer="char")), home("Grüße, ihr Wölfe! " * 200)
    message = refusal(run_script("train.py", "--home", made.folder, "--start-from", start, *LENGTH))
    assert "'ß' (U+00DF), 'ö' (U+00F6), 'ü' (U+00FC)" in message
    assert "Replace them in the text, or train from nothing" in message
    assert [path.name for path in everything_in(made)] == ["input.txt"]


def test_a_character_tokenizer_goes_along_too(home, weights, tune, plays):
    start, made = weights(TextParams(tokenizer="char")), home(plays[5_000:15_000])
    tune(made, start)
    assert folio.load(made.weights("tuned")).tokenizer.kind == "char"
    assert corpus.open_corpus(made)[1].text.tokenizer == "char"


def test_weights_that_are_damaged_or_a_text_that_is_not_there_leave_no_trace(home, weights, tune):
    start, made, empty = weights(), home(PROSE), home({})
    with pytest.raises(FileNotFoundError, match="Train_Data"):
        tune(empty, start)
    assert not empty.folder.exists()
    start.write_bytes(start.read_bytes()[:-100])
    with pytest.raises(FolioError, match="is not a valid Folio checkpoint"):
        tune(made, start)
    assert [path.name for path in everything_in(made)] == ["input.txt"]


# --- Going on ---

def test_a_stopped_run_goes_on_without_the_file_it_started_from_and_ends_with_the_same_bits(home, weights):
    start, made = language_model.load(weights()), home(PROSE)
    text = corpus.open_corpus(made, tokenizer=start.tokenizer)[1]

    def new(name):
        params = Params(text.text, runs.tuned_model(start, {}), TRAINING)
        return runs.new_run(made, name, params, start.tokenizer, text, time.perf_counter(), say=lambda text: None,
                            start=start)
    with new("whole") as run:
        run.train()
    with new("stopped") as run:
        for _ in range(3):
            run.step()
        run.save_resume()
    tokenizer, text = corpus.open_corpus(made)         # as train.py --resume does, which knows nothing of `start`
    said = []
    with runs.resumed_run(made, "stopped", None, {}, tokenizer, text, time.perf_counter(), say=said.append) as run:
        run.train()
    assert "starting from 'base'" in said[0] and "resuming after step 3" in said[0]
    assert same(tensors_of(made.resume("stopped")), tensors_of(made.resume("whole")))
    assert [line["step"] for line in run_log.read(made.log("stopped"))] == [4, 5, 6]
