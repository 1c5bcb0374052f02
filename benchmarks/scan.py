"""The selective scan beside its peers: speed, accuracy, memory; on this machine, in this process.

    python benchmarks/scan.py [--threads 1] [--sizes 4096x256 32768x64] [--write docs/benchmarks.md]

Peers: the loop of mamba-ssm's reference, which is what its users have without CUDA; the lean loop, our own
definition (`mambamed.ssm.reference`), which is faster and, unlike theirs, linear in L for training; the
parallel scan of mambapy; and the ceiling of the machine: how many exponentials a core computes when it does
nothing else. A scan needs L D N of them.

Answers are compared before anything is timed. Ours and theirs are timed in turns, so that whatever else the
machine does falls on both; a time is the best over the turns, a ratio that of the best times. On one thread
times are the processor's, as other processes' work is none of ours; on several they are the clock's.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sections import replace_section
from upstream import block_formula, lean_loop, mambapy_scan, reference_scan, upstream_network

from mambamed.networks.nnmamba import NnMamba
from mambamed.ssm import Mamba, chosen_backend, kept_memory, selective_scan

STATES = 16


def seconds(function: Callable[[], object]) -> float:
    """Time of one call: the processor's on one thread (other processes do not count), else the clock's."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    function()
    return clock() - start


def wall_seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def best_of(function: Callable[[], object], span: float) -> float:
    """The best time of some `span` seconds of calls, of one if it takes longer."""
    best = seconds(function)
    return min([best, *(seconds(function) for _ in range(int(span / best)))])


def in_turns(ours: Callable, theirs: Callable, turns: int) -> tuple[float, float, float]:
    """(seconds of ours, seconds of theirs, theirs / ours)."""
    ours()
    pairs = [(best_of(theirs, 0.5), best_of(ours, 0.2)) for _ in range(turns)]
    other, mine = (min(column) for column in zip(*pairs, strict=True))
    return mine, other, other / mine


def peak_mib(function: Callable[[], object]) -> float:
    """Memory that `function` takes beyond what the process held before it (Linux; nan elsewhere).

    What earlier calls left in the backend's kept memory, and in the C library's, is given back first.
    """
    kept_memory._free.clear()
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


def ours(*inputs: Tensor) -> Tensor:
    return selective_scan(*inputs, delta_softplus=True)


