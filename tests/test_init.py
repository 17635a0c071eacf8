"""init.py: what it reports, and that whatever is wrong becomes one message."""

import os
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT, FullDisk, refusal, run_python, run_script
from folio.data import corpus
from Model_Params import TextParams
from small_texts import CHARACTERS, SMALL, WHERE_TEXT_GOES, WORDS, everything_below, link, run_init, texts_of
from tokenizer import END_OF_TEXT, load

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


def test_conversations_are_counted_and_the_next_step_teaches_to_answer(home):
    lines = "".join(f'{{"question": "What is {n} + 1?", "answer": "It is {n + 1}."}}\n' for n in range(90))
    project = home({"dialogues.jsonl": lines})
    done = run_init(project)
    assert (done.returncode, done.stderr) == (0, "")
    assert "90 conversations read as text in turns." in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1] == ("Then, to teach the model to answer: python train.py --start-from NAME "
                                            f"--chat --home {project.folder}")


def test_one_document_with_a_kept_byte_is_not_two_documents(home):
    keeping = TextParams(vocab_size=300, invalid_bytes="keep")
    one = corpus.open_corpus(home({"a.txt": WORDS.encode() + b"\xff" + WORDS.encode()}), keeping)[1]
    two = corpus.open_corpus(home({"a.txt": WORDS, "b.txt": WORDS}), keeping)[1]
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


def test_a_vocabulary_larger_than_the_text_allows_is_said_in_one_sentence(home):
    project = home(WORDS)
    done = run_init(project, "--vocab-size", 100_000)
    assert (done.returncode, done.stderr) == (0, "")
    vocab_size = load(project.tokenizer).vocab_size
    assert done.stdout.splitlines()[0] == (
        f"The text is too small for 100,000 tokens: no pair is seen twice after {vocab_size}.")
    assert "too small" not in run_init(project, "--vocab-size", 260).stdout


def test_what_was_mended_is_said(home):
    project = home(b"\xef\xbb\xbf" + WORDS.replace("\n", "\r\n").encode())
    done = run_init(project, "--vocab-size", 300)
    assert sorted(done.stdout.splitlines()[:2]) == [
        "Mended while reading: 1 x byte order mark.", "Mended while reading: 40 x CRLF."]
    assert "".join(texts_of(*corpus.open_corpus(project, say=pytest.fail))) == WORDS
    assert "Mended" not in run_init(home(WORDS), "--vocab-size", 300).stdout


def test_the_paths_on_the_command_line_are_read_instead_of_train_data(home, tmp_path):
    project = home("never read " * 50)
    (tmp_path / "novel.txt").write_text(WORDS, encoding="utf-8")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one.txt").write_text("A note.", encoding="utf-8")
    flags = "--vocab-size", 300, "--hold-out", "end"
    assert run_init(project, "novel.txt", "notes", *flags, cwd=tmp_path).returncode == 0
    expected = f"{WORDS}{END_OF_TEXT}A note.{END_OF_TEXT}"
    assert "".join(texts_of(*corpus.open_corpus(project, say=pytest.fail))) == expected


@pytest.mark.parametrize("kind_of_path", ["relative", "link"])
def test_token_files_are_no_text_by_whichever_path_the_folder_is_named(home, tmp_path, kind_of_path):
    project = home(WORDS)
    named = Path(project.folder.name)
    if kind_of_path == "link":
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
    for said in ("--home DIR", "--tokenizer bpe|char", "--vocab-size N", "--pattern qwen2|gpt2", "--val-fraction X",
                 "(default: 0.1)", "(default: qwen2)", "--invalid-bytes refuse|keep|replace"):
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


@pytest.mark.parametrize("texts, said", [
    ({}, WHERE_TEXT_GOES),
    ({".hidden": WORDS, ".git/config": WORDS, "tokens/old.txt": WORDS}, WHERE_TEXT_GOES),
    (b"", "There is nothing in"),
    (b"a", "too short"),
    (b"\xef\xbb\xbf", "There is nothing in"),
    (b"Gr\xf6\xdfe " * 100, 'is not UTF-8. It reads well as windows-1252: "Größe Größe '),
    (b"text \0 text" * 100, "byte 0x00 at offset 5. It looks like a binary file"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "input.txt is a PNG picture: there is no text in it"),
    (WORDS.encode("utf-16") + b"\n", "is not utf-16 throughout: byte 0x0A at offset"),
    (WORDS.encode("utf-16-be"), "It reads well as utf-16-be: "),
], ids=["no folder", "hidden files only", "empty file", "one letter", "byte order mark only", "Latin-1", "NUL", "PNG",
        "UTF-16 with half a character", "UTF-16 unmarked"])
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


# --- Several processes ---

def test_the_token_files_of_another_project_are_no_text_either(home, plays):
    other = home(plays[:5_000])
    assert run_init(other).returncode == 0
    done = run_script("init.py", other.train_data, "--home", home({}).folder)
    assert done.returncode == 0 and "5,000 bytes" in done.stdout, done.stderr


def test_help_names_what_may_be_read():
    shown = " ".join(run_python(ROOT / "init.py", "--help").stdout.split())
    for said in ("globs", ".jsonl", ".parquet", ".gz", "standard input", "tinyshakespeare", "--field NAME"):
        assert said in shown
