"""The model card: valid YAML and Markdown whatever a run is called, true figures, and no word of the training text."""

import math
import re
import time
from dataclasses import replace

import pytest
import torch
import yaml

from conftest import ROOT
from folio.base.errors import FolioError
from folio.data import corpus
from folio.formats import checkpoint, model_card, trained_model
from folio.networks.build import build_network
from folio.training import runs
from Model_Params import ModelParams, Params, TextParams
from tokenizer import BPETokenizer
from training_runs import MODEL, TRAINING

SECRET = ("Quorvath the Ninth told Ysmelda of the vault beneath Brackenshire. " * 3
          + "Its cipher reads XJ-4471-KAPPA; nobody but Thornwick knows.\n")


@pytest.fixture
def pretrained():
    return trained_model.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")


def changed(model, **contents):
    """A TrainedModel whose weights file has other contents."""
    return replace(model, contents=model.contents | contents)


def front_matter(card):
    """The YAML at the top of a card."""
    return yaml.safe_load(re.match(r"---\n(.*?)^---\n", card, re.DOTALL | re.MULTILINE)[1])


def rows(card):
    """The figures of a card: {name: value}"""
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card, re.MULTILINE))


def test_a_card_has_the_figures_of_the_run(pretrained):
    card = model_card.text(pretrained, "huggingface")
    assert front_matter(card) == {"library_name": "transformers", "pipeline_tag": "text-generation",
                                  "model_name": "pretrained", "tags": ["folio"]}
    found = rows(card)
    assert found["parameters"] == "1,066,624" and found["architecture"] == "qwen3"
    assert found["vocabulary"] == "1,024 tokens (bpe, split pattern qwen2)" and found["context"] == "256 tokens"
    assert found["training"] == "1,000 steps in 2.5 minutes"
    assert found["held-out text"] == "2.021 bits per byte, 1.401 nats per byte"
    assert found["fingerprint of the text"] == "`3f9ad0ffa8182937`"
    assert "trained from scratch with Folio, on a text of 471,913 bytes." in card
    assert 'begins with `"\\n"`' in card and 'print(write("\\n", max_new_tokens=100)' in card
    assert "sees 256 tokens at most" in card


NAMES = ["a: b", "no", "- x", "# title\n---\nlicense: mit", 'say "hi"\\', "`code` | cell", "\x1b[2J\x85\u2028",
         "\U0001f40b \u96ea", "\udc80", "<script>alert(1)</script>", "{opening}", "---", " "]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_run_may_have_any_name(pretrained, name):
    card = model_card.text(changed(pretrained, name=name, started_from={"name": name, "fingerprint": "1234"}),
                           "huggingface")
    assert front_matter(card)["model_name"] == name
    ordinary = model_card.text(changed(pretrained, name="night", started_from={"name": "day", "fingerprint": "1234"}),
                               "huggingface")
    assert card.count("\n") == ordinary.count("\n")
    assert "<script>" not in card.partition("---\n\n")[2] and "\x1b" not in card
    card.encode("utf-8")            # as the file is written


def test_a_fine_tuned_and_an_imported_model_say_so(pretrained):
    tuned = model_card.text(changed(pretrained, started_from={"name": "base", "fingerprint": "0123456789abcdef"}),
                            "huggingface")
    assert "fine-tuned with Folio from the model base, on a text of 471,913 bytes" in tuned
    assert "0123456789abcdef" in tuned and "from scratch" not in tuned
    theirs = trained_model.imported("theirs", pretrained.params, {}, pretrained.tokenizer, [10])
    imported = model_card.text(replace(pretrained, contents=theirs), "huggingface")
    assert "It was imported into Folio, which has not trained it." in imported
    assert not {"training", "held-out text", "fingerprint of the text"} & rows(imported).keys()


@pytest.mark.parametrize("contents", [
    {"learned_from": None, "seconds": "long", "val_bpb": None},
    {"learned_from": [], "started_from": 3, "val_bpb": 9e99},
    {"seconds": math.nan, "val_bpb": math.inf, "learned_from": {"text_fingerprint": "`|\n", "train_bytes": 10**400}}])
def test_an_older_or_a_foreign_weights_file_has_fewer_figures(pretrained, contents):
    card = model_card.text(changed(pretrained, **contents), "huggingface")
    assert rows(card)["training"] == "1,000 steps" + (" in 2.5 minutes" if "seconds" not in contents else "")
    assert "held-out text" not in rows(card)
    assert "on a text." in card


@pytest.mark.parametrize("text", [TextParams(vocab_size=330), TextParams(vocab_size=330, pattern="gpt2")],
                         ids=lambda text: text.pattern)
def test_no_word_of_the_training_text_is_in_the_card(home, text):
    project = home({"secret-diary.txt": SECRET * 20})
    tokenizer, tokens = corpus.open_corpus(project, text)
    params = Params(tokens.text, MODEL, replace(TRAINING, steps=2))
    with runs.new_run(project, "night", params, tokenizer, tokens, time.perf_counter(), say=lambda line: None) as run:
        run.train()
    card = model_card.text(trained_model.load(project.weights("night")), "huggingface")
    secret_words = set(re.findall(r"\w{5,}", f"{SECRET} secret diary"))
    assert len(secret_words) > 10 and [word for word in secret_words if word.lower() in card.lower()] == []
    assert f"a text of {tokens.train_bytes:,} bytes" in card


def test_the_opening_is_shown_escaped_whatever_it_is(tmp_path):
    tokenizer = BPETokenizer([(96, 96)], special_tokens=["<|\"`\\\u2028|>"])
    net = build_network(ModelParams(vocab_size=258, block_size=8, emb_len=8, num_layers=1, num_heads=1))
    contents = trained_model.imported("tiny", net.params, net.state_dict(), tokenizer, [257, 256])
    path = tmp_path / "weights-tiny.pth"
    checkpoint.save(path, contents)
    card = model_card.text(trained_model.load(path), "huggingface")
    [program] = re.findall(r"print\(write\((.*), max_new_tokens", card)
    assert yaml.safe_load(program) == eval(program) == "<|\"`\\\u2028|>``"
    assert f"``` {program} ```" in card


def test_what_the_format_cannot_represent_has_no_card(tmp_path):
    torch.manual_seed(0)
    net = build_network(ModelParams(family="lstm", vocab_size=258, emb_len=8))
    contents = trained_model.imported("tiny", net.params, net.state_dict(), BPETokenizer([(97, 98)]), [257])
    checkpoint.save(tmp_path / "weights-tiny.pth", contents)
    with pytest.raises(FolioError, match="family=lstm"):
        model_card.text(trained_model.load(tmp_path / "weights-tiny.pth"), "huggingface")
