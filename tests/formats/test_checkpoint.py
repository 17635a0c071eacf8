"""Weights files: what is loaded is what was saved, or one sentence; no code in a file is run, no memory taken on its
word.
"""

import errno
import os
import pickle
import random
import re
import shutil
import sys
import warnings
import zipfile
from dataclasses import asdict

import pytest
import torch

import folio
from conftest import FullDisk, refusal, run_python, run_script
from folio.base import files
from folio.base.errors import FolioError
from folio.formats import checkpoint, torch_file
from folio.networks import build as networks
from Model_Params import ModelParams
from tokenizer import CharTokenizer

TINY = ModelParams(vocab_size=20, block_size=8, emb_len=8, num_layers=2, num_heads=2, dropout=0.0)
LETTERS = CharTokenizer("abcdefghijklmnopqrs\n")


def contents_of(net, **others):
    """What a weights file holds."""
    return {"name": "tiny", "params": asdict(net.params), "tokenizer": LETTERS.to_dict(), "opening": [19],
            "weights": net.state_dict(),
            "step": 7, "val_bpb": 1.5, **others}


def equal(one, other):
    """Whether two contents are the same, to the bit and to the type."""
    if isinstance(one, torch.Tensor):
        return isinstance(other,
                          torch.Tensor) and one.dtype == other.dtype and one.shape == other.shape and torch.equal(
     *(each.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8) for each in (one, other)))
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return networks.build_network(TINY)


@pytest.fixture
def saved(net, tmp_path):
    """The path of a good weights file, and what is in it."""
    path = tmp_path / "weights-tiny.pth"
    checkpoint.save(path, contents_of(net))
    return path, checkpoint.load(path)


def forged(path, contents):
    """A file with a checksum that is right, as somebody would make it who means harm."""
    contents = {"format": checkpoint.FORMAT, **contents}
    try:
        checksum = checkpoint.checksum(contents)
    except ValueError:                  # a tensor that has no numbers to take a checksum of
        checksum = "0"
    torch.save({**contents, "checksum": checksum}, path)
    return path


def sentence(action, path):
    """The one sentence with which something refuses a file, which it names."""
    with pytest.raises(FolioError) as refused:
        action(path)
    message = str(refused.value)
    assert str(path) in message and len(message.splitlines()) == 1, message
    return message


# --- There and back ---

def test_what_is_loaded_is_what_was_saved(tmp_path):
    values = {"tensors": [torch.randn(3, 4), torch.zeros(0), torch.tensor(5), torch.ones(2, dtype=torch.bfloat16),
                          torch.tensor([True]),
                          torch.arange(10.0)[::7][:1]],
              "plain": {"a": None, "b": True, "c": -1, "d": 2.5, "e": "ü\n\0", "f": [], 3: float("inf"), "g": b"bytes"},
              "transposed": torch.randn(3, 4).T, "part": torch.arange(10)[3:5]}
    checkpoint.save(tmp_path / "file.pth", values)
    assert equal(checkpoint.load(tmp_path / "file.pth"), {"format": checkpoint.FORMAT, **values})


def test_a_network_comes_back_to_the_bit(saved, net):
    path, contents = saved
    again = checkpoint.network(contents, path)
    assert again.params == net.params
    assert equal(dict(again.state_dict()), dict(net.state_dict()))


@pytest.mark.parametrize("params",
                         [dict(tied_head=True), dict(family="classic"),
                          dict(num_kv_heads=1, head_len=6, biases="gpt2")], ids=str)
def test_networks_of_every_kind_come_back(params, tmp_path):
    net = networks.build_network(ModelParams(**{**asdict(TINY), **params}))
    checkpoint.save(tmp_path / "file.pth", contents_of(net))
    again = folio.load(tmp_path / "file.pth").net
    tokens = torch.arange(8)[None]
    assert torch.equal(again(tokens), net(tokens))
    assert networks.count_parameters(again) == networks.count_parameters(net)           # tied stays tied


def test_a_file_holds_tensors_and_plain_values_only(saved):
    contents = torch.load(saved[0], weights_only=True)

    def check(value):
        if isinstance(value, dict):
            return all(check(each) for pair in value.items() for each in pair)
        if isinstance(value, (list, tuple)):
            return all(map(check, value))
        return value is None or type(value) in (torch.Tensor, str, int, float, bool, bytes)
    assert check(contents)


