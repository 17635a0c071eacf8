"""PEFT reads our adapters and we read PEFT's: the same logits on the same base."""

import json
import os
from dataclasses import replace

os.environ["HF_HUB_OFFLINE"] = "1"          # before transformers is imported

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from conftest import refusal, run_python
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.formats import adapters, checkpoint, hugging_face, hugging_face_import, peft, trained_model
from folio.networks import lora
from test_adapters import TAUGHT, TINY, save_adapter, save_base
from test_hugging_face_import import make_tokenizer

logging.set_verbosity_error()
SHAPES = {"qwen": TINY, "tied": replace(TINY, tied_head=True),
          "gpt2": replace(TINY, family="classic", mlp="gelu", biases="gpt2", tied_head=True)}
TOKENS = torch.tensor([[72, 258, 104, 257, 5, 256]])


def theirs(base_folder, adapter_folder):
    """The model as the adapter's README.md says, and its tokenizer."""
    tokenizer, base = AutoTokenizer.from_pretrained(base_folder), AutoModelForCausalLM.from_pretrained(base_folder)
    added = adapter_folder / peft.ADDED
    if added.exists():
        tokenizer.add_tokens(list(json.loads(added.read_text("utf-8"))), special_tokens=True)
        if len(tokenizer) > base.get_input_embeddings().num_embeddings:
            base.resize_token_embeddings(len(tokenizer))
    return PeftModel.from_pretrained(base, adapter_folder).eval(), tokenizer


def close(one, other):
    torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_peft_loads_our_adapter_on_the_exported_base_with_equal_logits(tmp_path, shape, recwarn):
    base, base_path = save_base(tmp_path, params=SHAPES[shape])
    _, path = save_adapter(tmp_path, base)
    model = trained_model.load(path)
    hugging_face.write(trained_model.load(base_path), tmp_path / "base")
    peft.write(model, tmp_path / "adapter")
    other, tokenizer = theirs(tmp_path / "base", tmp_path / "adapter")
    with torch.no_grad():
        close(other(TOKENS).logits, model.net(TOKENS))
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 258
    assert not [warning for warning in recwarn if "missing adapter keys" in str(warning.message)]


@pytest.mark.parametrize("shape", SHAPES)
def test_our_own_export_comes_back_with_equal_logits_and_its_chat(tmp_path, shape):
    base, base_path = save_base(tmp_path, params=SHAPES[shape])
    _, path = save_adapter(tmp_path, base)
    model = trained_model.load(path)
    peft.write(model, tmp_path / "adapter")
    checkpoint.save(tmp_path / "weights-again.pth", peft.read(tmp_path / "adapter", "again", base_path))
    again = trained_model.load(tmp_path / "weights-again.pth")
    close(again.net(TOKENS), model.net(TOKENS))
    assert again.chat.to_dict() == model.chat.to_dict() and again.tokenizer.to_dict() == TAUGHT.to_dict()
    ranks = {len(tensor) for name, tensor in again.contents["adapter"]["weights"].items() if name.endswith(".a")}
    assert ranks == {2}                 # c_attn's three are apart again


@pytest.fixture
def imported(tmp_path, plays):
    """Make a base of another program, here as weights-base.pth. -> its folder, its tokenizer, its path here"""
    def make(kind):
        folder, path = tmp_path / "original", tmp_path / "weights-base.pth"
        make_tokenizer(folder, plays[:30_000])
        tokenizer = AutoTokenizer.from_pretrained(folder)
        torch.manual_seed(0)
        rows = len(tokenizer) + 5 if kind == "qwen" else len(tokenizer)         # five rows that belong to no token
        net = Qwen3ForCausalLM(Qwen3Config(
            vocab_size=rows, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, max_position_embeddings=32, initializer_range=0.2,
            tie_word_embeddings=False)) if kind == "qwen" else GPT2LMHeadModel(GPT2Config(
                vocab_size=rows, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.2))
        net.save_pretrained(folder)
        checkpoint.save(path, hugging_face_import.read(folder, "base")[0])
        return folder, tokenizer, path
    return make


TARGETS = {"qwen": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
           "gpt2": ["c_attn", "c_proj", "c_fc"]}


def trained_by_peft(folder, tokenizer, into, tokens=("<|im_start|>", "<|im_end|>"), **settings):
    """Train an adapter for a few steps and save it. -> the PeftModel"""
    base = AutoModelForCausalLM.from_pretrained(folder)
    base.config.pad_token_id = 0
    settings = {"r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM"} | settings
    if tokens:
        tokenizer.add_tokens(list(tokens), special_tokens=True)
        if len(tokenizer) > base.get_input_embeddings().num_embeddings:
            base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        rows = tokenizer.convert_tokens_to_ids(list(tokens))
        names = {"embed_tokens": rows, "lm_head": rows} if "q_proj" in settings["target_modules"] else {"wte": rows}
        if not settings.pop("whole", False):
            settings["trainable_token_indices"] = names
        tokenizer.save_pretrained(into)
    torch.manual_seed(3)
    model = get_peft_model(base, LoraConfig(**settings))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.05)
    ids = torch.randint(len(tokenizer), (4, 12))
    for _ in range(4):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    model.save_pretrained(into)
    return model.eval()


@pytest.mark.parametrize("kind, settings", [
    ("qwen", {}), ("gpt2", {}), ("qwen", {"use_rslora": True}), ("qwen", {"tokens": ()}),
    ("qwen", {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"layers.1.self_attn.q_proj": 3}}),
    ("gpt2", {"alpha_pattern": {"c_attn": 1}}),
    ("qwen", {"modules_to_save": ["embed_tokens", "lm_head"], "whole": True})], ids=str)
