"""Imports recognize what Folio can do exactly, and refuse everything else in one sentence with the name of the file."""

import base64
import json

import pytest

from folio.base.errors import FolioError
from folio.formats.tokenizers import DROPPABLE, read
from folio.kernels.splitting import SPLIT_PATTERNS
from test_tokenizers import QWEN2, hf, written
from tokenizer import END_OF_TEXT, BPETokenizer


def a_tokenizer_json(folder, change=lambda values: None):
    """Write the tokenizer.json of a small tokenizer, changed by a function. -> its path"""
    path, = written(BPETokenizer([(97, 98), (256, 99)]), "huggingface", folder)
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def set_in(*keys):
    """Return a function that sets an entry: set_in("model", "type", "Unigram") sets values["model"]["type"]."""
    *where, last, value = keys

    def change(values):
        for key in where:
            values = values[key]
        values[last] = value
    return change


SPLIT = ("pre_tokenizer", "pretokenizers", 0)
TIKTOKEN_GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


@pytest.mark.parametrize("change, pattern", [
    (set_in(*SPLIT, "pattern", {"Regex": QWEN2}), "qwen2"),
    (set_in(*SPLIT, "pattern", {"Regex": SPLIT_PATTERNS["gpt2"]}), "gpt2"),
    (set_in(*SPLIT, "pattern", {"Regex": TIKTOKEN_GPT2}), "gpt2"),
    (set_in("pre_tokenizer", BYTE_LEVEL), "gpt2"),
    (set_in("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{**BYTE_LEVEL, "use_regex": True}]}), "gpt2"),
], ids=["qwen2 as Qwen writes it", "gpt2", "gpt2 as tiktoken writes it", "ByteLevel", "ByteLevel in a sequence"])
def test_every_spelling_of_our_split_patterns_is_recognized(tmp_path, change, pattern):
    assert read(a_tokenizer_json(tmp_path, change)).pattern == pattern


def test_the_published_qwen2_pattern_differs_from_ours_in_one_contraction_only():
    published, ours = (hf.pre_tokenizers.Split(hf.Regex(pattern), "isolated").pre_tokenize_str
                       for pattern in (QWEN2, SPLIT_PATTERNS["qwen2"]))
    letters = [chr(code) for code in (*range(0x250), *range(0x1E00, 0x2200), *range(0xFB00, 0xFB10))]
    beginnings = [f"'{before}{letter}x" for before in ("", "l", "r", "v") for letter in letters]
    assert [text for text in beginnings if published(text) != ours(text)] == ["'ſx"]


@pytest.mark.parametrize("change", [
    set_in("post_processor", BYTE_LEVEL),
    set_in("post_processor", {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}]}),
    lambda values: values["model"].pop("type"),                                     # as in the first files of GPT-2
    lambda values: values["model"].update(continuing_subword_prefix="", end_of_word_suffix=""),
    lambda values: values["model"].update(merges=[["a", "b"], ["ab", "c"]]),        # as newer files have them
    lambda values: values["model"].update(ignore_merges=True),
    lambda values: values["model"]["vocab"].update({END_OF_TEXT: 258}),
], ids=["ByteLevel after", "template of the text alone", "no type", "empty affixes", "merges as lists",
        "ignore_merges without effect", "special in the vocabulary"])
def test_what_changes_no_segmentation_is_read(tmp_path, change):
    assert read(a_tokenizer_json(tmp_path, change)).to_dict() == BPETokenizer([(97, 98), (256, 99)]).to_dict()


