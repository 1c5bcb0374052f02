"""The Triton backend around its kernels: when it serves, how it cuts a scan, and that its kernels compile.

What the kernels compute is tested in `test_triton_kernels.py`.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mambamed.ssm import fused, launch, scan, selective_scan, triton
from tests.ssm.compile_kernels import launches
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


@pytest.mark.parametrize("mamba_ssm", [None, "no mamba_ssm"])
def test_a_gpu_is_served_by_triton_with_and_without_mamba_ssm(monkeypatch, mamba_ssm) -> None:
    reasons = {"cuda": mamba_ssm, "triton": None}
    monkeypatch.setattr(scan, "why_unavailable", reasons.get)
    scan._choose.cache_clear()
    try:
        name, why = scan.chosen_backend("cuda")
    finally:
        scan._choose.cache_clear()
    assert (name, why) == ("triton", "first that works on cuda")


def test_float64_and_tensors_on_the_cpu_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(scan, "why_unavailable", lambda name: None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="float32"):
        selective_scan(*scan_inputs(1, 2, 3, 2, dtype=torch.float64), backend="triton")
    with pytest.raises(ValueError, match="on the CPU"):
        selective_scan(*scan_inputs(1, 2, 3, 2), backend="triton")


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("channels", [16, 64, 512])
@pytest.mark.parametrize("length", [1, 1000, 4097, 262144, 2_000_000])
def test_what_is_kept_is_small_and_chunks_stay_few(batch, channels, length) -> None:
    kept = launch.kept_shape(batch, length, channels, 16)
    tokens = launch.chunk_tokens(batch, length, channels)
    assert tokens & (tokens - 1) == 0
    chunks = -(-length // tokens)
    assert chunks <= launch.MOST_CHUNKS
    assert tokens >= launch.SHORTEST_CHUNK
    assert kept[1] <= max(length / launch.STRETCH, length / tokens) + 1


class Allocated(TorchDispatchMode):
    """Notes all tensors that come into being."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[tuple[tuple[int, ...], torch.dtype]] = []

    @property
    def numbers(self) -> int:
        return sum(math.prod(shape) for shape, _ in self.tensors)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not function.is_view:
            self.tensors.append((tuple(result.shape), result.dtype))
        return result


