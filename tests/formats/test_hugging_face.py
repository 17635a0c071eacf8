"""transformers reads our folders: the same logits, the same greedy text, the same ids. It needs no network for it."""

import json
import os
import random
from dataclasses import asdict, replace

os.environ["HF_HUB_OFFLINE"] = "1"          # before transformers is imported

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from conftest import ROOT, FullDisk
from folio.base.errors import FolioError
from folio.formats import checkpoint, hugging_face, trained_model
from folio.generation.decoder import generate
from folio.networks.build import build_network
from Model_Params import ModelParams
from tokenizer import END_OF_TEXT, BPETokenizer

logging.set_verbosity_error()
PRETRAINED = ROOT / "Saved_Weights" / "weights-pretrained.pth"
SMALL = ModelParams(emb_len=48, num_layers=2, num_heads=4, block_size=96)
MODELS = {
    "grouped queries, tied": replace(SMALL, num_kv_heads=2, head_len=20, tied_head=True, rope_base=50_000.0),
    "llama": replace(SMALL, query_key_norm=False, norm_eps=1e-5, hidden_len=80),
    "gpt2, gelu": replace(SMALL, family="classic", mlp="gelu", biases="gpt2"),
    "gpt2, lecture, tied": replace(SMALL, family="classic", mlp="gelu", biases="lecture", tied_head=True),
    "gpt2, relu, no biases": replace(SMALL, family="classic", biases="none", norm_eps=1e-4, hidden_len=100),
}
ODD = ["", " ", "\r\n\r\n", "a\r\nb", "\u3000\u3000全角", "'ſ don'ſt", "İstanbul", "e\u0301 é", "👩‍👩‍👧‍👦🏳️‍🌈", "\0",
       "a\0b", "你好，世界", f"one{END_OF_TEXT}two", f"{END_OF_TEXT}\n", "<|endof text|>", "1234567890", "x  \n\n  y",
       "\t\t", "I'LL we'Ve", "\u200b\ufeff", "ａｂｃ①②", "ﬁ ffi ﷺ", "מזל טוב", "नमस्ते", "\x1b[0m",
       "~~~~!!!!", "　a  b   "]


def fuzz_texts(plays, count=400):
    """Texts of all kinds: cuts of a corpus with odd pieces between them."""
    chance, texts = random.Random(1), list(ODD)
    while len(texts) < count:
        start = chance.randrange(len(plays) - 60)
        pieces = [plays[start:start + chance.randint(0, 60)], chance.choice(ODD), chance.choice(ODD)]
        chance.shuffle(pieces)
        texts.append("".join(pieces[:chance.randint(1, 3)]))
    return texts


