"""folio/readers/dialogues.py: the format of each record is told by its keys, whatever file it stands in."""

import json

import pytest

from conftest import InMemory
from folio.base.errors import FolioError
from folio.chat.messages import Message
from folio.data.sources import Documents
from folio.readers import dialogues, json_lines, plain_text, source
from folio.readers.dialogues import NoConversation, messages_of
from folio.readers.kinds import records_in
from folio.readers.mending import Mending, remarks
from folio.readers.source import Source
from Model_Params import TextParams

ASKED, ANSWERED = Message("user", "How many?"), Message("assistant", "3")


@pytest.mark.parametrize("record, name", [
    ({"messages": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "3"}]},
     "OpenAI messages"),
    ([{"role": "user", "content": "How many?"}, {"role": "assistant", "content": 3}], "OpenAI messages"),
    ({"conversations": [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "3"}]}, "ShareGPT"),
    ({"conversation": [{"from": "user", "value": "How many?"}, {"from": "chatgpt", "value": "3"}]}, "ShareGPT"),
    ({"conversation": [{"from": "user", "value": "How many?"}, {"from": "bing", "value": "3"}]}, "ShareGPT"),
    ({"instruction": "How many?", "input": "", "output": "3"}, "Alpaca"),
    ({"prompt": "How many?", "completion": 3}, "prompt and completion"),
    ({"prompt": [{"role": "user", "content": "How many?"}], "completion": [{"role": "assistant", "content": "3"}]},
     "prompt and completion"),
    ({"question": "How many?", "answer": "3"}, "question and answer"),
    ({" Q ": "How many?", "A": "3"}, "question and answer"),
    ({"Frage": "How many?", "Antwort": "3", "Nr": 7}, "question and answer"),
    ({"query": "How many?", "response": "3"}, "question and answer"),
    ("> How many?\n\n3\n", "plain text in turns"),
])
def test_one_conversation_is_the_same_in_every_format(record, name):
    assert messages_of(record) == ([ASKED, ANSWERED], name)
    assert name in dialogues.FORMATS


def test_alpaca_has_its_input_after_a_blank_line_its_history_before_and_its_system_message_first():
    record = {"instruction": "Translate.", "input": "Haus", "output": "house", "system": "Be brief.",
              "history": [["Hello", "Hi"]]}
    assert messages_of(record)[0] == [
        Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hi"),
        Message("user", "Translate.\n\nHaus"), Message("assistant", "house")]


def test_a_developer_is_the_system_and_parts_of_type_text_are_text():
    record = {"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be"},
                                                             {"type": "text", "text": "brief."}]},
                           {"role": "user", "content": None}]}
    assert messages_of(record)[0] == [Message("system", "Be\nbrief."), Message("user", "")]


@pytest.mark.parametrize("record, said", [
    ({"messages": [{"role": "tool", "content": "21 C"}]}, "a call of a tool, or what one returned, as message 1"),
    ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}]}, "a call of a tool"),
    ({"conversations": [{"from": "observation", "value": "21 C"}]}, "a call of a tool"),
    ({"messages": [{"role": "narrator", "content": "Once"}]}, "'narrator' as the role of message 1"),
    ({"messages": [{"content": "Once"}]}, "nothing as the role of message 1"),
    ({"messages": ["Once"]}, "a string as message 1"),
    ({"messages": [{"role": "user", "content": {"a": 1}}]}, "an object as the content of message 1"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "'image_url' in message 1"),
    ({"question": ["a"], "answer": "b"}, "a list in its field 'question'"),
    ({"instruction": "a", "output": "b", "history": "c"}, "a 'history' that is no list of pairs"),
    ({"tag": "P-1", "duty": 45}, "its fields are 'tag', 'duty'.* rename them"),
    ({"role": "user", "content": "a"}, "is a single message"),
    ({"prompt": "a", "chosen": "b", "rejected": "c"}, "it is a preference"),
    (["a"], "a string as message 1"),
    (3, "is no conversation but a number"),
    ("It was a dark night.", "without turns: no line .*Begin the lines of questions so"),
])
def test_what_is_no_conversation_is_named(record, said):
    with pytest.raises(NoConversation, match=said.replace("(", r"\(")):
        messages_of(record)


def test_a_table_of_other_facts_is_no_table_of_conversations():
    assert dialogues.has_nothing_else(["id", "Question", "answer"])
    assert dialogues.has_nothing_else(["instruction", "context", "response", "category"])
    assert not dialogues.has_nothing_else(["input", "output", "pressure"])
    assert not dialogues.has_nothing_else(["tag", "duty"])


ROWS = [{"question": "How many?", "answer": "3"}, {"question": "Where?\nHere?", "answer": "Both"}]


def csv_text():
    return 'question,answer\nHow many?,3\n"Where?\nHere?",Both\n'


@pytest.mark.parametrize("name, content, places", [
    ("a.jsonl", "".join(json.dumps(row) + "\n\n" for row in ROWS), ["line 1", "line 3"]),
    ("a.json", json.dumps(ROWS), ["record 1", "record 2"]),
    ("a.json", json.dumps({"version": 1, "data": ROWS}), ["record 1", "record 2"]),
    ("a.csv", csv_text(), ["line 2", "line 4"]),
    ("a.tsv", csv_text().replace(",", "\t"), ["line 2", "line 4"]),
    ("a.txt", "> How many?\n\n3\n<|endoftext|>\n\n> Where?\n> Here?\n\nBoth\n", ["line 1", "line 6"]),
])
def test_every_container_has_the_same_records(name, content, places):
    file = InMemory(content.encode(), name)
    found = list(records_in(Source(file), TextParams(), Mending()))
    assert [[message.content for message in messages_of(record)[0]] for record, _ in found] == [
        ["How many?", "3"], ["Where?\nHere?", "Both"]]
    assert [str(where).removesuffix(",").rpartition(", ")[2] for _, where in found] == places


