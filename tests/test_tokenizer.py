"""The tokenizer learns the merges of a plain recount, gives the ids of other libraries, and returns every byte."""

import json
import os
import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import regex
from conftest import ROOT, FullDisk, InMemory, run_python
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tokenizer as tokenizer_module
from folio.base.errors import FolioError
from folio.base.files import fingerprint
from folio.data import sources
from folio.kernels import merging, splitting
from folio.kernels.merging import MAX_LEARNED_BYTES, MergeTable, apply_merges, learn_merges
from folio.kernels.splitting import SPLIT_PATTERNS, PretokenCounter, count_pretokens
from tokenizer import END_OF_TEXT, FILES, BPETokenizer, CharTokenizer, StreamingDecoder, from_dict, load

PATTERNS = sorted(SPLIT_PATTERNS)

SAMPLES = [
    "", " ", "a", "\n", "The quick brown fox's jumps, DON'T they'll I'M we'VE you'Re he'd; 'tis O'Neill 'S 'LL",
    "Größe, naïveté, smörgåsbord, Łódź, İstanbul, ĲSSELMEER, ﬁne",
    "Ελληνικά: η γρήγορη αλεπού, ὦ ἄνδρες", "Русский: съешь ещё этих мягких булок", "Հայերեն՝ բարեւ ձեզ",
    "العربية: السَّلَامُ عَلَيْكُمْ ٠١٢٣", "עברית: שָׁלוֹם עֲלֵיכֶם", "हिन्दी: क्षत्रिय ज्ञान १२३", "বাংলা: আমি ক্ষুধার্ত", "தமிழ்: வணக்கம் க்ஷ",
    "ไทย: สวัสดีครับ ๑๒๓", "中文：我能吞下玻璃而不伤身体。１２３", "日本語：カタカナとひらがな、漢字々", "한국어: 안녕하세요 각각", "ქართული გამარჯობა",
    "👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 🇩🇪🇫🇷🇯🇵 ☺️ 1️⃣ ❤️‍🔥", "e\u0301 a\u0308\u0323 Z\u0351\u036b\u0343 \u0301 \u200d\u200d",
    "".join(map(chr, range(32))), "\x7f\x80\x85\x9f\xa0\xad", "\x1c\x1d a\x1e b\x1f\x1f c", "nul\0nul\0\0", "\0",
    "line\r\nline\r\n\r\nline\rline\n\r\n", "\r\n", "\r", " \r\n \n  \r", "a \n b\n\n\n c", "\tint x;\t\t\n\t \t y", "a  b   c    d     e",
    "   leading and trailing   ", "\u2028\u2029\u3000 \u2003 \u200b x\u00a0y", "\ufeffbom", "\ufffd\uffff\U0010ffff",
    "3.14159 1,234,567 0x1F 1e-9 ½ ² Ⅷ ①② 2024-01-31", "https://example.org/a_b?c=d&e=%20f#g mail@example.org C:\\dir\\x.txt",
    "def f(x):\n    return x[::-1]  # reversed\n\n\nclass A: pass\n", "if (a!=b && c<=d) { e->f++; } /* ... */\n\n#include <stdio.h>",
    '{"key": [1, null, "\\u00e9"]}', "<|endoftext|> <|end", "!!!???...,,,---___ '' \"\" ``", "a" * 3000, " " * 3000, "\n" * 500, "ab" * 1000, "1" * 500,
]

texts = st.text(st.characters(exclude_categories=["Cs"]))
tricky_texts = st.text("ab' s\u00e9\u0301\u4e2d\u3000\xa0\x85\x1c1!.\t\n\r")          # what the split patterns treat in different ways
letters = st.lists(st.sampled_from(b"abc"), max_size=40).map(bytes)
small_words = st.dictionaries(letters.filter(bool), st.integers(1, 3), max_size=8)


@pytest.fixture(scope="module")
def tokenizers(plays):
    """One tokenizer a split pattern, with merges in many scripts."""
    return {pattern: BPETokenizer.train([plays[:100_000], *SAMPLES * 5], 1500, pattern) for pattern in PATTERNS}


@pytest.fixture(scope="module")
def tokenizer(tokenizers):
    return tokenizers["qwen2"]


# --- Learning merges ---

