"""Every network, variant and tokenizer in every export format: the same model is there, or it is refused in a sentence.

The sentence names the parameter and the formats that can. Nothing is written that is silently another model.
"""

import os
import re
from dataclasses import replace

os.environ["HF_HUB_OFFLINE"] = "1"          # before transformers is imported

import pytest
import torch

from conftest import ROOT
from folio.base.errors import FolioError
from folio.convert import MODEL_WRITERS
from folio.formats import checkpoint, exports, gguf, hugging_face, hugging_face_import, ollama, page, trained_model
from folio.kernels.splitting import SPLIT_PATTERNS
from folio.networks.build import build_network, outline
from Model_Params import FAMILIES, MLPS, NORMS, POSITIONS, ModelParams
from test_network import in_node, script
from tokenizer import BPETokenizer, CharTokenizer

TEXT = "The harbour master told the harbour crew to haul the heavy chain, then told them why. " * 3
SMALL = ModelParams(block_size=16, emb_len=32, num_layers=2, num_heads=4)
CLASSIC, LSTM = replace(SMALL, family="classic"), replace(SMALL, family="lstm", num_heads=None)
BPE = BPETokenizer.train([TEXT], 280)

# name: (ModelParams, architecture for huggingface, for gguf and ollama), or instead of that what the refusal names. A
# page has equations of its own.
MODELS = {
    "folio": (SMALL, "qwen3", "qwen3"),
    "folio, tied": (replace(SMALL, tied_head=True), "qwen3", "qwen3"),
    "folio, grouped": (replace(SMALL, num_kv_heads=2, head_len=12), "qwen3", "qwen3"),
    "folio, constants": (replace(SMALL, rope_base=1e6, norm_eps=1e-3, hidden_len=40), "qwen3", "qwen3"),
    "folio, dropout": (replace(SMALL, dropout=0.3, attention_dropout=0.2), "qwen3", "qwen3"),
    "folio, query_key_norm": (replace(SMALL, query_key_norm=False, num_kv_heads=2), "llama", "llama"),
    "folio, norm": (replace(SMALL, norm="layer"), "norm=layer", "norm=layer"),
    "folio, learned": (replace(SMALL, positions="learned"), "positions=learned", "positions=learned"),
    "folio, no positions": (replace(SMALL, positions="none"), "positions=none", "positions=none"),
    "folio, gelu": (replace(SMALL, mlp="gelu"), "mlp=gelu", "mlp=gelu"),
    "folio, relu2": (replace(SMALL, mlp="relu2"), "mlp=relu2", "mlp=relu2"),
    "folio, biases": (replace(SMALL, biases="gpt2"), "biases=gpt2", "biases=gpt2"),
    "classic": (CLASSIC, "biases=lecture", "mlp=relu"),
    "classic, tied": (replace(CLASSIC, tied_head=True), "gpt2", "mlp=relu"),
    "classic, gpt2": (replace(CLASSIC, biases="gpt2", mlp="gelu"), "gpt2", "gpt2"),
    "classic, gpt2, tied": (replace(CLASSIC, biases="gpt2", mlp="gelu", tied_head=True), "gpt2", "gpt2"),
    "classic, no biases": (replace(CLASSIC, biases="none", mlp="gelu", norm_eps=1e-3), "gpt2", "gpt2"),
    "classic, lecture": (replace(CLASSIC, mlp="gelu", tied_head=True, hidden_len=72), "gpt2", "gpt2"),
    "classic, untied lecture": (replace(CLASSIC, mlp="gelu"), "biases=lecture", "biases=lecture"),
    "classic, grouped": (replace(CLASSIC, biases="gpt2", mlp="gelu", num_kv_heads=2),
                         "num_kv_heads=2", "num_kv_heads=2"),
    "classic, head_len": (replace(CLASSIC, biases="gpt2", mlp="gelu", head_len=12), "head_len=12", "head_len=12"),
    "classic, swiglu": (replace(CLASSIC, biases="gpt2", mlp="swiglu"), "mlp=swiglu", "mlp=swiglu"),
    "classic, query_key_norm": (replace(CLASSIC, biases="gpt2", mlp="gelu", query_key_norm=True),
                                "query_key_norm=True", "query_key_norm=True"),
    "lstm": (LSTM, "family=lstm", "family=lstm"),
    "lstm, tied": (replace(LSTM, tied_head=True), "family=lstm", "family=lstm"),
}
TOKENIZERS = {
    **{f"pattern {name}": (BPETokenizer.train([TEXT], 280, name), "qwen3", "qwen3") for name in SPLIT_PATTERNS},
    "special tokens": (BPETokenizer(BPE.merges, special_tokens=["<|im_end|>", "<|endoftext|>"]), "qwen3", "qwen3"),
    "characters": (CharTokenizer(sorted(set(TEXT))), "tokenizer=char", "tokenizer=char"),
    "no merges": (BPETokenizer([]), "qwen3", "vocab_size=257"),
    "no special tokens": (BPETokenizer(BPE.merges, special_tokens=[]), "qwen3", "no special token ends a text"),
}
CASES = {name: (params, BPE, *found) for name, (params, *found) in MODELS.items()} | {
    name: (SMALL, tokenizer, *found) for name, (tokenizer, *found) in TOKENIZERS.items()}


