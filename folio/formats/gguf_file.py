"""The container GGUF: values by key and tensors by name in one file. What they mean is in folio/formats/gguf.py.

The format is ggml's (docs/gguf.md there). All numbers are little-endian, all strings have their length before them:

    magic           4 bytes, "GGUF"
    version         uint32: 3. Version 2 has the same layout; 1 had another, and is refused
    tensors         uint64: how many
    values          uint64: how many
    each value      key (a string), type (uint32), the value. A string is a uint64, its length in bytes, and UTF-8; an
                    array is the type of its items (uint32), their number (uint64) and the items
    each tensor     name (a string), number of dimensions (uint32), each dimension (uint64), the length of a row first,
                    type (uint32), and where its numbers begin (uint64), counted from the beginning of all numbers
    padding         up to a multiple of general.alignment, a value of the file; where it is absent, of 32
    numbers         of each tensor, from a multiple of the alignment on

Types of values: NUMBERS, 8 for strings and 9 for arrays. Types of tensors that are read and written here: f32, f16, and
q8_0, in which each 32 numbers of a row are a float16, the scale, and 32 int8, which it multiplies.

The reader takes no memory for a count or length before it has compared it with the size of the file, and reads numbers
only when it is asked for a tensor.
"""

import io
import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from folio.base.errors import FolioError
from folio.base.files import ordinary, replacing

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
BLOCK = 32                          # numbers that share a scale in q8_0
_BLOCK_TYPE = np.dtype([("scale", "<f2"), ("numbers", "i1", BLOCK)])
# By name: number in the file, numbers per item, and NumPy's type of an item.
TENSOR_TYPES = {"f32": (0, 1, np.dtype("<f4")), "f16": (1, 1, np.dtype("<f2")), "q8_0": (8, BLOCK, _BLOCK_TYPE)}
# Types of others, for messages.
_OTHER_TYPES = {2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 9: "q8_1", 10: "q2_k", 11: "q3_k", 12: "q4_k", 13: "q5_k",
                14: "q6_k", 15: "q8_k", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64", 30: "bf16"}
# Types of values that are numbers; 7 is a truth value.
NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8", 11: "<i8",
           12: "<f8"}
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64 = 4, 5, 6, 7, 8, 9, 10
MOST_DIMENSIONS = 4                 # ggml's GGML_MAX_DIMS
LONGEST_NAME = 63                   # bytes of a tensor's name: ggml's GGML_MAX_NAME, with its final zero
MOST_HEADER = 1 << 26               # bytes before the numbers: a vocabulary of 500,000 tokens takes a fifth of it
MOST_NAMES = 1 << 16                # tensors, and keys: a thousand layers have 11,000 tensors
MOST_ITEMS = 1 << 21                # of all arrays: such a vocabulary has 1.5 million
_AT_ONCE = 1 << 20                  # numbers that are converted together; a multiple of BLOCK


# --- Numbers of tensors ---

def quantize(values):
    """Return numbers in q8_0, as ggml rounds them. values: (multiple of 32,) float32 -> (blocks,) of _BLOCK_TYPE

    The scale lets the largest of 32 numbers become 127 or -127. Halves are rounded away from zero.
    """
    blocks = values.reshape(-1, BLOCK)
    quantized = np.empty(len(blocks), _BLOCK_TYPE)
    with np.errstate(all="ignore"):         # what does not fit into a scale becomes infinite, and is found there
        scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
        scaled = blocks * np.where(scales == 0, np.float32(0), 1 / scales)
        whole = np.trunc(scaled)
        quantized["scale"] = scales[:, 0]
        quantized["numbers"] = whole + np.trunc(2 * (scaled - whole))
    return quantized


def dequantize(blocks):
    """Return the numbers that q8_0 stands for. blocks: (count,) of _BLOCK_TYPE -> (32 * count,) float32"""
    return (blocks["scale"][:, None].astype(np.float32) * blocks["numbers"]).ravel()