def chunked(*inputs: Tensor) -> Tensor:
    return selective_scan(*inputs, delta_softplus=True, backend="chunked")


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
        "L x D, N = 16", "error", "forward ms", "of exp ceiling", "loop / ours", "lean loop / ours",
        "mambapy / ours", "loop / chunked", "lean loop / chunked",
        "backward / forward", "channel-major / ours", "in training",
        "training: lean loop / ours", "mambapy / ours", "extra MiB: ours", "mambapy",
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
        mine = without_gradients(ours, inputs)
        head = [t[..., :2000].double() if t.ndim == 3 else t.double() for t in inputs]
        error = relative_error(mine()[..., :2000], reference_scan(*head))
        assert error < 1e-5, f"{length}x{channels}: answers differ by {error:.1e}"
        best, lean_best, by_lean = in_turns(mine, without_gradients(lean_loop, inputs), turns)
        again, loop_best, by_loop = in_turns(mine, without_gradients(reference_scan, inputs), turns)
        pairs = [(seconds(mine), seconds(only_exponentials)) for _ in range(30)]
        best, alone = (min(column) for column in zip((min(best, again), 1e9), *pairs, strict=True))
        share = length * channels * STATES / best / (many / alone * threads)
        major = [t.contiguous() if t.ndim == 3 else t for t in inputs]  # mamba_ssm's layout
        by_major = in_turns(mine, without_gradients(ours, major), turns)[2]
        small = length * channels <= mambapy_limit
        in_torch = best_of(without_gradients(chunked, inputs), 1.0)
        train = training_step(ours, inputs)
        memory = peak_mib(train)
        step_best, _, by_major_step = in_turns(train, training_step(ours, major), turns)
        cells = ["", "", "", ""]
        if small:
            peer = without_gradients(mambapy_scan, inputs)
            assert relative_error(mine(), peer()) < 1e-4
            cells[0] = f"{in_turns(mine, peer, turns)[2]:.0f}"
            peer_train = training_step(mambapy_scan, inputs)
            cells[3] = f"{peak_mib(peer_train):.0f}"
            cells[2] = f"{in_turns(train, peer_train, turns)[2]:.0f}"
            cells[1] = f"{in_turns(train, training_step(lean_loop, inputs), 2)[2]:.0f}"
        tensors = memory * 2**18 / (length * channels)
        figures = [
            f"{length} x {channels}", f"{error:.0e}", f"{best * 1e3:.2f}", f"{share:.0%}", f"{by_loop:.0f}",
            f"{by_lean:.0f}", cells[0], f"{loop_best / in_torch:.1f}", f"{lean_best / in_torch:.1f}",
            f"{step_best / best - 1:.1f}", f"{by_major:.2f}", f"{by_major_step:.2f}", cells[1], cells[2],
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
        return block_formula(model, x)

    with torch.no_grad():
        error = relative_error(model(x), formula())
        assert error < 1e-4, error
        memory, theirs = peak_mib(lambda: model(x)), peak_mib(formula)
        best, other, ratio = in_turns(lambda: model(x), formula, 2)
        four = min(seconds(lambda: model.readings(x)) for _ in range(3))
    return [
        f"Mamba block, L {length}, d_model {d_model}, inference: {best * 1e3:.0f} ms streamed, "
        f"{other * 1e3:.0f} ms as its formula with the loop and torch's conv1d (**{ratio:.0f}x**); extra "
        f"memory {memory:.0f} and {theirs:.0f} MiB; error {error:.0e}. The four scans of MICCSS: "
        f"{four * 1e3:.0f} ms."
    ]


def two_threads(sizes: list[tuple[int, int]]) -> list[str]:
    """Ours on two threads against one, and against loop and mambapy when all have two."""
    lines, before = [], torch.get_num_threads()
    for length, channels in sizes:
        inputs = inputs_of(length, channels)
        mine = without_gradients(ours, inputs)
        peers = [without_gradients(scan, inputs) for scan in (reference_scan, mambapy_scan)]
        best = {1: float("inf"), 2: float("inf")}
        for _ in range(5):
            for threads in best:
                torch.set_num_threads(threads)
                mine()
                best[threads] = min(best[threads], *(wall_seconds(mine) for _ in range(15)))
        torch.set_num_threads(2)
        by_loop, by_mambapy = (in_turns(mine, peer, 3)[2] for peer in peers)
        torch.set_num_threads(before)
        lines.append(
            f"Two threads, {length} x {channels}: {best[2] * 1e3:.2f} ms, {best[1] / best[2]:.2f}x one "
            f"thread; all on two threads: loop / ours {by_loop:.0f}, mambapy / ours {by_mambapy:.0f}."
        )
        print(lines[-1], flush=True)
    return lines


def network(size: int, turns: int) -> list[str]:
    """nnMamba whole: ours, and as the public code computes it, on the same weights."""
    torch.manual_seed(0)
    net = NnMamba(4, 4).eval()
    peers = {"loop": upstream_network(net), "mambapy": upstream_network(net, mambapy_scan)}
    x = torch.randn(1, 4, size, size, size)
    net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    last = x.to(memory_format=torch.channels_last_3d)

    def forward(net: torch.nn.Module, volume: Tensor, half: bool) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                return net(volume)

        return call

    lines = [
        f"nnMamba, 4 x {size}^3, inference, {torch.get_num_threads()} thread(s). Ours: channels last in "
        "memory, streamed blocks, no flip carried out. The public code's way, on the same weights: "
        "contiguous NCDHW, every flip of MICCSS carried out on the tokens, torch's conv1d, and the scan as "
        "mamba_ssm's reference loop or as mambapy's, which is what it comes to on a CPU.",
        "",
        "| | ours, s | error | loop, s | loop / ours | mambapy, s | mambapy / ours |",
        "|---" * 7 + "|",
    ]
    exact = forward(peers["loop"], x, False)()
    theirs: dict[str, float] = {}
    for precision in ("fp32", "bf16"):
        half = precision == "bf16"
        mine = forward(net, last, half)
        error = relative_error(mine(), exact)
        assert error < (5e-2 if half else 1e-4), error
        cells, fastest = [], float("inf")
        for name, peer in peers.items():
            best, other, ratio = in_turns(mine, forward(peer, x, half), turns)
            fastest = min(fastest, best)
            theirs.setdefault(name, other)
            cells += [f"{other:.1f}", f"{ratio:.1f}"]
        lines.append(f"| {' | '.join([f'{precision}, both', f'{fastest:.2f}', f'{error:.0e}', *cells])} |")
        if half:
            cells = [cell for time in theirs.values() for cell in (f"{time:.1f}", f"{time / fastest:.1f}")]
            row = ["bf16 against their fp32", f"{fastest:.2f}", f"{error:.0e}", *cells]
            lines.append(f"| {' | '.join(row)} |")
    print("\n".join(lines), flush=True)
    return lines


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
    parser.add_argument("--network", type=int, default=128, help="edge of the volume that nnMamba reads")
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
        *two_threads([(4096, 256), (32768, 64)]),
        "",
        *network(options.network, max(1, options.turns - 1)),
    ]
    print("\n".join(lines))
    if options.write:
        replace_section(options.write, "scan", "scan.py", lines)


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    main()
