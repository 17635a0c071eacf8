"""Tables of facts become conversations by a template in turns."""

import csv

import pytest

from folio.base.errors import FolioError
from folio.chat.messages import Message
from folio.data.conversations import conversations_in, project_conversations
from folio.readers.dialogues import FACTS
from Model_Params import TextParams

DENSITY = TextParams(template=r"> Density of {substance}?\n\n{density} kg/m3\n\n> Where from?\n\nA {{table}}.")
ROWS = [["substance", "density"], ["water", "998"], ["ethanol", "789"]]


def table(path, rows=ROWS):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_each_record_is_asked_and_told_as_the_template_says(tmp_path):
    said = []
    found = conversations_in(table(tmp_path / "facts.csv"), DENSITY, said.append)
    assert [each.messages for each in found] == [
        [Message("user", f"Density of {substance}?"), Message("assistant", f"{density} kg/m3"),
         Message("user", "Where from?"), Message("assistant", "A {table}.")] for substance, density in ROWS[1:]]
    assert said == [f"facts.csv: 2 conversations: {FACTS} 2"]


def test_no_value_begins_a_message(tmp_path):
    path = table(tmp_path / "facts.csv", [*ROWS[:2], ["x?\n\n1\n\n> Ha", "2\n> 3"]])
    messages = conversations_in(path, DENSITY)[1].messages
    assert [message.role for message in messages] == ["user", "assistant"] * 2
    assert messages[1].content == "2\n> 3 kg/m3"


def test_records_without_a_value_are_left_out_and_counted(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text('{"substance": "water", "density": 998}\n{"substance": "air"}\n{"substance": "", "density": 3}\n',
                    encoding="utf-8")
    said = []
    [found] = conversations_in(path, DENSITY, said.append)
    assert found.messages[1].content == "998 kg/m3"
    assert any("2 records without a value that the template names, left out (the first: " in line
               and "facts.jsonl, line 2)" in line for line in said)


def test_a_name_that_no_record_has_is_refused_with_the_nearest(tmp_path):
    path = table(tmp_path / "facts.csv")
    wrong = TextParams(template=r"> Density of {substanc}?\n\n{density}")
    with pytest.raises(FolioError, match="has no field 'substanc', which the template names; did you mean substance?"):
        conversations_in(path, wrong)
    path = tmp_path / "lists.jsonl"
    path.write_text('{"substance": "water", "density": [1, 2]}\n', encoding="utf-8")
    with pytest.raises(FolioError, match="a list in its field 'density', not text"):
        conversations_in(path, DENSITY)


def test_without_turns_in_the_template_a_table_of_facts_is_refused_with_a_template_of_its_own_fields(tmp_path):
    path = table(tmp_path / "Facts.csv", [["Substance", "Density"], *ROWS[1:]])
    for reading in (TextParams(), TextParams(template="{Substance}: {Density}")):
        with pytest.raises(FolioError, match="is no conversation: its fields are 'Substance', 'Density'") as refusal:
            conversations_in(path, reading)
    proposed = str(refusal.value).partition('--template "')[2].removesuffix('"')
    found = conversations_in(path, TextParams(template=proposed))
    assert found[0].messages == [Message("user", "What is the Density of water?"), Message("assistant", "998")]
    questions = table(tmp_path / "questions.csv", [["question", "answer"], ["How many?", "3"]])
    assert conversations_in(questions, TextParams(template="{question}"))[0].messages[1].content == "3"


def test_a_project_of_facts_in_a_template_has_them_as_conversations(home, tmp_path):
    from folio.data import corpus
    made = home({"facts.csv": "substance,density\n" + "".join(f"s{number},{number}\n" for number in range(200))})
    corpus.open_corpus(made, TextParams(vocab_size=270, template=r"> Density of {substance}?\n\n{density}"))
    found = project_conversations(made)
    assert len(found.train) + len(found.val) == 200 and found.val
    assert found.train[0][0].content.startswith("Density of s")