def test_an_adapter_that_peft_trained_has_equal_logits_here_and_goes_back(tmp_path, imported, kind, settings):
    folder, tokenizer, base_path = imported(kind)
    settings = {"target_modules": TARGETS[kind], "fan_in_fan_out": kind == "gpt2"} | settings
    other = trained_by_peft(folder, tokenizer, tmp_path / "adapter", **settings)
    checkpoint.save(tmp_path / "weights-tuned.pth", peft.read(tmp_path / "adapter", "tuned", base_path))
    model = trained_model.load(tmp_path / "weights-tuned.pth")
    base = checkpoint.load(base_path)
    rows = torch.tensor([peft._theirs(base["origin"], base["params"]["vocab_size"])(token)
                         for token in range(model.params.vocab_size)])          # by our ids
    own = torch.randint(model.params.vocab_size, (2, 20))
    own[0, :2] = model.params.vocab_size - torch.tensor([1, 2])                 # the new ones
    known = rows[own] >= 0
    ids = torch.where(known, rows[own], 0)
    own = torch.where(known, own, (rows == 0).nonzero()[0, 0])
    with torch.no_grad():
        logits = other(ids).logits
        close(model.net(own)[..., rows >= 0], logits[..., rows[rows >= 0]])
    peft.write(model, tmp_path / "back")
    back, _ = theirs(folder, tmp_path / "back")
    with torch.no_grad():
        close(back(ids).logits[..., rows[rows >= 0]], logits[..., rows[rows >= 0]])


def test_what_folio_does_not_compute_is_refused_by_name(tmp_path, imported):
    folder, tokenizer, base_path = imported("qwen")
    into = tmp_path / "adapter"
    trained_by_peft(folder, tokenizer, into, target_modules=["q_proj"], tokens=())
    config = json.loads((into / peft.CONFIG).read_text("utf-8"))
    for change, phrase in [({"use_dora": True}, "use_dora=True"), ({"peft_type": "IA3"}, "peft_type=IA3"),
                           ({"modules_to_save": ["norm"]}, "modules_to_save=['norm']"),
                           ({"bias": "all"}, "bias=all"), ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
                           ({"r": 5}, "says rank 5"), ({"r": "2"}, "r=2 and"), ({"lora_alpha": float("nan")}, "nan"),
                           ({"rank_pattern": {"(a+)+": 2}}, "rank_pattern"),
                           ({"trainable_token_indices": [3]}, "has no such rows"),
                           ({"new_kind_of_thing": 7}, "new_kind_of_thing=7")]:
        (into / peft.CONFIG).write_text(json.dumps(config | change), "utf-8")
        with pytest.raises(FolioError) as error:
            peft.read(into, "tuned", base_path)
        assert phrase in str(error.value) and "weights-base.pth" in str(error.value), (change, str(error.value))


def test_an_adapter_on_other_modules_or_another_shape_is_refused(tmp_path, imported):
    folder, tokenizer, base_path = imported("qwen")
    trained_by_peft(folder, tokenizer, tmp_path / "head", target_modules=["q_proj", "lm_head"], tokens=())
    with pytest.raises(FolioError, match=r"the tensor base_model.model.lm_head.(lora_A|base_layer).weight, for which"):
        peft.read(tmp_path / "head", "tuned", base_path)
    trained_by_peft(folder, tokenizer, tmp_path / "adapter", target_modules=["q_proj"], tokens=())
    _, tiny_path = save_base(tmp_path, "tiny")
    with pytest.raises(FolioError, match="self_attn.q_proj do not make a matrix of shape"):
        peft.read(tmp_path / "adapter", "tuned", tiny_path)
    (tmp_path / "adapter" / peft.WEIGHTS).write_bytes(b"\xff" * 40)
    with pytest.raises(FolioError, match="not a valid safetensors file"):
        peft.read(tmp_path / "adapter", "tuned", base_path)


def test_a_whole_model_is_no_adapter(tmp_path):
    _, path = save_base(tmp_path)
    with pytest.raises(FolioError, match="base is a whole model.*Export it as huggingface"):
        peft.write(trained_model.load(path), tmp_path / "adapter")


def test_the_command_exports_and_imports(tmp_path):
    home = Home(tmp_path)
    home.saved_weights.mkdir(parents=True)
    base, _ = save_base(home.saved_weights)
    save_adapter(home.saved_weights, base)
    words = "--home", home.folder
    out = run_python("-m", "folio.convert", "export", "peft", tmp_path / "folder", "--weights", "tuned", *words)
    assert out.returncode == 0 and "export huggingface BASE --weights" in out.stdout, out.stderr
    wanting = run_python("-m", "folio.convert", "import", tmp_path / "folder", "--name", "again", *words)
    assert "say which model" in refusal(wanting, code=2)
    again = run_python("-m", "folio.convert", "import", tmp_path / "folder", "--name", "again", "--base", "base",
                       *words)
    assert again.returncode == 0, again.stderr
    models = [trained_model.load(home.weights(name)) for name in ("tuned", "again")]
    close(models[0].net(TOKENS), models[1].net(TOKENS))
    assert lora.trained_weights(models[0].net) == {} and adapters.name_of_base(home.weights("base"),
                                                                              home.saved_weights) == "base"
