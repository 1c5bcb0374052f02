"""The scan on a GPU by Triton kernels: no build step, for any CUDA or ROCm device of torch.

Parallel over chunks of the sequence as well as over batch and channels (see `triton_forward`), because
medical volumes give long and narrow sequences: L up to millions, D 64 to 512. `mamba_ssm` uses only batch and
channels.

With TRITON_INTERPRET=1 in the environment before the first scan, the kernels run on the CPU in Triton's
interpreter: correct but very slow, for tests.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

FLOAT64 = False
LOG2E = 1.4426950408889634
SHORTEST_CHUNK = 32
PROGRAMS = 8192  # about two rounds of warps on a large GPU; more chunks than needed cost states and carrying
MOST_CHUNKS = 1024  # processed one after the other by `carry`
FEWEST_CHUNKS = 64
STRETCH = 32  # tokens between two states that the forward pass stores for the backward pass
_MOST_WARPS = 8
CHANNELS = 32  # per program: one per lane, 128 bytes per load


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unavailable() -> str | None:
    """The reason why this backend cannot be used: no Triton, or no GPU."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'mambamed[triton]')"
    if not torch.cuda.is_available() and not interpreted():
        return "torch sees no CUDA or ROCm device"
    try:
        importlib.import_module("mambamed.ssm.triton_backward")
    except ImportError as error:
        return f"Triton does not load ({error})"
    return None


def chunk_tokens(batch: int, length: int, d_inner: int) -> int:
    """T: a power of two that gives about `PROGRAMS` programs, in at most `MOST_CHUNKS` chunks."""
    wanted = PROGRAMS // (batch * -(-d_inner // CHANNELS))
    wanted = max(FEWEST_CHUNKS, min(MOST_CHUNKS, wanted))
    tokens = SHORTEST_CHUNK
    while tokens * wanted < length:
        tokens *= 2
    return tokens