def test_the_checksum_is_over_all_of_it(net):
    original = {"weights": {"a": torch.arange(4.0), "b": torch.zeros(2)}, "step": 1, "list": [1, 2], "none": None}
    others = [{**original, "step": 2}, {**original, "step": 1.0}, {**original, "step": "1"},
              {**original, "step": True}, {**original, "list": [1, 3]},
              {**original, "list": [1, 2, 3]}, {**original, "list": [[1], 2]}, {**original, "none": 0},
              {**original, "more": 1},
              {key: original[key] for key in ("weights", "step", "list")},
              {**original, "weights": {"a": torch.arange(4.0)}},
              {**original, "weights": {"a": torch.arange(4.0).view(2, 2), "b": torch.zeros(2)}},
              {**original, "weights": {"a": torch.arange(4), "b": torch.zeros(2)}},
              {**original, "weights": {"b": torch.arange(4.0), "a": torch.zeros(2)}},
              {**original, "weights": {"a": torch.arange(4.0).nextafter(torch.tensor(9.0)), "b": torch.zeros(2)}},
              {**original, "weights": {"a": torch.arange(4.0), "b": -torch.zeros(2)}}]
    sums = [checkpoint.checksum(each) for each in (original, *others)]
    assert len(set(sums)) == len(sums)
    assert checkpoint.checksum({**original,
                                "weights": {"a": torch.arange(8.0)[::2] / 2, "b": torch.zeros(2)}}) == sums[0]


@pytest.mark.parametrize("value",
                         [torch.zeros(2, dtype=torch.complex64), torch.zeros(2).to_sparse(), torch.zeros(1).expand(5),
                          {1, 2}, torch.float32],
                         ids=["complex", "sparse", "expanded", "set", "dtype"])
def test_what_could_not_be_loaded_again_is_not_saved(value, tmp_path):
    with pytest.raises(ValueError, match="not simply numbers|neither a tensor nor a plain value"):
        checkpoint.save(tmp_path / "file.pth", {"x": value})
    assert os.listdir(tmp_path) == []


# --- Damage ---

def test_a_file_cut_off_anywhere_is_refused(saved, tmp_path):
    whole = saved[0].read_bytes()
    lengths = {0, 1, 2, 4, 10, 100, len(whole) - 1, len(whole) - 2, len(whole) - 22, len(whole) - 100}
    lengths |= {random.Random(0).randrange(len(whole)) for _ in range(100)}
    for length in sorted(lengths):
        cut = tmp_path / "cut.pth"
        cut.write_bytes(whole[:length])
        sentence(checkpoint.load, cut)


def test_a_flipped_bit_is_found_or_changes_nothing(saved, tmp_path):
    path, contents = saved
    whole, chance = path.read_bytes(), random.Random(0)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(archive.namelist()[0]).header_offset
        # the values, the archive's table of contents
        described = [*range(start, start + 2000), *range(len(whole) - 2000, len(whole))]
    flipped = tmp_path / "flipped.pth"
    refused = 0
    for place in [chance.randrange(len(whole)) for _ in range(150)] + chance.sample(described, 150):
        content = bytearray(whole)
        content[place] ^= 1 << chance.randrange(8)
        flipped.write_bytes(content)
        try:
            found = checkpoint.load(flipped)
        except ValueError as error:
            assert str(flipped) in str(error) and len(str(error).splitlines()) == 1
            refused += 1
        else:
            assert equal(found, contents), place
    assert refused > 100


def test_a_flipped_bit_in_the_weights_is_called_damage(saved, net):
    path = saved[0]
    content = path.read_bytes()
    place = content.index(net.state_dict()["embedding.weight"].numpy().tobytes())
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
    assert "damaged" in sentence(checkpoint.load, path)


@pytest.mark.parametrize("version", [checkpoint.FORMAT + 1, 10**6, "2", None, 1.5])
def test_a_newer_format_is_refused_with_what_to_do(version, net, tmp_path):
    path = forged(tmp_path / "newer.pth", {**contents_of(net), "format": version})
    message = sentence(checkpoint.load, path)
    assert f"format {version!r}" in message and "Update Folio" in message


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        checkpoint.load(tmp_path / "nothing.pth")


# --- Foreign files ---

