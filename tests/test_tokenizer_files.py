"""A saved tokenizer is loaded as it was, and a damaged one is refused in one sentence."""

import json
import os
import tracemalloc

import pytest

from conftest import ROOT, FullDisk, run_python
from folio.base.errors import FolioError
from folio.base.files import fingerprint
from tokenizer import END_OF_TEXT, FILES, BPETokenizer, CharTokenizer, from_dict, load


def saved(folder):
    """{name: content} of the files in a folder"""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def identity(tokenizer):
    """What two equal tokenizers have in common."""
    return type(tokenizer), tokenizer.to_dict(), tokenizer.token_bytes, tokenizer.fingerprint


ALL_KINDS = pytest.mark.parametrize("original", [
    BPETokenizer.train(["low lower lowest"], 262),
    BPETokenizer.train(["äöü äöü"], 300, "gpt2", ["<|user|>", "<|Grüße|>"]),
    BPETokenizer([]),
    CharTokenizer.train(["a\nb\0 é中😀\""]), CharTokenizer("ba", [END_OF_TEXT]),
], ids=["bpe", "bpe gpt2", "bpe bytes", "char", "char special"])


@ALL_KINDS
def test_a_tokenizer_is_the_same_after_saving_and_loading(original, tmp_path):
    original.save(tmp_path)
    again = load(tmp_path)
    assert identity(again) == identity(original)
    assert sorted(saved(tmp_path)) == sorted(FILES)


@ALL_KINDS
def test_a_tokenizer_is_the_same_after_going_through_plain_values(original):
    again = from_dict(json.loads(json.dumps(original.to_dict())))
    assert identity(again) == identity(original)


def test_the_fingerprint_differs_where_ids_mean_something_else():
    different = [BPETokenizer([]), BPETokenizer([], "gpt2"), BPETokenizer([], special_tokens=()),
                 BPETokenizer([(97, 98)]), BPETokenizer([(97, 99)]),
                 CharTokenizer("ab"), CharTokenizer("ba"), CharTokenizer("ab", [END_OF_TEXT])]
    assert len({tokenizer.fingerprint for tokenizer in different}) == len(different)


def test_the_files_say_what_the_design_says(tmp_path):
    tokenizer = BPETokenizer.train(["low lower lowest é"], 260)
    tokenizer.save(tmp_path, "fedcba9876543210")
    stoi, itos, merges, metadata = (json.loads(content) for content in (saved(tmp_path)[name] for name in FILES))
    assert stoi["A"] == 65 and stoi["Ġ"] == 32 and stoi["Ċ"] == 10 and stoi["low"] == 257 and stoi[END_OF_TEXT] == 259
    assert itos == {str(token): name for name, token in stoi.items()}
    assert merges == [["l", "o"], ["lo", "w"], ["Ġ", "low"]]
    assert (metadata["vocab_size"], metadata["kind"], metadata["pattern"]) == (260, "bpe", "qwen2")
    assert (metadata["special_tokens"], metadata["text_fingerprint"]) == ([END_OF_TEXT], "fedcba9876543210")
    assert metadata["hashes"] == {name: fingerprint(saved(tmp_path)[name]) for name in FILES[:3]}