def saved_shape(batch: int, length: int, d_inner: int, d_state: int) -> tuple[int, ...]:
    """`(B, S, N, D)`: the state before each of S stretches, into which the chunks are divided."""
    tokens = min(STRETCH, chunk_tokens(batch, length, d_inner))
    return (batch, -(-length // tokens), d_state, d_inner)


class _Cut(NamedTuple):
    """Division of a scan among programs; the last six arguments of most kernels."""

    L: int
    D: int
    N: int
    K: int
    T: int
    blocks: int


def _cut(u: Tensor, A: Tensor, options: dict, backward: bool) -> tuple[_Cut, int, dict]:
    """The division, the number of programs, and the options with those of `_tiles`."""
    if u.device.type == "cpu" and not interpreted():
        raise ValueError("scan backend 'triton' got tensors on the CPU; move them to the GPU, or use 'cpu'")
    (batch, channels, length), states = u.shape, A.shape[1]
    tokens, tiles = chunk_tokens(batch, length, channels), _tiles(states, backward)
    cut = _Cut(length, channels, states, -(-length // tokens), tokens, -(-channels // tiles["BLOCK"]))
    return cut, batch * cut.K * cut.blocks, tiles | options


def _tiles(states: int, backward: bool) -> dict[str, int]:
    """Tile and warps of a kernel: 16 numbers of the state per lane.

    Forwards the states of a channel are summed in one thread if possible, so that many states mean fewer
    channels; backwards there are partial sums per channel block, so that many states mean more warps, but at
    most 8: with 16, a thread has only 128 registers.
    """
    padded = 1 << (states - 1).bit_length()  # to a power of two
    block = max(4, min(CHANNELS, (_MOST_WARPS if backward else 1) * 512 // padded))
    return {"STATES": padded, "BLOCK": block, "num_warps": max(1, min(_MOST_WARPS, padded * block // 512))}


def _strided(t: Tensor | None) -> tuple:
    """Pointer and strides of a `(B, X, L)` tensor, in the kernels' order of arguments."""
    return (None, 0, 0, 0) if t is None else (t, *t.stride())


def _parameters(A, D, delta_bias) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A log2(e) as `(N, D)`, D and bias: contiguous float32."""
    skip, bias = (None if t is None else t.float().contiguous() for t in (D, delta_bias))
    return (A.float() * LOG2E).T.contiguous(), skip, bias


def _launch(kernel: Any, programs: int, *arguments, **options) -> None:
    """Run a kernel in this many programs; Triton's decorated functions have no type to check."""
    kernel[(programs,)](*arguments, **options)


def _carry(states: Tensor, sums: Tensor, A2: Tensor, backward: bool) -> None:
    from mambamed.ssm.triton_forward import carry

    batch, chunks, N, D = states.shape
    columns = -(-N * D // 32)
    _launch(
        carry, batch * columns, states, sums, A2, D, N, chunks, columns,
        BACKWARD=backward, COLUMNS=32, UNROLL=16, num_warps=1,
    )  # fmt: skip


def scan_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save):
    """See `mambamed.ssm.scan` for the interface."""
    from mambamed.ssm import triton_forward as kernels

    batch, channels, length = u.shape
    A2, skip, bias = _parameters(A, D, delta_bias)
    options = {"SOFTPLUS": delta_softplus, "REVERSE": reverse, "UNROLL": kernels.UNROLL}
    cut, programs, options = _cut(u, A, options, backward=False)
    states = A2.new_zeros(batch, cut.K, cut.N, channels)
    out = u.new_empty(batch, length, channels)
    kept = A2.new_empty(saved_shape(batch, length, channels, cut.N)) if save else None
    inputs = (*_strided(u), *_strided(delta), *_strided(B))
    with torch.cuda.device_of(u):
        if cut.K > 1:
            sums = A2.new_empty(batch, cut.K, channels)
            _launch(kernels.chunk_states, programs, *inputs, A2, bias, states, sums, *cut, **options)
            _carry(states, sums, A2, backward=False)
        _launch(
            kernels.outputs, programs,
            *inputs, *_strided(C), *_strided(z), A2, skip, bias, states, kept, out, *cut,
            STRETCH=min(STRETCH, cut.T), **options,
        )  # fmt: skip
    return out.transpose(1, 2), states if kept is None else kept


def scan_backward(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
    """See `mambamed.ssm.scan` for the interface."""
    from mambamed.ssm import triton_backward as kernels

    batch, channels, length = u.shape
    A2, skip, bias = _parameters(A, D, delta_bias)
    options = {"SOFTPLUS": delta_softplus, "REVERSE": reverse, "UNROLL": kernels.UNROLL}
    cut, programs, options = _cut(u, A, options, backward=True)

    def empty(*shape: int) -> Tensor:
        return A2.new_empty(shape)

    dt, du, ddelta = (empty(batch, length, channels) for _ in range(3))
    dz = None if z is None else torch.empty_like(du)
    dy = None if z is None else torch.empty_like(du)
    arriving, dA = (empty(batch, cut.K, cut.N, channels) for _ in range(2))
    dD, dbias = (empty(batch, cut.K, channels) for _ in range(2))
    dB, dC = (empty(cut.blocks, batch, length, cut.N) for _ in range(2))
    stretch = min(STRETCH, cut.T)
    noted = empty(batch, cut.K, stretch // kernels.UNROLL, cut.N, channels)
    gradient, inner = _strided(grad_out), _strided(grad_out if dy is None else dy.transpose(1, 2))
    with torch.cuda.device_of(u):
        _launch(
            kernels.chunk_adjoints, programs,
            *gradient, *_strided(delta), *_strided(C), *_strided(z), A2, bias, arriving, dbias, dt, dy,
            *cut, **options,
        )  # fmt: skip
        _carry(arriving, dbias, A2, backward=True)
        _launch(
            kernels.gradients, programs,
            *gradient, *inner, *_strided(u), *_strided(B), *_strided(C), *_strided(z), A2, skip, saved,
            arriving, noted, dt, du, ddelta, dz, dA, dB, dC, dD, dbias, *cut, STRETCH=stretch,
            **options,
        )  # fmt: skip
    turned = [None if t is None else t.transpose(1, 2) for t in (du, ddelta, dB.sum(0), dC.sum(0), dz)]
    return (
        turned[0], turned[1], dA.sum((0, 1)).T, turned[2], turned[3],
        None if D is None else dD.sum((0, 1)), turned[4], None if delta_bias is None else dbias.sum((0, 1)),
    )  # fmt: skip
