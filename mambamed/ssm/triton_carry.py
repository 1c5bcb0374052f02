"""The Triton kernel between the passes over chunks: the state that arrives at each of them."""

from __future__ import annotations

import triton
import triton.language as tl

from mambamed.ssm.triton_tokens import COUNTS

CHUNKS = 128  # per step of a program
COLUMNS = 16  # states of a program: 64 bytes per chunk


@triton.jit
def chained(decay, state, next_decay, next_state):
    """Two chunks, one after the other, as one."""
    return decay * next_decay, state * next_decay + next_state


@triton.jit(do_not_specialize=COUNTS)
def carry(
    states, sums, A2, D, N: tl.constexpr, K, columns, batch, reverse,
    COLUMNS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """In place: the contribution of a chunk, `states (S, B, K, N, D)`, becomes the state that arrives at it.

    Side 0 runs from the first chunk to the last, or with `reverse` from the last to the first; side 1 the
    other way. CHUNKS chunks at a time, by an associative scan in log2(CHUNKS) steps: the depth is
    K / CHUNKS log2(CHUNKS) instead of K.
    """
    index = tl.program_id(0).to(tl.int64)
    row = index // columns
    side = row // batch
    turned = (reverse + side) % 2
    column = (index % columns) * COLUMNS + tl.arange(0, COLUMNS).to(tl.int64)
    there = column < N * D
    until = tl.where(there, K, 0)
    decay_rate = tl.load(A2 + side * N * D + column, mask=there, other=0.0)
    states += row * K * N * D + column
    sums += row * K * D + column % D
    number = tl.arange(0, CHUNKS)
    h = tl.zeros([COLUMNS], tl.float32)
    for first in range(0, K, CHUNKS):
        at = first + number
        chunk = tl.where(turned > 0, K - 1 - at, at).to(tl.int64)
        following = tl.where(turned > 0, chunk - 1, chunk + 1)
        here = at[:, None] < until[None, :]
        added = tl.load(states[None, :] + chunk[:, None] * N * D, mask=here, other=0.0)
        decays = tl.exp2(
            tl.load(sums[None, :] + chunk[:, None] * D, mask=here, other=0.0) * decay_rate[None, :]
        )
        tl.debug_barrier()  # until all threads have loaded what is replaced
        decays, added = tl.associative_scan((decays, added), 0, chained)
        after = decays * h[None, :] + added
        begin = tl.where(turned > 0, K - 1 - first, first)
        tl.store(states + begin * N * D, h, mask=first < until)
        stored = tl.minimum(until - first, CHUNKS) - 1  # the last state is stored in the next turn
        place = states[None, :] + following[:, None] * N * D
        tl.store(place, after, mask=number[:, None] < stored[None, :])
        h = tl.sum(tl.where(number[:, None] == CHUNKS - 1, after, 0.0), axis=0)
