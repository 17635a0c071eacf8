"""Other libraries give our ids from the files we write for them, and what is read from theirs cuts every text as they do."""

import base64
import json
import os
import random
import socket

import pytest
from conftest import ROOT, FullDisk, refusal, run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer import SAMPLES, saved, small_words, tricky_texts

from folio.base.errors import FolioError
from folio.data import corpus
from folio.formats.tokenizers import merges_of, read, read_ranks, write
from folio.kernels.merging import learn_merges
from folio.kernels.splitting import SPLIT_PATTERNS
from tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, load

hf = pytest.importorskip("tokenizers")
tiktoken = pytest.importorskip("tiktoken")
load_ranks = pytest.importorskip("tiktoken.load").load_tiktoken_bpe
transformers = pytest.importorskip("transformers")

PATTERNS = sorted(SPLIT_PATTERNS)
SPECIAL = (END_OF_TEXT, "<|user|>", "<|Grüße an alle|>")
QWEN2 = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""     # as Qwen writes it
FORMATS = {"huggingface": ["tokenizer.json"], "gpt2": ["vocab.json", "merges.txt"], "tiktoken": ["ranks"]}

mixtures = st.lists(st.sampled_from(SAMPLES).map(lambda sample: sample[:40]) | tricky_texts, max_size=5).map("".join)


@pytest.fixture(autouse=True, scope="module")
def nothing_outside():
    """No network, and no cache: tiktoken remembers files by their path and would show a test the file of another one."""
    def refused(*_, **__):
        raise AssertionError("a local file took the network")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refused)
        patch.setattr(socket, "getaddrinfo", refused)
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        yield


@pytest.fixture(scope="module", params=PATTERNS)
def ours(request, plays):
    return BPETokenizer.train([plays[:100_000], *SAMPLES * 5], 1500, request.param, SPECIAL)


def written(tokenizer, format, folder):
    """Write a tokenizer into a folder. -> the paths of its files"""
    write(tokenizer, format, folder if format == "gpt2" else folder / FORMATS[format][0])
    return [folder / name for name in FORMATS[format]]


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
    """The exported tokenizer as each library reads it: {library: (the ids of ordinary text, the ids where special tokens count)}"""
    folder = tmp_path_factory.mktemp("exported")
    path, = written(ours, "huggingface", folder)
    special, ordinary = hf.Tokenizer.from_file(str(path)), hf.Tokenizer.from_file(str(path))
    ordinary.encode_special_tokens = True
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    ranks, = written(ours, "tiktoken", folder)
    encoding = tiktoken.Encoding("ours", pat_str=SPLIT_PATTERNS[ours.pattern], special_tokens=ours.special_ids,
                                 mergeable_ranks=load_ranks(str(ranks)))
    readers = {
        "tokenizers": (lambda text: ordinary.encode(text).ids, lambda text: special.encode(text).ids),
        "transformers": (lambda text: fast(text, split_special_tokens=True)["input_ids"], lambda text: fast(text)["input_ids"]),
        "tiktoken": (encoding.encode_ordinary, lambda text: encoding.encode(text, allowed_special="all")),
    }
    if ours.pattern == "gpt2":
        written(ours, "gpt2", folder / "gpt2")
        gpt2 = transformers.GPT2Tokenizer.from_pretrained(folder / "gpt2")
        readers["GPT-2 in transformers"] = (lambda text: gpt2(text, split_special_tokens=True)["input_ids"], None)
    return readers


def token_bytes(tokenizer, text):
    return [tokenizer.token_bytes[token] for token in tokenizer.encode(text)]


# --- Out ---

def test_every_library_gives_our_ids_to_ten_scripts_emoji_code_line_ends_and_digits(ours, theirs):
    for library, (ordinary, _) in theirs.items():
        for sample in SAMPLES:
            assert ordinary(sample) == ours.encode(sample), (library, sample)


@settings(max_examples=100)
@given(mixtures)
def test_every_library_gives_our_ids_to_mixtures(ours, theirs, text):
    for library, (ordinary, _) in theirs.items():
        assert ordinary(text) == ours.encode(text), library


@settings(max_examples=100)
@given(st.lists(st.sampled_from([*SPECIAL, "<|", " ", "a", "'s", "\r\n", "é", "<|user"]), max_size=8).map("".join))
def test_a_special_token_in_the_middle_of_a_text_is_one_or_is_ordinary_as_it_is_with_us(ours, theirs, text):
    for library, (ordinary, special) in theirs.items():
        assert ordinary(text) == ours.encode(text), library
        assert special is None or special(text) == ours.encode(text, allow_special=True), library


