"""python -m folio.evaluate --pairs: what models are asked, how they answer, and what is refused."""

import csv
import json
import sys
from types import SimpleNamespace

import pytest
import torch

import folio
from conftest import refusal, run_python
from folio import evaluate
from folio.chat.messages import Message
from folio.chat.template import ChatTemplate, taught
from folio.evaluation.pairs import answers_of, read_pairs, way_of
from folio.generation.language_model import LanguageModel
from folio.networks.build import build_network
from Model_Params import ModelParams, TextParams
from test_evaluate import trained
from tokenizer import BPETokenizer


@pytest.fixture(scope="module")
def project(tmp_path_factory, plays):
    """Two models of different vocabularies, "tiny" and "other"."""
    made = trained(tmp_path_factory.mktemp("one"), TextParams(vocab_size=300), plays[:20_000])
    other = trained(tmp_path_factory.mktemp("two"), TextParams(vocab_size=310), plays[:20_000])
    made.weights("other").write_bytes(other.weights("tiny").read_bytes())
    return made


@pytest.fixture
def ask(monkeypatch, capsys):
    """Run the command in this process: ask(home, "--pairs", "a.jsonl") -> its output and what it says on stderr"""
    def run(home, *words):
        monkeypatch.setattr(sys, "argv", ["evaluate", "--home", str(home.folder), *map(str, words)])
        monkeypatch.setenv("COLUMNS", "100")
        evaluate.main()
        return capsys.readouterr()
    return run


def lines_file(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8", newline="\n")
    return path


def chatting():
    """A small model with random weights and a chat template."""
    torch.manual_seed(1)
    tokenizer = taught(BPETokenizer.train(["How many are there? Three of them, says the assistant.\n" * 3], 300))
    net = build_network(ModelParams(vocab_size=tokenizer.vocab_size, emb_len=32, num_layers=1, num_heads=2,
                                    block_size=64))
    for weights in net.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.5)         # so that an answer depends on all of the question
    return LanguageModel("random", net.eval(), tokenizer, [tokenizer.end_of_text], 0, None,
                         chat=ChatTemplate(tokenizer))


def test_a_chat_model_answers_each_conversation_as_it_replies_to_it_alone(tmp_path):
    model = chatting()
    pairs = read_pairs([lines_file(tmp_path / "a.jsonl", [
        {"question": "How many are there?" * (1 + number % 3), "answer": "Three."} for number in range(37)])],
        say=lambda line: None)
    alone = ["".join(model.reply(pair.before, temperature=0, tokens=12)).strip() for pair in pairs]
    assert answers_of(model, pairs, {"tokens": 12}) == alone
    assert len(set(alone)) > 1 and way_of(model, pairs) == "answers by its chat template"


class Continuing:
    """A model that was not taught to chat, and notes what it is asked."""
    name, chat = "base", None

    def __init__(self, answer):
        self.answer, self.asked, self.settings = answer, [], None
        self.tokenizer = SimpleNamespace(encode=list)

    def stream_each(self, prompts, **settings):
        self.settings = settings
        for number, prompt in enumerate(prompts):
            self.asked.append(prompt)
            yield number, self.answer


def test_a_base_model_continues_a_prompt_as_it_is_to_the_end_of_the_line(tmp_path):
    file = lines_file(tmp_path / "a.jsonl", [{"prompt": "tag: P-1\nduty: ", "completion": "45 kW"},
                                             {"prompt": "area:", "completion": "\n 3 m2"}])
    pairs = read_pairs([file], say=lambda line: None)
    model = Continuing(" 45 kW ")
    assert answers_of(model, pairs, {}) == ["45 kW", "45 kW"]
    assert sorted(prompt["prompt"] for prompt in model.asked) == ["area:\n", "tag: P-1\nduty: "]
    assert {prompt["stop"] for prompt in model.asked} == {("\n",)}
    assert model.settings == {"temperature": 0.0, "sampling_seed": 1, "tokens": 2 * len("45 kW") + 16}
    assert [pair.right for pair in pairs] == ["45 kW", "3 m2"]
    answers_of(model, pairs, {"temperature": 0.5, "tokens": 7, "stop": ("!",)})
    assert model.settings["temperature"] == 0.5 and model.settings["tokens"] == 7
    assert model.asked[-1]["stop"] == ("!", "\n")
    several = read_pairs([lines_file(tmp_path / "b.jsonl", [{"prompt": "a", "completion": "b\nc"}])],
                         say=lambda line: None)
    answers_of(model, several, {})
    assert model.asked[-1]["stop"] == ("\n\n",)


