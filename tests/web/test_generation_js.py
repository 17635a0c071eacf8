"""The page's generation gives the texts of LanguageModel: same prompt, settings and seed, same text.

A network whose logits are exact small numbers, in Python and in JavaScript, makes them equal to the last character.
"""

import random
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from folio.base.errors import FolioError
from folio.formats import page
from folio.generation.decoder import Generation, window_start
from folio.generation.healing import Healer
from folio.generation.language_model import LanguageModel
from folio.generation.stop_strings import StopFilter
from folio.kernels.splitting import SPLIT_PATTERNS
from Model_Params import GenerationParams
from node_program import run_node
from test_healing import PIECES, TEXT
from tokenizer import BPETokenizer, CharTokenizer

SCRIPTS = ["tokenizer.js", "random.js", "sampling.js", "healing.js", "generation.js"]
TOKENIZERS = {pattern: BPETokenizer.train([TEXT], 400, pattern) for pattern in SPLIT_PATTERNS}
# with a token of a new line and a space; with tokens as long as what is taken back
TOKENIZERS["blank"] = BPETokenizer.train(["a\n \nb" * 50], 300)
TOKENIZERS["long"] = BPETokenizer.train([("-" * 130 + "\n") * 20 + TEXT[:300]], 300)
TOKENIZERS["char"] = CharTokenizer.train([TEXT], ["<|endoftext|>"])
CONTEXT = 16


# --- A network of whole numbers ---

class HashState:
    """Of each row, a hash of the tokens it has read."""

    def __init__(self, hashes):
        self.hashes = hashes            # (rows,) int64

    def select(self, rows):
        return HashState(self.hashes[rows])

    def put(self, rows, other):
        self.hashes[rows] = other.hashes

    def move(self, origins, rows, alike=0):
        self.hashes[rows] = self.hashes[origins]

    def resize(self, count):
        added = torch.zeros(max(0, count - len(self.hashes)), dtype=torch.long)
        return HashState(torch.cat([self.hashes[:count], added]))


class HashNetwork:
    """A network whose logits depend on all tokens in its window, and are multiples of 1/4096 from 0 to 16."""

    def __init__(self, vocab_size, context):
        self.params, self.context = SimpleNamespace(vocab_size=vocab_size, block_size=context), context

    def parameters(self):
        yield torch.zeros(1)

    def empty_state(self, rows):
        return HashState(torch.zeros(rows, dtype=torch.long))

    def continue_from(self, state, tokens):
        hashes, found = state.hashes, []
        for column in tokens.T:
            hashes = (hashes * 48_271 + column + 1) % 2_147_483_647
            numbers = (hashes[:, None] + 7919 * torch.arange(self.params.vocab_size)) * 104_729 % 65_537
            found.append(numbers / 4096)
        return torch.stack(found, 1).float(), HashState(hashes)

    def advance(self, state, tokens):
        return self.continue_from(state, tokens)

    def __call__(self, tokens):
        return self.continue_from(self.empty_state(len(tokens)), tokens)[0]


HASH_NETWORK = """
class HashState {
  constructor(hash) { this.hash = hash; this.length = 0; }
  copy() { return Object.assign(new HashState(this.hash), this); }
}
function hashNetwork(vocabSize, context) {
  const readAll = (state, ids) => ids.map((id) => {
    state.hash = (state.hash * 48271 + id + 1) % 2147483647;
    state.length++;
    if (context !== null && state.length > context) throw new Error("more tokens than the context has room for");
    return Float32Array.from({length: vocabSize}, (_, token) => (state.hash + 7919 * token) * 104729 % 65537 / 4096);
  });
  return {context, vocabSize, emptyState: () => new HashState(0), readAll,
          read: (state, ids) => readAll(state, ids).at(-1)};
}
const finished = (work) => { for (;;) { const {done, value} = work.next(); if (done) return value; } };
const attempt = (compute) => { try { return compute(); } catch (error) { return {error: error.message}; } };
const modelOf = (tokenizer, context, fields) => {
  const made = makeTokenizer(tokenizer);
  return new LanguageModel({network: hashNetwork(made.vocabSize, context), tokenizer: made, opening: [5, 0], fields});
};
"""


