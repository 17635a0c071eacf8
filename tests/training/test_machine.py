"""The machine: devices, threads and what is settled for them."""

# ruff: noqa: F811  (fixtures)


import pytest
import torch
from training_runs import make_run, project, train_here  # noqa: F401

from folio.base import hardware
from folio.training import loop
from folio.base.errors import FolioError
from Model_Params import TrainingParams


def test_probing_settles_all_settings_that_were_unset():
    for given in (TrainingParams(), TrainingParams(steps=10**9, minutes=None), TrainingParams(minutes=600.0)):
        found = hardware.probe(given.resolved(), flops_per_step=10**6)
        assert found.device in hardware.available_devices() and isinstance(found.compile, bool)
        assert hardware.probe(found, 10**6) == found


def test_probing_keeps_settings_that_were_set():
    given = TrainingParams(device="cpu", precision="fp32", threads=3, compile=True).resolved()
    assert hardware.probe(given, 1) == given


def test_an_unavailable_device_is_refused_with_a_list_of_available_ones(project, monkeypatch, capsys):
    monkeypatch.setattr(hardware, "available_devices", lambda: ["cpu"])
    for device in ("cuda", "cuda:1", "mps", "tpu", "meta", ""):
        with pytest.raises(FolioError, match=f"device={device} is not to be had.*cpu"):
            hardware.probe(TrainingParams(device=device), 1)
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
