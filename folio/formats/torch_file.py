"""Read what torch.save wrote: nothing in the file is run, and time and memory are bounded by its size.

The file is a zip archive. Its record data.pkl is a pickle of the values, in which a tensor is a reference to one of the records
data/0, data/1... that hold the numbers. torch.load also takes compressed records (3 MB become 3 GB), lists that contain each other (1.6 kB
become 2 ** 40 items) and two dozen kinds of objects; this reader takes plain values and dense tensors, knows every size before it takes
memory, and reads the values without the tensors where only they are wanted.
"""

import errno
import io
import math
import pickle
import sys
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from folio.base.errors import FolioError

DTYPES = {"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
          "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8,
          "ByteStorage": torch.uint8, "BoolStorage": torch.bool}           # by torch's name for a record of such numbers
PLAIN = (type(None), bool, int, float, str, bytes)
MOST_PICKLED = 1 << 24      # bytes of data.pkl: a tokenizer of 500,000 merges takes 7 MB, and Python reads 6 MB a second
MOST_VALUES = 1 << 21       # beside the tensors: the same tokenizer has 1.5 million, and what is done with each takes 2 microseconds
MOST_REPEATED = 8           # times the file's size: tied weights are there once and named twice
_AT_ONCE = 1 << 24          # bytes read at a time


@dataclass(frozen=True)
class Outline:
    """A tensor as a file describes it, while its numbers are still there."""
    record: str
    dtype: torch.dtype
    offset: int             # of the first number in the record, like stride in numbers
    shape: tuple
    stride: tuple

    @property
    def nbytes(self):
        return math.prod(self.shape) * self.dtype.itemsize