def values_of(tokenizer):
    return tokenizer.to_dict() | {"expression": SPLIT_PATTERNS.get(tokenizer.pattern)}


def model_of(name, context):
    tokenizer = TOKENIZERS[name]
    return LanguageModel("hash", HashNetwork(tokenizer.vocab_size, context), tokenizer, [5, 0], 0, None)


def run(tmp_path_factory, body, cases):
    tokenizers = {name: values_of(tokenizer) for name, tokenizer in TOKENIZERS.items()}
    return run_node(tmp_path_factory.mktemp("generation"), SCRIPTS, HASH_NETWORK + body,
                    cases | {"tokenizers": tokenizers, "fields": page.settings()})


# --- Token healing ---

def prompts_cut_anywhere():
    """Prompts that end inside words and in white space of all kinds."""
    some = random.Random(5)
    made = ["".join(some.choices(PIECES, k=some.randrange(9))) for _ in range(250)]
    made += [TEXT[:some.randrange(len(TEXT))] for _ in range(120)]
    return [*made, "find" * 200, " " * 300, "世界" * 200, " \n" * 200, "😀" * 300, "x" * 255 + "😀 fi",
            *("".join(some.choices("findgo", k=100)) for _ in range(40)), "a\n ", "x\n  ", "\n \n ", "b\n  \n ", "d \n",
            *("a" + "".join(some.choices(" \n", k=4)) for _ in range(20)), "a \x85", "a\x85", "a\ufeff", " \ufeff",
            " \x1c", "a \u180e", *("-" * count for count in range(1, 200, 3)), "a" + "-" * 64, "a" + "-" * 65]


@pytest.fixture(scope="module")
def healed(tmp_path_factory):
    prompts = prompts_cut_anywhere()
    return prompts, run(tmp_path_factory, """
        return Object.fromEntries(Object.entries(cases.tokenizers).map(([name, values]) => {
          const tokenizer = makeTokenizer(values), healer = new Healer(tokenizer);
          const takeBack = (prompt) => healer.takeBack(prompt, tokenizer.encode(prompt));
          return [name, cases.prompts.map((prompt) => attempt(() => takeBack(prompt)))];
        }));""", {"prompts": prompts})


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_same_end_of_a_prompt_is_taken_back_and_has_the_same_covers(name, healed):
    prompts, answers = healed
    tokenizer, count = TOKENIZERS[name], 0
    for prompt, answer in zip(prompts, answers[name], strict=True):
        try:
            ids, healing = Healer(tokenizer).take_back(prompt, tokenizer.encode(prompt))
        except FolioError as error:
            assert answer == {"error": str(error)}
            continue
        if healing is not None:
            count += 1
            covers = [{"path": list(path), "tokens": None if tokens is None else tokens.tolist(),
                       "numbers": None if tokens is None else numbers.tolist()}
                      for path, tokens, numbers in healing.covers]
            healing = {"taken": healing.taken.decode("latin-1"), "covers": covers,
                       "others": [content.decode("latin-1") for content in healing.others]}
        assert answer == [ids, healing], prompt
    assert count > 100 or name in ("char", "blank")


# --- Whole answers ---

