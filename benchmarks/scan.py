"""The selective scan beside its peers: speed, accuracy, memory; on this machine, in this process.

    python benchmarks/scan.py [--threads 1] [--sizes 4096x256 32768x64] [--write docs/benchmarks.md]

Peers: the loop of the paper (`mambamed.ssm.reference`, the formulation of mamba-ssm's own reference with the
sequence unbound once, which makes it linear in L for training), the parallel scan of mambapy, and the
ceiling of the machine: how many exponentials a core computes when it does nothing else. A scan needs L D N
of them.

Answers are compared before anything is timed. Ours and theirs are timed in turns, so that whatever else the
machine does falls on both; a ratio is the median over the turns, a time the best of them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mambamed.ssm import Mamba, chosen_backend, kept_memory, selective_scan
from mambamed.ssm.reference import selective_scan_loop

STATES = 16
MARK = "<!-- scan: written by benchmarks/scan.py -->", "<!-- scan: end -->"


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_turns(ours: Callable, theirs: Callable, turns: int) -> tuple[float, float, float]:
    """(seconds of ours, seconds of theirs, theirs / ours)."""
    ours()
    pairs = []
    for _ in range(turns):
        other = seconds(theirs)
        pairs.append((min(seconds(ours) for _ in range(5)), other))
    ratio = statistics.median(b / a for a, b in pairs)
    return min(a for a, _ in pairs), min(b for _, b in pairs), ratio


def peak_mib(function: Callable[[], object]) -> float:
    """Memory that `function` takes beyond what the process held before it (Linux; nan elsewhere).

    What earlier calls left in the backend's kept memory, and in the C library's, is given back first.
    """
    kept_memory.release()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")

    def field(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1])

    before = field("VmRSS")
    function()
    return (field("VmHWM") - before) / 1024


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()).item()


def inputs_of(length: int, channels: int) -> list[Tensor]:
    torch.manual_seed(0)

    def sequence(columns: int) -> Tensor:
        return torch.randn(1, length, columns).transpose(1, 2)

    A = -torch.arange(1.0, STATES + 1).repeat(channels, 1)
    given = [sequence(channels), sequence(channels) - 3, A, sequence(STATES), sequence(STATES)]
    return [*given, torch.randn(channels), sequence(channels), torch.randn(channels)]


def mambapy_scan(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """mambapy's MambaBlock.selective_scan, on the same inputs."""
    from mambapy.pscan import pscan

    step = torch.nn.functional.softplus(delta + delta_bias[:, None]).transpose(1, 2)
    x = u.transpose(1, 2)
    decay = torch.exp(step.unsqueeze(-1) * A)
    states = pscan(decay, step.unsqueeze(-1) * B.transpose(1, 2).unsqueeze(2) * x.unsqueeze(-1))
    y = (states @ C.transpose(1, 2).unsqueeze(-1)).squeeze(3) + D * x
    return (y * torch.nn.functional.silu(z.transpose(1, 2))).transpose(1, 2)


def ours(*inputs: Tensor) -> Tensor:
    return selective_scan(*inputs, delta_softplus=True)


def chunked(*inputs: Tensor) -> Tensor:
    return selective_scan(*inputs, delta_softplus=True, backend="chunked")


def loop(*inputs: Tensor) -> Tensor:
    return selective_scan_loop(*inputs, delta_softplus=True)