def merge_pair(ids, pair, new_id):
    """Left to right; where two matches overlap, the left one wins."""
    merged = []
    for token in ids:
        if merged and merged[-1] is not None and (merged[-1], token) == pair:
            merged[-1:] = [new_id, None]        # None: what comes next has nothing to merge with yet
        else:
            merged += [token]
    return [token for token in merged if token is not None]


def merges_by_recounting(pretoken_counts, num_merges):
    """The definition itself: count all pairs anew before each merge."""
    words = [(list(piece), count) for piece, count in pretoken_counts.items()]
    merges = []
    for new_id in range(256, 256 + num_merges):
        counts = Counter()
        for word, count in words:
            for pair in pairwise(word):
                counts[pair] += count
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        merges.append(best)
        words = [(merge_pair(word, best, new_id), count) for word, count in words]
    return merges


@settings(max_examples=300)
@given(small_words)
def test_merges_are_those_of_counting_all_pairs_anew_each_time(pretoken_counts):
    assert list(learn_merges(pretoken_counts, 30)) == merges_by_recounting(pretoken_counts, 30)


@pytest.mark.parametrize("watched", [1, 3, 20])
def test_merges_do_not_depend_on_how_many_pairs_are_watched_at_a_time(plays, monkeypatch, watched):
    pieces = count_pretokens([plays[:20_000]])
    monkeypatch.setattr(merging, "WATCHED_PAIRS", watched)
    assert list(learn_merges(pieces, 200)) == merges_by_recounting(pieces, 200)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_merges_of_real_text_are_those_of_counting_all_pairs_anew(plays, pattern):
    pieces = count_pretokens([plays[:20_000]], pattern)
    merges = merges_by_recounting(pieces, 200)
    assert len(merges) == 200
    assert list(learn_merges(pieces, 200)) == merges


def test_of_equally_frequent_pairs_the_one_with_the_smallest_ids_is_merged():
    assert list(learn_merges({b"zy": 5, b"ba": 5, b"bc": 5}, 3)) == [(98, 97), (98, 99), (122, 121)]


def test_overlapping_positions_of_a_pair_count():
    assert list(learn_merges({b"aaa": 2, b"bc": 3}, 1)) == [(97, 97)]            # four (a, a) beat three (b, c)


def test_a_pair_seen_once_is_not_merged():
    assert list(learn_merges({b"ab": 1, b"cd": 1}, 5)) == []
    assert list(learn_merges({b"aaa": 1}, 5)) == [(97, 97)]


def test_no_merge_reaches_across_two_pieces():
    assert list(learn_merges(count_pretokens(["a! a! a! a!"]), 5)) == [(32, 97)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ["plays", "tiny_shakespeare"])
def test_merges_are_those_of_rustbpe(request, name, pattern):
    rustbpe = pytest.importorskip("rustbpe")
    text = request.getfixturevalue(name)
    ours = BPETokenizer.train([text], 1024, pattern)
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator([text], 1023, pattern=SPLIT_PATTERNS[pattern])
    assert ours.vocab_size == 1024
    assert [bytes(token) for token, _ in sorted(theirs.get_mergeable_ranks(), key=lambda pair: pair[1])] == ours.token_bytes[:-1]


def test_the_order_in_which_a_text_arrives_does_not_change_the_merges(plays):
    lines = plays[:30_000].splitlines(keepends=True)
    assert BPETokenizer.train(lines, 400).merges == BPETokenizer.train(reversed(lines), 400).merges


def test_where_there_are_too_many_distinct_pretokens_the_rarest_are_let_go_of(monkeypatch):
    monkeypatch.setattr(splitting, "COUNTER_BYTES", 1000)
    often = " often" * 50 + " seldom seldom"
    counts = count_pretokens([often, *("".join(map(chr, range(0x4e00 + 90 * part, 0x4e00 + 90 * part + 90))) for part in range(99)), often])
    assert counts == Counter({piece: counts[piece] for piece in counts}) and counts[b" often"] == 100
    assert counts.size == sum(map(len, counts)) + len(counts) <= 1000
    in_parts = PretokenCounter()
    for word in [b"b", b"a", b"c", b"a"] + [b"x%d" % number for number in range(2000)]:
        in_parts.add({word: 1})
    assert in_parts.size <= 1000 and (in_parts[b"a"], in_parts[b"b"]) == (2, 1)             # of the rare ones the first stay