class TorchFile:
    """The contents of an open binary file. Raises FolioError, with a phrase that says what is wrong, where it cannot be trusted."""

    def __init__(self, file):
        self._file, self._tensors = file, {}
        with _damage_named():
            self._size = file.seek(0, io.SEEK_END)
            self._archive = zipfile.ZipFile(file)
            self._records = self._checked_records()
            self._values = self._unpickled()

    def outlines(self):
        """Return the values in the file, with an Outline for every tensor; no numbers are read."""
        return self._rebuilt(lambda outline: outline)

    def contents(self):
        """Return the values in the file, with its tensors."""
        return self._rebuilt(self._tensor)

    def _checked_records(self):
        """-> {name: zipfile.ZipInfo} of records that together are no larger than the file"""
        records = self._archive.infolist()
        by_name = {record.filename.partition("/")[2]: record for record in records}      # all have the archive's name in front
        if any(record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size for record in records):
            raise FolioError("it has compressed records, which torch never writes")
        if len(by_name) != len(records) or sum(record.file_size for record in records) > self._size:
            raise FolioError("its records overlap")
        if "data.pkl" not in by_name:
            raise FolioError("it is a zip archive of something else")
        if by_name["data.pkl"].file_size > MOST_PICKLED:
            raise FolioError(f"its values without the tensors take {by_name['data.pkl'].file_size:,} bytes, more than {MOST_PICKLED:,}")
        if "byteorder" in by_name and self._archive.read(by_name["byteorder"]) != sys.byteorder.encode():
            raise FolioError("it was written on a machine of another byte order")
        return by_name

    def _unpickled(self):
        return _Values(io.BytesIO(self._archive.read(self._records["data.pkl"])), self._records).load()

    def _rebuilt(self, tensor_of):
        """The values with tensor_of(outline) for each Outline. Raises FolioError where containers within each other unfold to more than the file can hold."""
        items_left, bytes_left = min(self._records["data.pkl"].file_size, MOST_VALUES), MOST_REPEATED * self._size

        def rebuilt(value):
            nonlocal items_left, bytes_left
            items_left -= 1
            bytes_left -= value.nbytes if isinstance(value, Outline) else len(value) if isinstance(value, (str, bytes)) else 0
            if min(items_left, bytes_left) < 0:
                raise FolioError(f"it names the same values again and again, or holds more than {MOST_VALUES:,} of them")
            if isinstance(value, dict):
                return {rebuilt(key): rebuilt(item) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                return type(value)([rebuilt(item) for item in value])
            if isinstance(value, Outline):
                return tensor_of(value)
            if type(value) not in PLAIN:
                raise FolioError(f"it holds a {type(value).__name__}, which is neither a tensor nor a plain value")
            return value

        with _damage_named():
            return rebuilt(self._values)

    def _tensor(self, outline):
        numbers = self._tensors.get(outline.record)
        if numbers is None:
            numbers = self._tensors[outline.record] = self._numbers(self._records[outline.record])
        return numbers.view(outline.dtype).as_strided(outline.shape, outline.stride, outline.offset)

    def _numbers(self, record):
        """-> (bytes,) uint8 tensor"""
        numbers = torch.empty(record.file_size, dtype=torch.uint8)
        rest = memoryview(numbers.numpy())
        with self._archive.open(record) as file:
            while rest and (count := file.readinto(rest[:_AT_ONCE])):
                rest = rest[count:]
        if rest:
            raise FolioError("it was cut off")
        return numbers


class _Values(pickle._Unpickler):
    """Unpickles plain values, and an Outline of every tensor; knows no other objects and calls nothing but what is here.

    The unpickler in Python, because that in C takes 34 GB on the word of five bytes (LONG_BINPUT makes room for a memo of any length).
    """

    def __init__(self, file, records):
        super().__init__(file)
        self._records = records

    def find_class(self, module, name):
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        known = {"collections.OrderedDict": _new_dict, "torch._utils._rebuild_tensor_v2": _outline, "_codecs.encode": _latin1}
        full_name = f"{module}.{name}"
        if full_name not in known:
            raise FolioError(f"it holds {full_name[:80]!r}, which is neither a tensor nor a plain value")
        return known[full_name]

    def persistent_load(self, pid):
        """A record as torch names it -> (its name, dtype, numbers in it)"""
        kind, dtype, key, _, count = pid
        record = self._records[f"data/{key}"]
        if kind != "storage" or record.file_size != count * dtype.itemsize:
            raise FolioError(f"the record of a tensor has {record.file_size:,} bytes, not {count * dtype.itemsize:,}")
        return record.filename.partition("/")[2], dtype, count

    def load_build(self):
        self.stack.pop()        # what a state_dict notes about the versions of its modules; ours have none

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def load_setitems(self):
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set(self, key, value):
        if type(key) is not str and not (type(key) is int and 0 <= key < 1 << 32):      # others can all be made to have the same hash
            raise FolioError(f"{type(key).__name__} is no key")
        self.stack[-1][key] = value

    # All that torch.save writes of plain values, in pickle's protocol 2.
    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in (
        pickle.PROTO, pickle.STOP, pickle.MARK, pickle.POP, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1,
        pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_TUPLE,
        pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_DICT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET,
        pickle.LONG_BINGET, pickle.GLOBAL, pickle.REDUCE, pickle.BINPERSID)}
    dispatch |= {pickle.BUILD[0]: load_build, pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems}


def _new_dict():
    return {}


def _latin1(text, encoding):
    if encoding != "latin1":
        raise FolioError(f"it holds bytes in the encoding {encoding[:80]!r}")
    return text.encode("latin1")


def _outline(storage, offset, shape, stride, requires_grad, hooks, metadata=None):
    """-> the Outline of a tensor whose numbers are all in its record; metadata: what torch notes about lazily conjugated or negated views"""
    record, dtype, count = storage
    sizes = [offset, *shape, *stride]
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if metadata or any(type(size) is not int or size < 0 for size in sizes):
        raise FolioError("it has a tensor that is not simply numbers in memory")
    if math.prod(shape) > count or 0 not in shape and last >= count:
        raise FolioError("it has a tensor without all of its numbers")
    return Outline(record, dtype, offset, tuple(shape), tuple(stride))


@contextmanager
def _damage_named():
    """Turn the dozen types of exceptions that damaged and hostile files cause into a FolioError; those of the system remain."""
    try:
        yield
    except (FolioError, MemoryError):
        raise
    except RecursionError:
        raise FolioError("its values are nested too deep") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:          # EINVAL: a place before the file's beginning
            raise
        raise FolioError(f"it is cut off or damaged ({type(error).__name__})") from None
