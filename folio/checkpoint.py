"""Weights files and resume files: whole or absent, tensors and plain values only, with a checksum over all of it.

A file is a dict. It is read without running any code it may contain, and every way in which it can be bad becomes one sentence.
"""

import warnings
from hashlib import sha256

import torch

from folio import networks
from folio.errors import FolioError
from folio.files import replacing
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
    """The dict that was saved. Raises FileNotFoundError or FolioError with one sentence where there is none, or none to trust."""
    try:
        file = open(path, "rb")
    except OSError as error:
        raise FileNotFoundError(f"{path} cannot be read: {error.strerror}.") from None
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")     # about what foreign files are; they are refused
        try:
            contents = torch.load(file, map_location="cpu", weights_only=True)
            version = contents["format"]
        except Exception as error:      # what torch.load raises for damaged and foreign files is of a dozen types, none of them documented
            raise FolioError(f"{path} is not a whole file of Folio's, or holds more than tensors and plain values; "
                             f"nothing in it was run ({type(error).__name__}).") from None
    if not isinstance(version, int) or version > FORMAT:
        raise FolioError(f"{path} was made by a newer Folio (format {version}; this one reads up to {FORMAT}). Update Folio.")
    try:
        if contents.pop("checksum", None) == checksum(contents):
            return contents
    except (ValueError, RecursionError):
        pass
    raise FolioError(f"{path} is damaged: its checksum does not match its contents.")


def network(contents, path):
    """The network in a loaded file, its shapes compared with the parameters before memory is taken. Raises FolioError, naming `path`."""
    try:
        params = ModelParams(**contents["params"])
        expected = {name: tensor.shape for name, tensor in networks.outline(params).state_dict().items()}
        found = {name: tensor.shape for name, tensor in contents["weights"].items()}
        if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
            raise FolioError(f"{wrong[0]} has shape {_shape(found.get(wrong[0]))} where its parameters say {_shape(expected.get(wrong[0]))}")
        net = networks.build(params)
        net.load_state_dict(contents["weights"])
        return net
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise FolioError(f"{path} holds no model that this Folio can build: {error}.") from None


def checksum(value):
    """SHA-256 over nested dicts, lists, tensors and plain values: equal exactly where all of it is equal.

    Raises FolioError for a tensor that is not simply numbers in memory, or that claims more of them than it has.
    """
    digest = sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest, value):
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.device.type == "meta" or value.nbytes > value.untyped_storage().nbytes():
            raise FolioError("a tensor without all of its numbers")
        value = value.detach().cpu().contiguous()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}".encode())
        for key, item in value.items():
            _feed(digest, key)
            _feed(digest, item)
    elif isinstance(value, (list, tuple)):
        digest.update(f"list {len(value)}".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r};".encode("utf-8", errors="surrogateescape"))


def _shape(shape):
    return "none" if shape is None else "x".join(map(str, shape)) or "one number"
