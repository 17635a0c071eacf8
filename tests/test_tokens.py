"""python -m folio.tokens: every token of a text can be seen, nothing commands the terminal, and the numbers are those of a plain count."""

import gzip
import json
import os
import shlex
import subprocess
import sys
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from conftest import ROOT, refusal, run_python
from hypothesis import example, given
from hypothesis import strategies as st

from folio import tokens
from folio.data.corpus import prepare
from Model_Params import TextParams
from tokenizer import BPETokenizer, CharTokenizer, count_pieces, load

MIXED = "The quays, the quays! Там 42 дома; 中文 ひらがな naïve 😀 न\u093fन\u094d \u0e04\u0e33\n\n  Ende.\n" * 2
TOKENIZER = BPETokenizer.train([MIXED * 3, "the theme of them, там"], 300)
CHARACTERS = CharTokenizer.train([MIXED])
AWKWARD = ["the", " quays", "дома", "中", "न\u093f", "\n", " ", "\x1b[31m", "\udce4", "a\u0301", "·|⏎"]
NO_BYTE = regex.compile(r"[\ud800-\udc7f\udd00-\udfff]")       # halves of surrogate pairs, but for those that stand for undecodable bytes
TEXTS = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(AWKWARD))).map("".join).filter(lambda text: not NO_BYTE.search(text))
COLOURS = regex.compile(r"\x1b\[[0-9;]*m")


def to_bytes(text):
    return text.encode("utf-8", errors="surrogateescape")


def shown_tokens(tokenizer, text):
    return [tokens.shown(tokenizer.token_bytes[token]) for token in tokenizer.encode_bytes(to_bytes(text))]


def run_tokens(*words, input=None, cwd=ROOT, **environment):
    """Run it as a user does, from any folder."""
    return run_python("-m", "folio.tokens", *words, input=input, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment})


def parts(done):
    """What was printed, as the lines of tokens and the lines of the report."""
    assert (done.returncode, done.stderr) == (0, "")
    seen, _, report = done.stdout.partition("\n\n")
    return seen.splitlines(), report.splitlines()


# --- What a token looks like ---

@pytest.mark.parametrize("token, shown", [
    (b" the", "·the"), (b"\t\tx", "→→x"), (b".\n\n", ".⏎⏎"), (b"\xe4", r"\xe4"), (b" \xf0\x9f", r"·\xf0\x9f"), (b"\xb8\xad", r"\xb8\xad"),
    ("中".encode(), "中"), (b"\r\n", r"\r⏎"), (b"\x1b[2J\x07", r"\x1b[2J\x07"), ("\u202eabc".encode(), r"\u202eabc"),
    ("\u0301".encode(), "◌\u0301"), ("\u200d".encode(), "◌\u200d"), ("e\u0301".encode(), "e\u0301"),
])
def test_a_token_is_shown_so_that_all_of_it_can_be_seen(token, shown):
    assert tokens.shown(token) == shown


@given(st.binary(min_size=1))
def test_nothing_in_a_token_commands_the_terminal(token):
    assert not [each for each in tokens.shown(token) if unicodedata.category(each) in ("Cc", "Zl", "Zp", "Cs") or each in "\u202e\u2066 "]
    assert tokens.columns(tokens.shown(token)) > 0


# --- Tokens side by side ---

@given(TEXTS, st.integers(20, 60))
@example("中" * 30, 21)
def test_without_colours_a_bar_stands_between_two_tokens(text, width):
    lines = [line for line, _ in tokens.flow(TOKENIZER, [(text, True)], width, coloured=False)]
    assert "".join(lines) == "|".join(shown_tokens(TOKENIZER, text))
    assert all(0 < tokens.columns(line) <= width for line in lines)