def test_parquet_has_nested_messages_and_a_workbook_rows(tmp_path):
    import openpyxl
    import pyarrow
    from pyarrow import parquet
    messages = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "3"}]
    parquet.write_table(pyarrow.table({"id": [1, 2], "messages": [messages, messages[:1]]}), tmp_path / "a.parquet")
    found = list(records_in(Source(tmp_path / "a.parquet"), TextParams(), Mending()))
    assert [(messages_of(record)[0], where.rpartition(", ")[2]) for record, where in
            ((record, where.removesuffix(",")) for record, where in found)] == [
        ([ASKED, ANSWERED], "row 1"), ([ASKED], "row 2")]
    book = openpyxl.Workbook()
    for row in (["Question", "Answer"], ["How many?", 3]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    (record, where), = records_in(Source(tmp_path / "a.xlsx"), TextParams(), Mending())
    assert messages_of(record)[0] == [ASKED, ANSWERED] and where.endswith("row 2,")


@pytest.mark.parametrize("name, content, said", [
    ("a.jsonl", '{"question": "a", "answer": "b"}\n{"question": \n', "line 2, is not JSON"),
    ("a.html", "<p>Hello</p>", "is a web page, which has no records"),
    ("a.json", "{}", "without a list of records"),
    ("a.csv", "It was, as I said, dark.\nAnd late.\nA storm, too.\n\nOh.\n", "has the name of a table but no columns"),
])
def test_what_has_no_records_is_said(name, content, said):
    with pytest.raises(FolioError, match=said):
        list(records_in(Source(InMemory(content.encode(), name)), TextParams(), Mending()))


def test_a_long_text_is_not_held_to_see_that_it_is_no_conversation(monkeypatch):
    monkeypatch.setattr(plain_text, "LONGEST_DOCUMENT", 100)
    content = "> How?\n\nSo.\n<|endoftext|>\n" + "It was a dark night.\n" * 6
    records = records_in(Source(InMemory(content.encode(), "a.txt")), TextParams(), Mending())
    assert next(records)[0] == "> How?\n\nSo.\n"
    with pytest.raises(FolioError, match="a.txt, line 5, begins a document of more than 100 characters"):
        next(records)


# --- As text, for init.py ---

def texts_of(content, name, **reading):
    """Return the documents that a file is as text, and what is said about it."""
    documents = Documents([InMemory(content.encode(), name)], TextParams(**reading))
    texts = [text for text, _ in documents]
    return texts, list(remarks(documents.mended))


def test_conversations_are_text_in_turns_where_no_field_is_asked_for():
    lines = [{"messages": [{"role": "system", "content": "Be\nbrief."}, {"role": "user", "content": "How many?"},
                           {"role": "assistant", "content": "> 3"}]},
             {"Frage": "Wo?", "Antwort": "Hier."}, {"text": "Once."}, {"messages": []}]
    texts, said = texts_of("".join(json.dumps(line) + "\n" for line in lines), "a.jsonl")
    assert texts == [">> Be\n>> brief.\n\n> How many?\n\n\\> 3\n", "> Wo?\n\nHier.\n", "Once."]
    assert "2 conversations read as text in turns." in said
    assert "1 conversation without a word, left out." in said
    assert texts_of(json.dumps(lines[1]), "a.jsonl", field="Antwort")[0] == ["Hier."]
    assert texts_of(json.dumps([lines[1]] * 2), "a.json")[0] == ["> Wo?\n\nHier.\n"] * 2


def test_a_table_is_in_turns_if_it_has_nothing_but_questions_and_answers():
    texts, said = texts_of('question,answer\n"How\nmany?",3\n"Where?","> here"\n', "a.csv")
    assert texts == ["> How\n> many?\n\n3\n", "> Where?\n\n\\> here\n"]
    assert "2 conversations read as text in turns." in said
    assert texts_of("question,answer,unit\nHow many?,3,kg\n", "a.csv")[0] == [
        "question: How many?\nanswer: 3\nunit: kg"]


def test_parquet_of_messages_is_in_turns(tmp_path):
    import pyarrow
    from pyarrow import parquet
    messages = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "3"}]
    parquet.write_table(pyarrow.table({"messages": [messages] * 2}), tmp_path / "a.parquet")
    documents = Documents([tmp_path / "a.parquet"])
    assert [text for text, _ in documents] == ["> How many?\n\n3\n"] * 2


def test_a_conversation_with_a_tool_or_too_long_for_memory_is_refused_with_its_line(monkeypatch):
    lines = json.dumps({"question": "a", "answer": "b"}) + "\n" + json.dumps({"messages": [{"role": "tool"}]})
    with pytest.raises(FolioError, match="a.jsonl, line 2 has a call of a tool"):
        texts_of(lines, "a.jsonl")
    monkeypatch.setattr(json_lines, "LONG_LINE", 100)
    monkeypatch.setattr(source, "BLOCK_BYTES", 50)
    with pytest.raises(FolioError, match="line 1, is a conversation of more than 100 bytes"):
        texts_of(json.dumps({"messages": [{"role": "user", "content": "x" * 500}]}), "a.jsonl")