@pytest.mark.parametrize("content",
                         [b"", b"To be, or not to be", b"\x80\x04.", b"PK\x03\x04", bytes(1000), b"\xff" * 1000,
                          pickle.dumps({"format": 1, "checksum": ""})],
                         ids=["empty", "text", "pickle", "zip", "zeros", "ones", "dict"])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    path = tmp_path / "foreign.pth"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as warned:            # what torch has to say about it is not for users
        warnings.simplefilter("always")
        sentence(checkpoint.load, path)
    assert list(map(str, warned)) == []


def test_a_zip_of_something_else_is_refused(tmp_path):
    path = tmp_path / "foreign.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    sentence(checkpoint.load, path)


@pytest.mark.parametrize("content",
                         [torch.zeros(3), {"weights": torch.zeros(3)}, [1, 2], 3, {}, {"format": 1}, {"checksum": "x"},
                          None, "format",
                          {"format": 1, "checksum": None}], ids=repr)
def test_another_programs_torch_file_is_refused(content, tmp_path):
    path = tmp_path / "foreign.pth"
    torch.save(content, path)
    sentence(checkpoint.load, path)


@pytest.mark.parametrize("name, content, known", [
    ("model.safetensors", (2).to_bytes(8, "little") + b"{}", "a safetensors file, as Hugging Face keeps models"),
    ("model.gguf", b"GGUF\x03\0\0\0" + bytes(100), "a GGUF file, as llama.cpp keeps models"),
    ("old.pth", pickle.dumps({"weights": 1}), "a bare pickle, as old versions of PyTorch write"),
])
def test_a_model_of_another_program_is_named_as_what_it_is(name, content, known, tmp_path):
    (tmp_path / name).write_bytes(content)
    advice = "Folio reads its own weights-NAME.pth."
    if name.endswith(".gguf"):
        advice += f" To import the model: python -m folio.convert import {tmp_path / name} --name NAME"
    for read in (checkpoint.load, checkpoint.load_metadata):
        assert (
            sentence(read, tmp_path / name)
            == f"{tmp_path / name} is {known}; nothing in it was executed. {advice}"
        )


def test_for_a_file_in_the_folder_of_a_model_the_import_of_the_folder_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    torch.save({"wte.weight": torch.zeros(3)}, tmp_path / "pytorch_model.bin")
    advice = f"To import the model: python -m folio.convert import {tmp_path} --name NAME"
    for name in ("model.safetensors", "pytorch_model.bin"):
        assert not sentence(checkpoint.load, tmp_path / name).endswith(advice)
    (tmp_path / "config.json").touch()
    for name in ("model.safetensors", "pytorch_model.bin", "."):
        assert sentence(checkpoint.load, tmp_path / name).endswith(advice)


def test_hugging_faces_own_form_of_a_torch_file_is_named(tmp_path):
    torch.save({"transformer.wte.weight": torch.zeros(3)}, tmp_path / "pytorch_model.bin")
    assert "is a PyTorch file of another program, as Hugging Face's pytorch_model.bin is" in sentence(
        checkpoint.load, tmp_path / "pytorch_model.bin"
    )


def test_a_folder_is_called_a_folder(tmp_path):
    assert "is a folder; nothing" in sentence(checkpoint.load, tmp_path)
    (tmp_path / "config.json").touch()
    assert "is a folder, as Hugging Face keeps models; nothing" in sentence(checkpoint.load, tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name here")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert "is a pipe or a device" in sentence(checkpoint.load, tmp_path / "pipe.pth")


@pytest.mark.parametrize("error",
                         [PermissionError(errno.EACCES, "Permission denied"),
                          OSError(errno.EIO, "Input/output error")], ids=str)
def test_what_the_system_says_of_a_file_remains(error, saved, monkeypatch):
    def refuse(*_):
        raise error
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError) as raised:
        checkpoint.load(saved[0])
    assert raised.value is error


