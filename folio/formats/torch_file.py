"""Read what torch.save wrote: nothing in the file is run, and time and memory are bounded by its size.

The file is a zip archive:

    data.pkl            a pickle of the values, in protocol 2, in which a tensor is a reference to one of the records
                        that follow, with its type, shape, stride and offset
    data/0, data/1...   the numbers of the tensors, not compressed; tied weights share one record
    byteorder           "little" or "big"; another byte order than this machine's is refused
    version, .data/...  what torch notes beside them; not read

torch.load also takes compressed records (3 MB become 3 GB), lists that contain each other (1.6 kB become 2 ** 40
items) and two dozen kinds of objects. This reader takes plain values and dense tensors, knows every size before it
takes memory, and can read the values without the numbers of the tensors.
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

# By torch's name for a record of such numbers.
DTYPES = {"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
          "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
          "ShortStorage": torch.int16, "CharStorage": torch.int8,
          "ByteStorage": torch.uint8, "BoolStorage": torch.bool}
PLAIN = (type(None), bool, int, float, str, bytes)
# Bytes of data.pkl: a tokenizer of 500,000 merges takes 7 MB, and Python reads 6 MB a second.
MOST_PICKLED = 1 << 24
# Values beside the tensors: the same tokenizer has 1.5 million, and each takes 2 microseconds to check.
MOST_VALUES = 1 << 21
MOST_REPEATED = 8           # times the file's size: tied weights are there once and named twice
_BYTES_AT_ONCE = 1 << 24    # read into memory


@dataclass(frozen=True)
class Outline:
    """A tensor as a file describes it, without its numbers."""
    record: str             # that holds the numbers
    dtype: torch.dtype
    offset: int             # of the first number in the record; counted in numbers, not bytes
    shape: tuple
    stride: tuple           # counted in numbers

    @property
    def nbytes(self):
        """Return the bytes that the tensor takes in memory, as torch.Tensor.nbytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class TorchFile:
    """The contents of an open binary file.

    Raises FolioError, with a phrase that says what is wrong, where they cannot be trusted.
    """

    def __init__(self, file):
        """file: open for reading in binary, and seekable; `contents` reads from it again."""
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
        """Return {name: zipfile.ZipInfo}. Raises FolioError where the records together are larger than the file."""
        records = self._archive.infolist()
        # All names begin with the archive's, and a slash.
        by_name = {record.filename.partition("/")[2]: record for record in records}
        if any(record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size
               for record in records):
            raise FolioError("it has compressed records, which torch never writes")
        if len(by_name) != len(records) or sum(record.file_size for record in records) > self._size:
            raise FolioError("its records overlap")
        if "data.pkl" not in by_name:
            raise FolioError("it is a zip archive of something else")
        if by_name["data.pkl"].file_size > MOST_PICKLED:
            raise FolioError(f"its values without the tensors take {by_name['data.pkl'].file_size:,} bytes, "
                             f"more than {MOST_PICKLED:,}")
        if "byteorder" in by_name and self._archive.read(by_name["byteorder"]) != sys.byteorder.encode():
            raise FolioError("it was written on a machine of another byte order")
        return by_name

    def _unpickled(self):
        return _Values(io.BytesIO(self._archive.read(self._records["data.pkl"])), self._records).load()

    def _rebuilt(self, tensor_of):
        """Return the values in the file, with tensor_of(outline) in place of each Outline.

        Raises FolioError where containers within each other unfold to more than the file can hold.
        """
        items_left, bytes_left = min(self._records["data.pkl"].file_size, MOST_VALUES), MOST_REPEATED * self._size

        def rebuilt(value):
            """Return a copy of a value and all values in it; count both against what is left."""
            nonlocal items_left, bytes_left
            items_left -= 1
            if isinstance(value, Outline):
                bytes_left -= value.nbytes
            elif isinstance(value, (str, bytes)):
                bytes_left -= len(value)
            if min(items_left, bytes_left) < 0:
                raise FolioError("it names the same values again and again, "
                                 f"or holds more than {MOST_VALUES:,} of them")
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
        """Return the tensor that an Outline describes; those of one record share its memory."""
        numbers = self._tensors.get(outline.record)
        if numbers is None:
            numbers = self._tensors[outline.record] = self._numbers(self._records[outline.record])
        return numbers.view(outline.dtype).as_strided(outline.shape, outline.stride, outline.offset)

    def _numbers(self, record):
        """Read the bytes of a record. -> (bytes,) uint8 tensor"""
        numbers = torch.empty(record.file_size, dtype=torch.uint8)
        rest = memoryview(numbers.numpy())
        with self._archive.open(record) as file:
            while rest and (count := file.readinto(rest[:_BYTES_AT_ONCE])):
                rest = rest[count:]
        if rest:
            raise FolioError("it was cut off")
        return numbers


