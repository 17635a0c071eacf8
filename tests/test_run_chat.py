"""run.py with a model that was taught to chat: one answer, a conversation in a real terminal, and refusals."""

import io
import os
import re
import sys

import pytest

import run as run_door
from conftest import ROOT, refusal, run_script
from folio.base.errors import FolioError
from folio.base.home import Home
from small_chat import ANSWERS, save_small_chat

GREEDY = ("--temperature", 0)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Home(tmp_path_factory.mktemp("chat"))
    made.saved_weights.mkdir()
    save_small_chat(made.weights("small"))
    return made


@pytest.fixture
def ask(project, monkeypatch, capsys):
    """run.py's main in this process: ask("How many?") -> stdout, stderr"""
    def asking(*words, stdin="", folder=project.folder):
        monkeypatch.setattr(sys, "argv", ["run.py", "--home", str(folder), *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8"))))
        capsys.readouterr()
        assert not run_door.main()
        return capsys.readouterr()
    return asking


# --- One answer ---

def test_a_question_gets_the_answer_alone_on_stdout(project):
    done = run_script("run.py", "--home", project.folder, "How many?", *GREEDY)
    assert (done.returncode, done.stdout) == (0, "Three.\n")
    assert done.stderr.startswith("weights-small.pth: ") and done.stderr.count("\n") == 1


def test_a_question_comes_through_a_pipe_in_several_lines_too(ask):
    assert ask(*GREEDY, stdin="Who is there?\r\n\n").out == ANSWERS["Who is there?"] + "\n"
    assert ask("-", *GREEDY, stdin="How many?\n").out == "Three.\n"


def test_several_answers_are_apart_by_an_empty_line(ask):
    assert ask("How many?", "--samples", 2, *GREEDY).out == "Three.\n\nThree.\n"


def test_an_answer_that_stopped_at_its_length_is_said_on_stderr(ask):
    done = ask("Count!", "--tokens", 3, *GREEDY)
    assert done.out == "1 2\n" and done.err.endswith("stopped after 3 tokens; --tokens lets it be longer.\n")
    assert "stopped" not in ask("Count!", *GREEDY).err


def test_the_system_prompt_comes_before_the_question(ask, monkeypatch):
    asked = []
    answer = run_door.answer
    monkeypatch.setattr(run_door, "answer", lambda model, request, *rest: asked.append(request) or
                        answer(model, request, *rest))
    ask("How many?", "--system", "-Be brief.", "--tokens", 1)
    assert [(message.role, message.content) for message in asked[0]["messages"]] == [("system", "-Be brief."),
                                                                                     ("user", "How many?")]


def test_without_chat_the_model_continues_a_text(ask):
    assert ask("How many?", "--no-chat", "--tokens", 5, *GREEDY).out.startswith("How many?")


def test_nothing_asked_is_refused_and_nothing_written(ask, capsys):
    for question in ("", " \n"):
        with pytest.raises(FolioError, match="no message to answer. With --no-chat"):
            ask(question)
    with pytest.raises(FolioError, match="more than half of the 96"):
        ask("How many?", "--system", "9" * 96)
    assert capsys.readouterr().out == ""


def test_a_model_that_was_not_taught_to_chat_says_how_to_teach_it(ask, capsys):
    for words in (["--chat"], ["--system", "Be brief."]):
        with pytest.raises(FolioError, match="train.py --start-from pretrained --chat FILE"):
            ask("How many?", "--weights", ROOT / "Saved_Weights" / "weights-pretrained.pth", *words)
    assert capsys.readouterr().out == ""


def test_a_system_prompt_without_a_conversation_is_a_contradiction(project):
    done = run_script("run.py", "--home", project.folder, "x", "--no-chat", "--system", "Be brief.")
    assert "--no-chat" in refusal(done, code=2)


# --- A conversation in a terminal ---

COMMANDS_OF_A_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


@pytest.fixture(params=["prompt_toolkit", "input"])
def child(request, project, tmp_path):
    """run.py in a terminal of its own, waiting for a message; with prompt_toolkit, and without it."""
    pexpect = pytest.importorskip("pexpect")
    if request.param == "prompt_toolkit":
        pytest.importorskip("prompt_toolkit")
    else:
        (tmp_path / "prompt_toolkit.py").write_text("raise ImportError")
    path = {"PYTHONPATH": str(tmp_path)} if request.param == "input" else {}
    words = [str(ROOT / "run.py"), "--home", str(project.folder), "--temperature", "0"]
    child = pexpect.spawn(sys.executable, words, encoding="utf-8", timeout=60, dimensions=(40, 80),
                          env={**os.environ, "TERM": "xterm", **path})
    child.delaybeforesend = None
    child.edits_in_place = not path
    child.expect("> ")
    yield child
    child.close(force=True)


def until(child, words):
    """Wait until the terminal has shown these words and run.py asks again."""
    shown = ""
    while words not in shown:
        child.expect("> ")
        shown += COMMANDS_OF_A_TERMINAL.sub("", child.before).replace("\r", "")
    return shown


@pytest.mark.skipif(os.name != "posix", reason="a terminal of its own")
def test_a_conversation_is_typed_edited_saved_and_opened(child, tmp_path):
    child.send("Who is there?\r")
    until(child, ANSWERS["Who is there?"])
    child.send("/edit\r")
    if child.edits_in_place:
        child.expect("Who is there")
        child.send("\x15How many?\r")                          # Ctrl-U: away with the line
    else:
        until(child, "anew")
        child.send("How many?\r")
    until(child, "Three.")
    child.send(f"/save {tmp_path / 'talk.txt'}\r")
    until(child, "bytes are in")
    assert (tmp_path / "talk.txt").read_text(encoding="utf-8") == "> How many?\n\nThree.\n"
    child.send("/new\r")
    until(child, "A new conversation.")
    child.send(f"/open {tmp_path / 'talk.txt'}\r")
    until(child, "Three.")
    child.send("one\\\rtwo\r")                                  # a message of two lines
    shown = until(child, "two")
    assert "<|im_" not in shown
    child.sendeof()
    child.wait()
    child.close()
    assert child.exitstatus == 0
