"""The Mamba block for inference on CPUs, a tile of tokens at a time.

in_proj -> convolution -> x_proj -> dt_proj -> scan -> gate -> out_proj of some thousand tokens fit into the
cache of a core; of a whole volume they need hundreds of megabytes of memory. Only the state and the last
tokens of the convolution pass from tile to tile.

A block may read its input through several **faces** at once: the same tokens through different input and
output projections, sharing everything between them. A channel flip is a face with flipped weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mambamed.ssm import kept_memory
from mambamed.ssm.cpu_threads import make_table, run_table, shares, task_arguments, workers
from mambamed.ssm.rows import address, vector_width
from mambamed.ssm.scan import resolve_backend

# numbers of a tile's widest tensor: 1 MiB stays in a core's cache; several threads synchronize six times per
# tile, which on a busy machine may cost milliseconds each time: 16 MiB, so that they synchronize rarely
TILE_NUMBERS, TILE_NUMBERS_THREADED = 1 << 18, 1 << 22
SHARED_NUMBERS = 1 << 26  # numbers of an input projection that several directions share: 256 MiB
FLOAT = 4  # bytes


@dataclass
class Faces:
    """E pairs of input and output projections, in the dtype of the products."""

    w_in: Tensor  # (d_model, E 2 D)
    b_in: Tensor | None  # (E 2 D,)
    w_out: Tensor  # (E, D, d_model)

    @property
    def count(self) -> int:
        return self.w_out.shape[0]


@dataclass
class Inner:
    """One direction's parameters between the projections."""

    taps: Tensor  # (D, W)
    tap_bias: Tensor | None  # (D,)
    x_proj: Tensor  # (r + 2 N, D)
    dt_proj: Tensor  # (D, r)
    dt_bias: Tensor  # (D,)
    A: Tensor  # (D, N)
    D: Tensor  # (D,)