class _Values(pickle._Unpickler):
    """Unpickle plain values, and an Outline for every tensor; know no other objects and call nothing but what is here.

    It derives from the unpickler in Python: the one in C takes 34 GB on the word of five bytes (LONG_BINPUT makes room
    for a memo of any length).
    """

    def __init__(self, file, records):
        super().__init__(file)
        self._records = records

    def find_class(self, module, name):
        """Return what stands for a class or function that the pickle names. Raises FolioError for all but four."""
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        known = {"collections.OrderedDict": _new_dict, "torch._utils._rebuild_tensor_v2": _outline,
                 "_codecs.encode": _latin1}
        full_name = f"{module}.{name}"
        if full_name not in known:
            raise FolioError(f"it holds {full_name[:80]!r}, which is neither a tensor nor a plain value")
        return known[full_name]

    def persistent_load(self, pid):
        """Look up a record that torch names. -> (its name, dtype, how many numbers it holds)"""
        kind, dtype, key, _, count = pid
        record = self._records[f"data/{key}"]
        if kind != "storage" or record.file_size != count * dtype.itemsize:
            raise FolioError(f"the record of a tensor has {record.file_size:,} bytes, not {count * dtype.itemsize:,}")
        return record.filename.partition("/")[2], dtype, count

    def load_build(self):
        """Drop what a state_dict notes about the versions of its modules; ours have none."""
        self.stack.pop()

    def load_setitem(self):
        """Set one item of a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def load_setitems(self):
        """Set the items of a dict since the last mark."""
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set(self, key, value):
        # Keys of other kinds can all be made to have the same hash, which makes a dict slow.
        if type(key) is not str and not (type(key) is int and 0 <= key < 1 << 32):
            raise FolioError(f"{type(key).__name__} is no key")
        self.stack[-1][key] = value

    # The operations with which torch.save writes plain values, in pickle's protocol 2; no others are known.
    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in (
        pickle.PROTO, pickle.STOP, pickle.MARK, pickle.POP, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT,
        pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.EMPTY_LIST,
        pickle.APPEND, pickle.APPENDS, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
        pickle.EMPTY_DICT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET, pickle.GLOBAL,
        pickle.REDUCE, pickle.BINPERSID)}
    dispatch |= {pickle.BUILD[0]: load_build, pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems}


def _new_dict():
    return {}


def _latin1(text, encoding):
    if encoding != "latin1":
        raise FolioError(f"it holds bytes in the encoding {encoding[:80]!r}")
    return text.encode("latin1")


def _outline(storage, offset, shape, stride, requires_grad, hooks, metadata=None):
    """Return the Outline of a tensor. Raises FolioError where its record does not hold all of its numbers.

    storage: as `persistent_load` returns it; metadata: what torch notes about lazily conjugated or negated views,
    all of them refused.
    """
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
    """Turn the dozen types of exceptions that damaged and hostile files cause into a FolioError.

    MemoryError and the system's own errors pass through.
    """
    try:
        yield
    except (FolioError, MemoryError):
        raise
    except RecursionError:
        raise FolioError("its values are nested too deep") from None
    except Exception as error:
        # EINVAL: a seek to a place before the beginning of the file.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise FolioError(f"it is cut off or damaged ({type(error).__name__})") from None