@given(TEXTS, st.integers(20, 60))
def test_with_colours_two_neighbours_differ(text, width):
    lines = [line for line, _ in tokens.flow(TOKENIZER, [(text, True)], width, coloured=True)]
    expected = shown_tokens(TOKENIZER, text)
    runs = regex.findall(r"\x1b\[48;5;(\d+)m(.*?)\x1b\[0m", "".join(lines))
    seen = []                                               # (background, text); a token may go on in the next line
    for background, run in runs:
        run = COLOURS.sub("", run)
        if seen and seen[-1][0] == background and seen[-1][1] != expected[len(seen) - 1]:
            run = seen.pop()[1] + run
        seen.append((background, run))
    assert [run for _, run in seen] == expected
    assert all(one != other for (one, _), (other, _) in pairwise(seen))
    assert all(tokens.columns(COLOURS.sub("", line)) <= width and line.endswith("\x1b[0m") for line in lines)
    assert "".join(COLOURS.sub("", line) for line in lines) == "".join(expected)        # no escape sequence but ours


def test_a_line_of_the_text_begins_a_line():
    tokenizer = BPETokenizer([(46, 10), (256, 10)])                                      # ".\n", ".\n\n"
    assert [line for line, _ in tokens.flow(tokenizer, [("a.\n\nb\n\nc", True)], 80, coloured=False)] == ["a|.⏎", "⏎|", "b|⏎|", "⏎|", "c"]


def test_a_token_that_fits_no_more_goes_to_the_next_line_whole():
    tokenizer = BPETokenizer.train(["wonderful " * 9], 270)
    lines = [line for line, _ in tokens.flow(tokenizer, [("wonderful" + " wonderful" * 3, True)], 25, coloured=False)]
    assert lines == ["wonderful|·wonderful|", "·wonderful|·wonderful"]


@given(TEXTS, st.booleans())
def test_each_line_comes_with_the_bytes_whose_tokens_have_ended(text, with_ids):
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
    lines = [line for line, _ in tokens.rows_with_ids(TOKENIZER, [(text, True)], 40, coloured=False)]
    found = []
    for top, below in zip(lines[::2], lines[1::2]):
        assert tokens.columns(top) <= 40 and len(below) <= 40
        cells = "".join(character + "\0" * (tokens.columns(character) - 1) if tokens.columns(character) else "" for character in top)   # one a column
        starts = [match.start() for match in regex.finditer(r"\d+", below)]
        for start, stop in zip(starts, [*starts[1:], None]):
            found.append((cells[start:stop].rstrip(" ").replace("\0", ""), int(below[start:stop])))
    drawn = ["".join(character for character in each if tokens.columns(character)) for each in shown_tokens(TOKENIZER, text)]
    assert found == list(zip(drawn, TOKENIZER.encode_bytes(to_bytes(text))))


def test_a_token_of_several_lines_has_ended_with_the_last_of_them():
    tokenizer = BPETokenizer([(46, 10), (256, 10)])
    assert list(tokens.flow(tokenizer, [("a.\n\nb", True)], 80, coloured=False)) == [("a|.⏎", 1), ("⏎|", 4), ("b", 5)]


def test_between_documents_stands_the_separator_without_bytes_of_its_own():
    chunks = [("one", False), (" two", True), ("three\n", True), ("four", True)]
    shown = [line for line, _ in tokens.flow(BPETokenizer([]), chunks, 80, coloured=False)]
    assert shown == ["o|n|e|·|t|w|o|<|endoftext|>|", "t|h|r|e|e|⏎|", "<|endoftext|>|", "f|o|u|r"]
    assert list(tokens.flow(BPETokenizer([]), chunks, 80, coloured=False))[-1][1] == len("one twothree\nfour")
    assert "endoftext" not in str(list(tokens.flow(CharTokenizer("onetwhrfu \n"), chunks, 80, coloured=False)))


# --- Numbers ---

def kind_of_character(character):
    """The same as `kinds_of_tokens` goes by, said slowly; "other" too for a byte that is no text."""
    if regex.fullmatch(r"[\p{L}\p{M}]", character):
        return next((kind for script, kind in tokens.SCRIPTS.items() if regex.fullmatch(rf"\p{{scx={script}}}", character)), "other letters")
    for kind, pattern in (("digits", r"\p{N}"), ("punctuation", r"\p{P}|\p{S}"), ("white space", r"\s")):
        if regex.fullmatch(pattern, character):
            return kind
    return "other"


