"""README.md and docs/ are true: commands run or at least parse, samples are what is printed, flags and links exist."""

import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT, run_python
from folio.__main__ import SCRIPTS
from folio.base import startup
from folio.cli import command_line, configuration
from Model_Params import PRESETS
from test_layers import FILES

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]}
LARGEST_README = 10_000                 # bytes: what somebody reads before deciding
PROSE_COLUMNS = 100


def blocks(language, page="README.md"):
    """The fenced blocks of a page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def in_pages(language):
    """A pytest parameter for each block in this language, in all pages."""
    return [pytest.param(block, id=f"{page}-{number}") for page in PAGES
            for number, block in enumerate(blocks(language, page))]


def without_code(page):
    """The text of a page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)


def command_of(line):
    """A command of a shell as what Python takes and its flags: "FOO=1 folio plot loss" -> ("-m folio.plot", ["loss"]).

    None for programs that are not ours.
    """
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        words.pop(0)
    if not words:
        return None
    program = words.pop(0)
    if program == "torchrun":           # whose own flags have one value each
        while words[0].startswith("-"):
            del words[:2]
    elif program == "folio":
        words = [*SCRIPTS[words[0]].split(), *words[1:]]
    elif not program.endswith("python"):
        return None
    script = f"-m {words[1]}" if words[0] == "-m" else words[0]
    return script, words[2 if words[0] == "-m" else 1:]


def commands():
    """Every command in the pages that starts something of Folio's, as pytest parameters."""
    found = {}
    for page in PAGES:
        shown = blocks("bash", page) + re.findall(r"^\$ (.*)$", PAGES[page], re.MULTILINE)
        in_prose = re.findall(r"`((?:python|torchrun|folio|\w+=\d+ python) [^`]*)`", without_code(page))
        for block in shown + [line for line in in_prose if not line.startswith("folio NAME") and "NAME" not in line]:
            for line in re.split(r"\n| && | \| ", block.replace("\\\n", " ").replace("&&\n", "&& ")):
                if command := command_of(line):
                    found.setdefault(line.strip(), command)
    return [pytest.param(*command, id=line) for line, command in found.items()]


