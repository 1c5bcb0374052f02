"""The scan on CPUs: numba with explicit SIMD, channel-last, on several threads; see `mambamed.ssm.cpu_kernels`.

Tensors whose channels are neighbors in memory (`stride(1) == 1`, the transposed view of a `(B, L, D)` tensor or a
slice of one) and whose type is float32 are read where they are; others are copied first. A `reverse` scan gets
the address of the last token and negative strides. Work is divided over batch entries and blocks of channels.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mambamed.ssm.cpu_threads import run_all, shares, workers

FLOAT64 = False  # the kernels know float32 only
log = logging.getLogger(__name__)


def unavailable() -> str | None:
    """Why this backend cannot serve: numba missing, or the kernels do not agree with the definition here."""
    try:
        return _self_test()
    except (
        Exception
    ) as error:  # whatever numba or LLVM dislike about this machine: torch alone can do without
        return f"the kernels do not compile here: {type(error).__name__}: {error}"


@functools.cache
def vector_width() -> int:
    """Channels in a vector register: 16 with AVX-512, else 8."""
    from mambamed.ssm.simd import host_width

    return host_width()


def saved_shape(batch: int, length: int, d_inner: int, d_state: int) -> tuple[int, ...]:
    """`(B, K, N', D')`: the states before each of K tiles, channels and states rounded up to what kernels take."""
    from mambamed.ssm.cpu_kernels import TILE

    width = vector_width()
    states = _round_up(d_state, width // 2)
    return (batch, -(-length // TILE), states, _round_up(d_inner, width))


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


class _Rows:
    """A sequence tensor as kernels see it: address of the first token to be read, bytes between tokens."""

    def __init__(self, tensor: Tensor, columns: int, reverse: bool):
        rows = tensor.transpose(1, 2)  # (B, L, columns)
        if rows.dtype != torch.float32:
            rows = rows.float()
        if rows.shape[2] != columns:
            rows = functional.pad(rows, (0, columns - rows.shape[2]))
        if rows.stride(2) != 1 and columns > 1:
            rows = rows.contiguous()
        self.tensor = rows
        self.stride = rows.stride(1) * 4
        self.start = rows.data_ptr() + (self.stride * (rows.shape[1] - 1) if reverse else 0)
        self.batch_stride = rows.stride(0) * 4
        if reverse:
            self.stride = -self.stride

    def at(self, batch: int, column: int = 0) -> int:
        """Address of a column of the first token of a batch entry."""
        return self.start + batch * self.batch_stride + column * 4


class _Scan:
    """One scan's inputs, brought into the kernels' form."""

    def __init__(self, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, width=None):
        from mambamed.ssm.simd import LOG2E

        self.width = width or vector_width()
        self.batch, self.channels, self.length = u.shape
        self.columns = _round_up(self.channels, self.width)
        self.states = _round_up(A.shape[1], self.width // 2)
        self.softplus, self.gated, self.reverse = delta_softplus, z is not None, reverse
        self.u, self.delta = self.rows(u), self.rows(delta)
        self.z = self.u if z is None else self.rows(z)
        self.B, self.C = _Rows(B, self.states, reverse), _Rows(C, self.states, reverse)
        rates = (A.float() * LOG2E).T
        self.rates = functional.pad(
            rates, (0, self.columns - rates.shape[1], 0, self.states - rates.shape[0])
        ).contiguous()
        self.skip, self.bias = self._per_channel(D), self._per_channel(delta_bias)

    def rows(self, tensor: Tensor) -> _Rows:
        return _Rows(tensor, self.columns, self.reverse)

    def new_rows(self) -> _Rows:
        return self.rows(torch.empty(self.batch, self.length, self.columns).transpose(1, 2))

    def _per_channel(self, tensor: Tensor | None) -> Tensor:
        if tensor is None:
            return torch.zeros(self.columns)
        return functional.pad(tensor.float(), (0, self.columns - tensor.shape[0])).contiguous()

    def inputs(self, b: int, column: int) -> tuple[int, ...]:
        u, delta, z = self.u, self.delta, self.z
        return (u.at(b, column), u.stride, delta.at(b, column), delta.stride, z.at(b, column), z.stride)

    def projections(self, b: int) -> tuple[int, ...]:
        return self.B.at(b), self.B.stride, self.C.at(b), self.C.stride

    def parameters(self, column: int) -> tuple[int, ...]:
        offset = column * 4
        return tuple(t.data_ptr() + offset for t in (self.rates, self.skip, self.bias))

    def tasks(self) -> list[tuple[int, int, int]]:
        """(batch entry, first block, end block) of each task."""
        parts = -(-workers() // self.batch)
        pieces = shares(self.columns // self.width, parts)
        return [(b, *piece) for b in range(self.batch) for piece in pieces]


def _scratch(width: int) -> Tensor:
    from mambamed.ssm.cpu_kernels import scratch_floats

    return torch.empty(scratch_floats(width))


def scan_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save, width=None):
    """See `mambamed.ssm.scan` for the seam; `width` overrides the vector width, for tests."""
    from mambamed.ssm.cpu_kernels import TILE, forward_kernel

    scan = _Scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, width)
    out = scan.new_rows()
    group = 16 if scan.width == 16 and scan.states % 16 == 0 else scan.width // 2
    kernel = forward_kernel(scan.width, group, scan.softplus, scan.gated)
    state = torch.zeros(scan.batch, scan.states, scan.columns)
    tiles = -(-scan.length // TILE)
    kept = torch.empty(scan.batch, tiles if save else 0, scan.states, scan.columns)

    def task(b: int, first: int, end: int) -> Callable[[], object]:
        column = first * scan.width
        kept_at = kept.data_ptr() + (b * kept.stride(0) + column) * 4 if save else 0
        scratch = _scratch(scan.width)
        return lambda: kernel(
            *scan.inputs(b, column), out.at(b, column), out.stride, *scan.projections(b), *scan.parameters(column),
            state.data_ptr() + (b * state.stride(0) + column) * 4, scan.columns * 4,
            kept_at, kept.stride(1) * 4, scratch.data_ptr(), scan.length, scan.states // group, end - first,
        )  # fmt: skip

    run_all([task(*bounds) for bounds in scan.tasks()])
    return out.tensor[..., : scan.channels].transpose(1, 2), kept


def scan_backward(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, width=None):
    """See `mambamed.ssm.scan` for the seam."""
    from mambamed.ssm.cpu_kernels import backward_kernel

    scan = _Scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, width)
    g = scan.rows(grad_out)
    du, ddelta = scan.new_rows(), scan.new_rows()
    dz = scan.new_rows() if scan.gated else du
    kernel = backward_kernel(scan.width, scan.softplus, scan.gated)
    bounds = scan.tasks()
    pieces = len(bounds) // scan.batch
    adjoint = torch.zeros(scan.batch, scan.states, scan.columns)
    dA = torch.zeros(scan.batch, scan.states, scan.columns)
    sums = torch.zeros(2, scan.batch, scan.columns)  # of dD and of ddelta
    # every task adds up over its own channels: tasks never write to the same place
    dBC = torch.zeros(pieces, scan.batch, scan.length, 2 * scan.states)
    dBC_rows = [_Rows(part.transpose(1, 2), 2 * scan.states, reverse) for part in dBC]

    def task(piece: int, b: int, first: int, end: int) -> Callable[[], object]:
        column = first * scan.width
        rows, per_state = dBC_rows[piece], (b * scan.states * scan.columns + column) * 4
        per_channel = (b * scan.columns + column) * 4
        scratch = _scratch(scan.width)
        return lambda: kernel(
            *scan.inputs(b, column), g.at(b, column), g.stride, *scan.projections(b), *scan.parameters(column),
            scan.columns * 4, saved.data_ptr() + (b * saved.stride(0) + column) * 4, saved.stride(1) * 4,
            du.at(b, column), du.stride, ddelta.at(b, column), ddelta.stride, dz.at(b, column), dz.stride,
            rows.at(b), rows.stride, adjoint.data_ptr() + per_state, dA.data_ptr() + per_state,
            sums[0].data_ptr() + per_channel, sums[1].data_ptr() + per_channel, scratch.data_ptr(),
            scan.length, 2 * scan.states // scan.width, end - first,
        )  # fmt: skip

    run_all([task(i % pieces, *b) for i, b in enumerate(bounds)])
    dB, dC = (dBC[0] if pieces == 1 else dBC.sum(0)).unflatten(2, (scan.states, 2)).unbind(3)
    n, d = A.shape[1], scan.channels
    turned = [rows.tensor[..., :d].transpose(1, 2) for rows in (du, ddelta, dz)]
    turned_BC = [t[..., :n].transpose(1, 2) for t in (dB, dC)]
    return (
        turned[0], turned[1], dA.sum(0)[:n, :d].T, *turned_BC, None if D is None else sums[0].sum(0)[:d],
        turned[2] if scan.gated else None, None if delta_bias is None else sums[1].sum(0)[:d],
    )  # fmt: skip


def _self_test() -> str | None:
    """Compare one small scan, forward and backward, with the definition."""
    from mambamed.ssm import reference

    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    d, n, length = vector_width(), 8, 19
    u, delta, z, g = (normal(1, length, d).transpose(1, 2) for _ in range(4))
    B, C = normal(1, length, n).transpose(1, 2), normal(1, length, n).transpose(1, 2)
    arguments = (u, delta, -torch.rand(d, n, generator=random), B, C, normal(d), z, normal(d), True, False)
    wanted = (*reference.scan_forward(*arguments, False)[:1], *reference.scan_backward(g, None, *arguments))
    out, kept = scan_forward(*arguments, True)
    for ours, theirs in zip((out, *scan_backward(g, kept, *arguments)), wanted, strict=True):
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4):
            return "the kernels' self-test disagrees with the definition on this processor"
    return None
