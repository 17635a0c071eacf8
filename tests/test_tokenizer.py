"""The tokenizer learns the merges of a plain recount, gives the ids of other libraries, and returns every byte."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tokenizer as tokenizer_module
from conftest import InMemory
from folio.base.errors import FolioError
from folio.data import sources
from folio.kernels import merging, splitting
from folio.kernels.splitting import SPLIT_PATTERNS, count_pretokens
from folio.readers import charsets, source
from Model_Params import TextParams
from tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, StreamingDecoder

PATTERNS = sorted(SPLIT_PATTERNS)

SAMPLES = [
    "", " ", "a", "\n", "The quick brown fox's jumps, DON'T they'll I'M we'VE you'Re he'd; 'tis O'Neill 'S 'LL",
    "Größe, naïveté, smörgåsbord, Łódź, İstanbul, ĲSSELMEER, ﬁne",
    "Ελληνικά: η γρήγορη αλεπού, ὦ ἄνδρες", "Русский: съешь ещё этих мягких булок", "Հայերեն՝ բարեւ ձեզ",
    "العربية: السَّلَامُ عَلَيْكُمْ ٠١٢٣", "עברית: שָׁלוֹם עֲלֵיכֶם", "हिन्दी: क्षत्रिय ज्ञान १२३",
    "বাংলা: আমি ক্ষুধার্ত", "தமிழ்: வணக்கம் க்ஷ",
    "ไทย: สวัสดีครับ ๑๒๓", "中文：我能吞下玻璃而不伤身体。１２３", "日本語：カタカナとひらがな、漢字々",
    "한국어: 안녕하세요 각각", "ქართული გამარჯობა",
    "👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 🇩🇪🇫🇷🇯🇵 ☺️ 1️⃣ ❤️‍🔥", "e\u0301 a\u0308\u0323 Z\u0351\u036b\u0343 \u0301 \u200d\u200d",
    "".join(map(chr, range(32))), "\x7f\x80\x85\x9f\xa0\xad", "\x1c\x1d a\x1e b\x1f\x1f c", "nul\0nul\0\0", "\0",
    "line\r\nline\r\n\r\nline\rline\n\r\n", "\r\n", "\r", " \r\n \n  \r", "a \n b\n\n\n c", "\tint x;\t\t\n\t \t y",
    "a  b   c    d     e",
    "   leading and trailing   ", "\u2028\u2029\u3000 \u2003 \u200b x\u00a0y", "\ufeffbom", "\ufffd\uffff\U0010ffff",
    "3.14159 1,234,567 0x1F 1e-9 ½ ² Ⅷ ①② 2024-01-31",
    "https://example.org/a_b?c=d&e=%20f#g mail@example.org C:\\dir\\x.txt",
    "def f(x):\n    return x[::-1]  # reversed\n\n\nclass A: pass\n",
    "if (a!=b && c<=d) { e->f++; } /* ... */\n\n#include <stdio.h>",
    '{"key": [1, null, "\\u00e9"]}', "<|endoftext|> <|end", "!!!???...,,,---___ '' \"\" ``",
    "a" * 3000, " " * 3000, "\n" * 500, "ab" * 1000, "1" * 500,
]

texts = st.text(st.characters(exclude_categories=["Cs"]))
# Characters that the split patterns treat in different ways.
tricky_texts = st.text("ab' s\u00e9\u0301\u4e2d\u3000\xa0\x85\x1c1!.\t\n\r")
letters = st.lists(st.sampled_from(b"abc"), max_size=40).map(bytes)
small_words = st.dictionaries(letters.filter(bool), st.integers(1, 3), max_size=8)


@pytest.fixture(scope="module")
def tokenizers(plays):
    """{split pattern: a tokenizer with merges in many scripts}"""
    return {pattern: BPETokenizer.train([plays[:100_000], *SAMPLES * 5], 1500, pattern) for pattern in PATTERNS}


@pytest.fixture(scope="module")
def tokenizer(tokenizers):
    return tokenizers["qwen2"]


# --- Learning merges ---

@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ["plays", "tiny_shakespeare"])
def test_merges_are_those_of_rustbpe(request, name, pattern):
    rustbpe = pytest.importorskip("rustbpe")
    text = request.getfixturevalue(name)
    ours = BPETokenizer.train([text], 1024, pattern)
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator([text], 1023, pattern=SPLIT_PATTERNS[pattern])
    assert ours.vocab_size == 1024
    by_rank = sorted(theirs.get_mergeable_ranks(), key=lambda pair: pair[1])
    assert [bytes(token) for token, _ in by_rank] == ours.token_bytes[:-1]


def test_the_order_in_which_a_text_arrives_does_not_change_the_merges(plays):
    lines = plays[:30_000].splitlines(keepends=True)
    assert BPETokenizer.train(lines, 400).merges == BPETokenizer.train(reversed(lines), 400).merges


def test_a_text_with_few_pairs_gives_fewer_tokens():
    tokenizer = BPETokenizer.train(["low lower lowest"], 10_000)
    assert 257 < tokenizer.vocab_size < 270
    assert BPETokenizer.train([], 10_000).vocab_size == 257


def test_a_vocabulary_without_room_for_all_bytes_is_refused_with_the_smallest_possible():
    assert BPETokenizer.train(["aaaa"], 257).vocab_size == 257
    with pytest.raises(FolioError, match="256 .* smallest possible, 257"):
        BPETokenizer.train(["aaaa"], 256)
    with pytest.raises(FolioError, match="smallest possible, 256"):
        BPETokenizer.train(["aaaa"], 255, special_tokens=())


# --- Splitting ---

PUBLISHED = {
    "qwen2": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"""
             r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    "llama3": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"""
              r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
}


def split_as_published(pattern, text):
    if pattern == "smollm":             # published as two steps: numbers are cut out, the rest is split as in GPT-2
        parts = regex.split(r"(\p{N})", text)
        return [pretoken for part in parts for pretoken in regex.findall(PUBLISHED["gpt2"], part)]
    return regex.findall(PUBLISHED[pattern], text)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: ascii(sample[:12]))
def test_texts_are_split_as_the_published_patterns_split_them(pattern, sample):
    expected = Counter(pretoken.encode("utf-8") for pretoken in split_as_published(pattern, sample))
    assert count_pretokens([sample], pattern) == expected


@settings(max_examples=300)
@given(st.text("'sStTdDmMrReEvVlL a12Ⅷ!\r\n\t\xa0é"))
def test_contractions_and_white_space_are_split_as_the_published_patterns_split_them(text):
    for pattern in PATTERNS:
        assert regex.findall(SPLIT_PATTERNS[pattern], text) == split_as_published(pattern, text)


# --- Encoding ---

@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=200)
@given(parts=st.lists(st.sampled_from(SAMPLES) | tricky_texts, max_size=6))
def test_long_texts_are_encoded_as_short_ones_are(tokenizers, pattern, parts):
    text = "".join(parts)
    short = tokenizers[pattern].encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "LONG_TEXT", 0)
        patch.setattr(splitting, "LONG_TEXT", 0)
        patch.setattr(merging, "MANY_BYTES", 1000)
        assert BPETokenizer(tokenizers[pattern].merges, pattern).encode(text) == short


@pytest.mark.parametrize("long_text", [0, tokenizer_module.LONG_TEXT])
def test_a_full_cache_of_pretokens_is_emptied_and_changes_no_id(monkeypatch, plays, long_text):
    merges = BPETokenizer.train([plays[:5_000]], 400).merges
    expected = BPETokenizer(merges).encode(plays[:5_000])
    monkeypatch.setattr(merging, "CACHED_PRETOKENS", 10)
    monkeypatch.setattr(tokenizer_module, "LONG_TEXT", long_text)
    forgetful = BPETokenizer(merges)
    assert forgetful.encode(plays[:5_000]) == expected
    assert len(forgetful._cache) <= 10


@pytest.fixture(scope="module")
def tiktokens(tokenizers):
    tiktoken = pytest.importorskip("tiktoken")
    return {pattern: tiktoken.Encoding(
        pattern, pat_str=SPLIT_PATTERNS[pattern], special_tokens=ours.special_ids,
        mergeable_ranks={token: rank for rank, token in enumerate(ours.token_bytes[:-1])})
        for pattern, ours in tokenizers.items()}


@pytest.fixture(scope="module")
def hugging_faces(tokenizers, tmp_path_factory):
    """Hugging Face's byte pair encoding, built from our saved files only."""
    hf = pytest.importorskip("tokenizers")
    made = {}
    for pattern, ours in tokenizers.items():
        folder = tmp_path_factory.mktemp("saved")
        ours.save(folder)
        vocab = json.loads((folder / "stoi.json").read_text(encoding="utf-8"))
        merges = json.loads((folder / "merges.json").read_text(encoding="utf-8"))
        made[pattern] = hf.Tokenizer(hf.models.BPE(vocab=vocab, merges=[tuple(pair) for pair in merges]))
        made[pattern].pre_tokenizer = hf.pre_tokenizers.Sequence([
            hf.pre_tokenizers.Split(hf.Regex(SPLIT_PATTERNS[pattern]), "isolated"),
            hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        made[pattern].decoder = hf.decoders.ByteLevel()
    return made


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: ascii(sample[:12]))
def test_ids_are_those_of_tiktoken_and_of_hugging_face(tokenizers, tiktokens, hugging_faces, pattern, sample):
    ids = tokenizers[pattern].encode(sample)
    assert ids == tiktokens[pattern].encode_ordinary(sample)
    assert ids == hugging_faces[pattern].encode(sample).ids


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=200)
@given(parts=st.lists(st.sampled_from(SAMPLES).map(lambda sample: sample[:40]) | tricky_texts, max_size=6))
def test_ids_of_mixtures_are_those_of_both_libraries(tokenizers, tiktokens, hugging_faces, pattern, parts):
    text = "".join(parts)
    ids = tokenizers[pattern].encode(text)
    assert ids == tiktokens[pattern].encode_ordinary(text)
    assert ids == hugging_faces[pattern].encode(text).ids


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ids_of_the_plays_are_those_of_tiktoken(tokenizers, tiktokens, plays, pattern):
    assert tokenizers[pattern].encode(plays) == tiktokens[pattern].encode_ordinary(plays)