def cloned(folder):
    """Copy what git would hand out, but for tests and benchmarks. -> the folder"""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if not name.startswith(("tests/", "benchmarks/")) and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A clone in which nothing is trained."""
    return cloned(tmp_path_factory.mktemp("fresh"))


# --- The two commands of the start ---

def test_a_fresh_clone_answers_before_anything_is_trained(fresh):
    done = run_python("run.py", "I have the key", "--tokens", "20", "--seed", "1", cwd=fresh)
    assert done.returncode == 0 and done.stdout.startswith("I have the key") and len(done.stdout) > 30
    assert done.stderr.startswith("weights-pretrained.pth: ")


def test_the_first_command_learns_trains_and_completes(tmp_path):
    clone = cloned(tmp_path)
    steps = [step.strip().split(" ", 1)[1] for step in blocks("bash")[0].split("&&") if "/python " in step]
    assert [step.split()[0] for step in steps] == ["init.py", "train.py", "run.py"]
    shorter = [], ["--steps", "3", "--sample-tokens", "5"], ["--tokens", "5"]
    for step, flags in zip(steps, shorter, strict=True):
        done = run_python(*shlex.split(step), *flags, cwd=clone)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("I have the key") and done.stderr.startswith("weights-default.pth: ")


def test_ci_runs_the_second_command():
    assert blocks("bash")[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_windows_gets_the_same_two_commands():
    def in_posix(block):
        block = block.replace("\n", "; ").replace("py -m venv", "python3 -m venv")
        return block.replace("\\", "/").replace("Scripts", "bin")
    for windows, posix in zip(blocks("powershell"), blocks("bash")[:2], strict=True):
        assert in_posix(windows.strip()).split("; ") == re.split(r"\s*&&\s*", posix.strip())


# --- Commands and flags ---

class Parsed(Exception):
    """Raised when a command line was accepted, in place of the work that it asks for."""


@pytest.mark.parametrize("script, words", commands())
def test_a_command_in_the_pages_is_accepted(script, words, monkeypatch, tmp_path):
    if script in startup.TO_RUN:
        def parse(parser, *args):
            original(parser, *args)
            raise Parsed
        original = command_line.Parser.parse
        monkeypatch.setattr(command_line.Parser, "parse", parse)
        monkeypatch.setattr(command_line, "front_door", lambda main, **settings: main())
        monkeypatch.setattr(sys, "argv", [script, *words])
        monkeypatch.chdir(tmp_path)
        (tmp_path / "Train_Data").mkdir()           # for a text that is named by its path
        (tmp_path / "Train_Data" / "input.txt").write_text("text", encoding="utf-8")
        with pytest.raises(SystemExit if "--help" in words else Parsed):
            if script.startswith("-m"):
                monkeypatch.delitem(sys.modules, script.removeprefix("-m "), raising=False)
                runpy.run_module(script.removeprefix("-m "), run_name="__main__")
            else:
                runpy.run_path(str(ROOT / script), run_name="__main__")
    elif script == "-m pytest":
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
    else:
        source = (ROOT / script).read_text(encoding="utf-8")
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []


def test_every_flag_that_is_named_exists():
    calls = [*startup.TO_RUN, "-m folio.plot loss", "-m folio.plot surprise", "-m torch.distributed.run",
             "benchmarks/first_steps.py", "benchmarks/quality.py", "examples/heat_exchangers/case.py",
             "examples/heat_exchangers/generate.py"]
    helps = "".join(run_python(*call.split(), "--help").stdout for call in calls)
    known = {*re.findall(r"--[a-z][\w-]*", helps), "--help", "--index-url"}           # the last one: of pip
    known |= {"--model", "--model_args", "--tasks", "--include_path"}                   # of lm_eval
    named = {flag for text in PAGES.values() for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", text)}
    assert named - known == set()


def test_the_settings_file_is_accepted(tmp_path):
    for number, block in enumerate(blocks("json", "docs/settings.md")):
        path = tmp_path / f"{number}.json"
        path.write_text(block, encoding="utf-8")
        values, problems = configuration.load(path)
        assert values and problems == []


# --- Samples ---

@pytest.mark.parametrize("sample", [sample for sample in in_pages("text") if sample.values[0].startswith("$ ")])
def test_a_sample_is_what_is_printed(sample, fresh):
    line, expected = sample.removeprefix("$ ").split("\n", 1)
    script, words = command_of(line)
    done = run_python(*script.split(), *words, cwd=fresh)
    assert done.returncode == 0, done.stderr
    rest = done.stderr + done.stdout
    for part in re.split(r"^\.\.\.$", expected, flags=re.MULTILINE):          # three dots: lines are left out
        _, found, rest = rest.partition(part.strip("\n") or "\n")
        assert found, f"{part}\n--- is not in what was printed:\n{done.stderr}{done.stdout}"


@pytest.mark.skipif(os.name != "posix", reason="a terminal of its own")
def test_the_interactive_sample_is_what_a_terminal_shows(fresh, tmp_path):
    pexpect = pytest.importorskip("pexpect")
    page = "docs/interactive-mode.md"
    [sample] = blocks("console", page)
    command, *expected = sample.removeprefix("$ ").splitlines()
    typed = re.search(r"Typed here were `(.*?)`, (Enter alone), `(.*?)`\s+and `(.*?)`", PAGES[page]).groups()
    (tmp_path / "prompt_toolkit.py").write_text("raise ImportError")           # which would redraw the lines
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(tmp_path)}
    child = pexpect.spawn(sys.executable, shlex.split(command)[1:], cwd=fresh, env=environment, encoding="utf-8",
                          timeout=60, dimensions=(40, 80))
    shown = ""
    for words in (*typed, None):
        child.expect("> ")
        shown += child.before
        if words is not None:
            child.send("\r" if words == "Enter alone" else f"{words}\r")
    child.close(force=True)
    lines = iter(line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", shown).split("\n"))
    # `in` takes from the iterator up to the line that is found, so that the order is checked as well.
    assert [line for line in expected if line not in ("...", ">", "") and line not in lines] == []


@pytest.mark.parametrize("example", in_pages("python"))
def test_the_python_examples_run(example, fresh):
    done = run_python("-c", example, cwd=fresh, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 0 and done.stdout, done.stderr


def test_the_shipped_model_is_what_the_pages_say():
    from folio import load
    from folio.networks.build import count_parameters
    path = ROOT / "Saved_Weights" / "weights-pretrained.pth"
    model = load(path)
    for page in ("README.md", "docs/evaluation.md"):
        assert f"{count_parameters(model.net):,} parameters" in PAGES[page], page
        assert f"{model.val_bpb:.3f} bits per byte" in PAGES[page], page
    assert path.stat().st_size <= 10_000_000


def test_every_preset_has_its_row():
    assert sorted(re.findall(r"^\| `([\w-]+)`", PAGES["docs/presets.md"], re.MULTILINE)) == sorted(PRESETS)


# --- The pages themselves ---

def test_the_readme_is_short():
    assert len(PAGES["README.md"].encode("utf-8")) <= LARGEST_README


def test_the_readme_links_to_every_page():
    assert [page for page in PAGES if page.startswith("docs/") and f"]({page})" not in PAGES["README.md"]] == []


@pytest.mark.parametrize("page", PAGES)
def test_prose_ends_at_its_margin(page):
    lines = without_code(page).splitlines()
    assert [line for line in lines if len(line) > PROSE_COLUMNS and not line.startswith(("|", "!["))] == []


@pytest.mark.parametrize("page", [*PAGES, "benchmarks/README.md", "benchmarks/LOG.md"])
def test_every_link_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_the_tree_names_every_file():
    named, folders = set(), []
    for line in next(text for text in blocks("text", "docs/architecture.md") if "folio/" in text).splitlines():
        indent, name = re.match(r"(\s*)(\S+)", line).groups()
        folders = folders[:len(indent) // 2]
        if name.endswith("/"):
            folders.append(name)
        elif name.endswith(".py"):
            named.add("".join([*folders, name]))
    files = {path.relative_to(ROOT).as_posix(): path for path in FILES.values() if path.name != "__init__.py"}
    missing = [f"{name}: {(ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or '').splitlines()[0]}"
               for name, path in files.items() if name not in named]
    assert (missing, sorted(named - set(files))) == ([], [])
