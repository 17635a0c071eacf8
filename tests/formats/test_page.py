"""The page: one HTML file that opens from a disk, sends nothing, and writes what Python writes."""

import base64
import gzip
import json
import random
import re
import time
import tomllib
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from browser import browser  # noqa: F401  (a fixture)
from conftest import ROOT, FullDisk
from folio.base import files
from folio.base.errors import FolioError
from folio.formats import page, trained_model
from folio.formats.trained_model import TrainedModel
from folio.generation.language_model import LanguageModel
from folio.networks.build import outline
from folio.pictures import report_page
from folio.server import page as server_page
from Model_Params import GenerationParams, ModelParams
from test_lstm import SMALL
from test_model import TINY, network
from test_network import expected, in_node, rounded, trained
from tokenizer import BPETokenizer

NUMPY_TYPES = {"float16": "<f2", "float32": "<f4"}
PROMPTS = ["MERRAN:\n", "The king", "What is", "\n"]


def unpacked(text):
    """The header and the tensors in a page's model, read as the top of page.py describes them."""
    content = gzip.decompress(base64.b64decode(text, validate=True))
    start = 4 + int.from_bytes(content[:4], "little")
    header, at, tensors = json.loads(content[4:start]), start, {}
    for name, encoding, shape in header["tensors"]:
        def planes(count, dtype):
            nonlocal at
            width = np.dtype(dtype).itemsize
            part = np.frombuffer(content, np.uint8, count * width, at).reshape(width, count)
            at += count * width
            return np.ascontiguousarray(part.T).view(dtype).ravel()
        count = int(np.prod(shape))
        if encoding == "int8":
            integers = planes(count, "i1").reshape(shape)
            values = integers * planes(shape[0], "<f4")[:, None]
        else:
            values = planes(count, NUMPY_TYPES[encoding]).astype(np.float32).reshape(shape)
        tensors[name] = values
    assert at == len(content)
    return header, tensors


@pytest.fixture(scope="module")
def shipped():
    return trained_model.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")


@pytest.fixture(scope="module")
def tiny():
    return trained(network(TINY))


# --- What is in it ---

@pytest.mark.parametrize("type", page.TYPES)
@pytest.mark.parametrize("tied_head", [False, True])
def test_the_file_has_every_weight_as_rounded(type, tied_head):
    net = network(replace(TINY, tied_head=tied_head))
    header, tensors = unpacked(page.packed(trained(net), type))
    theirs = rounded(net, type).state_dict()
    assert set(tensors) == set(theirs) - ({"head.weight"} if tied_head else set())
    for name, values in tensors.items():
        np.testing.assert_allclose(values, theirs[name], rtol=0, atol=1e-6 if type == "int8" else 0, err_msg=name)
    kinds = {encoding for _, encoding, shape in header["tensors"] if len(shape) == 2}
    assert kinds == {{"f16": "float16", "f32": "float32", "int8": "int8"}[type]}


def test_the_header_says_what_the_model_is(shipped):
    header, _ = unpacked(page.packed(shipped))
    assert header["about"] == {"name": "pretrained", "parameters": 1_066_624, "bits_per_byte": shipped.val_bpb,
                               "steps": shipped.contents["step"], "context": 256, "family": "folio",
                               "vocab_size": 1024, "weights": "f16"}
    assert ModelParams(**header["params"]) == shipped.params and header["opening"] == shipped.opening
    tokenizer = header["tokenizer"]
    assert tokenizer.pop("expression").startswith("'[sS]|") and tokenizer == shipped.tokenizer.to_dict()


def test_the_settings_are_those_of_run_py_that_a_page_has():
    found = {setting["name"]: setting for setting in page.settings()}
    assert [field.name for field in fields(GenerationParams)
            if field.name not in found] == ["beams", "length_penalty", "weight_precision"]
    assert found["temperature"] == {
        "name": "temperature", "type": "float", "default": 0.8, "low": 0, "high": 1e6, "above": None, "choices": None,
        "help": "below 1 safer, above 1 wilder; 0 always takes the likeliest token (default: 0.8)"}
    assert {name: setting["type"] for name, setting in found.items() if setting["type"] != "float"} == {
        "tokens": "int", "top_k": "int", "penalty_window": "int", "no_repeat_ngram": "int", "stop": "texts",
        "sampling_seed": "int"}