def test_hugging_face_gives_the_text_of_our_ids(tokenizer, hugging_faces):
    assert all(hugging_faces["qwen2"].decode(tokenizer.encode(sample)) == sample for sample in SAMPLES)


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=300)
@given(text=tricky_texts | texts, block_bytes=st.integers(3, 12))
@example(text="a  b   c\n \n d\n\n e ' s 's  's", block_bytes=3)
def test_cutting_a_text_at_the_safe_places_changes_no_id(tokenizers, pattern, text, block_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK_BYTES", block_bytes)
        documents = sources.Documents([InMemory(text.encode("utf-8"))], TextParams(invalid_bytes="keep"))
        chunks = [chunk for chunk, _ in documents]
    whole = "".join(chunks)
    split, encode = regex.compile(SPLIT_PATTERNS[pattern]).findall, tokenizers[pattern].encode
    assert [pretoken for chunk in chunks for pretoken in split(chunk)] == split(whole)
    assert [token for chunk in chunks for token in encode(chunk)] == encode(whole)


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=300)
@given(parts=st.lists(st.sampled_from(["a", " ", "    ", "tobeornottobe", "12345", "\n\n\n", "====", "é中", "it's",
                                       "\r"]), max_size=30),
       block_bytes=st.integers(1, 40), longest=st.integers(1, 30))
