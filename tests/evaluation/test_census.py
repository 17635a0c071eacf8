"""The census of a text equals a plain count, whatever script it is in and however it is cut into chunks."""

from collections import Counter

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from folio.evaluation.census import (
    KINDS,
    SCRIPTS,
    kinds_of_tokens,
    longest_tokens,
    most_fragmented,
    take_census,
)
from folio.kernels.splitting import count_pretokens
from test_tokens import MIXED, TEXTS, TOKENIZER, to_bytes
from tokenizer import BPETokenizer


def kind_of_character(character):
    """Return the kind of a character by one match per kind; "other" for a byte that is not UTF-8."""
    if regex.fullmatch(r"[\p{L}\p{M}]", character):
        return next((kind for script, kind in SCRIPTS.items()
                     if regex.fullmatch(rf"\p{{scx={script}}}", character)), "other letters")
    for kind, pattern in (("digits", r"\p{N}"), ("punctuation", r"\p{P}|\p{S}"), ("white space", r"\s")):
        if regex.fullmatch(pattern, character):
            return kind
    return "other"


def kinds_by_definition(tokenizer, text):
    """Return the kind of every token, one token after the other."""
    owners = [character for character in text for _ in to_bytes(character)]         # the character of each byte
    kinds, position = [], 0
    for token in tokenizer.encode_bytes(to_bytes(text)):
        end = position + len(tokenizer.token_bytes[token])
        inside = [kind_of_character(character) for character in owners[position:end]]
        letters = [kind for kind in inside if KINDS.index(kind) <= KINDS.index("other letters")]
        kinds.append(letters[0] if letters else min(inside, key=KINDS.index))
        position = end
    return kinds


ALL_KINDS = "াꝊ\u0f71aßДаλمـ\u064eאनि一あアー한ա\u0301٤9,·😀 \u200d\t\n\udcff"


@given(st.one_of(TEXTS, st.lists(st.sampled_from(ALL_KINDS)).map("".join)))
@example(MIXED)
def test_the_census_equals_a_plain_count(text):
    ids = TOKENIZER.encode_bytes(to_bytes(text))
    census = take_census(TOKENIZER, [(text, True)])
    kinds = kinds_by_definition(TOKENIZER, text)
    assert (census.bytes, census.characters, census.tokens) == (len(to_bytes(text)), len(text), len(ids))
    assert {token: times for token, times in enumerate(census.uses.tolist()) if times} == Counter(ids)
    assert dict(zip(KINDS, census.kind_tokens.tolist())) == {kind: kinds.count(kind) for kind in KINDS}
    sizes = Counter()
    for kind, token in zip(kinds, ids):
        sizes[kind] += len(TOKENIZER.token_bytes[token])
    assert dict(zip(KINDS, census.kind_bytes.tolist())) == {kind: sizes[kind] for kind in KINDS}
    assert census.pieces == count_pretokens([text], TOKENIZER.pattern)


@pytest.mark.parametrize("text, kind", [
    ("Straße", "Latin"), ("Дом", "Cyrillic"), ("λόγος", "Greek"), ("سَلـام", "Arabic"), ("שלום", "Hebrew"),
    ("नमस्ते", "Devanagari"), ("ไทย", "Thai"),
    ("中文", "Han"), ("ラーメン", "kana"), ("한국어", "Hangul"), ("Հայ", "Armenian"), ("বাংলা", "Bengali"),
    ("ኢትዮ", "Ethiopic"), ("𐌰𐌹", "Gothic"), ("ᠮᠣᠩ", "Mongolian"), ("µʻ", "other letters"), ("4٤४", "digits"),
    ("«—€😀", "punctuation"),
    (" \n\t", "white space"), ("\0\u200d", "other"), ("\udcff\udce4", "other"),
])
def test_every_byte_of_a_character_has_its_kind(text, kind):
    bytes_only = BPETokenizer([])
    census = take_census(bytes_only, [(text, True)])
    assert dict(zip(KINDS, census.kind_bytes.tolist()))[kind] == census.bytes == census.tokens


def test_every_letter_that_unicode_gives_to_a_script_is_named():
    inhabited = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x40000)]))
    letters = "".join(regex.findall(r"[[\p{L}\p{M}]--\p{scx=Common}--\p{scx=Inherited}]", inhabited, regex.V1))
    kinds = kinds_of_tokens(letters, [len(letter.encode()) for letter in letters])
    assert [letter for letter, kind in zip(letters, kinds) if KINDS[kind] == "other letters"] == []
    assert {KINDS[kind] for kind in kinds} == set(SCRIPTS.values()) and len(letters) > 140_000


@pytest.mark.parametrize("token, kind", [
    ("Дa", "Cyrillic"), ("aД", "Latin"), (" 中a", "Han"), ("(հa", "Armenian"), ("(µa", "other letters"),
    (".\n", "punctuation"), (" 2", "digits"),
])
def test_the_kind_of_a_token_is_that_of_its_first_letter(token, kind):
    assert KINDS[kinds_of_tokens(token, [len(token.encode())])[0]] == kind


def test_the_census_does_not_depend_on_the_chunks():
    words = MIXED.split(" ")
    chunks = [(" " * (number > 0) + word, False) for number, word in enumerate(words)]
    chunked, whole = (take_census(TOKENIZER, text) for text in (chunks, [(MIXED, True)]))
    for field in ("uses", "kind_tokens", "kind_bytes"):
        assert getattr(chunked, field).tolist() == getattr(whole, field).tolist()
    assert (chunked.bytes, chunked.characters) == (whole.bytes, whole.characters)


@given(st.dictionaries(st.sampled_from(["the", " theme", "там", " дома", "42", "naïve", "zz", " \n"]),
                       st.integers(1, 50)), st.integers(1, 4))
def test_the_most_fragmented_words_are_those_of_a_full_search(counted, limit):
    pieces = {to_bytes(piece): times for piece, times in counted.items()}
    words = [(piece, times, TOKENIZER.encode_bytes(piece)) for piece, times in pieces.items()
             if regex.search(r"\p{L}", piece.decode())]
    expected = sorted([word for word in words if len(word[2]) > 1],
                      key=lambda word: (-(len(word[2]) - 1) * word[1], word[0]))
    assert most_fragmented(TOKENIZER, pieces, limit) == expected[:limit]


def test_the_longest_tokens_all_occur_in_the_text():
    tokenizer = BPETokenizer.train(["banana bandana " * 5], 265)
    ids = tokenizer.encode("banana banana ba")
    found = longest_tokens(tokenizer, take_census(tokenizer, [("banana banana ba", True)]).uses)
    assert {token for token, _ in found} == set(ids) and all(times == ids.count(token) for token, times in found)
    lengths = [len(tokenizer.token_bytes[token]) for token, _ in found]
    assert lengths == sorted(lengths, reverse=True)
