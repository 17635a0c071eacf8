"""Files that no Folio ever wrote: made byte by byte, to be given to one."""

import io
import pickle
import zipfile
from collections import OrderedDict

import torch

from folio.formats import checkpoint


class RunsCode:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return open, (self.proof, "w")


class Stored:
    """A tensor of float32 zeros of which only the size is said; what its record holds is said to `archive`."""

    def __init__(self, numbers, key="0"):
        self.numbers, self.key = numbers, key

    def __reduce__(self):
        storage = _Storage(self.numbers, self.key)
        return torch._utils._rebuild_tensor_v2, (storage, 0, (self.numbers,), (1,), False, OrderedDict())


class _Storage:
    def __init__(self, numbers, key):
        self.numbers, self.key = numbers, key


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return ("storage", torch.FloatStorage, value.key, "cpu", value.numbers) if isinstance(value, _Storage) else None


def archive(path, contents, records=None, method=zipfile.ZIP_STORED):
    """Write a file as torch.save does, with any contents; records: {key of a storage: its number of zero bytes}."""
    pickled = io.BytesIO()
    _Pickler(pickled, protocol=2).dump(contents)
    with zipfile.ZipFile(path, "w", method, compresslevel=1 if method else None) as file:
        file.writestr("archive/data.pkl", pickled.getvalue())
        file.writestr("archive/byteorder", "little")
        for key, size in (records or {}).items():
            with file.open(f"archive/data/{key}", "w", force_zip64=True) as record:
                for start in range(0, size, 1 << 20):
                    record.write(bytes(min(1 << 20, size - start)))
        file.writestr("archive/version", "3\n")


def contents_of(path):
    """All that is in a file of Folio's, less its checksum."""
    contents = torch.load(path, map_location="cpu", weights_only=True)
    contents.pop("checksum")
    return contents


def sealed(path, contents):
    """Write contents with their checksum, if they can have one: whoever makes a file can make that too."""
    try:
        seal = checkpoint.checksum(contents)
    except Exception:           # whatever keeps us from it, a reader does not know
        seal = "0" * 64
    torch.save({**contents, "checksum": seal}, path)


def texts(value, path=()):
    """Yield the path of every text in nested dictionaries and lists: (path, whether it is a key).

    Of the keys, all of the outermost dictionary, and one of every other.
    """
    if isinstance(value, dict):
        for place, (key, item) in enumerate(value.items()):
            if isinstance(key, str) and (not path or place == 0):
                yield (*path, key), True
            yield from texts(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value[:3]):
            yield from texts(item, (*path, place))
    elif isinstance(value, str):
        yield path, False


def put(value, path, new, is_key=False):
    """Nested values with another one at a path, or another key there."""
    if not path:
        return new
    step, *rest = path
    value[step]             # it has to be there
    if not isinstance(value, dict):
        return type(value)(put(item, rest, new, is_key) if place == step else item for place, item in enumerate(value))
    if is_key and not rest:
        return {new if key == step else key: item for key, item in value.items()}
    return {key: put(item, rest, new, is_key) if key == step else item for key, item in value.items()}
