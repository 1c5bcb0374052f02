"""Several processes on one machine use one GPU each, unless one is asked for by its number."""

from __future__ import annotations

import pytest
import torch

from mambamed.errors import RecipeError
from mambamed.run.workplace import choose_workplace, scan_option


@pytest.fixture
def four_gpus(monkeypatch) -> list[torch.device]:
    """A machine that says it has four; returns the devices that were made current."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    return current


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_each_process_takes_its_own_gpu(four_gpus, wanted) -> None:
    place, lines = choose_workplace(wanted, "fp32", one_per_gpu=True)
    assert place.device == torch.device("cuda", 2) and four_gpus == [place.device]
    assert "one of several processes" in lines["device"]


@pytest.mark.parametrize(("search", "how"), [(True, "measures"), (False, "chooses")])
def test_cudnn_is_set_up_and_reported_for_a_gpu_alone(four_gpus, monkeypatch, search, how) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not search)
    _, lines = choose_workplace("cuda", "fp32", search=search)
    assert torch.backends.cudnn.benchmark is search
    # torch's own defaults
    tf32 = "at fp32: convolutions in TF32, matrix products in float32"
    assert lines["cudnn"].startswith(f"cuDNN {how} its algorithms") and lines["cudnn"].endswith(tf32)
    assert lines["layout"] == "memory layout contiguous_format"
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    _, lines = choose_workplace("cpu", "fp32", search=True)
    assert "cudnn" not in lines and not torch.backends.cudnn.benchmark


def test_a_number_is_respected(four_gpus) -> None:
    assert choose_workplace("cuda:1", "fp32", one_per_gpu=True)[0].device == torch.device("cuda", 1)
    assert choose_workplace("cuda", "fp32")[0].device == torch.device("cuda", 0)
    assert not four_gpus


def test_the_scan_backend_that_the_environment_names_is_used_and_recorded(monkeypatch) -> None:
    monkeypatch.setenv("MAMBAMED_SCAN", "chunked")
    assert choose_workplace("cpu", "fp32")[1]["scan_backend"] == "scan backend chunked: set by MAMBAMED_SCAN"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("fast", "'fast': no such scan backend"), ("cuda", "scan backend 'cuda' cannot serve here: ")],
)
def test_one_that_cannot_be_used_is_rejected_in_one_line(monkeypatch, name, reason) -> None:
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    monkeypatch.setenv("MAMBAMED_SCAN", name)
    with pytest.raises(RecipeError, match=f"^environment variable MAMBAMED_SCAN: {reason}[^\n]*$"):
        choose_workplace("cpu", "fp32")


def test_the_option_overrides_the_environment_and_says_so(monkeypatch) -> None:
    monkeypatch.setenv("MAMBAMED_SCAN", "reference")
    with scan_option("chunked"):
        line = choose_workplace("cpu", "fp32")[1]["scan_backend"]
    assert line == "scan backend chunked: set by --scan, which overrides MAMBAMED_SCAN=reference"
    assert choose_workplace("cpu", "fp32")[1]["scan_backend"].startswith("scan backend reference")
    monkeypatch.setenv("MAMBAMED_SCAN", "fast")
    with scan_option("reference"):
        assert choose_workplace("cpu", "fp32")[1]["scan_backend"].startswith("scan backend reference")


@pytest.mark.parametrize(("name", "device"), [("cpu", "cuda"), ("triton", "cpu")])
def test_a_backend_of_another_device_is_rejected(four_gpus, monkeypatch, name, device) -> None:
    monkeypatch.setattr("mambamed.run.workplace.why_unavailable", lambda name: None)
    with (
        scan_option(name),
        pytest.raises(RecipeError, match=f"^--scan {name}: does not run on the device {device}\\. "),
    ):
        choose_workplace(device, "fp32")


def test_a_machine_that_only_hands_on_needs_no_backend(monkeypatch) -> None:
    monkeypatch.setattr("mambamed.run.workplace.why_unavailable", lambda name: f"no {name}")
    line = r"^--scan triton: cannot be used here: no triton\. "
    with scan_option("triton", here=False), pytest.raises(RecipeError, match=line):
        choose_workplace("cpu", "fp32")
    with pytest.raises(RecipeError, match=line), scan_option("triton"):
        pass
