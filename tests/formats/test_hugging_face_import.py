"""Models that transformers made, here: the same logits, greedy text and ids; and back again, byte for byte."""

import json
import os
import random
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"          # before transformers is imported

import numpy as np
import pytest
import tokenizers as hf
import torch
from safetensors import torch as package
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import train
from conftest import ROOT, run_python, run_script
from folio.base.errors import FolioError
from folio.formats import checkpoint, hugging_face, trained_model
from folio.formats.hugging_face_import import read
from folio.formats.safetensors_file import header_of, write
from folio.generation import language_model
from test_hugging_face import compare_greedy, fuzz_texts, random_model, small_tokenizer  # noqa: F401  (a fixture)
from tokenizer import END_OF_TEXT, SPLIT_PATTERNS

ROTARY = {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
          "max_position_embeddings": 96, "initializer_range": 0.2}
GPT2 = {"n_positions": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
TOKENS = 400


def make_tokenizer(folder, text, special_at="first", pattern="qwen2"):
    """Save a tokenizer that Hugging Face trained, with ids in any order. special_at: where its special tokens stand"""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    split = hf.pre_tokenizers.Split(hf.Regex(SPLIT_PATTERNS[pattern]), "isolated")
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence([
        split, hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = hf.decoders.ByteLevel()
    special = [END_OF_TEXT, "<s>"]
    tokenizer.train_from_iterator([text], hf.trainers.BpeTrainer(
        vocab_size=TOKENS, special_tokens=special, initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    values = json.loads(tokenizer.to_str())
    if special_at != "first":
        names = sorted(values["model"]["vocab"], key=values["model"]["vocab"].get)[len(special):]
        if special_at == "middle":
            random.Random(1).shuffle(names)
        place = {"last": len(names), "middle": 150}[special_at]
        names[place:place] = special
        values["model"]["vocab"] = {name: token for token, name in enumerate(names)}
        for token in values["added_tokens"]:
            token["id"] = values["model"]["vocab"][token["content"]]
    PreTrainedTokenizerFast(tokenizer_object=hf.Tokenizer.from_str(json.dumps(values)), eos_token=END_OF_TEXT,
                            pad_token=END_OF_TEXT).save_pretrained(folder)


def with_masks(folder):
    """Add GPT-2's masks, as old files have them, to a folder's weights."""
    tensors = package.load_file(folder / "model.safetensors")
    mask = torch.ones(1, 1, 96, 96, dtype=torch.uint8).tril()
    for layer in range(2):
        tensors |= {f"h.{layer}.attn.bias": mask.clone(), f"h.{layer}.attn.masked_bias": torch.tensor(-1e4)}
    package.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_second_head(folder):
    """Store a tied head as a tensor of its own too, as some files have it."""
    tensors = package.load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    package.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


MODELS = {
    "qwen3, untied, bf16": (
        Qwen3ForCausalLM, Qwen3Config(**ROTARY, vocab_size=TOKENS, head_dim=16, num_key_value_heads=4,
                                      dtype="bfloat16"), {}, {}),
    "qwen3, tied, padded": (
        Qwen3ForCausalLM, Qwen3Config(**ROTARY, vocab_size=TOKENS + 24, head_dim=24, num_key_value_heads=2,
                                      tie_word_embeddings=True, rope_parameters={"rope_type": "default",
                                                                                 "rope_theta": 1e6}),
        {"special_at": "last"}, {}),
    "llama, untied, sharded": (
        LlamaForCausalLM, LlamaConfig(**ROTARY, vocab_size=TOKENS, num_key_value_heads=1, rms_norm_eps=1e-5),
        {"special_at": "middle"}, {"max_shard_size": "60KB"}),
    "llama, tied, head twice": (
        LlamaForCausalLM, LlamaConfig(**ROTARY, vocab_size=TOKENS + 5, head_dim=20, tie_word_embeddings=True),
        {"pattern": "gpt2"}, {"change": with_second_head}),
    "llama, tied, without its head": (
        LlamaModel, LlamaConfig(**ROTARY, vocab_size=TOKENS, tie_word_embeddings=True, dtype="float16"), {}, {}),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2, vocab_size=TOKENS), {"pattern": "gpt2", "special_at": "last"}, {}),
    "gpt2, untied, relu": (
        GPT2LMHeadModel, GPT2Config(**GPT2, vocab_size=TOKENS, n_inner=100, activation_function="relu",
                                    tie_word_embeddings=False, layer_norm_epsilon=1e-3), {}, {}),
    "gpt2, without prefix, masks": (
        GPT2Model, GPT2Config(**GPT2, vocab_size=TOKENS), {"pattern": "gpt2"}, {"change": with_masks}),
}


def make_folder(folder, name, text):
    """Save one of MODELS, with random weights, as transformers does."""
    model_class, config, of_tokenizer, of_weights = MODELS[name]
    torch.manual_seed(1)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += torch.randn_like(parameter) * 0.3
        for embedding in {model.get_input_embeddings(), model.get_output_embeddings()} - {None}:
            embedding.weight[TOKENS:] *= 1e-3               # so that greedy text has no tokens without a text
    model.to(getattr(torch, str(config.dtype or "float32").removeprefix("torch."))).save_pretrained(
        folder, **{key: value for key, value in of_weights.items() if key != "change"})
    make_tokenizer(folder, text, **of_tokenizer)
    if "change" in of_weights:
        of_weights["change"](folder)


def imported(folder, path):
    """Import a folder through a weights file. -> TrainedModel, notes"""
    contents, notes = read(folder, "theirs")
    checkpoint.save(path, contents)
    return trained_model.load(path), notes


@pytest.fixture(scope="module", params=MODELS)
def pair(request, plays, tmp_path_factory):
    """(TrainedModel, what transformers reads from its folder, that folder, notes)"""
    folder = tmp_path_factory.mktemp("theirs")
    make_folder(folder / "hf", request.param, plays[:20_000])
    model, notes = imported(folder / "hf", folder / "weights-theirs.pth")
    theirs = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32).eval()
    return model, theirs, folder / "hf", notes


def test_the_logits_are_equal(pair):
    model, theirs, _, _ = pair
    rows = model.contents["origin"]["rows"]
    tokens = torch.randint(model.params.vocab_size, (2, 96))
    with torch.no_grad():
        expected, found = theirs(rows[tokens]).logits[..., rows], model.net(tokens)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_greedy_text_is_equal(pair):
    model, theirs, _, _ = pair
    theirs.generation_config.eos_token_id = None
    compare_greedy(model, theirs, model.contents["origin"]["rows"].numpy())


def test_the_ids_of_texts_are_equal(pair, plays):
    model, _, folder, _ = pair
    theirs, rows = AutoTokenizer.from_pretrained(folder), model.contents["origin"]["rows"].numpy()
    for text in fuzz_texts(plays):
        ids = model.tokenizer.encode(text, allow_special=True)
        assert rows[ids].tolist() == theirs(text, add_special_tokens=False)["input_ids"], text


def everything_in(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_an_export_gives_back_the_original_byte_for_byte(pair, tmp_path):
    model, _, folder, _ = pair
    (folder / "LICENSE").write_text("Do as you like.\r\n")
    again, _ = imported(folder, tmp_path / "weights-theirs.pth")
    hugging_face.write(again, tmp_path / "back")
    assert everything_in(tmp_path / "back") == everything_in(folder)
    with pytest.raises(FileExistsError, match="original files are to be written there; it was left as it is"):
        hugging_face.write(again, tmp_path / "back")


def test_the_weights_keep_their_type_and_every_size_comes_from_the_configuration(pair):
    model, theirs, _, _ = pair
    config = theirs.config
    wanted = {config.dtype}
    assert {tensor.dtype for tensor in model.contents["weights"].values()} == {getattr(torch, str(
        json.loads(model.contents["origin"]["files"]["config.json"].numpy().tobytes())["dtype"]))}, wanted
    params = model.params
    assert (params.vocab_size, params.block_size, params.tied_head) == (TOKENS, 96, config.tie_word_embeddings)
    assert params.norm_eps == (config.layer_norm_epsilon if params.norm == "layer" else config.rms_norm_eps)
    if params.positions == "rotary":
        assert params.rope_base == config.rope_parameters["rope_theta"]


def test_what_is_left_out_is_said(pair):
    _, theirs, _, notes = pair
    padding = theirs.config.vocab_size - TOKENS
    assert (f"{padding} rows of its embedding belong to no token and are left out." in notes) == bool(padding)
    assert not [note for note in notes if "does not know" in note]


# --- It is a model like any other ---

@pytest.fixture
def weights(plays, tmp_path):
    """A weights file of an imported model."""
    make_folder(tmp_path / "hf", "qwen3, untied, bf16", plays[:20_000])
    path = tmp_path / "weights-theirs.pth"
    imported(tmp_path / "hf", path)
    return path


def test_twenty_steps_on_a_text_lower_its_loss_and_the_result_is_exported_in_folios_order(
        weights, home, plays, monkeypatch, tmp_path):
    project = home(plays[:20_000])
    monkeypatch.setattr(sys, "argv", [
        "train.py", "--home", str(project.folder), "--start-from", str(weights), "--name", "tuned",
        *("--steps 20 --batch-size 4 --eval-interval 10 --sample-tokens 4 --threads 1 --precision fp32 --device cpu"
          ).split()])
    assert not train.main()
    tuned = trained_model.load(project.weights("tuned"))
    before = language_model.load(weights).measure(plays[18_000:20_000])
    after = language_model.load(tuned.path).measure(plays[18_000:20_000])
    assert after.bits_per_byte < 0.9 * before.bits_per_byte
    assert tuned.contents.get("origin") is None
    hugging_face.write(tuned, tmp_path / "out")
    tokens = torch.randint(TOKENS, (1, 50))
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(tokens).logits
    torch.testing.assert_close(found, tuned.net(tokens), rtol=0, atol=1e-4)


def test_run_writes_with_it(weights):
    words = ["--weights", weights, "--prompt", "The king", "--tokens", 20, "--temperature", 0]
    result = run_script("run.py", *words)
    assert result.returncode == 0, result.stderr
    assert language_model.load(weights).complete("The king", tokens=20, temperature=0).strip() in result.stdout


def test_an_import_takes_little_more_memory_than_its_weights(plays, tmp_path):
    """Both kinds that need more than reading: transposed matrices, and a large embedding in another order."""
    make_folder(tmp_path / "small", "qwen3, tied, padded", plays[:20_000])
    count = 60_000
    large = {"gpt2": GPT2Config(vocab_size=TOKENS, n_positions=96, n_embd=512, n_layer=5, n_head=4),
             "qwen": Qwen3Config(**ROTARY, vocab_size=count, head_dim=16, num_key_value_heads=4,
                                 tie_word_embeddings=True)}
    large["qwen"].hidden_size = 256
    sizes = []
    for name, config in large.items():
        shutil.copytree(tmp_path / "small", tmp_path / name)
        config.architectures = [{"gpt2": "GPT2LMHeadModel", "qwen": "Qwen3ForCausalLM"}[name]]
        config.save_pretrained(tmp_path / name)
        from folio.formats.hugging_face_config import params_of
        parts = hugging_face.counterparts(config.model_type, params_of(config.to_dict(), config.model_type))
        header = header_of({part.name: (torch.float32, part.shape) for part in parts.values()}, {"format": "pt"})
        path = tmp_path / name / "model.safetensors"
        write(path, header, lambda name: torch.randn(parts[name].shape))
        sizes.append(path.stat().st_size)
    program = """if True:
        import resource, sys
        from folio.formats import checkpoint
        from folio.formats.hugging_face_import import read
        def peak(folder):
            checkpoint.save(folder + ".pth", read(folder, "x")[0])
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        small, *large = map(peak, sys.argv[1:])
        print(*(1024 * (each - small) for each in large))
        """
    result = run_python("-c", program, *(tmp_path / name for name in ("small", *large)))
    assert result.returncode == 0, result.stderr
    assert min(sizes) > 50e6
    ratios = [int(taken) / size for taken, size in zip(result.stdout.split(), sizes)]
    assert max(ratios) < 1.5, ratios
