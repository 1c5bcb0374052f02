"""The tasks `agree`, `peer`, `speed`, `captured`, `tune` and `block` of `gpu_check.py`: scans on a device."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from exact_scan import exact_scan
from gpu_check import DEVICE_IS_LOST
from gpu_device import Here, kernels_of, usable_backends
from scan_inputs import NAMES, relative_error, scan_inputs
from torch.nn import functional

from mambamed.run.device import autocast
from mambamed.ssm import BidirectionalMamba, Mamba, chunked, fused, selective_scan
from mambamed.ssm.conv import causal_conv
from mambamed.ssm.scan import why_unavailable

# Batch, channels, length, states, kind, reverse. Each kind of numbers, state size and direction takes about
# ten seconds of compiling.
AGREE = [
    (2, 96, 4096, 16, "block", False),
    (2, 96, 4096, 16, "block", True),
    (2, 40, 77, 16, "fp32", True),
    (1, 16, 262144, 16, "fp32", False),
    (1, 16, 1048576, 16, "block", True),
    (2, 64, 4096, 64, "block", False),
    (1, 32, 2048, 256, "block", False),
    (2, 64, 4096, 16, "fp16", False),
]
AGREE_SMALL = [(2, 5, 37, 16, "fp32", False), (1, 4, 20, 8, "block", True), (1, 3, 16, 16, "bf16", False)]
# Largest relative error of the output and of a gradient.
TOLERANCE = {"fp32": (1e-5, 1e-4), "bf16": (1e-2, 2e-2), "fp16": (2e-3, 4e-3), "block": (1e-2, 2e-2)}

# Batch, channels, length, states of nnMamba, SegMamba, a long narrow scan, Mamba U-Net (three) and a language
# model.
SPEED = [
    (2, 128, 32768, 16),
    (2, 96, 262144, 16),
    (1, 64, 262144, 16),
    (2, 64, 2097152, 32),
    (2, 128, 262144, 64),
    (2, 512, 4096, 256),
    (8, 2048, 2048, 16),
]
SPEED_SMALL = [(1, 16, 512, 16)]
# nnMamba's finest scan, and shorter ones, which take the time of their launches.
CAPTURED = [(2, 128, 32768, 16), (2, 256, 4096, 16), (2, 512, 512, 16)]
CAPTURED_SMALL = [(1, 16, 300, 16)]
CHUNKED_AT_MOST = 2**27  # numbers of the state; with more, `chunked` and mambapy take too long


def peer(here: Here, number: str) -> None:
    """Compare mamba_ssm's kernels, our backend `cuda`, with float64; its atomic sums may change the bits."""
    reason = why_unavailable("cuda")
    if reason is None:
        agree(here, number, only="cuda")
    else:
        here.row(backend="cuda", ok=None, note=reason)


def agree(here: Here, number: str, only: str = "") -> None:
    """Compare all backends at one shape with a float64 scan on the CPU."""
    batch, channels, length, states, kind, reverse = (AGREE_SMALL if here.small else AGREE)[int(number)]
    inputs: list[Any] = [*scan_inputs(batch, channels, length, states)]
    if length > 100_000:  # small steps, as in an untrained Mamba, so that states reach far
        inputs[1] = inputs[1] - 3
    inputs = as_kind(inputs, kind)
    grad = torch.randn(batch, length, channels, generator=torch.Generator().manual_seed(7)).transpose(1, 2)
    grad = grad.to(inputs[0].dtype)
    turned = [t.flip(2) if reverse and t is not None and t.ndim == 3 else t for t in inputs]
    wanted = exact_scan(turned, grad.flip(2) if reverse else grad)
    if reverse:
        wanted = {k: v[..., ::-1] if v is not None and v.ndim == 3 else v for k, v in wanted.items()}
    allowed = TOLERANCE[kind]
    for backend in [only] if only else usable_backends(here):
        if backend == "chunked" and length > 300_000:
            continue  # too many launches
        answers = [scan_with_gradients(here, inputs, grad, reverse, backend) for _ in range(2)]
        errors = {}
        for name in ("out", *NAMES):
            truth = wanted[name]
            assert truth is not None  # all inputs are given
            off = np.abs(answers[0][name].double().cpu().numpy() - truth).max()
            errors[name] = float(off / max(np.abs(truth).max(), 1e-30))
        worst = max((v, k) for k, v in errors.items() if k != "out")
        same = all(torch.equal(answers[0][k], answers[1][k]) for k in answers[0])
        good = errors["out"] <= allowed[0] and worst[0] <= allowed[1]
        here.row(
            shape=f"{batch}x{channels}x{length}x{states}", kind=kind, reverse=reverse, backend=backend,
            out=errors["out"], worst_gradient=f"{worst[1]} {worst[0]:.1e}", errors=errors, same_bits=same,
            ok=bool(good), **({} if good else {"fault": f"{backend}: error beyond {allowed}"}),
        )  # fmt: skip
        here.free()