def test_a_run_without_a_safe_place_is_cut_alike_in_any_chunks(tokenizers, pattern, parts, block_bytes, longest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK_BYTES", block_bytes)
        patch.setattr(charsets, "_SAMPLE_BYTES", 1)
        patch.setattr(sources, "LONGEST_RUN", longest)
        patch.setattr(splitting, "LONGEST_RUN", longest)
        chunks = [chunk for chunk, _ in sources.Documents([InMemory("".join(parts).encode("utf-8"))])]
        whole = "".join(chunks)
        runs = splitting.cut_runs(whole)
        assert "".join(runs) == whole and max(map(len, chunks), default=0) <= max(block_bytes, 1) + longest
        safe = [0, *(place.end() for place in regex.finditer(r"\S(?= )|\p{L}(?=\P{L})", whole)), len(whole)]
        cuts = [cut for start, end in pairwise(safe) for cut in range(start + longest, end, longest)]
        assert np.cumsum(list(map(len, runs)))[:-1].tolist() == cuts
        encode = tokenizers[pattern].encode_many
        expected = encode([whole])[0].tolist()
        assert [token for chunk in chunks for token in encode([chunk])[0].tolist()] == expected
        ids, ends = encode([whole, "to be", whole])
        parts_of_ids = [part.tolist() for part in np.split(ids, ends[:-1])]
        assert parts_of_ids == [expected, encode(["to be"])[0].tolist(), expected]


def test_a_text_is_cut_once_a_block_where_words_are_short_and_never_inside_a_word(monkeypatch):
    monkeypatch.setattr(source, "BLOCK_BYTES", 10)
    monkeypatch.setattr(charsets, "_SAMPLE_BYTES", 1)
    assert len(list(sources.Documents([InMemory(b"to be or not to be " * 10)]))) == 1      # short enough to be whole
    monkeypatch.setattr(sources, "LONGEST_RUN", 15)
    found = [chunk for chunk, _ in sources.Documents([InMemory(b"to be or not to be " * 10)])]
    assert 9 < len(found) <= 20 and all(chunk[-1] != " " and chunk[0] == " " for chunk in found[1:-1])
    # Without spaces, but with signs after letters.
    found = [chunk for chunk, _ in sources.Documents([InMemory("我能吞下玻璃，".encode() * 10)])]
    assert len(found) > 4 and all(chunk[0] == "，" for chunk in found[1:])


# --- BPE-dropout ---

@settings(max_examples=100)
@given(lists=st.lists(st.lists(st.integers(0, 1499), max_size=30), max_size=4),
       dropout=st.sampled_from([0.0, 0.1, 1.0]))
def test_resegmented_windows_have_the_same_text_and_the_same_special_tokens(tokenizers, lists, dropout):
    windows = [np.array(ids, np.uint16) for ids in lists]
    for tokenizer in tokenizers.values():
        changed = tokenizer.resegment(windows, dropout, np.random.default_rng(1))
        assert [tokenizer.decode_bytes(ids) for ids in changed] == [tokenizer.decode_bytes(ids) for ids in windows]
        ends = [[(ids == tokenizer.end_of_text).sum() for ids in arrays] for arrays in (changed, windows)]
        assert ends[0] == ends[1]
        if dropout == 1:
            assert all(token < 256 or token == tokenizer.end_of_text for ids in changed for token in ids)


def test_without_dropout_resegmenting_gives_the_same_ids(tokenizer, plays):
    ids = np.array(tokenizer.encode(plays[:20_000]))
    assert tokenizer.resegment([ids], 0.0, None)[0].tolist() == ids.tolist()


def test_the_seed_decides_the_segmentation(tokenizer, plays):
    ids = np.array(tokenizer.encode(plays[:2_000]))
    one, same, other = (tokenizer.resegment([ids], 0.1, np.random.default_rng(seed))[0].tolist() for seed in (1, 1, 2))
    assert one == same != other


# --- Decoding ---

@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=300)
@given(text=texts)
def test_decoding_gives_the_text_back(tokenizers, pattern, text):
    assert tokenizers[pattern].decode(tokenizers[pattern].encode(text)) == text


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=300)
@given(content=st.binary())
@example(content=bytes(range(256)))
@example(content=b"\xed\xa0\x80\xed\xb2\x80")           # a surrogate pair, which UTF-8 does not allow
def test_decoding_gives_any_bytes_back(tokenizers, pattern, content):
    assert tokenizers[pattern].decode_bytes(tokenizers[pattern].encode_bytes(content)) == content


