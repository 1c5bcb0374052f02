"""The Triton backend around its kernels: when it serves, how it cuts a scan, and that its kernels compile.

What the kernels compute is tested in `test_triton_kernels.py`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mambamed.ssm import scan, selective_scan, triton
from tests.ssm.scan_inputs import scan_inputs

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed (extra `triton`)"
)


def test_without_the_package_the_reason_is_the_package(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "Triton is not installed" in str(triton.unavailable())


@needs_triton
def test_without_a_device_the_reason_is_the_device(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert triton.unavailable() == "torch sees no CUDA or ROCm device"


def test_a_gpu_without_compiled_packages_is_served_by_triton(monkeypatch) -> None:
    reasons = {"cuda": "no mamba_ssm", "triton": None}
    monkeypatch.setattr(scan, "why_unavailable", reasons.get)
    scan._choose.cache_clear()
    try:
        name, why = scan.chosen_backend("cuda")
    finally:
        scan._choose.cache_clear()
    assert (name, why) == ("triton", "first that works on cuda; no cuda: no mamba_ssm")


def test_float64_and_tensors_on_the_cpu_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(scan, "why_unavailable", lambda name: None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="float32"):
        selective_scan(*scan_inputs(1, 2, 3, 2, dtype=torch.float64), backend="triton")
    with pytest.raises(ValueError, match="on the CPU"):
        triton._cut(torch.zeros(1, 2, 3), torch.zeros(2, 2), {}, backward=False)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("channels", [16, 64, 512])
@pytest.mark.parametrize("length", [1, 1000, 4097, 262144, 2_000_000])
def test_what_is_kept_is_small_and_chunks_stay_few(batch, channels, length) -> None:
    kept = triton.saved_shape(batch, length, channels, 16)
    tokens = triton.chunk_tokens(batch, length, channels)
    assert tokens & (tokens - 1) == 0
    chunks = -(-length // tokens)
    assert chunks <= triton.MOST_CHUNKS
    assert tokens >= triton.SHORTEST_CHUNK
    assert kept[1] <= max(length / triton.STRETCH, length / tokens) + 1


class Allocated(TorchDispatchMode):
    """Counts the numbers of all tensors that come into being."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not function.is_view:
            self.numbers += result.numel()
        return result


@needs_triton
@pytest.mark.parametrize(("states", "limit"), [(16, 11), (64, 21)])
@pytest.mark.parametrize("length", [131072, 262144, 2_000_000])
def test_a_backward_pass_takes_far_less_than_all_states(monkeypatch, length, states, limit) -> None:
    """In tensors of (L, D), counted as if none were given back; all states would be 16 and 64 of them."""
    monkeypatch.setattr(triton, "_launch", lambda *_, **__: None)
    channels = 64
    u, delta, z = (torch.empty(1, channels, length, device="meta") for _ in range(3))
    B, C = (torch.empty(1, states, length, device="meta") for _ in range(2))
    A, D, bias = (torch.empty(channels, *rest, device="meta") for rest in ((states,), (), ()))
    with Allocated() as allocated:
        out, kept = triton.scan_forward(u, delta, A, B, C, D, z, bias, True, False, True)
        triton.scan_backward(torch.empty_like(out), kept, u, delta, A, B, C, D, z, bias, True, False)
    assert allocated.numbers / (length * channels) < limit


@needs_triton
@pytest.mark.slow
def test_the_kernels_are_right_in_the_interpreter() -> None:
    """One of `test_triton_kernels.py`, in a process of its own: kernels look at the variable when defined."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not gpu", "-k", "agree_with_the_definition or seam",
         str(Path(__file__).with_name("test_triton_kernels.py"))],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "5 passed" in result.stdout


def compiled(kernel, target, options: dict[str, int]):
    """A kernel compiled for `target` without a device: contiguous float32 tensors, sizes divisible by 16."""
    from triton import compile
    from triton.compiler import ASTSource

    warps = options.pop("num_warps")
    signature, constants, attributes = {}, dict(options), {}
    for i, name in enumerate(kernel.arg_names):
        aligned = True
        if name in options:
            signature[name], aligned = "constexpr", False
        elif re.search(r"_[dn]$", name):  # strides along channels and states
            signature[name], constants[name], aligned = "constexpr", 1, False
        elif re.search(r"_[bl]$", name) or name in ("L", "D", "N", "K", "T", "blocks", "columns"):
            signature[name], aligned = "i32", name not in ("K", "blocks", "columns")
        else:
            signature[name] = "*fp32"
        if aligned:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return compile(source, target=target, options={"num_warps": warps})


def kernels_and_options(states: int):
    from mambamed.ssm import triton_backward, triton_forward

    flags = {"SOFTPLUS": True, "REVERSE": False}
    forwards = {**triton._tiles(states, backward=False), **flags, "UNROLL": triton_forward.UNROLL}
    backwards = {**triton._tiles(states, backward=True), **flags, "UNROLL": triton_backward.UNROLL}
    carrying = {"BACKWARD": False, "COLUMNS": 32, "UNROLL": 16, "num_warps": 1}
    return [
        (triton_forward.chunk_states, forwards),
        (triton_forward.carry, carrying),
        (triton_forward.outputs, {**forwards, "STRETCH": triton.STRETCH}),
        (triton_backward.chunk_adjoints, backwards),
        (triton_backward.gradients, {**backwards, "STRETCH": triton.STRETCH}),
    ]


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(triton.interpreted(), reason="interpreted kernels do not compile")
@pytest.mark.parametrize("states", [8, 16, 32, 64, 128, 256])  # of all networks
@pytest.mark.parametrize("architecture", [75, 80, 90, "gfx942"])
def test_kernels_compile_for_every_architecture(architecture, states, tmp_path) -> None:
    from triton.backends.compiler import GPUTarget

    nvidia = isinstance(architecture, int)
    target = GPUTarget("cuda", architecture, 32) if nvidia else GPUTarget("hip", architecture, 64)
    for kernel, options in kernels_and_options(states):
        result = compiled(kernel, target, dict(options))
        binary = result.asm["cubin" if nvidia else "hsaco"]
        assert binary[:4] == b"\x7fELF"
        if nvidia:
            assert spilled_bytes(binary, tmp_path) <= 256, kernel.__name__
        if architecture == 90 and states <= 16 and kernel.__name__ in ("chunk_states", "outputs"):
            assert not re.search(
                r"shfl\.|bar\.sync", result.asm["ptx"]
            )  # a lane holds all states of a channel


def spilled_bytes(cubin: bytes, folder: Path) -> int:
    """Bytes of stack a thread, as NVIDIA's cuobjdump in Triton's wheel reads them from a cubin."""
    import triton as package

    tool = Path(package.__file__).parent / "backends/nvidia/bin/cuobjdump"
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    usage = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", usage)[1])