def fused_agrees(here: Here, states: str) -> None:
    """Compare both directions of a block by the fused kernels with the separate operations, in float64."""
    reason = why_unavailable("triton")
    if reason is not None:
        here.row(backend="fused block", ok=None, note=reason)
        return
    torch.manual_seed(0)
    length = 70 if here.small else 4096
    block = BidirectionalMamba(48, d_state=int(states)).to(here.device)
    exact = copy.deepcopy(block).cpu().double()
    x = torch.randn(2, length, 48, device=here.device)
    grad = torch.randn(2, length, 48, device=here.device)
    answers = []
    for module, tokens in ((block, x), (block, x), (exact, x.cpu().double())):
        leaves = [tokens.clone().requires_grad_(), *module.parameters()]
        y = module(leaves[0])
        answers.append([y.detach(), *torch.autograd.grad(y, leaves, grad.to(y))])
    wanted = answers.pop()
    errors = [relative_error(ours.cpu(), theirs) for ours, theirs in zip(answers[0], wanted, strict=True)]
    good = errors[0] <= 1e-5 and max(errors) <= 1e-4
    here.row(
        shape=f"2x96x{length}x{states}", kind="fp32", reverse="both", backend="fused block", out=errors[0],
        worst_gradient=f"{max(errors[1:]):.1e}", ok=good,
        same_bits=all(torch.equal(a, b) for a, b in zip(*answers, strict=True)),
        **({} if good else {"fault": "fused block: error beyond 1e-5, 1e-4"}),
    )  # fmt: skip


def as_kind(inputs: list[Any], kind: str) -> list[Any]:
    """The inputs in other types; "block": types and views of a Mamba block under autocast."""
    if kind == "fp32":
        return inputs
    half = torch.float16 if kind == "fp16" else torch.bfloat16
    if kind != "block":
        return [t.to(half) if t.ndim == 3 else t for t in inputs]
    u, delta, A, B, C, D, z, bias = inputs
    wide = torch.cat([u, z], 1).to(half).transpose(1, 2).contiguous()  # (B, L, 2 D)
    projected = torch.cat([B[:, :3], B, C], 1).to(half).transpose(1, 2).contiguous()  # (B, L, r + 2 N)
    states = B.shape[1]
    B, C = projected[..., 3 : 3 + states], projected[..., 3 + states :]
    z = wide.transpose(1, 2).chunk(2, 1)[1]
    return [u, delta.to(half), A, B.transpose(1, 2), C.transpose(1, 2), D, z, bias]