def test_a_long_row_of_one_sign_makes_no_token_longer_than_is_of_use(monkeypatch):
    tokenizer = BPETokenizer.train(["=" * 600_000 + "\nto be or not to be"], vocab_size=400)
    assert max(map(len, tokenizer.token_bytes)) == MAX_LEARNED_BYTES and b" be" in tokenizer.token_bytes
    assert tokenizer.decode(tokenizer.encode("=" * 1000)) == "=" * 1000
    monkeypatch.setattr(merging, "MAX_LEARNED_BYTES", 3)
    found = list(learn_merges({b"aaaaaaaa": 9, b"abcabc": 2, b"xyxyxy": 5}, 30))
    made = BPETokenizer(found).token_bytes
    assert found == learned_with_no_longer_token({b"aaaaaaaa": 9, b"abcabc": 2, b"xyxyxy": 5}, 3)
    assert max(map(len, made[256:-1])) == 3


def learned_with_no_longer_token(pretoken_counts, longest):
    """Count all pairs, merge the most frequent one whose token is short enough everywhere, and begin again."""
    words, lengths, found = {piece: list(piece) for piece in pretoken_counts}, [1] * 256, []
    while True:
        counts = Counter()
        for piece, ids in words.items():
            for pair in pairwise(ids):
                counts[pair] += pretoken_counts[piece] * (lengths[pair[0]] + lengths[pair[1]] <= longest)
        count, best = max(((count, (-left, -right)) for (left, right), count in counts.items()), default=(0, None))
        if count < 2:
            return found
        best = -best[0], -best[1]
        found.append(best)
        new_id = len(lengths)
        lengths.append(lengths[best[0]] + lengths[best[1]])
        words = {piece: apply_merges(ids, {best: new_id}) for piece, ids in words.items()}


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
    "qwen2": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: ascii(sample[:12]))
def test_texts_are_split_as_the_published_patterns_split_them(pattern, sample):
    assert count_pretokens([sample], pattern) == Counter(piece.encode("utf-8") for piece in regex.findall(PUBLISHED[pattern], sample))


@settings(max_examples=300)
@given(st.text("'sStTdDmMrReEvVlL a1!\r\n\t\xa0é"))
def test_contractions_and_white_space_are_split_as_the_published_patterns_split_them(text):
    for pattern in PATTERNS:
        assert regex.findall(SPLIT_PATTERNS[pattern], text) == regex.findall(PUBLISHED[pattern], text)


# --- Encoding ---

def merged_one_at_a_time(ids, new_ids):
    """The definition itself: of all pairs that can be merged take the one learned first, and of those the leftmost."""
    ids = list(ids)
    while possible := [(new_ids[pair], left) for left, pair in enumerate(pairwise(ids)) if pair in new_ids]:
        new_id, left = min(possible)
        ids[left:left + 2] = [new_id]
    return ids


@settings(max_examples=300)
@given(small_words, letters)
def test_merges_are_applied_first_learned_first_and_leftmost_among_equals(pretoken_counts, piece):
    new_ids = {pair: 256 + index for index, pair in enumerate(learn_merges(pretoken_counts, 30))}
    assert apply_merges(piece, new_ids) == merged_one_at_a_time(piece, new_ids)


@settings(max_examples=300)
@given(small_words, st.lists(letters.filter(bool), max_size=12), st.booleans())
def test_merging_many_pieces_side_by_side_or_each_pair_everywhere_gives_the_same_ids(pretoken_counts, pieces, everywhere):
    merges = MergeTable(list(learn_merges(pretoken_counts, 30)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "MANY_BYTES", 1)
        patch.setattr(merging, "ROW_WIDTHS", (0, 1) if everywhere else (0, 3, 8, 64))
        assert segmented(merges, pieces) == [merged_one_at_a_time(piece, merges.new_ids) for piece in pieces]


def segmented(merges, pieces, **dropout):
    ids, counts = merges.segment(pieces, np.arange(len(pieces)), **dropout)
    assert counts.sum() == len(ids)
    return [part.tolist() for part in np.split(ids, np.cumsum(counts))[:-1]]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), unique=True, max_size=60), st.integers(1, 4))
def test_a_table_with_hardly_a_free_seat_finds_every_pair_and_no_other(pairs, slots_per_pair):
    merges = MergeTable(pairs, slots_per_pair)
    left, right = np.meshgrid(np.arange(301), np.arange(301), indexing="ij")
    expected = np.full((301, 301), merges.NONE)
    for number, pair in enumerate(pairs):
        expected[pair] = 256 + number
    np.testing.assert_array_equal(merges.look_up(left, right), expected)


