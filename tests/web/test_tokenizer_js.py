"""tokenizer.js gives the ids of tokenizer.py, for any text, and the same text back."""

import random
import re
import sys
import unicodedata

import pytest
import regex

from conftest import ROOT
from folio.base.errors import FolioError
from folio.kernels.splitting import LONGEST_RUN, SPLIT_PATTERNS
from node_program import run_node
from tokenizer import BPETokenizer, CharTokenizer, StreamingDecoder, load

# What the patterns distinguish: contractions in both cases and a letter that only looks like s, every kind of white
# space and what only looks like it (U+001C, U+180E, U+200B, U+FEFF), signs, numbers, marks, characters of several
# bytes, NUL.
ALPHABET = [*"''sStTrReEvVlLmMdD", *"ſaé字😀\u0301𝒳", *"   \t\n\n\r\x0b\x0c\x85\x1c\x1f\xa0",
            *"\u3000\u1680\u2003\u2028\u202f\ufeff\u180e\u200b\u00ad", *";(!-", *"12२Ⅷ½",
            "\0", "\x7f", "the", " of", "ing", "<|endoftext|>",
            "<|im_end|>"]
NAMES = ["own", *SPLIT_PATTERNS, "char"]


@pytest.fixture(scope="module")
def tokenizers(plays):
    own = load(ROOT / "tokenizer_save")
    assert own.special_tokens
    sample = plays[:60_000] + "".join(ALPHABET) * 30
    return {"own": own, **{pattern: BPETokenizer.train([sample], 600, pattern) for pattern in SPLIT_PATTERNS},
            "char": CharTokenizer.train([sample], ["<|im_end|>", "<|endoftext|>"])}


@pytest.fixture(scope="module")
def texts(plays):
    some = random.Random(2)
    made = ["".join(some.choices(ALPHABET, k=some.randrange(40))) for _ in range(300)]
    assigned = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    made += ["".join(some.choices(assigned, k=some.randrange(60))) for _ in range(80)]
    made += [plays[start:start + some.randrange(400)] for start in some.sample(range(len(plays) - 400), 40)]
    return ["", "\ufeffa", *made, "aab" * 5000 + " " * 3000 + "'s" * 900, plays[:200_000]]


@pytest.fixture(scope="module")
def long_texts():
    """Texts with more characters than LONGEST_RUN without a place where it is safe to cut them."""
    parts = ["a" * 300_000, "𝒳" * (LONGEST_RUN + 7), " " * LONGEST_RUN + "b c", "x y" + "!" * LONGEST_RUN,
             "x y" + "é" * (LONGEST_RUN - 1) + "!", "x y" + "é" * LONGEST_RUN + "! z", "\n" * 600_000]
    return [*parts, "".join(parts)]


def values_of(tokenizer):
    return tokenizer.to_dict() | {"expression": SPLIT_PATTERNS.get(tokenizer.pattern)}


