"""Device and precision come with their reason; what is not there is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mambamed.errors import RecipeError
from mambamed.run import device as devices
from mambamed.run.device import (
    autocast,
    choose_device,
    choose_precision,
    keep_freed_memory,
    memory_format,
)

CPU = torch.device("cpu")


def test_auto_names_a_device_and_a_reason():
    device, reason = choose_device("auto")
    assert device.type in {"cpu", "cuda", "mps"} and reason


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_gpu_has_its_number(monkeypatch, wanted):
    """torch.cuda.set_per_process_memory_fraction, for --max-vram, rejects a device without one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    assert choose_device(wanted)[0] == torch.device("cuda", 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(RecipeError, match=r"--device cuda: .* sees 0 CUDA devices\. Choose cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["tpu", "cuda:x", ""])
def test_a_device_that_does_not_exist_is_refused(name):
    with pytest.raises(RecipeError, match="Choose auto, cpu, cuda or mps"):
        choose_device(name)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx512_bf16"}, "bf16"),
        ({"amx_bf16", "amx_tile"}, "bf16"),
        ({"avx2", "avx512f"}, "fp32"),
        (set(), "fp32"),
    ],
)
def test_auto_precision_follows_the_cpus_flags(monkeypatch, flags, expected):
    monkeypatch.setattr(devices, "_cpu_flags", lambda: flags)
    kind, reason = choose_precision("auto", CPU)
    assert kind == expected and "bf16" in reason


def test_bf16_where_it_is_slow_is_allowed_and_said(monkeypatch):
    monkeypatch.setattr(devices, "_cpu_flags", set)
    assert choose_precision("bf16", CPU) == (
        "bf16",
        "asked for, although the CPU has neither avx512_bf16 nor amx_bf16",
    )


def test_fp16_needs_cuda():
    with pytest.raises(RecipeError, match="fp16: needs a CUDA device, got cpu"):
        choose_precision("fp16", CPU)


def test_autocast_computes_in_the_chosen_type():
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with autocast(CPU, "bf16"):
        assert layer(x).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert layer(x).dtype == torch.float32


def test_channels_last_for_bf16_on_the_cpu_and_not_on_cuda():
    assert memory_format(CPU, "bf16") == torch.channels_last_3d
    assert memory_format(torch.device("cuda"), "bf16", training=True) == torch.contiguous_format


@pytest.mark.parametrize(
    ("flags", "training", "expected"),
    [
        ({"avx2"}, True, torch.channels_last_3d),
        ({"avx2"}, False, torch.contiguous_format),
        ({"avx2", "avx512f"}, True, torch.contiguous_format),
        (set(), True, torch.contiguous_format),  # not measured: processors of other kinds
    ],
)
def test_float32_trains_channels_last_without_avx512(monkeypatch, flags, training, expected):
    monkeypatch.setattr(devices, "_cpu_flags", lambda: flags)
    assert memory_format(CPU, "fp32", training) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")
def test_kept_memory_is_not_faulted_in_again():
    script = (
        "import resource, torch\n"
        "from mambamed.run.device import keep_freed_memory\n"
        "torch.set_num_threads(1)\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def work():\n"
        "    before = faults()\n"
        "    for _ in range(20): torch.ones(4 * 2**20)\n"
        "    return faults() - before\n"
        "plain = work(); kept = keep_freed_memory(); work(); print(plain, kept, work())\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    plain, kept, after = out.split()
    if kept == "False":
        pytest.skip("the C library is not glibc")
    # 20 x 16 MiB are 81920 pages of 4 KiB (fewer faults where pages are huge)
    assert int(after) < 0.1 * int(plain)


def test_keeping_memory_twice_is_no_fault():
    assert keep_freed_memory() == keep_freed_memory()
