"""run.py and the Python interface: the answer on stdout and nothing else, the same for the same seed, and a terminal
nobody can command.
"""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

import folio
import run as run_door
from conftest import ROOT, refusal, run_python, run_script
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.base.visible import harmless
from folio.cli import screen as terminal
from folio.cli.command_line import front_door
from folio.cli.screen import Screen
from folio.data import corpus
from folio.formats import checkpoint
from folio.formats.find_weights import find_weights, newest_weights
from folio.generation import language_model
from folio.training import runs
from Model_Params import ModelParams, Params, TextParams, TrainingParams

PROMPT = "GROBBIN:\nTake"
LONG = 20_000           # tokens: an answer that nobody waits for


def trained(folder, plays, text, name, steps):
    """A home with a tiny model that has learned a little."""
    made = Home(folder)
    made.train_data.mkdir()
    (made.train_data / "input.txt").write_text(plays[:20_000], encoding="utf-8", newline="\n")
    tokenizer, prepared = corpus.open_corpus(made, text)
    params = Params(text, ModelParams(emb_len=32, num_layers=1, num_heads=2, block_size=32),
                    TrainingParams(steps=steps, minutes=None, batch_size=8, learning_rate=0.01, threads=1,
                                   sample_tokens=0, device="cpu",
                                   precision="fp32", compile=False))
    with runs.new_run(made, name, params, tokenizer, prepared, time.perf_counter(), say=lambda text: None) as run:
        run.train()
    return made


@pytest.fixture(scope="module")
def project(tmp_path_factory, plays):
    return trained(tmp_path_factory.mktemp("bpe"), plays, TextParams(vocab_size=300), "tiny", 150)


@pytest.fixture(scope="module")
def characters(tmp_path_factory, plays):
    """The same with a tokenizer of characters."""
    return trained(tmp_path_factory.mktemp("char"), plays, TextParams(tokenizer="char"), "letters", 20)


@pytest.fixture(scope="module")
def model(project):
    return folio.load(project.weights("tiny"))


@pytest.fixture
def ask(project, monkeypatch, capsys):
    """run.py's main in this process: ask("MERRAN", "--seed", 1) -> stdout, stderr"""
    def asking(*words, home=project, stdin=""):
        monkeypatch.setattr(sys, "argv", ["run.py", "--home", str(home.folder), *map(str, words)])
        monkeypatch.setattr(sys, "stdin",
                            io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8", errors="surrogateescape")
                                                        if isinstance(stdin, str) else stdin)))
        capsys.readouterr()
        assert not run_door.main()
        return capsys.readouterr()
    return asking


def lined(text):
    """What an answer looks like on stdout: it ends its line."""
    return text if text.endswith("\n") else text + "\n"


# --- One answer ---

def test_a_prompt_as_argument_gets_prompt_and_continuation_on_stdout_and_the_rest_on_stderr(project, model):
    done = run_script("run.py", "--home", project.folder, PROMPT, "--seed", 3, "--tokens", 40)
    assert done.returncode == 0
    assert done.stdout == lined(PROMPT + model.complete(PROMPT, seed=3, tokens=40))
    assert len(done.stdout) > len(PROMPT) + 20
    greeting = done.stderr.splitlines()
    assert len(greeting) == 1
    for what in ("weights-tiny.pth", f"{sum(p.numel() for p in model.net.parameters()):,} parameters",
                 f"{model.val_bpb:.3f} bits per byte", "300"):
        assert what in greeting[0]


def test_a_prompt_comes_through_a_pipe_less_its_last_newline(project, model, ask):
    done = run_script("run.py", "--home", project.folder, "-", "--seed", 3, "--tokens", 10, input=PROMPT + "\n\n")
    assert done.stdout == lined(PROMPT + "\n" + model.complete(PROMPT + "\n", seed=3, tokens=10))
    how = ("--seed", 3, "--tokens", 10)
    assert ask("-", *how, stdin=PROMPT + "\n").out == ask("-", *how, stdin=PROMPT).out == ask(PROMPT, *how).out


def test_a_prompt_is_mended_as_a_text_is_and_that_is_said(ask):
    how = ("--seed", 3, "--tokens", 10)
    expected = ask("ACT I.\nMERRAN:", *how)
    for asked in (ask("-", *how, stdin=b"\xef\xbb\xbfACT I.\r\nMERRAN:\r\n"), ask("\ufeffACT I.\rMERRAN:", *how)):
        assert asked.out == expected.out
        assert "Mended while reading: 1 x byte order mark." in asked.err and " x CR" in asked.err
        assert "Mended" not in expected.err