def kernels_serve(x: Tensor, d_inner: int, d_state: int) -> bool:
    """Whether a block can call the compiled kernels: eager, on a CPU, with sizes that fit their vectors."""
    if x.device.type != "cpu" or x.dtype == torch.float64 or not x.numel():
        return False
    if torch.compiler.is_compiling() or resolve_backend("auto", "cpu") != "cpu":
        return False
    width = vector_width()
    return d_inner % width == 0 and d_state % (width // 2) == 0


def can_stream(x: Tensor, d_inner: int, d_state: int) -> bool:
    """Whether the block can be streamed: as above, and without gradients."""
    return not torch.is_grad_enabled() and kernels_serve(x, d_inner, d_state)


def product_type(x: Tensor) -> torch.dtype:
    """The dtype in which linear layers compute: autocast's, or that of x."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def stream(x: Tensor, out: Tensor, faces: Faces, directions: Sequence[tuple[Inner, bool]]) -> None:
    """Add the sum of the block's outputs over directions (parameters, reverse?) to `out`.

    x and out are `(B, L, d_model)`, out float32. Several directions share the outer projections if what lies
    between them fits into `SHARED_NUMBERS`; else each computes its own.
    """
    for tokens, answer in zip(x, out, strict=True):
        shared = len(directions) > 1 and x.shape[1] * faces.w_in.shape[1] <= SHARED_NUMBERS
        for together in [directions] if shared else [[one] for one in directions]:
            _stream_entry(tokens, answer, faces, together)


def _stream_entry(
    tokens: Tensor, answer: Tensor, faces: Faces, directions: Sequence[tuple[Inner, bool]]
) -> None:
    """All directions of one batch entry, over one projection of its tokens, stored whole for several."""
    length, (count, D, _) = tokens.shape[0], faces.w_out.shape
    wide = 2 * D * count
    numbers = TILE_NUMBERS if workers() == 1 else TILE_NUMBERS_THREADED
    tile = min(length, max(64, numbers // wide))
    sides = [_Side(faces, inner, reverse, tile) for inner, reverse in directions]
    keep = len(sides) > 1
    # one direction: the tile, with room before and after it for the history of the convolution
    xz = kept_memory.empty(length if keep else tile + 2 * sides[0].most, wide)
    sums = kept_memory.empty(length if keep else 0, count * D)
    w_out = faces.w_out.reshape(count * D, -1)
    for side in sides:
        starts = range(0, length, tile)
        history = 0
        for start in reversed(starts) if side.reverse else starts:
            stop = min(start + tile, length)
            n, first = stop - start, start if keep else side.most
            if side is sides[0]:
                if faces.b_in is None:
                    multiply(tokens[start:stop], faces.w_in, xz[first : first + n])
                else:
                    given = tokens[start:stop].to(faces.w_in.dtype)
                    xz[first : first + n] = torch.addmm(faces.b_in, given, faces.w_in)
            y = side.advance(xz, first, n, history)
            if side is not sides[0]:
                y += sums[start:stop]
            if side is not sides[-1]:
                sums[start:stop] = y
            elif w_out.dtype == torch.float32:
                answer[start:stop].addmm_(y, w_out)
            else:
                answer[start:stop] += torch.mm(y.to(w_out.dtype), w_out)
            kept = min(side.most, n + history)
            if not keep and kept:
                # the next tile is a complete one, or the last
                if side.reverse:
                    xz[first + tile : first + tile + kept] = xz[first : first + kept].clone()
                else:
                    xz[first - kept : first] = xz[first + n - kept : first + n].clone()
            history = kept


def multiply(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a b, in b's dtype; out is float32."""
    if b.dtype == torch.float32:
        return torch.mm(a, b, out=out)
    return out.copy_(torch.mm(a.to(b.dtype), b))


class _Side:
    """One direction: buffers of a tile, the kernels' tables that reference them, the state."""

    def __init__(self, faces: Faces, inner: Inner, reverse: bool, tile: int):
        from mambamed.ssm.cpu_backward import scratch_floats
        from mambamed.ssm.cpu_conv import conv_kernel, make_conv, per_channel
        from mambamed.ssm.cpu_forward import forward_kernel
        from mambamed.ssm.simd import LOG2E

        kind = faces.w_in.dtype
        self.E, self.D, self.width = faces.count, inner.A.shape[0], vector_width()
        self.N, self.rank, self.reverse = inner.A.shape[1], inner.dt_proj.shape[1], reverse
        self.x_proj, self.dt_proj = inner.x_proj.to(kind).T, inner.dt_proj.to(kind).T
        self.most = inner.taps.shape[1] - 1  # tokens of history that the convolution reads
        self.u, self.delta, self.y = (kept_memory.empty(tile, self.E, self.D) for _ in range(3))
        self.projected = kept_memory.empty(tile, self.E, self.rank + 2 * self.N)
        self.state = kept_memory.zeros(self.E, self.N, self.D)
        self.taps, self.tap_bias = per_channel(inner.taps, inner.tap_bias, self.D)
        self.rates = (inner.A.float() * LOG2E).T.contiguous()
        self.skip, self.dt_bias = inner.D.float().contiguous(), inner.dt_bias.float().contiguous()
        self.zeros = kept_memory.zeros(self.D)
        group = 16 if self.width == 16 and self.N % 16 == 0 else self.width // 2
        self.groups = self.N // group
        self.conv = conv_kernel(make_conv, self.width, True)
        self.scan = forward_kernel(self.width, group, True, True)
        self.pieces = shares(self.D // self.width, -(-workers() // self.E))
        self.scratch = kept_memory.empty(self.E * len(self.pieces), scratch_floats(self.width, self.N))
        self.tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def advance(self, xz: Tensor, first: int, n: int, history: int) -> Tensor:
        """One tile, rows `first` ... `first + n - 1` of xz, next to `history` rows that were read before it.

        Returns `(n, E D)`: the gated outputs of all faces; overwritten by the next call.
        """
        if n not in self.tables:
            self.tables[n] = self._make_tables(n, xz.stride(0) * FLOAT)
        conv, scan = self.tables[n]
        row = address(xz, first + n - 1 if self.reverse else first)
        conv_tasks, scan_tasks = task_arguments(conv), task_arguments(scan)
        conv_tasks[:, 0] = row + conv_tasks[:, -1]  # u
        conv_tasks[:, 9] = history
        scan_tasks[:, 6] = row + scan_tasks[:, -1]  # z
        run_table(self.conv, conv)
        multiply(self.u[:n].flatten(0, 1), self.x_proj, self.projected[:n].flatten(0, 1))
        steps = self.projected[:n].flatten(0, 1)[:, : self.rank]
        multiply(steps, self.dt_proj, self.delta[:n].flatten(0, 1))
        run_table(self.scan, scan)
        return self.y[:n].flatten(1)

    def _make_tables(self, n: int, wide: int) -> tuple[np.ndarray, np.ndarray]:
        """Arguments of both kernels for n tokens; they ignore the last, the column of u or z in bytes."""
        sign = -1 if self.reverse else 1
        row = n - 1 if self.reverse else 0  # the first token to be read
        rows, wide = self.E * self.D * FLOAT * sign, wide * sign
        narrow, D = self.projected.stride(0) * FLOAT * sign, self.D * FLOAT
        conv, scan = [], []
        for e in range(self.E):
            for i, (first, end) in enumerate(self.pieces):
                c = first * self.width
                conv.append((
                    0, wide, address(self.u, row, e, c), rows,
                    address(self.taps, 0, c), D, address(self.tap_bias, c), address(self.zeros),
                    self.most + 1, 0, n, end - first, (2 * e * self.D + c) * FLOAT,
                ))  # fmt: skip
                scan.append((
                    address(self.u, row, e, c), rows, FLOAT, address(self.delta, row, e, c), rows, FLOAT,
                    0, wide, FLOAT, address(self.projected, row, e, self.rank), narrow, FLOAT,
                    address(self.projected, row, e, self.rank + self.N), narrow, FLOAT,
                    address(self.rates, 0, c), address(self.skip, c), address(self.dt_bias, c), D,
                    address(self.y, row, e, c), rows, address(self.state, e, 0, c), 0, 0,
                    address(self.scratch, e * len(self.pieces) + i), n, self.groups, end - first,
                    ((2 * e + 1) * self.D + c) * FLOAT,
                ))  # fmt: skip
        return make_table(conv), make_table(scan)