REFUSED = {
    "Unigram": (set_in("model", "type", "Unigram"), "its model is Unigram; Folio supports byte-level BPE only"),
    "WordPiece": (set_in("model", "type", "WordPiece"), "its model is WordPiece"),
    "no model": (lambda values: values.pop("model"),
                 "has no model. If it is a vocab.json, pass its merges.txt as well"),
    "byte_fallback": (set_in("model", "byte_fallback", True), "its model has byte_fallback=True"),
    "dropout": (set_in("model", "dropout", 0.1), "its model has dropout=0.1"),
    "suffix": (set_in("model", "end_of_word_suffix", "</w>"), "its model has end_of_word_suffix='</w>'"),
    # The merge b+c comes before ab+c, so the bytes abc never become one token.
    "ignore_merges": (lambda values: (set_in("added_tokens", 0, "id", 259)(values), values["model"].update(
        ignore_merges=True, merges=["b c", "a b", "ab c"], vocab=values["model"]["vocab"] | {"bc": 258})),
                      "no merges make 1 of its tokens, for example 'abc'; only ignore_merges=true does"),
    "added token": (set_in("added_tokens", 0, "special", False),
                    "has the added token '<|endoftext|>', which is not special"),
    "lstrip": (set_in("added_tokens", 0, "lstrip", True), "has the added token '<|endoftext|>', with lstrip"),
    "two ids": (set_in("model", "vocab", END_OF_TEXT, 999), "gives '<|endoftext|>' two ids, 258 and 999"),
    "normalizer": (set_in("normalizer", {"type": "NFC"}),
                   "its normalizer NFC changes a text before it is split, .* --drop normalizer"),
    "template": (set_in("post_processor", {"type": "TemplateProcessing"}),
                 "its post_processor TemplateProcessing adds tokens"),
    "truncation": (set_in("truncation", {"max_length": 512}), "its truncation cuts long texts"),
    "no pre-tokenizer": (set_in("pre_tokenizer", None),
                         "its pre-tokenizer is nothing; Folio supports byte-level BPE only"),
    "Metaspace": (set_in("pre_tokenizer", {"type": "Metaspace"}), "its pre-tokenizer is Metaspace"),
    "prefix space": (set_in("pre_tokenizer", {**BYTE_LEVEL, "add_prefix_space": True}),
                     "puts a space before every text"),
    "other pattern": (set_in(*SPLIT, "pattern", {"Regex": r"\p{N}{1,3}|\X"}),
                      r'splits text with \{"Regex": .*; Folio supports only the patterns qwen2, gpt2, llama3, smollm'),
    "removed": (set_in(*SPLIT, "behavior", "Removed"), "splits text with .*; Folio supports only"),
    "split twice": (set_in("pre_tokenizer", "pretokenizers", 1, "use_regex", True),
                    "splits text with .*; Folio supports only"),
    "no byte": (lambda values: values["model"]["vocab"].update({"xx": values["model"]["vocab"].pop("A")}),
                "no token for 1 of the 256 bytes, for example 0x41"),
    "hole": (set_in("added_tokens", 0, "id", 300), "the ids of its 259 tokens are not 0 to 258: 258 is missing"),
    "one id twice": (set_in("model", "vocab", "abc", 256), "257 is missing"),
    "unreachable": (lambda values: values["model"]["merges"].pop(),
                    "no merge makes 1 of its tokens, for example 'abc'"),
    "result missing": (set_in("model", "merges", 1, "ab d"),
                       "merge 2, 'ab d', makes 'abd', which is not in the vocabulary"),
    "part missing": (lambda values: values["model"]["merges"].reverse(),
                     "merge 1, 'ab c', joins 'ab', which no merge before it makes"),
    "made twice": (lambda values: values["model"]["merges"].append("a b"), "merge 3, 'a b', makes 'ab' a second time"),
    "three parts": (set_in("model", "merges", 1, "a b c"), "merge 2, 'a b c', does not join two tokens"),
    "a number": (set_in("model", "merges", 5), "does not have the structure of a tokenizer.json"),
    "no merges": (lambda values: values["model"].pop("merges"),
                  "does not have the structure of a tokenizer.json, KeyError at 'merges'"),
    "vocabulary as a list": (set_in("model", "vocab", [["a", -1.0]]),
                             "does not have the structure of a tokenizer.json"),
}


@pytest.mark.parametrize("change, said", REFUSED.values(), ids=REFUSED)
def test_what_folio_does_not_support_is_refused_in_one_sentence_with_the_files_name(tmp_path, change, said):
    path = a_tokenizer_json(tmp_path, change)
    with pytest.raises(FolioError, match=said) as caught:
        read(path)
    message = str(caught.value)
    assert type(caught.value) is FolioError
    assert message.startswith(f"{path} cannot be imported: ") and "\n" not in message


@pytest.mark.parametrize("part, value", [
    ("normalizer", {"type": "NFC"}), ("post_processor", {"type": "TemplateProcessing"}),
    ("truncation", {"max_length": 5}), ("padding", {"pad_id": 0})])
def test_what_is_refused_may_be_left_out_by_name(tmp_path, part, value):
    path = a_tokenizer_json(tmp_path, set_in(part, value))
    with pytest.raises(FolioError, match=f"--drop {part}"):
        read(path, drop=[name for name in DROPPABLE if name != part])
    assert read(path, drop=[part]).merges == [(97, 98), (256, 99)]


@pytest.mark.parametrize("content, said", [
    (b"", "not JSON"), (b"{", "not JSON"), (b"\xff{}", "not JSON"), (b"[" * 100_000, "not JSON"),
    (b"[1]", "not a JSON object"), (b'{"a": 0}', "no model"),
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
def test_a_rank_file_that_describes_no_tokenizer_is_refused(tmp_path, content, said):
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
def test_a_vocabulary_that_does_not_fit_its_merges_is_refused(tmp_path, change, said):
    vocab_file, merges_file = written(BPETokenizer([(97, 98)]), "gpt2", tmp_path)
    vocab = json.loads(vocab_file.read_text(encoding="utf-8"))
    merges = merges_file.read_text(encoding="utf-8").splitlines()
    change(vocab, merges)
    vocab_file.write_text(json.dumps(vocab), encoding="utf-8")
    merges_file.write_text("\n".join(merges), encoding="utf-8")
    with pytest.raises(FolioError, match=said) as caught:
        read(vocab_file, merges_file, pattern="gpt2")
    assert str(caught.value).startswith(f"{vocab_file} with merges.txt cannot be imported: ")


@pytest.mark.parametrize("format", ["gpt2", "tiktoken"])
def test_files_without_a_split_pattern_need_one(tmp_path, format):
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


def test_an_empty_merges_file_has_no_merges(tmp_path):
    vocab, merges = written(BPETokenizer([]), "gpt2", tmp_path)
    merges.write_bytes(b"")
    assert read(vocab, merges, pattern="qwen2").merges == []


@pytest.mark.parametrize("names", [["nowhere.json"], ["nowhere"], ["vocab.json", "merges.txt"], ["."]])
def test_a_missing_file_is_named(tmp_path, names):
    with pytest.raises(FileNotFoundError, match="There is no .*(nowhere|vocab|tokenizer).* An import takes"):
        read(*(tmp_path / name for name in names))