def test_a_prompt_is_read_in_the_encoding_of_its_mark_or_of_the_flag(ask):
    how = ("--seed", 3, "--tokens", 10)
    expected = ask("“MERRAN”", *how).out
    assert ask("-", *how, stdin="“MERRAN”".encode("utf-16")).out == expected        # as PowerShell writes it
    assert ask("-", *how, "--encoding", "windows-1252", stdin="“MERRAN”".encode("cp1252")).out == expected
    with pytest.raises(SystemExit):
        ask("-", *how, "--encoding", "hex", stdin="x")


def test_the_prompt_flag_is_the_same_also_for_one_that_begins_with_a_hyphen(ask):
    how = ("--seed", 3, "--tokens", 10)
    assert ask("--prompt", PROMPT, *how).out == ask(PROMPT, *how).out
    for prompt in ("-x", "--emb_len", "-"):
        assert ask(f"--prompt={prompt}", *how, stdin="-").out.startswith(prompt)
    assert ask("--prompt", "-hello", *how).out.startswith("-hello")
    assert ask("--prompt", "--a_b", *how).out.startswith("--a_b")


def test_escapes_in_a_stop_text_are_what_they_stand_for_and_in_a_prompt_where_that_is_wanted(ask, model, tmp_path):
    how = dict(seed=3, tokens=60)
    words = ["--seed", 3, "--tokens", 60]
    whole = model.complete("GROBBIN:\n", **how)
    assert "\n" in whole[:-1]
    stopped = lined("GROBBIN:\n" + whole[:whole.index("\n")])
    assert ask("--escapes", r"GROBBIN:\n", *words, "--stop", r"\n").out == ask("GROBBIN:\n", *words, "--stop",
                                                                               "\n").out == stopped
    # a backslash and an n, which never come
    assert ask("GROBBIN:\n", *words, "--stop", r"\\n").out == lined("GROBBIN:\n" + whole)
    typed = ask(r"GROBBIN:\n", *words)
    assert typed.out.startswith(r"GROBBIN:\n") and r"--escapes takes \n for a new line" in typed.err
    assert "--escapes" not in ask("GROBBIN:", *words).err
    # Python has escapes of its own
    assert model.complete("GROBBIN:\n", stop=r"\n", **how) == whole
    file = tmp_path / "settings.json"
    ask("Take", "--tokens", 0, "--stop", r"\n\n", "--save-config", file)
    assert json.loads(file.read_text(encoding="utf-8"))["stop"] == ["\n\n"]
    assert ask("GROBBIN:\n", *words, "--config",
               file).out == lined("GROBBIN:\n" + model.complete("GROBBIN:\n", stop="\n\n", **how))


def test_in_a_pipe_all_but_the_last_newline_comes_out_as_it_was(ask, model):
    prompt = "a\tb \x1b[31m\u202e\x01  \n\n é"
    for ends in ("", "\n"):
        done = ask("-", "--tokens", 5, "--seed", 1, stdin=prompt + ends)
        assert done.out == lined(prompt + model.complete(prompt, tokens=5, seed=1)) and len(done.err.splitlines()) == 1


def test_a_prompt_given_twice_is_refused(ask, capsys):
    with pytest.raises(SystemExit) as stopped:
        ask("one", "--prompt", "two")
    assert stopped.value.code == 2 and "both as an argument and with --prompt" in capsys.readouterr().err


def test_temperature_0_always_says_the_same(ask):
    first = ask(PROMPT, "--temperature", 0, "--tokens", 30).out
    assert first == ask(PROMPT, "--temperature", 0, "--tokens", 30).out == ask(PROMPT, "--temperature", 0, "--tokens",
                                                                               30, "--seed", 9).out


def test_the_seed_makes_an_answer_repeatable_and_no_seed_a_new_one(ask):
    def said(*words):
        return ask(PROMPT, "--tokens", 30, *words).out
    assert said("--seed", 1) == said("--seed", 1) != said("--seed", 2)
    assert len({said(), said(), said()}) == 3


def test_top_k_and_top_p_and_temperature_reach_the_model(ask):
    greedy = ask(PROMPT, "--temperature", 0, "--tokens", 30).out
    for words in (["--top-k", 1], ["--top-p", 0.0001], ["--temperature", 0.0001]):
        assert ask(PROMPT, "--tokens", 30, "--seed", 1, *words).out == greedy
    assert ask(PROMPT, "--tokens", 30, "--seed", 1).out != greedy


def test_several_samples_are_different_answers_each_on_lines_of_its_own(ask, model):
    answers = [lined(PROMPT + model.complete(PROMPT, stream, seed=3, tokens=20)) for stream in range(3)]
    assert ask(PROMPT, "--samples", 3, "--seed", 3, "--tokens", 20).out == "".join(answers)
    assert len(set(answers)) == 3


def test_beams_give_the_best_answers_the_best_first(ask, model):
    answers = [lined(PROMPT + model.complete(PROMPT, place, beams=4, tokens=20)) for place in range(3)]
    assert ask(PROMPT, "--samples", 3, "--beams", 4, "--tokens", 20).out == "".join(answers)
    assert ask(PROMPT, "--beams", 4, "--tokens", 20).out == answers[0] and len(set(answers)) == 3
    assert ask(PROMPT, "--beams", 1, "--tokens", 20).out == ask(PROMPT, "--temperature", 0, "--tokens", 20).out


