"""Other libraries give our ids from exported files, and imported tokenizers segment every text as the originals do."""

import base64
import json
import os
import random
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import FullDisk
from folio.base.errors import FolioError
from folio.formats.tokenizer_parts import merges_of
from folio.formats.tokenizers import read, read_ranks, write
from folio.kernels.merging import learn_merges
from folio.kernels.splitting import SPLIT_PATTERNS
from test_tokenizer import SAMPLES, small_words, tricky_texts
from test_tokenizer_files import saved
from tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer

hf = pytest.importorskip("tokenizers")
tiktoken = pytest.importorskip("tiktoken")
load_ranks = pytest.importorskip("tiktoken.load").load_tiktoken_bpe
transformers = pytest.importorskip("transformers")

PATTERNS = sorted(SPLIT_PATTERNS)
SPECIAL = (END_OF_TEXT, "<|user|>", "<|Grüße an alle|>")
# As Qwen and Llama write them.
QWEN2 = (r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"""
         r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
FORMATS = {"huggingface": ["tokenizer.json"], "gpt2": ["vocab.json", "merges.txt"], "tiktoken": ["ranks"]}

mixtures = st.lists(st.sampled_from(SAMPLES).map(lambda sample: sample[:40]) | tricky_texts, max_size=5).map("".join)


@pytest.fixture(autouse=True, scope="module")
def nothing_outside():
    """No network and no cache: tiktoken caches files by their path, and would show a test the file of another one."""
    def refused(*_, **__):
        raise AssertionError("a local file used the network")
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
    """{library: (function from a text to its ids, the same with special tokens)} from the exported files"""
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
        "transformers": (lambda text: fast(text, split_special_tokens=True)["input_ids"],
                         lambda text: fast(text)["input_ids"]),
        "tiktoken": (encoding.encode_ordinary, lambda text: encoding.encode(text, allowed_special="all")),
    }
    if ours.pattern == "gpt2":
        written(ours, "gpt2", folder / "gpt2")
        gpt2 = transformers.GPT2Tokenizer.from_pretrained(folder / "gpt2")
        readers["GPT-2 in transformers"] = (lambda text: gpt2(text, split_special_tokens=True)["input_ids"], None)
    return readers


def split_and_byte_level(pattern):
    """The pre-tokenizer of the tokenizers library for a split pattern."""
    return hf.pre_tokenizers.Sequence([hf.pre_tokenizers.Split(hf.Regex(pattern), "isolated"),
                                       hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


# As the original models have them.
THEIR_SPLITS = {
    "gpt2": hf.pre_tokenizers.ByteLevel(add_prefix_space=False),
    "gpt2 as Split": split_and_byte_level(SPLIT_PATTERNS["gpt2"]),
    "qwen2": split_and_byte_level(QWEN2),
    "llama3": split_and_byte_level(LLAMA3),
    "smollm": hf.pre_tokenizers.Sequence([hf.pre_tokenizers.Digits(individual_digits=True),
                                          hf.pre_tokenizers.ByteLevel(add_prefix_space=False)]),
}


def token_bytes(tokenizer, text):
    return [tokenizer.token_bytes[token] for token in tokenizer.encode(text)]


# --- Export ---

def test_every_library_gives_our_ids_to_many_scripts_code_and_digits(ours, theirs):
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
def test_every_library_treats_special_tokens_inside_a_text_as_we_do(ours, theirs, text):
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


def test_gpt2_files_give_our_ids_with_our_split_pattern(ours, tmp_path):
    vocab, merges = map(str, written(ours, "gpt2", tmp_path))
    tokenizer = hf.Tokenizer(hf.models.BPE.from_file(vocab, merges))
    tokenizer.pre_tokenizer = split_and_byte_level(SPLIT_PATTERNS[ours.pattern])
    for sample in SAMPLES:
        assert tokenizer.encode(sample).ids == ours.encode(sample)


some_merges = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), max_size=8)


def tokenizer_with(pairs):
    """A tokenizer with any merges of a, b and c, mostly unlearnable ones; None where two make the same token."""
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
def test_merges_that_no_training_would_learn_are_exported_exactly_or_refused(tmp_path_factory, pairs, words):
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
    encoding = tiktoken.Encoding("odd", pat_str=SPLIT_PATTERNS["qwen2"], special_tokens={},
                                 mergeable_ranks=load_ranks(str(ranks)))
    assert [encoding.encode_ordinary(word) for word in words] == [ours.encode(word) for word in words]


def test_a_token_that_tiktoken_would_make_and_we_never_do_is_refused_and_nothing_is_written(tmp_path):
    ours = BPETokenizer([(98, 99), (97, 98), (257, 99)])           # b+c comes before ab+c can
    message = r"token 258, b'abc', where tiktoken would. The formats huggingface and gpt2 can"
    with pytest.raises(FolioError, match=message):
        written(ours, "tiktoken", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_character_tokenizer_is_refused(tmp_path, format):
    message = f"The format {format} stores byte pair encoding, and this tokenizer is one of characters"
    with pytest.raises(FolioError, match=message):
        written(CharTokenizer("abc"), format, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["huggingface", "tiktoken"])
def test_a_folder_is_refused_where_the_format_is_one_file(tmp_path, format):
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


# --- Export over existing files ---

@pytest.mark.parametrize("format, names", FORMATS.items())
def test_only_a_tokenizer_of_the_same_format_is_overwritten(format, names, tmp_path):
    for name in names:
        mine = tmp_path / name
        content = '{"chapters": [1, 2]}' if name.endswith(".json") else "Once upon a time.\n"
        mine.write_text(content, encoding="utf-8")
        before = mine.read_bytes()
        message = f"{name} exists, and is not a tokenizer in the format {format}; it was left as it is"
        with pytest.raises(FileExistsError, match=message):
            written(BPETokenizer([]), format, tmp_path)
        assert mine.read_bytes() == before and sorted(path.name for path in tmp_path.iterdir()) == [name]
        mine.unlink()
    for merges in ([], [(97, 98)]):          # the same format twice
        written(BPETokenizer(merges), format, tmp_path)
        written(BPETokenizer(merges), format, tmp_path)


@pytest.mark.parametrize("format, word", [("huggingface", "out"), ("huggingface", "out/"), ("tiktoken", "out/")])
def test_a_path_that_may_mean_a_folder_does_not_become_a_file(format, word, tmp_path):
    with pytest.raises(IsADirectoryError, match="Name it, as in .*out.tokenizer"):
        write(BPETokenizer([]), format, f"{tmp_path}/{word}")
    assert list(tmp_path.iterdir()) == []


# --- Round trip ---

@settings(max_examples=100)
@given(small_words, st.sampled_from(PATTERNS), st.sampled_from([(), (END_OF_TEXT,), SPECIAL]))
def test_an_exported_tokenizer_is_imported_as_it_was(tmp_path_factory, pretoken_counts, pattern, special):
    folder = tmp_path_factory.mktemp("back")
    original = BPETokenizer(learn_merges(pretoken_counts, 30), pattern, special)
    for format in FORMATS:
        if format == "tiktoken":
            again = read_ranks(written(original, format, folder)[0], pattern, special)
        else:
            again = read(*written(original, format, folder), pattern=pattern)
        assert again.to_dict() == original.to_dict(), format


def test_a_large_vocabulary_is_imported_as_it_was(ours, tmp_path):
    assert read(*written(ours, "huggingface", tmp_path)).to_dict() == ours.to_dict()
    assert read(*reversed(written(ours, "gpt2", tmp_path)), pattern=ours.pattern).to_dict() == ours.to_dict()
    assert read_ranks(*written(ours, "tiktoken", tmp_path), ours.pattern, SPECIAL).to_dict() == ours.to_dict()


def test_of_a_folder_the_files_in_it_are_read(tmp_path):
    pair, whole = BPETokenizer([(97, 98)]), BPETokenizer([(98, 99)])
    written(pair, "gpt2", tmp_path)
    assert read(tmp_path, pattern="qwen2").merges == pair.merges
    written(whole, "huggingface", tmp_path)
    assert read(tmp_path).merges == whole.merges


def test_merges_with_windows_line_ends_and_without_a_header_are_the_same(tmp_path):
    original = BPETokenizer.train(["low lower lowest"], 265)
    vocab, merges = written(original, "gpt2", tmp_path)
    merges.write_bytes(merges.read_bytes().split(b"\n", 1)[1].replace(b"\n", b"\r\n"))
    assert read(vocab, merges, pattern="qwen2").to_dict() == original.to_dict()


def test_a_token_that_looks_special_and_comes_from_a_merge_is_ordinary(tmp_path):
    original = BPETokenizer([(60, 97), (256, 62)], special_tokens=["<b>"])
    assert original.token_bytes[257:] == [b"<a>", b"<b>"]
    assert read(*written(original, "gpt2", tmp_path), pattern="qwen2").to_dict() == original.to_dict()


def test_the_lines_of_a_rank_file_may_be_in_any_order(tmp_path):
    original = BPETokenizer.train(["low lower lowest"], 265)
    path, = written(original, "tiktoken", tmp_path)
    path.write_bytes(b"\n".join(reversed(path.read_bytes().splitlines())))
    assert read(path, pattern="qwen2").to_dict() == original.to_dict()


def test_a_rank_file_gets_the_default_special_token(tmp_path):
    path, = written(BPETokenizer([(97, 98)], special_tokens=()), "tiktoken", tmp_path)
    assert read(path, pattern="gpt2").special_tokens == (END_OF_TEXT,)


# --- Import of tokenizers that others trained ---

@pytest.fixture(scope="module", params=THEIR_SPLITS)
def foreign(request, plays, tmp_path_factory):
    """(tokenizer, path of its file): trained by Hugging Face, special tokens first, then the bytes in GPT-2's order"""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = THEIR_SPLITS[request.param]
    tokenizer.decoder = hf.decoders.ByteLevel()
    tokenizer.train_from_iterator([plays[:50_000], *SAMPLES], hf.trainers.BpeTrainer(
        vocab_size=1200, special_tokens=["<s>", "</s>"], initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    path = tmp_path_factory.mktemp("foreign") / "tokenizer.json"
    tokenizer.save(str(path))
    return tokenizer, path


def bytes_of(foreign, ids):
    """The bytes of each id of a Hugging Face tokenizer."""
    alphabet = {name: value for value, name in enumerate(BPETokenizer([]).names()[:256])}
    return [bytes(map(alphabet.__getitem__, foreign.id_to_token(token))) for token in ids]


def test_an_imported_tokenizer_json_segments_texts_as_hugging_face_does(foreign):
    foreign, path = foreign
    ours = read(path)
    assert ours.special_tokens == ("<s>", "</s>") and ours.vocab_size == foreign.get_vocab_size() == 1200
    for sample in SAMPLES:
        assert token_bytes(ours, sample) == bytes_of(foreign, foreign.encode(sample).ids), sample


@settings(max_examples=50)
@given(st.lists(mixtures, min_size=10, max_size=10))
def test_an_imported_tokenizer_json_segments_mixtures_as_hugging_face_does(foreign, samples):
    foreign, path = foreign
    ours = read(path)
    for text in samples:
        assert token_bytes(ours, text) == bytes_of(foreign, foreign.encode(text).ids)


def test_an_imported_vocabulary_with_merges_segments_texts_as_hugging_face_does(foreign, tmp_path):
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


def test_an_imported_rank_file_segments_texts_as_tiktoken_does_with_its_bytes_in_any_order(ours, tmp_path):
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
    # Every token joins two others, but not always two that the earlier merges leave.
    for left, right in pairs:
        word = words[left % len(words)] + words[right % len(words)]
        words += [word] * (word not in words)
    path = rank_file(tmp_path_factory.mktemp("any") / "ranks", shuffled_bytes() + words[3:])
    try:
        imported = read(path, pattern="qwen2")
    except ValueError as error:
        assert "no merge makes the token" in str(error)
        return
    encoding = tiktoken.Encoding("any", pat_str=SPLIT_PATTERNS["qwen2"], special_tokens={},
                                 mergeable_ranks=load_ranks(str(path)))
    for sample in samples:
        assert token_bytes(imported, sample) == encoding.decode_tokens_bytes(encoding.encode_ordinary(sample))


def test_the_merges_of_a_rank_file_are_those_it_was_learned_with():
    assert merges_of([b"lo", b"low"]) == [(108, 111), (256, 119)]
    assert merges_of([]) == []
