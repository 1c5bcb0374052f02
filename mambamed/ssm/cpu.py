"""The scan on CPUs: numba with explicit SIMD, channel-last, on several threads; see
`mambamed.ssm.cpu_forward`.

float32 tensors whose channels are adjacent in memory (`stride(1) == 1`, the transposed view of a `(B, L, D)`
tensor or a slice of one) or whose tokens are (`stride(2) == 1`, the layout of mamba_ssm) are read in place;
others are copied first. A `reverse` scan gets the address of the
last token and negative strides. Work is divided over batch entries and blocks of channels.
"""

from __future__ import annotations

import logging
import threading

import torch
from torch import Tensor
from torch.nn import functional

from mambamed.ssm import kept_memory
from mambamed.ssm.cpu_threads import run_kernel, shares, workers
from mambamed.ssm.rows import TILE, Rows, address, round_up, vector_width

FLOAT64 = False  # the kernels support only float32
log = logging.getLogger(__name__)


def unavailable() -> str | None:
    """The reason why this backend cannot be used: numba is missing, or its self-test fails.

    Tested in a separate thread, as the caller may be tracing, under autocast or another default device.
    """
    answer: list[str | None] = []

    def ask() -> None:
        try:
            answer.append(_self_test())
        except Exception as error:  # anything that numba or LLVM reject on this machine; torch works without
            answer.append(f"the kernels do not compile here: {type(error).__name__}: {error}")

    thread = threading.Thread(target=ask, name="mambamed-self-test")
    thread.start()
    thread.join()
    return answer[0]


