"""Launches of the Triton kernels: how a scan is divided among programs, and the buffers that they fill.

Every operand is brought into one form, so that a kernel is compiled once per kind of numbers and number of
states: rows are contiguous, and begin at multiples of 16 numbers. What is not in this form is copied, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

SHORTEST_CHUNK = 32
PROGRAMS = 8192  # about two rounds of warps on a large GPU; more chunks than needed cost states and carrying
MOST_CHUNKS = 1024
FEWEST_CHUNKS = 64
STRETCH = 32  # tokens between two states that the forward pass stores for the backward pass
CHANNELS = 32  # per program: one per lane, 128 bytes per load
LOG2E = 1.4426950408889634
UNIT = 16  # numbers; every row begins at a multiple of it
_MOST_WARPS = 8


def chunk_tokens(batch: int, length: int, d_inner: int) -> int:
    """T: a power of two that gives about `PROGRAMS` programs, in at most `MOST_CHUNKS` chunks."""
    wanted = PROGRAMS // (batch * -(-d_inner // CHANNELS))
    wanted = max(FEWEST_CHUNKS, min(MOST_CHUNKS, wanted))
    tokens = SHORTEST_CHUNK
    while tokens * wanted < length:
        tokens *= 2
    return tokens


def padded(width: int) -> int:
    """The width of rows that hold this many numbers."""
    return -(-width // UNIT) * UNIT


def kept_shape(batch: int, length: int, d_inner: int, d_state: int) -> tuple[int, ...]:
    """`(B, S, N, D)`: the state before each of S stretches, into which the chunks are divided."""
    tokens = min(STRETCH, chunk_tokens(batch, length, d_inner))
    return (batch, -(-length // tokens), d_state, padded(d_inner))


def aligned(t: Tensor, full_rows: bool = True) -> Tensor:
    """`(..., L, X)` in the kernels' form: t itself, or a copy with zeros at the ends of its rows.

    `full_rows`: whether kernels read whole rows, so that X must be a multiple of `UNIT`.
    """
    outer = [t.stride(i) for i in range(t.ndim - 1) if t.shape[i] > 1]
    good = t.stride(-1) == 1 and all(s % UNIT == 0 for s in outer) and t.data_ptr() % 16 == 0
    if good and not (full_rows and t.shape[-1] % UNIT):
        return t
    return functional.pad(t, (0, -t.shape[-1] % UNIT)).contiguous()


def padded_numbers(t: Tensor) -> Tensor:
    """Parameters `(..., D)` as float32, contiguous, with rows of the kernels' width."""
    return functional.pad(t.float(), (0, -t.shape[-1] % UNIT)).contiguous()


