"""Models that transformers made, here: the same logits, greedy text and ids; and back again, byte for byte."""

import json
import os
import random
import re
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"          # before transformers is imported

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
from conftest import run_python, run_script
from folio.base.errors import FolioError
from folio.formats import checkpoint, hugging_face, trained_model
from folio.formats.hugging_face_config import params_of
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
    assert not [note for note in notes if "does not know" in note or "post_processor" in note]


# --- It is a model like any other ---

@pytest.fixture
def weights(plays, tmp_path):
    """A weights file of an imported model."""
    make_folder(tmp_path / "hf", "qwen3, untied, bf16", plays[:20_000])
    path = tmp_path / "weights-theirs.pth"
    imported(tmp_path / "hf", path)
    return path


def test_twenty_steps_on_a_text_lower_its_loss_and_the_result_is_exported_in_folios_order(
        weights, home, plays, monkeypatch, tmp_path, capsys):
    project = home(plays[:20_000])
    monkeypatch.setattr(sys, "argv", [
        "train.py", "--home", str(project.folder), "--start-from", str(weights), "--name", "tuned",
        *("--steps 20 --batch-size 4 --eval-interval 10 --sample-tokens 4 --threads 1 --precision fp32 --device cpu"
          ).split()])
    assert not train.main()
    tuned = trained_model.load(project.weights("tuned"))
    before = float(re.search(r"Before the first step: (\S+) bits/byte", capsys.readouterr().out)[1])
    assert tuned.val_bpb < 0.95 * before
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


# VmHWM: the largest memory of this process. ru_maxrss begins with that of the process it was started from.
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory was taken")
@pytest.mark.parametrize("name, config, sizes", [
    ("gpt2", lambda layers: GPT2Config(vocab_size=TOKENS, n_positions=96, n_embd=512, n_layer=layers, n_head=4),
     (2, 7)),
    ("qwen", lambda rows: Qwen3Config(**ROTARY | {"hidden_size": 256}, vocab_size=rows, head_dim=16,
                                      num_key_value_heads=4, tie_word_embeddings=True), (20_000, 80_000))],
    ids=["transposed matrices", "rows in another order"])
