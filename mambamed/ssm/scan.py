"""`selective_scan`: one function, several backends, one node in a compiled graph.

A **backend** is a module with three functions:

    saved_shape(batch, length, d_inner, d_state, device_type) -> tuple[int, ...]
        shape of the float32 tensor (float64 for float64 inputs) that its forward stores for its backward;
    scan_forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save) -> (out, saved)
        `saved` has `saved_shape(...)` if `save`, else it is ignored (return `u.new_empty(0)`);
    scan_backward(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
        -> (du, ddelta, dA, dB, dC, dD, dz, ddelta_bias), None for missing inputs.

They receive the caller's tensors: `(B, D, L)`, any strides (channel-last, i.e. the transposed view of a
`(B, L, D)` tensor, is the native one), any float dtype, batch and length at least 1. They run below autograd:
nothing they do is recorded. Their results may have any float dtype and strides. The arguments are defined in
`mambamed.ssm.reference`.

A backend that cannot be used returns a reason from `unavailable() -> str | None`. One whose kernels do not
support float64 has `FLOAT64 = False`; "auto" then uses `chunked` for such scans.
To add one: write the module, add a line to `BACKENDS`; `tests/ssm/test_scan.py` runs over the table.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from types import ModuleType

import torch
from torch import Tensor

log = logging.getLogger(__name__)

BACKENDS = {
    "reference": "mambamed.ssm.reference",
    "chunked": "mambamed.ssm.chunked",
    "cpu": "mambamed.ssm.cpu",
    "triton": "mambamed.ssm.triton",
    "cuda": "mambamed.ssm.cuda",
}

# the first that works is used, by device type; `chunked` works everywhere. `cuda` runs only B D programs,
# reads copies in another layout, and adds up gradients in no fixed order: see docs/scan.md
_PREFERENCE = {"cpu": ("cpu",), "cuda": ("triton", "cuda")}
_ANYWHERE = ("reference", "chunked")
VARIABLE = "MAMBAMED_SCAN"  # of the environment: a backend for all processes of a command

_asked = "auto"  # by the option --scan, see `asking_for`
_forced: str | None = None
_decided: set[str] = set()  # device types for which backends were tried


@cache
def _backend(name: str) -> ModuleType:
    return importlib.import_module(BACKENDS[name])


@cache
def why_unavailable(name: str) -> str | None:
    """The reason why backend `name` cannot be used on this machine, or None if it can."""
    try:
        module = _backend(name)
    except ImportError as error:
        return f"{error}"
    probe = getattr(module, "unavailable", None)
    return probe() if probe else None


def set_backend(name: str) -> None:
    """Make every `backend="auto"` scan of this process use `name`; `"auto"` restores the choice by device."""
    global _forced
    if name != "auto":
        _refuse_unavailable(name)
    _forced = None if name == "auto" else name


@contextmanager
def asking_for(name: str) -> Iterator[None]:
    """Make every `backend="auto"` scan of this process use `name` within, on the devices that it serves.

    It overrides `set_backend` and the environment; "auto" changes nothing. Whether it can be used is checked
    by the first scan, or by `chosen_backend`.
    """
    global _asked
    before = _asked
    _ask(before if name == "auto" else name)
    try:
        yield
    finally:
        _ask(before)


def _ask(name: str) -> None:
    global _asked
    if name != _asked and "torch._dynamo" in sys.modules:
        # compiled code holds the name, see `resolve_backend`
        getattr(torch._dynamo, "reset_code_caches", torch.compiler.reset)()
    _asked = name


def asked_backend() -> str:
    """The backend of the present `asking_for`, else "auto"."""
    return _asked


def serves(name: str, device_type: str) -> bool:
    """Whether backend `name` computes on devices of this type."""
    return name in (*_ANYWHERE, *_PREFERENCE.get(device_type, ()))


def chosen_backend(device: str | torch.device = "cpu") -> tuple[str, str]:
    """The backend of `backend="auto"` on `device`, and the reason.

    Set by `asking_for` on the devices that its backend serves, else by `set_backend`, else by the environment
    variable `MAMBAMED_SCAN` on the devices that its backend serves, else chosen. ValueError if the one named
    there does not exist or cannot be used.

    >>> chosen_backend("meta")
    ('chunked', "plain torch, as there is no kernel for device type 'meta'")
    """
    named, kind = os.environ.get(VARIABLE) or "auto", torch.device(device).type
    if _asked != "auto" and serves(_asked, kind):
        _refuse_unavailable(_asked)
        other = f", which overrides {VARIABLE}={named}" if named not in ("auto", _asked) else ""
        return _asked, f"set by --scan{other}"
    if _forced is not None:
        return _forced, "set by set_backend"
    if named != "auto":
        _refuse_unavailable(named)
        if serves(named, kind):
            return named, f"set by {VARIABLE}"
    return _choose(kind)


@cache
def _choose(device_type: str) -> tuple[str, str]:
    _decided.add(device_type)
    refused = []
    for name in _PREFERENCE.get(device_type, ()):
        reason = why_unavailable(name)
        if reason is None:
            why = f"first that works on {device_type}" + "".join(f"; no {r}" for r in refused)
            log.info("selective scan on %s: %s (%s)", device_type, name, why)
            return name, why
        refused.append(f"{name}: {reason}")
    why = f"plain torch, as there is no kernel for device type {device_type!r}"
    if refused:
        why = "plain torch" + "".join(f"; no {r}" for r in refused)
    log.info("selective scan on %s: chunked (%s)", device_type, why)
    return "chunked", why


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Selective scan of `mamba_ssm.selective_scan_fn`, by the best backend for the device.

    Args:
        u: `(B, D, L)` input sequence, any float dtype.
        delta: `(B, D, L)` step sizes, before `delta_bias` and softplus.
        A: `(D, N)` real, negative: decay rates of the N states of each channel.
        B: `(B, N, L)` input weights of the states.
        C: `(B, N, L)` output weights of the states.
        D: `(D,)` skip connection, or None.
        z: `(B, D, L)` gate; the output is multiplied by silu(z). None: no gate.
        delta_bias: `(D,)` added to delta, or None.
        delta_softplus: whether softplus is applied to delta (+ bias).
        reverse: run from the last token to the first: the scan of the flipped sequence, flipped back.
        backend: a name of `BACKENDS`, or "auto"; ValueError if it does not exist or cannot be used.

    Returns: `(B, D, L)` in u's dtype, channel-last in memory (`out.transpose(1, 2)` is contiguous). States
    are float32 (float64 for float64 inputs) whatever the dtypes of the inputs, also under autocast.

    Source: Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces".

    >>> one = torch.ones(1, 1, 3)
    >>> selective_scan(one, one, torch.tensor([[-0.6931472]]), one, one).flatten().tolist()
    [1.0, 1.5, 1.75]
    """
    _check_shapes(u, delta, A, B, C, D, z, delta_bias)
    backend = resolve_backend(backend, u.device.type, u.dtype == torch.float64)
    if u.numel() == 0:
        return torch.zeros_like(u)
    given = [t for t in (u, delta, A, B, C, D, z, delta_bias) if t is not None]
    save = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    out, _ = torch.ops.mambamed.selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save, backend
    )
    return out


