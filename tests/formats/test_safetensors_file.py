"""The files are those of the package safetensors, in both directions; whatever is damaged is refused in a sentence."""

import json
import os
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors import torch as package

from conftest import FullDisk
from folio.base.errors import FolioError
from folio.formats.safetensors_file import DTYPES, MOST_HEADER, SafetensorsFile, header_of, parse, write

KINDS = list(DTYPES.values())
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
tensors_of_any_kind = st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
                                      st.tuples(st.sampled_from(KINDS), shapes), max_size=6)


def filled(outlines, seed=0):
    """A tensor for each (dtype, shape)."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(0, 2 if dtype == torch.bool else 100, shape, generator=generator).to(dtype)
            for name, (dtype, shape) in outlines.items()}


def saved(path, tensors, metadata=None):
    """Write these tensors with our writer. -> path"""
    outlines = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write(path, header_of(outlines, {"format": "pt"} if metadata is None else metadata), tensors.__getitem__)
    return path


def contents(path):
    with SafetensorsFile(path) as file:
        return {name: file.tensor(name) for name in file.outlines}


def equal(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


@settings(max_examples=150)
@given(tensors_of_any_kind, st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=1))
def test_a_file_is_the_one_that_the_package_writes(tmp_path_factory, outlines, metadata):
    folder, tensors = tmp_path_factory.mktemp("equal"), filled(outlines)
    path = saved(folder / "ours.safetensors", tensors, metadata)
    assert path.read_bytes() == package.save(tensors, metadata or None)


@settings(max_examples=150)
@given(tensors_of_any_kind)
def test_what_the_package_wrote_is_read_as_it_was(tmp_path_factory, outlines):
    path, tensors = tmp_path_factory.mktemp("theirs") / "model.safetensors", filled(outlines)
    package.save_file(tensors, path, {"format": "pt"})
    found = contents(path)
    assert found.keys() == tensors.keys() and all(equal(found[name], tensors[name]) for name in tensors)


def test_the_package_reads_ours_with_its_metadata(tmp_path):
    tensors = {"a": torch.randn(3, 5, dtype=torch.bfloat16), "b": torch.tensor(7)}
    with safe_open(saved(tmp_path / "model.safetensors", tensors), "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert all(equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_a_transposed_view_is_written_as_what_it_shows(tmp_path):
    tensor = torch.arange(6.0).view(2, 3).T
    assert torch.equal(contents(saved(tmp_path / "view", {"view": tensor}))["view"], tensor)


@pytest.mark.parametrize("at_once", [1, 40, 1 << 24])
def test_rows_are_read_to_other_places(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("folio.formats.safetensors_file._BYTES_AT_ONCE", at_once)
    tensor = torch.randn(7, 4)
    places = torch.tensor([3, 0, 8, 1, 2, 6, 4])
    with SafetensorsFile(saved(tmp_path / "rows", {"rows": tensor})) as file:
        result = file.tensor("rows", places, rows=9)
        assert torch.equal(file.tensor("rows"), tensor)
    assert torch.equal(result[places], tensor)
    assert not result[[5, 7]].any()


# --- Damage ---

def refused(path):
    """The sentence with which a file is refused."""
    with pytest.raises(FolioError) as raised:
        contents(path)
    sentence = str(raised.value)
    assert sentence.startswith(f"{path} is not a valid safetensors file: ")
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < len(str(path)) + 300
    return sentence


def raw(path, header, data=b"", length=None):
    """Write a header (bytes, or a value for JSON) and what follows it. -> path"""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


def entry(begin, end, dtype="U8", shape=None):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("header, data, problem", [
    ({"a": entry(0, 4), "b": entry(2, 6)}, 6, "'b' overlaps another one"),
    ({"a": entry(0, 4), "b": entry(5, 6)}, 6, "'b' begins after a gap"),
    ({"a": entry(1, 4)}, 4, "'a' begins after a gap"),
    ({"a": entry(0, 4)}, 3, "should have 4 bytes, and 3 are there"),
    ({"a": entry(0, 4)}, 5, "should have 4 bytes, and 5 are there"),
    ({"a": entry(0, 4, "F32", [2])}, 4, "has 4 bytes, and its shape says 8"),
    ({"a": entry(0, 4, "F32", [1 << 62, 1 << 62])}, 4, "its shape says"),
    ({"a": entry(0, 4, "F8_E4M3")}, 4, "has numbers of type 'F8_E4M3'"),
    ({"a": entry(0, 4, ["F32"])}, 4, "has numbers of type"),
    ({"a": entry(0, 4, shape=[-4])}, 4, "has the shape"),
    ({"a": entry(0, 4, shape=[4.0])}, 4, "has the shape"),
    ({"a": entry(0, 1, shape=[True])}, 1, "has the shape"),
    ({"a": entry(0, 1, shape=[1] * 33)}, 1, "has the shape"),
    ({"a": entry(0, 4, shape=[1 << 64, 0])}, 4, "has the shape"),
    ({"a": {**entry(0, 4), "data_offsets": [4, 0]}}, 4, "has the offsets"),
    ({"a": {**entry(0, 4), "data_offsets": [0, 4, 4]}}, 4, "has the offsets"),
    ({"a": {**entry(0, 4), "more": 1}}, 4, "is not described by"),
    ({"a": [1]}, 4, "is not described by"),
    ({"__metadata__": {"format": 1}}, 0, "its metadata are not texts"),
    ([1], 0, "is no JSON object"),
    (b"{", 0, "is not JSON"),
    (b"\xff{}", 0, "is not JSON"),
    (b"[" * 100_000, 0, "is not JSON"),
    (b'{"a":' + b"9" * 10_000 + b"}", 0, "is not JSON"),
    (b'{"a":1,"a":2}', 0, "has a name twice"),
    (b"", 0, "is not JSON"),
])
def test_a_bad_header_is_refused_in_a_sentence_that_says_why(tmp_path, header, data, problem):
    assert problem in refused(raw(tmp_path / "bad.safetensors", header, bytes(data)))


def test_a_header_of_gigabytes_takes_no_memory(tmp_path):
    assert "is cut off: its header should have 4,294,967,296 bytes" in refused(
        raw(tmp_path / "bad", b"{}", length=1 << 32))
    assert "is cut off" in refused(raw(tmp_path / "bad", b"{}", length=(1 << 64) - 1))
    with (tmp_path / "sparse").open("wb") as file:
        file.write((MOST_HEADER + 1).to_bytes(8, "little"))
        file.truncate(1 << 32)
    assert f"has {MOST_HEADER + 1:,} bytes, more than {MOST_HEADER:,}" in refused(tmp_path / "sparse")


@pytest.mark.parametrize("size", [0, 5])
def test_a_file_without_a_whole_length_is_refused(tmp_path, size):
    (tmp_path / "short").write_bytes(bytes(size))
    refused(tmp_path / "short")


def test_a_pointer_of_git_lfs_is_called_what_it_is(tmp_path):
    (tmp_path / "pointer").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert "it is a pointer of Git LFS, not the file itself; run git lfs pull" in refused(tmp_path / "pointer")


SMALL = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False]), "c": torch.zeros(0, 4)}


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = saved(tmp_path / "whole", SMALL).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        refused(tmp_path / "cut")


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_any_damage_is_refused_in_a_sentence_or_changes_numbers_only(tmp_path_factory, chance: random.Random):
    path = saved(tmp_path_factory.mktemp("any") / "model.safetensors", SMALL)
    damaged = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(damaged))
        damaged[place:place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
    path.write_bytes(damaged)
    try:
        found = contents(path)
    except FolioError:
        refused(path)
        return
    assert sum(tensor.nbytes for tensor in found.values()) == sum(tensor.nbytes for tensor in SMALL.values())


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
    path = saved(tmp_path / "shrinks", SMALL)
    with SafetensorsFile(path) as file:
        os.truncate(path, len(file.header) + 3)
        with pytest.raises(FolioError, match="was cut off while it was read"):
            file.tensor("a")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name here")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe or a device"):
        SafetensorsFile(tmp_path / "pipe")


# --- Writing ---

def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = saved(tmp_path / "model", SMALL)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", FullDisk(0))
    with pytest.raises(OSError, match="No space left"):
        saved(path, {"a": torch.ones(9)})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_tensor_that_is_not_what_the_header_says_is_refused(tmp_path):
    header = header_of({"a": (torch.float32, (2,))}, {})
    for wrong in (torch.zeros(3), torch.zeros(2, dtype=torch.float64)):
        with pytest.raises(FolioError, match="a has shape .* where its header says"):
            write(tmp_path / "wrong", header, lambda name: wrong)
    assert list(tmp_path.iterdir()) == []
    assert parse(header)["a"].end == 8