def without_gradients(function: Callable, inputs: list[Tensor]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return function(*inputs)

    return call


def training_step(function: Callable, inputs: list[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    grad = torch.ones_like(inputs[0])
    return lambda: torch.autograd.grad(function(*leaves), leaves, grad)


def exponentials() -> tuple[Callable[[], object], int]:
    """The exp2 of the kernels on one core and nothing else: a function, and how many a call computes."""
    from numba import njit, types

    from mambamed.ssm.lanes import store_rows
    from mambamed.ssm.simd import Lanes, emitter, exp2, host_width

    width, abreast = host_width(), 12

    @emitter(lambda address, w, n: types.UniTuple(Lanes(w.literal_value), n.literal_value))
    def load(address, w, n):
        return [address.at(4 * w * i).load(w) for i in range(n)]

    @emitter(lambda rows: rows)
    def step(rows):
        return exp2([row * 0.5 for row in rows])

    @njit
    def kernel(address, count):
        rows = load(address, width, abreast)
        for _ in range(count):
            rows = step(rows)
        store_rows(address, 4 * width, rows)

    numbers = np.full(width * abreast, -0.3, np.float32)
    kernel(numbers.ctypes.data, 10)
    count = 200_000
    return lambda: kernel(numbers.ctypes.data, count), count * numbers.size


def bytes_per_second() -> float:
    source = np.ones(1 << 25, np.float32)
    target = np.empty_like(source)
    np.copyto(target, source)
    return 2 * source.nbytes / min(seconds(lambda: np.copyto(target, source)) for _ in range(5))


def scans(sizes: list[tuple[int, int]], turns: int, mambapy_limit: int) -> list[str]:
    """One row a size: forward, and forward with backward."""
    only_exponentials, many = exponentials()
    ceiling = many / min(seconds(only_exponentials) for _ in range(9))
    columns = [
        "L x D, N = 16", "error", "forward ms", "of exp ceiling", "loop / ours", "mambapy / ours",
        "loop / chunked",
        "backward / forward", "training: loop / ours", "mambapy / ours", "extra MiB: ours", "mambapy",
    ]  # fmt: skip
    rows = [
        f"Ceilings of one core here: {ceiling / 1e9:.1f} G exp2/s, "
        f"{bytes_per_second() / 1e9:.0f} GB/s copied.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    threads = torch.get_num_threads()
    for length, channels in sizes:
        inputs = inputs_of(length, channels)
        mine, reference = without_gradients(ours, inputs), without_gradients(loop, inputs)
        head = [t[..., :2000].double() if t.ndim == 3 else t.double() for t in inputs]
        error = relative_error(mine()[..., :2000], loop(*head))
        assert error < 1e-5, f"{length}x{channels}: answers differ by {error:.1e}"
        best, _, by_loop = in_turns(mine, reference, turns)
        pairs = [(seconds(mine), seconds(only_exponentials)) for _ in range(30)]
        best, alone = (min(column) for column in zip((best, 1e9), *pairs, strict=True))
        share = length * channels * STATES / best / (many / alone * threads)
        small = length * channels <= mambapy_limit
        _, _, of_chunked = in_turns(without_gradients(chunked, inputs), reference, 1)
        train = training_step(ours, inputs)
        memory = peak_mib(train)
        step_best = min(seconds(train) for _ in range(7))
        cells = ["", "", "", ""]
        if small:
            peer = without_gradients(mambapy_scan, inputs)
            assert relative_error(mine(), peer()) < 1e-4
            cells[0] = f"{in_turns(mine, peer, turns)[2]:.0f}"
            peer_train = training_step(mambapy_scan, inputs)
            cells[3] = f"{peak_mib(peer_train):.0f}"
            cells[2] = f"{in_turns(train, peer_train, turns)[2]:.0f}"
            cells[1] = f"{in_turns(train, training_step(loop, inputs), 1)[2]:.0f}"
        tensors = memory * 2**18 / (length * channels)
        figures = [
            f"{length} x {channels}", f"{error:.0e}", f"{best * 1e3:.2f}", f"{share:.0%}", f"{by_loop:.0f}",
            cells[0],
            f"{of_chunked:.1f}", f"{step_best / best - 1:.1f}", cells[1], cells[2],
            f"{memory:.0f} ({tensors:.1f} tensors of L x D)", cells[3],
        ]  # fmt: skip
        rows.append(f"| {' | '.join(figures)} |")
        print(rows[-1], flush=True)
    return rows


def block(length: int, d_model: int) -> list[str]:
    """The whole Mamba block in inference: streamed, and as its formula with the loop."""
    torch.manual_seed(0)
    model, x = Mamba(d_model), torch.randn(1, length, d_model)

    def formula() -> Tensor:
        u, z = model.in_proj(x).transpose(1, 2).chunk(2, 1)
        u = torch.nn.functional.silu(model.conv1d(u)[..., :length])
        step, B, C = model.x_proj(u.transpose(1, 2)).split([model.dt_rank, STATES, STATES], 2)
        delta = (step @ model.dt_proj.weight.T).transpose(1, 2)
        B, C, A = B.transpose(1, 2), C.transpose(1, 2), -model.A_log.exp()
        out = selective_scan_loop(u, delta, A, B, C, model.D, z, model.dt_proj.bias, True)
        return model.out_proj(out.transpose(1, 2))

    with torch.no_grad():
        error = relative_error(model(x), formula())
        assert error < 1e-4, error
        memory, theirs = peak_mib(lambda: model(x)), peak_mib(formula)
        best, other, ratio = in_turns(lambda: model(x), formula, 2)
        four = min(seconds(lambda: model.readings(x)) for _ in range(3))
    return [
        f"Mamba block, L {length}, d_model {d_model}, inference: {best * 1e3:.0f} ms streamed, "
        f"{other * 1e3:.0f} ms as its formula with the loop and torch's conv1d (**{ratio:.0f}x**); extra "
        f"memory {memory:.0f} and {theirs:.0f} MiB; error {error:.0e}. The four readings of MICCSS: "
        f"{four * 1e3:.0f} ms."
    ]


def two_threads(length: int, channels: int) -> list[str]:
    inputs = inputs_of(length, channels)
    mine, before = without_gradients(ours, inputs), torch.get_num_threads()

    def on(threads: int) -> float:
        torch.set_num_threads(threads)
        mine()
        return min(seconds(mine) for _ in range(9))

    ratios = [on(1) / on(2) for _ in range(5)]
    torch.set_num_threads(before)
    middle, best = statistics.median(ratios), max(ratios)
    return [f"Two threads against one, {length} x {channels}: {middle:.2f}x (best {best:.2f}x)."]


def write_section(file: Path, lines: list[str]) -> None:
    """Replace this benchmark's part of the file, between its marks."""
    text = file.read_text() if file.exists() else "# Benchmarks\n"
    section = "\n".join([MARK[0], *lines, MARK[1]])
    start, end = text.find(MARK[0]), text.find(MARK[1])
    if start >= 0 and end >= 0:
        text = text[:start] + section + text[end + len(MARK[1]) :]
    else:
        text = text.rstrip("\n") + "\n\n" + section + "\n"
    file.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--sizes", nargs="+", default=["4096x256", "4096x512", "32768x64", "262144x64", "1000000x32"]
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--mambapy-limit", type=int, default=1 << 21, help="largest L D that mambapy gets to do"
    )
    parser.add_argument("--block", default="262144x32", help="L x d_model of the block")
    parser.add_argument(
        "--write", type=Path, help="Markdown file whose section of this benchmark is replaced"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    def pair(text: str) -> tuple[int, int]:
        a, b = text.split("x")
        return int(a), int(b)

    name, why = chosen_backend("cpu")
    model = next(
        (line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")), ""
    )
    lines = [
        "## The scan",
        "",
        f"`python benchmarks/scan.py --threads {options.threads}` on {model or 'this machine'}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"torch {torch.__version__}, backend `{name}` ({why}).",
        "",
        *scans([pair(s) for s in options.sizes], options.turns, options.mambapy_limit),
        "",
        *block(*pair(options.block)),
        "",
        *two_threads(32768, 64),
    ]
    print("\n".join(lines))
    if options.write:
        write_section(options.write, lines)


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    main()
