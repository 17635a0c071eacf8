"""Learning from preferences: DPO's loss, and runs of train.py."""

import json
import math
import sys

import pytest
import torch

from conftest import ROOT, refusal, run_script
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.chat.template import ChatTemplate, taught
from folio.data import corpus
from folio.data.preferences import Encoder, Preference, batch_of
from folio.formats import checkpoint, run_log, trained_model
from folio.formats.run_list import list_runs
from folio.networks import build as networks
from folio.training.loop import Run
from folio.training.preferences import PreferenceLessons, dpo_losses, margins
from Model_Params import ModelParams, TextParams
from tokenizer import BPETokenizer
from training_runs import same_weights, train_here, without_times

sys.path.insert(0, str(ROOT / "benchmarks"))

import preferences  # it lies there

LENGTH = ("--steps 12 --batch-size 4 --eval-interval 6 --sample-tokens 4 --threads 1 --precision fp32 --device cpu "
          "--learning-rate 0.001").split()
RECORDS = [{"prompt": f"MERRAN: {number} of", "chosen": f" them {number}!", "rejected": f" it, {number} or more."}
           for number in range(40)]


def written(path, records=RECORDS):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def project(home, plays):
    """A home with text, a model that has learned nothing yet, and a file of pairs."""
    made = home(plays[:20_000])
    tokenizer, _ = corpus.open_corpus(made, TextParams(vocab_size=300))
    save_model(made, "base", tokenizer, tokenizer.encode("\n"))
    written(made.folder / "pairs.jsonl")
    return made


def save_model(home, name, tokenizer, opening, chat=None, **changes):
    """Write a weights file of a tiny network."""
    torch.manual_seed(1)
    params = ModelParams(vocab_size=tokenizer.vocab_size, block_size=32, emb_len=16, num_layers=1, num_heads=2,
                         dropout=0.1, **changes).resolved()
    contents = trained_model.imported(name, params, networks.build_network(params).state_dict(), tokenizer, opening)
    home.saved_weights.mkdir(exist_ok=True)
    checkpoint.save(home.weights(name), contents | {"chat": chat and chat.to_dict()})


@pytest.fixture
def prefer(project, monkeypatch, capsys):
    """train.py --preferences in this process: prefer("--steps", 3) -> what it printed"""
    def make(*words, start="base", pairs="pairs.jsonl"):
        files = [project.folder / pairs] if pairs else []
        code, out = train_here(project, monkeypatch, capsys, "--start-from", start, "--preferences", *files, *LENGTH,
                               *words)
        assert not code
        return out
    return make


# --- The loss ---

def test_loss_and_gradient_are_those_of_the_formula():
    """Token by token and in float64, with a reference network in memory, as the paper writes it."""
    torch.manual_seed(2)
    params = ModelParams(vocab_size=300, block_size=32, emb_len=16, num_layers=1, num_heads=2).resolved()
    policy, reference = (networks.build_network(params).double() for _ in range(2))
    text = "the sea, the sea. "
    tokenizer = BPETokenizer.train([text * 9], 270)
    preferences = [Preference("the ", "sea.", "seven seas"), Preference("a sea, the", " the the", " x")]
    pairs, _ = Encoder(tokenizer, None, [10], 32).pairs(preferences)
    beta = 0.3

    def log_probability(net, answered):
        total = 0.0
        for place in answered.learned.nonzero()[0].tolist():
            logits = net(torch.tensor(answered.ids[None, :place]))[0, -1]
            total = total + logits.log_softmax(-1)[int(answered.ids[place])]
        return total

    expected = 0.0
    for chosen, rejected in pairs:
        with torch.no_grad():
            before = log_probability(reference, chosen) - log_probability(reference, rejected)
        now = log_probability(policy, chosen) - log_probability(policy, rejected)
        expected = expected + torch.log1p(torch.exp(-beta * (now - before)))
    wanted = torch.autograd.grad(expected, list(policy.parameters()))

    batch = batch_of(pairs)
    tensors = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
    with torch.no_grad():
        kept = margins(reference, *tensors)
    loss = dpo_losses(margins(policy, *tensors), kept, beta).sum()
    found = torch.autograd.grad(loss, list(policy.parameters()))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


# --- Runs ---

def test_a_run_starts_at_log_2_and_orders_the_pairs_it_learns_from(project, prefer):
    out = prefer("--steps", 60, "--eval-interval", 20)
    assert "pairs of a preferred and another answer to learn from" in out
    reports = [report for report in run_log.read(project.log("preferred")) if "val_ordered" in report]
    assert reports[-1]["val_nats_per_pair"] < 0.5 < math.log(2) and reports[-1]["val_ordered"] == 1
    # Its loss is one of pairs, and is never taken for one of bytes.
    saved = checkpoint.load_metadata(project.weights("preferred"))
    assert saved["val_nats_per_byte"] is None and saved["val_nats_per_pair"] < 0.5
    [run] = list_runs(project, ["preferred"])
    assert run.nats_per_pair == saved["val_nats_per_pair"] and run.bits_per_byte == pytest.approx(saved["val_bpb"])
    assert run.differs["learns"] == "preferences" and "epochs" not in run.differs
    assert "bits/byte before and" in out and "text held out" in out
    contents = checkpoint.load(project.weights("preferred"))
    assert contents["params"]["dropout"] == 0
    assert not same_weights(contents["weights"], checkpoint.load(project.weights("base"))["weights"])