def tiles(states: int, backward: bool) -> dict[str, int]:
    """Tile and warps of a kernel: 16 numbers of the state per lane.

    Forwards the states of a channel are summed in one thread if possible, so that many states mean fewer
    channels; backwards there are partial sums per channel block, so that many states mean more warps, but at
    most 8: with 16, a thread has only 128 registers.
    """
    whole = 1 << (states - 1).bit_length()  # to a power of two
    block = max(4, min(CHANNELS, (_MOST_WARPS if backward else 1) * 512 // whole))
    return {"STATES": whole, "BLOCK": block, "num_warps": max(1, min(_MOST_WARPS, whole * block // 512))}


def launch(kernel: Any, programs: int, *arguments, **options) -> None:
    """Run a kernel in this many programs; Triton's decorated functions have no type to check."""
    kernel[(programs,)](*arguments, **options)


class Cut(NamedTuple):
    """Division of a scan among programs; arguments of most kernels."""

    L: int
    D: int
    N: int
    K: int
    T: int
    blocks: int
    batch: int
    sides: int
    reverse: int


@dataclass
class Operands:
    """What the kernels read, in their form: `aligned` sequences, `padded_numbers`.

    Without `taps` and `dt_weight`, u and delta are those of the scan. With them, u is the input of the
    convolution (and silu), and delta holds the rows that `dt_weight` multiplies.
    """

    u: Tensor  # (B, L, D)
    delta: Tensor  # (S, B, L, D), or (S, B, L, RANK)
    B: Tensor  # (S, B, L, N)
    C: Tensor
    z: Tensor | None  # (B, L, D)
    A2: Tensor  # (S, N, D), A log2(e)
    skip: Tensor | None  # (S, D)
    bias: Tensor | None  # (S, D)
    reverse: bool  # of side 0; of two sides, the second one is reversed
    softplus: bool = True
    taps: Tensor | None = None  # (S, WIDTH, D)
    tap_bias: Tensor | None = None  # (S, D)
    dt_weight: Tensor | None = None  # (S, RANK, D)

    def cut(self, backward: bool) -> tuple[Cut, int, dict[str, Any]]:
        """The division, the number of programs, and the kernels' options."""
        (batch, length, channels), (sides, states, _) = self.u.shape, self.A2.shape
        tokens, options = chunk_tokens(batch, length, channels), tiles(states, backward)
        blocks, chunks = -(-channels // options["BLOCK"]), -(-length // tokens)
        cut = Cut(length, channels, states, chunks, tokens, blocks, batch, sides, int(self.reverse))
        options |= {
            "SOFTPLUS": self.softplus,
            "RANK": 0 if self.dt_weight is None else self.dt_weight.shape[1],
        }
        return cut, batch * chunks * blocks, options

    @property
    def width(self) -> int:
        """Taps of the convolution, 0 if u is given."""
        return 0 if self.taps is None else self.taps.shape[1]


def strided(t: Tensor | None, axes: int = 2) -> tuple:
    """Pointer and strides along all axes but the last, in the kernels' order of arguments."""
    if t is None:
        return (None, *([0] * axes))
    return (t, *(t.stride(i) if t.shape[i] > 1 else 0 for i in range(axes)))


def _carry(states: Tensor, sums: Tensor, operands: Operands, backward: bool) -> None:
    from mambamed.ssm import triton_carry as kernels

    sides, batch, chunks, N, D = states.shape
    columns = -(-N * D // kernels.COLUMNS)
    launch(
        kernels.carry, sides * batch * columns, states, sums, operands.A2, D, N, chunks, columns, batch,
        int(operands.reverse != backward), COLUMNS=kernels.COLUMNS, CHUNKS=kernels.CHUNKS, num_warps=4,
    )  # fmt: skip


def run_forward(o: Operands, keep: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The outputs `(B, L, D)`, summed over the sides, and the states `(S, B, stretches, N, D)` if `keep`."""
    from mambamed.ssm import triton_forward as kernels

    cut, programs, options = o.cut(backward=False)
    options |= {"UNROLL": kernels.UNROLL, "WIDTH": o.width}
    sides, batch = cut.sides, cut.batch
    states = o.A2.new_zeros(sides, batch, cut.K, cut.N, cut.D)
    out = o.u.new_empty(batch, cut.L, cut.D, dtype=dtype)
    kept = o.A2.new_empty(sides, *kept_shape(batch, cut.L, cut.D, cut.N)) if keep else None
    inputs = (*strided(o.u), *strided(o.delta, 3), *strided(o.B, 3))
    with torch.cuda.device_of(o.u):
        if cut.K > 1:
            sums = o.A2.new_empty(sides, batch, cut.K, cut.D)
            launch(
                kernels.chunk_states, sides * programs, *inputs, o.A2, o.bias, o.taps, o.tap_bias,
                o.dt_weight, states, sums, *cut, **options,
            )  # fmt: skip
            _carry(states, sums, o, backward=False)
        launch(
            kernels.outputs, programs, *inputs, *strided(o.C, 3), *strided(o.z), o.A2, o.skip, o.bias, o.taps,
            o.tap_bias, o.dt_weight, states, states if kept is None else kept, out, *cut, int(keep),
            STRETCH=min(STRETCH, cut.T), **options,
        )  # fmt: skip
    return out, kept


@dataclass
class Gradients:
    """Results of the backward kernels, by the operand they belong to; sums over programs are done."""

    du: Tensor  # (S, B, L, D)
    ddelta: Tensor | None  # (S, B, L, D); None with RANK, where `rows` and `dweight` are computed from it
    rows: Tensor  # (S, B, L, .): of B and of C, with RANK before them those of delta
    dA: Tensor  # noqa: N815  (S, N, D)
    dD: Tensor  # noqa: N815  (S, D)
    dbias: Tensor  # (S, D)
    dweight: Tensor | None  # (S, RANK, D)


def run_backward(o: Operands, grad: Tensor, kept: Tensor, dz: Tensor | None) -> Gradients:
    """Gradients of all operands, given that of the outputs; the gate's is written into `dz (B, L, D)`."""
    from mambamed.ssm import triton_backward as kernels
    from mambamed.ssm import triton_inner as inner

    cut, programs, options = o.cut(backward=True)
    options["UNROLL"] = kernels.UNROLL
    sides, batch, rank = cut.sides, cut.batch, options["RANK"]

    def empty(*shape: int) -> Tensor:
        return o.A2.new_empty(shape)

    stretch = min(STRETCH, cut.T)
    lead, states = max(UNIT, rank) if rank else 0, padded(cut.N)  # columns of delta, of B and of C
    arriving, dA = (empty(sides, batch, cut.K, cut.N, cut.D) for _ in range(2))
    sums, dD = (empty(sides, batch, cut.K, cut.D) for _ in range(2))
    dbias, du = sums, empty(sides, batch, cut.L, cut.D)
    ddelta = empty(1 if rank else sides, batch, cut.L, cut.D)
    dweight = empty(sides, -(-cut.L // inner.RUN), batch, rank, cut.D) if rank else None
    partial = empty(cut.blocks, sides, batch, cut.L, lead + 2 * states)
    if states > cut.N:
        partial.zero_()
    noted = empty(batch, cut.K, stretch // kernels.UNROLL, cut.N, cut.D)
    noted_rows = empty(2, batch, cut.K, stretch, cut.D)
    with torch.cuda.device_of(o.u):
        launch(
            kernels.chunk_adjoints, sides * programs,
            *strided(grad), *strided(o.delta, 3), *strided(o.C, 3), *strided(o.z), o.A2, o.bias, o.dt_weight,
            arriving, sums, *cut, **options,
        )  # fmt: skip
        _carry(arriving, sums, o, backward=True)
        for side in range(sides):
            launch(
                kernels.gradients, programs,
                *strided(grad), *strided(o.u), *strided(o.delta, 3), *strided(o.B, 3), *strided(o.C, 3),
                *strided(o.z), *strided(dz), o.A2, o.skip, o.bias, o.taps, o.tap_bias, o.dt_weight, kept,
                arriving, noted, noted_rows, du, ddelta[0 if rank else side], dA, dD, dbias,
                partial[..., lead:], partial[..., lead + states :], partial.shape[-1], *cut, side,
                STRETCH=stretch, WIDTH=o.width, **options,
            )  # fmt: skip
            if dweight is not None and o.dt_weight is not None:
                launch(
                    inner.step_gradients, dweight[side, :, :, 0, 0].numel() * cut.blocks,
                    ddelta, *strided(o.delta[side]), o.dt_weight[side], partial[:, side], partial.stride(0),
                    partial.shape[-1], dweight[side], cut.L, cut.D, dweight.shape[1], batch,
                    TOKENS=inner.TOKENS, BLOCK=options["BLOCK"], RUN=inner.RUN, RANK=rank, WIDE=lead,
                )  # fmt: skip
    return Gradients(
        du=du,
        ddelta=None if rank else ddelta,
        rows=partial.sum(0),
        dA=dA.sum((1, 2)),
        dD=dD.sum((1, 2)),
        dbias=dbias.sum((1, 2)),
        dweight=None if dweight is None else dweight.sum((1, 2)),
    )