def test_an_answer_ends_before_any_of_several_stop_texts(ask):
    whole = ask("GROBBIN:\n", "--tokens", 60, "--seed", 1).out.removeprefix("GROBBIN:\n")
    for stops in ([whole[9:12]], [whole[9:12], whole[5:7]], ["--no-such", whole[20:25]]):
        end = min(whole.index(stop) for stop in stops if stop in whole)
        words = [word for stop in stops for word in ("--stop", stop)]
        assert ask("GROBBIN:\n", "--tokens", 60, "--seed", 1, *words).out == lined("GROBBIN:\n" + whole[:end])


@pytest.mark.parametrize("words, told", [
    (["--beams", 2, "--temperature", 0.5], ["beams=2", "temperature"]),
    (["--beams", 2, "--samples", 3], ["--beams 2", "--samples 3"]),
    (["--stop", ""], ["stop"]), (["--length-penalty", 1], ["length_penalty", "beams"])])
def test_contradictions_are_one_sentence_that_names_both(words, told, ask, capsys):
    with pytest.raises(SystemExit) as stopped:
        ask(PROMPT, *words)
    out, err = capsys.readouterr()
    assert (stopped.value.code, out, len(err.splitlines())) == (2, "", 2) and all(word in err for word in told)


def test_no_tokens_give_the_prompt_back(ask):
    assert ask(PROMPT, "--tokens", 0).out == PROMPT + "\n"


def test_an_empty_prompt_begins_a_text(ask, model):
    assert ask("", "--seed", 1, "--tokens", 20).out == lined(model.complete("", seed=1, tokens=20))


@pytest.mark.parametrize("words",
                         [["--tokens", -1], ["--temperature", "nan"], ["--top-p", 0], ["--top-k", 0], ["--samples", 0],
                          ["--temprature", 1]])
def test_a_setting_that_cannot_work_is_refused_with_exit_code_2(words, ask, capsys):
    with pytest.raises(SystemExit) as stopped:
        ask(PROMPT, *words)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == "" and words[0].lstrip("-").replace("-", "_")[:4] in err.replace("-", "_")


def test_a_whole_text_longer_than_the_context_can_be_the_prompt(ask, model, plays):
    prompt = plays[:500]
    assert len(model.tokenizer.encode(prompt)) > 2 * model.net.params.block_size
    assert ask(prompt, "--seed", 1, "--tokens", 50).out == lined(prompt + model.complete(prompt, seed=1, tokens=50))


# --- Which weights ---

def copies(project, folder, *names):
    """A home with nothing but copies of the weights, the last one the newest."""
    made = Home(folder / "copies")
    made.saved_weights.mkdir(parents=True)
    for age, name in enumerate(reversed(names)):
        shutil.copy(project.weights("tiny"), made.weights(name))
        os.utime(made.weights(name), (1_000_000 - age, 1_000_000 - age))
    return made


def test_the_newest_weights_are_taken_and_said(project, tmp_path, ask):
    made = copies(project, tmp_path, "zebra", "middle", "apple")
    assert newest_weights(made) == made.weights("apple")
    assert ask(PROMPT, "--tokens", 1, home=made).err.startswith("weights-apple.pth:")
    os.utime(made.weights("zebra"), (2_000_000, 2_000_000))
    assert ask(PROMPT, "--tokens", 1, home=made).err.startswith("weights-zebra.pth:")


def test_weights_that_were_never_measured_are_not_preferred_to_older_ones(project, tmp_path, ask, capsys):
    made = copies(project, tmp_path, "oldest", "good", "stopped")
    contents = checkpoint.load(made.weights("stopped"))
    checkpoint.save(made.weights("stopped"), contents | {"val_bpb": None, "val_nats_per_byte": None})
    assert ask(PROMPT, "--tokens", 1, home=made).err.splitlines()[0] == (
        "weights-stopped.pth is newer than weights-good.pth, but its run was stopped before it was measured. "
        "--weights weights-stopped.pth takes it all the same.")
    for name in ("good", "oldest"):
        made.weights(name).write_bytes(b"damaged")
        os.utime(made.weights(name), (1, 1))
    os.utime(made.weights("stopped"), (2, 2))
    assert newest_weights(made, say=pytest.fail) == made.weights("stopped")         # there is none better
    os.utime(made.weights("good"), (3, 3))
    assert newest_weights(made, say=pytest.fail) == made.weights("good")            # and damage is not passed over


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name here")
def test_what_is_no_file_is_never_the_newest(project, tmp_path, ask):
    made = copies(project, tmp_path, "one")
    made.weights("linked").symlink_to(made.weights("gone"))
    made.weights("folder").mkdir()
    os.mkfifo(made.weights("pipe"))
    assert made.newest("weights-*.pth") == [made.weights("one")]
    assert ask(PROMPT, "--tokens", 1, home=made).err.startswith("weights-one.pth:")
    with pytest.raises(FolioError, match="weights-pipe.pth is a pipe or a device"):
        ask(PROMPT, "--weights", "pipe", home=made)


