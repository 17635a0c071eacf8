"""python -m folio.tokens: every byte of every token is visible, no text controls the terminal, and inputs are read."""

import gzip
import json
import os
import shlex
import subprocess
import sys
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from conftest import ROOT, refusal, run_python
from folio import tokens
from folio.base.lines import columns
from folio.base.visible import shown
from folio.data.corpus import open_corpus
from folio.evaluation.census import take_census
from Model_Params import TextParams
from tokenizer import BPETokenizer, CharTokenizer, load

MIXED = "The quays, the quays! Там 42 дома; 中文 ひらがな naïve 😀 न\u093fन\u094d \u0e04\u0e33\n\n  Ende.\n" * 2
TOKENIZER = BPETokenizer.train([MIXED * 3, "the theme of them, там"], 300)
CHARACTERS = CharTokenizer.train([MIXED])
AWKWARD = ["the", " quays", "дома", "中", "न\u093f", "\n", " ", "\x1b[31m", "\udce4", "a\u0301", "·|⏎"]
# Surrogates other than those that stand for undecodable bytes.
NO_BYTE = regex.compile(r"[\ud800-\udc7f\udd00-\udfff]")
TEXTS = (st.lists(st.one_of(st.text(max_size=8), st.sampled_from(AWKWARD))).map("".join)
         .filter(lambda text: not NO_BYTE.search(text)))
ESCAPES = regex.compile(r"\x1b\[[0-9;]*m")


def to_bytes(text):
    return text.encode("utf-8", errors="surrogateescape")


def shown_tokens(tokenizer, text):
    return [shown(tokenizer.token_bytes[token]) for token in tokenizer.encode_bytes(to_bytes(text))]


def run_tokens(*words, input=None, cwd=ROOT, **environment):
    """Run the command in a process of its own, in any folder."""
    return run_python("-m", "folio.tokens", *words, input=input, cwd=cwd,
                      env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment})


def parts(done):
    """Return the printed lines of tokens and lines of the report."""
    assert (done.returncode, done.stderr) == (0, "")
    seen, _, report = done.stdout.partition("\n\n")
    return seen.splitlines(), report.splitlines()


# --- What a token looks like ---

@pytest.mark.parametrize("token, visible", [
    (b" the", "·the"), (b"\t\tx", "→→x"), (b".\n\n", ".⏎⏎"), (b"\xe4", r"\xe4"), (b" \xf0\x9f", r"·\xf0\x9f"),
    (b"\xb8\xad", r"\xb8\xad"),
    ("中".encode(), "中"), (b"\r\n", r"\r⏎"), (b"\x1b[2J\x07", r"\x1b[2J\x07"), ("\u202eabc".encode(), r"\u202eabc"),
    ("\u0301".encode(), "◌\u0301"), ("\u200d".encode(), "◌\u200d"), ("e\u0301".encode(), "e\u0301"),
])
def test_every_byte_of_a_token_is_visible(token, visible):
    assert shown(token) == visible


