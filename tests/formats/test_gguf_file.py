"""The container GGUF: the gguf package reads what we write and writes what we read; damage becomes one sentence."""

import os
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import FullDisk
from folio.base import files
from folio.base.errors import FolioError
from folio.formats import gguf_file
from folio.formats.gguf_file import NewTensor, opened

gguf = pytest.importorskip("gguf")

METADATA = {"general.architecture": "qwen3", "an integer": 7, "a number": 0.25, "yes": True, "names": ["a", "é", ""],
            "ids": [3, 1, 2], "weights": [0.5, -1.0], "truths": [True, False]}
RANDOM = np.random.default_rng(0)
MATRIX = RANDOM.standard_normal((6, 64)).astype(np.float32)


def tensors():
    """Tensors of every type that is written."""
    return [NewTensor("half", MATRIX[:, :5].shape, "f16", lambda: MATRIX[:, :5]),
            NewTensor("blocks", MATRIX.shape, "q8_0", lambda: MATRIX),
            NewTensor("vector", (6,), "f32", lambda: MATRIX[:, 0])]


@pytest.fixture
def path(tmp_path):
    """A good file."""
    gguf_file.write(tmp_path / "good.gguf", METADATA, tensors())
    return tmp_path / "good.gguf"


def everything(path):
    """Read all values and all numbers of a file. -> {key: value}, {name: array}"""
    with opened(path) as file:
        return file.metadata, {name: file.read(name) for name in file.tensors}


# --- The package gguf as the oracle ---

def test_the_gguf_package_reads_what_we_write(path):
    reader = gguf.GGUFReader(path)
    values = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert values == METADATA
    found = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    assert list(found) == ["half", "blocks", "vector"]
    assert np.array_equal(found["half"], MATRIX[:, :5].astype(np.float16))
    assert np.array_equal(found["vector"], MATRIX[:, 0])
    assert np.abs(found["blocks"] - MATRIX).max() < np.abs(MATRIX).max() / 250
    assert all(tensor.data_offset % 32 == 0 for tensor in reader.tensors)


@pytest.mark.parametrize("alignment", [8, 32, 256])
def test_we_read_what_the_gguf_package_writes(tmp_path, alignment):
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "gpt2")
    writer.add_custom_alignment(alignment)
    expected = {"general.architecture": "gpt2", "general.alignment": alignment}
    for kind, value in {"uint8": 200, "int8": -3, "uint16": 60_000, "int16": -300, "uint32": 1 << 31, "int32": -1,
                        "float32": 1.5, "uint64": 1 << 40, "int64": -(1 << 40), "float64": 0.1, "bool": True,
                        "string": "Grüße\n"}.items():
        getattr(writer, f"add_{kind}")(kind, value)
        expected[kind] = value
    for value in ([1, 2, 3], [0.5, 1.5], ["a", "bc"], [True, False]):
        writer.add_array(str(value), value)
        expected[str(value)] = value
    blocks = gguf.quantize(MATRIX, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blocks", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("half", MATRIX[:, :7].astype(np.float16))
    writer.add_tensor("cube", MATRIX.reshape(3, 2, 64))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    values, arrays = everything(tmp_path / "theirs.gguf")
    assert values == expected and [type(value) for value in values.values()] == [*map(type, expected.values())]
    assert np.array_equal(arrays["blocks"], gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0))
    assert arrays["half"].dtype == np.float16 and np.array_equal(arrays["half"], MATRIX[:, :7].astype(np.float16))
    assert np.array_equal(arrays["cube"], MATRIX.reshape(3, 2, 64))


@pytest.mark.filterwarnings("ignore::RuntimeWarning:gguf.quants")
@pytest.mark.parametrize("scale", [1, 1e-3, 1e-6, 1e-40, 1e5])
def test_q8_0_rounds_as_ggml_does(scale):
    values = (RANDOM.standard_normal((40, 96)) * scale).astype(np.float32)
    values[3], values[4, :32] = 0, np.arange(32) / 2 * scale
    values[5, :32] = np.arange(-15.5, 16.5)
    values[5, 0] = 127                  # so that the scale is 1, and all others are halves
    theirs = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    ours = gguf_file.quantize(values.reshape(-1))
    assert ours.tobytes() == theirs.tobytes()
    assert np.array_equal(gguf_file.dequantize(ours).reshape(values.shape),
                          gguf.dequantize(theirs, gguf.GGMLQuantizationType.Q8_0))


