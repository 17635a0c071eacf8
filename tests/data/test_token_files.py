"""Train_Data/tokens: damaged files are never trained on, but made again from the text, and the user is told."""

import json
import os
import struct
from random import Random

import numpy as np
import pytest

from conftest import refusal, run_python, run_script
from folio.base.errors import FolioError
from folio.base.files import fingerprint, only_one
from folio.data import corpus, token_files
from Model_Params import TextParams
from tokenizer import load

SMALL = TextParams(vocab_size=300)
WORDS = "To be, or not to be, that is the question.\n" * 40
HEADER = 128            # bytes


@pytest.fixture
def prepared(home):
    """Return a home with its tokens, and the Corpus as it was made."""
    project = home(WORDS)
    return project, corpus.open_corpus(project, SMALL)[1]


def token_file(home):
    [path] = home.tokens.glob("*.npy")
    return path


def edit(home, change, signed=False):
    """Change the contents of corpus.json. signed: with a checksum that matches, as only a program would write it."""
    path = home.tokens / "corpus.json"
    about = json.loads(path.read_bytes())
    change(about)
    if signed and about.pop("checksum", None):
        about["checksum"] = fingerprint(about)
    path.write_text(json.dumps(about), encoding="utf-8")


def without_checksums(home):
    """Make the record one that an older Folio wrote."""
    edit(home, lambda about: [about.pop(key) for key in ("checksum", "sha256")])


def heard_by_find(home):
    heard = []
    return corpus.open_corpus(home, say=heard.append)[1], heard


def assert_made_again(home, made, *said):
    found, heard = heard_by_find(home)
    assert (found.tokens.tolist(), found.fingerprint) == (made.tokens.tolist(), made.fingerprint)
    assert (found.train_tokens, found.val_bytes) == (made.train_tokens, made.val_bytes)
    assert found.text.val_fraction == made.text.val_fraction
    assert len(heard) == 1 and all(part in heard[0] for part in said), heard
    assert heard_by_find(home)[1] == []                 # now the files are whole


# --- The token file ---