def drawn_case(some):
    """Return a prompt, settings and numbers of answers."""
    prompt = "".join(some.choices(PIECES, k=some.choice([0, 1, 3, 8, 30])))
    settings = {"tokens": some.choice([0, 1, 5, 40, 60]), "sampling_seed": some.choice([0, 7, 2**40 + 1, 2**53 - 1])}
    choices = {"temperature": [0, 0.5, 1, 2.5, 40], "top_k": [1, 3, 50], "top_p": [0.5, 0.95, 1],
               "min_p": [0, 0.01, 0.3],
               "repetition_penalty": [1.2, 0.8], "frequency_penalty": [0.5], "penalty_window": [1, 10],
               "no_repeat_ngram": [1, 2, 4], "stop": ["e", ["nd", "n"], [" fi", "\n\n"], "😀"]}
    for name in some.sample(sorted(choices), some.randrange(5)):
        settings[name] = some.choice(choices[name])
    return {"tokenizer": some.choice(sorted(TOKENIZERS)), "prompt": prompt, "settings": settings,
            "context": some.choice([None, 2, 5, CONTEXT, CONTEXT]), "count": some.choice([1, 1, 3]),
            "stream": some.choice([0, 0, 2])}


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    some = random.Random(6)
    asked = [drawn_case(some) for _ in range(400)]
    return asked, run(tmp_path_factory, """
        return cases.asked.map(({tokenizer, prompt, settings, context, count, stream}) => attempt(() => {
          const model = modelOf(cases.tokenizers[tokenizer], context, cases.fields), streamed = [];
          const answers = finished(model.answers(prompt, {count, settings, stream},
            (index, {text, bits}) => streamed.push([index, text, bits])));
          finished(model.generate(answers));
          return {texts: answers.map(({text}) => text), ended: answers.map(({ended}) => ended), streamed,
                  tokens: answers.map(({tokens}) => tokens)};
        }));""", {"asked": asked})


def test_the_same_seed_gives_the_same_texts(answered):
    ended, healed = set(), 0
    for case, answer in zip(*answered, strict=True):
        model = model_of(case["tokenizer"], case["context"])
        prompts = [{"prompt": case["prompt"], "stream": case["stream"] + index} for index in range(case["count"])]
        try:
            expected = model.complete_each(prompts, **case["settings"])
        except FolioError as error:
            assert answer == {"error": str(error)}, case
            continue
        assert answer["texts"] == expected, case
        ended |= set(answer["ended"])
        healed += model.after(case["prompt"], GenerationParams()).healing is not None
        for index, text in enumerate(answer["texts"]):
            assert "".join(piece for place, piece, _ in answer["streamed"] if place == index) == text
            if answer["ended"][index] == "length":
                assert answer["tokens"][index] == case["settings"]["tokens"]
            else:
                assert answer["tokens"][index] <= case["settings"]["tokens"]
    assert ended == {"length", "stop", "end"} and healed > 100


def test_first_pieces_have_the_bits_that_they_cost_before_penalties(tmp_path_factory):
    model = model_of("qwen2", None)
    prompts = ["The fox fi", "x", "", "a  "]
    found = run(tmp_path_factory, """
        return cases.prompts.map((prompt) => {
          const model = modelOf(cases.tokenizers.qwen2, null, cases.fields), pieces = [];
          const settings = {tokens: 1, sampling_seed: 3, temperature: 1, repetition_penalty: 1.5};
          const answers = model.answers(prompt, {count: 8, settings}, (_, piece) => pieces.push(piece));
          finished(model.generate(finished(answers)));
          return pieces;
        });""", {"prompts": prompts})
    for prompt, pieces in zip(prompts, found, strict=True):
        likely = dict(model.next_token_probabilities(prompt))
        pieces = [piece for piece in pieces if "\ufffd" not in piece["text"]]       # not the only one of its text
        assert pieces
        for piece in pieces:
            assert piece["bits"] == pytest.approx(-np.log2(likely[piece["text"]]), rel=1e-5), (prompt, piece)