def random_model(path, params, tokenizer, opening=(10,)):
    """Write a weights file of a network with random weights, larger than a new one's. -> TrainedModel"""
    torch.manual_seed(1)
    net = build_network(replace(params, vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += torch.randn_like(parameter) * 0.15
    checkpoint.save(path, trained_model.imported("random", net.params, net.state_dict(), tokenizer, list(opening)))
    return trained_model.load(path)


@pytest.fixture(scope="session")
def small_tokenizer(plays):
    return BPETokenizer.train([plays[:20_000]], 300)


@pytest.fixture(scope="module", params=["shipped", *MODELS])
def pair(request, small_tokenizer, tmp_path_factory):
    """(TrainedModel, folder that it was written to, what transformers reads from it)"""
    folder = tmp_path_factory.mktemp("pair")
    if request.param == "shipped":
        model = trained_model.load(PRETRAINED)
    else:
        model = random_model(folder / "weights-random.pth", MODELS[request.param], small_tokenizer)
    hugging_face.write(model, folder / "out")
    return model, folder / "out", AutoModelForCausalLM.from_pretrained(folder / "out").eval()


def test_the_logits_are_equal(pair):
    model, _, theirs = pair
    tokens = torch.randint(model.params.vocab_size, (2, model.params.block_size))
    with torch.no_grad():
        expected, found = model.net(tokens), theirs(tokens).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert theirs.dtype == torch.float32


def compare_greedy(model, theirs, ids_of=None):
    """Compare 60 greedy tokens after four prompts. ids_of: each of Folio's ids as an id of theirs"""
    ids_of = np.arange(model.tokenizer.vocab_size) if ids_of is None else ids_of
    for prompt in ("The ", "MERRAN:\n", "O", "\nWhat is it"):
        ids = model.tokenizer.encode(prompt)
        ours = list(generate(model.net, ids, tokens=60, temperature=0, sampling_seed=1))
        found = theirs.generate(torch.tensor(ids_of[ids])[None], max_new_tokens=60, min_new_tokens=60, do_sample=False)
        assert found[0, len(ids):].tolist() == ids_of[ours].tolist(), prompt


def test_greedy_text_is_equal(pair):
    model, _, theirs = pair
    theirs.generation_config.eos_token_id = None        # an end would be left out of ours
    compare_greedy(model, theirs)


def test_the_tokenizer_gives_the_same_ids_and_texts(pair, plays):
    model, folder, _ = pair
    theirs = AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == model.tokenizer.vocab_size
    for text in fuzz_texts(plays):
        ids = model.tokenizer.encode(text, allow_special=True)
        assert theirs(text)["input_ids"] == ids, text
        assert theirs.decode(ids) == text
    assert (theirs.eos_token_id, theirs.bos_token, theirs.model_max_length) == (
        model.tokenizer.end_of_text, None, model.params.block_size)


def test_generate_without_a_prompt_begins_as_folio_does(pair):
    model, _, theirs = pair
    found = theirs.generate(max_new_tokens=3, do_sample=False)
    assert found[0, 0] == model.opening[0]
    assert theirs.generation_config.temperature == 0.8 and theirs.generation_config.do_sample
    assert theirs.generation_config.max_new_tokens == model.params.block_size // 2


def test_the_folder_holds_six_files_and_says_what_it_is(pair):
    model, folder, theirs = pair
    assert sorted(path.name for path in folder.iterdir()) == sorted([
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json"])
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) <= set(theirs.state_dict())
        missing = set(theirs.state_dict()) - set(file.keys())
        assert missing <= ({"lm_head.weight"} if model.params.tied_head else set())
    assert "transformers" in (folder / "README.md").read_text(encoding="utf-8")


def test_sizes_are_said_in_the_spellings_of_old_and_new_versions(small_tokenizer, tmp_path):
    model = random_model(tmp_path / "weights.pth", MODELS["grouped queries, tied"], small_tokenizer)
    values = hugging_face.config(model, "qwen3")
    assert values["rope_theta"] == values["rope_parameters"]["rope_theta"] == 50_000.0
    assert values["dtype"] == values["torch_dtype"] == "float32"
    assert (values["head_dim"], values["num_key_value_heads"], values["tie_word_embeddings"]) == (20, 2, True)


# --- What cannot go, and what is in the way ---

@pytest.fixture
def model(small_tokenizer, tmp_path):
    return random_model(tmp_path / "weights-random.pth", MODELS["llama"], small_tokenizer)


@pytest.mark.parametrize("params, named", [
    (replace(SMALL, mlp="relu2"), "mlp=relu2"), (replace(SMALL, positions="none"), "positions=none"),
    (ModelParams(family="lstm", emb_len=8, num_layers=1), "family=lstm"),
    (replace(SMALL, family="classic", tied_head=False, mlp="gelu"), "biases=lecture"),
])
def test_what_transformers_cannot_compute_is_refused_and_nothing_is_written(params, named, small_tokenizer, tmp_path):
    model = random_model(tmp_path / "weights.pth", params, small_tokenizer)
    with pytest.raises(FolioError, match=named):
        hugging_face.write(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def everything_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_earlier_export_is_replaced_and_any_other_folder_is_left(model, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    hugging_face.write(model, str(folder))      # an empty folder is free
    first = everything_in(folder)
    hugging_face.write(model, folder)
    assert everything_in(folder) == first
    (folder / "novel.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds novel.txt, and is not an exported Hugging Face folder"):
        hugging_face.write(model, folder)
    (folder / "novel.txt").unlink()
    values = json.loads((folder / "config.json").read_bytes())
    del values[hugging_face.MARK]
    for content in (json.dumps(values), None):          # as transformers writes them; without one
        (folder / "config.json").unlink()
        if content:
            (folder / "config.json").write_text(content)
        before = everything_in(folder)
        with pytest.raises(FileExistsError, match="is a Hugging Face folder that Folio has not written"):
            hugging_face.write(model, folder)
        assert everything_in(folder) == before


@pytest.mark.parametrize("good_calls", range(3))
def test_a_full_disk_leaves_the_old_folder_and_nothing_else(model, tmp_path, monkeypatch, good_calls):
    hugging_face.write(model, tmp_path / "out")
    before, names = everything_in(tmp_path / "out"), sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", FullDisk(good_calls))
    with pytest.raises(OSError, match="No space left"):
        hugging_face.write(model, tmp_path / "out")
    assert everything_in(tmp_path / "out") == before and sorted(tmp_path.iterdir()) == names


def test_the_table_of_names_covers_every_weight_of_every_architecture(small_tokenizer, tmp_path):
    for name, params in MODELS.items():
        net = build_network(replace(params, vocab_size=small_tokenizer.vocab_size))
        architecture = name.split(",")[0] if name in ("llama",) or "gpt2" in name else "qwen3"
        parts = hugging_face.counterparts(architecture, net.params)
        ours = [own for part in parts.values() for own in part.ours]
        assert len(ours) == len(set(ours)), asdict(params)
        assert set(net.state_dict()) - {"head.weight"} == {own for own in ours if own in net.state_dict()} - {
            "head.weight"}