def resolve_backend(backend: str, device_type: str, float64: bool = False) -> str:
    """The backend's name, with "auto" resolved; ValueError if it cannot be used."""
    chooses = backend == "auto" and _forced is None and not serves(_asked, device_type)
    if chooses and device_type not in _decided and _exporting():
        # torch.export replaces functions that numba's compiler needs, so kernels cannot be tested now
        log.warning("exported with plain torch: run a scan before the export to have its kernels chosen")
        return "chunked"
    name = chosen_backend(device_type)[0] if backend == "auto" else backend
    if backend != "auto":
        _refuse_unavailable(name)
    if float64 and not getattr(_backend(name), "FLOAT64", True):
        if backend != "auto":
            raise ValueError(f"scan backend {name!r} computes in float32, got float64; use 'chunked'")
        return "chunked"
    return name


# torch.compile treats the result as a constant (torch.compiler.assume_constant_result sets the same mark, but
# imports the whole compiler)
resolve_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _exporting() -> bool:
    return getattr(torch.compiler, "is_exporting", lambda: False)()


def _refuse_unavailable(name: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"{name!r}: no such scan backend; choose one of {', '.join(BACKENDS)} or 'auto'")
    if reason := why_unavailable(name):
        raise ValueError(f"scan backend {name!r} cannot serve here: {reason}")