def kinds_said_slowly(tokenizer, text):
    owners = [character for character in text for _ in to_bytes(character)]         # of each byte its character
    kinds, position = [], 0
    for token in tokenizer.encode_bytes(to_bytes(text)):
        end = position + len(tokenizer.token_bytes[token])
        inside = [kind_of_character(character) for character in owners[position:end]]
        letters = [kind for kind in inside if tokens.KINDS.index(kind) <= tokens.KINDS.index("other letters")]
        kinds.append(letters[0] if letters else min(inside, key=tokens.KINDS.index))
        position = end
    return kinds


@given(st.one_of(TEXTS, st.lists(st.sampled_from("aßДаλمـ\u064eאनि一あアー한ա\u0301٤9,·😀 \u200d\t\n\udcff")).map("".join)))
@example(MIXED)
def test_the_census_is_what_a_plain_count_says(text):
    ids = TOKENIZER.encode_bytes(to_bytes(text))
    census = tokens.take_census(TOKENIZER, [(text, True)])
    kinds = kinds_said_slowly(TOKENIZER, text)
    assert (census.bytes, census.characters, census.tokens) == (len(to_bytes(text)), len(text), len(ids))
    assert {token: times for token, times in enumerate(census.uses.tolist()) if times} == Counter(ids)
    assert dict(zip(tokens.KINDS, census.kind_tokens.tolist())) == {kind: kinds.count(kind) for kind in tokens.KINDS}
    sizes = Counter()
    for kind, token in zip(kinds, ids):
        sizes[kind] += len(TOKENIZER.token_bytes[token])
    assert dict(zip(tokens.KINDS, census.kind_bytes.tolist())) == {kind: sizes[kind] for kind in tokens.KINDS}
    assert census.pieces == count_pieces([text], TOKENIZER.pattern)


@pytest.mark.parametrize("text, kind", [
    ("Straße", "Latin"), ("Дом", "Cyrillic"), ("λόγος", "Greek"), ("سَلـام", "Arabic"), ("שלום", "Hebrew"), ("नमस्ते", "Devanagari"), ("ไทย", "Thai"),
    ("中文", "Han"), ("ラーメン", "kana"), ("한국어", "Hangul"), ("Հայ", "other letters"), ("4٤४", "digits"), ("«—€😀", "punctuation"),
    (" \n\t", "white space"), ("\0\u200d", "other"), ("\udcff\udce4", "other"),
])
def test_every_byte_of_a_character_is_of_its_kind(text, kind):
    bytes_only = BPETokenizer([])
    census = tokens.take_census(bytes_only, [(text, True)])
    assert dict(zip(tokens.KINDS, census.kind_bytes.tolist()))[kind] == census.bytes == census.tokens


@pytest.mark.parametrize("token, kind", [
    ("Дa", "Cyrillic"), ("aД", "Latin"), (" 中a", "Han"), ("(հa", "other letters"), (".\n", "punctuation"), (" 2", "digits"),
])
def test_a_token_is_what_its_first_letter_is(token, kind):
    assert tokens.KINDS[tokens.kinds_of_tokens(token, [len(token.encode())])[0]] == kind


def test_it_does_not_matter_how_a_text_comes_in_chunks():
    words = MIXED.split(" ")
    chunks = [(" " * (number > 0) + word, False) for number, word in enumerate(words)]
    chunked, whole = (tokens.take_census(TOKENIZER, each) for each in (chunks, [(MIXED, True)]))
    for field in ("uses", "kind_tokens", "kind_bytes"):
        assert getattr(chunked, field).tolist() == getattr(whole, field).tolist()
    assert (chunked.bytes, chunked.characters) == (whole.bytes, whole.characters)


@given(st.dictionaries(st.sampled_from(["the", " theme", "там", " дома", "42", "naïve", "zz", " \n"]), st.integers(1, 50)), st.integers(1, 4))
def test_the_costliest_words_are_those_of_all_words(counted, most):
    pieces = {to_bytes(piece): times for piece, times in counted.items()}
    words = [(piece, times, TOKENIZER.encode_bytes(piece)) for piece, times in pieces.items() if regex.search(r"\p{L}", piece.decode())]
    expected = sorted([word for word in words if len(word[2]) > 1], key=lambda word: (-(len(word[2]) - 1) * word[1], word[0]))
    assert tokens.most_fragmented(TOKENIZER, pieces, most) == expected[:most]


