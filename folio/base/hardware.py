"""What this machine has: devices, memory, a compiler; and how a process is set up to use it."""

import ctypes
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# Read before torch is imported: its compiler sets the variable where it is not set.
USERS_CACHE = os.environ.get("TORCHINDUCTOR_CACHE_DIR")

import torch

from folio.base.errors import FolioError

# Of matrix products and activations, by the precision's name.
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3                     # glibc's numbers for what mallopt sets


@dataclass(frozen=True)
class Machine:
    """What a process can compute with."""
    devices: tuple[str, ...]        # kinds of device, the fastest first
    compilers: tuple[str, ...]      # kinds of device that torch.compile can make code for
    threads: int                    # processor threads at most

    @classmethod
    def here(cls) -> "Machine":
        """Return the Machine that this process runs on."""
        devices = tuple(available_devices())
        return cls(devices, tuple(kind for kind in devices if has_compiler(kind)), torch.get_num_threads())


def settle_device(device: str, available: Sequence[str] | None = None) -> str:
    """Return the device that "auto" means, or the one that is named. Raises FolioError for one that is not available.

    available: kinds of device, the fastest first (default: those of this machine)
    """
    available = available_devices() if available is None else available
    if device == "auto":
        return available[0]
    kind, _, number = device.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in available or number and not (number.isdecimal() and int(number) < count):
        raise FolioError(f"device={device} is not available; on this machine, this torch supports: "
                         f"{', '.join(available)}.")
    return device


def available_devices() -> list[str]:
    """Return the kinds of device that torch can compute on here, the fastest first."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [kind for kind, is_here in found.items() if is_here]


def usual_precision(device: str) -> str:
    """Return the precision of products where none is measured: bf16 or fp16 on GPUs with units for it, else fp32.

    MPS computes in both halves too, but their gain there has not been measured.
    """
    if not device.startswith("cuda"):
        return "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    # Volta has the first units; GPUs before it may be slower in fp16.
    return "fp16" if torch.cuda.get_device_capability() >= (7, 0) else "fp32"


def has_compiler(kind: str) -> bool:
    """Return whether torch.compile finds what it needs to make code for this kind of device."""
    if kind == "cuda":
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))


def memory_bytes(device: str) -> int | None:
    """Return the memory to compute in, or None where the system does not say.

    On a GPU that is what is free; else all of the machine's memory, or the container's limit.
    """
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    known = [memory for memory in (_physical_memory(), _container_memory()) if memory]
    return min(known, default=None)


def _physical_memory():
    with suppress(AttributeError, ValueError, OSError):         # as on Windows
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_memory(groups=Path("/sys/fs/cgroup")):
    """Return the memory limit of a container, by Linux's control groups of version 2 or 1; None where there is none."""
    for limit in (groups / "memory.max", groups / "memory" / "memory.limit_in_bytes"):
        with suppress(OSError, ValueError):                     # "max" is no number
            return int(limit.read_text(encoding="ascii"))


def use(training) -> None:
    """Set up this process for settled TrainingParams: threads, memory, and 32-bit products for tensor cores."""
    torch.set_num_threads(training.threads)
    keep_memory()
    torch.set_float32_matmul_precision("highest" if training.precision == "fp32" else "high")


def keep_compiled(folder: Path) -> None:
    """Have torch.compile cache its code in a folder, where it would take one for temporary files.

    The user's own TORCHINDUCTOR_CACHE_DIR comes first.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = USERS_CACHE or str(folder.resolve())


def keep_memory() -> None:
    """Let the C library (glibc) keep freed memory for the next step instead of giving large blocks back to the system.

    Having the pages cleared and mapped anew took a sixth of a step.
    """
    with suppress(OSError, AttributeError, TypeError):          # another C library, another system
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one processor thread in the block, so that none spins for more work after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def gradient_scaler(training) -> torch.amp.GradScaler:
    """Return what keeps fp16 gradients in range (Micikevicius et al., 2018); it does nothing in other precisions."""
    return torch.amp.GradScaler(training.device.partition(":")[0], enabled=training.precision == "fp16")