def test_weights_are_named_by_run_by_file_or_by_path(project, tmp_path, ask):
    made = copies(project, tmp_path, "one", "two")
    for wanted in ("one", "weights-one.pth", made.weights("one")):
        assert find_weights(made, str(wanted)) == made.weights("one")
        assert ask(PROMPT, "--tokens", 1, "--weights", wanted, home=made).err.startswith("weights-one.pth:")


def test_only_the_weights_file_is_needed(project, tmp_path, ask):
    made = copies(project, tmp_path, "alone")
    assert [path.name for path in made.folder.rglob("*")] == ["Saved_Weights", "weights-alone.pth"]
    assert ask(PROMPT, "--seed", 1, home=made).out == ask(PROMPT, "--seed", 1).out


def test_another_tokenizer_in_the_folder_changes_nothing(project, tmp_path, ask, plays):
    made = copies(project, tmp_path, "mine")
    made.train_data.mkdir()
    (made.train_data / "input.txt").write_text(plays[5000:20_000], encoding="utf-8")
    corpus.open_corpus(made, TextParams(vocab_size=280))
    assert ask(PROMPT, "--seed", 1, home=made).out == ask(PROMPT, "--seed", 1).out


def test_no_weights_at_all_says_how_to_get_some(tmp_path):
    message = refusal(run_script("run.py", "--home", tmp_path, PROMPT))
    assert "There are no weights" in message and "python train.py" in message and len(message.splitlines()) == 1


def test_unknown_weights_list_what_there_is(project, tmp_path, ask):
    made = copies(project, tmp_path, "one", "two")
    with pytest.raises(FileNotFoundError, match="three.*weights-two.pth, weights-one.pth"):
        ask(PROMPT, "--weights", "three", home=made)