def test_large_tensors_are_written_in_parts_with_the_same_result(path, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_file, "_AT_ONCE", 64)
    gguf_file.write(tmp_path / "parts.gguf", METADATA, tensors())
    assert (tmp_path / "parts.gguf").read_bytes() == path.read_bytes()


# --- Writing ---

@pytest.mark.parametrize("value, type, message", [
    (np.nan, "f32", "vector has numbers that are not finite"), (np.inf, "f16", "not finite"),
    (np.nan, "q8_0", "not finite"), (1e5, "f16", "too large for f16. Write it in f32"),
    (1e8, "q8_0", "too large for q8_0")])
def test_numbers_that_do_not_fit_are_refused_and_the_old_file_stays(path, value, type, message):
    before, values = path.read_bytes(), np.ones(32, np.float32)
    values[7] = value
    with pytest.raises(FolioError, match=f"cannot be written as a GGUF file: .*{message}"):
        gguf_file.write(path, METADATA, [NewTensor("vector", (32,), type, lambda: values)])
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == ["good.gguf"]


def test_a_full_disk_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr(files.os, "fsync", FullDisk(0))
    with pytest.raises(OSError, match="No space left"):
        gguf_file.write(path, {"another": 1}, tensors())
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == ["good.gguf"]


# --- Damage ---

def test_a_file_cut_anywhere_is_refused(path):
    content, cut = path.read_bytes(), path.with_name("cut.gguf")
    with opened(path) as file:
        end = max(outline.start + outline.nbytes for outline in file.tensors.values())
    for length in range(end):
        cut.write_bytes(content[:length])
        with pytest.raises(FolioError, match="cut.gguf cannot be imported: "):
            everything(cut)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_read_or_refused_in_little_memory(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("changed")
    gguf_file.write(folder / "changed.gguf", METADATA, tensors())
    content = bytearray((folder / "changed.gguf").read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    (folder / "changed.gguf").write_bytes(content)
    tracemalloc.start()
    try:
        everything(folder / "changed.gguf")
    except FolioError as error:
        assert "\n" not in str(error) and str(error).isprintable()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 19


def string(text):
    content = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(content)) + content


def tensor(name, dimensions, type, offset):
    return string(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, type, offset)


def raw(values=(), tensors=(), numbers=b"", version=3, counts=None, alignment=32):
    """A file from its parts: values and tensors as bytes."""
    content = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(values))))
    content += b"".join([*values, *tensors])
    return content + bytes(-len(content) % alignment) + numbers