def test_an_import_takes_little_more_memory_than_its_weights(name, config, sizes, plays, tmp_path):
    """Two sizes of one kind, in one process: what the larger takes more is for its weights."""
    make_folder(tmp_path / "text", "qwen3, tied, padded", plays[:20_000])
    folders = [tmp_path / f"{name}-{size}" for size in sizes]
    for folder, made in zip(folders, map(config, sizes)):
        shutil.copytree(tmp_path / "text", folder)
        made.architectures = [{"gpt2": "GPT2LMHeadModel", "qwen": "Qwen3ForCausalLM"}[name]]
        made.save_pretrained(folder)
        parts = hugging_face.counterparts(made.model_type, params_of(made.to_dict(), made.model_type))
        header = header_of({part.name: (torch.float32, part.shape) for part in parts.values()}, {"format": "pt"})
        write(folder / "model.safetensors", header, lambda name, parts=parts: torch.randn(parts[name].shape))
    program = """if True:
        import re, sys
        from pathlib import Path
        from folio.formats import checkpoint
        from folio.formats.hugging_face_import import read
        for folder in sys.argv[1:]:
            checkpoint.save(folder + ".pth", read(folder, "x")[0])
            print(1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]))
        """
    # The C library would keep up to 32 MB of what was freed, more or less by chance.
    result = run_python("-c", program, *folders, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"})
    assert result.returncode == 0, result.stderr
    less, more = map(int, result.stdout.split())
    smaller, larger = ((folder / "model.safetensors").stat().st_size for folder in folders)
    assert larger - smaller > 50e6
    assert 0.9 < (more - less) / (larger - smaller) < 1.5


# --- Other forms of the same model ---

@pytest.fixture(scope="module")
def llama_folder(plays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    make_folder(folder, "llama, untied, sharded", plays[:20_000])
    return folder


@pytest.fixture
def folder(llama_folder, tmp_path):
    """A copy of a Llama's folder, to be changed: its weights in several files."""
    return shutil.copytree(llama_folder, tmp_path / "hf")


def tensors_in(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in package.load_file(path).items()}


def in_one_file(folder, tensors):
    """Let these tensors be all of a folder's weights."""
    for path in folder.glob("model*"):
        path.unlink()
    package.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def edit(folder, name="config.json", **changes):
    """Change fields of a JSON file; ... removes one."""
    values = json.loads((folder / name).read_bytes()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def weights_of(folder):
    return read(folder, "x")[0]["weights"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("count", [1, 2])
def test_pytorchs_own_format_has_the_same_weights_and_no_original(folder, count, tmp_path):
    expected, tensors = weights_of(folder), tensors_in(folder)
    for path in folder.glob("model*"):
        path.unlink()
    names = sorted(tensors)
    files = [f"pytorch_model-{number}.bin" for number in range(count)] if count > 1 else ["pytorch_model.bin"]
    for number, name in enumerate(files):
        torch.save({key: tensors[key] for key in names[number::count]}, folder / name)
    if count > 1:
        places = {key: files[number] for number in range(count) for key in names[number::count]}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    contents, notes = read(folder, "x")
    assert same(contents["weights"], expected) and contents["origin"] is None
    assert any("an export writes them as safetensors, in Folio's order" in note for note in notes)
    checkpoint.save(tmp_path / "w.pth", contents)
    hugging_face.write(trained_model.load(tmp_path / "w.pth"), tmp_path / "out")
    assert same(read(tmp_path / "out", "x")[0]["weights"], expected)


@pytest.mark.parametrize("changes", [
    {"rope_parameters": ..., "rope_theta": 10000.0}, {"rope_parameters": None, "rope_scaling": None},
    {"rope_parameters": {"type": "default", "rope_theta": 10000}}, {"rope_theta": 10000}, {"model_type": ...},
    {"architectures": ...}, {"architectures": None}, {"tie_word_embeddings": ...}, {"hidden_act": "swish"},
    {"attention_bias": ..., "mlp_bias": None}, {"head_dim": None}, {"head_dim": ...}, {"num_key_value_heads": 1},
    {"layer_types": ["full_attention"] * 2}, {"dtype": ..., "torch_dtype": "float32"}, {"pretraining_tp": 2},
])
def test_other_spellings_of_the_same_configuration_are_the_same_model(folder, changes):
    expected, expected_notes = read(folder, "x")
    edit(folder, **changes)
    found, notes = read(folder, "x")
    assert (found["params"], notes) == (expected["params"], expected_notes)
    assert same(found["weights"], expected["weights"])


def test_the_base_of_rotary_positions_is_read_in_both_spellings(folder):
    for changes in ({"rope_parameters": ..., "rope_theta": 500000}, {"rope_parameters": {"rope_theta": 5e5}}):
        edit(folder, **{"rope_theta": ...} | changes)
        assert read(folder, "x")[0]["params"]["rope_base"] == 500_000.0


def test_a_context_beyond_folios_is_cut_with_a_note_and_unknown_fields_are_named(folder):
    edit(folder, max_position_embeddings=131072, sparkle=3)
    contents, notes = read(folder, "x")
    assert contents["params"]["block_size"] == 65536
    assert "Its context of 131,072 tokens is cut to 65,536." in notes
    assert "Its config.json has fields that Folio does not know: sparkle." in notes


def test_bytes_without_a_token_get_zeros_and_the_original_comes_back(folder, tmp_path):
    values = json.loads((folder / "tokenizer.json").read_bytes())
    names = sorted(values["model"]["vocab"], key=values["model"]["vocab"].get)
    merged = set("".join("".join(merge) for merge in values["model"]["merges"]))
    absent = [name for name in names if len(name) == 1 and name not in merged][:5]
    kept = [name for name in names if name not in absent]
    values["model"]["vocab"] = {name: token for token, name in enumerate(kept)}
    for token in values["added_tokens"]:
        token["id"] = values["model"]["vocab"][token["content"]]
    (folder / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    original = tensors_in(folder)["model.embed_tokens.weight"]
    model, notes = imported(folder, tmp_path / "w.pth")
    rows = model.contents["origin"]["rows"]
    assert (rows < 0).sum() == 5 and model.params.vocab_size == TOKENS
    assert "5 of the 256 bytes have no token in it; their embeddings are zero." in notes
    embedding = model.contents["weights"]["embedding.weight"]
    assert not embedding[rows < 0].any() and torch.equal(embedding[rows >= 0], original[rows[rows >= 0]])
    hugging_face.write(model, tmp_path / "back")
    assert everything_in(tmp_path / "back") == everything_in(folder)


@pytest.mark.parametrize("name, values, expected", [
    ("tokenizer_config.json", {"bos_token": "<s>"}, "<s>"),
    ("tokenizer_config.json", {"bos_token": {"content": "<s>", "lstrip": False}}, "<s>"),
    ("config.json", {"bos_token_id": 151}, "<s>"),             # 150 and 151: the special tokens in the middle
    ("config.json", {"bos_token_id": None}, END_OF_TEXT),
    ("config.json", {"bos_token_id": 10**9}, END_OF_TEXT),
])
def test_a_text_begins_with_the_token_that_the_folder_names_or_the_one_that_ends_it(folder, name, values, expected):
    edit(folder, bos_token_id=None)
    edit(folder, name, **values)
    contents, _ = read(folder, "x")
    special = contents["tokenizer"]["special_tokens"]
    assert contents["opening"] == [TOKENS - len(special) + special.index(expected)]


def test_other_tokens_that_end_a_text_are_named(folder):
    edit(folder, eos_token_id=[150, 151])
    (folder / "generation_config.json").unlink()
    assert f"It also ends a text at <s>; Folio ends one at {END_OF_TEXT} only." in read(folder, "x")[1]


# --- What is refused ---

def refused(folder):
    """The sentence with which a folder is refused."""
    with pytest.raises((FolioError, OSError)) as raised:
        read(folder, "x")
    sentence = str(raised.value)
    assert sentence.startswith(f"{folder}") and "\n" not in sentence
    assert len(sentence) < len(str(folder)) + 400
    return sentence


@pytest.mark.parametrize("changes", [
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, {"rope_scaling": {"factor": 8.0}}, {"rope_scaling": 3},
    {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
    {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
    {"partial_rotary_factor": 0.25}, {"sliding_window": 4096}, {"use_sliding_window": True}, {"attention_bias": True},
    {"mlp_bias": True}, {"hidden_act": "gelu"}, {"hidden_act": ["silu"]}, {"num_local_experts": 8},
    {"layer_types": ["full_attention", "sliding_attention"]}, {"layer_types": 3}, {"quantization_config": {"bits": 4}},
    {"auto_map": {"AutoModel": "x.Y"}}, {"rope_interleaved": True},
], ids=str)
def test_a_field_that_changes_the_equations_is_named_and_refused(folder, changes):
    edit(folder, **changes)
    assert f"its config.json has {next(iter(changes))}=" in refused(folder)
    assert "which Folio does not compute" in refused(folder)


@pytest.mark.parametrize("changes", [
    {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}, {"add_cross_attention": True},
    {"activation_function": "gelu"}, {"activation_function": None},
], ids=str)
def test_a_field_of_gpt2_that_changes_the_equations_is_named_and_refused(changes, plays, tmp_path):
    make_folder(tmp_path / "gpt2", "gpt2", plays[:20_000])
    edit(tmp_path / "gpt2", **changes)
    assert f"its config.json has {next(iter(changes))}=" in refused(tmp_path / "gpt2")


@pytest.mark.parametrize("changes, problem", [
    ({"architectures": ["MistralForCausalLM"], "model_type": "mistral"}, "says MistralForCausalLM; Folio imports"),
    ({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}, "says Qwen3MoeForCausalLM"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "says LlamaForSequenceClassification"),
    ({"architectures": ["LlamaForCausalLM"], "model_type": "gpt2"}, "says LlamaForCausalLM beside model_type=gpt2"),
    ({"architectures": ["LlamaForCausalLM", "Qwen3ForCausalLM"]}, "says LlamaForCausalLM, Qwen3ForCausalLM"),
    ({"architectures": "LlamaForCausalLM"}, "says model_type=llama"), ({"architectures": [3]}, "says 3"),
    ({"architectures": [["x"]]}, "says ['x']"), ({"architectures": ..., "model_type": ...}, "says model_type=None"),
    ({"hidden_size": ...}, "has no hidden_size"), ({"hidden_size": "64"}, "has hidden_size=64, which should be"),
    ({"hidden_size": 64.0}, "has hidden_size=64.0"), ({"hidden_size": True}, "has hidden_size=True"),
    ({"hidden_size": -64}, "has hidden_size=-64"), ({"rms_norm_eps": float("nan")}, "has rms_norm_eps=nan"),
    ({"rms_norm_eps": 0}, "has rms_norm_eps=0"), ({"num_hidden_layers": 10**9}, "num_layers=1000000000"),
    ({"num_hidden_layers": 10**30}, "has num_hidden_layers=10000"), ({"head_dim": 15}, "head_len=15 is not even"),
    ({"num_key_value_heads": 3}, "num_kv_heads=3"), ({"tie_word_embeddings": "no"}, "has tie_word_embeddings=no"),
    ({"tie_word_embeddings": 1}, "has tie_word_embeddings=1"), ({"rope_theta": 5}, "two values of rope_theta, 5 and"),
    ({"hidden_size": 32}, "where its config.json says (400, 32)"), ({"head_dim": 8}, "where its config.json says"),
    ({"vocab_size": 300}, "where its config.json says (300, 64)"), ({"num_hidden_layers": 3}, "lacks the tensor"),
    ({"num_hidden_layers": 1}, "has the tensor model.layers.1."), ({"intermediate_size": 96}, "says (96, 64)"),
    ({"tie_word_embeddings": True}, "lm_head.weight differs from the embedding"),
    ({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "num_key_value_heads": 1, "head_dim": 16},
     "lacks the tensor model.layers.0.self_attn.q_norm.weight"),
], ids=str)
def test_a_configuration_that_does_not_fit_is_refused(folder, changes, problem):
    edit(folder, **changes)
    assert problem in refused(folder)


def write_raw(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def change_tensor(name, change):
    def damage(folder):
        tensors = tensors_in(folder)
        tensors[name] = change(tensors[name])
        in_one_file(folder, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    return damage


def with_nan(number):
    def change(tensor):
        tensor[-1] = number
        return tensor
    return change


def first_shard(folder):
    return min(folder.glob("*.safetensors"))


def truncate(folder):
    os.truncate(first_shard(folder), first_shard(folder).stat().st_size - 1)


def add_tensor(name):
    return lambda folder: in_one_file(folder, tensors_in(folder) | {name: torch.ones(2)})


def twice_in_shards(folder):
    one, other, *_ = sorted(folder.glob("*.safetensors"))
    package.save_file(package.load_file(one) | package.load_file(other), other)


def too_few_rows(folder):
    """As a configuration that agrees with its weights, and a tokenizer with more ids."""
    tensors = tensors_in(folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:TOKENS - 1].clone()
    in_one_file(folder, tensors)
    edit(folder, vocab_size=TOKENS - 1)


INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"


def not_named(folder):
    places = json.loads((folder / INDEX).read_bytes())["weight_map"]
    del places[NORM]
    edit(folder, INDEX, weight_map=places)


@pytest.mark.parametrize("damage, problem", [
    (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
    (write_raw("config.json", b"{"), "its config.json is not JSON"),
    (write_raw("config.json", b"[" * 100_000), "its config.json is not JSON"),
    (write_raw("config.json", b"[]"), "its config.json is no JSON object"),
    (write_raw("tokenizer_config.json", b"3"), "its tokenizer_config.json is no JSON object"),
    (lambda folder: first_shard(folder).unlink(), f"it has no model-00001-of-00007.safetensors, which its {INDEX}"),
    (lambda folder: [path.unlink() for path in folder.glob("model*")], "it has no weights: neither model.safetens"),
    (truncate, "is not a valid safetensors file: its tensors should have"),
    (lambda folder: first_shard(folder).write_bytes(b"\xff" * 7 + b"\0{}"), "is not a valid safetensors file: it"),
    (twice_in_shards, "in two files"),
    (lambda folder: edit(folder, INDEX, weight_map={}), f"its {INDEX} has no weight_map"),
    (lambda folder: edit(folder, INDEX, weight_map={"a": "../model.safetensors"}), f"its {INDEX} has no weight_map"),
    (lambda folder: edit(folder, INDEX, weight_map=["a"]), f"its {INDEX} has no weight_map"),
    (lambda folder: edit(folder, INDEX, weight_map={"a": first_shard(folder).name}), f"its {INDEX} names the tensor a"),
    (not_named, f"its {INDEX} does not name the tensor {NORM}"),
    (change_tensor(NORM, with_nan(float("nan"))), f"its tensor {NORM} has numbers that are not finite"),
    (change_tensor("lm_head.weight", with_nan(float("inf"))), "its tensor lm_head.weight has numbers that are not"),
    (change_tensor(NORM, lambda tensor: None), f"it lacks the tensor {NORM}"),
    (change_tensor(NORM, lambda tensor: tensor[:-1].clone()), f"its tensor {NORM} has shape (63,)"),
    (change_tensor(NORM, lambda tensor: tensor.to(torch.int8)), f"its tensor {NORM} has numbers of type torch.int8"),
    (add_tensor("model.layers.0.self_attn.q_proj.bias"), "which its architecture has no place for"),
    (add_tensor("norm.weight"), "has shape (2,)"),
    (too_few_rows, "its tokenizer has the id 399, and its config.json says vocab_size=399"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
    (write_raw("tokenizer.json", b'{"model": {"type": "Unigram"}}'), "tokenizer.json"),
])
def test_damage_is_one_sentence(folder, damage, problem):
    damage(folder)
    assert problem in refused(folder)


def test_a_tensor_under_both_of_its_names_is_refused(folder):
    tensors = tensors_in(folder)
    in_one_file(folder, tensors | {"norm.weight": tensors[NORM].clone()})
    assert "twice, the other time as" in refused(folder)


def test_a_file_of_settings_without_end_is_not_read_into_memory(folder):
    with (folder / "tokenizer_config.json").open("wb") as file:
        file.truncate(1 << 40)
    assert "its tokenizer_config.json has more than 67,108,864 bytes" in refused(folder)


def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "called"),)

    for path in folder.glob("model*"):
        path.unlink()
    for content in ({"a": Evil()}, [torch.zeros(1)]):
        torch.save(content, folder / "pytorch_model.bin")
        assert "its pytorch_model.bin is not" in refused(folder)
    assert not (tmp_path / "called").exists()


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    assert "it is no folder" in refused(tmp_path / "nothing")


# --- An origin that was tampered with ---

@pytest.mark.parametrize("change", [
    lambda origin: origin["files"].update({"../evil.txt": torch.zeros(3, dtype=torch.uint8)}),
    lambda origin: origin["headers"].update({"../evil.safetensors": origin["headers"]["model.safetensors"]}),
    lambda origin: origin.update(rows=origin["rows"] + 5), lambda origin: origin.update(rows=origin["rows"] * 0 - 1),
    lambda origin: origin.update(cut={}), lambda origin: origin.pop("unused"),
    lambda origin: origin.update(architecture="none"), lambda origin: origin.update(files=3),
    lambda origin: origin["headers"].update({"model.safetensors": torch.zeros(3, dtype=torch.uint8)}),
])
def test_an_origin_that_does_not_fit_is_refused_and_writes_nothing(folder, change, tmp_path):
    in_one_file(folder, tensors_in(folder))
    edit(folder, vocab_size=TOKENS)
    model, _ = imported(folder, tmp_path / "w.pth")
    change(model.contents["origin"])
    with pytest.raises(FolioError, match="w.pth cannot give back the files it was imported from") as raised:
        hugging_face.write(model, tmp_path / "deep" / "out")
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "deep").iterdir()) == [] and not list(tmp_path.rglob("*evil*"))


def test_an_export_of_ours_is_imported_with_its_opening_and_given_back(small_tokenizer, tmp_path):  # noqa: F811
    from test_hugging_face import MODELS as OURS
    for name, params in OURS.items():
        made = random_model(tmp_path / "ours.pth", params, small_tokenizer)
        place = tmp_path / name
        hugging_face.write(made, place)
        back, notes = imported(place, tmp_path / "back.pth")
        assert (back.opening, notes) == (made.opening, [])
        assert back.tokenizer.to_dict() == made.tokenizer.to_dict()
        tokens = torch.randint(300, (1, 40))
        assert torch.equal(back.net(tokens), made.net(tokens)), name
        hugging_face.write(back, tmp_path / "again" / name)
        assert everything_in(tmp_path / "again" / name) == everything_in(place)