def count_bytes(shape, type):
    """Return the bytes that a tensor's numbers take. Raises FolioError where q8_0 does not divide its rows."""
    _, numbers, item = TENSOR_TYPES[type]
    if shape[-1] % numbers:
        raise FolioError(f"rows of {shape[-1]} numbers do not divide into the blocks of {numbers} of {type}")
    return math.prod(shape) // numbers * item.itemsize


def _encoded(values, type):
    """Return the item array of a flat float32 array. Raises FolioError where a number does not fit into the type."""
    with np.errstate(over="ignore"):
        items = quantize(values) if type == "q8_0" else values.astype(TENSOR_TYPES[type][2])
    if not np.isfinite(items["scale"] if type == "q8_0" else items).all():
        if not np.isfinite(values).all():
            raise FolioError("numbers that are not finite, so the model is unusable. Train it again with a lower "
                             "learning rate")
        raise FolioError(f"numbers that are too large for {type}. Write it in f32")
    return items


# --- Writing ---

@dataclass(frozen=True)
class NewTensor:
    """A tensor that is to be written."""
    name: str
    shape: tuple                            # in NumPy's order, the length of a row last
    type: str                               # one of TENSOR_TYPES
    values: Callable[[], np.ndarray]        # -> its numbers in float32, when they are needed


def write(path, metadata, tensors):
    """Write a file whole or not at all, one tensor at a time.

    metadata: {key: bool, int, float, str, or list of one of these}; integers become uint32, in lists int32, and
    floating-point numbers float32; tensors: [NewTensor]. Raises FolioError, with the tensor's name, for a number that
    does not fit into its type.
    """
    names = [tensor.name for tensor in tensors]
    assert len(set(names)) == len(names) and all(len(name.encode("utf-8")) <= LONGEST_NAME for name in names), names
    header = [MAGIC, _packed(VERSIONS[-1]), _packed(len(tensors), _UINT64), _packed(len(metadata), _UINT64)]
    for key, value in metadata.items():
        header += [_string(key), _value(value)]
    offset = 0
    for tensor in tensors:
        header += [_string(tensor.name), _packed(len(tensor.shape)),
                   *(_packed(length, _UINT64) for length in reversed(tensor.shape)),
                   _packed(TENSOR_TYPES[tensor.type][0]), _packed(offset, _UINT64)]
        size = count_bytes(tensor.shape, tensor.type)
        offset += size + _padding(size)
    header = b"".join(header)
    with replacing(path) as file:
        file.write(header + bytes(_padding(len(header))))
        for tensor in tqdm(tensors, desc="Writing", unit=" tensors", leave=False, disable=None, delay=1):
            values = tensor.values()
            assert values.shape == tensor.shape, (tensor.name, values.shape, tensor.shape)
            _write_numbers(file, tensor, np.ascontiguousarray(values).reshape(-1))
            file.write(bytes(_padding(count_bytes(tensor.shape, tensor.type))))


def _write_numbers(file, tensor, values):
    for start in range(0, len(values), _AT_ONCE):
        try:
            file.write(_encoded(values[start:start + _AT_ONCE], tensor.type).tobytes())
        except FolioError as error:
            raise FolioError(f"The model cannot be written as a GGUF file: {tensor.name} has {error}.") from None


def _padding(size, alignment=ALIGNMENT):
    return -size % alignment


def _packed(value, type=_UINT32):
    return np.array(value, NUMBERS[type]).tobytes()


def _string(text):
    content = text.encode("utf-8")
    return _packed(len(content), _UINT64) + content


def _value(value):
    """Return a value with its type before it."""
    if isinstance(value, list):
        assert value, "an empty list does not say which type its items have"
        type = _type_of(value[0], _INT32)
        items = b"".join(map(_string, value)) if type == _STRING else _packed(value, type)
        return _packed(_ARRAY) + _packed(type) + _packed(len(value), _UINT64) + items
    type = _type_of(value, _UINT32)
    return _packed(type) + (_string(value) if type == _STRING else _packed(value, type))


def _type_of(value, integer):
    kinds = {bool: _BOOL, int: integer, float: _FLOAT32, str: _STRING}
    return kinds[type(value)]


# --- Reading ---