@settings(max_examples=100)
@given(texts)
def test_the_bytes_of_a_text_have_the_ids_of_the_text(tokenizer, text):
    assert tokenizer.encode_bytes(text.encode("utf-8")) == tokenizer.encode(text)


@pytest.mark.parametrize("make", [lambda: BPETokenizer([]), lambda: CharTokenizer("ab")], ids=["bpe", "char"])
@pytest.mark.parametrize("half", ["\ud800", "\udcff", "\udfff"])
def test_half_a_surrogate_pair_is_refused_with_its_position(make, half):
    with pytest.raises(FolioError, match="^Character 2 of the text, .*surrogate") as caught:
        make().encode("ab" + half)
    assert type(caught.value) is FolioError


def test_bytes_that_are_not_text_are_decoded_as_the_replacement_character():
    assert BPETokenizer([]).decode([65, 0xE9, 66, 0xF0, 0x9F]) == "A\ufffdB\ufffd"


@pytest.mark.parametrize("wrong", [-1, -258, 257, 10**9])
def test_an_id_outside_the_vocabulary_is_refused_and_named(wrong):
    for decode in (BPETokenizer([]).decode, BPETokenizer([]).decode_bytes):
        with pytest.raises(FolioError, match=f"Token id {wrong} .*0 to 256"):
            decode([65, wrong, 66])


def test_ids_may_be_numpy_integers_and_come_from_any_iterable(tokenizer):
    ids = tokenizer.encode("To be, or not to be")
    assert tokenizer.decode(np.array(ids, np.uint16)) == tokenizer.decode(iter(ids)) == "To be, or not to be"
    assert tokenizer.decode([]) == ""


