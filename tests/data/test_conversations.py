"""folio/data/conversations.py: what of conversations can be learned, what is left out, and which are held out."""

import json
import random

import pytest

from folio.base.errors import FolioError
from folio.chat.messages import Message
from folio.data.conversations import (
    EMPTY_ANSWER,
    JOINED,
    MIDDLE,
    NO_ANSWER,
    SPELLED,
    UNANSWERED,
    conversations_in,
    named_conversations,
    project_conversations,
    read_conversations,
    tidied,
)
from folio.data.corpus import open_corpus, ordinary_bytes
from Model_Params import TextParams


def said(text):
    """Return the Messages of "u: question | a: answer"."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    pairs = (part.strip().partition(":") for part in text.split(" | "))
    return [Message(roles[role.strip()], content.strip()) for role, _, content in pairs]


def lines_file(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("given, learned, reasons", [
    ("u: 1 | a: 2", "u: 1 | a: 2", []),
    ("s: be | u: 1 | a: 2 | u: 3 | a: 4", "s: be | u: 1 | a: 2 | u: 3 | a: 4", []),
    ("s: | u: 1 | a: 2", "u: 1 | a: 2", []),
    ("a: hi | u: 1 | a: 2", "a: hi | u: 1 | a: 2", []),
    ("u: 1 | a: 2 | u: 3", "u: 1 | a: 2", [UNANSWERED]),
    ("u: 1 | a: | u: 3 | a: 4", "u: 3 | a: 4", [EMPTY_ANSWER]),
    ("u: 1 | a:", None, [EMPTY_ANSWER]),
    ("u: 1", None, [NO_ANSWER]),
    ("u: 1 | a: 2 | s: be | u: 3 | a: 4", None, [MIDDLE]),
    ("u: <|im_end|> | a: 2", "u: <|im_end|> | a: 2", [SPELLED]),
])
def test_a_conversation_is_tidied_and_every_change_is_told(given, learned, reasons):
    found = []
    assert tidied(said(given), found.append) == (learned and said(learned))
    assert found == reasons


def test_one_role_twice_in_a_row_is_joined_with_a_blank_line():
    found = []
    assert tidied(said("s: a | s: b | u: 1 | u: 2 | a: 3 | a: | a: 4"), found.append) == [
        Message("system", "a\n\nb"), Message("user", "1\n\n2"), Message("assistant", "3\n\n4")]
    assert found == [JOINED] * 4


def test_mixed_formats_in_one_file_are_counted_with_what_is_left_out(tmp_path):
    file = lines_file(tmp_path / "dialogues.jsonl", [
        {"messages": [{"role": "user", "content": "1\r\n2"}, {"role": "assistant", "content": "3"}]},
        {"question": "a", "answer": "b"}, {"question": "c", "answer": " "}, {"question": "d", "answer": ""}])
    lines = []
    found = conversations_in(file, say=lines.append)
    assert [each.messages[0].content for each in found] == ["1\n2", "a"]
    assert found[1].where == f"{file}, line 2"
    assert lines == ["dialogues.jsonl: 4 conversations: question and answer 3, OpenAI messages 1",
                     f"  2 empty answers, left out with their questions (the first: {file}, line 3).",
                     "  Mended while reading: 1 x CRLF."]


@pytest.mark.parametrize("content, words", [
    ('{"question": "How?", "answer": ""}\n', "none of its 1 conversation has an answer. The first, .*line 1, has "
                                             r"user: How\? \| assistant: \(nothing\)"),
    ('{"tag": "P-1"}\n', "line 1 is no conversation: its fields are 'tag'"),
    ("", "nothing in"),
    ('{"question": "How?", "answer": "b"}\n{"role": "tool"}\n', "line 2 is a|line 2 is no conversation"),
    ('{"question": "How?", "answer": "a\\ud800"}\n', "is not UTF-8 text: U[+]D800"),
])
def test_a_file_with_nothing_to_learn_is_refused_at_its_first_line(tmp_path, content, words):
    file = tmp_path / "a.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(FolioError, match=words):
        conversations_in(file)


def test_another_encoding_is_refused_or_read_as_it_is_named(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes("Frage;Antwort\nWer fällt über größere Bäume?;Käthe\nWo?;Süden\n".encode("cp1252"))
    with pytest.raises(FolioError, match="not UTF-8"):
        conversations_in(file)
    found = conversations_in(file, TextParams(encoding="cp1252"), lambda line: None)
    assert found[0].messages == said("u: Wer fällt über größere Bäume? | a: Käthe")


def test_one_question_is_never_on_both_sides_whatever_the_order_and_the_names(tmp_path):
    random.seed(3)
    records = [{"question": f"What is {number % 40}?", "answer": f"It is {number}."} for number in range(200)]
    for number, record in enumerate(records):           # case, white space and the system make no new question
        if number % 3 == 0:
            record["question"] = record["question"].upper().replace(" ", "  ")
        if number % 5 == 0:
            record["system"] = f"Be {number}."
    first = read_conversations([lines_file(tmp_path / "a.jsonl", records)], say=lambda line: None)
    random.shuffle(records)
    lines_file(tmp_path / "x.jsonl", records[:90])
    lines_file(tmp_path / "b.jsonl", records[90:])
    second = read_conversations([tmp_path / "x.jsonl", tmp_path / "b.jsonl"], say=lambda line: None)
    assert first == second
    asked = [{"".join(each.content.split()).lower() for messages in part for each in messages if each.role == "user"}
             for part in (first.train, first.val)]
    assert not asked[0] & asked[1] and len(asked[0] | asked[1]) == 40
    assert len(first.train) + len(first.val) == 200 and 10 <= len(first.val) <= 30
    records[0]["answer"] += "!"
    third = read_conversations([lines_file(tmp_path / "a.jsonl", records)], say=lambda line: None)
    assert third.fingerprint != first.fingerprint


def test_few_conversations_are_said_and_one_is_refused(tmp_path):
    lines = []
    few = [{"question": f"{number}?", "answer": "yes"} for number in range(3)]
    found = read_conversations([lines_file(tmp_path / "a.jsonl", few)], say=lines.append)
    assert len(found.train) == 2 and len(found.val) == 1
    assert lines[-1] == "Only 1 conversation of 3 is held out: the loss on so few says little."
    same = [{"question": "?", "answer": str(number)} for number in range(30)]
    found = read_conversations([lines_file(tmp_path / "a.jsonl", same)], say=lines.append)
    assert found.val and found.train and "All conversations have the same question" in lines[-2]
    with pytest.raises(FolioError, match="only one conversation"):
        read_conversations([lines_file(tmp_path / "a.jsonl", few[:1])], say=lines.append)
    (tmp_path / "talks.txt").write_text("> How many?\n\nThree.\n\n> Who?\n\nNobody.\n", encoding="utf-8")
    with pytest.raises(FolioError, match=r"In plain text a line of <\|endoftext\|> separates two"):
        read_conversations([tmp_path / "talks.txt"], say=lines.append)
    for name in ("gone.jsonl", "gone*.jsonl"):
        with pytest.raises(FileNotFoundError, match="gone.*Name files, folders or globs of conversations"):
            read_conversations([tmp_path / name])


def test_files_can_be_held_out_by_name(tmp_path):
    lines = []
    lines_file(tmp_path / "a.jsonl", [{"question": f"{number}?", "answer": "yes"} for number in range(20)])
    lines_file(tmp_path / "b.jsonl", [{"question": f"{number}?", "answer": "no"} for number in range(19, 31)])
    found = read_conversations([tmp_path / "a.jsonl"], say=lines.append, held_out=[tmp_path / "b.jsonl"])
    assert len(found.train) == 20 and {messages[1].content for messages in found.val} == {"no"}
    assert lines[-1].startswith("1 question of the held-out conversations can also be learned")


def test_a_project_has_the_conversations_among_its_files(home):
    lines = "".join(f'{{"question": "{number}?", "answer": "yes"}}\n' for number in range(30))
    project = home({"dialogues.jsonl": lines, "prose.txt": "It was a dark night.\n", "table.csv": "a,b\n1,2\n3,4\n"})
    found = project_conversations(project, lambda line: None)
    assert len(found.train) + len(found.val) == 30
    with pytest.raises(FolioError, match="no conversations in the project's text, .*prose.txt: name a file"):
        project_conversations(home({"prose.txt": "It was a dark night.\n"}))


def test_what_the_text_holds_out_is_held_out_of_its_conversations_too(home):
    """Else a model that was trained on the text would be measured on answers that it has learned."""
    lines = "".join(f'{{"question": "{number} ships?", "answer": "At the quay of {number ** 3}."}}\n'
                    for number in range(200))
    for kind in ({"vocab_size": 300}, {"tokenizer": "char"}):
        project = home({"dialogues.jsonl": lines})
        tokenizer, text = open_corpus(project, TextParams(**kind))
        learned, held_out = (ordinary_bytes(tokenizer, part).decode() for part in (text.train, text.val[1:]))
        for found in (project_conversations(project, lambda line: None),
                      named_conversations(project, [project.train_data], say=lambda line: None)):
            assert len(found.train) + len(found.val) == 200 and len(found.val) > 9
            for messages in found.val:
                assert messages[1].content in held_out and messages[1].content not in learned
            assert all(messages[1].content in learned for messages in found.train)
    other = lines_file(project.folder / "other.jsonl", [{"question": f"{number}?", "answer": "yes"}
                                                        for number in range(30)])
    assert named_conversations(project, [other], say=print) == read_conversations([other], say=print)
