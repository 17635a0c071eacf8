"""What the terminal shows: lines between words at any width, whatever the pieces, and nothing but the text."""

import io
import os
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from folio.base import lines as folio_lines
from folio.base.lines import WordWrap, columns, terminal_width
from folio.base.visible import harmless
from folio.cli.screen import BOLD, Output

SPACES = " \u3000"
LETTERS = st.one_of(st.sampled_from("aab   -.é中。「」ー👍🏽\u0301\u200d\u3000\u00a0"),
                    st.characters(codec="utf-8", exclude_characters="\n\t"))
LINES = st.text(LETTERS, max_size=60).map(harmless)
WIDTHS = st.integers(1, 30)


def wrapped(text, width):
    wrap = WordWrap(width)
    return wrap.add(text) + wrap.end()


def breaks(text, width):
    """Wrap a line of text. -> its rows, and for each break between them: the place in the text where the next row
    begins, the spaces left out there
    """
    rows, place, found = wrapped(text, width).split("\n"), 0, []
    for row in rows:
        assert text.startswith(row, place), "what is shown is the text"
        place += len(row)
        rare = "\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2008\u2009\u200a\u205f"
        blank = len(text) - place - len(text[place:].lstrip(SPACES + rare))
        found.append((place + blank, text[place:place + blank]))
        place += blank
    assert place == len(text), "all of it"
    return rows, found[:-1]


@given(LINES, WIDTHS)
@example("Take your hands off", 4)
@example("中文中文。", 4)
def test_the_rows_are_the_text_and_no_row_is_wider_than_the_terminal(text, width):
    rows, _ = breaks(text, width)
    assert all(columns(row) <= width or columns(row) == 2 and width == 1 for row in rows)


@given(LINES, WIDTHS)
def test_nothing_that_fits_is_broken_and_no_line_ends_before_it_has_to(text, width):
    rows, found = breaks(text, width)
    for row, (place, left_out) in zip(rows, found):
        word = re.match(rf"[^{SPACES}]*", text[place:])[0]
        assert columns(row + left_out + word) > width
        before = re.search(rf"[^{SPACES}]*$", text[:place])[0] if not left_out else ""
        if before and (before + word).isascii():                 # inside a word: only where no line could hold it
            assert columns(before + word) > width and columns(row) == width


@given(st.text(st.one_of(LETTERS, st.sampled_from("\n\t")), max_size=60).map(harmless), WIDTHS, st.data())
def test_the_rows_do_not_depend_on_the_pieces_that_a_text_comes_in(text, width, data):
    wrap, shown, left = WordWrap(width), "", text
    while left:
        size = data.draw(st.integers(1, len(left)))
        shown, left = shown + wrap.add(left[:size]), left[size:]
    assert shown + wrap.end() == wrapped(text, width)


@given(LINES, LINES, WIDTHS)
def test_a_line_of_the_text_begins_a_row(first, second, width):
    assert wrapped(first + "\n" + second, width) == wrapped(first, width) + "\n" + wrapped(second, width)


@pytest.mark.parametrize("text, width, rows", [
    ("one two three", 7, ["one two", "three"]), ("one two   three", 7, ["one two", "three"]),
    ("  indented", 20, ["  indented"]),
    ("incomprehensibility of it", 10, ["incomprehe", "nsibility ", "of it"]),
    ("an incomprehensible", 10, ["an ", "incomprehe", "nsible"]),
    ("他说：「你好。」", 8, ["他说：", "「你", "好。」"]),
    ("他说你好啊", 4, ["他说", "你好", "啊"]), ("abc中文", 4, ["abc", "中文"]),
    ("👍🏽👍🏽", 4, ["👍🏽", "👍🏽"]), ("中\u0301a", 2, ["中\u0301", "a"]), ("ne\u0301e\u0301", 3, ["ne\u0301e\u0301"]),
    ("Ça va\u00a0? Oui", 6, ["Ça ", "va\u00a0? ", "Oui"]), ("a\tb", 20, ["a       b"])])
def test_lines_end_where_a_reader_expects_it(text, width, rows):
    assert wrapped(text, width).split("\n") == rows


def test_a_style_ends_with_its_line_and_parts_no_word():
    wrap = WordWrap(8)
    shown = wrap.add("Take the har", BOLD) + wrap.add("bour now") + wrap.end()
    assert shown == f"{BOLD}Take the\x1b[0m\n{BOLD}har\x1b[0mbour \nnow"


def test_a_word_is_shown_as_soon_as_its_place_is_certain():
    wrap = WordWrap(10)
    assert [wrap.add(piece) for piece in ("The", " har", "bour", "er", "s and", " ")] == ["", "The ", "\nharbour",
                                                                                          "er", "s\nand", " "]


# --- Messages ---

WORDS = st.text("ab中é", min_size=1, max_size=9)


@given(st.lists(WORDS, min_size=1), st.integers(10, 60), st.sampled_from(["", "advice    ", "   1:23  "]))
def test_a_wrapped_message_keeps_its_words_and_the_width(words, width, label):
    message = label + " ".join(words)
    lines = folio_lines.wrapped(message, width).split("\n")
    assert " ".join(lines).split() == message.split()
    longest = max(map(columns, [*words, label]))
    assert all(columns(line) <= max(width, len(label) + longest) for line in lines)
    if width >= len(label) + 24:
        assert all(columns(line) <= width and line.startswith(" " * len(label)) for line in lines[1:])


@pytest.mark.parametrize("command", [
    "python train.py --resume --name night --home 'my project'", "python -m folio.plot night --home=-x",
    "folio run --home /a/b", "tensorboard --logdir '/a folder/tensorboard'", "--steps 1600",
    "python -m pip install pypdf==7.1.1 cryptography==50.0.2", "'/a folder/bin/python' -m pip install a==1 b==2",
    "python init.py novel.txt notes/ --encoding windows-1252"])
@pytest.mark.parametrize("before", [0, 20, 30, 37])
def test_a_command_is_never_broken(command, before):
    assert command.partition(" night --home=-x")[0] in folio_lines.wrapped(f"{'x' * before} to go on: {command}", 40)


def test_what_fits_or_is_a_table_stays_as_it_is():
    table = "  a long row of a table, and wider than all\nshort,  with  blanks"
    assert folio_lines.wrapped(table, 30) == table and folio_lines.wrapped("x " * 100, None) == "x " * 100


def test_blanks_inside_a_wrapped_line_stay():
    assert folio_lines.wrapped("   1:23  step 4   training 2.4  validation 2.5", 40) == (
        "   1:23  step 4   training 2.4\n         validation 2.5")


def test_only_a_terminal_has_a_width(tmp_path):
    with open(tmp_path / "file", "w") as file:
        assert terminal_width(file) is None
    assert terminal_width(file) is None and terminal_width(io.StringIO()) is None


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_terminal_says_its_width():
    import fcntl
    import struct
    import termios
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    with open(theirs, "w") as stream:
        assert terminal_width(stream) == 60
        output = Output(stream, wraps=True, keep="\r")
        output.write("It is " + "very " * 20 + "long.")
        output.write("\n\r" + "y" * 70)
        output.flush()
        first, second = os.read(ours, 4096).decode().split("\n\r")
    os.close(ours)
    assert max(map(len, first.splitlines())) <= 60 and len(first.splitlines()) == 2 and second == "y" * 70