def test_the_saved_bytes_do_not_depend_on_the_hash_seed(tmp_path):
    code = ("import pathlib, sys; from tokenizer import BPETokenizer; "
            "text = pathlib.Path('Train_Data/input.txt').read_text(encoding='utf-8')[:50_000]; "
            "BPETokenizer.train([text], 600).save(sys.argv[1])")
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
    ("merges.json", lambda merges: [*merges[1:], merges[0]],
     "joins the tokens 256 and 119, but only 0 to 255 exist by then"),
    ("merges.json", lambda merges: [["lo", "lo"], *merges[1:]], "joins the tokens 256 and 256, but only 0 to 255"),
    ("merges.json", lambda merges: [["l", "€"], *merges[1:]], "joins '€', which is not a token in stoi.json"),
    ("merges.json", lambda merges: [["l", "o", "w"], *merges[1:]], "not a list of pairs"),
    ("stoi.json", lambda ids: {name: token + (token > 100) for name, token in ids.items()}, "no token has the id 101"),
    ("stoi.json", lambda ids: {name: min(token, 263) for name, token in ids.items()}, "no token has the id 264"),
    ("stoi.json", lambda ids: {name.replace("low", "LOW"): token for name, token in ids.items()},
     "which is not a token in stoi.json"),
    ("itos.json", lambda names: {**names, "7": "x"}, "itos.json is not the file that was written"),
])
def test_what_is_wrong_with_a_vocabulary_or_its_merges_is_said(tmp_path, name, change, said):
    merges = [(108, 111), (256, 119), (257, 101), (258, 114), (258, 115), (260, 116), (32, 257), (262, 101)]
    BPETokenizer(merges).save(tmp_path)
    path = tmp_path / name
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    assert said in assert_refused_in_a_sentence(tmp_path, FolioError)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["bpe", "char"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "not UTF-8", "another value", "missing"])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, kind, name, damage):
    if kind == "bpe":
        BPETokenizer.train(["low lower lowest"], 264).save(tmp_path)
    else:
        CharTokenizer.train(["low lower lowest 123"]).save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
        assert name in assert_refused_in_a_sentence(tmp_path, FileNotFoundError)
        return
    damaged = {"truncated": content[:-len(content) // 3], "empty": b"", "not UTF-8": b"\xff" + content,
               "another value": b"[1, 2, 3]"}
    path.write_bytes(damaged[damage])
    message = assert_refused_in_a_sentence(tmp_path, FolioError)
    assert name in message or name == "vocab_size.json"         # it has the hashes: if it is wrong, any file may be


@pytest.mark.parametrize("name", FILES[:3])
def test_a_file_that_differs_in_one_space_is_not_the_one_that_was_written(tmp_path, name):
    CharTokenizer("abc").save(tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.write(b" ")
    assert name in assert_refused_in_a_sentence(tmp_path, FolioError)


@pytest.mark.parametrize("field, value", [
    ("vocab_size", 263), ("vocab_size", 1), ("vocab_size", "264"), ("special_tokens", []),
    ("special_tokens", ["<|other|>"]), ("kind", "char"), ("kind", "words"), ("pattern", "qwen"),
    ("format", 2), ("format", None), ("hashes", None)])
def test_a_description_that_contradicts_the_other_files_is_refused(tmp_path, field, value):
    BPETokenizer.train(["low lower lowest"], 264).save(tmp_path)
    metadata = json.loads((tmp_path / "vocab_size.json").read_text(encoding="utf-8"))
    (tmp_path / "vocab_size.json").write_text(json.dumps({**metadata, field: value}), encoding="utf-8")
    assert_refused_in_a_sentence(tmp_path, FolioError)


def test_a_character_tokenizer_whose_size_was_edited_is_refused(tmp_path):
    CharTokenizer("abcd").save(tmp_path)
    metadata = (tmp_path / "vocab_size.json").read_bytes()
    (tmp_path / "vocab_size.json").write_bytes(metadata.replace(b'"vocab_size": 4', b'"vocab_size": 3'))
    assert_refused_in_a_sentence(tmp_path, FolioError)


def test_a_folder_without_a_tokenizer_says_how_to_make_one(tmp_path):
    assert "python init.py" in assert_refused_in_a_sentence(tmp_path / "nowhere", FileNotFoundError)


def bpe_values(merges=(), special_tokens=()):
    """Return what to_dict returns for a BPETokenizer, unchecked."""
    return {"format": 1, "kind": "bpe", "merges": list(merges), "pattern": "qwen2",
            "special_tokens": list(special_tokens)}


@pytest.mark.parametrize("values", [
    None, [], {}, {"format": 1}, {"format": 1, "kind": "bpe"}, bpe_values() | {"format": 2},
    *(bpe_values() | {"merges": merges} for merges in (
        5, [5], [[97]], [[97, 98, 99]], [["a", "b"]], [[97.0, 98]], [[-1, 97]], [[97, 256]], [[97, 98], [97, 98]])),
    bpe_values() | {"pattern": "other"},
    bpe_values(special_tokens=[""]),
    bpe_values(special_tokens=[5]),
    {"format": 1, "kind": "char", "characters": ["a", "a"], "special_tokens": []},
    {"format": 1, "kind": "char", "characters": ["a", "bc"], "special_tokens": []},
    {"format": 1, "kind": "char", "characters": ["a", 5], "special_tokens": []},
    {"format": 1, "kind": "words", "special_tokens": []},
], ids=repr)
def test_values_that_describe_no_tokenizer_are_refused(values):
    with pytest.raises(FolioError):
        from_dict(values)


DOUBLED = [(97, 97), *((number, number) for number in range(256, 273))]


@pytest.mark.parametrize("values, said", [
    (bpe_values([(97, 98)] * 1_000_000), "Tokens must be distinct and not empty; these are not: ['ab']."),
    (bpe_values([*DOUBLED, *((273, number) for number in range(256))]), "more than 33,554,432 bytes together"),
    (bpe_values([*DOUBLED, *((number, number) for number in range(273, 300))]),
     "a tokenizer like this was never learned from a text"),
    (bpe_values(special_tokens=map(str, range(100_000))),
     "A tokenizer may have 16,384 special tokens, and this one has 100,000."),
    (bpe_values(special_tokens=["\ud800"]), "These values describe no tokenizer"),
], ids=["equal merges", "many long tokens", "a token too long", "special tokens", "half a pair"])
def test_values_that_would_take_unbounded_memory_or_time_are_refused_at_once(values, said):
    tracemalloc.start()
    with pytest.raises(FolioError) as caught:
        from_dict(values)
    assert said in str(caught.value) and tracemalloc.get_traced_memory()[1] < 250_000_000
    tracemalloc.stop()


def test_thousands_of_special_tokens_are_found():
    tokenizer = from_dict(bpe_values(special_tokens=[f"<{number}>" for number in range(5000)]))
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