@pytest.fixture(scope="module")
def answers(tokenizers, texts, long_texts, tmp_path_factory):
    streams = {}
    some = random.Random(3)
    for name, tokenizer in tokenizers.items():
        streams[name] = [(some.choices(range(tokenizer.vocab_size), k=some.randrange(30)), some.randrange(6))
                         for _ in range(200)]
        if name != "char":              # bytes that are mostly no UTF-8
            pieces = list(b"\xed\xa0\xf0\x9f\x98\x80\xe2\x82\xac\xc3\xa9A\xf4\x90\xe0\xef\xbb\xbf")
            streams[name] += [(some.choices(pieces, k=some.randrange(20)), 0) for _ in range(300)]
    cases = {"tokenizers": {name: values_of(tokenizer) for name, tokenizer in tokenizers.items()},
             "texts": texts, "long": long_texts, "streams": streams,
             "wrong": ["ab\ud800", "😀\udc00x", "zq\u2620\u0600\\'\u200a\u20ac",
                       "".join(map(chr, range(0x4e00, 0x4e10)))]}
    found = run_node(tmp_path_factory.mktemp("tokenizer"), ["tokenizer.js"], """
        const attempt = (compute) => { try { return compute(); } catch (error) { return error.message; } };
        const answers = {ids: {}, decoded: {}, streamed: {}, wrong: {}, facts: {}};
        for (const [name, values] of Object.entries(cases.tokenizers)) {
          const tokenizer = makeTokenizer(values);
          answers.facts[name] = [tokenizer.vocabSize, tokenizer.endOfText, tokenizer.tokenBytes];
          answers.ids[name] = cases.texts.map((text) => attempt(() => tokenizer.encode(text)));
          answers.wrong[name] = cases.wrong.map((text) => attempt(() => tokenizer.encode(text)));
          answers.decoded[name] = cases.streams[name].map(([ids]) => tokenizer.decode(ids));
          answers.streamed[name] = cases.streams[name].map(([ids, skip]) => {
            const decoder = new StreamingDecoder(tokenizer, skip);
            return ids.map((id) => decoder.add(id));
          });
        }
        const tokenizer = makeTokenizer(cases.tokenizers.own);
        answers.long = cases.long.map((text) => tokenizer.encode(text));
        const started = performance.now();
        makeTokenizer(cases.tokenizers.own).encode(cases.texts.at(-1));
        answers.milliseconds = performance.now() - started;
        const all = Array.from({length: 0x110000}, (_, code) => String.fromCodePoint(code)).join("");
        answers.classes = [/\\p{L}/gu, /\\p{N}/gu, splitExpression("\\\\s")].map((expression) =>
          all.match(expression).map((character) => character.codePointAt(0)));
        return answers;""", cases)
    return cases, found


def attempt(compute, *arguments):
    try:
        return compute(*arguments)
    except FolioError as error:
        return str(error)


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_python(name, tokenizers, answers):
    cases, found = answers
    for text, ids in zip(cases["texts"], found["ids"][name], strict=True):
        assert ids == attempt(tokenizers[name].encode, text), text[:100]


def test_texts_without_a_safe_place_are_cut_where_python_cuts_them(tokenizers, answers):
    cases, found = answers
    for text, ids in zip(cases["long"], found["long"], strict=True):
        assert ids == tokenizers["own"].encode(text), text[:20]


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_encoded_is_refused_in_the_same_words(name, tokenizers, answers):
    cases, found = answers
    expected = [attempt(tokenizers[name].encode, text) for text in cases["wrong"]]
    assert found["wrong"][name] == expected
    assert "half a surrogate pair" in expected[0] and (name != "char" or "and others" in expected[3])


@pytest.mark.parametrize("name", NAMES)
def test_decoding_gives_the_text_of_python_at_once_and_in_pieces(name, tokenizers, answers):
    cases, found = answers
    for (ids, skip), text, pieces in zip(cases["streams"][name], found["decoded"][name], found["streamed"][name],
                                         strict=True):
        decoder = StreamingDecoder(tokenizers[name], skip)
        expected, content = [decoder.add(token) for token in ids], tokenizers[name].decode_bytes(ids)
        assert text == tokenizers[name].decode(ids), ids
        # Two bytes that begin a half of a surrogate pair are no character, but Python waits for the third.
        if re.search(rb"\xed[\xa0-\xbf]", content):
            ending = "\ufffd\ufffd" if re.search(rb"\xed[\xa0-\xbf]\Z", content) else ""
            assert "".join(pieces) == "".join(expected) + ending, ids
        else:
            assert pieces == expected, ids


@pytest.mark.parametrize("name", NAMES)
def test_the_vocabulary_is_that_of_python(name, tokenizers, answers):
    tokenizer = tokenizers[name]
    contents = [content.decode("latin-1") for content in tokenizer.token_bytes]
    assert answers[1]["facts"][name] == [tokenizer.vocab_size, tokenizer.end_of_text, contents]


def test_classes_of_characters_differ_in_new_characters_alone(answers):
    for expression, found in zip([r"\p{L}", r"\p{N}", r"\s"], answers[1]["classes"], strict=True):
        expected = map(ord, regex.findall(expression, "".join(map(chr, range(sys.maxunicode + 1)))))
        differing = set(expected) ^ set(found)
        assert all(unicodedata.category(chr(code)) == "Cn" for code in differing), expression


def test_a_long_text_takes_a_moment(answers):
    assert answers[1]["milliseconds"] < 2000            # 200 kB; about 60 on a quiet core