def test_the_bits_of_an_answer_are_those_of_all_its_tokens(tmp_path_factory):
    """Also where several tokens share a character, and where text is held back for a stop string."""
    model, prompt = model_of("qwen2", None), "The ☃"
    settings = {"tokens": 60, "sampling_seed": 4, "temperature": 2.0, "stop": ["☃☃☃", "e fe", "a\n\nb"]}
    found = run(tmp_path_factory, """
        const model = modelOf(cases.tokenizers.qwen2, null, cases.fields);
        const bits = [0, 0, 0, 0, 0, 0, 0, 0], add = (index, piece) => { bits[index] += piece.bits; };
        const answers = finished(model.answers(cases.prompt, {count: 8, settings: cases.settings}, add));
        finished(model.generate(answers));
        return answers.map((answer, index) => [answer.text, answer.ended, bits[index]]);""",
                {"prompt": prompt, "settings": settings})
    compared = 0
    for number, (text, ended, bits) in enumerate(found):
        sequence = model.after(prompt, GenerationParams(**settings | {"stop": ()}).resolved(), number)
        generation, ids = Generation(model.net, [sequence]), []
        while generation.running:
            ids += [token for _, token in generation.step()]
        if ended == "length" and model.tokenizer.decode(ids) == text:       # no half character at the end
            logits = model.net(torch.tensor([[*sequence.prompt, *ids]]))[0, len(sequence.prompt) - 1:-1]
            nats = torch.nn.functional.cross_entropy(logits.double(), torch.tensor(ids), reduction="sum").item()
            assert bits == pytest.approx(nats / np.log(2), rel=1e-6)
            compared += 1
    assert compared > 2


# --- Stop strings, windows ---

def test_stop_strings_cut_where_python_cuts(tmp_path_factory):
    some, cases = random.Random(7), []
    for _ in range(500):
        stops = ["".join(some.choices("ab\n😀", k=some.randrange(1, 5))) for _ in range(some.randrange(4))]
        cases.append([stops, ["".join(some.choices("aab\n😀", k=some.randrange(4))) for _ in range(8)]])
    found = run(tmp_path_factory, """
        return cases.cases.map(([stops, pieces]) => {
          const filter = new StopFilter(stops);
          return [...pieces.map((piece) => filter.add(piece)), filter.ended, filter.end()];
        });""", {"cases": cases})
    for (stops, pieces), answer in zip(cases, found, strict=True):
        text = StopFilter(stops)
        assert answer == [*(text.add(piece) for piece in pieces), text.ended, text.end()], (stops, pieces)


def test_the_window_begins_where_pythons_begins(tmp_path_factory):
    cases = [(length, context) for context in (None, 2, 3, 16, 17, 256) for length in range(1, 1100, 3)]
    found = run(tmp_path_factory, "return cases.cases.map(([length, context]) => windowStart(length, context));",
                {"cases": cases})
    assert found == [window_start(length, context) for length, context in cases]


# --- What a text costs, what may follow, what is seen ---

@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    some = random.Random(8)
    asked = [{"text": "".join(some.choices(PIECES, k=some.choice([0, 1, 5, 40, 200]))),
              "context": some.choice([None, 2, 3, CONTEXT, 64]), "tokenizer": some.choice(["qwen2", "gpt2"])}
             for _ in range(80)]
    asked.append({"text": TEXT * 12, "context": None, "tokenizer": "qwen2"})        # more than UNENDING tokens
    return asked, run(tmp_path_factory, """
        return cases.asked.map(({text, end, context, tokenizer}) => {
          const model = modelOf(cases.tokenizers[tokenizer], context, cases.fields);
          return {surprise: finished(model.surprise(text)), alternatives: finished(model.alternatives(end, 1000)),
                  first: finished(model.alternatives(end, 3)), view: model.view(text)};
        });""", {"asked": [case | {"end": case["text"][-60:]} for case in asked]})


def test_the_surprise_of_a_text_is_pythons(measured):
    for case, answer in zip(*measured, strict=True):
        expected = model_of(case["tokenizer"], case["context"]).surprise(case["text"])
        assert [piece["text"] for piece in answer["surprise"]] == [piece for piece, _ in expected]
        np.testing.assert_allclose([piece["bits"] for piece in answer["surprise"]], [bits for _, bits in expected],
                                   rtol=1e-4, atol=2e-5)


def test_what_may_follow_is_what_python_lists(measured):
    for case, answer in zip(*measured, strict=True):
        expected = model_of(case["tokenizer"], case["context"]).next_token_probabilities(case["text"][-60:])
        found = answer["alternatives"]
        assert len(found) == len(expected) and answer["first"] == found[:3]
        np.testing.assert_allclose([piece["probability"] for piece in found], [value for _, value in expected],
                                   rtol=1e-5, atol=1e-12)
        same = [found[index]["text"] == piece for index, (piece, _) in enumerate(expected)]
        assert same[0] and sum(same) > 0.9 * len(same)      # two may be equally likely but for rounding
        assert sorted(piece["text"] for piece in found) == sorted(piece for piece, _ in expected)


