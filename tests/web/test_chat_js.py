"""The page's chat template and conversations: the ids and texts of Python, and no version is ever lost."""

import json
import random

import pytest

from folio.chat.messages import Message
from folio.chat.plain_text import read, written
from folio.chat.template import END, START, ChatTemplate, taught
from folio.kernels.splitting import SPLIT_PATTERNS
from node_program import run_node
from tokenizer import BPETokenizer, CharTokenizer

TEXT = "How many are there? There are three users, and an assistant of the system.\n\n  Four lines of 12345.\n"
TOKENIZERS = {pattern: taught(BPETokenizer.train([TEXT], 300, pattern)) for pattern in ("qwen2", "gpt2", "llama3")}
TOKENIZERS["end"] = BPETokenizer(TOKENIZERS["qwen2"].to_dict()["merges"], "qwen2", [START, END])
TOKENIZERS["char"] = taught(CharTokenizer.train([TEXT + "\\<|>_"], []))
# Also what Python strips and JavaScript does not, and the other way around.
PLAIN = ["How", "many", " ", "\n", "users", "12", ">", "\\", "\n\n", END, START]
PIECES = [*PLAIN, "\x1c", "\x85", "\ufeff", "\u2003", "é世"]
MARKED = [">", "> ", ">> ", "\n", "a", "\\", " ", "\x85", "\ufeff"]


def conversations(count, pieces, seed):
    """Random conversations, the same ones every time."""
    numbers = random.Random(seed)
    return [[{"role": numbers.choice(["system", "user", "user", "assistant", "assistant"]),
              "content": "".join(numbers.choices(pieces, k=numbers.randrange(7)))}
             for _ in range(numbers.randrange(1, 8))] for _ in range(count)]


def said(messages):
    return [Message(message["role"], message["content"]) for message in messages]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    tokenizers = {}
    for name, tokenizer in TOKENIZERS.items():
        expression = getattr(tokenizer, "pattern", None)
        tokenizers[name] = tokenizer.to_dict() | {"expression": SPLIT_PATTERNS.get(expression)}
    cases = {"tokenizers": tokenizers, "chat": {"template": "chatml", "start": START, "end": END},
             "conversations": {name: conversations(60, PLAIN if name == "char" else PIECES, name)
                               for name in TOKENIZERS},
             "texts": ["".join(random.Random(seed).choices(MARKED, k=14)) for seed in range(300)]}
    answers = run_node(tmp_path_factory.mktemp("chat"), ["tokenizer.js", "messages.js", "chat_template.js"], """
        const ids = {};
        for (const [name, conversations] of Object.entries(cases.conversations)) {
          const template = new ChatTemplate(cases.chat, makeTokenizer(cases.tokenizers[name]));
          ids[name] = conversations.map((messages) => ({encoded: template.encode(messages),
            prompt: template.prompt(messages), continued: template.prompt(messages, true), ends: template.ends,
            fitted: template.fitted(messages, 40, 12), endless: template.fitted(messages, null, 5)}));
        }
        return {ids, written: Object.values(cases.conversations).flat().map(writtenMessages),
                read: cases.texts.map(readMessages),
                unknown: (() => { try { new ChatTemplate({...cases.chat, end: "</s>"},
                  makeTokenizer(cases.tokenizers.qwen2)); } catch (error) { return error.message; } })()};""", cases)
    return cases, answers


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_ids_of_a_conversation_are_those_of_python(found, name):
    cases, answers = found
    template, left_out = ChatTemplate(TOKENIZERS[name]), 0
    for messages, answer in zip(cases["conversations"][name], answers["ids"][name], strict=True):
        own = said(messages)
        assert answer["encoded"] == template.encode(own)[0]
        assert answer["prompt"] == template.prompt(own) and answer["continued"] == template.prompt(own, continues=True)
        kept, dropped = template.fitted(own, 40, 12)
        assert [said(answer["fitted"][0]), answer["fitted"][1]] == [kept, dropped]
        assert answer["endless"] == [messages, 0]
        assert tuple(answer["ends"]) == template.ends
        left_out += dropped
    assert left_out > 20
    assert "does not know" in answers["unknown"]


