"""What the terminal shows: lines between words at any width, whatever the pieces, and nothing but the text."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from folio.base.lines import WordWrap, columns
from folio.base.visible import harmless
from folio.cli.screen import BOLD

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