def test_the_view_begins_with_the_first_whole_character_in_the_window(measured):
    outside = 0
    for case, answer in zip(*measured, strict=True):
        tokenizer, text = TOKENIZERS[case["tokenizer"]], case["text"]
        ids = tokenizer.encode(text)
        before = tokenizer.decode_bytes(ids[:window_start(len(ids), case["context"])])
        sizes = np.cumsum([0, *(len(character.encode()) for character in text)])
        whole = int(np.searchsorted(sizes, len(before)))
        assert answer["view"] == len(text[:whole].encode("utf-16-le")) // 2
        outside += whole > 0
    assert outside > 20


def test_logits_that_are_not_finite_are_refused(tmp_path_factory):
    found = run(tmp_path_factory, """
        return [NaN, Infinity, -Infinity, 1e30].map((logit) => attempt(() => {
          const model = modelOf(cases.tokenizers.qwen2, 16, cases.fields), {read} = model.network;
          model.network.read = (state, ids) => { const logits = read(state, ids); logits[7] = logit; return logits; };
          const answers = finished(model.answers("a", {settings: {tokens: 3}}, () => {}));
          finished(model.generate(answers));
          return answers[0].tokens;
        }));""", {})
    sentence = "The model's output is not finite: its weights are unusable. Train it again with a lower learning rate."
    assert found == [{"error": sentence}] * 3 + [3]


# --- Settings ---

WRONG = [{"tokens": -1}, {"tokens": 1.5}, {"tokens": "5"}, {"tokens": True}, {"tokens": None}, {"top_k": 0},
         {"top_p": 0}, {"top_p": 1.5}, {"min_p": -0.25}, {"temperature": "hot"}, {"penalty_window": 0},
         {"stop": [""]}, {"stop": [5]}, {"stop": ["\ud800"]}, {"no_repeat_ngram": 0, "frequency_penalty": -0.5},
         {"sampling_seed": -3}, {"repetition_penalty": 0.001}, {"repetition_penalty": 100.5}, {"stop": ["a", ""]}]


def test_settings_out_of_bounds_are_refused_in_the_sentences_of_python(tmp_path_factory):
    found = run(tmp_path_factory, """
        return cases.wrong.map((settings) => attempt(() => checkedSettings(settings, cases.fields)));""",
                {"wrong": WRONG})
    for settings, answer in zip(WRONG, found, strict=True):
        stop = tuple(settings.get("stop", ()))
        expected = "\n".join(GenerationParams(**settings | {"stop": stop}).problems())
        assert expected and answer == {"error": expected}, settings


def test_settings_are_filled_in_and_unknown_ones_are_refused(tmp_path_factory):
    found = run(tmp_path_factory, """
        const bound = 2n ** 63n;
        return [attempt(() => checkedSettings({stop: "end", top_k: 5}, cases.fields)),
                attempt(() => checkedSettings({beams: 2}, cases.fields)),
                attempt(() => checkedSettings({sampling_seed: bound - 1n}, cases.fields).sampling_seed === bound - 1n),
                attempt(() => checkedSettings({sampling_seed: bound}, cases.fields)),
                attempt(() => checkedSettings({temperature: NaN}, cases.fields))];""", {})
    expected = asdict(GenerationParams(stop=("end",), top_k=5).resolved()) | {"stop": ["end"]}
    assert found[0] == {name: value for name, value in expected.items() if name not in page.LEFT_OUT}
    assert "There is no setting beams; there are tokens, temperature" in found[1]["error"]
    assert found[2] is True
    assert found[3] == {"error": next(GenerationParams(sampling_seed=2**63).problems())}
    assert found[4] == {"error": "temperature=NaN is not a finite number."}