@given(st.binary(min_size=1))
def test_no_token_controls_the_terminal(token):
    assert not [character for character in shown(token)
                if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") or character in "\u202e\u2066 "]
    assert columns(shown(token)) > 0


# --- Tokens side by side ---

@given(TEXTS, st.integers(20, 60))
@example("中" * 30, 21)
def test_without_colors_a_bar_stands_between_two_tokens(text, width):
    lines = [line for line, _ in tokens.flow(TOKENIZER, [(text, True)], width, colored=False)]
    assert "".join(lines) == "|".join(shown_tokens(TOKENIZER, text))
    assert all(0 < columns(line) <= width for line in lines)


@given(TEXTS, st.integers(20, 60))
def test_with_colors_neighbors_differ(text, width):
    lines = [line for line, _ in tokens.flow(TOKENIZER, [(text, True)], width, colored=True)]
    expected = shown_tokens(TOKENIZER, text)
    runs = regex.findall(r"\x1b\[48;5;(\d+)m(.*?)\x1b\[0m", "".join(lines))
    seen = []                                               # (background, text); a token may go on in the next line
    for background, run in runs:
        run = ESCAPES.sub("", run)
        if seen and seen[-1][0] == background and seen[-1][1] != expected[len(seen) - 1]:
            run = seen.pop()[1] + run
        seen.append((background, run))
    assert [run for _, run in seen] == expected
    assert all(one != other for (one, _), (other, _) in pairwise(seen))
    assert all(columns(ESCAPES.sub("", line)) <= width and line.endswith("\x1b[0m") for line in lines)
    assert "".join(ESCAPES.sub("", line) for line in lines) == "".join(expected)        # no escape sequence but ours


def test_a_line_of_the_text_starts_a_new_line():
    tokenizer = BPETokenizer([(46, 10), (256, 10)])                                      # ".\n", ".\n\n"
    lines = [line for line, _ in tokens.flow(tokenizer, [("a.\n\nb\n\nc", True)], 80, colored=False)]
    assert lines == ["a|.⏎", "⏎|", "b|⏎|", "⏎|", "c"]


def test_a_token_that_does_not_fit_moves_to_the_next_line_whole():
    tokenizer = BPETokenizer.train(["wonderful " * 9], 270)
    lines = [line for line, _ in tokens.flow(tokenizer, [("wonderful" + " wonderful" * 3, True)], 25, colored=False)]
    assert lines == ["wonderful|·wonderful|", "·wonderful|·wonderful"]


@given(TEXTS, st.booleans())
def test_each_line_has_the_number_of_bytes_up_to_its_end(text, with_ids):
    view = tokens.rows_with_ids if with_ids else tokens.flow
    sizes = [0] + [size for _, size in view(TOKENIZER, [(text, True)], 20, False)]
    assert sizes == sorted(sizes) and sizes[-1] == len(to_bytes(text))
    ends, end = {0}, 0
    for token in TOKENIZER.encode_bytes(to_bytes(text)):
        end += len(TOKENIZER.token_bytes[token])
        ends.add(end)
    assert set(sizes) <= ends


@given(TEXTS)
def test_an_id_stands_below_its_token(text):
    lines = [line for line, _ in tokens.rows_with_ids(TOKENIZER, [(text, True)], 40, colored=False)]
    found = []
    for top, below in zip(lines[::2], lines[1::2]):
        assert columns(top) <= 40 and len(below) <= 40
        # One character per column: a wide one is followed by NUL, a combining one is left out.
        cells = "".join(character + "\0" * (columns(character) - 1) if columns(character) else ""
                        for character in top)
        starts = [match.start() for match in regex.finditer(r"\d+", below)]
        for start, stop in zip(starts, [*starts[1:], None]):
            found.append((cells[start:stop].rstrip(" ").replace("\0", ""), int(below[start:stop])))
    drawn = ["".join(character for character in token if columns(character))
             for token in shown_tokens(TOKENIZER, text)]
    assert found == list(zip(drawn, TOKENIZER.encode_bytes(to_bytes(text))))


def test_a_token_of_several_lines_counts_at_the_last_of_them():
    tokenizer = BPETokenizer([(46, 10), (256, 10)])
    assert list(tokens.flow(tokenizer, [("a.\n\nb", True)], 80, colored=False)) == [("a|.⏎", 1), ("⏎|", 4), ("b", 5)]


def test_the_separator_between_documents_is_shown_and_has_no_bytes():
    chunks = [("one", False), (" two", True), ("three\n", True), ("four", True)]
    lines = [line for line, _ in tokens.flow(BPETokenizer([]), chunks, 80, colored=False)]
    assert lines == ["o|n|e|·|t|w|o|<|endoftext|>|", "t|h|r|e|e|⏎|", "<|endoftext|>|", "f|o|u|r"]
    assert list(tokens.flow(BPETokenizer([]), chunks, 80, colored=False))[-1][1] == len("one twothree\nfour")
    assert "endoftext" not in str(list(tokens.flow(CharTokenizer("onetwhrfu \n"), chunks, 80, colored=False)))


# --- The report ---

@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_report_is_aligned_and_fits(width, plays):
    tokenizer = load(ROOT / "tokenizer_save")
    lines = tokens.report(tokenizer, take_census(tokenizer, [(plays + MIXED, True)]), width)
    assert all(columns(line) <= width for line in lines)
    by_script = lines[lines.index("") + 1:]
    by_script = by_script[:by_script.index("")]
    assert len({len(line) for line in by_script}) == 1 and by_script[1].startswith("Latin  ")


def test_the_report_of_a_short_text():
    tokenizer = BPETokenizer([(116, 104)])          # t + h
    lines = tokens.report(tokenizer, take_census(tokenizer, [("the the 42", True)]), 80)
    assert lines == """\
bytes               10
characters          10
tokens               8
bytes per token   1.25
vocabulary         258
of it used       1.9 %

by script    tokens   share  bytes each
Latin             4  50.0 %        1.50
digits            2  25.0 %        1.00
white space       2  25.0 %        1.00

longest tokens  times   id
th                  2  256
·                   2   32
e                   2  101
2                   1   50
4                   1   52

costly words  times  tokens  in pieces
·the              1       3  ·|th|e
the               1       2  th|e""".splitlines()


# --- The command ---

def test_a_text_is_shown_and_reported_on():
    lines, report = parts(run_tokens("To be, or not to be"))
    assert "".join(lines) == "|".join(shown_tokens(load(ROOT / "tokenizer_save"), "To be, or not to be"))
    assert report[0].split() == ["bytes", "19"]


def test_the_example_in_the_docs_is_what_is_printed():
    example = next(block
                   for block in regex.findall(r"```text\n(.*?)```",
                                              (ROOT / "docs" / "tokenizer.md").read_text(encoding="utf-8"),
                                              regex.DOTALL)
                   if "folio.tokens" in block.splitlines()[0])
    command, output = example.removesuffix("...\n").split("\n", 1)
    words = shlex.split(command.removeprefix("$ python -m folio.tokens"))
    assert run_tokens(*words).stdout.startswith(output)


def test_the_default_home_is_the_repository_in_any_folder(tmp_path):
    assert run_tokens("or not", cwd=tmp_path).stdout == run_tokens("or not", "--home", ROOT).stdout != ""
    missing = refusal(run_tokens("or not", "--home", tmp_path))
    assert str(tmp_path) in missing and "python init.py" in missing


def test_a_usage_error_names_the_command_as_it_is_called():
    assert refusal(run_tokens("or", "--idz"), code=2) == \
        "folio.tokens: unknown flag --idz; did you mean --ids?\n(python -m folio.tokens --help lists what there is)\n"


@pytest.mark.parametrize("only, shows", [("tokens", (True, False)), ("report", (False, True))])
def test_each_part_can_be_printed_alone(only, shows):
    out = run_tokens("To be", "--only", only).stdout
    assert ("·be" in out.splitlines()[0], "by script" in out) == shows


def test_every_byte_of_a_file_is_read(tmp_path):
    path = tmp_path / "a file"
    path.write_bytes(b"caf\xe9 \x00 " + "中".encode())
    lines, report = parts(run_tokens(path))
    assert "".join(lines) == "|".join(shown_tokens(load(ROOT / "tokenizer_save"), "caf\udce9 \0 中"))
    assert report[:2] == ["bytes               10", "characters           8"]


@pytest.mark.parametrize("name, content", [
    ("book.txt.gz", gzip.compress(b"or not", mtime=0)), ("lines.jsonl", json.dumps({"text": "or not"}).encode()),
    ("folder/a.md", b"or not"),
])
def test_all_formats_of_init_are_read(name, content, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    assert run_tokens(name.split("/")[0], cwd=tmp_path).stdout == run_tokens("or not").stdout


def test_a_file_in_another_encoding_and_a_table_with_a_template_are_read(tmp_path):
    (tmp_path / "old.txt").write_bytes("Ärger".encode("windows-1252"))
    (tmp_path / "pumps.csv").write_text("tag,duty\nP-101,15\n", encoding="utf-8")
    for name, flags, expected in (("old.txt", ["--encoding", "windows-1252"], r"\xc3\x84rger"),
                                  ("pumps.csv", ["--template", "{tag}: {duty} kW"], "P-101: 15 kW")):
        done = run_tokens(tmp_path / name, "--only", "tokens", *flags)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert done.stdout.replace("|", "").replace("·", " ").strip() == expected


def test_standard_input_is_read():
    assert run_tokens("-", input="or\nnot").stdout == run_tokens("or\nnot").stdout
    assert "The text is empty" in refusal(run_tokens("-", input=""))


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no pipes with names here")
def test_a_named_pipe_is_read():
    assert run_tokens("/dev/stdin", input="or\nnot").stdout == run_tokens("or\nnot").stdout


def test_mended_bytes_of_the_whole_file_are_reported(tmp_path):
    lines = 800_000                                         # more than is read at a time
    (tmp_path / "long.txt").write_bytes(b"a\r\n" * lines)
    _, report = parts(run_tokens("long.txt", cwd=tmp_path))
    assert report[:2] == [f"Mended while reading: {lines:,} x CRLF.", f"bytes            {2 * lines:,}"]


def test_a_long_text_is_cut_and_the_rest_is_counted():
    text = "or not\n" * 100
    seen, _ = parts(run_tokens(text))
    assert len(seen) == 61 and seen[-1] == "... 280 bytes more (--lines 0: all)"
    assert run_tokens(text, "--only", "tokens").stdout.splitlines() == seen
    assert len(parts(run_tokens(text, "--lines", 3))[0]) == 4
    assert parts(run_tokens(text, "--lines", 0))[0] == [seen[0]] * 99 + [seen[0].removesuffix("|")]


def test_ids_are_those_of_the_tokenizer():
    seen, _ = parts(run_tokens("To be", "--ids"))
    assert [int(token) for token in seen[1].split()] == load(ROOT / "tokenizer_save").encode("To be")


@pytest.mark.parametrize("name", ["novle.txt", "notes/May", "Train_Data/inptu.txt"])
def test_a_missing_path_is_not_taken_for_a_text(name, tmp_path):
    (tmp_path / "novel.txt").write_text("or not", encoding="utf-8")
    said = refusal(run_tokens(name, cwd=tmp_path))
    assert said.startswith(f"There is no {name}") and said.endswith(f"--text {name}\n")
    assert ("did you mean novel.txt?" in said) == (name == "novle.txt")


@pytest.mark.parametrize("text", ["novel.txt", "and/or", "--help", "-"])
def test_any_argument_can_be_passed_as_text(text):
    lines = run_tokens("--text", text, "--only", "tokens").stdout.splitlines()
    assert "".join(lines) == "|".join(shown_tokens(load(ROOT / "tokenizer_save"), text))


@pytest.mark.parametrize("words, said", [
    ([], "pass a text or a file, or -"), (["a", "--text", "b"], "once"),
    (["a", "--lines", "-1"], "--lines: -1 is below"),
    (["a", "--only", "colors"], "colors"),
])
def test_wrong_usage_is_refused_with_exit_code_2(words, said):
    assert said in refusal(run_tokens(*words), code=2)


def test_an_empty_text_is_refused():
    assert "The text is empty" in refusal(run_tokens(""))
    assert "The text is empty" in refusal(run_tokens("", "--only", "tokens"))


def test_a_character_tokenizer_works_and_names_unknown_characters(home):
    project = home("To be, or not to be.\n" * 40)
    open_corpus(project, TextParams(tokenizer="char"))
    lines, report = parts(run_tokens("not to be", "--home", project.folder))
    assert lines == ["n|o|t|·|t|o|·|b|e"]
    assert "bytes per token    1.00" in report and "costly" not in "\n".join(report)
    said = refusal(run_tokens("not to be?", "--home", project.folder))
    assert "'?' (U+003F)" in said and said.count("\n") == 1


# --- Colors ---

def on_a_terminal(*words, **environment):
    """Return what the command writes to a terminal."""
    pty = pytest.importorskip("pty")
    environment = {name: value for name, value in os.environ.items()
                   if name != "NO_COLOR"} | {"TERM": "xterm-256color"} | environment
    here, there = pty.openpty()
    done = subprocess.Popen([sys.executable, "-m", "folio.tokens", *words], cwd=ROOT, stdin=there, stdout=there,
                            stderr=there,
                            env=environment)
    os.close(there)
    written = b""
    try:
        while block := os.read(here, 1 << 16):
            written += block
    except OSError:                     # Linux raises it when the other end is closed
        pass
    os.close(here)
    assert done.wait() == 0
    return written.decode("utf-8")


def test_on_a_terminal_tokens_have_colors_and_no_bars():
    written = on_a_terminal("To be", "--only", "tokens")
    assert "\x1b[48;5;" in written and "|" not in written and ESCAPES.sub("", written) == "To·be\r\n"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_where_colors_are_off_bars_separate_tokens(environment):
    assert on_a_terminal("To be", **environment) == run_tokens("To be").stdout.replace("\n", "\r\n")


def test_a_text_cannot_control_the_terminal():
    assert "\x1b" not in run_tokens("red \x1b[31m\x07").stdout
    assert ESCAPES.sub("", on_a_terminal("red \x1b[31m\x07", "--only", "tokens")) == "red·\\x1b[31m\\x07\r\n"
