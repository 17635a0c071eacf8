"""Yardsticks from the text itself: what simple models of characters and two compressors make of the held-out text.

The order-n model predicts a character from the n characters before it, by counting in the training part. Orders are
interpolated after Witten and Bell (1991), method C of PPM:

    P_n(c | context) = (count(context c) + kinds(context) * P_{n-1}(c | context less its first byte))
                       / (count(context) + kinds(context))

kinds(context) is how many different characters follow the context in the training part; below order 0, all SYMBOLS are
equally likely. Nothing is learned from the held-out text. Of the characters that take several bytes, the COMMON most
frequent ones in the training part count as one each; a rarer one counts as its bytes, as do bytes that are not UTF-8.

A compressor is measured by how many bytes the held-out text adds to the compressed training part. It learns from the
held-out text as it goes on. bzip2 looks back 900 kB, xz as far as the text goes.

Only the first LEARNED_BYTES of the training part are learned from, and the first MEASURED_BYTES of the held-out text
are measured.
"""

import bz2
import lzma
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

ORDERS = (2, 3, 4, 5)
# Measured for as much: 250 MB of memory, 1.7 s for the models of characters and 6 s for the compressors.
LEARNED_BYTES, MEASURED_BYTES = 4_000_000, 1_000_000
COMMON = 255                # characters: all of any alphabet, a third to two thirds of a Chinese text
SYMBOLS = 256 + COMMON
_DIGIT = 9                  # bits of a symbol in a key: 1 to SYMBOLS, and 0 beyond the end of the text
_ESCAPED = 0xDC00           # added to a byte that is not UTF-8 (PEP 383)
_XZ_PRESET = 6              # looks back 8 MiB, and takes 100 MB of memory


@dataclass(frozen=True)
class Baseline:
    """What one yardstick reaches on the held-out text."""
    name: str
    bits_per_byte: float


@dataclass(frozen=True)
class Baselines:
    """All yardsticks, by rising order and then compressors, and what they were learned from and measured on."""
    measured: list[Baseline]
    learned_bytes: int          # of the training part
    train_bytes: int
    measured_bytes: int         # of the held-out text
    val_bytes: int

    def bits_of(self, name: str) -> float:
        """Return the bits per byte of a yardstick by its name."""
        return next(baseline.bits_per_byte for baseline in self.measured if baseline.name == name)

    def ratios(self, bits_per_byte: float) -> list[tuple[str, float, float]]:
        """Return (name, bits per byte, ratio) of each yardstick; a ratio below 1: the model is better.

        bits_per_byte: of the model. A compressor to which the held-out text adds nothing is left out.
        """
        return [(baseline.name, baseline.bits_per_byte, bits_per_byte / baseline.bits_per_byte)
                for baseline in self.measured if baseline.bits_per_byte > 0]

    @property
    def limits(self) -> str | None:
        """A sentence on how much of the text the yardsticks have seen; None where that is all of it."""
        parts = ((self.learned_bytes, self.train_bytes, "training text"),
                 (self.measured_bytes, self.val_bytes, "measured text"))
        seen = [f"the first {some:,} of {every:,} bytes of the {name}" for some, every, name in parts if some < every]
        return f"The yardsticks have seen only {' and '.join(seen)}." if seen else None


def order_name(order: int) -> str:
    """Return the name of a character model, as messages have it."""
    return f"order-{order} model"


def measure_baselines(training: Iterable[bytes], train_bytes: int, held_out: bytes, compressors: bool = True) \
        -> Baselines:
    """Measure all yardsticks on a held-out text of at least one byte. -> Baselines

    training: the training part in chunks, of which no more are taken than are needed; train_bytes: of all of it;
    compressors: whether to run bzip2 and xz too, which take most of the time.
    """
    learned, measured = beginning(training, LEARNED_BYTES), held_out[:MEASURED_BYTES]
    bits = order_bits(learned, measured, max(ORDERS))
    found = [Baseline(order_name(order), bits[order]) for order in ORDERS]
    if compressors:
        found += [Baseline(name, compressed_bits(compress, learned, measured))
                  for name, compress in (("bzip2", bz2.compress), ("xz", xz))]
    return Baselines(found, len(learned), train_bytes, len(measured), len(held_out))


def beginning(chunks: Iterable[bytes], length: int) -> bytes:
    """Return the first `length` bytes of a text in chunks, or all of a shorter one."""
    parts, missing = [], length
    for chunk in chunks:
        parts.append(chunk[:missing])
        missing -= len(parts[-1])
        if not missing:
            break
    return b"".join(parts)


# --- Models of characters ---

