"""Small texts, and what several tests of the data need."""

import json

import pytest

from conftest import run_script
from folio.base.errors import FolioError
from Model_Params import TextParams
from tokenizer import END_OF_TEXT

SMALL = TextParams(vocab_size=300)
CHARACTERS = TextParams(tokenizer="char")
END = TextParams(tokenizer="char", hold_out="end")
WORDS = "To be, or not to be, that is the question.\n" * 40
STORIES = ["Once upon a time.\n", "Zwei Bären\n\nund ein \"Fuchs\".", "三\u2028",
           "<|endoftext|> in the middle of a line", "\ttab"]
WHERE_TEXT_GOES = "Put your text at Train_Data/input.txt"


def run_init(home, *words, **options):
    """Run init.py on a home. options: as run_script takes them"""
    return run_script("init.py", "--home", home.folder, *words, **options)


def texts_of(tokenizer, made):
    """Return the texts of the training part and of the validation part of a Corpus."""
    return tokenizer.decode(made.tokens[:made.train_tokens]), tokenizer.decode(made.tokens[made.train_tokens:])


def everything_below(folder):
    """Return {relative path: content} of the files in a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def link(path, folder):
    """Make `path` a symbolic link to a folder; skip the test if the system does not allow that."""
    try:
        path.symlink_to(folder, target_is_directory=True)
    except OSError:
        pytest.skip("this system lets only administrators make links")


def texts_in(documents):
    """Return the texts of Documents as a list."""
    texts, text = [], ""
    for chunk, ends_document in documents:
        text += chunk
        if ends_document:
            texts.append(text)
            text = ""
    assert text == ""
    return texts


def json_lines(texts, field="text"):
    """Return the content of a .jsonl file with these texts."""
    return "".join(json.dumps({"id": number, field: text}) + "\n" for number, text in enumerate(texts)).encode()


def trained_on(made, tokenizer):
    """Return the documents of a Corpus."""
    text = tokenizer.decode(made.tokens)
    return text.removesuffix(END_OF_TEXT).split(END_OF_TEXT)


def message_of(action, *arguments, **options):
    """Return the message of a call that has to be refused: one line, for the user."""
    with pytest.raises((FolioError, FileNotFoundError)) as caught:
        action(*arguments, **options)
    assert type(caught.value) in (FolioError, FileNotFoundError) and "\n" not in str(caught.value)
    return str(caught.value)


def parquet_file(path, texts, field="text", **options):
    """Write a Parquet file. texts: strings or a pyarrow array; options: as write_table takes them. -> path"""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    column = texts if isinstance(texts, (pyarrow.Array, pyarrow.ChunkedArray)) else pyarrow.array(texts)
    parquet.write_table(pyarrow.table({"id": list(range(len(column))), field: column}), path, **options)
    return path
