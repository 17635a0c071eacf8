"""folio/data/corpus.py: tokens are found as they were written, and made again if the text or the files have changed."""

import json
import shutil

import numpy as np
import pytest

from folio.base.errors import FolioError
from folio.base.home import Home
from folio.data import corpus
from Model_Params import TextParams
from small_texts import CHARACTERS, END, SMALL, WHERE_TEXT_GOES, WORDS, everything_below, texts_of
from tokenizer import CharTokenizer


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
    assert (found.fingerprint, found.train_bytes) == (made.fingerprint, made.train_bytes)
    assert found.tokens.tolist() == made.tokens.tolist()
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
    corpus.open_corpus(project, END)
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
    lambda about: b"", lambda about: about[:200], lambda about: b"[]", lambda about: b"{}",
    lambda about: b'{"tokens": 5}', lambda about: json.dumps({"tokens": json.loads(about)["tokens"]}).encode(),
    lambda about: about.replace(b'"val_fraction"', b'"val_share"'),
], ids=["empty", "truncated", "a list", "an empty object", "a number for a name", "all but the name missing",
        "a field of another version"])
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