def test_pieces_asked_for_in_any_order_and_more_than_once_are_given_so(tokenizer):
    merges, pieces = MergeTable(tokenizer.merges), [b" the", b"x" * 200, b" internationalization", b"\0"]
    ids, _ = merges.segment(pieces, np.array([3, 0, 1, 0, 2, 1]))
    assert tokenizer.decode_bytes(ids) == b"\0" + b" the" + b"x" * 200 + b" the" + b" internationalization" + b"x" * 200


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), unique=True, max_size=10), st.lists(st.integers(0, 2), max_size=30))
def test_merges_that_no_training_would_learn_are_applied_in_the_same_order(pairs, ids):
    new_ids = {pair: 3 + index for index, pair in enumerate(pairs) if max(pair) < 3 + index}
    assert apply_merges(ids, new_ids) == merged_one_at_a_time(ids, new_ids)


def test_the_heap_agrees_with_the_definition_on_a_long_piece(tokenizer):
    piece = "thethertheteeth" * 20
    new_ids = {pair: 256 + index for index, pair in enumerate(tokenizer.merges)}
    assert tokenizer.encode(piece) == merged_one_at_a_time(piece.encode("utf-8"), new_ids)


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
def test_a_full_cache_of_pieces_is_emptied_and_changes_no_id(monkeypatch, plays, long_text):
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
    return {pattern: tiktoken.Encoding(pattern, pat_str=SPLIT_PATTERNS[pattern], special_tokens=ours.special_ids,
                                       mergeable_ranks={token: rank for rank, token in enumerate(ours.token_bytes[:-1])})
            for pattern, ours in tokenizers.items()}


@pytest.fixture(scope="module")
def hugging_faces(tokenizers, tmp_path_factory):
    """Hugging Face's byte pair encoding, built from our saved files alone."""
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
def test_ids_of_mixtures_are_those_of_tiktoken_and_of_hugging_face(tokenizers, tiktokens, hugging_faces, pattern, parts):
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
        patch.setattr(sources, "BLOCK_BYTES", block_bytes)
        chunks = [chunk for chunk, _ in sources.Documents([InMemory(text.encode("utf-8"))], "keep")]
    whole = "".join(chunks)
    split, encode = regex.compile(SPLIT_PATTERNS[pattern]).findall, tokenizers[pattern].encode
    assert [piece for chunk in chunks for piece in split(chunk)] == split(whole)
    assert [token for chunk in chunks for token in encode(chunk)] == encode(whole)


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=300)
@given(parts=st.lists(st.sampled_from(["a", " ", "    ", "tobeornottobe", "12345", "\n\n\n", "====", "é中", "it's", "\r"]), max_size=30),
       block_bytes=st.integers(1, 40), longest=st.integers(1, 30))