@settings(max_examples=300)
@given(st.lists(st.integers(0, 255) | st.sampled_from([*"é中😀".encode()]))
       | texts.map(lambda text: list(text.encode("utf-8"))))
def test_streaming_gives_the_same_text_as_decoding_all_at_once(content):
    tokenizer = BPETokenizer([])                        # one token per byte: most characters have several tokens
    decoder = StreamingDecoder(tokenizer)
    assert "".join([decoder.add(token) for token in content] + [decoder.end()]) == tokenizer.decode(content)


def test_streaming_hands_out_a_character_when_its_last_byte_has_come():
    decoder = StreamingDecoder(BPETokenizer([]))
    assert [decoder.add(token) for token in "aé😀".encode()] == ["a", "", "é", "", "", "", "😀"]
    assert decoder.end() == ""
    decoder.add(0xF0)
    assert decoder.end() == "\ufffd"


# --- Special tokens ---

def test_a_text_that_spells_a_special_token_is_ordinary_unless_that_is_allowed(tokenizer):
    text = f"one{END_OF_TEXT}two"
    assert tokenizer.end_of_text == tokenizer.vocab_size - 1
    assert tokenizer.end_of_text not in tokenizer.encode(text)
    special = tokenizer.encode(text, allow_special=True)
    assert special == [*tokenizer.encode("one"), tokenizer.end_of_text, *tokenizer.encode("two")]
    assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.decode(special) == text


def test_special_tokens_come_last_and_count():
    tokenizer = BPETokenizer([(97, 98)], special_tokens=["<|endoftext|>", "<|user|>"])
    assert tokenizer.vocab_size == 259
    assert tokenizer.encode("ab<|user|><|endoftext|>", allow_special=True) == [256, 258, 257]


def test_without_special_tokens_there_is_no_end_of_text():
    tokenizer = BPETokenizer([], special_tokens=())
    assert tokenizer.end_of_text is None
    assert tokenizer.encode("a<|", allow_special=True) == [97, 60, 124]


def test_special_tokens_added_later_change_no_other_id(tokenizers, plays):
    for tokenizer in (*tokenizers.values(), CharTokenizer.train([plays])):
        more = tokenizer.with_special_tokens(["<|user|>", "<|assistant|>"])
        assert more.encode(plays[:1000]) == tokenizer.encode(plays[:1000])
        assert more.vocab_size == tokenizer.vocab_size + 2
        assert more.names()[:tokenizer.vocab_size] == tokenizer.names()
        added = more.encode("<|user|>I<|assistant|>", allow_special=True)[::2]
        assert added == [tokenizer.vocab_size, tokenizer.vocab_size + 1]
        with pytest.raises(FolioError, match="must be distinct"):
            more.with_special_tokens(["<|user|>"])


def test_of_two_special_tokens_that_begin_alike_the_longer_is_found():
    tokenizer = BPETokenizer([], special_tokens=("<|im|>", "<|im|>2"))
    assert tokenizer.encode("<|im|>2<|im|>", allow_special=True) == [257, 256]


# --- Characters ---

def test_the_character_tokenizer_numbers_the_sorted_characters():
    tokenizer = CharTokenizer.train(["banana", "né"])
    assert tokenizer.characters == ["a", "b", "n", "é"]
    assert tokenizer.encode("bané") == [1, 0, 2, 3]
    assert tokenizer.encode_bytes("bané".encode()) == [1, 0, 2, 3]
    assert tokenizer.decode([1, 0, 2, 3]) == "bané"


def test_the_character_tokenizer_has_no_special_token_and_65_characters_for_tiny_shakespeare(tiny_shakespeare):
    tokenizer = CharTokenizer.train([tiny_shakespeare])
    assert (tokenizer.vocab_size, tokenizer.special_tokens, tokenizer.end_of_text) == (65, (), None)
    assert tokenizer.decode(tokenizer.encode(tiny_shakespeare)) == tiny_shakespeare


def test_characters_the_tokenizer_never_saw_are_named():
    tokenizer = CharTokenizer("abc")
    assert tokenizer.unknown_characters("xabyc") == ["x", "y"]
    with pytest.raises(FolioError, match=r"'x' \(U\+0078\), 'é' \(U\+00E9\); .* the 3 characters"):
        tokenizer.encode("éabxc")
    with pytest.raises(FolioError, match="and others; it can encode only the 3"):
        tokenizer.encode("defghijklmnop")