def test_the_longest_tokens_are_those_that_the_text_uses():
    tokenizer = BPETokenizer.train(["banana bandana " * 5], 265)
    ids = tokenizer.encode("banana banana ba")
    found = tokens.longest_tokens(tokenizer, tokens.take_census(tokenizer, [("banana banana ba", True)]).uses)
    assert {token for token, _ in found} == set(ids) and all(times == ids.count(token) for token, times in found)
    lengths = [len(tokenizer.token_bytes[token]) for token, _ in found]
    assert lengths == sorted(lengths, reverse=True)


# --- The report ---

@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_report_is_aligned_and_fits(width, plays):
    tokenizer = load(ROOT / "tokenizer_save")
    lines = tokens.report(tokenizer, tokens.take_census(tokenizer, [(plays + MIXED, True)]), width)
    assert all(tokens.columns(line) <= width for line in lines)
    by_script = lines[lines.index("") + 1:]
    by_script = by_script[:by_script.index("")]
    assert len({len(line) for line in by_script}) == 1 and by_script[1].startswith("Latin  ")


def test_the_report_says_the_numbers():
    tokenizer = BPETokenizer([(116, 104)])          # t + h
    lines = tokens.report(tokenizer, tokens.take_census(tokenizer, [("the the 42", True)]), 80)
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
    seen, report = parts(run_tokens("To be, or not to be"))
    assert "".join(seen) == "|".join(shown_tokens(load(ROOT / "tokenizer_save"), "To be, or not to be"))
    assert report[0].split() == ["bytes", "19"]


def test_the_example_in_the_docs_is_what_is_printed():
    example = next(block for block in regex.findall(r"```text\n(.*?)```", (ROOT / "docs" / "tokenizer.md").read_text(encoding="utf-8"), regex.DOTALL)
                   if "folio.tokens" in block.splitlines()[0])
    command, output = example.removesuffix("...\n").split("\n", 1)
    words = shlex.split(command.removeprefix("$ python -m folio.tokens"))
    assert run_tokens(*words).stdout.startswith(output)


def test_the_default_project_is_the_repository_wherever_it_is_called(tmp_path):
    assert run_tokens("or not", cwd=tmp_path).stdout == run_tokens("or not", "--home", ROOT).stdout != ""
    missing = refusal(run_tokens("or not", "--home", tmp_path))
    assert str(tmp_path) in missing and "python init.py" in missing


def test_a_usage_error_names_the_command_as_it_is_called():
    assert refusal(run_tokens("or", "--idz"), code=2) == \
        "folio.tokens: unknown flag --idz; did you mean --ids?\n(python -m folio.tokens --help lists what there is)\n"


@pytest.mark.parametrize("only, shows", [("tokens", (True, False)), ("report", (False, True))])
def test_one_part_can_be_had_alone(only, shows):
    out = run_tokens("To be", "--only", only).stdout
    assert ("·be" in out.splitlines()[0], "by script" in out) == shows


def test_a_file_is_read_with_every_byte_it_has(tmp_path):
    path = tmp_path / "a file"
    path.write_bytes(b"caf\xe9 \x00 " + "中".encode())
    seen, report = parts(run_tokens(path))
    assert "".join(seen) == "|".join(shown_tokens(load(ROOT / "tokenizer_save"), "caf\udce9 \0 中"))
    assert report[:2] == ["bytes               10", "characters           8"]