def to_device(t: Any, device: Any) -> Any:
    """The tensor on the device, with the same strides, also those of a view."""
    if t is None or t.is_contiguous() or t.ndim < 3:
        return None if t is None else t.to(device)
    base = t.storage_offset()
    whole = t.as_strided((t.untyped_storage().nbytes() // t.element_size(),), (1,), 0).to(device)
    return whole.as_strided(t.shape, t.stride(), base)


def scan_with_gradients(
    here: Here, inputs: list[Any], grad: Any, reverse: bool, backend: str
) -> dict[str, Any]:
    """`out` and gradients by name."""
    leaves = [to_device(t.detach(), here.device).requires_grad_() for t in inputs]
    out = selective_scan(*leaves, delta_softplus=True, reverse=reverse, backend=backend)
    grads = torch.autograd.grad(out, leaves, grad.to(here.device))
    return {"out": out.detach(), **dict(zip(NAMES, grads, strict=True))}


def speed(here: Here, number: str) -> None:
    """Time forward and backward at one shape: backends, peers, lower limits."""
    batch, channels, length, states = (SPEED_SMALL if here.small else SPEED)[int(number)]
    shape, half = f"{batch}x{channels}x{length}x{states}", torch.bfloat16
    inputs = inputs_of_block(here, batch, channels, length, states)
    floors = speed_floors(here, batch, channels, length, states)

    for backend in usable_backends(here):
        if backend == "chunked" and batch * channels * length * states > CHUNKED_AT_MOST:
            continue
        work = lambda *t, b=backend: selective_scan(*t, delta_softplus=True, backend=b)  # noqa: E731
        time_scan(here, shape, backend, work, inputs, floors)
    with contextlib.suppress(ImportError):
        time_scan(here, shape, "mamba_ssm, its layout, bf16", *raw_mamba_ssm(here, inputs, half), floors)
        time_scan(
            here, shape, "mamba_ssm, its layout, fp32", *raw_mamba_ssm(here, inputs, torch.float32), floors
        )
    if batch * channels * length * states <= CHUNKED_AT_MOST:
        with contextlib.suppress(ImportError):
            time_scan(here, shape, "mambapy", mambapy_scan(), inputs, floors)


def inputs_of_block(here: Here, batch: int, channels: int, length: int, states: int) -> list[Any]:
    """As in a block under autocast: u float32 from the convolution, the other sequences bf16."""
    draw = lambda n, kind: torch.randn(batch, length, n, device=here.device).to(kind).transpose(1, 2)  # noqa: E731
    half = torch.bfloat16
    u, delta, z = draw(channels, torch.float32), draw(channels, half) - 3, draw(channels, half)
    B, C = draw(states, half), draw(states, half)
    A = -torch.arange(1, states + 1, device=here.device).float().repeat(channels, 1)
    D, bias = torch.ones(channels, device=here.device), torch.zeros(channels, device=here.device)
    return [u, delta, A, B, C, D, z, bias]


def captured(here: Here, number: str) -> None:
    """Time `chunked`, the backend without Triton, with one launch per operation and by recorded graphs."""
    sizes = (CAPTURED_SMALL if here.small else CAPTURED)[int(number)]
    shape, inputs = "x".join(map(str, sizes)), inputs_of_block(here, *sizes)
    work = lambda *t: selective_scan(*t, delta_softplus=True, backend="chunked")  # noqa: E731
    leaves = [t.detach().requires_grad_() for t in inputs]
    answers = []
    for what, graphs in (("per operation", None), ("by graphs", chunked.graphs_of(here.device.type))):
        if what == "by graphs" and graphs is None:
            here.row(shape=shape, what=what, note=f"no graphs on {here.device.type}")
            continue
        with mock.patch("mambamed.ssm.chunked.graphs_of", lambda kind: graphs):  # noqa: B023
            time_scan(here, shape, what, work, inputs, {})
            out = work(*leaves)
            answers.append([out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))])
            count = launches(here, lambda: torch.autograd.grad(work(*leaves), leaves, torch.ones_like(out)))  # noqa: B023
        pairs = list(zip(answers[-1], answers[0], strict=True))
        same, error = all(torch.equal(*each) for each in pairs), max(relative_error(*each) for each in pairs)
        kept = 0 if graphs is None else len(graphs)
        good = error <= 1e-5 and (graphs is None or kept > 0)
        fault = {} if good else {"fault": f"error {error:.1e}, graphs: {kept}"}
        here.row(shape=shape, what=what, launches=count, graphs=kept, same_bits=same, **fault)