class Hostile:
    """Pickles to a call of os.system that leaves a file behind."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["pickle", "torch", "old torch", "inside a file of ours"])
def test_code_in_a_file_is_not_run(form, net, tmp_path):
    path, trace = tmp_path / "hostile.pth", tmp_path / "trace"
    hostile = Hostile(f'echo run > "{trace}"')
    if form == "pickle":
        path.write_bytes(pickle.dumps(hostile))
    elif form == "inside a file of ours":
        contents = {"format": checkpoint.FORMAT, **contents_of(net)}
        torch.save({**contents, "more": hostile, "checksum": checkpoint.checksum(contents)}, path)
    else:
        torch.save({"format": 1, "weights": hostile}, path, _use_new_zipfile_serialization=form == "torch")
    assert "nothing in it was executed" in sentence(checkpoint.load, path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(hostile))
    assert trace.exists()                           # the trap itself works


# --- Files that lie, with a checksum that is right ---

def broken(name):
    """Contents that are wrong in one way."""
    torch.manual_seed(0)
    net = networks.build_network(TINY)
    contents = contents_of(net)
    weights = dict(contents["weights"])
    embedding = weights["embedding.weight"]
    return {
        "a weight of another shape": {"weights": {**weights, "embedding.weight": embedding[:-1]}},
        "a weight missing": {"weights": {key: value for key, value in weights.items() if key != "norm.weight"}},
        "a weight too many": {"weights": {**weights, "extra": torch.zeros(1)}},
        "a weight that is a number": {"weights": {**weights, "norm.weight": 3}},
        "a weight of sparse form": {"weights": {**weights, "embedding.weight": embedding.to_sparse()}},
        "a weight without memory": {"weights": {**weights, "embedding.weight": embedding.to("meta")}},
        "weights that are a list": {"weights": [1, 2]},
        "another width": {"params": {**contents["params"], "emb_len": 16}},
        "fewer layers": {"params": {**contents["params"], "num_layers": 1}},
        "another vocabulary": {"params": {**contents["params"], "vocab_size": 21}},
        "no vocabulary": {"params": {**contents["params"], "vocab_size": None}},
        "parameters with problems": {"params": {**contents["params"], "num_heads": 3, "num_kv_heads": 3,
                                                "head_len": None}},
        "an unknown parameter": {"params": {**contents["params"], "color": "red"}},
        "a parameter of another type": {"params": {**contents["params"], "emb_len": "wide"}},
        "parameters that are none": {"params": None},
        "a tokenizer of another size": {"tokenizer": CharTokenizer("abc").to_dict()},
        "a tokenizer of no kind": {"tokenizer": {"format": 1, "kind": "words"}},
        "a tokenizer that is none": {"tokenizer": None},
        "an opening outside the vocabulary": {"opening": [99]},
        "an opening that is none": {"opening": None},
        "an empty opening": {"opening": []},
        "a quality that is a word": {"val_bpb": "good"},
    }[name], contents


BROKEN = ["a weight of another shape", "a weight missing", "a weight too many", "a weight that is a number",
          "a weight of sparse form",
          "a weight without memory", "weights that are a list", "another width", "fewer layers", "another vocabulary",
          "no vocabulary",
          "parameters with problems", "an unknown parameter", "a parameter of another type", "parameters that are none",
          "a tokenizer of another size", "a tokenizer of no kind", "a tokenizer that is none",
          "an opening outside the vocabulary",
          "an opening that is none", "an empty opening", "a quality that is a word"]


@pytest.mark.parametrize("how", BROKEN)
def test_contents_that_do_not_fit_together_are_refused_in_one_sentence(how, tmp_path):
    change, contents = broken(how)
    path = forged(tmp_path / "broken.pth", contents)
    folio.load(path).complete("ab", tokens=2)               # it is the change that is refused
    try:
        forged(path, {**contents, **change})
    except RuntimeError:                                    # no checksum of ours can be made of it: then any will do
        torch.save({**contents, **change, "format": checkpoint.FORMAT, "checksum": "0" * 64}, path)
    sentence(folio.load, path)


@pytest.mark.parametrize("missing", ["params", "tokenizer", "weights", "name", "opening", "step", "val_bpb"])
def test_a_file_in_which_something_is_missing_is_refused_in_one_sentence(missing, net, tmp_path):
    contents = contents_of(net)
    del contents[missing]
    sentence(folio.load, forged(tmp_path / "file.pth", contents))


def test_the_weight_that_does_not_fit_is_named_with_both_shapes(saved):
    path, contents = saved
    contents["weights"]["blocks.1.attention.key.weight"] = torch.zeros(8, 5)
    with pytest.raises(FolioError,
                       match=r"blocks\.1\.attention\.key\.weight has shape 8x5 where its parameters say 8x8"):
        checkpoint.network(contents, path)


def test_too_little_memory_is_no_fault_of_the_file(saved, monkeypatch):
    def build(params):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
    path, contents = saved
    monkeypatch.setattr(networks, "build_network", build)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        checkpoint.network(contents, path)


def test_weights_that_are_whole_numbers_are_refused(saved):
    path, contents = saved
    contents["weights"] = {name: tensor.to(torch.int32) for name, tensor in contents["weights"].items()}
    with pytest.raises(FolioError, match=r"numbers of type torch\.int32, its model those of type torch\.float32"):
        checkpoint.network(contents, path)


def test_values_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_file, "MOST_VALUES", 1000)
    for many in (990, 1000):
        torch.save({"format": 1, "x": [1] * many, "checksum": "0"}, tmp_path / "file.pth")
        found = sentence(checkpoint.load, tmp_path / "file.pth")
        assert ("more than 1,000" if many == 1000 else "checksum") in found


def test_values_nested_too_deep_are_refused(tmp_path):
    path = tmp_path / "deep.pth"
    deep = []
    for _ in range(5_000):
        deep = [deep]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)          # to write it; reading it needs no such thing
    try:
        torch.save({"format": 1, "deep": deep, "checksum": "0"}, path)
    finally:
        sys.setrecursionlimit(limit)
    sentence(checkpoint.load, path)


def zip_of(path, contents):
    """What torch.save makes of contents. -> {name of a record: bytes}"""
    torch.save(contents, path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written_as_zip(path, records, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return path


def unfolding(container):
    """40 containers that all hold the one before twice: 2 ** 40 items, of which a file tells in 1.6 kB."""
    value = container()
    for _ in range(40):
        value = {"a": value, "b": value} if container is dict else container([value, value])
    return value


NOT_PLAIN = {
    "lists": (lambda: unfolding(list), "again and again"), "tuples": (lambda: unfolding(tuple), "again and again"),
    "dicts": (lambda: unfolding(dict), "again and again"),
    "a tensor many times": (lambda: [torch.zeros(1_000_000)] * 100_000, "again and again"),
    "a text many times": (lambda: ["a" * 1_000_000] * 100_000, "again and again"),
    "a conjugate": (lambda: torch.zeros(2, dtype=torch.complex64).conj(), "ComplexFloatStorage"),
    "a negated view": (lambda: torch._neg_view(torch.ones(2)), "not simply numbers"),
    "a nested tensor": (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "nested"),
    "a sparse tensor": (lambda: torch.zeros(3).to_sparse(), "sparse"),
    "a quantized tensor": (lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8), "_rebuild_qtensor"),
    "a tensor without memory": (lambda: torch.zeros(3, device="meta"), "meta_tensor"),
    "a tensor of one number": (lambda: torch.zeros(1).expand(1_000_000), "without all of its numbers"),
    "a set": (lambda: {1, 2}, "set"), "a bytearray": (lambda: bytearray(5), "bytearray"),
    "a complex number": (lambda: 1j, "complex"),
    "a dtype": (lambda: torch.float32, "torch.float32"), "a number of 1,001 digits": (lambda: 10 ** 1000, "damaged"),
    "a key whose hash is another's": (lambda: {2 ** 61 - 1: 0}, "no key"),
    "a tuple as key": (lambda: {(1, 2): 0}, "no key"),
}


@pytest.mark.filterwarnings("ignore")           # some of these are new in torch, others old
@pytest.mark.parametrize("name", NOT_PLAIN)
def test_values_that_unfold_or_are_not_plain_are_refused_at_once(name, tmp_path):
    make, why = NOT_PLAIN[name]
    torch.save({"format": 1, "x": make(), "checksum": "0"}, tmp_path / "file.pth")
    for read in (checkpoint.load, checkpoint.load_metadata):
        assert why in sentence(read, tmp_path / "file.pth")


def test_compressed_records_are_refused(saved, tmp_path):
    with zipfile.ZipFile(saved[0]) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    assert equal(checkpoint.load(written_as_zip(tmp_path / "same.pth", records)), saved[1])
    packed = written_as_zip(tmp_path / "bomb.pth", records | {"archive/data/0": bytes(50_000_000)},
                            zipfile.ZIP_DEFLATED)
    assert "compressed records" in sentence(checkpoint.load, packed)


def test_a_tensor_gets_no_number_from_outside_of_its_record(tmp_path):
    records = zip_of(tmp_path / "file.pth", {"format": 1, "x": torch.arange(1000.0), "checksum": "0"})
    longer = records["file/data.pkl"].replace(b"M\xe8\x03", b"J\x00\x00\x10\x00")           # 1,000 -> 1,048,576
    assert longer != records["file/data.pkl"]
    assert "has 4,000 bytes, not 4,194,304" in sentence(checkpoint.load,
                                                        written_as_zip(tmp_path / "lie.pth",
                                                                       records | {"file/data.pkl": longer}))


@pytest.mark.parametrize("shape, stride, offset",
                         [((4,), (1,), 0), ((4,), (1,), 1), ((4,), (2,), 0), ((2, 2), (3, 1), 0), ((5,), (0,), 0),
                          ((2, 2), (0, 1), 3)], ids=str)
def test_a_view_beyond_its_record_is_refused(shape, stride, offset, tmp_path):
    records = zip_of(tmp_path / "file.pth", {"format": 1, "x": torch.arange(4.0), "checksum": "0"})
    numbers = [b"".join(b"K" + bytes([size])
                        for size in sizes) + pickle.TUPLE1[:len(sizes) == 1] + pickle.TUPLE2[:len(sizes) == 2]
               for sizes in (shape, stride)]
    start, end = records["file/data.pkl"].index(b"QK\x00") + 1, records["file/data.pkl"].index(b"\x89")
    data = records["file/data.pkl"]
    told = data[:start] + b"K" + bytes([offset]) + b"".join(numbers) + data[end:]
    path = written_as_zip(tmp_path / "lie.pth", records | {"file/data.pkl": told})
    if (shape, stride, offset) == ((4,), (1,), 0):
        assert checkpoint.load_metadata(path)["x"].shape == (4,)            # the forgery itself is sound
    else:
        assert "without all of its numbers" in sentence(checkpoint.load_metadata, path)


@pytest.mark.parametrize("pickled",
                         [b"\x80\x02]r\xff\xff\xff\xff.", b"\x80\x02\x8d" + b"\xff" * 7 + b"\x7f.",
                          b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.",
                          b"\x80\x02}}b.", b"\x80\x02.", b"\x80\x02ctorch\nFloatStorage\n)R.", b"cos\nsystem\n.",
                          b"\x80\x02h\x05."])
def test_pickles_as_torch_never_writes_them_are_refused(pickled, tmp_path):
    records = zip_of(tmp_path / "file.pth", {"format": 1, "checksum": "0"})
    sentence(checkpoint.load, written_as_zip(tmp_path / "forged.pth", records | {"file/data.pkl": pickled}))


# --- The fields ---

def test_every_field_of_both_files_is_documented_at_the_top_of_the_module(home, plays):
    every, weights, resume = (re.findall(r"^    (\w+)  ", part, re.MULTILINE)
                              for part in re.split("weights-NAME.pth has all|resume-NAME.pth has all",
                                                   checkpoint.__doc__))
    project = home(plays[:3000])
    done = run_script("train.py", "--home", project.folder, "--tokenizer", "char", "--steps", 1, "--emb-len", 8,
                      "--num-layers", 1,
                      "--num-heads", 1, "--block-size", 8, "--threads", 1, "--sample-tokens", 0, "--no-compile",
                      "--name", "tiny")
    assert done.returncode == 0, done.stderr
    for path, documented in ((project.weights("tiny"), weights), (project.resume("tiny"), resume)):
        assert set(checkpoint.load_metadata(path)) == {*every, *documented} - {"origin", "adapter"}       # of others


# --- What a file says of itself, without its tensors ---

def test_metadata_has_the_plain_values_and_the_outlines_of_the_tensors(saved, net):
    found = checkpoint.load_metadata(saved[0])
    assert {key: found[key] for key in ("name", "step", "val_bpb", "params")} == {"name": "tiny", "step": 7,
                                                                                  "val_bpb": 1.5,
                                                                                  "params": asdict(net.params)}
    assert {name: (outline.shape, outline.dtype) for name, outline in found["weights"].items()} == {
        name: (tuple(tensor.shape), tensor.dtype) for name, tensor in net.state_dict().items()}


def test_metadata_is_read_without_the_numbers(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "file.pth",
                    {"step": 3, "weights": {str(each): torch.randn(250_000) for each in range(10)}})
    taken, readinto, read = [], zipfile.ZipExtFile.readinto, zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "readinto", lambda self, buffer: taken.append(self.name)
                        or readinto(self, buffer))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, name: taken.append(name.filename) or read(self, name))
    assert checkpoint.load_metadata(tmp_path / "file.pth")["step"] == 3
    assert {name.partition("/")[2] for name in taken} == {"data.pkl", "byteorder"}
    checkpoint.load(tmp_path / "file.pth")
    assert any(name.endswith("data/9") for name in taken)


FRUGAL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from folio.generation.language_model import load
import torch
torch.zeros(1), torch.nn.Linear(1, 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load(sys.argv[1])
except ValueError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, file=sys.stderr)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process as Linux can")
@pytest.mark.parametrize("claim", ["emb_len", "num_layers", "block_size", "a tensor", "a memo"])
def test_huge_claims_are_refused_without_taking_memory(claim, net, tmp_path):
    path = tmp_path / "huge.pth"
    contents = contents_of(net)
    if claim == "a tensor":                                 # 16 TB, which a few bytes and a stride of 0 can claim
        contents["weights"]["embedding.weight"] = torch.zeros(1).expand(2_000_000, 2_000_000)
        torch.save({"format": 1, **contents, "checksum": "0"}, path)
    # of 4 billion places, which five bytes claim of a pickle's reader
    elif claim == "a memo":
        records = zip_of(path, {"format": 1})
        written_as_zip(path,
                       {name: b"\x80\x02}r\xff\xff\xff\x7f." if name.endswith("data.pkl") else content
                        for name, content in records.items()})
    else:
        # tables of positions are in no file, and grow with it
        contents["params"][claim] = 20_000_000 if claim == "block_size" else 10**9
        forged(path, contents)
    assert path.stat().st_size < 100_000
    done = run_python("-c", FRUGAL, path)
    assert done.returncode == 0, done.stderr[-500:]
    assert str(path) in done.stdout and len(done.stdout.splitlines()) == 1
    assert int(done.stderr.splitlines()[-1]) < 200           # MB


# --- Writing ---

def test_a_full_disk_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    path, contents = saved
    old = path.read_bytes()
    monkeypatch.setattr(os, "fsync", FullDisk(good_calls=0))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        checkpoint.save(path, {"step": 8})
    monkeypatch.undo()
    assert path.read_bytes() == old and os.listdir(path.parent) == [path.name]


class Filling:
    """A file on a disk that gets full after some bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, content):
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(content)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 1, 100, 5000])
def test_a_disk_that_gets_full_while_writing_leaves_the_old_file_and_is_said(saved, room, monkeypatch):
    path, contents = saved
    old = path.read_bytes()
    replacing = files.replacing

    class Replacing:
        def __init__(self, path):
            self.inner = replacing(path)

        def __enter__(self):
            return Filling(self.inner.__enter__(), room)

        def __exit__(self, *error):
            return self.inner.__exit__(*error)
    monkeypatch.setattr(checkpoint, "replacing", Replacing)
    with pytest.raises(OSError) as full:
        checkpoint.save(path, contents)
    assert full.value.errno == errno.ENOSPC
    assert path.read_bytes() == old and os.listdir(path.parent) == [path.name]


def test_a_process_killed_while_writing_leaves_the_old_file(saved):
    path, contents = saved
    code = ("import os, sys, torch\nfrom folio.formats import checkpoint\n"
            "torch.save = lambda contents, file: (file.write(b'half'), file.flush(), os._exit(9))\n"
            "checkpoint.save(sys.argv[1], {})")
    assert run_python("-c", code, path).returncode == 9
    assert equal(checkpoint.load(path), contents)
    leftovers = [name for name in os.listdir(path.parent) if name != path.name]
    assert len(leftovers) == 1 and not leftovers[0].endswith(".pth")        # never taken for a weights file
    files.remove_leftovers(path)
    assert os.listdir(path.parent) == [path.name]


# --- At the front door ---

def test_run_refuses_bad_weights_with_one_sentence_and_exit_code_1(saved, tmp_path):
    home = tmp_path / "home"
    (home / "Saved_Weights").mkdir(parents=True)
    bad = home / "Saved_Weights" / "weights-bad.pth"
    shutil.copy(saved[0], bad)
    bad.write_bytes(bad.read_bytes()[:-500])
    message = refusal(run_script("run.py", "--home", home, "ab", "--tokens", 3))
    assert len(message.splitlines()) == 1 and str(bad) in message