@pytest.mark.parametrize("name, content", [
    ("book.txt.gz", gzip.compress(b"or not", mtime=0)), ("lines.jsonl", json.dumps({"text": "or not"}).encode()), ("folder/a.md", b"or not"),
])
def test_whatever_init_reads_is_read(name, content, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    assert run_tokens(name.split("/")[0], cwd=tmp_path).stdout == run_tokens("or not").stdout


def test_standard_input_is_read():
    assert run_tokens("-", input="or\nnot").stdout == run_tokens("or\nnot").stdout
    assert "no text" in refusal(run_tokens("-", input=""))


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no pipes with names here")
def test_a_pipe_with_a_name_is_read():
    assert run_tokens("/dev/stdin", input="or\nnot").stdout == run_tokens("or\nnot").stdout


def test_what_was_mended_is_said_for_the_whole_file(tmp_path):
    lines = 800_000                                         # more than is read at a time
    (tmp_path / "long.txt").write_bytes(b"a\r\n" * lines)
    _, report = parts(run_tokens("long.txt", cwd=tmp_path))
    assert report[:2] == [f"Mended while reading: {lines:,} x CRLF.", f"bytes            {2 * lines:,}"]


def test_a_long_text_is_shown_in_part_and_it_says_how_much_more_there_is():
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
def test_what_looks_like_a_file_and_is_none_is_not_taken_for_a_text(name, tmp_path):
    (tmp_path / "novel.txt").write_text("or not", encoding="utf-8")
    said = refusal(run_tokens(name, cwd=tmp_path))
    assert said.startswith(f"There is no {name}") and said.endswith(f"--text {name}\n")
    assert ("did you mean novel.txt?" in said) == (name == "novle.txt")


@pytest.mark.parametrize("text", ["novel.txt", "and/or", "--help", "-"])
def test_any_words_can_be_given_as_text(text):
    assert "".join(run_tokens("--text", text, "--only", "tokens").stdout.splitlines()) == "|".join(shown_tokens(load(ROOT / "tokenizer_save"), text))


@pytest.mark.parametrize("words, said", [
    ([], "pass a text or a file, or -"), (["a", "--text", "b"], "once"), (["a", "--lines", "-1"], "--lines: -1 is below"),
    (["a", "--only", "colours"], "colours"),
])
def test_a_command_that_cannot_be_followed_is_refused_with_exit_code_2(words, said):
    assert said in refusal(run_tokens(*words), code=2)


def test_an_empty_text_has_no_tokens():
    assert "no text" in refusal(run_tokens("")) and "no text" in refusal(run_tokens("", "--only", "tokens"))


def test_a_character_tokenizer_works_too_and_names_what_it_does_not_know(home):
    project = home("To be, or not to be.\n" * 40)
    prepare(project, TextParams(tokenizer="char"))
    seen, report = parts(run_tokens("not to be", "--home", project.folder))
    assert seen == ["n|o|t|·|t|o|·|b|e"] and "bytes per token    1.00" in report and "costly" not in "\n".join(report)
    said = refusal(run_tokens("not to be?", "--home", project.folder))
    assert "'?' (U+003F)" in said and said.count("\n") == 1


# --- Colours ---

def on_a_terminal(*words, **environment):
    """What the command writes where a person looks."""
    pty = pytest.importorskip("pty")
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"} | environment
    here, there = pty.openpty()
    done = subprocess.Popen([sys.executable, "-m", "folio.tokens", *words], cwd=ROOT, stdin=there, stdout=there, stderr=there,
                            env=environment)
    os.close(there)
    written = b""
    try:
        while block := os.read(here, 1 << 16):
            written += block
    except OSError:                     # Linux says so when nobody has the other end any more
        pass
    os.close(here)
    assert done.wait() == 0
    return written.decode("utf-8")


def test_on_a_terminal_tokens_have_colours_and_no_bars():
    written = on_a_terminal("To be", "--only", "tokens")
    assert "\x1b[48;5;" in written and "|" not in written and COLOURS.sub("", written) == "To·be\r\n"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_who_wants_no_colours_gets_bars(environment):
    assert on_a_terminal("To be", **environment) == run_tokens("To be").stdout.replace("\n", "\r\n")


def test_a_text_cannot_command_the_terminal():
    assert "\x1b" not in run_tokens("red \x1b[31m\x07").stdout
    assert COLOURS.sub("", on_a_terminal("red \x1b[31m\x07", "--only", "tokens")) == "red·\\x1b[31m\\x07\r\n"