def order_bits(training: bytes, held_out: bytes, highest: int) -> list[float]:
    """Return the bits per byte of a held-out text by the models of order 0 to `highest`, at most 6.

    The context of its first characters is the end of the training part.
    """
    common = _common(training)
    learned, measured = _symbols(training, common), _symbols(held_out, common)
    counted = np.sort(_keys(learned, highest + 1))
    before = learned[max(0, len(learned) - highest):]
    joined = _keys(np.append(before, measured), highest + 1)
    places = np.arange(len(before), len(joined))            # of the held-out symbols in `joined`
    probability, bits = np.full(len(measured), 1 / SYMBOLS), []
    for order in range(highest + 1):
        shift = _DIGIT * (highest - order)
        # Only after a short training part a symbol has no context of this length.
        reachable = places >= order
        wanted = joined[places[reachable] - order] >> shift
        probability[reachable] = _interpolated(counted >> shift, wanted, probability[reachable])
        bits.append(-np.log2(probability).sum().item() / len(held_out))
    return bits


def _code_points(text):
    """Return the code points of bytes: (characters,) uint32; bytes that are not UTF-8 count from _ESCAPED on."""
    decoded = text.decode("utf-8", errors="surrogateescape")
    return np.frombuffer(decoded.encode("utf-32-le", errors="surrogatepass"), np.uint32)


def _common(training):
    """Return the most frequent characters of several bytes: (at most COMMON,) uint32, sorted."""
    points = _code_points(training)
    found, counts = np.unique(points[(points >= 0x80) & ~_is_escaped(points)], return_counts=True)
    return np.sort(found[np.argsort(-counts, kind="stable")[:COMMON]])


def _is_escaped(points):
    return (points >= _ESCAPED) & (points < _ESCAPED + 0x400)


def _symbols(text, common):
    """Return a text in symbols below SYMBOLS: (symbols,) int64. common: the characters from symbol 256 on, sorted"""
    points = _code_points(text).astype(np.int64)
    points = np.where(_is_escaped(points), points - _ESCAPED, points)       # 128 to 255, as no character below 128 is
    is_byte = (points < 0x80) | _is_escaped(_code_points(text))
    places = np.minimum(np.searchsorted(common, points), max(0, len(common) - 1))
    is_common = ~is_byte & (common[places] == points) if len(common) else np.zeros(len(points), bool)
    is_rare = ~(is_byte | is_common)
    lengths = np.where(is_rare, 2 + (points >= 0x800) + (points >= 0x10000), 1)
    symbols = np.repeat(np.where(is_common, 256 + places, points), lengths)
    rare = points[is_rare].astype(np.uint32).tobytes().decode("utf-32-le").encode("utf-8")
    symbols[np.repeat(is_rare, lengths)] = np.frombuffer(rare, np.uint8)
    return symbols


def _keys(symbols, length):
    """Return the `length` symbols from each place as one integer in their order: (symbols,) int64."""
    digits = np.append(symbols + 1, np.zeros(length, np.int64))
    keys = np.zeros(len(symbols), np.int64)
    for ahead in range(length):
        keys = keys << _DIGIT | digits[ahead:ahead + len(symbols)]
    return keys


def _interpolated(grams, wanted, lower):
    """Return the probabilities of the last symbols of `wanted`, given those of the next lower order.

    grams: (n,) sorted keys of context and symbol in the training part; wanted: (m,) keys; lower: (m,) float64
    """
    grams = grams[grams & ((1 << _DIGIT) - 1) != 0]                 # those that end beyond the end of the text
    kinds, counts = _runs(grams)                                    # different grams, and how often each is there
    contexts, kinds_of_context = _runs(kinds >> _DIGIT)
    of_context = np.add.reduceat(counts, np.cumsum(kinds_of_context) - kinds_of_context) if len(counts) else counts
    count = _looked_up(kinds, counts, wanted)
    total = _looked_up(contexts, of_context, wanted >> _DIGIT)
    followers = _looked_up(contexts, kinds_of_context, wanted >> _DIGIT)
    is_known = total > 0
    return np.where(is_known, (count + followers * lower) / np.where(is_known, total + followers, 1), lower)


def _runs(keys):
    """Return the different ones of sorted keys, and how often each is there."""
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[:len(keys)])
    return keys[starts], np.diff(np.append(starts, len(keys)))


def _looked_up(keys, values, wanted):
    """Return the value of each wanted key, 0 where it is none of the sorted `keys`."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


# --- Compressors ---

def xz(content: bytes) -> bytes:
    """Return bytes compressed by xz."""
    return lzma.compress(content, preset=_XZ_PRESET)


def compressed_bits(compress, training: bytes, held_out: bytes) -> float:
    """Return how many bits each byte of a held-out text adds to the compressed training part."""
    return 8 * (len(compress(training + held_out)) - len(compress(training))) / len(held_out)
