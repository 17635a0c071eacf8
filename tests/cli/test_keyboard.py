"""What is typed is remembered: from session to session, whatever has happened to the file; and commands no terminal
while one types.
"""

import os

import pytest

from folio.cli.keyboard import LONGEST, REMEMBERED, History, LineEditor


def test_a_session_remembers_what_the_one_before_was_told(tmp_path):
    path = tmp_path / "history"
    told = ["Once", "two\nlines", "中 \0\x1b", "\udc80"]
    for text in [*told, "\udc80", "", " ", "x" * (LONGEST + 1)]:            # again, nothing, too much
        History(path).add(text)
    assert History(path).entries == told
    assert os.name != "posix" or path.stat().st_mode & 0o077 == 0           # it is nobody else's business


def test_sessions_side_by_side_lose_nothing(tmp_path):
    one, other = History(tmp_path / "history"), History(tmp_path / "history")
    one.add("a"), other.add("b"), one.add("c")
    assert History(tmp_path / "history").entries == ["a", "b", "c"]


def test_what_is_damaged_is_left_out_and_what_is_long_ago_is_forgotten(tmp_path):
    path = tmp_path / "history"
    path.write_bytes(b'"good"\n"half a li\n7\n\xff\xfe\n"also good"\n')
    assert History(path).entries == ["good", "also good"]
    path.write_bytes(b'"good"\n"half a li')
    History(path).add("the next one")
    assert History(path).entries == ["good", "the next one"]
    path.write_text("".join(f'"{number}"\n' for number in range(2 * REMEMBERED + 1)))
    assert History(path).entries[0] == str(REMEMBERED + 1) and len(path.read_text().split()) == REMEMBERED


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_in_the_place_of_the_history_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "history")
    history = History(tmp_path / "history")
    assert history.add("this session alone") and history.entries == ["this session alone"]


@pytest.mark.parametrize("path", ["folder", "nowhere/history"])
def test_a_history_that_cannot_be_kept_is_no_failure(tmp_path, path):
    (tmp_path / "folder").mkdir()
    history = History(tmp_path / path)
    assert history.add("Once") and history.entries == ["Once"]


def test_the_arrow_key_brings_back_nothing_that_commands_a_terminal(tmp_path, monkeypatch):
    readline = pytest.importorskip("readline")
    remembered, commanding = [], "\u202egnp.exe \x9b31m"
    monkeypatch.setattr(readline, "add_history", remembered.append)
    history = History(tmp_path / "history")
    history.add(commanding), history.add("one\ntwo")
    editor = LineEditor(history)
    for text in (commanding, "three"):
        monkeypatch.setattr("builtins.input", lambda ask, text=text: text)
        assert editor.read() == text
    assert remembered == ["one\ntwo", "three"]