@dataclass(frozen=True)
class Outline:
    """A tensor as a file describes it, without its numbers."""
    shape: tuple        # in NumPy's order, the length of a row last
    type: str           # one of TENSOR_TYPES
    start: int          # of its numbers in the file, in bytes

    @property
    def nbytes(self):
        """Return the bytes that the numbers take in the file."""
        return count_bytes(self.shape, self.type)


@contextmanager
def opened(path):
    """Yield the GGUFFile at `path`. A FolioError from here or from the block, a phrase, gets the path before it.

    Raises OSError where the file cannot be read.
    """
    with open(path, "rb", opener=ordinary) as file:
        try:
            yield GGUFFile(file)
        except FolioError as error:
            raise FolioError(f"{path} cannot be imported: {str(error).rstrip('.')}.") from None


class GGUFFile:
    """What is in an open file: `metadata`, {key: value}, and `tensors`, {name: Outline}.

    Raises FolioError, with a phrase that says what is wrong, where it is no GGUF file that this reader takes.
    """

    def __init__(self, file):
        """file: open for reading in binary, and seekable; `read` reads from it again."""
        self._file = file
        cursor = _Cursor(file)
        if cursor.take(len(MAGIC), "its first four bytes") != MAGIC:
            raise FolioError("it is not a GGUF file: it does not begin with GGUF")
        self._check_version(cursor.number(_UINT32, "its version"))
        tensors = cursor.count(8 + 4 + 8 + 4 + 8, MOST_NAMES, "tensors")    # the shortest: no name, one dimension
        values = cursor.count(8 + 4 + 1, MOST_NAMES, "values")
        self.metadata = {}
        for _ in range(values):
            key = cursor.string("a key")
            if key in self.metadata:
                raise FolioError(f"it has the key {shown(key)} twice")
            self.metadata[key] = cursor.value(key)
        outlines = [self._outline(cursor) for _ in range(tensors)]
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & alignment - 1:
            raise FolioError(f"its general.alignment is {shown(alignment)}, not a power of two")
        start = cursor.position + _padding(cursor.position, alignment)
        self.tensors = self._placed(outlines, start, cursor.size, alignment)

    @staticmethod
    def _check_version(version):
        if version in VERSIONS:
            return
        if version and version & 0xFFFF == 0:
            raise FolioError("it is big-endian, and Folio reads little-endian files, which nearly all are")
        raise FolioError(f"it is of version {version} of GGUF; Folio reads {' and '.join(map(str, VERSIONS))}")

    @staticmethod
    def _outline(cursor):
        """Return the name of the next tensor and its Outline, with `start` counted from the beginning of all numbers"""
        name = cursor.string("a tensor's name")
        dimensions = cursor.number(_UINT32, f"the tensor {shown(name)}")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise FolioError(f"its tensor {shown(name)} has {dimensions} dimensions; GGUF has 1 to {MOST_DIMENSIONS}")
        shape = tuple(cursor.number(_UINT64, f"the shape of {shown(name)}") for _ in range(dimensions))[::-1]
        number = cursor.number(_UINT32, f"the type of {shown(name)}")
        start = cursor.number(_UINT64, f"the place of {shown(name)}")
        types = {number: type for type, (number, *_) in TENSOR_TYPES.items()}
        if number not in types:
            raise FolioError(f"its tensor {shown(name)} is of type {_OTHER_TYPES.get(number, number)}; "
                             f"Folio reads {', '.join(TENSOR_TYPES)}")
        if 0 in shape:
            raise FolioError(f"its tensor {shown(name)} has the shape {shape}")
        return name, Outline(shape, types[number], start)

    @staticmethod
    def _placed(outlines, start, size, alignment):
        """Return {name: Outline}, with places in the file. Raises FolioError for those that are not in it, or overlap.

        start: of the numbers; size: of the file
        """
        placed, end, before = {}, start, None
        for name, outline in sorted(outlines, key=lambda each: each[1].start):
            placed_outline = Outline(outline.shape, outline.type, start + outline.start)
            try:
                next_end = placed_outline.start + placed_outline.nbytes
            except FolioError as error:
                raise FolioError(f"in its tensor {shown(name)}, {error}") from None
            if name in placed:
                raise FolioError(f"it has the tensor {shown(name)} twice")
            if outline.start % alignment:
                raise FolioError(f"its tensor {shown(name)} does not begin at a multiple of {alignment} bytes")
            if placed_outline.start < end:
                raise FolioError(f"its tensors {shown(before)} and {shown(name)} overlap")
            if next_end > size:
                raise FolioError(f"it is cut off: its tensor {shown(name)} ends {next_end - size:,} bytes after it")
            placed[name], end, before = placed_outline, next_end, name
        return {name: placed[name] for name, _ in outlines}

    def read(self, name):
        """Return the numbers of a tensor: float16 where it is f16, else float32. Raises FolioError if not finite."""
        outline = self.tensors[name]
        _, numbers, item = TENSOR_TYPES[outline.type]
        self._file.seek(outline.start)
        count = math.prod(outline.shape) // numbers
        items = np.empty(count, item)
        if self._file.readinto(items.view(np.uint8)) != outline.nbytes:
            raise FolioError(f"its tensor {shown(name)} was cut off while it was read")
        values = dequantize(items) if outline.type == "q8_0" else items.astype(item.newbyteorder("="), copy=False)
        if not np.isfinite(values).all():
            raise FolioError(f"its tensor {shown(name)} has numbers that are not finite")
        return values.reshape(outline.shape)