@needs_triton
@pytest.mark.parametrize(("states", "limit"), [(16, 11), (64, 21)])
@pytest.mark.parametrize("length", [131072, 262144, 2_000_000])
def test_a_backward_pass_takes_far_less_than_all_states(monkeypatch, length, states, limit) -> None:
    """In tensors of (L, D), counted as if none were given back; all states would be 16 and 64 of them."""
    monkeypatch.setattr(launch, "launch", lambda *_, **__: None)
    channels = 64
    u, delta, z = (torch.empty(1, length, channels, device="meta").transpose(1, 2) for _ in range(3))
    B, C = (torch.empty(1, length, states, device="meta").transpose(1, 2) for _ in range(2))
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


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor without data."""
    return torch.empty(shape, dtype=dtype, device="meta")


def scanned(batch: int, channels: int, length: int, states: int, reverse: bool = False) -> None:
    """Forward and backward, with the types and views of a Mamba block under autocast."""
    half, rank = torch.bfloat16, 5  # columns of B and C begin at odd places
    u, delta = empty(batch, length, channels), empty(batch, length, channels, dtype=half)
    z = empty(batch, length, 2 * channels, dtype=half)[..., channels:]
    rows = empty(batch, length, rank + 2 * states, dtype=half)
    u, delta, z, B, C = (
        t.transpose(1, 2) for t in (u, delta, z, rows[..., rank : rank + states], rows[..., rank + states :])
    )
    A, D, bias = empty(channels, states), empty(channels), empty(channels)
    out, kept = triton.scan_forward(u, delta, A, B, C, D, z, bias, True, reverse, True)
    triton.scan_forward(u, delta, A, B, C, D, z, bias, True, reverse, False)
    triton.scan_backward(out, kept, u, delta, A, B, C, D, z, bias, True, reverse)


def block_computed(batch: int, channels: int, length: int, states: int, sides: int, reverse: bool) -> None:
    """Forward and backward of the inner part of a Mamba block, as `fused` launches it."""
    rank = -(-channels // 32)
    parameters = (
        empty(sides, channels, 4), empty(sides, channels), empty(sides, rank + 2 * states, channels),
        empty(sides, channels, rank), empty(sides, channels), empty(sides, channels, states),
        empty(sides, channels), reverse,
    )  # fmt: skip
    xz = empty(batch, length, 2 * channels, dtype=torch.bfloat16)
    out, rows, kept = fused.forward(xz, *parameters, True)
    fused.forward(xz, *parameters, False)
    fused.backward(out, rows, kept, xz, *parameters)


@needs_triton
@pytest.mark.parametrize("sides", [1, 2])
def test_a_fused_block_writes_only_these_sequences_of_all_channels(monkeypatch, sides) -> None:
    """docs/scan.md: the output forwards; backwards dx and dz, du per direction, one gradient of step sizes.

    What else has a row per token has fewer columns than channels: the rows of the projection have 4 + 2 x 16,
    padded to 48. The states before every 32 tokens are half a number per token, channel and direction.
    """
    monkeypatch.setattr(launch, "launch", lambda *_, **__: None)
    length, channels, half = 2**21, 128, torch.bfloat16

    def large(allocated: Allocated) -> list[tuple[tuple[int, ...], torch.dtype]]:
        return [
            (shape, dtype)
            for shape, dtype in allocated.tensors
            if length in shape and math.prod(shape) >= length * channels
        ]

    parameters = (
        empty(sides, channels, 4), empty(sides, channels), empty(sides, 4 + 2 * 16, channels),
        empty(sides, channels, 4), empty(sides, channels), empty(sides, channels, 16),
        empty(sides, channels), False,
    )  # fmt: skip
    xz = empty(1, length, 2 * channels, dtype=half)
    with Allocated() as forwards:
        out, rows, kept = fused.forward(xz, *parameters, True)
    assert large(forwards) == [((1, length, channels), half)]
    assert rows.numel() + kept.numel() <= sides * length * (48 + channels // 2)
    with Allocated() as backwards:
        fused.backward(out, rows, kept, xz, *parameters)
    gradients = [((sides, 1, length, channels), torch.float32), ((1, 1, length, channels), torch.float32)]
    partial = [((4, sides, 1, length, 48), torch.float32)]  # of 48 columns, one per 32 channels
    assert large(backwards) == [((1, length, 2 * channels), half), *gradients, *partial]


SHAPES = [  # batch, channels, length; the last ones have odd sizes
    (2, 128, 32768), (2, 256, 4096), (1, 64, 262144), (2, 64, 2097152), (4, 96, 1000), (1, 40, 77), (3, 24, 1)
]  # fmt: skip


@needs_triton
@pytest.mark.skipif(triton.interpreted(), reason="interpreted kernels do not compile")
def test_shapes_strides_and_directions_share_compiled_kernels(monkeypatch) -> None:
    """One variant per kernel for a kind of numbers and of states: a first step compiles five kernels."""
    with launches(monkeypatch) as found:
        for shape in SHAPES:
            for reverse in (False, True):
                scanned(*shape, 16, reverse)
    names = [variant.name for variant in found.values()]
    assert sorted(names) == ["carry", "chunk_adjoints", "chunk_states", "gradients", "outputs"]


@needs_triton
@pytest.mark.skipif(triton.interpreted(), reason="interpreted kernels do not compile")
def test_fused_blocks_of_a_network_share_compiled_kernels(monkeypatch) -> None:
    """The same, for the stages of SegMamba, whose step sizes have ranks 3, 6, 12 and 24, in both directions.

    The rank changes the kernels that compute step sizes; nothing else does.
    """
    with launches(monkeypatch) as found:
        for channels, length in ((96, 262144), (192, 32768), (384, 4096), (768, 512)):
            block_computed(2, channels, length, 16, sides=2, reverse=False)
            block_computed(2, channels, length, 16, sides=1, reverse=False)
            block_computed(2, channels, length, 16, sides=1, reverse=True)
    names = [variant.name for variant in found.values()]
    counts = {name: names.count(name) for name in names}
    of_steps = ("chunk_states", "outputs", "chunk_adjoints", "gradients", "step_gradients")
    by_rank = dict.fromkeys(of_steps, 4)
    once = ("project", "carry", "projection_gradients", "output_gradients", "conv_gradients")
    assert counts == by_rank | dict.fromkeys(once, 1)


MOST_SPILLED = 400  # bytes per thread
MOST_REGISTERS = {"chunk_states": 152, "outputs": 168}  # on sm_90, of 8 and 16 states: 12 warps per quarter
BUILDS = [  # all states of our networks; one build takes seconds
    pytest.param(architecture, states, marks=() if (architecture, states) == (90, 16) else pytest.mark.slow)
    for architecture in (75, 80, 90, "gfx942")
    for states in (8, 16, 32, 64, 128, 256)
]


@needs_triton
@pytest.mark.skipif(triton.interpreted(), reason="interpreted kernels do not compile")
@pytest.mark.parametrize(("architecture", "states"), BUILDS)
def test_kernels_compile_for_every_architecture(monkeypatch, architecture, states, tmp_path) -> None:
    with launches(monkeypatch, architecture, build=True) as scans:
        scanned(2, 128, 32768, states)
    with launches(monkeypatch, architecture, build=True) as blocks:
        block_computed(2, 128, 32768, states, sides=2, reverse=False)
    for variant in (*scans.values(), *blocks.values()):
        binary = variant.compiled.asm["hsaco" if architecture == "gfx942" else "cubin"]
        assert binary[:4] == b"\x7fELF"
        if architecture == 90:
            assert variant.spilled_bytes(tmp_path) <= MOST_SPILLED, variant.name
        if architecture == 90 and states <= 16 and variant.name in ("chunk_states", "outputs"):
            # a lane holds all states of a channel; the barrier is that between two directions
            assert variant.registers(tmp_path) <= MOST_REGISTERS[variant.name], variant.name
            code = variant.compiled.asm["ptx"]
            assert "shfl." not in code, variant.name
            assert code.count("bar.sync") <= (variant.name == "outputs")
