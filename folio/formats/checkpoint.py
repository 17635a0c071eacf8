"""Weights files and resume files: whole or absent, tensors and plain values only, with a checksum over all of it.

A file is a dict. It is read without running any code it may contain, and every way in which it can be bad becomes one sentence.
"""

import os
import stat
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch

from folio.networks import build as networks
from folio.formats import torch_file
from folio.base.errors import FolioError, is_out_of_memory
from folio.base.files import replacing
from Model_Params import ModelParams

FORMAT = 1


def save(path, contents):
    """Write a dict of tensors and plain values, so that at every moment `path` is the old file or the new one, whole."""
    contents = {"format": FORMAT, **contents}
    with replacing(path) as file:
        try:
            torch.save({**contents, "checksum": checksum(contents)}, file)
        except RuntimeError as error:       # what torch makes of a write that failed
            raise error.__context__ if isinstance(error.__context__, OSError) else error


def load(path):
    """The dict that was saved. Raises OSError where the system does not give it, and FolioError with one sentence where there is none to trust."""
    with _opened(path) as file:
        contents = file.contents()
    try:
        if contents.pop("checksum", None) == checksum(contents):
            return contents
    except ValueError:          # Python writes out no number of more than 4,300 digits
        pass
    raise FolioError(f"{path} is damaged: its checksum does not match its contents.")


def load_metadata(path):
    """The dict that was saved, with a torch_file.Outline (dtype, shape) in place of every tensor; none of their numbers is read.

    Good for choosing a file, not for using one: the checksum, which is over all of it, is not compared. Raises what `load` raises.
    """
    with _opened(path) as file:
        return file.outlines()


@contextmanager
def _opened(path):
    """Yield the torch_file.TorchFile at `path`, of a format that this Folio reads. A FolioError from here or the block names `path`."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise _not_ours(path, f"a folder{', as Hugging Face keeps models' * (Path(path) / 'config.json').exists()}")
    if not stat.S_ISREG(status.st_mode):        # to open a pipe might wait for ever
        raise _not_ours(path, "a pipe or a device")
    with open(path, "rb") as file:
        if known := _known_by(file.read(16), status.st_size):
            raise _not_ours(path, known)
        try:
            opened = torch_file.TorchFile(file)
            outlines = opened.outlines()
        except FolioError as error:
            raise FolioError(f"{path} is not a whole file of Folio's: {error}; nothing in it was run.") from None
        if not isinstance(outlines, dict) or "format" not in outlines:
            raise _not_ours(path, "a PyTorch file of another program, as Hugging Face's pytorch_model.bin is")
        version = outlines["format"]
        if not isinstance(version, int) or version > FORMAT:
            raise FolioError(f"{path} was made by a newer Folio (format {repr(version)[:80]}; this one reads up to {FORMAT}). Update Folio.")
        try:
            yield opened
        except FolioError as error:
            raise FolioError(f"{path} is damaged: {error}.") from None


def _known_by(beginning, size):
    """What a file is, by its first 16 bytes, where it is known to be another program's."""
    if beginning.startswith(b"GGUF"):
        return "a GGUF file, as llama.cpp keeps models"
    if beginning[8:9] == b"{" and int.from_bytes(beginning[:8], "little") < size:
        return "a safetensors file, as Hugging Face keeps models"
    return "a bare pickle, as old versions of PyTorch write" if beginning[:1] == b"\x80" else None


def _not_ours(path, known):
    return FolioError(f"{path} is {known}; nothing in it was run. Folio reads its own weights-NAME.pth.")


def network(contents, path):
    """The network in a loaded file, its shapes compared with the parameters before memory is taken. Raises FolioError, naming `path`."""
    try:
        params = ModelParams(**contents["params"])
        expected, found = networks.outline(params).state_dict(), contents["weights"]
        shapes, found_shapes = ({name: tensor.shape for name, tensor in each.items()} for each in (expected, found))
        if wrong := sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found_shapes.get(name)):
            raise FolioError(f"{wrong[0]} has shape {_shape(found_shapes.get(wrong[0]))} where its parameters say {_shape(shapes.get(wrong[0]))}")
        if wrong := sorted(name for name in found if found[name].is_floating_point() != expected[name].is_floating_point()):
            raise FolioError(f"{wrong[0]} has numbers of type {found[wrong[0]].dtype}, its model those of type {expected[wrong[0]].dtype}")
        net = networks.build_network(params)
        net.load_state_dict(contents["weights"])
        return net
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise FolioError(f"{path} holds no model that this Folio can build: {error}.") from None


def checksum(value):
    """SHA-256 over nested dicts, lists, tensors and plain values: equal exactly where all of it is equal.

    Raises ValueError for what no file of ours can hold: a tensor that is not simply numbers in memory, or an object that is no plain value.
    """
    digest = sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest, value):
    if isinstance(value, torch.Tensor):
        if not _is_numbers_in_memory(value):
            raise ValueError(f"a tensor of {value.dtype}, {value.layout}, that is not simply numbers in memory")
        value = value.detach().cpu().contiguous()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        flat = value.as_strided((value.numel(),), (1,))         # reshape would keep the stride of a single number, whatever it is
        digest.update(flat.view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}".encode())
        for key, item in value.items():
            _feed(digest, key)
            _feed(digest, item)
    elif isinstance(value, (list, tuple)):
        digest.update(f"list {len(value)}".encode())
        for item in value:
            _feed(digest, item)
    elif type(value) not in torch_file.PLAIN:
        raise ValueError(f"a {type(value).__name__}, which is neither a tensor nor a plain value")
    else:
        digest.update(f"{type(value).__name__} {value!r};".encode("utf-8", errors="surrogateescape"))


def _is_numbers_in_memory(tensor):
    """Whether it is dense and of a type that files hold, and no lazy view, which torch conjugates, negates or repeats only when it is read."""
    return (tensor.layout == torch.strided and not tensor.is_nested and tensor.dtype in torch_file.DTYPES.values() and not tensor.is_neg()
            and tensor.device.type != "meta" and tensor.nbytes <= tensor.untyped_storage().nbytes())


def _shape(shape):
    return "none" if shape is None else "x".join(map(str, shape)) or "one number"
