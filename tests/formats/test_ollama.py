"""Folders for Ollama: the GGUF file of the model, a Modelfile that says what the model needs, two commands to type."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT, FullDisk
from folio.base import files
from folio.base.commands import quoted
from folio.base.errors import FolioError
from folio.formats import gguf, ollama, trained_model
from llama_server import random_model, serving
from Model_Params import GenerationParams, ModelParams
from tokenizer import BPETokenizer

SHIPPED = ROOT / "Saved_Weights" / "weights-pretrained.pth"
MODELFILE = '''FROM ./model.gguf
TEMPLATE "{{ .Prompt }}"
PARAMETER num_ctx 256
PARAMETER temperature 0.8
PARAMETER top_k 1024
PARAMETER top_p 1
PARAMETER repeat_penalty 1
PARAMETER stop "<|endoftext|>"
'''


@pytest.fixture(scope="module")
def shipped():
    return trained_model.load(SHIPPED)


def contents(folder):
    """{name: bytes} of a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_folder_holds_the_gguf_file_and_what_ollama_needs_to_know(shipped, tmp_path):
    ollama.write(shipped, tmp_path / "night")
    gguf.write(shipped, tmp_path / "night.gguf")
    assert contents(tmp_path / "night") == {"model.gguf": (tmp_path / "night.gguf").read_bytes(),
                                            "Modelfile": MODELFILE.encode()}
    with serving(tmp_path / "night" / "model.gguf") as server:
        assert server.tokens("I have", True) == shipped.tokenizer.encode("I have")
    ollama.write(shipped, tmp_path / "night", "q8_0")
    gguf.write(shipped, tmp_path / "night.gguf", "q8_0")
    assert contents(tmp_path / "night")["model.gguf"] == (tmp_path / "night.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["night", "night.gguf"]


def test_the_modelfile_says_what_the_model_and_run_py_have(tmp_path, monkeypatch):
    tokenizer = BPETokenizer([(97, 98)], special_tokens=["<|user|>", "</s>"])
    params = ModelParams(vocab_size=tokenizer.vocab_size, block_size=32, emb_len=8, num_layers=1, num_heads=1)
    model = random_model(tokenizer, tmp_path, params)
    text = ollama.modelfile(model)
    assert 'PARAMETER stop "</s>"\n' in text and "PARAMETER num_ctx 32\n" in text and "top_k 259\n" in text
    others = replace(GenerationParams(), temperature=0.5, top_k=7, top_p=0.9, repetition_penalty=1.25)
    monkeypatch.setattr(ollama, "GenerationParams", lambda: others)
    text = ollama.modelfile(model)
    assert "temperature 0.5\nPARAMETER top_k 7\nPARAMETER top_p 0.9\nPARAMETER repeat_penalty 1.25\n" in text


def test_what_gguf_cannot_represent_is_refused_and_nothing_is_written(shipped, tmp_path):
    model = random_model(shipped.tokenizer, tmp_path, ModelParams(vocab_size=1024, block_size=8, emb_len=8,
                                                                  num_layers=1, num_heads=1, family="classic"))
    with pytest.raises(FolioError, match="The format ollama has no place for mlp=relu.*These can hold it: page"):
        ollama.write(model, tmp_path / "night")
    with pytest.raises(FolioError, match="not in int4"):
        ollama.write(shipped, tmp_path / "night", "int4")
    assert [path.name for path in tmp_path.iterdir()] == ["weights-tiny.pth"]


def test_an_earlier_export_is_replaced_as_a_whole_and_nothing_else(shipped, tmp_path, monkeypatch):
    ollama.write(shipped, tmp_path / "night")
    before = contents(tmp_path / "night")
    for good_calls in range(4):             # the GGUF file in its folder, the two files, the folder
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", FullDisk(good_calls))
            with pytest.raises(OSError, match="No space left") as raised:
                ollama.write(shipped, tmp_path / "night", "q8_0")
            assert raised.value.filename == str(tmp_path / "night")
        assert contents(tmp_path / "night") == before
        assert [path.name for path in tmp_path.iterdir()] == ["night"]
    (tmp_path / "night" / "diary.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds diary.txt, and is not a folder for Ollama"):
        ollama.write(shipped, tmp_path / "night")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="is no folder"):
        ollama.write(shipped, tmp_path / "file")
    assert contents(tmp_path / "night") == before | {"diary.txt": b"mine"}


def test_the_commands_can_be_pasted(shipped, tmp_path):
    create, run = ollama.commands(shipped, "my folder/night")
    assert create == f"ollama create pretrained -f {quoted(Path('my folder', 'night', 'Modelfile'))}"
    assert run == "ollama run pretrained"
    named = replace(shipped, contents=shipped.contents | {"name": "--Été: 2 (Final)!"})
    create, run = ollama.commands(named, "x")
    assert create.startswith("ollama create t-2-final -f x") and run == "ollama run t-2-final"


@given(st.text() | st.text("aB-. _/"))
def test_every_run_gets_a_name_that_ollama_takes(name):
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", ollama.model_name(name))