def saved_shape(
    batch: int, length: int, d_inner: int, d_state: int, device_type: str = "cpu"
) -> tuple[int, ...]:
    """`(B, K, N', D')`: the states before each of K tiles, channels and states rounded up for the kernels."""
    width = vector_width()
    states = round_up(d_state, width // 2)
    return (batch, -(-length // TILE), states, round_up(d_inner, width))


class _Scan:
    """The inputs of one scan in the form required by the kernels."""

    def __init__(self, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
        from mambamed.ssm.simd import LOG2E

        self.width = vector_width()
        self.batch, self.channels, self.length = u.shape
        self.columns = round_up(self.channels, self.width)
        self.states = round_up(A.shape[1], self.width // 2)
        self.softplus, self.gated, self.reverse = delta_softplus, z is not None, reverse
        self.u, self.delta = self.rows(u), self.rows(delta)
        self.z = self.u if z is None else self.rows(z)
        self.B, self.C = (Rows(t, self.states, reverse, turned=True) for t in (B, C))
        rates = (A.float() * LOG2E).T
        if rates.shape != (self.states, self.columns):
            rates = functional.pad(rates, (0, self.columns - rates.shape[1], 0, self.states - rates.shape[0]))
        self.rates = rates.contiguous()
        self.skip, self.bias = self._per_channel(D), self._per_channel(delta_bias)

    def rows(self, tensor: Tensor) -> Rows:
        return Rows(tensor, self.columns, self.reverse, turned=True)

    def new_rows(self) -> Rows:
        return self.rows(kept_memory.empty(self.batch, self.length, self.columns).transpose(1, 2))

    def _per_channel(self, tensor: Tensor | None) -> Tensor:
        if tensor is None:
            return kept_memory.zeros(self.columns)
        missing = self.columns - tensor.shape[0]
        return (functional.pad(tensor.float(), (0, missing)) if missing else tensor.float()).contiguous()

    def inputs(self, b: int, column: int) -> tuple[int, ...]:
        """The first arguments of every kernel, for the channels from `column` on of batch entry b."""
        sequences = (*self.u.place(b, column), *self.delta.place(b, column), *self.z.place(b, column))
        parameters = (address(self.rates, 0, column), address(self.skip, column), address(self.bias, column))
        return (*sequences, *self.B.place(b), *self.C.place(b), *parameters, self.columns * 4)

    def tasks(self) -> list[tuple[int, int, int]]:
        """(batch entry, first block, end block) of each task."""
        parts = -(-workers() // self.batch)
        pieces = shares(self.columns // self.width, parts)
        return [(b, *piece) for b in range(self.batch) for piece in pieces]


def scan_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save):
    """See `mambamed.ssm.scan` for the interface."""
    from mambamed.ssm.cpu_backward import scratch_floats
    from mambamed.ssm.cpu_forward import forward_kernel

    scan = _Scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    out = scan.new_rows()
    group = 16 if scan.width == 16 and scan.states % 16 == 0 else scan.width // 2
    kernel = forward_kernel(scan.width, group, scan.softplus, scan.gated)
    state = kept_memory.zeros(scan.batch, scan.states, scan.columns)
    kept = kept_memory.empty(scan.batch, -(-scan.length // TILE) if save else 0, scan.states, scan.columns)
    tasks = scan.tasks()
    scratch = kept_memory.empty(len(tasks), scratch_floats(scan.width, scan.states))
    table = []
    for i, (b, first, end) in enumerate(tasks):
        column = first * scan.width
        table.append((
            *scan.inputs(b, column), out.at(b, 0, column), out.stride, address(state, b, 0, column),
            address(kept, b, 0, 0, column) if save else 0, kept.stride(1) * 4,
            address(scratch, i), scan.length, scan.states // group, end - first,
        ))  # fmt: skip
    run_kernel(kernel, table)
    return out.tensor[..., : scan.channels].transpose(1, 2), kept


def scan_backward(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, into=None):
    """See `mambamed.ssm.scan` for the interface; `into`: tensors for dB, dC and dz, instead of new ones."""
    from mambamed.ssm.cpu_backward import backward_kernel, scratch_floats

    scan = _Scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    g = scan.rows(grad_out)
    du, ddelta = scan.new_rows(), scan.new_rows()
    if into is None:
        targets = [kept_memory.empty(scan.batch, scan.length, scan.states).transpose(1, 2) for _ in range(2)]
        dz = scan.new_rows() if scan.gated else du
    else:
        *targets, dz = into[0], into[1], scan.rows(into[2])
    kernel = backward_kernel(scan.width, scan.softplus, scan.gated)
    tasks = scan.tasks()
    pieces = len(tasks) // scan.batch
    adjoint = kept_memory.zeros(scan.batch, scan.states, scan.columns)
    # sums over tokens (dA; dD and ddelta), and the compensation of their rounding errors
    dA, lost_dA = kept_memory.zeros(2, scan.batch, scan.states, scan.columns)
    sums, lost = kept_memory.zeros(2, 2, scan.batch, scan.columns)
    # every task sums over its own channels: tasks of one batch entry never write to the same place
    spare = (pieces - 1, *targets[0].transpose(1, 2).shape)
    dB, dC = ([target, *kept_memory.empty(*spare).transpose(2, 3)] for target in targets)
    for part in (*dB, *dC):
        part.zero_()
    dB_rows, dC_rows = ([Rows(part, scan.states, reverse) for part in parts] for parts in (dB, dC))
    scratch = kept_memory.empty(len(tasks), scratch_floats(scan.width, scan.states))
    table = []
    for i, (b, first, end) in enumerate(tasks):
        column, dB_i, dC_i = first * scan.width, dB_rows[i % pieces], dC_rows[i % pieces]
        table.append((
            *scan.inputs(b, column), *g.place(b, column), address(saved, b, 0, 0, column),
            saved.stride(1) * 4, du.at(b, 0, column), du.stride, ddelta.at(b, 0, column), ddelta.stride,
            dz.at(b, 0, column), dz.stride, dB_i.at(b), dB_i.stride, dC_i.at(b), dC_i.stride,
            address(adjoint, b, 0, column), address(dA, b, 0, column), address(lost_dA) - address(dA),
            address(sums, 0, b, column), address(sums, 1, b, column), address(lost) - address(sums),
            address(scratch, i), scan.length, 2 * scan.states // scan.width, end - first,
        ))  # fmt: skip
    run_kernel(kernel, table)
    for target, *parts in (dB, dC):
        for part in parts:
            target += part
    n, d = A.shape[1], scan.channels
    turned = [rows.tensor[..., :d].transpose(1, 2) for rows in (du, ddelta, dz)]
    turned_BC = [parts[0][:, :n] for parts in (dB, dC)]
    return (
        turned[0], turned[1], dA.sum(0)[:n, :d].T, *turned_BC, None if D is None else sums[0].sum(0)[:d],
        turned[2] if scan.gated else None, None if delta_bias is None else sums[1].sum(0)[:d],
    )  # fmt: skip


def _self_test() -> str | None:
    """Compare one small scan, forward and backward, with the definition."""
    from mambamed.ssm import reference

    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float32)

    d, n, length = vector_width(), 8, 19
    u, delta, z, g = (normal(1, length, d).transpose(1, 2) for _ in range(4))
    B, C = normal(1, length, n).transpose(1, 2), normal(1, length, n).transpose(1, 2)
    arguments = (u, delta, -normal(d, n).abs(), B, C, normal(d), z, normal(d), True, False)
    wanted = (*reference.scan_forward(*arguments, False)[:1], *reference.scan_backward(g, None, *arguments))
    out, kept = scan_forward(*arguments, True)
    for ours, theirs in zip((out, *scan_backward(g, kept, *arguments)), wanted, strict=True):
        if ours is None or theirs is None or not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4):
            return "the kernels' self-test disagrees with the definition on this processor"
    return None