def launches(here: Here, work: Callable[[], Any]) -> int | None:
    """Launches of kernels and graphs by forward and backward pass."""
    if not here.on_gpu:
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
        work()
        here.wait()
    names = [each.name for each in watched.events() or ()]
    return sum(name.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")) for name in names)


def speed_floors(here: Here, batch: int, channels: int, length: int, states: int) -> dict[str, float]:
    """Milliseconds for the bytes (u, delta, z, out, B, C once) and the exponentials (one per state)."""
    if not here.on_gpu:
        return {}
    ceilings = [json.loads(line) for line in (here.out / "rows.jsonl").read_text().splitlines()]
    found = next((row for row in ceilings if "copy_gb_s" in row), {})
    bytes_ = batch * length * (channels * (4 + 2 + 2 + 4) + 4 * states)
    floors = {"bytes_floor_ms": bytes_ / found.get("copy_gb_s", 4300) / 1e6}
    floors["exp_floor_ms"] = batch * channels * length * states / found.get("exp2_g_s", 3900) / 1e6
    return floors


def time_scan(
    here: Here, shape: str, what: str, work: Callable[..., Any], inputs: list[Any], floors: dict[str, float]
) -> None:
    """Write a row with the times of forward and backward, or with the error."""
    here.free()
    try:
        with torch.no_grad():
            forward = here.milliseconds(lambda: work(*inputs))
        leaves = [t.detach().requires_grad_() for t in inputs]
        out = work(*leaves)
        grad = torch.randn_like(out)
        backward = here.milliseconds(lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True))
        here.row(shape=shape, what=what, forward_ms=forward, backward_ms=backward, **floors, **here.peaks())
    except (RuntimeError, ValueError) as error:
        here.row(shape=shape, what=what, note=str(error).splitlines()[0][:120])
        if any(words in str(error) for words in DEVICE_IS_LOST):
            raise


def raw_mamba_ssm(here: Here, inputs: list[Any], kind: Any) -> tuple[Callable[..., Any], list[Any]]:
    """mamba_ssm's kernels, and inputs in their fastest form: one type, contiguous along the sequence."""
    import selective_scan_cuda as kernels

    u, delta, A, B, C, D, z, bias = inputs
    u, delta, z, B, C = (t.to(kind).contiguous() for t in (u, delta, z, B, C))
    there = [u, delta, A, B[:, None], C[:, None], D, z, bias]

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *t):
            out, states, gated = kernels.fwd(*t, True)
            ctx.save_for_backward(*t, out, states)
            return gated

        @staticmethod
        def backward(ctx, *grads):
            *t, out, states = ctx.saved_tensors
            du, dd, dA, dB, dC, dD, dbias, dz = kernels.bwd(
                *t, grads[0].contiguous(), states, out, None, True, False
            )
            return du, dd, dA, dB.to(kind), dC.to(kind), dD, dz, dbias

    return Scan.apply, there


def mambapy_scan() -> Callable[..., Any]:
    """mambapy's scan, with our arguments."""
    from mambapy.pscan import pscan

    def scan(u, delta, A, B, C, D, z, bias):
        rows = [t.transpose(1, 2).float() for t in (u, delta, B, C, z)]
        u, delta, B, C, z = rows
        dt = functional.softplus(delta + bias)
        decay = (dt[..., None] * A).exp()
        states = pscan(decay, dt[..., None] * u[..., None] * B[:, :, None])
        y = (states @ C[..., None])[..., 0] + D * u
        return y * functional.silu(z)

    return scan


VARIANTS: dict[str, dict[str, int]] = {  # module and name of a setting -> its value
    "as it is": {},
    "2048 programs": {"launch.PROGRAMS": 2048},
    "4096 programs": {"launch.PROGRAMS": 4096},
    "at most 256 chunks": {"launch.MOST_CHUNKS": 256},
    "forwards 4 tokens at once": {"triton_forward.UNROLL": 4},  # fewer registers
}