def test_a_base_model_continues_a_conversation_in_turns_up_to_the_next_one(tmp_path):
    messages = [Message("user", "One?"), Message("assistant", "> 1"), Message("user", "Two?")]
    record = {"messages": [{"role": each.role, "content": each.content} for each in messages]
              + [{"role": "assistant", "content": "2"}]}
    pair, = read_pairs([lines_file(tmp_path / "a.jsonl", [record])], say=lambda line: None)
    assert pair.before == messages and pair.right == "2"
    model = Continuing("\\> 2\nor more")
    assert answers_of(model, [pair], {}) == ["> 2\nor more"]
    assert model.asked[0]["prompt"] == "> One?\n\n\\> 1\n\n> Two?\n\n"
    assert model.asked[0]["stop"] == ("\n> ", "\n>> ")


def test_models_are_measured_side_by_side_and_every_answer_is_written(project, ask, tmp_path):
    file = lines_file(tmp_path / "a.jsonl", [{"prompt": f"MERRAN:\nI have {n} of", "completion": f" {n} ships."}
                                             for n in range(24)])
    table = tmp_path / "answers.csv"
    said = ask(project, "--pairs", file, "--weights=tiny", "--compare=other", "--csv", table, "--tokens=9")
    assert said.err == "a.jsonl: 24 conversations: prompt and completion 24\n"
    assert "24 pairs" in said.out and "weights-other.pth" in said.out and "constant answer" in said.out
    assert "of all other pairs of the file" in " ".join(said.out.split())
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    model = folio.load(project.weights("tiny"))
    for number, row in enumerate(rows[:3]):
        alone = model.complete(f"MERRAN:\nI have {number} of", temperature=0, tokens=9, stop="\n")
        assert row["weights-tiny.pth: answer"] == alone.strip()
    report = json.loads(ask(project, "--pairs", file, "--learned", file, "--json", "--tokens=2",
                            "--weights=tiny").out)
    assert report["pairs"] == report["known_pairs"] == 24
    assert [each["kind"] for each in report["answerers"]] == ["model", "constant answer", "nearest answer"]
    assert report["answerers"][2]["exact"] == 1.0 and "can be learned from" in report["notes"][1]


def test_the_projects_conversations_are_what_the_baselines_know(project, ask, tmp_path):
    known = lines_file(project.train_data / "dialogues.jsonl", [{"question": f"{n}?", "answer": "yes"}
                                                                for n in range(30)])
    try:
        pairs = lines_file(tmp_path / "a.jsonl", [{"question": "x?", "answer": "yes"},
                                                  {"question": "y?", "answer": "no"}])
        (project.tokens / "corpus.json").unlink()
        report = json.loads(ask(project, "--pairs", pairs, "--json", "--tokens=2", "--weights=tiny").out)
        assert 20 <= report["known_pairs"] < 30
        assert report["answerers"][1]["right"] == 0.5
    finally:
        known.unlink()


@pytest.mark.parametrize("words, said", [
    (["--pairs", "a.jsonl", "--text", "b.txt"], "takes no FILE, --text or --csv-tokens"),
    (["--learned", "a.jsonl"], "--learned goes with --pairs"),
    (["b.txt", "--compare", "a", "--compare", "b"], "--compare is given once"),
])
def test_what_does_not_go_together_is_refused(words, said):
    assert said in refusal(run_python("-m", "folio.evaluate", *words), code=2)


def test_files_without_pairs_are_refused_with_their_place(project, ask, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no"):
        ask(project, "--pairs", tmp_path / "none.jsonl")
    with pytest.raises(Exception, match="line 1 is no conversation: its fields are 'tag'"):
        ask(project, "--pairs", lines_file(tmp_path / "a.jsonl", [{"tag": "P-1"}]))
    with pytest.raises(FileExistsError, match="is not a table of answers"):
        ask(project, "--pairs", tmp_path / "none.jsonl", "--csv", project.weights("tiny"))
