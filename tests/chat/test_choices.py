"""A choice among several answers, kept as lines of a file."""

import errno
import json
import os
import subprocess
import sys

import pytest

from conftest import ROOT
from folio.base.errors import FolioError
from folio.chat.choices import Choices, keep_choice
from folio.chat.messages import Message
from folio.data.preferences import Preference, preference_of


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_kept_answer_is_preferred_to_each_other_one(tmp_path):
    path = tmp_path / "new" / "preferences.jsonl"
    assert keep_choice(path, "Once", " é!", [" upon", " a", " upon", " é!", "  "]) == 2
    conversation = [Message("system", "Be brief."), Message("user", "How many?")]
    assert keep_choice(path, conversation, "Three.", ["Many."]) == 1
    found = [preference_of(line, "here") for line in lines_of(path)]
    assert found == [Preference("Once", " é!", " upon"), Preference("Once", " é!", " a"),
                     Preference(tuple(conversation), "Three.", "Many.")]


@pytest.mark.parametrize(("chosen", "others"), [(" ", ["a"]), ("a", []), ("a", [" a", ""])])
def test_what_is_no_choice_is_refused_and_nothing_written(tmp_path, chosen, others):
    path = tmp_path / "preferences.jsonl"
    with pytest.raises(FolioError):
        keep_choice(path, "Once", chosen, others)
    assert not path.exists()


def test_the_beginning_of_an_answer_is_part_of_each_answer(tmp_path):
    path = tmp_path / "preferences.jsonl"
    keep_choice(path, [Message("user", "How many?"), Message("assistant", "Th")], "ree.", ["ousands."])
    assert lines_of(path) == [{"messages": [{"role": "user", "content": "How many?"}], "chosen": "Three.",
                               "rejected": "Thousands."}]


def test_a_session_says_once_where_its_choices_are_kept(tmp_path):
    said, path = [], tmp_path / "preferences.jsonl"
    choices = Choices(path, said.append)
    choices.keep({"prompt": "Once"}, " upon", [" a"])
    choices.keep({"messages": [Message("user", "How many?")], "continues": False}, "Three.", ["Many."])
    assert [line.get("prompt") for line in lines_of(path)] == ["Once", None]
    assert len(said) == 1 and str(path) in said[0] and "--preferences" in said[0]


def test_a_line_that_was_not_ended_is_ended_first(tmp_path):
    path = tmp_path / "preferences.jsonl"
    path.write_bytes(b'{"prompt": "by hand", "chosen": "a", "rejected": "b"}')
    keep_choice(path, "Once", " upon", [" a"])
    assert [line["prompt"] for line in lines_of(path)] == ["by hand", "Once"]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "preferences.jsonl"
    keep_choice(path, "Once", " upon", [" a"])
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        keep_choice(path, "Twice", " upon", [" a"])
    assert path.read_bytes() == before


def test_two_processes_at_once_lose_and_mix_nothing(tmp_path):
    path = tmp_path / "preferences.jsonl"
    program = ("import sys; from folio.chat.choices import keep_choice\n"
               "for number in range(40): keep_choice(sys.argv[1], sys.argv[2] * 2000, 'a', ['b', 'c'])")
    processes = [subprocess.Popen([sys.executable, "-c", program, str(path), name], cwd=ROOT) for name in "xy"]
    assert [process.wait() for process in processes] == [0, 0]
    prompts = [line["prompt"] for line in lines_of(path)]
    assert sorted(prompts) == ["x" * 2000] * 80 + ["y" * 2000] * 80