def test_a_conversation_is_the_text_of_python_and_is_read_like_there(found):
    cases, answers = found
    every = [messages for name in TOKENIZERS for messages in cases["conversations"][name]]
    assert answers["written"] == [written(said(messages)) for messages in every]
    assert [said(messages) for messages in answers["read"]] == [read(text) for text in cases["texts"]]


# --- Versions ---

def test_all_versions_survive_and_a_file_gives_them_back(tmp_path):
    found = run_node(tmp_path, ["story_file.js", "messages.js", "conversation.js"], """
        globalThis.AUTHORS = [];
        const talk = new Conversation();
        const contents = () => talk.messages().map(({content}) => content).join("|");
        talk.system = " Be brief. ";
        const one = talk.add(0, "user", "one"), first = talk.add(one, "assistant", "1"), seen = [contents()];
        talk.add(first, "user", "two");
        const again = talk.add(one, "assistant", "uno");
        seen.push(contents());
        talk.choose(again, -1);
        seen.push(contents(), talk.choose(first, -1), talk.versions(first));
        talk.restart();
        seen.push(contents());
        const other = talk.add(0, "user", "three");
        seen.push(contents(), talk.versions(other));
        talk.go(one);
        const source = conversationToJson(talk, {settings: {tokens: 5}}), back = conversationFromJson(source);
        return {seen, same: JSON.stringify(back.conversation) === JSON.stringify(talk), settings: back.settings,
                shown: JSON.parse(source).messages};""", None)
    assert found["seen"] == ["Be brief.|one|1", "Be brief.|one|uno", "Be brief.|one|1|two", False,
                             {"index": 0, "siblings": [2, 4]}, "Be brief.", "Be brief.|three",
                             {"index": 1, "siblings": [1, 5]}]
    assert found["same"] and found["settings"] == {"tokens": 5}
    assert [message["role"] for message in found["shown"]] == ["system", "user", "assistant", "user"]


GOOD = {"folio": "conversation", "version": 1, "system": "", "current": 2,
        "versions": [{"parent": 0, "role": "user", "content": "a"}, {"parent": 1, "role": "assistant", "content": "b"}]}


@pytest.mark.parametrize("file, sentence", [
    (None, "It is not JSON, or it was cut off."),
    ([], "It is JSON, but no conversation."),
    ({"folio": "story"}, "It is a text: open it in the view for writing."),
    (GOOD | {"version": 2}, "A newer page saved it"),
    (GOOD | {"current": 3}, "What it shows is none of its messages."),
    (GOOD | {"versions": None}, "It holds no messages."),
    (GOOD | {"versions": [{"parent": 1, "role": "user", "content": "a"}]}, "Message 1 of it is damaged"),
    (GOOD | {"versions": [{"parent": 0, "role": "system", "content": "a"}]}, "Message 1 of it is damaged"),
    (GOOD | {"versions": [{"parent": 0, "role": "user", "content": "a", "chosen": 1}]}, "Message 1 of it is damaged"),
    (GOOD | {"versions": [{"parent": 0, "role": "user", "content": "a", "details": {"a": []}}]}, "Message 1 of it is"),
    ({"messages": []}, "It is JSON, but no conversation."),
    ({"messages": [{"role": "user", "content": 5}]}, "Message 1 of it is damaged"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}, "A system message"),
    (GOOD, None),
    ({"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}, None),
])
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, file, sentence):
    source = "{" if file is None else json.dumps(file)
    found = run_node(tmp_path, ["story_file.js", "messages.js", "conversation.js"], """
        try { return {text: conversationFromJson(cases).conversation.messages().map(({content}) => content).join()}; }
        catch (error) { return {error: error.message}; }""", source)
    if sentence is None:
        assert found == {"text": "a,b"}
    else:
        assert found["error"].startswith(sentence)
