"""A selective scan in ONNX Runtime, in several forms, against mambamed's.

    python benchmarks/onnx_scans.py [--sizes 32768x64 4096x256 512x512]

Prints a row per size, L tokens x D channels with N = 16 states: the CPU time on one thread of mambamed's
compiled scan, and of ONNX Runtime with `Scan` of several tokens per step (what `export` writes), `Scan` of
one token per step, and chunks without `Scan`: all chunks of a sequence are run from a state of zero at once,
and then corrected by the state before each one, which is found in the same way. The smallest of several
repetitions counts. All outputs are compared with mambamed's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.onnx_export import seconds_of
from mambamed.programs import onnx_file
from mambamed.programs.tracing import traced
from mambamed.ssm import onnx_scan, selective_scan

_STATES, _CHUNK, _REPETITIONS = 16, 16, 5


class Scan(nn.Module):
    """A scan whose arguments are made of the image, `(B, D, L, 1, 1)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.A = nn.Parameter(-torch.rand(channels, _STATES, generator=random), requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        """`(B, D, L)`."""
        u = image.flatten(2)
        return self.scan(u, u - 1, u[:, :_STATES], u[:, -_STATES:])

    def scan(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
        """As `export` writes it."""
        return selective_scan(u, delta, self.A, B, C, delta_softplus=True)


class Chunks(Scan):
    """The same without a loop of ONNX."""

    def scan(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
        """See the text above."""
        dt, x, Bs, Cs = (t.permute(2, 0, 1) for t in (functional.softplus(delta), u, B, C))
        decay = torch.exp(dt.unsqueeze(2) * self.A.T)  # (L, B, N, D)
        push = (dt * x).unsqueeze(2) * Bs.unsqueeze(3)
        y = torch.matmul(Cs.unsqueeze(2), _states(decay, push)).squeeze(2)
        return y.permute(1, 2, 0)


def _states(decay: Tensor, push: Tensor) -> Tensor:
    """h_l = decay_l h_(l-1) + push_l, for all l."""
    length, size = decay.shape[0], min(_CHUNK, decay.shape[0])
    steps = -(-length // size)
    cut = [
        functional.pad(t, (0, 0) * (t.ndim - 1) + (0, steps * size - length)).unflatten(0, (steps, size))
        for t in (decay, push)
    ]
    factors, pushes = (t.unbind(1) for t in cut)
    states, products = [pushes[0]], [factors[0]]
    for factor, added in zip(factors[1:], pushes[1:], strict=True):
        states.append(factor * states[-1] + added)
        products.append(factor * products[-1])
    h = torch.stack(states, 1)
    if steps > 1:
        ends = _states(products[-1], states[-1])
        before = torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])
        h = h + torch.stack(products, 1) * before.unsqueeze(1)
    return h.flatten(0, 1)[:length]


def row(length: int, channels: int, folder: Path) -> str:
    """One size."""
    image = torch.randn(1, channels, length, 1, 1, generator=torch.Generator().manual_seed(1))
    ours, feed, sessions = Scan(channels), {"image": image.numpy()}, []
    with torch.inference_mode():
        expected = ours(image).numpy()  # before the exports, which need the choice of a backend
    one_token = mock.patch.object(onnx_scan, "tokens_per_step", lambda length, states: 1)
    for name, module, patch in (
        ("several", ours, None),
        ("one", ours, one_token),
        ("chunks", Chunks(channels), None),
    ):
        path = folder / f"{name}.onnx"
        with patch or mock.MagicMock():
            onnx_file.write_onnx(traced(module, channels, (length, 1, 1)), path)
        options = onnx_file.session_options()
        sessions.append(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    with torch.inference_mode():
        for session in sessions:
            difference = np.abs(session.run(None, feed)[0] - expected).max() / np.ptp(expected)
            assert difference < 1e-4, difference
        work = [lambda: ours(image), *(lambda s=s: s.run(None, feed) for s in sessions)]
        times = [[seconds_of(each) for each in work] for _ in range(_REPETITIONS + 1)][1:]
    mambamed, *others = (min(each) * 1e3 for each in zip(*times, strict=True))
    shown = [f"{each:.1f} ({each / mambamed:.1f})" for each in others]
    return f"| {length} x {channels} | {mambamed:.1f} | {' | '.join(shown)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["32768x64", "4096x256", "512x512"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| tokens x channels | mambamed, ms | `Scan`, ms (ratio) | one token per step | chunks |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in asked.sizes:
            length, channels = map(int, size.split("x"))
            print(row(length, channels, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
