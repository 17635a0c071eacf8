"""Splitting in arrays gives the pre-tokens that the regular expressions give."""

import sys
from collections import Counter

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from folio.kernels import splitting
from folio.kernels.splitting import SPLIT_PATTERNS, PretokenCounter, count_pretokens, distinct_pretokens
from test_tokenizer import SAMPLES

PATTERNS = sorted(SPLIT_PATTERNS)
# What the rules distinguish: letters of contractions in both cases and one that only looks like s, every kind of white
# space, signs, numbers, marks, characters of several bytes, NUL, and an undecodable byte.
ALPHABET = "''sStTrReEvVlLmMdD" + "ſaé字😀\u0301" + "  \t\n\r\x85\x1c\xa0\u3000" + ";(!" + "1२Ⅷ" + "\0\udc80"


@pytest.fixture(scope="module", autouse=True)
def arrays_for_short_texts_too():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "LONG_TEXT", 0)
        yield


def split_in_arrays(text, pattern):
    pretokens, indices, ends = distinct_pretokens([text], pattern)
    assert ends.tolist() == [len(indices)]
    assert len(set(pretokens)) == len(pretokens), "each distinct pre-token once"
    assert set(indices.tolist()) == set(range(len(pretokens))), "no pre-token that does not occur"
    return [pretokens[index] for index in indices]


def split_by_regex(text, pattern):
    return [pretoken.encode("utf-8", errors="surrogateescape")
            for pretoken in regex.findall(SPLIT_PATTERNS[pattern], text)]


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=1000)
@given(text=st.text(ALPHABET, max_size=30))
@example(text=";\n\n  \n x")
@example(text="\n \t\n\n  '\n 's'tb")
@example(text="1234567  12\n345 67 8२34")
@example(text="")
def test_tricky_texts_are_split_as_the_regular_expression_splits_them(pattern, text):
    assert split_in_arrays(text, pattern) == split_by_regex(text, pattern)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("long_text", [0, 10_000], ids=["in arrays", "by regular expression"])
@settings(max_examples=300)
@given(texts=st.lists(st.text(ALPHABET, max_size=12), max_size=6))
@example(texts=["a\n", " \n", "  ", "'", "s", "", "(", "b"])
def test_texts_split_together_are_split_as_each_by_itself(pattern, long_text, texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "LONG_TEXT", long_text)
        pretokens, indices, ends = distinct_pretokens(texts, pattern)
    split = [[pretokens[index] for index in part] for part in np.split(indices, ends)[:-1]]
    assert split == [split_by_regex(text, pattern) for text in texts]


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=300)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_split_as_the_regular_expression_splits_it(pattern, text):
    assert split_in_arrays(text, pattern) == split_by_regex(text, pattern)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_long_texts_are_split_as_the_regular_expression_splits_them(pattern, plays):
    for text in (plays, "".join(SAMPLES * 50), plays.encode("utf-16").decode("utf-8", errors="surrogateescape")):
        assert split_in_arrays(text, pattern) == split_by_regex(text, pattern)


def test_every_code_point_has_the_class_that_the_regular_expressions_see():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    for pattern, rules in splitting.SPLIT_RULES.items():
        newline = splitting.NEWLINE if rules.is_cl100k else splitting.BLANK
        classes = splitting._classes(pattern)[:-1] & 7        # without END
        for value, expression in (splitting.LETTER, r"\p{L}"), (splitting.NUMBER, r"\p{N}"):
            assert [every[code] for code in np.flatnonzero(classes == value)] == regex.findall(expression, every)
        assert {every[code] for code in np.flatnonzero(classes >= splitting.SPACE)} == set(regex.findall(r"\s", every))
        assert {classes[ord(blank)] for blank in "\r\n"} == {newline}


def test_pretokens_with_the_same_hash_stay_distinct(monkeypatch, plays):
    monkeypatch.setattr(splitting, "SLOT_BITS", 3)         # thousands of pre-tokens in eight slots
    assert split_in_arrays(plays[:30_000], "qwen2") == split_by_regex(plays[:30_000], "qwen2")


def test_half_a_surrogate_pair_is_refused_as_it_is_by_the_regular_expression_and_utf_8():
    with pytest.raises(UnicodeEncodeError):
        distinct_pretokens(["a\ud800b"], "qwen2")


@pytest.mark.parametrize("long_text", [0, 10_000])
def test_pretokens_of_the_same_bytes_are_the_same(monkeypatch, long_text):
    monkeypatch.setattr(splitting, "LONG_TEXT", long_text)
    pretokens, indices, _ = distinct_pretokens(["\u00e9", "\udcc3\udca9"], "qwen2")      # a letter, and its two bytes
    assert pretokens == [b"\xc3\xa9"] and indices.tolist() == [0, 0]


def test_of_too_many_distinct_pretokens_the_rarest_are_dropped(monkeypatch):
    monkeypatch.setattr(splitting, "COUNTER_BYTES", 1000)
    often = " often" * 50 + " seldom seldom"
    rare = ["".join(map(chr, range(start, start + 90))) for start in range(0x4e00, 0x4e00 + 99 * 90, 90)]
    counts = count_pretokens([often, *rare, often])
    assert counts == Counter({pretoken: counts[pretoken] for pretoken in counts}) and counts[b" often"] == 100
    assert counts.size == sum(map(len, counts)) + len(counts) <= 1000
    in_parts = PretokenCounter()
    for word in [b"b", b"a", b"c", b"a"] + [b"x%d" % number for number in range(2000)]:
        in_parts.add({word: 1})
    assert in_parts.size <= 1000 and (in_parts[b"a"], in_parts[b"b"]) == (2, 1)     # of the rare ones the first stay