def zero_half(content):
    return content[:len(content) // 2] + bytes(len(content) - len(content) // 2)


def in_header(old, new):
    return lambda content: content[:HEADER].replace(old, new) + content[HEADER:]


@pytest.mark.parametrize("damage, said", [
    (zero_half, "checksum does not match"),
    (lambda content: content[:-2] + bytes([content[-2] ^ 1]) + content[-1:], "checksum does not match"),
    (lambda content: content[:1000] + b"\xff\xff" + content[1002:], "checksum does not match"),
    (lambda content: b"", "is not whole"),
    (lambda content: content[:50], "is not whole"),
    (lambda content: content[:-1], "is not whole"),
    (lambda content: content + b"\0", "is not whole"),
    (lambda content: content[:-2], "is not whole"),
    (lambda content: content + b"\0\0", "is not whole"),
    (in_header(b"<u2", b">u2"), "is not whole"),
    (in_header(b"<u2", b"|V2"), "is not whole"),
    (in_header(b"<u2", b"|O "), "is not whole"),
    (in_header(b",)", b",1"), "is not whole"),
    (lambda content: content[:20] + bytes(60) + content[80:], "is not whole"),
    (lambda content: b"\x93NUMPY\x09" + content[7:], "is not whole"),
], ids=["half is a hole", "a bit", "an id that no token has", "empty", "only a header", "a byte less", "a byte more",
        "a token less", "a token more", "byte order", "void", "objects", "no tuple", "zeros in it", "another version"])
def test_a_damaged_token_file_is_made_again_and_that_is_said(prepared, damage, said):
    home, made = prepared
    path = token_file(home)
    path.write_bytes(damage(path.read_bytes()))
    assert_made_again(home, made, str(path), said, "Encoding the text in")
    assert heard_by_find(home)[0].text == made.text


def test_tokens_that_are_fewer_in_both_places_are_made_again(prepared):
    home, made = prepared
    path = token_file(home)
    path.write_bytes(token_files.npy_header(made.tokens.dtype, len(made.tokens) - 1) + path.read_bytes()[HEADER:-2])
    assert_made_again(home, made, str(path), "not as many tokens")


def test_no_change_to_a_file_is_believed(prepared):
    home, made = prepared
    random = Random(1)
    for path in [token_file(home), home.tokens / "corpus.json"] * 40:
        content = path.read_bytes()
        place, length = random.randrange(len(content)), random.randrange(40)
        new = random.choice([random.randbytes(length), bytes(length), random.randbytes(random.randrange(40)), b""])
        path.write_bytes(content[:place] + new + content[place + length:])
        found, _ = heard_by_find(home)
        assert found.tokens.tolist() == made.tokens.tolist()
        assert (found.train_tokens, found.val_bytes) == (made.train_tokens, made.val_bytes)


def test_a_large_file_is_mapped_and_checked_all_the_same(prepared, monkeypatch):
    home, made = prepared
    monkeypatch.setattr(token_files, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(token_files, "CHECKED_AT_ONCE", 100)
    found, heard = heard_by_find(home)
    assert isinstance(found.tokens, np.memmap) and (found.tokens.tolist(), heard) == (made.tokens.tolist(), [])
    del found
    path = token_file(home)
    path.write_bytes(zero_half(path.read_bytes()))
    assert_made_again(home, made, "checksum does not match")


def test_a_small_file_that_is_cut_while_it_is_in_use_ends_no_process(prepared):
    home, made = prepared
    found, _ = heard_by_find(home)
    os.truncate(token_file(home), 0)
    assert found.tokens.tolist() == made.tokens.tolist()


# --- corpus.json ---

def set_number(name, value):
    return lambda about: about["corpus"].update({name: value})


@pytest.mark.parametrize("change", [
    set_number("val_bytes", 10), set_number("train_tokens", 5), set_number("train_bytes", 7),
    lambda about: about.update(paths=["elsewhere.txt"]), lambda about: about["text"].update(val_fraction=0.5),
    lambda about: about.update(sha256=None), lambda about: about.pop("sha256"), lambda about: about.pop("checksum"),
])
def test_an_edited_record_is_not_believed(prepared, change):
    home, made = prepared
    edit(home, change)
    assert_made_again(home, made, str(home.tokens / "corpus.json"), "is damaged")


@pytest.mark.parametrize("signed", [True, False], ids=["with checksums", "without"])
@pytest.mark.parametrize("change", [
    set_number("train_tokens", 98_477), set_number("train_tokens", -8_477), set_number("train_tokens", 2),
    set_number("train_tokens", 7.0), set_number("train_tokens", True), set_number("val_bytes", 0),
    set_number("characters", 10**9), set_number("documents", "1"), set_number("mended", []),
    set_number("mended", {"CRLF": "1"}), set_number("fingerprint", 5), set_number("surprise", 1),
    lambda about: about.update(paths=7), lambda about: about.update(paths=[7]), lambda about: about.update(paths=[]),
    lambda about: about.update(paths="Train_Data"), lambda about: about.update(tokens="../../input.txt"),
    lambda about: about.update(tokens=["x"]), lambda about: about.update(text=[]),
    lambda about: about["text"].update(invalid_bytes="refusf"), lambda about: about["text"].update(val_fraction=7),
    lambda about: about["text"].update(val_fraction=float("nan")), lambda about: about["text"].update(field=5),
    lambda about: about.update(corpus=None), lambda about: about.update(tokenizer_fingerprint=None),
])
def test_a_record_that_makes_no_sense_is_made_again(prepared, change, signed):
    home, made = prepared
    if not signed:
        without_checksums(home)
    edit(home, change, signed)
    (home.train_data / "input.txt").touch()             # so that the text has to be read
    assert_made_again(home, made, "Encoding the text in")


def test_a_record_nested_too_deep_is_made_again(prepared):
    home, made = prepared
    (home.tokens / "corpus.json").write_text("[" * 100_000, encoding="utf-8")
    assert_made_again(home, made, "corpus.json is damaged")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
@pytest.mark.parametrize("name, said", [("corpus.json", "is damaged"), ("*.npy", "is not whole")])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(prepared, name, said):
    project, made = prepared
    [path] = project.tokens.glob(name)
    path.unlink()
    os.mkfifo(path)
    assert_made_again(project, made, said)


def test_without_asserts_it_is_judged_alike(prepared):
    home, _ = prepared
    edit(home, lambda about: about.pop("paths"))
    code = ("import sys; from pathlib import Path; from folio.data import corpus; from folio.base.home import Home; "
            "corpus.open_corpus(Home(Path(sys.argv[1])))")
    done = run_python("-O", "-c", code, home.folder)
    assert done.returncode == 0 and "is damaged" in done.stdout, done.stderr


# --- Where the text is gone, and what an older Folio wrote ---

def test_damaged_tokens_of_a_text_that_is_gone_are_named(prepared):
    home, _ = prepared
    path = token_file(home)
    path.write_bytes(zero_half(path.read_bytes()))
    (home.train_data / "input.txt").unlink()
    with pytest.raises(FolioError, match="is damaged: its checksum does .* There is no text in .*python init.py PATH"):
        corpus.open_corpus(home)


def test_tokens_without_checksums_are_made_again_once(prepared):
    home, made = prepared
    without_checksums(home)
    path = token_file(home)
    path.write_bytes(zero_half(path.read_bytes()))
    assert_made_again(home, made, "have no checksum, as an older Folio wrote them")


def test_tokens_without_checksums_serve_where_the_text_is_gone_unless_they_are_impossible(prepared):
    home, made = prepared
    without_checksums(home)
    (home.train_data / "input.txt").unlink()
    found, heard = heard_by_find(home)
    assert found.tokens.tolist() == made.tokens.tolist() and "gone" in heard[0]
    path = token_file(home)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + struct.pack("<H", load(home.tokenizer).vocab_size))     # an id that no token has
    with pytest.raises(FolioError, match="is damaged"):
        corpus.open_corpus(home)


def test_train_makes_damaged_tokens_again_and_goes_on(prepared):
    home, _ = prepared
    path = token_file(home)
    path.write_bytes(path.read_bytes()[:20] + bytes(60) + path.read_bytes()[80:])
    flags = "--steps 2 --emb-len 16 --num-layers 1 --num-heads 1 --threads 1 --sample-tokens 0".split()
    done = run_script("train.py", "--home", home.folder, *flags)
    assert done.returncode == 0 and f"{path} is not whole. Encoding the text in" in done.stdout, done.stderr


# --- One writer at a time, and what killed ones left ---

LEFT_BEHIND = ["Train_Data/tokens/.tokens-0123-4567.npy.{}.tmp", "Train_Data/tokens/.corpus.json.{}.tmp",
               "Train_Data/tokens/.standard-input-abcd.txt.{}.tmp", "tokenizer_save/.stoi.json.{}.tmp",
               "tokenizer_save/.vocab_size.json.{}.tmp"]


def leave_behind(home):
    for number, name in enumerate(LEFT_BEHIND):
        (home.folder / name.format(f"{number:032x}")).write_bytes(b"half")


def temporaries(home):
    return [path.name for path in home.folder.rglob("*.tmp")]


def test_init_removes_what_killed_ones_left_behind(prepared):
    home, _ = prepared
    leave_behind(home)
    (home.train_data / ".mine.tmp").write_bytes(b"the user's own")
    assert run_script("init.py", "--home", home.folder, "--vocab-size", 290).returncode == 0
    assert temporaries(home) == [".mine.tmp"]


def test_a_first_init_that_fails_leaves_nothing_of_what_was_piped(tmp_path):
    assert "too short" in refusal(run_script("init.py", "-", "--home", tmp_path / "new", input="x"))
    assert not (tmp_path / "new").exists()


def test_encoding_again_removes_them_too_and_finding_does_not(prepared):
    home, _ = prepared
    leave_behind(home)
    heard_by_find(home)
    assert len(temporaries(home)) == len(LEFT_BEHIND)
    (home.train_data / "input.txt").write_text(WORDS * 2, encoding="utf-8")
    heard_by_find(home)
    assert temporaries(home) == []


def test_an_init_killed_while_it_encodes_leaves_nothing_after_the_next(home):
    project = home(WORDS)
    code = """if True:
        import os, runpy, sys
        from folio.base import files
        files._rename = lambda temporary, path: os._exit(9)     # the whole token file has its temporary name by then
        sys.argv = ["init.py", "--vocab-size", "280", "--home", sys.argv[1]]
        runpy.run_path("init.py", run_name="__main__")"""
    assert run_python("-c", code, project.folder).returncode == 9
    assert len(temporaries(project)) == 1
    assert run_script("init.py", "--home", project.folder, "--vocab-size", 280).returncode == 0
    assert temporaries(project) == []


def test_a_second_init_at_once_gets_one_sentence_and_disturbs_nothing(prepared):
    home, made = prepared
    temporary = home.tokens / f".corpus.json.{'0' * 32}.tmp"
    with only_one(home.tokens / ".lock", "never raised"):
        temporary.write_bytes(b"the first one is writing this")
        message = refusal(run_script("init.py", "--home", home.folder))
        assert message == (f"Another process is encoding the text of {home.folder} right now. "
                           "Wait until it has ended, and run this again.\n")
        assert temporary.exists() and heard_by_find(home)[1] == []          # reading goes on
        os.utime(home.train_data / "input.txt", (0, 0))
        assert heard_by_find(home)[0].tokens.tolist() == made.tokens.tolist()       # also with a new time to be noted
        (home.train_data / "input.txt").write_text(WORDS * 2, encoding="utf-8")
        with pytest.raises(BlockingIOError, match="Another process is encoding the text"):
            corpus.open_corpus(home)