def random_model(folder, params, tokenizer):
    """A model in which every parameter, norms and biases included, has a value of its own."""
    torch.manual_seed(1)
    net = build_network(replace(params, vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    contents = trained_model.imported("random", net.params, net.state_dict(), tokenizer, [tokenizer.vocab_size - 1])
    checkpoint.save(folder / "weights-random.pth", contents)
    return trained_model.load(folder / "weights-random.pth")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A TrainedModel of each case."""
    return {name: random_model(tmp_path_factory.mktemp("model"), *CASES[name][:2]) for name in CASES}


@pytest.fixture(params=CASES)
def case(request, models):
    """(TrainedModel, {format: its architecture, or what the refusal names})"""
    _, _, in_hugging_face, in_llama_cpp = CASES[request.param]
    return models[request.param], {"huggingface": in_hugging_face, "gguf": in_llama_cpp, "ollama": in_llama_cpp,
                                   "page": None}


def test_the_cases_have_every_family_and_every_value_of_every_part():
    models = [params for params, *_ in CASES.values()]
    assert {params.family for params in models} == set(FAMILIES)
    resolved = [params.resolved() for params in models]
    for field, values in {"norm": NORMS, "positions": POSITIONS, "mlp": MLPS, "query_key_norm": (True, False),
                          "biases": ("none", "lecture", "gpt2"), "tied_head": (True, False)}.items():
        assert {getattr(params, field) for params in resolved} - {None} == set(values), field
    assert MODEL_WRITERS.keys() == exports.FORMATS.keys()


def is_refused(expected):
    return expected is not None and expected not in exports.ARCHITECTURES


@pytest.mark.parametrize("format", exports.FORMATS)
def test_a_model_is_represented_exactly_or_refused_in_a_sentence(case, format, tmp_path):
    model, expected = case
    if not is_refused(expected[format]):
        assert exports.architecture(model, format) == expected[format]
        return
    with pytest.raises(FolioError) as refused:
        exports.architecture(model, format)
    message = str(refused.value)
    assert message.startswith(f"The format {format} has no place for ") and expected[format] in message
    assert "\n" not in message
    able = [other for other, found in expected.items() if not is_refused(found)]
    assert message.endswith(f"These can hold it: {', '.join(able)}.")


@pytest.mark.parametrize("format", [name for name in exports.FORMATS if name != "page"])
def test_a_writer_refuses_what_its_format_cannot_represent_and_writes_nothing(case, format, tmp_path):
    model, expected = case
    if not is_refused(expected[format]):
        return
    with pytest.raises(FolioError, match="has no place for"):
        writer(format).write(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def writer(format):
    return {"huggingface": hugging_face, "gguf": gguf, "ollama": ollama}[format]


def test_a_folder_for_transformers_has_the_same_logits_and_ids(case, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model, expected = case
    if is_refused(expected["huggingface"]):
        return
    hugging_face.write(model, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.randint(model.params.vocab_size, (2, model.params.block_size))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model.net(tokens), atol=1e-4, rtol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(TEXT)["input_ids"] == model.tokenizer.encode(TEXT)


@pytest.mark.parametrize("format", [name for name in exports.FORMATS if name != "page"])
def test_an_export_is_read_back_as_the_same_model(case, format, tmp_path):
    model, expected = case
    if is_refused(expected[format]):
        return
    path = tmp_path / "out"
    if format == "huggingface":
        hugging_face.write(model, path)
        contents, notes = hugging_face_import.read(path, "random")
    else:
        writer(format).write(model, path, "f32")
        contents, notes = gguf.read(path / "model.gguf" if format == "ollama" else path, "random")
    checkpoint.save(tmp_path / "weights-back.pth", contents)
    back = trained_model.load(tmp_path / "weights-back.pth")
    assert notes == [] and back.opening == model.opening
    if format == "huggingface":         # and given back as it came
        hugging_face.write(back, tmp_path / "again")
        assert {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()} == {
            file.name: file.read_bytes() for file in path.iterdir()}
    assert back.tokenizer.to_dict() == model.tokenizer.to_dict()
    tokens = torch.randint(model.params.vocab_size, (2, model.params.block_size))
    with torch.no_grad():
        torch.testing.assert_close(back.net(tokens), model.net(tokens), atol=0, rtol=0)


IN_A_PAGE = script("tokenizer.js") + """
const pages = JSON.parse(require("fs").readFileSync(0, "utf8"));
async function results({ model, text, ids }) {
  const { params, weights, tokenizer, opening } = await loadModel(model);
  const network = createNetwork(params, weights);
  const logits = network.readAll(network.emptyState(), ids).map((each) => Array.from(each));
  return { logits, opening, ids: Array.from(makeTokenizer(tokenizer).encode(text)) };
}
Promise.all(pages.map(results)).then((done) => process.stdout.write(JSON.stringify(done)));
"""


def test_a_page_has_the_same_logits_and_ids(models, tmp_path):
    pages, path = [], tmp_path / "page.html"
    for model in models.values():
        page.write(model, path, "f32")
        [packed] = re.findall(r'<script type="text/plain" id="folio-model">\s*(\S+)\s*</script>',
                              path.read_text(encoding="utf-8"))
        ids = torch.randint(model.params.vocab_size, (model.params.block_size,)).tolist()
        pages.append({"model": packed, "text": TEXT, "ids": ids})
    for (name, model), given, found in zip(models.items(), pages, in_node(IN_A_PAGE, pages), strict=True):
        assert found["ids"] == model.tokenizer.encode(TEXT) and found["opening"] == model.opening, name
        with torch.no_grad():
            logits = model.net(torch.tensor([given["ids"]]))[0]
        torch.testing.assert_close(torch.tensor(found["logits"]), logits, atol=1e-4, rtol=1e-4,
                                   msg=lambda said: f"{name}: {said}")


def test_a_model_that_is_too_large_for_a_page_is_told_what_can(tmp_path):
    large = replace(random_model(tmp_path, SMALL, BPE),
                    net=outline(ModelParams(vocab_size=BPE.vocab_size, emb_len=640, num_layers=6, num_heads=10)))
    with pytest.raises(FolioError) as refused:
        exports.architecture(large, "page")
    assert str(refused.value).startswith("The format page has no place for 30,")
    assert str(refused.value).endswith(" parameters: it takes up to 30,000,000. "
                                       "These can hold it: huggingface, gguf, ollama.")


@pytest.mark.parametrize("name", [None, 5, "half a pair: \ud800"])
def test_a_weights_file_whose_name_is_no_text_is_refused_in_one_sentence(tmp_path, name):
    contents = checkpoint.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    checkpoint.save(tmp_path / "weights-odd.pth", contents | {"name": name})
    with pytest.raises(FolioError, match=r"weights-odd.pth holds no model that this Folio can use: .*"):
        trained_model.load(tmp_path / "weights-odd.pth")
