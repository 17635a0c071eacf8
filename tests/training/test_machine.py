"""The machine: devices, threads and what is settled for them."""



import pytest
import torch

from folio.base import hardware
from folio.base.errors import FolioError
from folio.training import loop
from training_runs import make_run, project, train_here  # noqa: F401


def test_an_unavailable_device_is_refused_before_anything_is_written(project, monkeypatch, capsys):
    monkeypatch.setattr(hardware, "available_devices", lambda: ["cpu"])
    with pytest.raises(FolioError, match="device=cuda"):
        train_here(project, monkeypatch, capsys, "--device", "cuda")
    assert not project.saved_weights.exists()


@pytest.mark.parametrize(
    "kind, capability, precision",
    [
        ("cuda", (9, 0), "bf16"),
        ("cuda", (8, 0), "bf16"),
        ("cuda", (7, 5), "fp16"),
        ("cuda", (7, 0), "fp16"),
        ("cuda", (6, 1), "fp32"),
        ("mps", None, "fp32"),
    ],
)
def test_the_usual_precision_follows_from_the_device(kind, capability, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert hardware.usual_precision(kind) == precision


@pytest.mark.parametrize("library", [OSError("no C library by that name"), object(), TypeError("Windows wants a name")])
def test_memory_settings_are_for_glibc_alone(library, monkeypatch):
    def open_library(name):
        if isinstance(library, Exception):
            raise library
        return library
    monkeypatch.setattr(hardware.ctypes, "CDLL", open_library)
    hardware.keep_memory()


def test_a_run_uses_as_many_threads_as_set(make_run):
    make_run(threads=2)
    assert torch.get_num_threads() == 2
    assert loop.SAVE_SECONDS <= 60