def tune(here: Here, number: str) -> None:
    """Time each Triton kernel with other settings."""
    reason = why_unavailable("triton")
    if reason is not None:
        here.row(variant="none", kernels_ms={}, note=reason)
        return
    batch, channels, length, states = (SPEED_SMALL if here.small else SPEED)[int(number)]
    draw = lambda n, kind: torch.randn(batch, length, n, device=here.device).to(kind).transpose(1, 2)  # noqa: E731
    half = torch.bfloat16
    inputs = [draw(channels, torch.float32), draw(channels, half) - 3]
    inputs.append(-torch.arange(1, states + 1, device=here.device).float().repeat(channels, 1))
    inputs += [draw(states, half), draw(states, half), torch.ones(channels, device=here.device)]
    inputs += [draw(channels, half), torch.zeros(channels, device=here.device)]
    scan = lambda *t: selective_scan(*t, delta_softplus=True, backend="triton")  # noqa: E731
    first = None
    for variant, settings in VARIANTS.items():
        here.free()
        with changed(settings):
            with torch.no_grad():
                out = scan(*inputs)
                forward = here.milliseconds(lambda: scan(*inputs))
            leaves = [t.detach().requires_grad_() for t in inputs]
            result = scan(*leaves)
            grad = torch.randn_like(result)
            work = lambda: torch.autograd.grad(result, leaves, grad, retain_graph=True)  # noqa: E731, B023
            backward = here.milliseconds(work)
            kernels = kernel_times(here, lambda: scan(*leaves), work)  # noqa: B023
        first = out if first is None else first
        error = float((out - first).abs().max() / first.abs().max())
        here.row(
            shape=f"{batch}x{channels}x{length}x{states}", variant=variant, forward_ms=forward,
            backward_ms=backward, out_error=error, kernels_ms=kernels,
        )  # fmt: skip


@contextlib.contextmanager
def changed(settings: dict[str, int]) -> Iterator[None]:
    """The Triton kernels and their launches with other numbers."""
    with contextlib.ExitStack() as stack:
        for name, value in settings.items():
            stack.enter_context(mock.patch(f"mambamed.ssm.{name}", value))
        yield


def kernel_times(here: Here, *works: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds per kernel, the longest first."""
    if not here.on_gpu:
        return {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as watched:
        for work in works:
            work()
        here.wait()
    totals: dict[str, float] = {}
    for kernel, ms in kernels_of(watched):
        totals[kernel[:40]] = totals.get(kernel[:40], 0) + ms
    return {k: round(v, 4) for k, v in sorted(totals.items(), key=lambda item: -item[1])[:9]}


def block(here: Here, width: str) -> None:
    """Time the four readings of a Mamba block at nnMamba's finest scan, and its parts."""
    channels = int(width) * 2
    length = (here.edge // 4) ** 3
    mamba = Mamba(channels).to(here.device)
    tokens = torch.randn(here.batch, length, channels, device=here.device)

    def timed(part: str, work: Callable[..., Any], *given: Any) -> None:
        leaves = [t.detach().requires_grad_() for t in given]
        with autocast(here.device, here.precision("bf16")):
            with torch.no_grad():
                forward = here.milliseconds(lambda: work(*given))
            out = work(*leaves)
        grad = torch.randn_like(out)
        backward = here.milliseconds(lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True))
        here.row(part=part, forward_ms=forward, backward_ms=backward)

    inner = mamba._inner("")
    D, N = inner.A.shape
    timed(f"readings, {here.batch} x {length} x {channels}", mamba.readings, tokens)
    if why_unavailable("triton") is None:  # the same without the fused kernels
        with mock.patch.object(fused, "serves", lambda *_: False):
            timed("readings, separate operations", mamba.readings, tokens)
    timed("one direction", mamba.forward, tokens)
    xz = torch.randn(here.batch, length, 2 * D, device=here.device, dtype=torch.bfloat16)
    bias = None if inner.tap_bias is None else inner.tap_bias.detach()
    x = xz.transpose(1, 2).chunk(2, 1)[0]
    timed("convolution", lambda t: causal_conv(t, inner.taps.detach(), bias, silu=True), x)
    B, C = (torch.randn(here.batch, length, N, device=here.device).transpose(1, 2) for _ in range(2))
    delta = torch.randn(here.batch, length, D, device=here.device, dtype=torch.bfloat16).transpose(1, 2) - 3
    z = xz.transpose(1, 2).chunk(2, 1)[1]
    A, skip = inner.A.detach(), inner.D.detach()
    timed("scan", lambda t, d: selective_scan(t, d, A, B, C, skip, z, None, True), x.float(), delta)
    weight = torch.randn(2 * D, channels, device=here.device)
    timed("input projection", lambda t: functional.linear(t, weight), tokens)