def _check_shapes(u, delta, A, B, C, D, z, delta_bias) -> None:
    if u.ndim != 3:
        raise ValueError(f"u must be (B, D, L), got {tuple(u.shape)}")
    batch, channels, length = u.shape
    if A.ndim != 2 or A.shape[0] != channels:
        raise ValueError(f"A must be (D={channels}, N), got {tuple(A.shape)}")
    sequence, state = (batch, channels, length), (batch, A.shape[1], length)
    expected = [("delta", delta, sequence), ("B", B, state), ("C", C, state), ("z", z, sequence)]
    expected += [("D", D, (channels,)), ("delta_bias", delta_bias, (channels,))]
    for name, tensor, shape in expected:
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape} for u {tuple(u.shape)}, got {tuple(tensor.shape)}")


# --- the custom operators

_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus, bool reverse"
)


def channel_last(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`(B, D, L)` in a dtype, the channels adjacent in memory."""
    return tensor.to(dtype).transpose(1, 2).contiguous().transpose(1, 2)


def empty_channel_last(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialized tensor of the same shape, the channels adjacent in memory."""
    batch, channels, length = like.shape
    return like.new_empty(batch, length, channels, dtype=dtype).transpose(1, 2)


def _saved_like(u: Tensor, A: Tensor, save: bool, backend: str) -> Tensor:
    sizes = (u.shape[0], u.shape[2], *A.shape, u.device.type)
    shape = _backend(backend).saved_shape(*sizes) if save else (0,)
    return u.new_empty(shape, dtype=torch.promote_types(torch.float32, u.dtype))


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    """The context in which a backend computes: its products are not those of autocast."""
    available = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if available else nullcontext()


def _forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save, backend):
    with _without_autocast(u.device.type):
        out, saved = _backend(backend).scan_forward(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save
        )
    if not save:
        saved = u.new_empty(0, dtype=torch.promote_types(torch.float32, u.dtype))
    return channel_last(out, u.dtype), saved


def _backward(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, backend):
    with _without_autocast(u.device.type):
        grads = _backend(backend).scan_backward(
            grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse
        )
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    shaped = []
    for grad, of in zip(grads, inputs, strict=True):
        if of is None:
            shaped.append(u.new_empty(0))
        elif of.ndim == 3:
            shaped.append(channel_last(grad, of.dtype))
        else:
            shaped.append(grad.to(of.dtype).contiguous())
    return tuple(shaped)


_operator = partial(torch.library.custom_op, mutates_args=())
_answers = f"({_INPUTS}, bool save, str backend) -> (Tensor, Tensor)"
forward_op = _operator("mambamed::selective_scan", _forward, schema=_answers)
_grads = f"(Tensor grad_out, Tensor saved, {_INPUTS}, str backend) -> ({', '.join(['Tensor'] * 8)})"
backward_op = _operator("mambamed::selective_scan_backward", _backward, schema=_grads)


@forward_op.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save, backend):
    return empty_channel_last(u), _saved_like(u, A, save, backend)


@backward_op.register_fake
def _(grad_out, saved, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, backend):
    shaped = []
    for of in (u, delta, A, B, C, D, z, delta_bias):
        if of is None:
            shaped.append(u.new_empty(0))
        else:
            shaped.append(empty_channel_last(of) if of.ndim == 3 else of.new_empty(of.shape))
    return tuple(shaped)


def _setup_context(ctx, inputs, output):
    *tensors, delta_softplus, reverse, save, backend = inputs
    ctx.options = (delta_softplus, reverse, backend)
    ctx.given = [t is not None for t in tensors]
    if not save:
        raise RuntimeError(
            "mambamed::selective_scan was called with save=False although a gradient is asked for"
        )
    ctx.save_for_backward(output[1], *tensors)


def _autograd(ctx, grad_out, _grad_saved):
    delta_softplus, reverse, backend = ctx.options
    saved, *tensors = ctx.saved_tensors
    grads = torch.ops.mambamed.selective_scan_backward(
        grad_out, saved, *tensors, delta_softplus, reverse, backend
    )
    given = [grad if there else None for grad, there in zip(grads, ctx.given, strict=True)]
    return (*given, None, None, None, None)


forward_op.register_autograd(_autograd, setup_context=_setup_context)
