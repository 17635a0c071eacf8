"""Read and write safetensors, the format in which Hugging Face keeps weights: within bounds, and without running code.

    8 bytes     length of the header, a little-endian integer
    header      a JSON object in UTF-8, which may end in spaces:
                {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {text: text}}
    data        the numbers of each tensor, row by row, little-endian; offsets count from the end of the header

The tensors lie side by side: without gaps, without overlaps, to the end of the file. The package safetensors writes
those of wide types first, those of one type by name, and fills the header up to a multiple of eight bytes; so does
this module, whose files are equal to the package's, byte by byte.
"""

import io
import json
import math
from dataclasses import dataclass

import torch
from tqdm import tqdm

from folio.base.errors import FolioError
from folio.base.files import ordinary, replacing

# In the order in which the package writes them.
DTYPES = {"I64": torch.int64, "F64": torch.float64, "F32": torch.float32, "I32": torch.int32, "BF16": torch.bfloat16,
          "F16": torch.float16, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# A tensor takes about 100 bytes of the header, and the largest files have thousands of tensors.
MOST_HEADER = 1 << 24
MOST_DIMENSIONS = 32
METADATA = "__metadata__"
_BYTES_AT_ONCE = 1 << 22        # read into memory


@dataclass(frozen=True)
class Outline:
    """A tensor as a header describes it, without its numbers."""
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int          # of its bytes, from the end of the header
    end: int


class SafetensorsFile:
    """An open file, whose tensors are read one by one. A context manager, which closes it."""

    def __init__(self, path):
        """Read the header. Raises OSError, or FolioError, with the file's name, where it is no valid file."""
        self.path = path
        self._file = open(path, "rb", buffering=0, opener=ordinary)
        try:
            self.header = self._read_header()       # with the length before it
            self.outlines = self._checked(parse(self.header))
        except FolioError as error:
            self._file.close()
            raise self._invalid(error) from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def tensor(self, name, places=None, rows=None):
        """Read a tensor into new memory.

        places: of each row in the file, the row of the result (int64 tensor); rows: of the result, which are zero
        where no row is placed. Raises FolioError where the file was cut off in the meantime.
        """
        outline = self.outlines[name]
        begin = len(self.header) + outline.begin
        if places is None:
            result = torch.empty(outline.shape, dtype=outline.dtype)
            self._read_into(result, begin)
            return result
        result = torch.zeros(rows, *outline.shape[1:], dtype=outline.dtype)
        row_bytes = max(1, (outline.end - outline.begin) // max(1, outline.shape[0]))
        for some in places.split(max(1, _BYTES_AT_ONCE // row_bytes)):
            chunk = torch.empty(len(some), *outline.shape[1:], dtype=outline.dtype)
            self._read_into(chunk, begin)
            begin += chunk.nbytes
            result[some] = chunk
        return result

    def _read_header(self):
        """Return the header and the eight bytes before it."""
        self._size = self._file.seek(0, io.SEEK_END)
        self._file.seek(0)
        length = self._file.read(8)
        count = int.from_bytes(length, "little")
        if length == b"version ":           # how Git LFS begins the text that it puts in a large file's place
            raise FolioError("it is a pointer of Git LFS, not the file itself; run git lfs pull in its folder")
        if len(length) < 8 or count > self._size - 8:
            raise FolioError(f"it is cut off: its header should have {count:,} bytes, "
                             f"and the file has {self._size:,} in all")
        if count > MOST_HEADER:
            raise FolioError(f"its header has {count:,} bytes, more than {MOST_HEADER:,}")
        return length + self._file.read(count)

    def _checked(self, outlines):
        """Return the Outlines where their bytes are those of the file."""
        end = max((outline.end for outline in outlines.values()), default=0)
        found = self._size - len(self.header)
        if end != found:
            raise FolioError(f"its tensors should have {end:,} bytes, and {found:,} are there")
        return outlines

    def _read_into(self, tensor, begin):
        """Fill a tensor with the bytes from `begin` of the file."""
        if not tensor.numel():
            return
        rest = memoryview(_bytes_of(tensor).numpy())
        self._file.seek(begin)
        while rest and (count := self._file.readinto(rest[:_BYTES_AT_ONCE])):
            rest = rest[count:]
        if rest:
            raise self._invalid("it was cut off while it was read")

    def _invalid(self, problem):
        return FolioError(f"{self.path} is not a valid safetensors file: {problem}.")


def parse(header):
    """Return {name: Outline} of a header with the eight bytes before it, in the order of the tensors' bytes.

    Raises FolioError, with a phrase that says what is wrong.
    """
    try:
        values = json.loads(header[8:].decode("utf-8"), object_pairs_hook=_distinct)
    except FolioError:
        raise
    except (ValueError, RecursionError):
        raise FolioError("its header is not JSON") from None
    if not isinstance(values, dict):
        raise FolioError("its header is no JSON object")
    metadata = values.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FolioError("its metadata are not texts")
    outlines = {name: _outline(name, value) for name, value in values.items()}
    outlines = dict(sorted(outlines.items(), key=lambda item: (item[1].begin, item[1].end)))
    position = 0
    for name, outline in outlines.items():
        if outline.begin != position:
            problem = "overlaps another one" if outline.begin < position else "begins after a gap"
            raise FolioError(f"its tensor {name[:80]!r} {problem}")
        position = outline.end
    return outlines


def _distinct(pairs):
    values = dict(pairs)
    if len(values) != len(pairs):
        raise FolioError("its header has a name twice")
    return values


def _outline(name, value):
    """Return the Outline in a header's entry."""
    label = f"its tensor {name[:80]!r}"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise FolioError(f"{label} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FolioError(f"{label} has numbers of type {repr(dtype)[:80]}; Folio reads {', '.join(DTYPES)}")
    if not _are_sizes(shape) or len(shape) > MOST_DIMENSIONS:
        raise FolioError(f"{label} has the shape {repr(shape)[:80]}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FolioError(f"{label} has the offsets {repr(offsets)[:80]}")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != expected:
        raise FolioError(f"{label} has {offsets[1] - offsets[0]:,} bytes, and its shape says {expected:,}")
    return Outline(DTYPES[dtype], tuple(shape), *offsets)


def _are_sizes(values):
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def header_of(tensors, metadata):
    """Return the header, with the eight bytes before it, of a file with these tensors.

    tensors: {name: (dtype, shape)}; metadata: {text: text}
    """
    order, position = list(DTYPES.values()), 0
    values = {METADATA: metadata} if metadata else {}
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (order.index(item[1][0]), item[0].encode())):
        end = position + math.prod(shape) * dtype.itemsize
        values[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    header = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def write(path, header, tensor_of):
    """Write a file with this header, one tensor at a time; `path` is the old file or the new one, whole.

    tensor_of: name -> the tensor that the header describes. Raises FolioError where it is another one.
    """
    with replacing(path) as file:
        file.write(header)
        outlines = parse(header).items()
        for name, outline in tqdm(outlines, desc="Writing", unit=" tensors", leave=False, disable=None, delay=1):
            tensor = tensor_of(name)
            if (tensor.dtype, tuple(tensor.shape)) != (outline.dtype, outline.shape):
                raise FolioError(f"{name} has shape {tuple(tensor.shape)} in {tensor.dtype}, where its header says "
                                 f"{outline.shape} in {outline.dtype}.")
            file.write(_bytes_of(tensor.detach().contiguous()).numpy().data)


def _bytes_of(tensor):
    """Return the bytes of a contiguous tensor: (bytes,) uint8, in the same memory."""
    return tensor.view(-1).view(torch.uint8)