def test_a_model_gives_the_same_bytes_every_time(tiny, monkeypatch):
    first = page.packed(tiny)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert page.packed(tiny) == first


def test_a_weight_too_large_for_float16_keeps_its_matrix_in_float32():
    net = network(TINY)
    with torch.no_grad():
        net.head.weight[3, 4] = 65_505.0
    header, tensors = unpacked(page.packed(trained(net)))
    kinds = {name: encoding for name, encoding, _ in header["tensors"]}
    assert kinds["head.weight"] == "float32" and kinds["embedding.weight"] == "float16"
    assert np.array_equal(tensors["head.weight"], net.head.weight.detach().numpy())


def test_rows_of_zeros_and_tiny_weights_are_packed_as_they_are():
    net = network(TINY)
    with torch.no_grad():
        net.head.weight[3] = 0
        net.head.weight[4] = 1e-42
    with np.errstate(all="raise", under="ignore"):
        _, tensors = unpacked(page.packed(trained(net), "int8"))
    assert not tensors["head.weight"][3].any() and abs(tensors["head.weight"][4] - 1e-42).max() < 1e-43


# --- What is refused ---

@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    net = network(TINY)
    with torch.no_grad():
        net.blocks[1].mlp.up.weight[0, 0] = value
    with pytest.raises(FolioError, match=r"^blocks.1.mlp.up.weight has weights that are not finite numbers: .*\.$"):
        page.write(trained(net), tmp_path / "story.html")
    assert not list(tmp_path.iterdir())


def test_an_unknown_type_is_refused(tiny, tmp_path):
    with pytest.raises(FolioError, match="^type=f8 is not one of f16, f32, int8.$"):
        page.write(tiny, tmp_path / "story.html", "f8")
    assert not list(tmp_path.iterdir())


def test_a_model_too_large_for_a_page_is_refused_with_the_formats_that_can(shipped, tmp_path):
    large = outline(ModelParams(vocab_size=1024, emb_len=1024, num_layers=8))
    with pytest.raises(FolioError, match="^The format page has no place for .* parameters: it takes up to 30,000,000. "
                                         "These can hold it: huggingface, gguf, ollama.$"):
        page.write(TrainedModel(shipped.path, shipped.contents, large, shipped.tokenizer, [0]), tmp_path / "story.html")
    assert not list(tmp_path.iterdir())


def test_an_earlier_page_is_replaced_and_nothing_else(tiny, tmp_path):
    path = tmp_path / "story.html"
    page.write(tiny, path)
    first = path.read_bytes()
    page.write(tiny, path, "int8")
    assert path.read_bytes() != first
    path.write_text("<html>my own</html>", encoding="utf-8")
    with pytest.raises(FileExistsError, match="story.html exists, and is not a page of Folio; it was left as it is."):
        page.write(tiny, path)
    assert path.read_text(encoding="utf-8") == "<html>my own</html>"
    with pytest.raises(FileExistsError, match="is a folder"):
        page.write(tiny, tmp_path)


def test_a_full_disk_leaves_the_earlier_page(tiny, tmp_path, monkeypatch):
    path = tmp_path / "story.html"
    page.write(tiny, path)
    first = path.read_bytes()
    monkeypatch.setattr(files.os, "fsync", FullDisk(0))
    with pytest.raises(OSError, match="No space left"):
        page.write(tiny, path, "int8")
    assert path.read_bytes() == first and [found.name for found in tmp_path.iterdir()] == ["story.html"]