class _Cursor:
    """A place in the part of a file before the numbers."""

    def __init__(self, file):
        self._file, self.position, self._items = file, 0, 0
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)

    def take(self, count, what):
        """Return the next bytes. Raises FolioError where the file ends before, or that part is too large."""
        if self.position + count > self.size:
            raise FolioError(f"it is cut off: it ends in {what}")
        if self.position + count > MOST_HEADER:
            raise FolioError(f"the part before its numbers is larger than {MOST_HEADER:,} bytes, at {what}")
        self.position += count
        return self._file.read(count)

    def count(self, smallest, most, what):
        """Return the next uint64, a number of items. Raises FolioError for one that the rest of the file cannot hold.

        smallest: bytes of the smallest item; most: of them that are read; what: the items are
        """
        count = self.number(_UINT64, f"the number of its {what}")
        if count * smallest > self.size - self.position:
            raise FolioError(f"it says that it has {count:,} {what}, and has no room for them")
        if count > most:
            raise FolioError(f"it has {count:,} {what}, and Folio reads up to {most:,}")
        return count

    def numbers(self, type, count, what):
        """Return the next numbers of a type as a list."""
        dtype = np.dtype(NUMBERS[type])
        found = np.frombuffer(self.take(dtype.itemsize * count, what), dtype)
        if type == _BOOL:
            if found.size and found.max() > 1:
                raise FolioError(f"the truth value in {what} is {found.max()}")
            found = found.astype(bool)
        return found.tolist()

    def number(self, type, what):
        """Return the next number of a type."""
        return self.numbers(type, 1, what)[0]

    def string(self, what):
        """Return the next string."""
        content = self.take(int.from_bytes(self.take(8, what), "little"), what)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise FolioError(f"{what}, {content[:40]!r}, is not UTF-8") from None

    def value(self, key):
        """Return the next value: a number, a string, or a list of them."""
        what = f"the value of {shown(key)}"
        type = self.number(_UINT32, what)
        if type != _ARRAY:
            return self._bare(type, 1, what)[0]
        type, items = self.number(_UINT32, what), f"items in {shown(key)}"
        if type == _ARRAY:
            raise FolioError(f"{what} is an array of arrays, which Folio does not read")
        count = self.count(8 if type == _STRING else 1, MOST_ITEMS - self._items, items)
        self._items += count
        return self._bare(type, count, what)

    def _bare(self, type, count, what):
        if type == _STRING:
            return [self.string(what) for _ in range(count)]
        if type not in NUMBERS:
            raise FolioError(f"{what} is of type {type}, which GGUF does not have")
        return self.numbers(type, count, what)


def shown(value):
    """Return a value of a file for a message: short, and without control characters."""
    text = value if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
