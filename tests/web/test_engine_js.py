"""The engine of the page: it answers from a worker, or in the page itself, as LanguageModel does in Python."""

import re
from collections import Counter

import numpy as np
import pytest

import folio
from browser import browser  # noqa: F401  (a fixture)
from conftest import ROOT
from folio.formats import page, trained_model
from folio.generation.decoder import window_start
from folio.server import page as server_page
from node_program import run_node

WEIGHTS = ROOT / "Saved_Weights" / "weights-pretrained.pth"
PROMPTS = ["MERRAN:\n", "The old king spo", "", "It's a  "]
SETTINGS = {"tokens": 60, "sampling_seed": 2**53 + 1, "temperature": 1.1, "top_p": 0.97, "min_p": 0.001,
            "repetition_penalty": 1.05, "no_repeat_ngram": 9, "stop": ["\n\n\n"]}
# A server in Node, and requests to it: each answers with all that the server says.
SERVER = """
const waiting = new Map();
const server = new ModelServer((answer) => {
  const call = waiting.get(answer.id);
  if (answer.pieces) call.pieces.push(...answer.pieces);
  else call.resolve({...answer, pieces: call.pieces});
});
let count = 0;
const ask = (request, id = count++) => new Promise((resolve) => {
  waiting.set(id, {resolve, pieces: []});
  server.receive({id, ...request});
});
"""


@pytest.fixture(scope="module")
def shipped():
    return trained_model.load(WEIGHTS)


@pytest.fixture(scope="module")
def model():
    return folio.load(WEIGHTS)


@pytest.fixture(scope="module")
def answers(shipped, plays, tmp_path_factory):
    text = plays[20_000:22_000]
    cases = {"model": page.packed(shipped, "f32"), "prompts": PROMPTS, "text": text, "settings": SETTINGS}
    found = run_node(tmp_path_factory.mktemp("engine"), page.WORKER_SCRIPTS, SERVER + """
        const {text, prompts} = cases, settings = {...cases.settings, sampling_seed: 2n ** 53n + 1n};
        const plain = ({id, result}) => result.map((answer) => ({...answer, seed: String(answer.seed)}));
        const loaded = await ask({kind: "load", model: cases.model});
        const generated = [];
        for (const prompt of prompts) {
          const answer = await ask({kind: "generate", prompt, options: {count: 2, settings, stream: 3}});
          generated.push({answers: plain(answer), pieces: answer.pieces});
        }
        const endless = {...settings, tokens: 1e6, stop: []};
        const running = ask({kind: "generate", prompt: "A", options: {count: 3, settings: endless}}, "endless");
        const seen = (await ask({kind: "view", text})).result;              // while the other runs
        const begun = () => new Set(waiting.get("endless").pieces.map(([index]) => index)).size === 3;
        while (!begun()) await new Promise((resolve) => setTimeout(resolve, 1));
        server.receive({id: "endless", kind: "abort"});
        const aborted = await running, measuring = ask({kind: "surprise", text}, "measuring");
        server.receive({id: "measuring", kind: "abort"});
        const given_up = await measuring;
        return {loaded, generated, seen, aborted: {answers: plain(aborted), pieces: aborted.pieces}, given_up,
          surprise: (await ask({kind: "surprise", text})).result,
          alternatives: (await ask({kind: "alternatives", text: text.slice(0, 701), count: 10})).result,
          wrong: [await ask({kind: "generate", prompt: "a", options: {settings: {tokens: -5}}}),
                  await ask({kind: "generate", prompt: "a", options: {count: 9}}),
                  await ask({kind: "view", text: "\\ud800"})],
          damaged: await ask({kind: "load", model: "AAAA"})};""", cases)
    return text, found


def test_the_model_says_what_it_is_and_which_settings_it_has(answers, shipped):
    loaded = answers[1]["loaded"]["result"]
    assert loaded["about"]["name"] == shipped.name and loaded["about"]["context"] == shipped.net.context
    assert [field["name"] for field in loaded["settings"]] == [field["name"] for field in page.settings()]


def test_the_shipped_model_writes_the_texts_of_python(answers, model):
    for prompt, found in zip(PROMPTS, answers[1]["generated"], strict=True):
        expected = [model.complete(prompt, stream=stream, **SETTINGS) for stream in (3, 4)]
        assert [answer["text"] for answer in found["answers"]] == expected, prompt
        assert [(answer["seed"], answer["stream"]) for answer in found["answers"]] == [(str(2**53 + 1), stream)
                                                                                         for stream in (3, 4)]
        for index, text in enumerate(expected):
            assert "".join(piece for place, piece, _ in found["pieces"] if place == index) == text


def test_a_text_costs_what_it_costs_in_python(answers, model):
    text, found = answers
    expected = model.surprise(text)
    assert len(model.tokenizer.encode(text)) > 2 * model.net.context
    assert [piece["text"] for piece in found["surprise"]] == [piece for piece, _ in expected]
    np.testing.assert_allclose([piece["bits"] for piece in found["surprise"]], [bits for _, bits in expected],
                               rtol=0, atol=2e-3)