def test_a_run_without_a_safe_place_is_cut_alike_however_the_text_comes_in(tokenizers, pattern, parts, block_bytes, longest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", block_bytes)
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
        assert np.concatenate([np.empty(0, int), *(encode([chunk])[0] for chunk in chunks)]).tolist() == encode([whole])[0].tolist()
        ids, ends = encode([whole, "to be", whole])
        assert [part.tolist() for part in np.split(ids, ends[:-1])] == [encode([text])[0].tolist() for text in (whole, "to be", whole)]


def test_a_text_is_cut_once_a_block_where_words_are_short_and_never_inside_a_word(monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_BYTES", 10)
    assert len(list(sources.Documents([InMemory(b"to be or not to be " * 10)]))) == 20
    assert len(list(sources.Documents([InMemory("我能吞下玻璃，".encode() * 10)]))) > 5        # no space in it, but signs behind letters
    assert len(list(sources.Documents([InMemory(b"tobeornottobe" * 10)]))) == 1


# --- BPE-dropout ---

def dropped_out_one_at_a_time(ids, new_ids, dropout, random):
    """The definition (Provilkov et al., 2020): each time, every possible merge is left out with that probability."""
    ids = list(ids)
    while possible := [(new_ids[pair], left) for left, pair in enumerate(pairwise(ids)) if pair in new_ids and random.random() >= dropout]:
        new_id, left = min(possible)
        ids[left:left + 2] = [new_id]
    return tuple(ids)


@pytest.mark.parametrize("widths", [(0, 8, 64), (0, 1)], ids=["side by side", "one by one"])
def test_merges_are_left_out_as_often_as_the_definition_leaves_them_out(widths, monkeypatch):
    monkeypatch.setattr(merging, "ROW_WIDTHS", widths)
    merges = MergeTable(list(learn_merges({b"lower": 8, b"low": 9, b"owe": 3, b"er": 5}, 10)))
    draws, random = 4000, np.random.default_rng(0)
    expected = Counter(dropped_out_one_at_a_time(b"lower", merges.new_ids, 0.3, random) for _ in range(draws))
    ids, counts = merges.segment([b"lower"], np.zeros(draws, np.int64), 0.3, random)
    seen = Counter(tuple(part.tolist()) for part in np.split(ids, np.cumsum(counts))[:-1])
    assert len(expected) > 5
    for segmentation in expected | seen:        # five standard deviations of the difference of two such counts
        assert abs(expected[segmentation] - seen[segmentation]) < 5 * (2 * max(expected[segmentation], seen[segmentation], 10)) ** 0.5


@settings(max_examples=100)
@given(windows=st.lists(st.lists(st.integers(0, 1499), max_size=30).map(lambda ids: np.array(ids, np.uint16)), max_size=4),
       dropout=st.sampled_from([0.0, 0.1, 1.0]))
def test_other_tokens_say_the_same_text_and_special_ones_stay(tokenizers, windows, dropout):
    for tokenizer in tokenizers.values():
        changed = tokenizer.resegment(windows, dropout, np.random.default_rng(1))
        assert [tokenizer.decode_bytes(ids) for ids in changed] == [tokenizer.decode_bytes(ids) for ids in windows]
        assert [(ids == tokenizer.end_of_text).sum() for ids in changed] == [(ids == tokenizer.end_of_text).sum() for ids in windows]
        if dropout == 1:
            assert all(token < 256 or token == tokenizer.end_of_text for ids in changed for token in ids)


def test_without_dropout_the_tokens_of_a_text_are_found_again(tokenizer, plays):
    ids = np.array(tokenizer.encode(plays[:20_000]))
    assert tokenizer.resegment([ids], 0.0, None)[0].tolist() == ids.tolist()


def test_the_seed_decides_the_segmentation(tokenizer, plays):
    ids = np.array(tokenizer.encode(plays[:2_000]))
    one, same, other = (tokenizer.resegment([ids], 0.1, np.random.default_rng(seed))[0].tolist() for seed in (1, 1, 2))
    assert one == same != other


# --- Special tokens ---

def test_special_tokens_added_later_change_no_other_id(tokenizers, plays):
    for tokenizer in (*tokenizers.values(), CharTokenizer.train([plays])):
        more = tokenizer.with_special_tokens(["<|user|>", "<|assistant|>"])
        assert more.encode(plays[:1000]) == tokenizer.encode(plays[:1000])
        assert more.vocab_size == tokenizer.vocab_size + 2
        assert more.names()[:tokenizer.vocab_size] == tokenizer.names()
        assert more.encode("<|user|>I<|assistant|>", allow_special=True)[::2] == [tokenizer.vocab_size, tokenizer.vocab_size + 1]
        with pytest.raises(FolioError, match="spelling of its own"):
            more.with_special_tokens(["<|user|>"])


def test_of_two_special_tokens_that_begin_alike_the_longer_is_found():
    tokenizer = BPETokenizer([], special_tokens=("<|im|>", "<|im|>2"))
    assert tokenizer.encode("<|im|>2<|im|>", allow_special=True) == [257, 256]


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
@example(content=b"\xed\xa0\x80\xed\xb2\x80")           # what half a surrogate pair would be, were it allowed
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
@given(st.lists(st.integers(0, 255) | st.sampled_from([*"é中😀".encode()])) | texts.map(lambda text: list(text.encode("utf-8"))))
def test_streaming_gives_the_same_text_as_decoding_all_at_once(content):
    tokenizer = BPETokenizer([])                        # one byte a token: every character comes in pieces
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
    assert tokenizer.encode(text, allow_special=True) == [*tokenizer.encode("one"), tokenizer.end_of_text, *tokenizer.encode("two")]
    assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text, allow_special=True)) == text


def test_special_tokens_come_last_and_count():
    tokenizer = BPETokenizer([(97, 98)], special_tokens=["<|endoftext|>", "<|user|>"])
    assert tokenizer.vocab_size == 259
    assert tokenizer.encode("ab<|user|><|endoftext|>", allow_special=True) == [256, 258, 257]