@pytest.mark.parametrize("damage",
                         [lambda whole: whole[:len(whole) // 2], lambda whole: whole.replace(b"merges", b"mergez"),
                          lambda whole: b""])
def test_damaged_weights_get_one_sentence_that_names_them(project, tmp_path, ask, capsys, damage):
    made = copies(project, tmp_path, "bad")
    made.weights("bad").write_bytes(damage(made.weights("bad").read_bytes()))
    with pytest.raises(FolioError) as refused:
        ask(PROMPT, home=made)
    assert str(made.weights("bad")) in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert capsys.readouterr() == ("", "")


def test_a_resume_file_is_no_weights_file_and_that_is_said(project, ask):
    with pytest.raises(FolioError, match="resume-tiny.pth"):
        ask(PROMPT, "--weights", "resume-tiny.pth")


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "nonsense", ""])
def test_a_device_that_is_not_here_is_refused_in_one_sentence(device, ask, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises((FolioError, SystemExit)) as refused:
        ask(PROMPT, "--device", device)
    assert len(str(refused.value).splitlines()) == 1


# --- Characters nobody has seen ---

def test_an_unknown_character_is_named_and_nothing_is_written(characters):
    message = refusal_of_prompt(characters, "Straße☃")
    assert "'ß' (U+00DF)" in message and "'☃' (U+2603)" in message
    assert "'S'" not in message


def refusal_of_prompt(home, prompt):
    """The message of a run that could not take its prompt, without the line that greets."""
    done = run_script("run.py", "--home", home.folder, prompt)
    assert (done.returncode, done.stdout) == (1, "") and "Traceback" not in done.stderr
    return done.stderr.split("\n", 1)[1]


def test_half_a_surrogate_pair_is_no_character(ask):
    with pytest.raises(FolioError, match="surrogate"):
        ask("half \ud83d")


def test_a_character_model_answers_in_its_characters(characters, ask, plays):
    answer = ask("GROBBIN", "--seed", 1, "--tokens", 50, home=characters).out
    assert answer.startswith("GROBBIN") and len(lined(answer)) in (58, 59) and set(answer) <= set(plays[:20_000])


# --- A filter ---

def test_what_comes_through_a_pipe_is_the_prompt_and_goes_on_with_every_byte_as_it_was(project, model):
    prompt = "GROBBIN:\n\x1b[31mTake\ta 中\x01 \n"
    done = subprocess.run([sys.executable, ROOT / "run.py", "--home", project.folder, "--seed", "5", "--tokens", "15"],
                          input=prompt.encode() + b"\n",
                          capture_output=True)
    assert done.stdout == lined(prompt + model.complete(prompt, seed=5, tokens=15)).encode()
    assert done.returncode == 0 and done.stderr.startswith(b"weights-tiny.pth:") and done.stderr.count(b"\n") == 1


def test_an_empty_input_begins_a_text(ask, model):
    assert ask("--seed", 1, "--tokens", 20).out == lined(model.complete("", seed=1, tokens=20))


def test_a_prompt_of_ten_megabytes_is_gone_on_with(ask, plays):
    prompt = (plays * 40)[:10_000_000]
    said = ask("--tokens", 5, stdin=prompt).out
    assert said.startswith(prompt) and len(said) > len(prompt) + 1


def test_bytes_that_are_no_text_are_refused(ask):
    with pytest.raises(FolioError,
                       match="Standard input is not UTF-8 text: byte 0xE4 at offset 5. .* save it as UTF-8.$"):
        ask(stdin="half \udce4")
    with pytest.raises(FolioError, match="The prompt is not UTF-8 text: byte 0xE4 at offset 5. "):
        ask("half \udce4")
    with pytest.raises(FolioError,
                       match="Standard input is not UTF-8 text: byte 0x00 at offset 1. NUL belongs to no text: take it "
                             "out.$"):
        ask(stdin="a\0b")


def test_the_last_newline_of_windows_is_one_too(ask):
    how = ("--seed", 3, "--tokens", 10)
    assert ask(*how, stdin=PROMPT + "\r\n").out == ask(*how, stdin=PROMPT).out == ask(*how, stdin=PROMPT + "\r").out


def test_lines_end_in_the_same_byte_on_every_system(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, newline="\r\n"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SystemExit):
        front_door(lambda: terminal.send("one\r\ntwo\n"))
    sys.stdout.flush()
    assert written.getvalue() == b"one\r\ntwo\n"


EVIL = "name\x1b]0;TITLE\x07\x9b2J"
SHOWN = r"name\x1b]0;TITLE\x07\x9b2J"
TO_PASTE = r"name\033]0;TITLE\007\302\2332J'"         # in a command


def test_what_is_said_commands_no_terminal_whoever_says_it(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)

    def say():
        print(EVIL, "and", EVIL)
        print(EVIL, file=sys.stderr)
        tqdm.write(EVIL)
        for _ in tqdm([1], desc=EVIL, file=sys.stderr, disable=False):
            pass
        terminal.send("\x1b[1mbold\x1b[0m\n")
        raise FolioError(EVIL)
    with pytest.raises(SystemExit):
        front_door(say)
    out, err = capsys.readouterr()
    assert out == f"{SHOWN} and {SHOWN}\n{SHOWN}\n\x1b[1mbold\x1b[0m\n"
    assert err.startswith(SHOWN + "\n") and f"\r{SHOWN}: 100%" in err and err.endswith(SHOWN + "\n")
    assert not {"\x1b", "\x07", "\x9b"} & set(err.replace("\x1b[A", ""))


@pytest.mark.skipif(os.name != "posix", reason="names that Windows does not allow")
def test_a_folder_whose_name_commands_the_terminal_is_shown_harmless(plays, tmp_path):
    home = Home(tmp_path / EVIL)
    home.train_data.mkdir(parents=True)
    (home.train_data / "input.txt").write_text(plays[:5_000], encoding="utf-8")
    done = run_script("init.py", "--home", home.folder, "--vocab-size", 270)
    assert done.returncode == 0 and done.stdout.count(SHOWN) == done.stdout.count(TO_PASTE) == 1, done.stderr
    assert not {"\x1b", "\x07", "\x9b"} & set(done.stdout + done.stderr)


@pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_no_traceback(project, closed):
    done = subprocess.run(["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, ROOT / "run.py", "--home",
                           project.folder, "--tokens", "3"],
                          input="", capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and "Traceback" not in done.stderr and bool(done.stdout) == (closed != ">&-")


def test_ctrl_c_ends_the_line_of_the_answer(monkeypatch):
    class Stopped:
        def voiced_each(self, prompts, **settings):
            yield 0, " upon a ti", None
            raise KeyboardInterrupt
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(KeyboardInterrupt):
        run_door.answer(Stopped(), "Once", 1, {})
    assert sys.stdout.getvalue() == "Once upon a ti\n"


def test_error_messages_command_no_terminal(project):
    for words in (["--weights", "\x1b[31mred"], ["--\x1b[31m", "x"]):
        done = run_script("run.py", "--home", project.folder, *words, "Take")
        assert "\\x1b[31m" in refusal(done, code=done.returncode) and "\x1b" not in done.stderr


# --- A conversation in a terminal ---

COMMANDS_OF_A_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


@pytest.fixture
def converse(project):
    """converse(columns=80, **environment): run.py in a terminal of its own, waiting for words; project.history is gone.
    """
    pexpect = pytest.importorskip("pexpect")
    started = []

    def starting(*words, columns=80, **environment):
        child = pexpect.spawn(sys.executable,
                              [str(ROOT / "run.py"), "--home", str(project.folder), "--seed", "5", *map(str, words)],
                              encoding="utf-8",
                              timeout=60, dimensions=(40, columns), env={**os.environ, "TERM": "xterm", **environment})
        child.delaybeforesend = None
        started.append(child)
        child.expect("> ")
        return child
    project.history.unlink(missing_ok=True)
    yield starting
    for child in started:
        child.close(force=True)


@pytest.fixture(params=["prompt_toolkit", "input"])
def environment(request, tmp_path):
    """What makes run.py ask by prompt_toolkit, or without it."""
    if request.param == "prompt_toolkit":
        pytest.importorskip("prompt_toolkit")
        return {}
    (tmp_path / "prompt_toolkit.py").write_text("raise ImportError")
    return {"PYTHONPATH": str(tmp_path)}


def until_asked(child, words=""):
    """Wait until the terminal has shown `words` and run.py asks again; a prompt may be drawn more than once."""
    shown = None
    while shown is None or words not in shown:
        child.expect("> ")
        shown = (shown or "") + COMMANDS_OF_A_TERMINAL.sub("", child.before).replace("\r", "")


@pytest.mark.skipif(os.name != "posix", reason="a terminal of its own")
def test_a_conversation_in_a_terminal(converse, environment, model):
    child = converse("--tokens", 20, **environment)
    child.send("MERRAN:\r")
    answer = model.complete("MERRAN:", seed=5, tokens=20)
    until_asked(child, answer)                     # shorter than a line
    child.send("/tokens -1\r")
    until_asked(child, "below the smallest")
    child.send(f"/tokens {LONG}\r")
    until_asked(child)
    child.send("Take\r")
    child.expect(".{200}")
    child.sendintr()                                        # stops the answer alone
    until_asked(child)
    child.send("\x1b[A\r")                                  # the arrow key upwards brings back what was typed
    child.expect("Take.{200}")
    child.sendintr()
    until_asked(child)
    child.sendintr()                                        # begins the line anew
    until_asked(child)
    child.send("one\\\rtwo\r")                             # a text of two lines
    child.expect("one.*two.{200}")
    child.sendintr()
    until_asked(child)
    child.sendeof()
    child.wait()
    child.close()
    assert child.exitstatus == 0
    child = converse("--tokens", 0, **environment)          # and a second session remembers
    child.send("\x1b[A\r")
    until_asked(child, "one\ntwo\n")


@pytest.mark.skipif(os.name != "posix", reason="a terminal of its own")
def test_what_is_pasted_commands_no_terminal_while_one_types(converse):
    pytest.importorskip("prompt_toolkit")
    child = converse("--tokens", 0)
    child.send("\x1b[200~\u202egnp.exe \x9b31m 中\x1b[201~")
    child.expect("gnp.exe.*中")
    shown = child.before + child.after
    child.send("\r")
    until_asked(child, r"\u202egnp.exe \x9b31m 中")         # the model was given what was pasted
    assert not set("\u202e\x9b") & set(shown)


def start(project, *words):
    return subprocess.Popen([sys.executable, ROOT / "run.py", "--home", project.folder, PROMPT, "--tokens", str(LONG),
                             *words],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
def test_a_reader_who_leaves_early_is_no_error(project):
    process = start(project)
    assert process.stdout.read(10) == PROMPT.encode()[:10]
    process.stdout.close()
    err = process.stderr.read().decode()
    assert (process.wait(), err.count("\n")) == (0, 1), err


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
def test_an_answer_streams_and_ctrl_c_ends_it_without_a_traceback(project):
    process = start(project)
    assert len(process.stdout.read(len(PROMPT) + 20)) == len(PROMPT) + 20           # long before the answer is complete
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and b"Traceback" not in err


# --- What reaches the terminal ---

@given(st.text())
def test_nothing_that_commands_a_terminal_reaches_it(text):
    shown = harmless(text)
    assert all(c.isprintable() or c.isspace() for c in shown)
    assert not set(shown) & set(map(chr, [*range(9), *range(11, 32), *range(127, 160)]))
    assert harmless(shown) == shown


@pytest.mark.parametrize("text, shown",
                         [("red \x1b[31m", "red \\x1b[31m"), ("\a\b\0\x7f\x9b2J", "\\x07\\x08\\x00\\x7f\\x9b2J"),
                          ("a\rb", "a\\rb"),
                          ("\u202egnp.exe", "\\u202egnp.exe"), ("\ud83d", "\\ud83d")])
def test_what_could_command_a_terminal_is_made_visible(text, shown):
    assert harmless(text) == shown


@pytest.mark.parametrize("text", ["tab\tand\nline", "Grüße, 世界! שלום 🎭", "Ça va\u00a0?", "「はい」\u3000どうぞ"])
def test_ordinary_text_of_any_language_stays_as_it_is(text):
    assert harmless(text) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream, written", [(Terminal, "\\x1b[31m"), (io.StringIO, "\x1b[31m")],
                         ids=["terminal", "pipe"])
def test_escape_sequences_are_shown_to_people_and_left_alone_in_files(stream, written, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream())
    screen = Screen()
    screen.write("\x1b[31m")
    screen.end_line()
    screen.end_line()
    assert sys.stdout.getvalue() == written + "\n"


# --- In Python ---

def test_importing_folio_does_not_import_torch():
    done = run_python("-c",
                      "import sys, folio; print('torch' in sys.modules); folio.load; print('torch' in sys.modules)")
    assert done.stdout == "False\nTrue\n"
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        folio.lode  # noqa: B018  (the attribute is what is asked for)


def test_a_loaded_model_answers_without_torchs_compiler_which_takes_a_second_to_import():
    done = run_python("-c",
                      "import sys; from folio import load; "
                      "load('Saved_Weights/weights-pretrained.pth').complete('Take', tokens=3);"
                      "print('torch' in sys.modules, 'torch._dynamo' in sys.modules)")
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_a_loaded_model_knows_what_it_is(project, model):
    contents = checkpoint.load(project.weights("tiny"))
    assert (model.name, model.step, model.val_bpb) == ("tiny", contents["step"], contents["val_bpb"])
    assert model.tokenizer.vocab_size == model.net.params.vocab_size == 300
    assert not model.net.training


def test_what_streams_is_what_is_completed(model):
    pieces = list(model.stream(PROMPT, seed=1, tokens=60))
    assert len(pieces) > 30 and "" not in pieces
    assert "".join(pieces) == model.complete(PROMPT, seed=1, tokens=60)
    assert model.complete(PROMPT, seed=1, tokens=20) == "".join(pieces)[:len(model.complete(PROMPT, seed=1, tokens=20))]


class Saying:
    """A Generation whose every stream says these ids."""

    def __init__(self, ids):
        self.ids, self.asked, self.finishes = ids, [], {}

    def __call__(self, net, streams):
        self.asked, self.left, self.running = streams, list(self.ids), set(range(len(streams)))
        return self

    def step(self):
        token = self.left.pop(0)
        which = sorted(self.running)
        if not self.left:
            self.running = set()
        return [(each, token) for each in which]

    def remove(self, which):
        self.running.discard(which)


def test_only_whole_characters_are_streamed(model, monkeypatch):
    ids = list("Grüße 🎭!".encode())                 # a token a byte
    monkeypatch.setattr(language_model, "Generation", Saying(ids))
    pieces = list(model.stream(""))
    assert "".join(pieces) == "Grüße 🎭!" and "\ufffd" not in "".join(pieces)
    monkeypatch.setattr(language_model, "Generation", Saying(ids[:-3]))       # cut off inside a character
    assert "".join(model.stream("")) == "Grüße "


def test_an_answer_ends_where_a_text_ends(model, monkeypatch):
    saying = Saying([65])
    monkeypatch.setattr(language_model, "Generation", saying)
    model.complete("Take")
    assert saying.asked[0].ends == (model.tokenizer.end_of_text,) == (299,)
    model.complete("<|endoftext|>")
    assert 299 not in saying.asked[0].prompt               # a prompt that spells it is only text
    model.complete("")
    assert saying.asked[0].prompt == model.opening != []
    # no token but <|endoftext|> begins with "<", and that is none of a text's
    model.complete("Take <")
    assert saying.asked[0].healing is None


def test_bits_per_byte_of_a_text_are_its_cross_entropy(model):
    text = "Take your hand off."
    ids = model.opening[-1:] + model.tokenizer.encode(text)
    assert len(ids) <= model.net.params.block_size
    with torch.inference_mode():
        likely = model.net(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
    bits = -sum(likely[place, token].item() for place, token in enumerate(ids[1:])) / 0.6931471805599453
    assert model.bits_per_byte(text) == pytest.approx(bits / len(text.encode()), rel=1e-5)
    assert model.bits_per_byte(text) < model.bits_per_byte("xq#Zzk@@~9Kvv")
    with pytest.raises(FolioError, match="empty"):
        model.bits_per_byte("")


def test_bits_per_byte_of_the_held_out_text_are_those_of_the_training(project, model):
    text = corpus.open_corpus(project)[1]
    held_out = model.tokenizer.decode(text.tokens[text.train_tokens:])
    # the token before it, and the windows, are others
    assert model.bits_per_byte(held_out) == pytest.approx(model.val_bpb, rel=0.01)


def test_surprise_is_the_text_piece_by_piece_with_what_each_costs(model, plays):
    for text in ("Take your hand off.", "Grüße 🎭, 世界!"):
        found = model.surprise(text)
        assert "".join(piece for piece, _ in found) == text and all(piece for piece, _ in found)
        assert sum(bits for _, bits in found) / len(text.encode()) == pytest.approx(model.bits_per_byte(text), rel=1e-5)
    assert model.surprise("") == []
    bits = dict(model.surprise("GROBBIN:\nTake☃"))
    assert bits["☃"] > 10 * bits[":\n"]


def test_no_token_of_a_long_text_is_predicted_from_less_than_half_a_context(model, plays):
    ids = model.opening[-1:] + model.tokenizer.encode(plays[:300])
    half, bits = model.net.params.block_size // 2, []
    with torch.inference_mode():
        for place in range(1, len(ids)):
            start = 0 if place <= 2 * half else (place - half - 1) // half * half
            assert place - start >= min(place, half)
            bits.append(
                -model.net(torch.tensor([ids[start:place]]))[0, -1].log_softmax(-1)[ids[place]].item()
                / 0.6931471805599453
            )
    assert [cost for _, cost in model.surprise(plays[:300])] == pytest.approx(bits, abs=1e-3)


def test_next_token_probabilities_are_those_of_the_network_the_likeliest_first(model):
    text = next(text for text in ("GROBBIN:\nTake ☃", "Take 1")
                if model._healer.take_back(text, model.tokenizer.encode(text))[1] is None)
    found = model.next_token_probabilities(text)
    assert len(found) == 300 and sum(probability for _, probability in found) == pytest.approx(1)
    assert found == sorted(found, key=lambda each: -each[1])
    with torch.inference_mode():
        likely = model.net(torch.tensor([model.tokenizer.encode(text)]))[0, -1].softmax(-1)
    assert found[0][0] == model.tokenizer.decode([likely.argmax().item()])
    assert found[0][1] == pytest.approx(likely.max().item(), rel=1e-4)


def test_settings_out_of_bounds_are_named_together(model):
    with pytest.raises(FolioError, match="(?s)tokens=-1.*temperature=-2"):
        model.complete(PROMPT, tokens=-1, temperature=-2)
    for wrong, told in [(dict(prompt=5), "prompt=5 should be of type str"),
                        (dict(stream="1"), "stream='1' should be of type int"),
                        *[(dict(stop=stop), rf"stop={re.escape(str(stop))} should be of type str")
                          for stop in (5, 0, True, False, 1e308, b"x")],
                        (dict(stop=""), "A stop string is empty"), (dict(stop=["\n", ""]), "A stop string is empty")]:
        with pytest.raises(FolioError, match=told):
            model.complete_each([{"prompt": PROMPT, **wrong}])
    assert model.complete(PROMPT, tokens=3, seed=1, stop=None) == model.complete(PROMPT, tokens=3, seed=1)


@pytest.mark.parametrize("name, told", [
    ("temprature", "did you mean temperature?"), ("max_tokens", "that is tokens here"),
    ("max_new_tokens", "that is tokens here"),
    ("num_predict", "that is tokens here"), ("num_beams", "that is beams here"),
    ("repeat_penalty", "that is repetition_penalty here"),
    ("stop_sequences", "that is stop here"), ("n", "the same prompt several times in complete_each"),
    ("zzz", "There is no setting zzz$")])
def test_a_setting_that_is_none_is_answered_with_what_it_is_called_here(model, name, told):
    with pytest.raises(FolioError, match=f"There is no setting {name}.*{re.escape(told) if told[-1] != '$' else ''}"):
        model.complete(PROMPT, **{name: 1})
    with pytest.raises(FolioError) as refused:
        model.stream_each([{"prompt": PROMPT, name: 1}], tokens=3, lenght=4)
    assert name in str(refused.value) and "lenght" in str(refused.value)


def test_prompts_that_are_answered_at_once_have_one_precision(model):
    with pytest.raises(FolioError, match="one precision.*give it once, for all"):
        model.stream_each(["a", {"prompt": "b", "precision": "int8"}])          # before any text is asked for
    assert len(model.complete_each(["a", "b"], precision="int8", tokens=2)) == 2


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such.pth"):
        folio.load(tmp_path / "no-such.pth")


# --- Memory ---

def test_too_little_memory_is_one_sentence_with_what_to_try(home, plays):
    project = home(plays[:20_000])
    assert run_script("init.py", "--home", project.folder).returncode == 0
    done = run_script("train.py", "--home", project.folder, "--batch-size", 10**12, "--steps", 1)
    assert "memory" in done.stderr and "--block-size or --emb-len" in done.stderr and "Traceback" not in done.stderr
    assert done.returncode == 1
    assert list(project.saved_weights.glob("[!.]*")) == []


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "a:b", ""])
def test_a_name_that_cannot_be_part_of_a_file_name_is_refused(home, name):
    project = home("text")
    assert "--name" in refusal(run_script("train.py", "--home", project.folder, "--name", name), code=2)
    assert not project.saved_weights.exists()