ONE = tensor("a", [8], 0, 0)
U32, STRING, ARRAY = 4, 8, 9
HOSTILE = {
    "another magic": (b"GGML" + raw()[4:], "it does not begin with GGUF"),
    "version 1": (raw(version=1), "version 1 of GGUF; Folio reads 2 and 3"),
    "version 4": (raw(version=4), "version 4 of GGUF"),
    "version 0": (raw(version=0), "version 0 of GGUF"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "it is big-endian"),
    "more tensors than bytes": (raw(counts=(1 << 60, 0)), "says that it has 1,152,921,504,606,846,976 tensors"),
    "more values than bytes": (raw(counts=(0, 1 << 63)), "says that it has .* values, and has no room"),
    "a string of exabytes": (raw([struct.pack("<Q", 1 << 62) + b"key"], counts=(0, 1)), "it ends in a key"),
    "an array of exabytes": (raw([string("k") + struct.pack("<IIQ", ARRAY, U32, 1 << 61) + bytes(8)]),
                             "says that it has .* items in k, and has no room"),
    "arrays of arrays": (raw([string("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1) + bytes(40)]), "an array of arrays"),
    "a value of no type": (raw([string("k") + struct.pack("<I", 13) + bytes(40)]), "of type 13, which GGUF does not"),
    "a truth value of 2": (raw([string("k") + struct.pack("<IB", 7, 2)]), "the truth value in the value of k is 2"),
    "a key that is no UTF-8": (raw([string(b"\xff\xfe") + struct.pack("<II", U32, 1)]), "is not UTF-8"),
    "a key twice": (raw([string("k") + struct.pack("<II", U32, 1)] * 2), "it has the key k twice"),
    "a key that clears the screen": (raw([string("\x1b[2J") + struct.pack("<II", U32, 1)] * 2), r"'\\x1b\[2J' twice"),
    "a tensor twice": (raw([], [ONE, ONE[:-8] + struct.pack("<Q", 32)], bytes(64)), "it has the tensor a twice"),
    "tensors that overlap": (raw([], [ONE, tensor("b", [8], 0, 0)], bytes(64)), "its tensors a and b overlap"),
    "a tensor beyond the end": (raw([], [ONE], bytes(31)), "its tensor a ends 1 bytes after it"),
    "a tensor of exabytes": (raw([], [tensor("a", [1 << 31, 1 << 31], 0, 0)], bytes(32)), "it is cut off"),
    "a tensor off its place": (raw([], [tensor("a", [2], 0, 8)], bytes(64)), "not begin at a multiple of 32 bytes"),
    "a tensor of no numbers": (raw([], [tensor("a", [0, 8], 0, 0)], bytes(64)), r"has the shape \(8, 0\)"),
    "no dimensions": (raw([], [tensor("a", [], 0, 0)], bytes(64)), "0 dimensions; GGUF has 1 to 4"),
    "five dimensions": (raw([], [tensor("a", [1] * 5, 0, 0)], bytes(64)), "5 dimensions; GGUF has 1 to 4"),
    "another quantization": (raw([], [tensor("a", [32], 2, 0)], bytes(64)),
                             "a is of type q4_0; Folio reads f32, f16, q8_0"),
    "an unknown type": (raw([], [tensor("a", [32], 99, 0)], bytes(64)), "a is of type 99"),
    "half a block": (raw([], [tensor("a", [16, 2], 8, 0)], bytes(64)), "rows of 16 numbers do not divide"),
    "an alignment of 3": (raw([string("general.alignment") + struct.pack("<II", U32, 3)]), "is 3, not a power of two"),
    "an alignment of 0": (raw([string("general.alignment") + struct.pack("<II", U32, 0)]), "is 0, not a power of two"),
    "an alignment in words": (raw([string("general.alignment") + struct.pack("<I", STRING) + string("32")]),
                              "is 32, not a power of two"),
    "numbers that are not finite": (raw([], [ONE], b"\xff" * 32), "its tensor a has numbers that are not finite"),
}


@pytest.mark.parametrize("damage", HOSTILE)
def test_a_hostile_file_is_refused_in_one_sentence(tmp_path, damage):
    content, message = HOSTILE[damage]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    with pytest.raises(FolioError, match=f"hostile.gguf cannot be imported: .*{message}"):
        everything(path)


def test_the_smallest_file_of_each_version_is_read(tmp_path):
    for version in (2, 3):
        path = tmp_path / "small.gguf"
        path.write_bytes(raw([string("k") + struct.pack("<II", U32, 9)], [ONE], bytes(32), version))
        values, arrays = everything(path)
        assert values == {"k": 9} and np.array_equal(arrays["a"], np.zeros(8))


@pytest.mark.parametrize("bound, value, message", [
    ("MOST_NAMES", 2, "it has 3 tensors, and Folio reads up to 2"),
    ("MOST_ITEMS", 5, "it has 3 items in ids, and Folio reads up to 2"),        # after the three of names
    ("MOST_HEADER", 100, "larger than 100 bytes")])
def test_what_is_larger_than_any_model_is_refused(path, monkeypatch, bound, value, message):
    monkeypatch.setattr(gguf_file, bound, value)
    with pytest.raises(FolioError, match=message):
        everything(path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(path):
    large = np.ones((50, 1000), np.float32)         # more than the system reads ahead
    gguf_file.write(path, METADATA, [NewTensor("large", large.shape, "f32", lambda: large)])
    with opened(path) as file:
        os.truncate(path, path.stat().st_size - 4)
        with pytest.raises(FolioError, match="its tensor large was cut off while it was read"):
            file.read("large")


def test_long_and_strange_names_are_shown_in_a_line(tmp_path):
    path = tmp_path / "strange.gguf"
    path.write_bytes(raw([string("k\n" * 500) + struct.pack("<II", U32, 1)] * 2))
    with pytest.raises(FolioError) as raised:
        everything(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 200 + len(str(path))


def test_opening_reads_no_numbers(path):
    content = path.read_bytes()
    with opened(path) as file:
        start = min(outline.start for outline in file.tensors.values())
    path.write_bytes(content[:start] + b"\xff" * (len(content) - start))        # not finite, once they are read
    with opened(path) as file:
        assert list(file.tensors) == ["half", "blocks", "vector"]
        with pytest.raises(FolioError, match="not finite"):
            file.read("vector")


def test_a_folder_or_a_missing_file_is_a_system_error(tmp_path):
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(OSError):
            everything(path)