def test_a_damaged_model_is_refused_by_the_page_in_one_sentence(tiny):
    good, random_number = page.packed(tiny), random.Random(1)
    content = gzip.decompress(base64.b64decode(good))
    wrong = [b"", content[:-1], content + b"\0", b"\xff" * 4 + content[4:], content[:4] + b"x" + content[5:]]
    damaged = ["", "!", "AAAA", good[:-4], good[:len(good) // 2], good[:40],
               *(base64.b64encode(gzip.compress(each)).decode("ascii") for each in wrong)]
    for place in random_number.sample(range(40, len(good) - 2), 60):
        other = random_number.choice(sorted(set("ABCDEFGHIJKLMNOPQRSTUVWXYZ") - {good[place]}))
        damaged.append(good[:place] + other + good[place + 1:])
    program = """
    const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
    Promise.all(texts.map((text) => loadModel(text).then(() => "read", (error) => error.message)))
      .then((said) => console.log(JSON.stringify(said)));
    """
    said = in_node(program, [good, *damaged])
    assert said[0] == "read"
    for message in said[1:]:
        assert re.fullmatch(r"The model in this page is damaged: [^.]+\. Copy or download the file again\.",
                            re.sub(r"\w\.(?=\w)", "", message)), message


def test_a_browser_that_cannot_unpack_is_told_so(tiny):
    program = """
    delete globalThis.DecompressionStream;
    loadModel(JSON.parse(require("fs").readFileSync(0, "utf8")))
      .catch((error) => console.log(JSON.stringify(error.message)));
    """
    assert in_node(program, page.packed(tiny)) == (
        "This browser is too old for this page: it cannot unpack the model. Take one of 2023 or later.")


@pytest.mark.parametrize("name", ["</title><script>alert(1)</script>", 'a "b" & <!-- c', "naïve Ω"])
def test_names_and_tokens_that_look_like_html_are_text(name, tmp_path):
    net = network(replace(TINY, vocab_size=260))
    tokenizer = BPETokenizer([], special_tokens=["<|endoftext|>", "</script>", "<!--", "]]>"])
    contents = {"name": name, "step": 1, "val_bpb": float("nan")}
    page.write(TrainedModel(tmp_path, contents, net, tokenizer, [256]), tmp_path / "story.html")
    written = (tmp_path / "story.html").read_text(encoding="utf-8")
    [title] = re.findall(r"<title>(.*?)</title>", written)
    assert "<" not in title and '"' not in title
    assert written.count("</script>") == written.count("<script") == 3
    assert "<!--" not in written.partition("<body>")[2].lower().replace("<!-- ", "")
    model = re.search(r'id="folio-model">\s*(.*?)\s*</script>', written, re.DOTALL)[1]
    header, _ = unpacked(model)
    assert header["about"]["name"] == name and header["about"]["bits_per_byte"] is None


def test_every_file_of_the_page_is_in_it_and_installed():
    files = {path.name for path in page.WEB.iterdir()}
    scripts = {*page.WORKER_SCRIPTS, *page.PAGE_SCRIPTS, *server_page.SCRIPTS, *report_page.SCRIPTS}  # some in several
    assert sorted(scripts) == sorted(name for name in files if name.endswith(".js"))
    assert set(server_page.FILES) <= files
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["folio"]
    installed = {path.name for pattern in patterns for path in (ROOT / "folio").glob(pattern)}
    assert files <= installed


@pytest.mark.parametrize("path", sorted(page.WEB.iterdir()), ids=lambda path: path.name)
def test_the_page_is_as_readable_as_the_rest(path):
    lines = path.read_bytes().decode("utf-8").split("\n")
    assert max(map(len, lines)) <= 120 and (path.suffix != ".js" or len(lines) <= 451)
    assert lines[-1] == "" and not any(line.endswith((" ", "\r")) or "\t" in line for line in lines)


# --- In a browser ---

class Opened:
    """A page from a file in a browser: what it asked of the network and what it complained about."""

    def __init__(self, browser, path):
        context = browser.new_context(offline=True)
        self.page, self.requests, self.errors = context.new_page(), [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        self.page.goto(path.as_uri())

    def sent(self):
        """The requests that are neither the file itself nor its worker."""
        return [url for url in self.requests[1:] if not url.startswith("blob:")]


@pytest.fixture(scope="module")
def opened(browser, shipped, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "story.html"
    page.write(shipped, path)
    opened = Opened(browser, path)
    yield opened
    opened.page.context.close()


def test_the_page_that_comes_along_has_the_model_that_comes_along(shipped):
    """Its program may be older than folio/web; CONTRIBUTING.md says how to make it again."""
    written = (ROOT / "docs" / "plays.html").read_text(encoding="utf-8")
    model = re.search(r'id="folio-model">\s*(.*?)\s*</script>', written, re.DOTALL)[1]
    (header, tensors), (expected_header, expected) = unpacked(model), unpacked(page.packed(shipped))
    assert {**header, "settings": None} == {**expected_header, "settings": None}
    assert all((tensors[name] == expected[name]).all() for name in expected)


def test_the_page_that_comes_along_writes(browser, shipped):
    opened = Opened(browser, ROOT / "docs" / "plays.html")
    model = LanguageModel(shipped.name, rounded(shipped.net, "f16"), shipped.tokenizer, shipped.opening, 0, None)
    [answer] = opened.page.evaluate("""(prompt) => engine.generate(prompt, {count: 1, settings: {temperature: 0,
                                    tokens: 50}})""", PROMPTS[0])
    assert answer["text"] == model.complete(PROMPTS[0], tokens=50, temperature=0)
    assert opened.sent() == [] and opened.errors == []


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.0, "top_p": 0.95, "sampling_seed": 7}],
                         ids=["greedy", "sampled"])
