"""Commands that are printed can be pasted: they are quoted for the shell, and name the home that they are about."""

import ast
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT, refusal, run_python, run_script
from folio.base.commands import command, quoted
from folio.cli.command_line import Parser
from test_layers import FILES

COMMAND = re.compile(r"python (init|train|run)\.py|python -m folio\.\w+")


@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" '\"$`\\&;|<>()*?[]#~%!{}"), min_size=1))
def test_a_word_is_quoted_as_a_posix_shell_reads_it(word):
    assert shlex.split(quoted(word, windows=False)) == [word]


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash to ask")
@pytest.mark.parametrize("word",
                         ["my project", "it's", "a\nb", "\x1b]0;title\x07", "tab\tand 'quote' \\", "caf\udce9",
                          "$HOME `x` !", "\u202eabc"])
def test_bash_reads_what_was_quoted(word):
    done = subprocess.run(["bash", "-c", f"printf %s {quoted(word, windows=False)}"], capture_output=True, check=True)
    assert done.stdout == word.encode("utf-8", "surrogateescape")
    assert quoted(word, windows=False).isprintable()


@pytest.mark.parametrize("word, shown", [
    (r"C:\Users\ada\notes", r"C:\Users\ada\notes"), (r"C:\My Documents", r'"C:\My Documents"'),
    ("C:\\My Documents\\", '"C:\\My Documents\\\\"'),
    ("a&b", '"a&b"'), ("it's", '"it\'s"'), ("$home x", "'$home x'"), ("a`b's", "'a`b''s'"), ("Bücher", "Bücher"),
    ("100%", '"100%"'), ("@x", '"@x"')])
def test_a_word_is_quoted_as_powershell_and_cmd_read_it(word, shown):
    assert quoted(word, windows=True) == shown


@pytest.mark.parametrize("folder", ["plain", "my project", "-dashed", "it's $HOME"])
def test_a_command_has_the_home_that_the_command_line_gave(folder):
    parser = Parser("A test.")
    parser.parse([f"--home={folder}"])
    words = shlex.split(command("train.py", "--name", "a b"))
    assert words[:4] == ["python", "train.py", "--name", "a b"]
    assert str(parser.parse(words[4:]).home.folder) == folder
    parser.parse([])
    assert command("train.py") == "python train.py"


def test_a_home_is_remembered_no_longer_than_its_command_line_is_carried_out():
    done = run_python("-c", """
from folio.base.commands import command
from folio.cli.command_line import Parser, front_door
def main():
    Parser("A test.").parse(["--home", "elsewhere"])
    print(command("run.py"))
try:
    front_door(main)
finally:
    print(command("run.py"))
""")
    assert (done.stdout, done.stderr) == ("python run.py --home elsewhere\npython run.py\n", "")


def test_no_message_names_a_command_by_hand():
    """The mechanism is the only way: a command that stands in a string is one that lacks the home."""
    found = []
    for module, path in FILES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.body[0].value) for node in ast.walk(tree)
                      if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
                      if isinstance(node.body[0], ast.Expr)}
        found += [(module, node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)
                  and isinstance(node.value, str)
                  if id(node) not in docstrings and COMMAND.search(node.value)]
    named_for_help = {"python -m folio.plot",
                      "Draw a picture of a run or of a trained model. Each has flags of its own: "
                      "python -m folio.plot loss --help"}
    assert {text for _, text in found} <= named_for_help, found


@pytest.fixture
def spaced(tmp_path):
    """A project whose folder has to be quoted, and the --home that finds it."""
    folder = tmp_path / "my project"
    return folder, f" --home {shlex.quote(str(folder))}"


@pytest.mark.skipif(sys.platform == "win32", reason="as a POSIX shell wants it")
@pytest.mark.parametrize("words, said", [
    (["run.py", "Once"], "Train first: python train.py"),
    (["train.py"], "Make one first: python init.py"),
    (["train.py", "--resume"], "Start one (python train.py"),
    (["init.py"], "pass files or folders: python init.py PATH"),
    (["-m", "folio.tokens", "text"], "Make one first: python init.py"),
    (["-m", "folio.evaluate"], "Train first: python train.py"),
    (["-m", "folio.convert", "export", "huggingface", "out.json"], "Make one first: python init.py"),
])
def test_what_a_refusal_advises_is_about_the_same_home(words, said, spaced):
    folder, flag = spaced
    assert said + flag in refusal(run_python(*words, "--home", folder))


@pytest.mark.skipif(sys.platform == "win32", reason="as a POSIX shell wants it")
def test_each_script_names_the_next_one_as_it_can_be_pasted(spaced):
    folder, _ = spaced
    (folder / "Train_Data").mkdir(parents=True)
    (folder / "Train_Data" / "input.txt").write_text("Once upon a time there was a text. " * 90, encoding="utf-8")
    small = "--steps 2 --emb-len 8 --num-heads 1 --num-layers 1 --block-size 8 --threads 1 --sample-tokens 0".split()
    done, seen = run_script("init.py", "--home", folder), []
    while pasted := re.search(r"^Next: python (.*)", done.stdout, re.MULTILINE):
        script, *words = shlex.split(pasted[1])
        seen.append(script)
        if script == "run.py":
            break
        done = run_python(ROOT / script, *words, *small)
    assert seen == ["train.py", "run.py"]
    answered = run_python(ROOT / script, *words, "Once", "--tokens", 3)
    assert answered.returncode == 0 and answered.stdout.startswith("Once")
    [further] = re.findall(r"further: python (.*)", refusal(run_script("train.py", "--home", folder, "--resume")))
    resumed = run_python(*shlex.split(further.replace("NAME", "default").replace(" N ", " 3 ")), "--tensorboard")
    assert "resuming after step 2" in resumed.stdout and resumed.returncode == 0
    [events] = re.findall(r"tensorboard --logdir (.*)", resumed.stdout)
    assert shlex.split(events) == [str(folder / "Saved_Weights" / "tensorboard")]