def test_where_memory_runs_out_fewer_pairs_are_computed_at_once(prefer, monkeypatch):
    def limited(forward, inputs, targets):
        if len(inputs) > 1:
            raise MemoryError
        return margins(forward, inputs, targets)
    monkeypatch.setattr("folio.training.preferences.margins", limited)
    assert "sequences at once need more memory than there is" in prefer("--steps", 2)


def test_training_that_makes_it_worse_keeps_the_start(project, prefer, monkeypatch):
    loss = PreferenceLessons.loss
    monkeypatch.setattr(PreferenceLessons, "loss", lambda *arrays: -loss(*arrays))
    prefer()
    contents = checkpoint.load(project.weights("preferred"))
    assert contents["step"] == 0
    assert same_weights(contents["weights"], checkpoint.load(project.weights("base"))["weights"])


def test_a_stopped_run_ends_as_if_nothing_had_happened(project, prefer, monkeypatch, capsys):
    prefer("--name", "whole")
    with monkeypatch.context() as stopping:
        step = Run.step

        def stops(run):
            if run.progress.step == 6:
                raise KeyboardInterrupt
            return step(run)
        stopping.setattr(Run, "step", stops)
        with pytest.raises(KeyboardInterrupt):
            prefer("--name", "parts")
    project.weights("base").unlink()            # nothing of the start is needed any more
    code, _ = train_here(project, monkeypatch, capsys, "--resume", "--name", "parts")
    assert not code
    whole, parts = (checkpoint.load(project.weights(name)) for name in ("whole", "parts"))
    assert same_weights(whole["weights"], parts["weights"]) and whole["val_bpb"] == parts["val_bpb"]
    assert without_times(project.log("whole")) == without_times(project.log("parts"))


def test_a_run_whose_pairs_have_changed_is_not_continued(project, prefer, monkeypatch, capsys):
    prefer()
    written(project.folder / "pairs.jsonl", RECORDS[:-1])
    with pytest.raises(FolioError, match="what it learns from is not the same in .*pairs.jsonl"):
        train_here(project, monkeypatch, capsys, "--resume", "--name", "preferred", "--steps", 20)


def test_a_chat_model_learns_from_conversations_and_stays_one(project, prefer):
    tokenizer = taught(trained_model.load(project.weights("base")).tokenizer)
    save_model(project, "talks", tokenizer, [tokenizer.end_of_text], ChatTemplate(tokenizer))
    written(project.folder / "chats.jsonl", [
        {"messages": [{"role": "user", "content": f"{number}?"}], "chosen": f"{number}!", "rejected": "No."}
        for number in range(30)])
    prefer(start="talks", pairs="chats.jsonl")
    assert trained_model.load(project.weights("preferred")).chat is not None
    with pytest.raises(FolioError, match="is a conversation, and the model continues texts"):
        prefer(start="base", pairs="chats.jsonl")


def test_without_a_project_text_the_chosen_answers_are_measured(home, project, prefer, monkeypatch, capsys):
    bare = home({"pairs.jsonl": (project.folder / "pairs.jsonl").read_bytes()})
    code, out = train_here(bare, monkeypatch, capsys, "--start-from", project.weights("base"), "--preferences",
                           bare.train_data / "pairs.jsonl", *LENGTH)
    assert not code and "held-out chosen answers" in out and "no text to learn beside the pairs" in out


def test_kept_choices_are_learned_without_naming_a_file(project, prefer):
    with pytest.raises(FileNotFoundError, match="No choice has been kept.*/keep"):
        prefer(pairs=None)
    written(project.preferences)
    prefer(pairs=None)
    assert project.weights("preferred").exists()


def test_preferences_need_a_trained_model(project):
    message = refusal(run_script("train.py", "--home", project.folder, "--preferences", "x.jsonl"), 2)
    assert "--preferences teaches trained weights; name them by --start-from" in message


@pytest.mark.slow
@pytest.mark.campaign
def test_what_is_preferred_becomes_usual_and_the_text_is_predicted_nearly_as_well_as_before(tmp_path):
    found = preferences.measure(Home(tmp_path))
    assert found["rate_before"] < 0.2 and found["rate_after"] > 0.9
    assert found["bits_after"] < 1.05 * found["bits_before"]
