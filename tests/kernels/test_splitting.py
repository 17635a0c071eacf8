"""Splitting in NumPy gives the pieces that the regular expressions give."""

import sys

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_tokenizer import SAMPLES

from folio.kernels import splitting
from folio.kernels.splitting import SPLIT_PATTERNS, distinct_pretokens

PATTERNS = sorted(SPLIT_PATTERNS)
# What the rules are about: letters of contractions in both cases and one that only looks like s, every kind of white space, signs,
# numbers, marks, what is long in UTF-8, NUL, and a byte that is no text.
ALPHABET = "''sStTrReEvVlLmMdD" + "ſaé字😀\u0301" + "  \t\n\r\x85\x1c\xa0\u3000" + ";(!" + "1२Ⅷ" + "\0\udc80"


@pytest.fixture(scope="module", autouse=True)
def arrays_for_short_texts_too():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "LONG_TEXT", 0)
        yield


def pieces_in_arrays(text, pattern):
    pieces, numbers, ends = distinct_pretokens([text], pattern)
    assert ends.tolist() == [len(numbers)]
    assert len(set(pieces)) == len(pieces) == len(set(numbers.tolist())), "each distinct piece once, and none that is not there"
    return [pieces[number] for number in numbers]


def pieces_by_regex(text, pattern):
    return [piece.encode("utf-8", errors="surrogateescape") for piece in regex.findall(SPLIT_PATTERNS[pattern], text)]


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=1500)
@given(text=st.text(ALPHABET, max_size=30))
@example(text=";\n\n  \n x")
@example(text="\n \t\n\n  '\n 's'tb")
@example(text="")
def test_tricky_texts_are_split_as_the_regular_expression_splits_them(pattern, text):
    assert pieces_in_arrays(text, pattern) == pieces_by_regex(text, pattern)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("long_text", [0, 10_000], ids=["in arrays", "by regular expression"])
@settings(max_examples=500)
@given(texts=st.lists(st.text(ALPHABET, max_size=12), max_size=6))
@example(texts=["a\n", " \n", "  ", "'", "s", "", "(", "b"])
def test_texts_split_together_are_split_as_each_by_itself(pattern, long_text, texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "LONG_TEXT", long_text)
        pieces, numbers, ends = distinct_pretokens(texts, pattern)
    assert [[pieces[number] for number in part] for part in np.split(numbers, ends)[:-1]] == [pieces_by_regex(text, pattern) for text in texts]


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=300)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_split_as_the_regular_expression_splits_it(pattern, text):
    assert pieces_in_arrays(text, pattern) == pieces_by_regex(text, pattern)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_long_texts_are_split_as_the_regular_expression_splits_them(pattern, plays):
    for text in (plays, "".join(SAMPLES * 50), plays.encode("utf-16").decode("utf-8", errors="surrogateescape")):
        assert pieces_in_arrays(text, pattern) == pieces_by_regex(text, pattern)


def test_every_code_point_has_the_class_that_the_regular_expressions_see():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    for pattern, newline in ("qwen2", splitting.NEWLINE), ("gpt2", splitting.BLANK):
        classes = splitting._classes(pattern)[:-1] & 7        # but END
        seen = {"".join(every[code] for code in np.flatnonzero(classes == each)) for each in (splitting.LETTER, splitting.NUMBER)}
        assert seen == {"".join(regex.findall(members, every)) for members in (r"\p{L}", r"\p{N}")}
        assert {every[code] for code in np.flatnonzero(classes >= splitting.SPACE)} == set(regex.findall(r"\s", every))
        assert {classes[ord(blank)] for blank in "\r\n"} == {newline}


def test_pieces_whose_hashes_meet_stay_apart(monkeypatch, plays):
    monkeypatch.setattr(splitting, "SLOT_BITS", 3)         # thousands of pieces on eight seats
    assert pieces_in_arrays(plays[:30_000], "qwen2") == pieces_by_regex(plays[:30_000], "qwen2")


def test_half_a_surrogate_pair_is_refused_as_it_is_by_the_regular_expression_and_utf_8():
    with pytest.raises(UnicodeEncodeError):
        distinct_pretokens(["a\ud800b"], "qwen2")



@pytest.mark.parametrize("long_text", [0, 10_000])
def test_pieces_of_the_same_bytes_are_the_same_piece(monkeypatch, long_text):
    monkeypatch.setattr(splitting, "LONG_TEXT", long_text)
    pieces, numbers, _ = distinct_pretokens(["\u00e9", "\udcc3\udca9"], "qwen2")      # a letter, and its two bytes kept as they came
    assert pieces == [b"\xc3\xa9"] and numbers.tolist() == [0, 0]
