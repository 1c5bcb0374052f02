"""A Triton kernel that measures how many exponentials per second a device computes."""

import triton
import triton.language as tl


@triton.jit
def exp2_chains(x, turns, BLOCK: tl.constexpr):
    """Four chains of exponentials per number of `x`, in registers."""
    at = x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(at)
    b, c, d = a + 0.1, a + 0.2, a + 0.3
    for _ in range(turns):
        a, b, c, d = tl.exp2(-a), tl.exp2(-b), tl.exp2(-c), tl.exp2(-d)
    tl.store(at, a + b + c + d)