def test_every_token_has_its_id_in_every_file(ours, tmp_path):
    tokenizer = hf.Tokenizer.from_file(str(written(ours, "huggingface", tmp_path)[0]))
    assert [tokenizer.id_to_token(token) for token in range(ours.vocab_size)] == ours.names()
    assert tokenizer.get_vocab_size() == ours.vocab_size
    vocab, merges = written(ours, "gpt2", tmp_path)
    assert json.loads(vocab.read_text(encoding="utf-8")) == {name: token for token, name in enumerate(ours.names())}
    assert merges.read_text(encoding="utf-8").count("\n") == 1 + len(ours.merges)
    ranks = load_ranks(str(written(ours, "tiktoken", tmp_path)[0]))
    assert sorted(ranks, key=ranks.get) + [special.encode() for special in SPECIAL] == ours.token_bytes
    assert sorted(ranks.values()) == list(range(256 + len(ours.merges)))


def test_hugging_face_gives_the_text_of_our_ids(ours, tmp_path):
    tokenizer = hf.Tokenizer.from_file(str(written(ours, "huggingface", tmp_path)[0]))
    for sample in [*SAMPLES, "".join(SPECIAL)]:
        assert tokenizer.decode(ours.encode(sample, allow_special=True), skip_special_tokens=False) == sample


def test_gpt2_files_give_our_ids_to_those_who_split_as_we_do(ours, tmp_path):
    vocab, merges = map(str, written(ours, "gpt2", tmp_path))
    tokenizer = hf.Tokenizer(hf.models.BPE.from_file(vocab, merges))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence([hf.pre_tokenizers.Split(hf.Regex(SPLIT_PATTERNS[ours.pattern]), "isolated"),
                                                          hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    for sample in SAMPLES:
        assert tokenizer.encode(sample).ids == ours.encode(sample)


some_merges = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), max_size=8)


def tokenizer_with(pairs):
    """A tokenizer with any merges of a, b and c, most of which no training would learn; None where two make the same token."""
    tokens, merges = [97, 98, 99], []
    for left, right in pairs:
        merges.append((tokens[left % len(tokens)], tokens[right % len(tokens)]))
        tokens.append(255 + len(merges))
    try:
        return BPETokenizer(merges)
    except ValueError:
        return None


@settings(max_examples=300)
@given(some_merges, st.lists(st.text("abc", max_size=30), min_size=3, max_size=3))
def test_merges_that_no_training_would_learn_are_written_rightly_or_refused(tmp_path_factory, pairs, words):
    if not (ours := tokenizer_with(pairs)):
        return
    folder = tmp_path_factory.mktemp("odd")
    tokenizer = hf.Tokenizer.from_file(str(written(ours, "huggingface", folder)[0]))
    assert [tokenizer.encode(word).ids for word in words] == [ours.encode(word) for word in words]
    assert read(*written(ours, "gpt2", folder), pattern="qwen2").to_dict() == ours.to_dict()
    try:
        ranks, = written(ours, "tiktoken", folder)
    except ValueError:
        return
    encoding = tiktoken.Encoding("odd", pat_str=SPLIT_PATTERNS["qwen2"], special_tokens={}, mergeable_ranks=load_ranks(str(ranks)))
    assert [encoding.encode_ordinary(word) for word in words] == [ours.encode(word) for word in words]


