"""The scan and its chain rule once more, in float64 and linear time: a judge of long sequences.

Written from the formulas at the top of `mambamed.ssm.reference` and sharing no line with it, nor with torch:
one channel at a time, in numpy and numba.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy.special import expit
from torch import Tensor

from tests.ssm.scan_inputs import NAMES


@numba.njit
def _channel(u, dt, A, B, C, dy, y, du, ddt, dA, dB, dC):
    """One channel of one batch entry: `(L,)`, A and dA `(N,)`, else `(L, N)`; dA, dB, dC are added to."""
    length, states = B.shape
    h, decay = np.zeros((length + 1, states)), np.empty((length, states))
    for t in range(length):
        for n in range(states):
            decay[t, n] = np.exp(dt[t] * A[n])
            h[t + 1, n] = decay[t, n] * h[t, n] + dt[t] * u[t] * B[t, n]
            y[t] += C[t, n] * h[t + 1, n]
    later = np.zeros(states)  # what token t + 1 sends back to h_t
    for t in range(length - 1, -1, -1):
        for n in range(states):
            g = dy[t] * C[t, n] + later[n]
            dC[t, n] += dy[t] * h[t + 1, n]
            dB[t, n] += g * dt[t] * u[t]
            du[t] += g * dt[t] * B[t, n]
            later[n] = g * decay[t, n]
            ddt[t] += g * u[t] * B[t, n] + later[n] * A[n] * h[t, n]
            dA[n] += later[n] * dt[t] * h[t, n]


def exact_scan(inputs: list[Tensor | None], grad: Tensor) -> dict[str, np.ndarray]:
    """`out` and the gradients by name (for `grad` as that of `out`) of a scan with softplus.

    `inputs` as `scan_inputs` gives them, sequences `(B, D or N, L)`; the same shapes come back.
    """
    u, delta, A, B, C, D, z, bias = (None if t is None else t.detach().double().numpy() for t in inputs)
    raw = delta if bias is None else delta + bias[:, None]
    dt, given = np.logaddexp(0, raw), grad.double().numpy()
    opening = 1 if z is None else expit(z)
    gate = 1 if z is None else z * opening
    dy = given * gate
    y, du, ddt = (np.zeros_like(u) for _ in range(3))
    dA, dB, dC = (np.zeros(x.shape) for x in (A, B.swapaxes(1, 2), C.swapaxes(1, 2)))
    for b in range(u.shape[0]):
        B_b, C_b = np.ascontiguousarray(B[b].T), np.ascontiguousarray(C[b].T)
        for d in range(u.shape[1]):
            rows = (np.ascontiguousarray(x[b, d]) for x in (u, dt))
            outputs = (x[b, d] for x in (y, du, ddt))
            _channel(*rows, A[d], B_b, C_b, np.ascontiguousarray(dy[b, d]), *outputs, dA[d], dB[b], dC[b])
    skip = 0 if D is None else D[:, None] * u
    ddelta = ddt * expit(raw)
    answers = {
        "u": du if D is None else du + D[:, None] * dy,
        "delta": ddelta, "A": dA, "B": dB.swapaxes(1, 2), "C": dC.swapaxes(1, 2),
        "D": (dy * u).sum((0, 2)),
        "z": None if z is None else given * (y + skip) * opening * (1 + z * (1 - opening)),
        "delta_bias": ddelta.sum((0, 2)),
    }  # fmt: skip
    asked = {name: answers[name] for name, t in zip(NAMES, inputs, strict=True) if t is not None}
    return {"out": (y + skip) * gate, **asked}