def test_without_special_tokens_there_is_no_end_of_text():
    tokenizer = BPETokenizer([], special_tokens=())
    assert tokenizer.end_of_text is None
    assert tokenizer.encode("a<|", allow_special=True) == [97, 60, 124]


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
    with pytest.raises(FolioError, match=r"'x' \(U\+0078\), 'é' \(U\+00E9\); the 3 it had"):
        tokenizer.encode("éabxc")
    with pytest.raises(FolioError, match="and others; the 3"):
        tokenizer.encode("defghijklmnop")


# --- On disk and in checkpoints ---

def saved(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


ALL_KINDS = pytest.mark.parametrize("original", [
    BPETokenizer.train(["low lower lowest"], 262), BPETokenizer.train(["äöü äöü"], 300, "gpt2", ["<|user|>", "<|Grüße|>"]), BPETokenizer([]),
    CharTokenizer.train(["a\nb\0 é中😀\""]), CharTokenizer("ba", [END_OF_TEXT]),
], ids=["bpe", "bpe gpt2", "bpe bytes", "char", "char special"])


@ALL_KINDS
def test_a_tokenizer_is_the_same_after_saving_and_loading(original, tmp_path):
    original.save(tmp_path)
    again = load(tmp_path)
    assert again.to_dict() == original.to_dict()
    assert (type(again), again.token_bytes, again.fingerprint) == (type(original), original.token_bytes, original.fingerprint)
    assert sorted(saved(tmp_path)) == sorted(FILES)


@ALL_KINDS
def test_a_tokenizer_is_the_same_after_going_through_plain_values(original):
    again = from_dict(json.loads(json.dumps(original.to_dict())))
    assert again.to_dict() == original.to_dict()
    assert (type(again), again.token_bytes, again.fingerprint) == (type(original), original.token_bytes, original.fingerprint)


def test_the_fingerprint_differs_where_ids_mean_something_else():
    different = [BPETokenizer([]), BPETokenizer([], "gpt2"), BPETokenizer([], special_tokens=()), BPETokenizer([(97, 98)]), BPETokenizer([(97, 99)]),
                 CharTokenizer("ab"), CharTokenizer("ba"), CharTokenizer("ab", [END_OF_TEXT])]
    assert len({tokenizer.fingerprint for tokenizer in different}) == len(different)


def test_the_files_say_what_the_design_says(tmp_path):
    tokenizer = BPETokenizer.train(["low lower lowest é"], 260)
    tokenizer.save(tmp_path, "fedcba9876543210")
    stoi, itos, merges, about = (json.loads(content) for content in (saved(tmp_path)[name] for name in FILES))
    assert stoi["A"] == 65 and stoi["Ġ"] == 32 and stoi["Ċ"] == 10 and stoi["low"] == 257 and stoi[END_OF_TEXT] == 259
    assert itos == {str(token): name for name, token in stoi.items()}
    assert merges == [["l", "o"], ["lo", "w"], ["Ġ", "low"]]
    assert (about["vocab_size"], about["kind"], about["pattern"], about["special_tokens"]) == (260, "bpe", "qwen2", [END_OF_TEXT])
    assert about["text_fingerprint"] == "fedcba9876543210"
    assert about["hashes"] == {name: fingerprint(saved(tmp_path)[name]) for name in FILES[:3]}


def test_the_saved_bytes_do_not_depend_on_the_hash_seed(tmp_path):
    code = ("import pathlib, sys; from tokenizer import BPETokenizer; "
            "BPETokenizer.train([pathlib.Path('Train_Data/input.txt').read_text(encoding='utf-8')[:50_000]], 600).save(sys.argv[1])")
    for seed in ("0", "1"):
        done = run_python("-c", code, tmp_path / seed, env={**os.environ, "PYTHONHASHSEED": seed})
        assert done.returncode == 0, done.stderr
    assert saved(tmp_path / "0") == saved(tmp_path / "1")
    assert load(tmp_path / "0").vocab_size == 600


def assert_refused_in_a_sentence(folder, error):
    with pytest.raises(error) as caught:
        load(folder)
    assert type(caught.value) is error
    assert str(folder) in str(caught.value) and "python init.py" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name, change, said", [
    ("merges.json", lambda merges: merges[:-1], "7 merges, and stoi.json has tokens for 8"),
    ("merges.json", lambda merges: [*merges[1:], merges[0]], "joins the tokens 256 and 119, but only 0 to 255 exist by then"),
    ("merges.json", lambda merges: [["lo", "lo"], *merges[1:]], "joins the tokens 256 and 256, but only 0 to 255"),
    ("merges.json", lambda merges: [["l", "€"], *merges[1:]], "joins '€', which is no token in stoi.json"),
    ("merges.json", lambda merges: [["l", "o", "w"], *merges[1:]], "no list of pairs"),
    ("stoi.json", lambda ids: {name: token + (token > 100) for name, token in ids.items()}, "no token has the id 101"),
    ("stoi.json", lambda ids: {name: min(token, 263) for name, token in ids.items()}, "no token has the id 264"),
    ("stoi.json", lambda ids: {name.replace("low", "LOW"): token for name, token in ids.items()}, "which is no token in stoi.json"),
    ("itos.json", lambda names: {**names, "7": "x"}, "itos.json is not the file that was written"),
])
def test_what_is_wrong_with_a_vocabulary_or_its_merges_is_said(tmp_path, name, change, said):
    BPETokenizer([(108, 111), (256, 119), (257, 101), (258, 114), (258, 115), (260, 116), (32, 257), (262, 101)]).save(tmp_path)
    path = tmp_path / name
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    assert said in assert_refused_in_a_sentence(tmp_path, FolioError)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["bpe", "char"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "not UTF-8", "another value", "missing"])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, kind, name, damage):
    tokenizer = BPETokenizer.train(["low lower lowest"], 264) if kind == "bpe" else CharTokenizer.train(["low lower lowest 123"])
    tokenizer.save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
        assert name in assert_refused_in_a_sentence(tmp_path, FileNotFoundError)
        return
    path.write_bytes({"truncated": content[:-len(content) // 3], "empty": b"", "not UTF-8": b"\xff" + content, "another value": b"[1, 2, 3]"}[damage])
    message = assert_refused_in_a_sentence(tmp_path, FolioError)
    assert name in message or name == "vocab_size.json"         # where the one that vouches is wrong, any of them may be


@pytest.mark.parametrize("name", FILES[:3])
def test_a_file_that_differs_in_one_space_is_not_the_one_that_was_written(tmp_path, name):
    CharTokenizer("abc").save(tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.write(b" ")
    assert name in assert_refused_in_a_sentence(tmp_path, FolioError)


@pytest.mark.parametrize("field, value", [("vocab_size", 263), ("vocab_size", 1), ("vocab_size", "264"), ("special_tokens", []),
                                          ("special_tokens", ["<|other|>"]), ("kind", "char"), ("kind", "words"), ("pattern", "qwen"),
                                          ("format", 2), ("format", None), ("hashes", None)])
def test_a_description_that_contradicts_the_other_files_is_refused(tmp_path, field, value):
    BPETokenizer.train(["low lower lowest"], 264).save(tmp_path)
    about = json.loads((tmp_path / "vocab_size.json").read_text(encoding="utf-8"))
    (tmp_path / "vocab_size.json").write_text(json.dumps({**about, field: value}), encoding="utf-8")
    assert_refused_in_a_sentence(tmp_path, FolioError)


def test_a_character_tokenizer_whose_size_was_edited_is_refused(tmp_path):
    CharTokenizer("abcd").save(tmp_path)
    about = (tmp_path / "vocab_size.json").read_bytes()
    (tmp_path / "vocab_size.json").write_bytes(about.replace(b'"vocab_size": 4', b'"vocab_size": 3'))
    assert_refused_in_a_sentence(tmp_path, FolioError)


def test_a_folder_without_a_tokenizer_says_how_to_make_one(tmp_path):
    assert "python init.py" in assert_refused_in_a_sentence(tmp_path / "nowhere", FileNotFoundError)


@pytest.mark.parametrize("values", [
    None, [], {}, {"format": 1}, {"format": 1, "kind": "bpe"}, {"format": 2, "kind": "bpe", "merges": [], "pattern": "qwen2", "special_tokens": []},
    *({"format": 1, "kind": "bpe", "merges": merges, "pattern": "qwen2", "special_tokens": []}
      for merges in (5, [5], [[97]], [[97, 98, 99]], [["a", "b"]], [[97.0, 98]], [[-1, 97]], [[97, 256]], [[97, 98], [97, 98]])),
    {"format": 1, "kind": "bpe", "merges": [], "pattern": "other", "special_tokens": []},
    {"format": 1, "kind": "bpe", "merges": [], "pattern": "qwen2", "special_tokens": [""]},
    {"format": 1, "kind": "bpe", "merges": [], "pattern": "qwen2", "special_tokens": [5]},
    {"format": 1, "kind": "char", "characters": ["a", "a"], "special_tokens": []},
    {"format": 1, "kind": "char", "characters": ["a", "bc"], "special_tokens": []},
    {"format": 1, "kind": "char", "characters": ["a", 5], "special_tokens": []},
    {"format": 1, "kind": "words", "special_tokens": []},
], ids=repr)
def test_values_that_describe_no_tokenizer_are_refused(values):
    with pytest.raises(FolioError):
        from_dict(values)


def hostile(merges=(), special_tokens=()):
    return {"format": 1, "kind": "bpe", "merges": list(merges), "pattern": "qwen2", "special_tokens": list(special_tokens)}


DOUBLED = [(97, 97), *((number, number) for number in range(256, 273))]


@pytest.mark.parametrize("values, said", [
    (hostile([(97, 98)] * 1_000_000), "Every token needs a spelling of its own; these have none: ['ab']."),
    (hostile([*DOUBLED, *((273, number) for number in range(256))]), "more than 33,554,432 bytes together"),
    (hostile([*DOUBLED, *((number, number) for number in range(273, 300))]), "a tokenizer like this was never learned from a text"),
    (hostile(special_tokens=map(str, range(100_000))), "A tokenizer may have 16,384 special tokens, and this one has 100,000."),
    (hostile(special_tokens=["\ud800"]), "These values describe no tokenizer"),
], ids=["equal merges", "many long tokens", "a token too long", "special tokens", "half a pair"])
def test_what_would_take_any_memory_or_time_is_refused_at_once(values, said):
    tracemalloc.start()
    with pytest.raises(FolioError) as caught:
        from_dict(values)
    assert said in str(caught.value) and tracemalloc.get_traced_memory()[1] < 250_000_000
    tracemalloc.stop()


def test_a_tokenizer_with_as_many_special_tokens_as_there_may_be_finds_them():
    tokenizer = from_dict(hostile(special_tokens=[f"<{number}>" for number in range(5000)]))
    assert tokenizer.encode("<4999>a<1>", allow_special=True) == [256 + 4999, 97, 257]


@pytest.mark.parametrize("name", FILES[:1] + FILES[2:])
def test_a_file_nested_too_deep_is_refused_in_one_sentence(tmp_path, name):
    BPETokenizer([]).save(tmp_path)
    (tmp_path / name).write_bytes(b"[" * 100_000)
    assert f"{name} is not JSON (" in assert_refused_in_a_sentence(tmp_path, FolioError)


@pytest.mark.parametrize("good_calls", range(6))        # the four files, their folder, the marker
def test_a_disk_that_fills_up_while_saving_leaves_the_old_files_and_nothing_else(tmp_path, monkeypatch, good_calls):
    BPETokenizer.train(["low lower lowest"], 260).save(tmp_path)
    before = saved(tmp_path)
    monkeypatch.setattr(os, "fsync", FullDisk(good_calls))
    with pytest.raises(OSError, match="No space left"):
        CharTokenizer("abc").save(tmp_path)
    assert saved(tmp_path) == before


@pytest.mark.parametrize("good_renames", range(5))      # the marker that decides, and the four files
def test_saving_that_ends_between_two_renames_leaves_the_old_files_or_the_new_ones(tmp_path, monkeypatch, good_renames):
    old, new = BPETokenizer.train(["low lower lowest"], 260), BPETokenizer.train(["high higher highest"], 262)
    old.save(tmp_path)
    replace, renamed = os.replace, []

    def killed(source, target):
        if len(renamed) == good_renames:
            raise KeyboardInterrupt
        replace(source, target)
        renamed.append(target)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            new.save(tmp_path)
    assert load(tmp_path).to_dict() == (new if good_renames else old).to_dict()
    assert sorted(saved(tmp_path)) == sorted(FILES)


def test_the_tokenizer_that_comes_with_the_repository_loads():
    assert load(ROOT / "tokenizer_save").decode(load(ROOT / "tokenizer_save").encode("Enter HAMLET")) == "Enter HAMLET"
