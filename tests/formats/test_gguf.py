"""GGUF files: llama.cpp continues texts and splits them as Folio does; what is read back is the same network."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from folio.base.errors import FolioError
from folio.formats import checkpoint, gguf, gguf_file, trained_model
from folio.generation import language_model
from folio.kernels.splitting import SPLIT_PATTERNS
from llama_server import difference, fuzz_texts, greedy_by_folio, largest_difference, random_model, serving
from Model_Params import ModelParams
from test_tokenizer import SAMPLES
from tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer

oracle = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

SHIPPED = ROOT / "Saved_Weights" / "weights-pretrained.pth"
SPECIAL = (END_OF_TEXT, "<|user|>", "<|Grüße an alle|>")
SIZE = ModelParams(vocab_size=600, block_size=64, emb_len=64, num_layers=2, num_heads=2)
ODD = dict(emb_len=44, num_heads=4, num_kv_heads=2, head_len=10, hidden_len=50)
CLASSIC = replace(SIZE, family="classic", mlp="gelu")
# Everything that goes: the folio family is qwen3 there, without query_key_norm llama; the classic family is gpt2.
MODELS = {
    "qwen3": SIZE,
    "qwen3, tied": replace(SIZE, tied_head=True),
    "qwen3, odd sizes": replace(SIZE, **ODD, norm_eps=1e-4, rope_base=5e5),
    "llama": replace(SIZE, query_key_norm=False),
    "llama, odd sizes": replace(SIZE, query_key_norm=False, tied_head=True, **ODD, norm_eps=1e-5, rope_base=1e6),
    "gpt2": replace(CLASSIC, biases="gpt2"),
    "gpt2, tied, biases=lecture": replace(CLASSIC, tied_head=True),
    "gpt2, odd sizes, biases=none": replace(CLASSIC, biases="none", emb_len=45, num_heads=3, hidden_len=70),
}
PROMPTS = ("The king", "\nWhat", "If 12")


@pytest.fixture(scope="module")
def tokenizers(plays):
    """{split pattern: a tokenizer}"""
    texts = [plays[:100_000], *SAMPLES * 5]
    return {pattern: BPETokenizer.train(texts, SIZE.vocab_size, pattern, SPECIAL) for pattern in SPLIT_PATTERNS}


@pytest.fixture(scope="module")
def models(tokenizers, tmp_path_factory):
    """{name in MODELS: TrainedModel}"""
    folder = tmp_path_factory.mktemp("models")
    return {name: random_model(tokenizers["gpt2" if "gpt2" in name else "qwen2"], folder, params, (10, 261))
            for name, params in MODELS.items()}


@pytest.fixture(scope="module")
def shipped():
    return trained_model.load(SHIPPED)


@pytest.fixture(scope="module")
def shipped_server(shipped, tmp_path_factory):
    """llama.cpp with the shipped model in f32."""
    path = tmp_path_factory.mktemp("shipped") / "shipped.gguf"
    gguf.write(shipped, path)
    with serving(path) as server:
        yield server


def read_back(path, name="again"):
    """Read a GGUF file as a user does, through a weights file beside it. -> TrainedModel, notes"""
    contents, notes = gguf.read(path, name)
    checkpoint.save(path.with_suffix(".pth"), contents)
    return trained_model.load(path.with_suffix(".pth")), notes


def same_tensors(one, other):
    """Whether two networks have the same weights to the bit."""
    states = one.net.state_dict(), other.net.state_dict()
    return list(states[0]) == list(states[1]) and all(torch.equal(states[0][name], states[1][name])
                                                      for name in states[0])


# --- llama.cpp ---

def test_llama_cpp_continues_texts_with_the_shipped_model_as_folio_does(shipped, shipped_server):
    for prompt in ("\nI have the key", "\nMEDLEY.\n", "\nWhat are you", "\nNo one in the house knows"):
        ids = shipped.tokenizer.encode(prompt)
        assert shipped_server.tokens(prompt, parse_special=True) == ids          # it adds nothing of its own
        assert difference(shipped_server, shipped, ids, 60) < 1e-4


def test_llama_cpp_says_that_the_shipped_model_ends_with_its_own_token(shipped, shipped_server):
    properties = shipped_server.ask("/props")
    assert properties["eos_token"] == properties["bos_token"] == END_OF_TEXT
    assert properties["default_generation_settings"]["n_ctx"] == shipped.params.block_size


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_continues_texts_with_every_kind_of_model_as_folio_does(models, name, tmp_path):
    model = models[name]
    gguf.write(model, tmp_path / "model.gguf")
    # ggml reads its GELU from a table of float16.
    bound = 1e-2 if name.startswith("gpt2") else 1e-4
    with serving(tmp_path / "model.gguf") as server:
        for prompt in PROMPTS:
            assert difference(server, model, model.tokenizer.encode(prompt), 50) < bound


@pytest.mark.parametrize("type, bound", [("f16", 0.02), ("q8_0", 0.5)])
def test_llama_cpp_runs_rounded_models_with_nearly_the_same_log_probabilities(shipped, tmp_path, type, bound):
    gguf.write(shipped, tmp_path / "model.gguf", type)
    ids = shipped.tokenizer.encode("\nI have the key")
    with serving(tmp_path / "model.gguf") as server:
        tokens, _, places = server.greedy(ids, 40, 20)
    rows = rows_along(shipped, ids, tokens)
    assert 1e-5 < largest_difference(shipped, tokens, rows, places) < bound


def rows_along(model, ids, tokens):
    """Return the log-probabilities of Folio for the place of each of the tokens after ids: (tokens, vocabulary)"""
    with torch.inference_mode():
        logits = model.net(torch.tensor([[*ids, *tokens]]))[0, len(ids) - 1:-1]
    return logits.double().log_softmax(-1).numpy()


@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
def test_llama_cpp_splits_texts_into_the_same_tokens(tokenizers, plays, pattern, tmp_path):
    tokenizer = tokenizers[pattern]
    gguf.write(random_model(tokenizer, tmp_path, SIZE), tmp_path / "model.gguf")
    wrong = []
    with serving(tmp_path / "model.gguf") as server:
        for text in fuzz_texts(plays, [*SPECIAL, "<|user"], 400):
            for special in (True, False):
                if server.tokens(text, special) != tokenizer.encode(text, special):
                    wrong.append((text, special))
    assert wrong == []


def test_llama_cpp_applies_merges_that_no_training_would_learn(tmp_path):
    tokenizer = BPETokenizer([(98, 99), (97, 98), (257, 99), (97, 97), (259, 259), (99, 97), (256, 97)])
    gguf.write(random_model(tokenizer, tmp_path, replace(SIZE, vocab_size=tokenizer.vocab_size)), tmp_path / "m.gguf")
    draw = np.random.default_rng(0)
    with serving(tmp_path / "m.gguf") as server:
        for _ in range(100):
            text = "".join(draw.choice(list("abc"), 12))
            assert server.tokens(text, True) == tokenizer.encode(text), text


def test_llama_cpp_has_no_rules_of_its_own_for_the_name_of_a_model(models, tmp_path):
    model = models["qwen3"]
    model = replace(model, contents=model.contents | {"name": "my Phi-3, phi3"})
    gguf.write(model, tmp_path / "model.gguf")
    with serving(tmp_path / "model.gguf") as server:        # it would strip the spaces after special tokens
        text = "<|user|>  a <|endoftext|> \n b"
        assert server.tokens(text, True) == model.tokenizer.encode(text, allow_special=True)


def test_llama_cpp_ends_a_text_at_the_context(shipped, shipped_server):
    answer = shipped_server.ask("/completion", prompt=[10, 20], n_predict=300, temperature=0, ignore_eos=True)
    assert (answer["tokens_predicted"], answer["stop_type"]) == (254, "limit")


# --- The file ---

def test_the_gguf_package_finds_every_key(shipped, tmp_path):
    gguf.write(shipped, tmp_path / "model.gguf")
    reader = oracle.GGUFReader(tmp_path / "model.gguf")
    values = {key: field.contents() for key, field in reader.fields.items()}
    end = shipped.tokenizer.end_of_text
    assert {key: value for key, value in values.items() if not isinstance(value, list)} == {
        "GGUF.version": 3, "GGUF.tensor_count": 47, "GGUF.kv_count": len(values) - 3,
        "general.architecture": "qwen3", "general.type": "model", "general.name": "pretrained",
        "general.description": "Trained with Folio: 1,000 steps, 2.021 bits per byte of its validation text.",
        "general.size_label": "1.1M", "general.file_type": 0, "general.quantization_version": 2,
        "qwen3.context_length": 256, "qwen3.embedding_length": 128, "qwen3.block_count": 4,
        "qwen3.feed_forward_length": 352, "qwen3.vocab_size": 1024, "qwen3.attention.head_count": 2,
        "qwen3.attention.head_count_kv": 2, "qwen3.attention.key_length": 64, "qwen3.attention.value_length": 64,
        "qwen3.attention.layer_norm_rms_epsilon": pytest.approx(1e-6), "qwen3.rope.freq_base": 10_000,
        "qwen3.rope.dimension_count": 64,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.bos_token_id": end, "tokenizer.ggml.padding_token_id": end,
        "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": False, "folio.biases": "none"}
    assert values["tokenizer.ggml.tokens"] == shipped.tokenizer.names() and values["folio.opening"] == [10]
    assert values["tokenizer.ggml.token_type"] == [1] * 1023 + [3]
    names = {tensor.name for tensor in reader.tensors}
    architecture = oracle.MODEL_ARCH.QWEN3
    known = oracle.TensorNameMap(architecture, 4)
    assert all(name.removesuffix(".weight") in known.mapping for name in names)


def test_a_name_that_llama_cpp_does_not_know_as_a_pattern_is_refused(models, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "PATTERNS", {"gpt-2": "gpt2"})
    with pytest.raises(FolioError, match="no name for the split pattern qwen2.*huggingface"):
        gguf.write(models["qwen3"], tmp_path / "model.gguf")


def test_a_tokenizer_that_llama_cpp_would_not_follow_is_refused(tmp_path):
    unmade = BPETokenizer([(98, 99), (97, 98), (257, 99)], "llama3")            # b+c comes before ab+c can
    with pytest.raises(FolioError, match="this tokenizer's merges never make b'abc'"):
        gguf.write(random_model(unmade, tmp_path, replace(SIZE, vocab_size=260)), tmp_path / "model.gguf")
    endless = BPETokenizer([(98, 99)], special_tokens=["<|user|>"])
    with pytest.raises(FolioError, match="in which no special token ends a text"):
        gguf.write(random_model(endless, tmp_path, replace(SIZE, vocab_size=258)), tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize("params, message", [
    (replace(SIZE, family="classic"), "gguf has no place for mlp=relu"),
    (replace(SIZE, mlp="relu2"), "gguf has no place for mlp=relu2"),
    (replace(SIZE, positions="none"), "gguf has no place for positions=none"),
    (ModelParams(vocab_size=600, family="lstm", emb_len=16), "gguf has no place for family=lstm.*page")])
def test_what_the_format_cannot_represent_is_refused(tokenizers, tmp_path, params, message):
    model = random_model(tokenizers["qwen2"], tmp_path, params)
    with pytest.raises(FolioError, match=message):
        gguf.write(model, tmp_path / "model.gguf")


def test_characters_are_refused(tmp_path):
    letters = CharTokenizer("abc\n", [END_OF_TEXT])
    model = random_model(letters, tmp_path, replace(SIZE, vocab_size=letters.vocab_size), (3,))
    with pytest.raises(FolioError, match="gguf has no place for tokenizer=char"):
        gguf.write(model, tmp_path / "model.gguf")


def test_an_earlier_export_is_replaced_and_nothing_else(models, tmp_path):
    path = tmp_path / "model.gguf"
    gguf.write(models["qwen3"], path)
    before = path.read_bytes()
    gguf.write(models["gpt2"], path)
    assert path.read_bytes() != before
    path.write_text("my diary", encoding="utf-8")
    with pytest.raises(FileExistsError, match="is not a GGUF file; it was left as it is"):
        gguf.write(models["qwen3"], path)
    with pytest.raises(FolioError, match="in f32, f16, q8_0, not in q4_k"):
        gguf.write(models["qwen3"], tmp_path / "new.gguf", "q4_k")
    assert path.read_text(encoding="utf-8") == "my diary" and not (tmp_path / "new.gguf").exists()


def test_small_models_are_exact_unless_told_otherwise_and_large_ones_take_half(models, monkeypatch):
    model = models["qwen3"]
    assert gguf.default_type(model) == "f32"
    monkeypatch.setattr(gguf, "count_parameters", lambda net: 50_000_000)
    assert gguf.default_type(model) == "f16"


@pytest.mark.parametrize("count", [999, 9_499, 9_500, 99_999, 208_000, 999_999, 1_000_001, 9_960_000, 124_439_808,
                                   7_241_732_096, 1_800_000_000_000])
def test_the_label_of_a_size_is_that_of_the_gguf_package(count):
    assert gguf.size_label(count) == oracle.size_label(count, 0, 0, 0)


# --- Back ---

@pytest.mark.parametrize("name", MODELS)
def test_what_is_read_back_is_the_same_network_tokenizer_and_opening(models, name, tmp_path):
    model = models[name]
    gguf.write(model, tmp_path / "model.gguf")
    again, notes = read_back(tmp_path / "model.gguf", model.name)
    assert same_tensors(again, model) and notes == []
    assert again.params == model.params
    assert again.tokenizer.to_dict() == model.tokenizer.to_dict() and again.opening == model.opening == [10, 261]
    gguf.write(again, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "model.gguf").read_bytes()


@pytest.mark.parametrize("type, numbers", [("f16", torch.float16), ("q8_0", torch.float32)])
@pytest.mark.parametrize("name", ["qwen3, odd sizes", "llama", "gpt2"])
def test_rounded_matrices_are_read_back_as_they_were_written(models, name, type, numbers, tmp_path):
    model, path = models[name], tmp_path / "model.gguf"
    gguf.write(model, path, type)
    contents, notes = gguf.read(path, "again")
    reader = {tensor.name: tensor for tensor in oracle.GGUFReader(path).tensors}
    embedding = reader["token_embd.weight"]
    kind = embedding.tensor_type.name.lower()
    assert kind == ("f16" if "odd" in name else type)           # rows of 44 are no blocks
    assert len(notes) == 1 and kind in notes[0] and "rounded" in notes[0]
    theirs = oracle.dequantize(embedding.data, embedding.tensor_type)
    assert np.array_equal(contents["weights"]["embedding.weight"].float().numpy(), theirs)
    assert contents["weights"]["embedding.weight"].dtype == (torch.float16 if "odd" in name else numbers)
    exact = [key for key in contents["weights"] if "norm" in key or key.endswith("bias") or "positions" in key]
    assert all(torch.equal(contents["weights"][key], model.net.state_dict()[key]) for key in exact), exact
    for key, weight in model.net.state_dict().items():
        assert (contents["weights"][key].float() - weight).abs().max() <= weight.abs().max() / 250, key


def test_a_model_that_was_read_writes_texts(shipped, tmp_path):
    gguf.write(shipped, tmp_path / "model.gguf", "f16")
    read_back(tmp_path / "model.gguf")
    one, other = (language_model.load(path, device="cpu") for path in (SHIPPED, tmp_path / "model.pth"))
    assert (one.complete("I have", tokens=20, temperature=0) == other.complete("I have", tokens=20, temperature=0))


def changed(path, values=None, tensors=None, order=None):
    """Write the file at path again with other values ({key: value or None to leave it out}) and tensors."""
    with gguf_file.opened(path) as file:
        metadata = file.metadata | (values or {})
        arrays = {name: file.read(name).astype(np.float32) for name in file.tensors} | (tensors or {})
    if order is not None:
        arrays = {name: array[order] if name in ("token_embd.weight", "output.weight") else array
                  for name, array in arrays.items()}
    gguf_file.write(path, {key: value for key, value in metadata.items() if value is not None},
                    [gguf_file.NewTensor(name, array.shape, "f32", lambda array=array: array)
                     for name, array in arrays.items() if array is not None])
    return path


@pytest.fixture
def foreign(models, tmp_path):
    """The file of a qwen3 model as another program could have written it: special tokens first, and no keys of ours"""
    gguf.write(models["qwen3"], tmp_path / "foreign.gguf")
    tokenizer = models["qwen3"].tokenizer
    order = np.roll(np.arange(tokenizer.vocab_size), len(SPECIAL))
    return changed(tmp_path / "foreign.gguf", {
        "tokenizer.ggml.tokens": [tokenizer.names()[number] for number in order],
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (tokenizer.vocab_size - len(SPECIAL)),
        "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.padding_token_id": None,
        "folio.opening": None, "folio.biases": None, "qwen3.rope.dimension_count": None,
        "qwen3.rope.scaling.type": "none", "general.license": "mit"}, order=order)


def hugging_face_model(kind, tokenizer):
    """A random model of the transformers library, and what a GGUF file of another program says of it."""
    torch.manual_seed(2)
    shape = dict(vocab_size=tokenizer.vocab_size, bos_token_id=None, eos_token_id=None)
    if kind == "gpt2":
        config = transformers.GPT2Config(**shape, n_positions=32, n_embd=24, n_layer=2, n_head=3)
        net, values = transformers.GPT2LMHeadModel(config), {"attention.layer_norm_epsilon": 1e-5}
    else:
        config = {"qwen3": transformers.Qwen3Config, "llama": transformers.LlamaConfig}[kind](
            **shape, max_position_embeddings=32, hidden_size=24, intermediate_size=40, num_hidden_layers=2, head_dim=6,
            num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=5e5,
            rope_parameters={"rope_type": "default", "rope_theta": 5e5}, tie_word_embeddings=False)
        net = {"qwen3": transformers.Qwen3ForCausalLM, "llama": transformers.LlamaForCausalLM}[kind](config)
        values = {"attention.head_count_kv": 2, "attention.key_length": 6, "attention.value_length": 6,
                  "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 5e5}
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return net.eval(), values | {"context_length": 32, "embedding_length": 24, "block_count": 2,
                                 "feed_forward_length": 96 if kind == "gpt2" else 40,
                                 "attention.head_count": 3 if kind == "gpt2" else 4}


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
def test_a_file_that_others_made_of_a_hugging_face_model_computes_as_that_model(kind, tokenizers, tmp_path):
    tokenizer = tokenizers["qwen2"]
    net, values = hugging_face_model(kind, tokenizer)
    writer = oracle.GGUFWriter(tmp_path / "theirs.gguf", kind)
    for key, value in values.items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"{kind}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokenizer.names())
    writer.add_token_types([1] * (tokenizer.vocab_size - len(SPECIAL)) + [3] * len(SPECIAL))
    writer.add_token_merges([" ".join(tokenizer.names()[part] for part in pair) for pair in tokenizer.merges])
    writer.add_eos_token_id(tokenizer.end_of_text)
    names = oracle.get_tensor_name_map(oracle.MODEL_ARCH[kind.upper()], 2)
    for name, tensor in net.state_dict().items():
        if name == "lm_head.weight" and kind == "gpt2":         # tied
            continue
        array = tensor.numpy()
        if kind == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            array = array.T
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = 4 if "q_proj" in name else 2
            array = array.reshape(heads, 2, 3, 24).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model, notes = read_back(tmp_path / "theirs.gguf")
    tokens = torch.randint(tokenizer.vocab_size, (2, 32))
    with torch.inference_mode():
        torch.testing.assert_close(model.net(tokens), net(tokens).logits, rtol=0, atol=1e-4)
    assert notes == [] and model.opening == [tokenizer.end_of_text]


def test_tokens_of_others_get_our_ids_and_texts_begin_with_their_first_token(models, foreign):
    again, notes = read_back(foreign)
    assert same_tensors(again, models["qwen3"]) and notes == []
    assert again.tokenizer.to_dict() == models["qwen3"].tokenizer.to_dict()
    assert again.opening == [again.tokenizer.special_ids[SPECIAL[1]]]
    changed(foreign, {"tokenizer.ggml.bos_token_id": None})
    assert read_back(foreign)[0].opening == [again.tokenizer.end_of_text]


def test_what_is_left_out_is_said(foreign):
    changed(foreign, {"tokenizer.chat_template": "{{ messages }}", "tokenizer.ggml.add_bos_token": True})
    before_prompts, template = sorted(read_back(foreign)[1])
    assert "before every prompt" in before_prompts and "chat template" in template
    changed(foreign, {"tokenizer.chat_template": None, "tokenizer.ggml.add_bos_token": None})
    assert read_back(foreign)[1] == []
    changed(foreign, {"tokenizer.ggml.eos_token_id": 1})
    assert read_back(foreign)[1] == ["Its texts end with <|user|>; in Folio, <|endoftext|> ends them."]
    changed(foreign, {"tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.pre": "llama-bpe"})
    assert "before every prompt" in read_back(foreign)[1][0]            # llama.cpp's default for this pattern


@pytest.mark.parametrize("values, message", [
    ({"general.architecture": "gemma3"}, "general.architecture is gemma3; Folio can represent llama, qwen3, gpt2"),
    ({"general.architecture": None}, "lacks the key general.architecture"),
    ({"qwen3.block_count": None}, "lacks the key qwen3.block_count"),
    ({"qwen3.block_count": "two"}, "its qwen3.block_count is two, and Folio expects another type"),
    ({"qwen3.block_count": 3}, "lacks the tensor blk.2"),
    ({"qwen3.block_count": 1}, "has the tensor blk.1.* for which Folio has no place"),
    ({"qwen3.block_count": 100_000}, "num_layers=100000"),
    ({"qwen3.embedding_length": 32}, "its tensor token_embd.weight is 600x64, where its keys say 600x32"),
    ({"qwen3.attention.head_count": 0}, "num_heads=0"),
    ({"qwen3.attention.head_count": [2, 4]}, r"head_count is \[2, 4\], and Folio expects another type"),
    ({"qwen3.attention.value_length": 16}, "value_length is 16; Folio can represent 32"),
    ({"qwen3.attention.layer_norm_rms_epsilon": math.nan}, "norm_eps=nan"),
    ({"qwen3.context_length": 1 << 20}, "block_size=1048576"),
    ({"qwen3.rope.scaling.type": "yarn"}, "it has qwen3.rope.scaling.type=yarn, which Folio cannot represent"),
    ({"qwen3.attention.sliding_window": 128}, "qwen3.attention.sliding_window=128, which Folio cannot"),
    ({"qwen3.rope.dimension_count": 16}, "qwen3.rope.dimension_count is 16; Folio can represent 32"),
    ({"qwen3.vocab_size": 601}, "qwen3.vocab_size is 601"),
    ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model is llama; Folio can represent gpt2"),
    ({"tokenizer.ggml.pre": "deepseek-llm"}, "tokenizer.ggml.pre is deepseek-llm; Folio can represent qwen2, gpt-2"),
    ({"tokenizer.ggml.token_type": [3, 4, 3] + [1] * 597}, "tokens of the type 4; Folio has 1"),
    ({"tokenizer.ggml.token_type": [3, 3, 3]}, "600 tokens, 600 of them distinct, and 3 types"),
    ({"tokenizer.ggml.tokens": ["a"] * 600}, "600 tokens, 1 of them distinct"),
    ({"tokenizer.ggml.merges": ["a b c"]}, "does not join two tokens"),
    ({"tokenizer.ggml.merges": None}, "lacks the key tokenizer.ggml.merges"),
    ({"tokenizer.ggml.add_eos_token": True}, "add_eos_token=True"),
    ({"tokenizer.ggml.bos_token_id": 600}, "does not say how a text begins"),
    ({"folio.opening": [1, 600]}, "does not say how a text begins"),
])
def test_what_folio_cannot_do_is_refused_by_its_key(foreign, values, message):
    with pytest.raises(FolioError, match=f"foreign.gguf cannot be imported: .*{message}"):
        gguf.read(changed(foreign, values), "again")


def test_a_token_that_llama_cpp_takes_whole_and_folio_never_makes_is_refused(tmp_path):
    unmade = BPETokenizer([(98, 99), (97, 98), (257, 99)])
    gguf.write(random_model(unmade, tmp_path, replace(SIZE, vocab_size=260)), tmp_path / "model.gguf")
    assert read_back(tmp_path / "model.gguf")[0].tokenizer.merges == unmade.merges
    changed(tmp_path / "model.gguf", {"tokenizer.ggml.pre": "llama-bpe"})
    with pytest.raises(FolioError, match="never make its token 'abc', which llama.cpp takes whole"):
        gguf.read(tmp_path / "model.gguf", "again")


@pytest.mark.parametrize("tensors, message", [
    ({"rope_freqs.weight": np.ones(16, np.float32)}, "it has the tensor rope_freqs.weight, for which Folio has no"),
    ({"blk.1.attn_q.bias": np.ones(64, np.float32)}, "it has the tensor blk.1.attn_q.bias"),
    ({"output_norm.weight": None}, "it lacks the tensor output_norm.weight"),
    ({"output_norm.weight": np.ones(63, np.float32)}, "its tensor output_norm.weight is 63, where its keys say 64")])
def test_tensors_that_do_not_fit_are_refused(foreign, tensors, message):
    with pytest.raises(FolioError, match=message):
        gguf.read(changed(foreign, tensors=tensors), "again")


def test_biases_that_our_network_lacks_have_to_be_zero(models, tmp_path):
    gguf.write(models["gpt2, tied, biases=lecture"], tmp_path / "model.gguf")
    with pytest.raises(FolioError, match="blk.0.attn_qkv.bias is not zero, where folio.biases=lecture"):
        gguf.read(changed(tmp_path / "model.gguf", tensors={"blk.0.attn_qkv.bias": np.ones(192, np.float32)}), "again")
    changed(tmp_path / "model.gguf", {"folio.biases": None})
    assert read_back(tmp_path / "model.gguf")[0].params.biases == "gpt2"
    gguf.write(models["gpt2"], tmp_path / "model.gguf")
    with pytest.raises(FolioError, match="folio.biases=lecture beside output.weight"):
        gguf.read(changed(tmp_path / "model.gguf", {"folio.biases": "lecture"}), "again")


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """The bytes of a small model's file, and how many of them come before the numbers."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer = BPETokenizer([(97, 98), (256, 99)])
    params = ModelParams(vocab_size=tokenizer.vocab_size, block_size=8, emb_len=8, num_layers=1, num_heads=1)
    gguf.write(random_model(tokenizer, folder, params), folder / "small.gguf")
    with gguf_file.opened(folder / "small.gguf") as file:
        start = min(outline.start for outline in file.tensors.values())
    return (folder / "small.gguf").read_bytes(), start


@settings(max_examples=200)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3), st.floats(0.5, 1.5))
def test_a_damaged_file_becomes_a_model_or_one_sentence(small_file, tmp_path_factory, changes, length):
    content, header = bytearray(small_file[0]), small_file[1]
    for place, value in changes:
        content[int(place * header)] = value
    path = tmp_path_factory.mktemp("damaged") / "damaged.gguf"
    path.write_bytes(content[:int(length * len(content))])
    try:
        model, _ = read_back(path)
    except FolioError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(greedy_by_folio(model, [97], 2)[1]).any()


def test_the_contents_are_those_of_an_imported_model(models, tmp_path):
    gguf.write(models["qwen3, tied"], tmp_path / "model.gguf")
    contents, _ = gguf.read(tmp_path / "model.gguf", "given")
    assert contents["name"] == "given" and contents["step"] == 0 and contents["params"] == asdict(
        models["qwen3, tied"].params)
    assert contents["weights"]["head.weight"] is contents["weights"]["embedding.weight"]
