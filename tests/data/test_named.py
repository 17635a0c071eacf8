"""The text that an argument stands for: the argument itself, a file, or input that can be read only once."""

import io
import sys
from types import SimpleNamespace

import pytest

from folio.data.named import named_text
from Model_Params import TextParams


def joined(chunks):
    return "".join(text for text, _ in chunks)


def test_an_argument_that_is_no_path_is_the_text_itself():
    assert named_text("To be, or not to be") == [("To be, or not to be", True)]


def test_a_file_is_read_with_its_invalid_bytes_kept_or_replaced(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"caf\xe9")
    assert joined(named_text(str(path))) == "caf\udce9"
    assert joined(named_text(str(path), TextParams(invalid_bytes="replace"))) == "caf\ufffd"


def test_standard_input_can_be_iterated_more_than_once(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"or\nnot")))
    chunks = named_text("-")
    assert joined(chunks) == joined(chunks) == "or\nnot"


@pytest.mark.parametrize("name", ["novel.txt", "notes/May"])
def test_a_missing_path_is_an_error(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"There is no {name}.*--text {name}"):
        named_text(name)