def test_a_token_that_tiktoken_would_make_and_we_never_do_is_refused_and_nothing_is_written(tmp_path):
    ours = BPETokenizer([(98, 99), (97, 98), (257, 99)])           # b+c comes before ab+c can
    with pytest.raises(FolioError, match=r"token 258, b'abc', where tiktoken would. The formats huggingface and gpt2 can"):
        written(ours, "tiktoken", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_tokenizer_of_characters_has_no_byte_pairs_to_write(tmp_path, format):
    with pytest.raises(FolioError, match=f"The format {format} stores byte pair encoding, and this tokenizer is one of characters"):
        written(CharTokenizer("abc"), format, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["huggingface", "tiktoken"])
def test_a_folder_is_no_place_for_one_file(tmp_path, format):
    with pytest.raises(OSError, match=f"is a folder, .* the format {format} is one file"):
        write(BPETokenizer([]), format, tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_that_fills_up_leaves_the_old_files_and_nothing_else(tmp_path, monkeypatch, format):
    written(BPETokenizer([(97, 98)]), format, tmp_path)
    before = saved(tmp_path)
    for good_calls in range(len(FORMATS[format])):
        monkeypatch.setattr(os, "fsync", FullDisk(good_calls))
        with pytest.raises(OSError, match="No space left"):
            written(BPETokenizer([(98, 99)]), format, tmp_path)
        assert saved(tmp_path) == before


# --- There and back ---

@settings(max_examples=100)
@given(small_words, st.sampled_from(PATTERNS), st.sampled_from([(), (END_OF_TEXT,), SPECIAL]))
def test_what_is_written_is_read_again_as_it_was(tmp_path_factory, pretoken_counts, pattern, special):
    folder = tmp_path_factory.mktemp("back")
    original = BPETokenizer(learn_merges(pretoken_counts, 30), pattern, special)
    for format in FORMATS:
        if format == "tiktoken":
            again = read_ranks(written(original, format, folder)[0], pattern, special)
        else:
            again = read(*written(original, format, folder), pattern=pattern)
        assert again.to_dict() == original.to_dict(), format


def test_a_large_vocabulary_is_read_again_as_it_was(ours, tmp_path):
    assert read(*written(ours, "huggingface", tmp_path)).to_dict() == ours.to_dict()
    assert read(*reversed(written(ours, "gpt2", tmp_path)), pattern=ours.pattern).to_dict() == ours.to_dict()
    assert read_ranks(*written(ours, "tiktoken", tmp_path), ours.pattern, SPECIAL).to_dict() == ours.to_dict()


def test_a_folder_is_read_for_what_lies_in_it(tmp_path):
    pair, whole = BPETokenizer([(97, 98)]), BPETokenizer([(98, 99)])
    written(pair, "gpt2", tmp_path)
    assert read(tmp_path, pattern="qwen2").merges == pair.merges
    written(whole, "huggingface", tmp_path)
    assert read(tmp_path).merges == whole.merges


def test_merges_in_windows_line_ends_without_a_header_are_the_same(tmp_path):
    original = BPETokenizer.train(["low lower lowest"], 265)
    vocab, merges = written(original, "gpt2", tmp_path)
    merges.write_bytes(merges.read_bytes().split(b"\n", 1)[1].replace(b"\n", b"\r\n"))
    assert read(vocab, merges, pattern="qwen2").to_dict() == original.to_dict()


def test_a_token_that_looks_special_and_comes_from_a_merge_is_ordinary(tmp_path):
    original = BPETokenizer([(60, 97), (256, 62)], special_tokens=["<b>"])
    assert original.token_bytes[257:] == [b"<a>", b"<b>"]
    assert read(*written(original, "gpt2", tmp_path), pattern="qwen2").to_dict() == original.to_dict()


def test_the_lines_of_a_rank_file_may_stand_in_any_order(tmp_path):
    original = BPETokenizer.train(["low lower lowest"], 265)
    path, = written(original, "tiktoken", tmp_path)
    path.write_bytes(b"\n".join(reversed(path.read_bytes().splitlines())))
    assert read(path, pattern="qwen2").to_dict() == original.to_dict()


def test_a_rank_file_gets_the_special_token_that_every_tokenizer_has_here(tmp_path):
    assert read(*written(BPETokenizer([(97, 98)], special_tokens=()), "tiktoken", tmp_path), pattern="gpt2").special_tokens == (END_OF_TEXT,)


# --- In: what others have made ---

@pytest.fixture(scope="module", params=["gpt2 as ByteLevel", *PATTERNS])
def foreign(request, plays, tmp_path_factory):
    """A tokenizer that Hugging Face trained: special tokens first, then the bytes in GPT-2's order. -> (it, the path of its file)"""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    if request.param == "gpt2 as ByteLevel":
        tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        pattern = {"qwen2": QWEN2, "gpt2": SPLIT_PATTERNS["gpt2"]}[request.param]
        tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence([
            hf.pre_tokenizers.Split(hf.Regex(pattern), "isolated"), hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = hf.decoders.ByteLevel()
    tokenizer.train_from_iterator([plays[:50_000], *SAMPLES], hf.trainers.BpeTrainer(
        vocab_size=1200, special_tokens=["<s>", "</s>"], initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    path = tmp_path_factory.mktemp("foreign") / "tokenizer.json"
    tokenizer.save(str(path))
    return tokenizer, path


def bytes_of(foreign, ids):
    """The bytes of each id of a Hugging Face tokenizer."""
    alphabet = {name: value for value, name in enumerate(BPETokenizer([]).names()[:256])}
    return [bytes(map(alphabet.__getitem__, foreign.id_to_token(token))) for token in ids]


def test_an_imported_tokenizer_json_cuts_texts_as_hugging_face_does(foreign):
    foreign, path = foreign
    ours = read(path)
    assert ours.special_tokens == ("<s>", "</s>") and ours.vocab_size == foreign.get_vocab_size() == 1200
    for sample in SAMPLES:
        assert token_bytes(ours, sample) == bytes_of(foreign, foreign.encode(sample).ids), sample


@settings(max_examples=50)
@given(st.lists(mixtures, min_size=10, max_size=10))
def test_an_imported_tokenizer_json_cuts_mixtures_as_hugging_face_does(foreign, samples):
    foreign, path = foreign
    ours = read(path)
    for text in samples:
        assert token_bytes(ours, text) == bytes_of(foreign, foreign.encode(text).ids)


def test_an_imported_vocabulary_with_merges_cuts_texts_as_hugging_face_does(foreign, tmp_path):
    foreign, path = foreign
    ours = read(*foreign.model.save(str(tmp_path)), pattern=read(path).pattern)
    assert ours.special_tokens == ("<s>", "</s>")
    for sample in SAMPLES:
        assert token_bytes(ours, sample) == bytes_of(foreign, foreign.encode(sample).ids), sample


def rank_file(path, tokens):
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    return path


def shuffled_bytes():
    letters = [bytes([value]) for value in range(256)]
    random.Random(1).shuffle(letters)
    return letters


def test_an_imported_rank_file_cuts_texts_as_tiktoken_does_whatever_order_its_bytes_have(ours, tmp_path):
    tokens = shuffled_bytes() + ours.token_bytes[256:-len(SPECIAL)]
    path = rank_file(tmp_path / "ranks.tiktoken", tokens)
    encoding = tiktoken.Encoding("theirs", pat_str=SPLIT_PATTERNS[ours.pattern], special_tokens={},
                                 mergeable_ranks=load_ranks(str(path)))
    imported = read(path, pattern=ours.pattern)
    assert imported.merges == ours.merges
    for sample in SAMPLES:
        assert token_bytes(imported, sample) == encoding.decode_tokens_bytes(encoding.encode_ordinary(sample)), sample


@settings(max_examples=500)
@given(some_merges, st.lists(st.text("abc", max_size=30), min_size=3, max_size=3))
def test_any_ranks_are_imported_exactly_or_refused(tmp_path_factory, pairs, samples):
    words = [b"a", b"b", b"c"]
    for left, right in pairs:                           # every token is two others, but not always two that are left when its turn comes
        word = words[left % len(words)] + words[right % len(words)]
        words += [word] * (word not in words)
    path = rank_file(tmp_path_factory.mktemp("any") / "ranks", shuffled_bytes() + words[3:])
    try:
        imported = read(path, pattern="qwen2")
    except ValueError as error:
        assert "no merge makes the token" in str(error)
        return
    encoding = tiktoken.Encoding("any", pat_str=SPLIT_PATTERNS["qwen2"], special_tokens={}, mergeable_ranks=load_ranks(str(path)))
    for sample in samples:
        assert token_bytes(imported, sample) == encoding.decode_tokens_bytes(encoding.encode_ordinary(sample))


def test_the_merges_of_a_rank_file_are_those_it_was_learned_with():
    assert merges_of([b"lo", b"low"]) == [(108, 111), (256, 119)]
    assert merges_of([]) == []


# --- In: what is recognised, and what is refused ---

def a_tokenizer_json(folder, change=lambda values: None):
    """The tokenizer.json of a small tokenizer, with something in it changed."""
    path, = written(BPETokenizer([(97, 98), (256, 99)]), "huggingface", folder)
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def set_in(*keys):
    """set_in("model", "type", "Unigram") -> a function that sets values["model"]["type"]"""
    *where, last, value = keys

    def change(values):
        for key in where:
            values = values[key]
        values[last] = value
    return change


SPLIT = ("pre_tokenizer", "pretokenizers", 0)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


@pytest.mark.parametrize("change, pattern", [
    (set_in(*SPLIT, "pattern", {"Regex": QWEN2}), "qwen2"),
    (set_in(*SPLIT, "pattern", {"Regex": SPLIT_PATTERNS["gpt2"]}), "gpt2"),
    (set_in(*SPLIT, "pattern", {"Regex": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""}), "gpt2"),
    (set_in("pre_tokenizer", BYTE_LEVEL), "gpt2"),
    (set_in("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{**BYTE_LEVEL, "use_regex": True}]}), "gpt2"),
], ids=["qwen2 as Qwen writes it", "gpt2", "gpt2 as tiktoken writes it", "ByteLevel", "ByteLevel in a sequence"])
def test_our_split_patterns_are_recognised_however_they_are_written(tmp_path, change, pattern):
    assert read(a_tokenizer_json(tmp_path, change)).pattern == pattern


def test_the_published_qwen2_pattern_differs_from_ours_in_one_contraction_only():
    split = {pattern: hf.pre_tokenizers.Split(hf.Regex(pattern), "isolated").pre_tokenize_str for pattern in (QWEN2, SPLIT_PATTERNS["qwen2"])}
    letters = [chr(code) for code in (*range(0x250), *range(0x1E00, 0x2200), *range(0xFB00, 0xFB10))]
    beginnings = [f"'{before}{letter}x" for before in ("", "l", "r", "v") for letter in letters]
    differing = [text for text in beginnings if split[QWEN2](text) != split[SPLIT_PATTERNS["qwen2"]](text)]
    assert differing == ["'ſx"]


@pytest.mark.parametrize("change", [
    set_in("post_processor", BYTE_LEVEL),
    lambda values: values["model"].pop("type"),                                     # as in the first files of GPT-2
    lambda values: values["model"].update(continuing_subword_prefix="", end_of_word_suffix=""),
    lambda values: values["model"].update(merges=[["a", "b"], ["ab", "c"]]),        # as newer files have them
    lambda values: values["model"].update(ignore_merges=True),
    lambda values: values["model"]["vocab"].update({END_OF_TEXT: 258}),
], ids=["ByteLevel after", "no type", "empty affixes", "merges as lists", "ignore_merges without effect", "special in the vocabulary"])
def test_what_changes_no_segmentation_is_read(tmp_path, change):
    assert read(a_tokenizer_json(tmp_path, change)).to_dict() == BPETokenizer([(97, 98), (256, 99)]).to_dict()


REFUSED = {
    "Unigram": (set_in("model", "type", "Unigram"), "its model is Unigram; Folio supports byte-level BPE only"),
    "WordPiece": (set_in("model", "type", "WordPiece"), "its model is WordPiece"),
    "no model": (lambda values: values.pop("model"), "has no model. If it is a vocab.json, pass its merges.txt as well"),
    "byte_fallback": (set_in("model", "byte_fallback", True), "its model has byte_fallback=True"),
    "dropout": (set_in("model", "dropout", 0.1), "its model has dropout=0.1"),
    "suffix": (set_in("model", "end_of_word_suffix", "</w>"), "its model has end_of_word_suffix='</w>'"),
    "ignore_merges": (lambda values: values["model"].update(ignore_merges=True, merges=["b c", "a b", "ab c"],        # b+c comes before ab+c can
                                                            vocab=values["model"]["vocab"] | {"bc": 259}),
                      "no merges make its token b'abc'; only ignore_merges=true does"),
    "added token": (set_in("added_tokens", 0, "special", False), "has the added token '<|endoftext|>', which is not special"),
    "lstrip": (set_in("added_tokens", 0, "lstrip", True), "has the added token '<|endoftext|>', with lstrip"),
    "two ids": (set_in("model", "vocab", END_OF_TEXT, 999), "gives '<|endoftext|>' two ids, 258 and 999"),
    "normalizer": (set_in("normalizer", {"type": "NFC"}), "its normalizer NFC changes a text before it is split, .* --drop normalizer"),
    "template": (set_in("post_processor", {"type": "TemplateProcessing"}), "its post_processor TemplateProcessing adds tokens"),
    "truncation": (set_in("truncation", {"max_length": 512}), "its truncation cuts long texts"),
    "no pre-tokenizer": (set_in("pre_tokenizer", None), "its pre-tokenizer is nothing; Folio supports byte-level BPE only"),
    "Metaspace": (set_in("pre_tokenizer", {"type": "Metaspace"}), "its pre-tokenizer is Metaspace"),
    "prefix space": (set_in("pre_tokenizer", {**BYTE_LEVEL, "add_prefix_space": True}), "puts a space before every text"),
    "other pattern": (set_in(*SPLIT, "pattern", {"Regex": r"\p{N}{1,3}|\X"}), r'splits text with \{"Regex": .*; Folio supports only qwen2 .*, gpt2 '),
    "removed": (set_in(*SPLIT, "behavior", "Removed"), "splits text with .*; Folio supports only"),
    "split twice": (set_in("pre_tokenizer", "pretokenizers", 1, "use_regex", True), "splits text with .*; Folio supports only"),
    "no byte": (lambda values: values["model"]["vocab"].update({"xx": values["model"]["vocab"].pop("A")}),
                "no token for 1 of the 256 bytes, for example 0x41"),
    "hole": (set_in("added_tokens", 0, "id", 300), "the ids of its 259 tokens are not 0 to 258: 258 is missing"),
    "one id twice": (set_in("model", "vocab", "abc", 256), "257 is missing"),
    "unreachable": (lambda values: values["model"]["merges"].pop(), "no merge makes 1 of its tokens, for example 'abc'"),
    "result missing": (set_in("model", "merges", 1, "ab d"), "merge 2, 'ab d', makes 'abd', which is not in the vocabulary"),
    "part missing": (lambda values: values["model"]["merges"].reverse(), "merge 1, 'ab c', joins 'ab', which no merge before it makes"),
    "made twice": (lambda values: values["model"]["merges"].append("a b"), "merge 3, 'a b', makes 'ab' a second time"),
    "three parts": (set_in("model", "merges", 1, "a b c"), "merge 2, 'a b c', does not join two tokens"),
    "a number": (set_in("model", "merges", 5), "does not have the structure of a tokenizer.json"),
    "no merges": (lambda values: values["model"].pop("merges"), "does not have the structure of a tokenizer.json, KeyError at 'merges'"),
    "vocabulary as a list": (set_in("model", "vocab", [["a", -1.0]]), "does not have the structure of a tokenizer.json"),
}


@pytest.mark.parametrize("change, said", REFUSED.values(), ids=REFUSED)
def test_what_folio_cannot_do_as_well_is_refused_in_one_sentence_with_the_files_name(tmp_path, change, said):
    path = a_tokenizer_json(tmp_path, change)
    with pytest.raises(FolioError, match=said) as caught:
        read(path)
    assert type(caught.value) is FolioError and str(caught.value).startswith(f"{path} cannot be imported: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("part, value", [("normalizer", {"type": "NFC"}), ("post_processor", {"type": "TemplateProcessing"}),
                                         ("truncation", {"max_length": 5}), ("padding", {"pad_id": 0})])
def test_what_is_refused_may_be_left_out_by_name(tmp_path, part, value):
    path = a_tokenizer_json(tmp_path, set_in(part, value))
    with pytest.raises(FolioError, match=f"--drop {part}"):
        read(path, drop=[other for other in ("normalizer", "post_processor", "truncation", "padding") if other != part])
    assert read(path, drop=[part]).merges == [(97, 98), (256, 99)]


@pytest.mark.parametrize("content, said", [
    (b"", "not JSON"), (b"{", "not JSON"), (b"\xff{}", "not JSON"), (b"[" * 100_000, "not JSON"), (b"[1]", "not a JSON object"),
    (b'{"a": 0}', "no model"),
])
def test_a_damaged_tokenizer_json_is_refused(tmp_path, content, said):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(FolioError, match=said) as caught:
        read(path)
    assert str(path) in str(caught.value)


def line(token, rank):
    return base64.b64encode(token) + b" %d\n" % rank


BYTES = b"".join(line(bytes([value]), value) for value in range(256))


@pytest.mark.parametrize("content, said", [
    (b"", "no token for 256 of the 256 bytes"),
    (BYTES[7:], "the ids of its 255 tokens are not 0 to 254: 0 is missing"),
    (BYTES + line(b"ab", 257), "the ids of its 257 tokens are not 0 to 256: 256 is missing"),
    (BYTES + line(b"ab", 255), "256 is missing"),
    (BYTES + line(b"ab", 256) + line(b"ab", 257), "line 258 has the token b'ab' again"),
    (BYTES + line(b"abc", 256), "no merge makes the token b'abc': the tokens before it leave 3 parts of it, not two"),
    (BYTES + line(b"bc", 256) + line(b"ab", 257) + line(b"abcd", 258), "no merge makes the token b'abcd'"),
    (BYTES.replace(line(b"A", 65), line(b"AA", 65)), "no token for 1 of the 256 bytes, for example 0x41"),
    (BYTES + b"YWI=\n", "line 257, b'YWI=', is not a token in base64 and its rank"),
    (BYTES + b"YWI= x\n", "line 257"), (BYTES + b"Y=WI 256\n", "line 257"), (BYTES + b"\xff\xfe 256\n", "line 257"),
    (b"#version: 0.2\na b\n", "line 1, b'#version: 0.2', is not a token in base64"),
    (BYTES + line(END_OF_TEXT.encode(), 256), "no merge makes the token b'<|endoftext|>'"),
], ids=range(14))
def test_a_rank_file_that_says_no_tokenizer_is_refused(tmp_path, content, said):
    path = tmp_path / "ranks.tiktoken"
    path.write_bytes(content)
    with pytest.raises(FolioError) as caught:
        read(path, pattern="gpt2")
    assert said in str(caught.value) and str(caught.value).startswith(f"{path} cannot be imported: ")


@pytest.mark.parametrize("change, said", [
    (lambda vocab, merges: vocab.update({"[PAD]": vocab.pop(END_OF_TEXT)}),
     r"no merge makes 1 of its tokens, for example '\[PAD\]', and they are not special"),
    (lambda vocab, merges: vocab.update({"<s>": 300}), "258 is missing"),
    (lambda vocab, merges: merges.append("b"), "merge 2, 'b', does not join two tokens"),
    (lambda vocab, merges: merges.append("b c"), "makes 'bc', which is not in the vocabulary"),
])
def test_a_vocabulary_that_does_not_go_with_its_merges_is_refused(tmp_path, change, said):
    vocab_file, merges_file = written(BPETokenizer([(97, 98)]), "gpt2", tmp_path)
    vocab, merges = json.loads(vocab_file.read_text(encoding="utf-8")), merges_file.read_text(encoding="utf-8").splitlines()
    change(vocab, merges)
    vocab_file.write_text(json.dumps(vocab), encoding="utf-8")
    merges_file.write_text("\n".join(merges), encoding="utf-8")
    with pytest.raises(FolioError, match=said) as caught:
        read(vocab_file, merges_file, pattern="gpt2")
    assert str(caught.value).startswith(f"{vocab_file} with merges.txt cannot be imported: ")


@pytest.mark.parametrize("format", ["gpt2", "tiktoken"])
def test_files_that_do_not_say_how_text_is_split_want_it_said(tmp_path, format):
    paths = written(BPETokenizer([]), format, tmp_path)
    with pytest.raises(FolioError, match="does not contain its split pattern; pass --pattern qwen2 or --pattern gpt2"):
        read(*paths)
    with pytest.raises(FolioError, match="Split pattern 'gpt4' is not one of qwen2, gpt2"):
        read(*paths, pattern="gpt4")


def test_a_pattern_that_contradicts_the_file_is_refused(tmp_path):
    path, = written(BPETokenizer([], "gpt2"), "huggingface", tmp_path)
    assert read(path, pattern="gpt2").pattern == "gpt2"
    with pytest.raises(FolioError, match="splits text with the pattern gpt2, not qwen2"):
        read(path, pattern="qwen2")


@pytest.mark.parametrize("names", [["nowhere.json"], ["nowhere"], ["vocab.json", "merges.txt"], ["."]])
def test_a_file_that_is_not_there_is_named(tmp_path, names):
    with pytest.raises(FileNotFoundError, match="There is no .*(nowhere|vocab|tokenizer).* An import takes"):
        read(*(tmp_path / name for name in names))


# --- From the command line ---

def convert(*words):
    return run_python("-m", "folio.convert", *words)


def test_the_tokenizer_goes_out_and_comes_back_from_the_command_line(tmp_path):
    shipped = load(ROOT / "tokenizer_save")
    for format, words in FORMATS.items():
        target = tmp_path / format if format == "gpt2" else tmp_path / words[0]
        done = convert("export", format, target)
        assert done.returncode == 0 and done.stdout.startswith(f"tokenizer   1,024 tokens -> {target}"), done.stderr
        assert (SPLIT_PATTERNS["qwen2"] in done.stdout) == (format != "huggingface")
    for number, words in enumerate(([tmp_path / "tokenizer.json"], [tmp_path / "gpt2/vocab.json", tmp_path / "gpt2/merges.txt", "--pattern", "qwen2"],
                                    [tmp_path / "ranks", "--pattern", "qwen2"])):
        project = tmp_path / f"project{number}"
        done = convert("import", *words, "--home", project)
        assert done.returncode == 0, done.stderr
        assert "bpe, 1,024 tokens, 767 merges, split as qwen2, special: <|endoftext|>" in done.stdout
        assert f"Next: python train.py --home {project} (" in done.stdout
        assert load(project / "tokenizer_save").to_dict() == shipped.to_dict()


def test_training_goes_on_with_the_tokenizer_that_was_imported(tmp_path, home, plays):
    path, = written(BPETokenizer.train([plays[:20_000]], 400, "gpt2"), "huggingface", tmp_path)
    project = home(plays[:20_000])
    assert convert("import", path, "--home", project.folder).returncode == 0
    tokenizer, made = corpus.find(project, say=lambda message: None)
    assert (tokenizer.vocab_size, tokenizer.pattern) == (400, "gpt2")
    assert tokenizer.decode(made.tokens) == plays[:20_000]


@pytest.mark.parametrize("missing", [[], ["merges.json"]], ids=["whole", "damaged"])
def test_a_tokenizer_that_is_there_is_replaced_only_when_asked(tmp_path, missing):
    path, = written(BPETokenizer([(97, 98)]), "huggingface", tmp_path)
    BPETokenizer([]).save(tmp_path / "tokenizer_save")
    for name in missing:
        (tmp_path / "tokenizer_save" / name).unlink()
    before = saved(tmp_path / "tokenizer_save")
    message = refusal(convert("import", path, "--home", tmp_path))
    assert f"There is already a tokenizer in {tmp_path / 'tokenizer_save'}; pass --replace to replace it." in message
    assert saved(tmp_path / "tokenizer_save") == before
    assert convert("import", path, "--home", tmp_path, "--replace").returncode == 0
    assert load(tmp_path / "tokenizer_save").merges == [(97, 98)]


def test_a_refused_import_leaves_the_tokenizer_that_was_there(tmp_path):
    path = a_tokenizer_json(tmp_path, set_in("normalizer", {"type": "NFC"}))
    BPETokenizer([]).save(tmp_path / "tokenizer_save")
    before = saved(tmp_path / "tokenizer_save")
    message = refusal(convert("import", path, "--home", tmp_path, "--replace"))
    assert "--drop normalizer" in message and saved(tmp_path / "tokenizer_save") == before
    assert convert("import", path, "--home", tmp_path, "--replace", "--drop", "normalizer").returncode == 0


@pytest.mark.parametrize("words, said", [
    (["export", "hugging", "x"], "export huggingface|gpt2|tiktoken PATH"), (["export", "gpt2"], "export huggingface|gpt2|tiktoken PATH"),
    (["import", "a", "b", "c"], "one path or two"), (["import"], "WORD"), (["improt", "a"], "'improt'"),
    (["import", "a", "--patern", "gpt2"], "did you mean --pattern?"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_wrong_command_line_exits_with_code_2_and_says_how_it_goes(tmp_path, words, said):
    message = refusal(convert(*words, "--home", tmp_path), code=2)
    assert message.startswith("folio.convert: ") and said in message and "python -m folio.convert --help" in message
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    assert "There is no nowhere.json. An import takes" in refusal(convert("import", "nowhere.json", "--home", tmp_path))
    assert "python init.py" in refusal(convert("export", "gpt2", tmp_path / "out", "--home", tmp_path))


# --- What is there already ---

@pytest.mark.parametrize("format, names", FORMATS.items())
def test_nothing_but_a_tokenizer_of_the_format_is_written_over(format, names, tmp_path):
    for name in names:
        mine = tmp_path / name
        mine.write_text('{"chapters": [1, 2]}' if name.endswith(".json") else "Once upon a time.\n", encoding="utf-8")
        before = mine.read_bytes()
        with pytest.raises(FileExistsError, match=f"{name} exists, and is not a tokenizer in the format {format}; it was left as it is"):
            written(BPETokenizer([]), format, tmp_path)
        assert mine.read_bytes() == before and sorted(path.name for path in tmp_path.iterdir()) == [name]
        mine.unlink()
    for merges in ([], [(97, 98)]):          # its own kind, written twice
        written(BPETokenizer(merges), format, tmp_path)
        written(BPETokenizer(merges), format, tmp_path)


@pytest.mark.parametrize("format, word", [("huggingface", "out"), ("huggingface", "out/"), ("tiktoken", "out/")])
def test_what_may_be_meant_as_a_folder_does_not_become_a_file(format, word, tmp_path):
    with pytest.raises(IsADirectoryError, match="Name it, as in .*out.tokenizer"):
        write(BPETokenizer([]), format, f"{tmp_path}/{word}")
    assert list(tmp_path.iterdir()) == []


def test_convert_leaves_a_novel_as_it_was(tmp_path):
    novel = tmp_path / "novel.txt"
    novel.write_text("Once upon a time.", encoding="utf-8")
    assert "novel.txt exists, and is not a tokenizer" in refusal(convert("export", "tiktoken", novel))
    assert novel.read_text(encoding="utf-8") == "Once upon a time."
