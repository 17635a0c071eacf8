"""What this machine has: devices, memory, a compiler; and how a process is set up to use it. What is fastest on it, folio/training/fastest.py measures."""

import ctypes
import importlib.util
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

USERS_CACHE = os.environ.get("TORCHINDUCTOR_CACHE_DIR")         # here, because torch's compiler sets it where it is not set when it is imported

import torch

from folio.base.errors import FolioError

# A run shorter than this gets less from torch.compile than its start costs: (minutes, floating-point operations).
# cpu: the start took 25 to 36 s on two cores, 7 s where a run of the same shape had been compiled before, and the steps then 15 to 20 % less.
# cuda: not measured yet.
WORTH_COMPILING = {"cpu": (5, 6e13), "cuda": (3, 1e16)}

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}         # of matrix products and what flows between them, by the precision's name
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3                     # glibc's numbers for what mallopt sets


def probe(training, flops_per_step, can_compile=True):
    """TrainingParams with device and compile settled. Raises FolioError for a device that is not here.

    can_compile: whether the network gains by being compiled.
    """
    device = settle_device(training.device)
    kind = device.partition(":")[0]
    compile = training.compile
    if compile is None:
        minutes, flops = WORTH_COMPILING.get(kind, (float("inf"), float("inf")))
        long_enough = training.minutes >= minutes if training.minutes else training.steps * flops_per_step >= flops
        compile = can_compile and long_enough and has_compiler(kind)
    return replace(training, device=device, compile=compile)


def settle_device(device):
    """The device that "auto" means here, or the one that is named. Raises FolioError for one that is not here."""
    found = available_devices()
    if device == "auto":
        return found[0]
    kind, _, number = device.partition(":")
    if kind not in found or number and not (number.isdecimal() and int(number) < (torch.cuda.device_count() if kind == "cuda" else 1)):
        raise FolioError(f"device={device} is not to be had; on this machine, with this torch, there is {', '.join(found)}.")
    return device


def available_devices():
    """The kinds of device torch can compute on here, the fastest first."""
    return ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]


def usual_precision(device):
    """The precision of matrix products that is taken where none is measured: bf16 or fp16 on GPUs that have units for it, else fp32.

    MPS computes in both halves too, but what they gain there nobody has measured: they are for those who ask.
    """
    if not device.startswith("cuda"):
        return "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp16" if torch.cuda.get_device_capability() >= (7, 0) else "fp32"       # Volta has the first units; GPUs before it may be slower in fp16


def has_compiler(kind):
    """Whether torch.compile finds what it needs to make code for this device."""
    if kind == "cuda":
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))


def memory_bytes(device):
    """Memory to compute in: what is free on a GPU, else all that the machine has or the container may use; None where the system does not say."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    known = [memory for memory in (_physical_memory(), _container_memory()) if memory]
    return min(known, default=None)


def _physical_memory():
    with suppress(AttributeError, ValueError, OSError):         # as on Windows
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_memory(groups=Path("/sys/fs/cgroup")):
    """The limit that a container has been given, by Linux's control groups of version 2 or 1; None where there is none."""
    for limit in (groups / "memory.max", groups / "memory" / "memory.limit_in_bytes"):
        with suppress(OSError, ValueError):                     # "max" is no number
            return int(limit.read_text(encoding="ascii"))


def use(training):
    """Set up this process for probed TrainingParams: threads, memory, and 32-bit products in the form that tensor cores take."""
    torch.set_num_threads(training.threads)
    keep_memory()
    torch.set_float32_matmul_precision("highest" if training.precision == "fp32" else "high")


def keep_compiled(folder):
    """Have torch.compile keep what it makes in a folder, and look there before it makes it again, where it would take one for temporary files.

    The user's own TORCHINDUCTOR_CACHE_DIR comes first.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = USERS_CACHE or str(folder.resolve())


def keep_memory():
    """Let the C library keep what a step has freed for the next step, where it would give large blocks back to the system each time.

    With glibc; having the pages cleared and mapped anew took a sixth of a step.
    """
    with suppress(OSError, AttributeError, TypeError):          # another C library, another system
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


@contextmanager
def one_thread():
    """Let torch compute with one processor thread in the block, and leave none that waits actively for more work when it is over."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def gradient_scaler(training):
    """Keeps the gradients of fp16 products within that type's range (Micikevicius et al., 2018); does nothing in other precisions."""
    return torch.amp.GradScaler(_kind(training), enabled=training.precision == "fp16")


def _kind(training):
    return training.device.partition(":")[0]
