"""init.py and what it is made of: text is read exactly, split honestly, encoded completely, and whatever is wrong becomes one message."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, FullDisk, InMemory, refusal, run_python, run_script
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.data import corpus, encoding, paths, sources
from folio.base import parallel
from folio.base.errors import FolioError
from folio.base.files import replacing
from folio.base.home import Home
from Model_Params import TextParams
from tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, load

SMALL = TextParams(vocab_size=300)
CHARACTERS = TextParams(tokenizer="char")
WORDS = "To be, or not to be, that is the question.\n" * 40


def run_init(home, *words, **how):
    return run_script("init.py", "--home", home.folder, *words, **how)


def texts_of(tokenizer, made):
    """What the tokens of the training and of the validation part spell."""
    return tokenizer.decode(made.tokens[:made.train_tokens]), tokenizer.decode(made.tokens[made.train_tokens:])


def everything_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def link(path, folder):
    try:
        path.symlink_to(folder, target_is_directory=True)
    except OSError:
        pytest.skip("this system lets only administrators make links")


# --- The script ---

def test_the_report_says_what_was_read_and_made(home):
    text = "é" + WORDS * 3
    project = home(text)
    done = run_init(project, "--vocab-size", 270)
    assert (done.returncode, done.stderr) == (0, "")
    total, train = len(text.encode()), len(text.encode()) * 9 // 10
    tokens = np.load(next(project.tokens.glob("*.npy")))
    made = corpus.open_corpus(project, say=pytest.fail)[1]
    lines = done.stdout.splitlines()
    assert lines[0] == f"text        {total:,} bytes, {len(text):,} characters, 1 document"
    assert lines[1] == f"tokenizer   bpe, 270 tokens -> {project.tokenizer}"
    assert lines[2] == f"training    {train:,} bytes, {made.train_tokens:,} tokens"
    assert lines[3] == f"validation  {total - train:,} bytes, {len(tokens) - made.train_tokens:,} tokens"
    assert lines[4].startswith(f"            {total / len(tokens):.2f} bytes per token, ")
    assert lines[5:] == [f"Next: python train.py --home {project.folder}"]


def test_the_tokenizer_that_comes_with_the_repository_is_what_init_makes_of_the_plays(home):
    project = home((ROOT / "Train_Data" / "input.txt").read_bytes())
    assert run_init(project).returncode == 0
    assert everything_below(project.tokenizer) == everything_below(ROOT / "tokenizer_save")
    assert load(project.tokenizer).vocab_size == 1024


def test_one_document_with_a_kept_byte_is_not_two_documents(home):
    one = corpus.open_corpus(home({"a.txt": WORDS.encode() + b"\xff" + WORDS.encode()}), TextParams(vocab_size=300, invalid_bytes="keep"))[1]
    two = corpus.open_corpus(home({"a.txt": WORDS, "b.txt": WORDS}), TextParams(vocab_size=300, invalid_bytes="keep"))[1]
    assert one.text_fingerprint != two.text_fingerprint


def test_running_it_again_gives_the_same_bytes(home):
    project = home(WORDS)
    run_init(project, "--vocab-size", 300)
    first = everything_below(project.folder)
    run_init(project, "--vocab-size", 300)
    assert everything_below(project.folder) == first


@pytest.mark.parametrize("kind", ["bpe", "char"])
@pytest.mark.parametrize("text_bytes", [300, 3_000, 50_000])
def test_a_small_text_needs_no_flag(home, plays, kind, text_bytes):
    done = run_init(home(plays[:text_bytes]), "--tokenizer", kind)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_text_is_too_small_for_the_default_vocabulary():
    for text_bytes in (0, 1, 1_000, 100_000, 131_000, 10**12):
        assert BPETokenizer.merges_for(encoding.default_vocab_size(text_bytes)) >= 0
    assert [encoding.default_vocab_size(text_bytes) for text_bytes in (20_000, 524_348, 1_115_394, 4_000_000, 100_000_000, 10**12)
            ] == [512, 1024, 2048, 2048, 4096, 4096]


def test_a_vocabulary_larger_than_the_text_allows_is_said_in_one_sentence(home):
    project = home(WORDS)
    done = run_init(project, "--vocab-size", 100_000)
    assert (done.returncode, done.stderr) == (0, "")
    said = f"The text is too small for 100,000 tokens: no pair is seen twice after {load(project.tokenizer).vocab_size}."
    assert done.stdout.splitlines()[0] == said
    assert "too small" not in run_init(project, "--vocab-size", 260).stdout


def test_what_was_mended_is_said(home):
    project = home(b"\xef\xbb\xbf" + WORDS.replace("\n", "\r\n").encode())
    done = run_init(project, "--vocab-size", 300)
    assert sorted(done.stdout.splitlines()[:2]) == ["Mended while reading: 1 x byte order mark.", "Mended while reading: 40 x CRLF."]
    assert "".join(texts_of(*corpus.open_corpus(project, say=pytest.fail))) == WORDS
    assert "Mended" not in run_init(home(WORDS), "--vocab-size", 300).stdout


def test_the_paths_on_the_command_line_are_read_instead_of_train_data(home, tmp_path):
    project = home("never read " * 50)
    (tmp_path / "novel.txt").write_text(WORDS, encoding="utf-8")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one.txt").write_text("A note.", encoding="utf-8")
    assert run_init(project, "novel.txt", "notes", "--vocab-size", 300, cwd=tmp_path).returncode == 0
    assert "".join(texts_of(*corpus.open_corpus(project, say=pytest.fail))) == f"{WORDS}{END_OF_TEXT}A note.{END_OF_TEXT}"


@pytest.mark.parametrize("how", ["relative", "link"])
def test_token_files_are_no_text_by_whichever_path_the_folder_is_named(home, tmp_path, how):
    project = home(WORDS)
    named = Path(project.folder.name)
    if how == "link":
        named = Path("link")
        link(tmp_path / named, project.folder)
    for _ in range(2):          # the second time there are token files
        done = run_script("init.py", "--home", named, "--vocab-size", 300, named / "Train_Data", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert corpus.open_corpus(project, say=pytest.fail)[1].documents == 1


def test_train_data_may_be_a_link_to_another_place(home, tmp_path):
    project = home(WORDS)
    project.train_data.rename(tmp_path / "large disk")
    link(project.train_data, tmp_path / "large disk")
    for _ in range(2):
        tokenizer, made = corpus.open_corpus(project, SMALL)
        assert made.documents == 1
    assert corpus.open_corpus(project, say=pytest.fail)[1].fingerprint == made.fingerprint


def test_help_and_import_do_without_torch():
    code = """if True:
        import runpy, sys
        sys.argv = ["init.py", "--help"]
        try:
            runpy.run_path("init.py", run_name="__main__")
        finally:
            print("torch" in sys.modules)"""
    shown = run_python("-c", code)
    assert "--vocab-size" in shown.stdout and "Learn a tokenizer" in shown.stdout and shown.stdout.endswith("False\n")
    imported = run_python("-c", "import sys, init; print('torch' in sys.modules, 'numpy' in sys.modules)")
    assert (imported.stdout, imported.stderr) == ("False False\n", "")


def test_learning_and_encoding_do_without_torch(home):
    project = home(WORDS)
    code = "import sys, init; sys.argv = ['init.py', *sys.argv[1:]]; init.main(); print('torch' in sys.modules)"
    done = run_python("-c", code, "--home", project.folder, "--vocab-size", 300)
    assert done.stdout.endswith("False\n"), done.stderr


def test_help_names_every_field_and_its_default():
    shown = run_script("init.py", "--help")
    assert shown.returncode == 0
    words = " ".join(shown.stdout.split())          # as if no line were wrapped
    for said in ("--home DIR", "--tokenizer bpe|char", "--vocab-size N", "--pattern qwen2|gpt2", "--val-fraction X", "(default: 0.1)",
                 "(default: qwen2)", "--invalid-bytes refuse|keep|replace"):
        assert said in words


# --- What is wrong becomes one message ---

@pytest.mark.parametrize("words, said", [
    (["--vocab-sise", "300"], "unknown flag --vocab-sise; did you mean --vocab-size?"),
    (["--vocab_sise=300"], "did you mean --vocab-size?"),
    (["--vocab", "300"], "that is --vocab-size here"),
    (["--patern", "gpt2"], "did you mean --pattern?"),
    (["--vocab-size", "many"], "--vocab-size: invalid int value: 'many'"),
    (["--vocab-size"], "--vocab-size: expected one argument"),
    (["--vocab-size", "256"], "vocab_size=256 is below the smallest possible, 257"),
    (["--vocab-size", "-5"], "vocab_size=-5 is below the smallest possible, 257"),
    (["--tokenizer", "chars"], "tokenizer='chars' is not one of bpe, char"),
    (["--val-fraction", "0"], "val_fraction=0.0 must be above 0"),
    (["--val-fraction", "nan"], "val_fraction=nan is not a finite number"),
    (["--val-fraction", "0.9"], "val_fraction=0.9 is above the largest value possible, 0.5"),
    (["--tokenizer", "char", "--vocab-size", "300"], "the text's own characters are the vocabulary"),
    (["--tokenizer", "char", "--invalid-bytes", "keep"], "take invalid_bytes=replace"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_wrong_flag_exits_with_code_2_and_names_what_is_right(home, words, said):
    project = home(WORDS)
    message = refusal(run_init(project, *words), code=2)
    assert said in message and message.startswith("init.py: ") and "--help" in message
    assert not project.tokenizer.exists()


def test_all_wrong_values_are_named_together(home):
    message = refusal(run_init(home(WORDS), "--vocab-size", 5, "--val-fraction", 7, "--pattern", "gpt4"), code=2)
    assert "vocab_size=5" in message and "val_fraction=7.0" in message and "pattern='gpt4'" in message


def test_flags_may_be_written_with_underscores(home):
    assert "260 tokens" in run_init(home(WORDS), "--vocab_size", 260).stdout
    assert "261 tokens" in run_init(home(WORDS), "--vocab_size=261").stdout


WHERE_TEXT_GOES = "Put your text at Train_Data/input.txt"


@pytest.mark.parametrize("texts, said", [
    ({}, WHERE_TEXT_GOES),
    ({".hidden": WORDS, ".git/config": WORDS, "tokens/old.txt": WORDS}, WHERE_TEXT_GOES),
    (b"", "There is nothing in"),
    (b"a", "too short"),
    (b"\xef\xbb\xbf", "There is nothing in"),
    (b"Gr\xf6\xdfe " * 100, "byte 0xF6 at offset 2"),
    (b"text \0 text" * 100, "byte 0x00 at offset 5. It looks like a binary file"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "It looks like a binary file"),
    (WORDS.encode("utf-16"), "It looks like UTF-16"),
    (WORDS.encode("utf-16-be"), "byte 0x00 at offset 0"),
], ids=["no folder", "hidden files only", "empty file", "one letter", "byte order mark only", "Latin-1", "NUL", "PNG", "UTF-16",
        "UTF-16 unmarked"])
@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_a_text_that_cannot_be_used_is_refused_and_nothing_is_written(home, kind, texts, said):
    project = home(texts)
    before = everything_below(project.folder)
    message = refusal(run_init(project, "--tokenizer", kind))
    assert said in message and message.count("\n") == 1
    assert everything_below(project.folder) == before


def test_an_empty_folder_and_a_path_that_is_not_there_are_named(home, tmp_path):
    project = home(WORDS)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere.txt"):
        message = refusal(run_init(project, path))
        assert str(path) in message and WHERE_TEXT_GOES in message


def test_the_shortest_text_has_three_tokens_to_train_on_and_one_byte_held_out(home):
    tokenizer, made = corpus.open_corpus(home("abcd"), CHARACTERS)
    assert (made.train_tokens, made.val_tokens, made.val_bytes) == (3, 1, 1)
    with pytest.raises(FolioError, match="too short: its 3 bytes make 2 tokens to train on and 1 held out"):
        corpus.open_corpus(home("abc"), CHARACTERS)


def test_a_refused_text_leaves_the_old_tokenizer_and_tokens(home):
    project = home(WORDS)
    corpus.open_corpus(project, SMALL)
    made = [everything_below(project.tokenizer), everything_below(project.tokens)]
    for text in (b"\xff", b"a", b""):
        (project.train_data / "input.txt").write_bytes(text)
        refusal(run_init(project))
        assert [everything_below(project.tokenizer), everything_below(project.tokens)] == made


@pytest.mark.parametrize("name", ["tokenizer_save", "Train_Data/tokens"])
def test_a_folder_that_cannot_be_written_to_is_named_in_one_message(home, tmp_path, name):
    project = home(WORDS)
    (project.folder / name).write_bytes(b"a file where the folder should be")
    (tmp_path / "text.txt").write_text(WORDS, encoding="utf-8")
    message = refusal(run_init(project, tmp_path / "text.txt", "--vocab-size", 300))
    assert str(project.folder / name) in message and message.count("\n") == 1
    assert not list(project.folder.rglob("*.tmp"))


def test_a_full_disk_is_one_message_and_leaves_the_old_tokenizer(home):
    project = home(WORDS)
    corpus.open_corpus(project, SMALL)
    before = everything_below(project.tokenizer)
    code = """if True:
        import os, runpy, sys
        sys.path[:0] = sys.argv[2:]
        from conftest import FullDisk
        os.fsync = FullDisk(3)
        sys.argv = ["init.py", "--vocab-size", "280", "--home", sys.argv[1]]
        runpy.run_path("init.py", run_name="__main__")"""
    message = refusal(run_python("-c", code, project.folder, ROOT, ROOT / "tests"))
    assert "No space left" in message and message.count("\n") == 1
    assert everything_below(project.tokenizer) == before


# tokens, corpus.json, each with its folder, the tokenizer's four, theirs, and their marker
@pytest.mark.parametrize("good_calls", range(10))
def test_wherever_the_disk_fills_up_tokenizer_and_tokens_still_fit_together(home, monkeypatch, good_calls):
    project = home(WORDS)
    old, _ = corpus.open_corpus(project, SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(good_calls))
        with pytest.raises(OSError, match="No space left"):
            corpus.open_corpus(project, CHARACTERS)
    assert not [*project.folder.rglob("*.tmp"), *project.folder.rglob("*.whole")]
    tokenizer, made = corpus.open_corpus(project, say=lambda sentence: None)
    assert tokenizer.fingerprint == old.fingerprint
    assert "".join(texts_of(tokenizer, made)) == WORDS


# --- Reading ---

def read(*contents, invalid_bytes="refuse", block_bytes=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", block_bytes or sources.BLOCK_BYTES)
        documents = sources.Documents(map(InMemory, contents), invalid_bytes)
        return "".join(chunk + "|" * ends_document for chunk, ends_document in documents), dict(documents.mended)


@settings(max_examples=500)
@given(st.booleans(), st.text(st.sampled_from("\r\n\r\n \ufeffaé中😀")), st.integers(1, 9))
def test_the_size_of_the_blocks_does_not_change_the_text(marked, text, block_bytes):
    content = (b"\xef\xbb\xbf" if marked else b"") + text.encode("utf-8")
    lines = content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    text_of_it = "\n".join(line.lstrip("\ufeff") for line in lines)
    expected = text_of_it + "|" * bool(text_of_it)          # an empty document counts as none
    counts = {"byte order mark": sum(len(line) - len(line.lstrip("\ufeff")) for line in lines), "CRLF": text.count("\r\n"),
              "CR": text.replace("\r\n", "").count("\r")}
    mended = {what: count for what, count in counts.items() if count}
    assert read(content, block_bytes=block_bytes) == read(content) == (expected, mended)


def test_crlf_and_cr_become_lf_also_where_a_block_ends_between_the_two():
    assert read(b"ab\r\ncd\r\r\n\r", block_bytes=3) == ("ab\ncd\n\n\n|", {"CRLF": 2, "CR": 2})


def test_a_byte_order_mark_is_dropped_at_the_start_of_every_file_and_line_and_nowhere_else():
    marked = "\ufeffa\ufeffb".encode()                      # files that were joined have it at the start of a line
    assert read(marked, marked + b"\r\n" + marked) == ("a\ufeffb|a\ufeffb\na\ufeffb|", {"byte order mark": 3, "CRLF": 1})


def test_documents_may_be_read_again_and_count_only_what_the_last_pass_mended():
    documents = sources.Documents([InMemory("\ufeff1\r\n".encode()), InMemory(b"two")])
    assert list(documents) == list(documents) == [("1\n", True), ("two", True)]
    assert documents.mended == {"byte order mark": 1, "CRLF": 1}


@pytest.mark.parametrize("block_bytes", [3, 4, 5, 7, 1 << 20])
@pytest.mark.parametrize("content, value, offset", [
    (b"\xff", 0xFF, 0), (b"good text \xe9t\xe9", 0xE9, 10), ("中文字".encode() + b"\x80", 0x80, 9), (b"12345\xe4\xb8", 0xE4, 5),
    (b"12345\xf0\x9f\x98", 0xF0, 5), (b"123456789\xc3", 0xC3, 9), (b"abc\xed\xa0\x80", 0xED, 3), (b"\xef\xbb\xbfabc\xff", 0xFF, 6),
    (b"0123456789\0", 0, 10),
], ids=["first byte", "Latin-1", "continuation byte", "two bytes of three", "three bytes of four", "one byte of two", "surrogate",
        "after byte order mark", "NUL"])
def test_a_byte_that_is_not_utf_8_is_named_with_its_offset_in_the_file(tmp_path, monkeypatch, content, value, offset, block_bytes):
    monkeypatch.setattr(sources, "BLOCK_BYTES", block_bytes)
    (tmp_path / "good.txt").write_bytes(b"all is well")
    (tmp_path / "wrong.txt").write_bytes(content)
    with pytest.raises(FolioError) as caught:
        list(sources.Documents([tmp_path / "good.txt", tmp_path / "wrong.txt"]))
    assert str(caught.value).startswith(f"{tmp_path / 'wrong.txt'} is not UTF-8 text: byte 0x{value:02X} at offset {offset}. ")
    assert "--invalid-bytes keep" in str(caught.value) and type(caught.value) is FolioError


def test_a_wrong_byte_far_into_a_file_is_found(home):
    before = "é line\n".encode() * (sources.BLOCK_BYTES // 4)
    message = refusal(run_init(home({"a.txt": WORDS, "b.txt": before + b"\xe9" + before})))
    assert f"b.txt is not UTF-8 text: byte 0xE9 at offset {len(before)}." in message


@pytest.mark.parametrize("block_bytes", [3, 4, 1 << 20])
def test_invalid_bytes_are_replaced_when_asked_for(block_bytes):
    text, mended = read(b"a\xe9b\0\xe4\xb8", invalid_bytes="replace", block_bytes=block_bytes)
    assert text == "a\ufffdb\ufffd\ufffd|" and mended == {"U+FFFD for what was no text": 3}


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=6) | st.sampled_from([b" ", b"\xe4", b"\xb8", b"\xad", b"\xf0\x9f", b"\0", "中".encode()])).map(b"".join),
       st.integers(3, 9))
def test_invalid_bytes_are_kept_when_asked_for(content, block_bytes):
    text, _ = read(content, invalid_bytes="keep", block_bytes=block_bytes)
    expected = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert text.removesuffix("|").encode("utf-8", errors="surrogateescape") == expected


def test_kept_bytes_come_back_from_the_tokens(home):
    content = np.random.default_rng(1).bytes(3000).replace(b"\r", b"")
    tokenizer, made = corpus.open_corpus(home(content), TextParams(vocab_size=260, invalid_bytes="keep"))
    assert tokenizer.decode_bytes(made.tokens) == content
    assert made.train_bytes + made.val_bytes == len(content)


def test_files_are_read_in_sorted_order_without_hidden_ones_and_tokens(home):
    project = home(dict.fromkeys(["b.txt", "a/z.txt", "a/b/c.md", ".hidden", "a/.hidden/x.txt", "tokens/t.txt", "a/tokens/kept.txt", "C.txt"], WORDS))
    found = paths.find_files([project.train_data], ignored=[project.tokens])
    names = [path.relative_to(project.train_data).as_posix() for path in found]
    assert names == sorted(["b.txt", "a/z.txt", "a/b/c.md", "a/tokens/kept.txt", "C.txt"], key=Path)
    b = project.train_data / "b.txt"
    assert paths.find_files([b, project.train_data / "a" / "b", project.train_data / ".hidden"]) == [
        b, project.train_data / "a" / "b" / "c.md", project.train_data / ".hidden"]


def test_documents_are_separated_by_end_of_text(home):
    project = home({"b.txt": "second " * 20, "a.txt": "first " * 20, "c/d.txt": "third " * 20})
    tokenizer, made = corpus.open_corpus(project, SMALL)
    assert (made.documents, list(made.tokens).count(tokenizer.end_of_text)) == (3, 3)
    assert "".join(texts_of(tokenizer, made)) == "".join(word * 20 + END_OF_TEXT for word in ("first ", "second ", "third "))


def test_one_document_has_no_separator_and_characters_have_one_only_for_several(home):
    tokenizer, made = corpus.open_corpus(home(WORDS), SMALL)
    assert tokenizer.end_of_text not in made.tokens
    assert corpus.open_corpus(home(WORDS), CHARACTERS)[0].special_tokens == ()
    tokenizer, made = corpus.open_corpus(home({"a": WORDS, "b": WORDS}), CHARACTERS)
    assert tokenizer.special_tokens == (END_OF_TEXT,)
    assert "".join(texts_of(tokenizer, made)) == (WORDS + END_OF_TEXT) * 2


def test_a_text_that_spells_end_of_text_has_no_separator_in_it(home):
    tokenizer, made = corpus.open_corpus(home(f"one {END_OF_TEXT} two " * 20), SMALL)
    assert tokenizer.end_of_text not in made.tokens


# --- The split ---

@pytest.mark.parametrize("text_bytes", [11, 100, 999, 1000, 1001, 54_321])
def test_the_first_nine_tenths_of_a_text_are_for_training(home, plays, text_bytes):
    text = plays[:text_bytes]
    tokenizer, made = corpus.open_corpus(home(text), CHARACTERS)
    cut = text_bytes * 9 // 10
    assert texts_of(tokenizer, made) == (text[:cut], text[cut:])
    assert (made.train_bytes, made.val_bytes, made.characters) == (cut, text_bytes - cut, text_bytes)
    assert (made.train_tokens, made.val_tokens) == (cut, text_bytes - cut)


def test_tiny_shakespeare_is_split_where_everybody_splits_it(home, tiny_shakespeare):
    tokenizer, made = corpus.open_corpus(home(tiny_shakespeare), CHARACTERS)
    assert (tokenizer.vocab_size, made.train_tokens, made.val_tokens) == (65, 1_003_854, 111_540)
    assert tokenizer.decode(made.val[1:]) == tiny_shakespeare[int(len(tiny_shakespeare) * 0.9):]


@pytest.mark.parametrize("text", [WORDS * 3, "床前明月光，疑是地上霜。" * 50, "Größe 😀é" * 70, "no-space" * 100],
                         ids=["ASCII", "Chinese", "mixed", "one word"])
@pytest.mark.parametrize("val_fraction", [0.1, 0.37, 0.5])
@pytest.mark.parametrize("block_bytes", [50, 1 << 20])
@pytest.mark.parametrize("shorter", [1, 7, 14, 28])         # so that the split meets each byte of a character
def test_the_split_loses_nothing_and_cuts_no_character(home, monkeypatch, text, val_fraction, block_bytes, shorter):
    monkeypatch.setattr(sources, "BLOCK_BYTES", block_bytes)
    text = text[:-shorter]
    tokenizer, made = corpus.open_corpus(home(text), TextParams(vocab_size=300, val_fraction=val_fraction))
    train, val = texts_of(tokenizer, made)
    assert "\ufffd" not in train + val and train + val == text
    assert (len(train.encode()), len(val.encode())) == (made.train_bytes, made.val_bytes)
    wanted = len(text.encode()) * (1 - val_fraction)
    assert wanted - 4 < made.train_bytes <= wanted


def test_the_first_validation_token_follows_the_last_training_token(home):
    made = corpus.open_corpus(home(WORDS), SMALL)[1]
    assert len(made.train) + len(made.val) == len(made.tokens) + 1
    assert made.train[-1] == made.val[0]
    assert (len(made.val) - 1, made.train.tolist() + made.val[1:].tolist()) == (made.val_tokens, made.tokens.tolist())


def test_merges_are_learned_from_the_training_part_alone(home):
    train = "the quick brown fox " * 90
    tokenizer, _ = corpus.open_corpus(home(train + "zzzz" * 50), TextParams(vocab_size=1000))
    assert tokenizer.merges == BPETokenizer.train([train], 1000).merges


def documents_of(lengths):
    return {f"{index:02}.txt": chr(97 + index) * length for index, length in enumerate(lengths)}


@pytest.mark.parametrize("lengths, train_documents", [([100] * 20, 18), ([100] * 15, 13), ([900, 100], 1), ([800, 200], 1), ([50, 50, 850, 50], 3)])
def test_where_a_document_ends_near_the_split_no_document_is_cut(home, lengths, train_documents):
    tokenizer, made = corpus.open_corpus(home(documents_of(lengths)), CHARACTERS)
    parts = [text + END_OF_TEXT for text in documents_of(lengths).values()]
    train, val = texts_of(tokenizer, made)
    assert train + val == "".join(parts)
    assert train in ("".join(parts[:train_documents]), "".join(parts[:train_documents + 1]))
    assert made.val_bytes in (sum(lengths[train_documents:]), sum(lengths[train_documents + 1:]))


@pytest.mark.parametrize("lengths", [[820, 140, 40], [810, 100, 80, 10]])
def test_no_document_is_cut_though_another_one_ends_nearer_and_leaves_too_little(home, lengths):
    made = corpus.open_corpus(home(documents_of(lengths)), CHARACTERS)[1]
    assert made.val_bytes in [sum(lengths[index:]) for index in range(len(lengths))]
    assert 50 <= made.val_bytes <= 200


@pytest.mark.parametrize("lengths", [[500, 500], [300, 680, 20], [1000, 0]])
def test_where_no_document_ends_near_the_split_a_document_is_cut(home, lengths):
    made = corpus.open_corpus(home(documents_of(lengths)), CHARACTERS)[1]
    assert made.val_bytes == 100


def test_empty_documents_are_no_place_for_the_split(home):
    made = corpus.open_corpus(home({"a.txt": "", "b.txt": WORDS}), TextParams(vocab_size=300, val_fraction=0.5))[1]
    assert made.val_bytes == len(WORDS) / 2


def test_no_more_is_held_out_than_the_limit(home, monkeypatch):
    monkeypatch.setattr(encoding, "VAL_BYTES_LIMIT", 50)
    assert corpus.open_corpus(home(WORDS), SMALL)[1].val_bytes == 50
    made = corpus.open_corpus(home(documents_of([900, 50, 35, 15])), CHARACTERS)[1]
    assert made.val_bytes == 50
    made = corpus.open_corpus(home(documents_of([920, 80])), CHARACTERS)[1]
    assert made.val_bytes <= 50


# --- What is kept ---

def heard_by_find(project):
    heard = []
    return (*corpus.open_corpus(project, say=heard.append), heard)


def test_find_before_init_says_how_to_begin(home):
    with pytest.raises(FileNotFoundError, match="No tokenizer in .* python init.py"):
        corpus.open_corpus(home(WORDS))


@pytest.mark.parametrize("params", [SMALL, CHARACTERS], ids=["bpe", "char"])
def test_what_init_made_is_found_as_it_was(home, params):
    project = home(WORDS)
    tokenizer, made = corpus.open_corpus(project, params)
    written = {path: path.stat().st_mtime_ns for path in project.folder.rglob("*")}
    again, found, heard = heard_by_find(project)
    assert (again.to_dict(), heard) == (tokenizer.to_dict(), [])
    assert (found.fingerprint, found.train_bytes, found.tokens.tolist()) == (made.fingerprint, made.train_bytes, made.tokens.tolist())
    assert {path: path.stat().st_mtime_ns for path in project.folder.rglob("*")} == written


def test_a_changed_text_is_encoded_again_with_the_same_tokenizer_and_that_is_said_once(home):
    project = home(WORDS)
    tokenizer, made = corpus.open_corpus(project, SMALL)
    changed = WORDS.replace("question", "answer")
    (project.train_data / "input.txt").write_text(changed, encoding="utf-8", newline="")
    again, found, heard = heard_by_find(project)
    assert again.to_dict() == tokenizer.to_dict()
    assert "".join(texts_of(again, found)) == changed
    assert len(heard) == 1 and "not the one whose tokens are kept" in heard[0]
    assert found.fingerprint != made.fingerprint
    assert len(list(project.tokens.glob("*.npy"))) == 1             # the stale ones are gone
    assert heard_by_find(project)[2] == []


def test_the_way_the_text_was_read_and_split_is_kept_for_the_next_time(home):
    project = home(WORDS.encode() + b"\xff")
    corpus.open_corpus(project, TextParams(vocab_size=300, val_fraction=0.3, invalid_bytes="keep"))
    (project.train_data / "input.txt").write_bytes(WORDS.encode() * 2 + b"\xff\xff")
    tokenizer, found, heard = heard_by_find(project)
    assert tokenizer.decode_bytes(found.tokens) == WORDS.encode() * 2 + b"\xff\xff"
    assert found.val_bytes == pytest.approx(0.3 * len(WORDS) * 2, abs=2)


def test_a_new_file_counts_as_a_change(home):
    project = home(WORDS)
    corpus.open_corpus(project, SMALL)
    (project.train_data / "more.txt").write_text("And more.", encoding="utf-8")
    tokenizer, found, heard = heard_by_find(project)
    assert (found.documents, len(heard)) == (2, 1)


def test_a_second_document_is_not_separated_where_the_tokenizer_has_no_end_of_text(home):
    project = home(WORDS)
    corpus.open_corpus(project, CHARACTERS)
    (project.train_data / "more.txt").write_text("be that", encoding="utf-8")
    tokenizer, found, _ = heard_by_find(project)
    assert (found.documents, "".join(texts_of(tokenizer, found))) == (2, WORDS + "be that")


def test_the_tokens_serve_when_the_text_is_gone(home):
    project = home(WORDS)
    tokenizer, made = corpus.open_corpus(project, SMALL)
    (project.train_data / "input.txt").unlink()
    again, found, heard = heard_by_find(project)
    assert (found.fingerprint, found.tokens.tolist()) == (made.fingerprint, made.tokens.tolist())
    assert len(heard) == 1 and "gone" in heard[0] and str(project.tokens) in heard[0]


def test_without_text_and_tokens_find_says_where_text_goes(home):
    project = home(WORDS)
    corpus.open_corpus(project, SMALL)
    shutil.rmtree(project.train_data)
    with pytest.raises(FileNotFoundError, match=WHERE_TEXT_GOES):
        corpus.open_corpus(project)


def test_without_tokens_the_text_is_encoded_and_that_is_said(home):
    project = home(WORDS)
    _, made = corpus.open_corpus(project, SMALL)
    shutil.rmtree(project.tokens)
    _, found, heard = heard_by_find(project)
    assert found.fingerprint == made.fingerprint
    assert len(heard) == 1 and heard[0].startswith("Encoding the text with the tokenizer")


def test_tokens_of_another_tokenizer_are_not_used(home):
    project = home(WORDS)
    corpus.open_corpus(project, SMALL)
    CharTokenizer.train([WORDS]).save(project.tokenizer)
    tokenizer, found, heard = heard_by_find(project)
    assert (tokenizer.kind, "".join(texts_of(tokenizer, found)), len(heard)) == ("char", WORDS, 1)


def test_a_character_the_tokenizer_never_saw_is_named_when_the_text_has_changed(home):
    project = home(WORDS)
    corpus.open_corpus(project, CHARACTERS)
    before = everything_below(project.tokens)
    (project.train_data / "input.txt").write_text(WORDS + "Ω", encoding="utf-8")
    with pytest.raises(FolioError, match=r"'Ω' \(U\+03A9\)"):
        corpus.open_corpus(project)
    assert everything_below(project.tokens) == before


@pytest.mark.parametrize("damaged", [
    lambda about: b"", lambda about: about[:200], lambda about: b"[]", lambda about: b"{}", lambda about: b'{"tokens": 5}',
    lambda about: json.dumps({"tokens": json.loads(about)["tokens"]}).encode(), lambda about: about.replace(b'"val_fraction"', b'"val_share"'),
], ids=["empty", "truncated", "a list", "an empty object", "a number for a name", "all but the name missing", "a field of another version"])
def test_a_damaged_description_of_the_tokens_is_made_again(home, damaged):
    project = home(WORDS)
    _, made = corpus.open_corpus(project, SMALL)
    about = project.tokens / "corpus.json"
    about.write_bytes(damaged(about.read_bytes()))
    _, found, heard = heard_by_find(project)
    assert (found.fingerprint, len(heard)) == (made.fingerprint, 1)


@pytest.mark.parametrize("length", [0, 50, 500])
def test_a_truncated_token_file_is_made_again(home, length):
    project = home(WORDS)
    _, made = corpus.open_corpus(project, SMALL)
    expected = made.tokens.tolist()
    del made                    # Windows changes no file that is still open
    path = next(project.tokens.glob("*.npy"))
    path.write_bytes(path.read_bytes()[:length])
    _, found, heard = heard_by_find(project)
    assert (found.tokens.tolist(), len(heard)) == (expected, 1)


def test_a_project_may_be_moved(home, tmp_path):
    project = home(WORDS)
    _, made = corpus.open_corpus(project, SMALL)
    del made
    moved = Home(tmp_path / "elsewhere" / "moved")
    moved.folder.parent.mkdir()
    project.folder.rename(moved.folder)
    assert heard_by_find(moved)[2] == []


def test_large_vocabularies_are_kept_in_wider_integers(home, monkeypatch):
    assert corpus.open_corpus(home(WORDS), SMALL)[1].tokens.dtype == np.uint16
    many = "".join(map(chr, range(0x10000, 0x10000 + 66_000)))
    tokenizer, made = corpus.open_corpus(home(many), CHARACTERS)
    assert (tokenizer.vocab_size, made.tokens.dtype) == (66_000, np.uint32)
    assert "".join(texts_of(tokenizer, made)) == many


# --- Several processes ---

@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_two_processes_make_what_one_makes(home, plays, kind, monkeypatch):
    made = {}
    for processes in (1, 2):
        project = home({"a.txt": plays[:60_000], "b.txt": "Größe 数え \r\n" * 300, "c.txt": plays[60_000:90_000]})
        monkeypatch.setattr(sources, "BLOCK_BYTES", 10_000)
        monkeypatch.setattr(encoding, "_processes", lambda survey: processes)
        _, text = corpus.open_corpus(project, TextParams(tokenizer=kind))
        made[processes] = {path.name: path.read_bytes() for path in project.tokenizer.iterdir()}, text.tokens.tolist()
    assert made[1] == made[2]


def test_an_error_in_another_process_is_the_error_here():
    with pytest.raises(ValueError, match="invalid literal"):
        list(parallel.in_order(int, ["1", "2", "x", "4"], 2))
    assert list(parallel.in_order(int, map(str, range(50)), 2)) == list(range(50))


def test_the_token_files_of_another_project_are_no_text_either(home, plays):
    other = home(plays[:5_000])
    assert run_init(other).returncode == 0
    done = run_script("init.py", other.train_data, "--home", home({}).folder)
    assert done.returncode == 0 and "5,000 bytes" in done.stdout, done.stderr


def test_a_full_disk_is_said_with_the_file_that_did_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", FullDisk(good_calls=0))
    with pytest.raises(OSError) as caught, replacing(tmp_path / "wanted.json") as file:
        file.write(b"{}")
    assert caught.value.filename == str(tmp_path / "wanted.json") and os.listdir(tmp_path) == []