def test_the_page_writes_what_python_writes(opened, shipped, settings):
    """From a file, with the weights in float16 as they are in it; past the end of the context too."""
    model = LanguageModel(shipped.name, rounded(shipped.net, "f16"), shipped.tokenizer, shipped.opening, 0, None)
    for prompt, tokens in [*((prompt, 50) for prompt in PROMPTS), (PROMPTS[0], 400)]:
        [answer] = opened.page.evaluate("""([prompt, settings]) => engine.generate(prompt, {count: 1, settings})""",
                                        [prompt, settings | {"tokens": tokens}])
        assert answer["text"] == model.complete(prompt, tokens=tokens, **settings), prompt
    assert opened.sent() == [] and opened.errors == []


@pytest.mark.parametrize("params", [SMALL, replace(TINY, family="classic", block_size=64)], ids=["lstm", "classic"])
def test_the_other_families_write_what_python_writes(browser, params, tmp_path):
    model = trained(network(params))
    page.write(model, tmp_path / "story.html", "f32")
    opened = Opened(browser, tmp_path / "story.html")
    text = opened.page.evaluate(
        "prompt => engine.generate(prompt, {count: 2, settings: {tokens: 30, sampling_seed: 1}})", "\u0101\u0102")
    language_model = LanguageModel(model.name, model.net, model.tokenizer, model.opening, 1, None)
    assert [answer["text"] for answer in text] == [
        language_model.complete("\u0101\u0102", stream=stream, tokens=30, seed=1) for stream in (0, 1)]
    assert opened.sent() == [] and opened.errors == []
    opened.page.context.close()


def test_the_logits_in_a_browser_are_those_of_python(opened, shipped, plays):
    program = "\n".join((page.WEB / name).read_text(encoding="utf-8") for name in page.WORKER_SCRIPTS[:5])
    opened.page.add_script_tag(content=f"(() => {{ {program}; globalThis.parts = {{ loadModel, createNetwork }}; }})()")
    ids = [shipped.tokenizer.encode(plays[start:start + 600])[:200] for start in range(0, 400_000, 100_000)]
    found = opened.page.evaluate("""async (texts) => {
        const { params, weights } = await parts.loadModel(document.getElementById("folio-model").textContent);
        const network = parts.createNetwork(params, weights);
        return { isWasm: network.memory.isWasm, logits: texts.map((ids) => network.readAll(network.emptyState(), ids)
          .filter((_, place) => place % 20 === 19).map((logits) => Array.from(logits))) };
    }""", ids)
    assert found["isWasm"]
    net = rounded(shipped.net, "f16")
    for logits, each in zip(found["logits"], ids):
        np.testing.assert_allclose(logits, expected(net, each)[19::20], rtol=0, atol=1e-3)


def test_the_worker_computes_with_webassembly(opened):
    source = (page.WEB / "kernel.js").read_text(encoding="utf-8") + "postMessage(new Memory().isWasm);"
    assert opened.page.evaluate("""(source) => new Promise((done, fail) => {
        const worker = new Worker(URL.createObjectURL(new Blob([source])));
        worker.onmessage = ({ data }) => done(data);
        worker.onerror = fail;
    })""", source)


def test_no_request_can_leave_the_page(opened):
    tried = opened.page.evaluate("""async () => {
        const refused = [];
        addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
        const image = new Image();
        image.src = "https://example.org/a.png";
        document.head.append(Object.assign(document.createElement("link"),
          { rel: "stylesheet", href: "https://example.org/a.css" }));
        document.body.append(Object.assign(document.createElement("iframe"), { src: "https://example.org/" }));
        await fetch("https://example.org/").catch(() => null);
        try { new WebSocket("wss://example.org/"); } catch { /* refused at once */ }
        navigator.sendBeacon("https://example.org/", "text");
        await new Promise((done) => setTimeout(done, 200));
        return refused;
    }""")
    assert {"img-src", "style-src-elem", "frame-src", "connect-src"} <= set(tried)
    opened.errors.clear()           # the browser says each of them