def test_what_may_follow_is_what_python_lists(answers, model):
    text, found = answers
    expected = model.next_token_probabilities(text[:701])[:10]
    assert [piece["text"] for piece in found["alternatives"]] == [piece for piece, _ in expected]
    np.testing.assert_allclose([piece["probability"] for piece in found["alternatives"]],
                               [probability for _, probability in expected], rtol=1e-3)


def test_the_view_begins_where_the_window_begins(answers, model):
    text, found = answers
    ids = model.tokenizer.encode(text)
    assert found["seen"] == len(model.tokenizer.decode(ids[:window_start(len(ids), model.net.context)])) > 0


def test_what_is_aborted_ends_with_what_has_been_said(answers):
    aborted = answers[1]["aborted"]
    assert [answer["ended"] for answer in aborted["answers"]] == ["aborted"] * 3
    for index, answer in enumerate(aborted["answers"]):
        assert 0 < answer["tokens"] < 10_000 and answer["seconds"] > 0
        assert answer["text"] == "".join(piece for place, piece, _ in aborted["pieces"] if place == index)
    assert answers[1]["given_up"] == {"id": "measuring", "aborted": True, "pieces": []}


def test_what_cannot_be_done_is_said_in_a_sentence(answers):
    tokens, count, half = [answer["error"] for answer in answers[1]["wrong"]]
    assert tokens == "tokens=-5 is below the smallest value possible, 0."
    assert count == "count=9 is not a number of answers from 1 to 8."
    assert "half a surrogate pair" in half
    assert "damaged" in answers[1]["damaged"]["error"]


@pytest.mark.parametrize("scripts", [page.WORKER_SCRIPTS, page.PAGE_SCRIPTS, server_page.SCRIPTS],
                         ids=["worker", "page", "served"])
def test_no_script_defines_a_name_that_another_one_has(scripts):
    """They share one scope, in which a second function would silently replace the first."""
    names = Counter(name for script in scripts for name in re.findall(
        r"^(?:async )?(?:function\*?|class|const|let|var) (\w+)", (page.WEB / script).read_text(encoding="utf-8"),
        re.MULTILINE))
    assert len(names) > 20 and [name for name, count in names.items() if count > 1] == []


# --- In a browser ---

@pytest.fixture(params=["in a worker", "no workers", "no workers and no WebAssembly", "forbidden by the policy",
                        "broken model"])
def opened(request, browser, shipped, tmp_path):
    """A page with the shipped model; where workers are missing or forbidden, it computes by itself."""
    path = tmp_path / "story.html"
    page.write(shipped, path)
    content = path.read_text(encoding="utf-8")
    if request.param == "forbidden by the policy":
        content = content.replace("worker-src blob:", "worker-src 'none'")
    if request.param == "broken model":
        content = content.replace("H4sI", "H4sJ")
    path.write_text(content, encoding="utf-8")
    context = browser.new_context(offline=True)
    tab = context.new_page()
    if request.param.startswith("no workers"):
        tab.add_init_script("delete window.Worker;")
    if request.param.endswith("no WebAssembly"):
        tab.add_init_script("delete window.WebAssembly;")
    tab.goto(path.as_uri())
    tab.kind = request.param
    yield tab
    context.close()


def test_the_engine_answers_wherever_it_runs(opened, model):
    if opened.kind == "broken model":
        said = opened.evaluate("engine.generate('a').then(() => 'written', (error) => error.message)")
        assert "damaged" in said
        return
    found = opened.evaluate("""async () => {
        const pieces = ["", ""], onPiece = (index, {text}) => { pieces[index] += text; };
        const settings = {tokens: 40, sampling_seed: 5};
        const answers = await engine.generate("The king", {count: 2, settings, onPiece});
        const controller = new AbortController(), endless = {tokens: 1e6};
        const running = engine.generate("The king", {settings: endless, signal: controller.signal});
        await new Promise((done) => setTimeout(done, 200));
        const view = await engine.view("a ".repeat(900));
        const started = performance.now();
        controller.abort();
        const [aborted] = await running, milliseconds = performance.now() - started;
        const given_up = await engine.surprise("a b ".repeat(5000), {signal: AbortSignal.timeout(20)})
          .catch((error) => error.name);
        return {answers, pieces, view, aborted, milliseconds, given_up};
    }""")
    assert found["pieces"] == [answer["text"] for answer in found["answers"]]
    assert all(answer["ended"] == "length" and answer["tokens"] == 40 for answer in found["answers"])
    assert found["view"] > 0
    assert found["aborted"]["ended"] == "aborted" and found["aborted"]["text"]
    assert found["milliseconds"] < 1000             # about 10 where nothing else runs
    assert found["given_up"] == "AbortError"
    workers = [worker.url[:5] for worker in opened.workers]
    assert workers == (["blob:"] if opened.kind == "in a worker" else [])
