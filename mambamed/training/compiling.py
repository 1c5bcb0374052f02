"""`training.compile`: torch.compile if it is faster, measured once per device and remembered.

Only the training step is compiled: weights, checkpoints and validation use the uncompiled network.
"""

from __future__ import annotations

import copy
import hashlib
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import mambamed
from mambamed.documents.run import CompileTimes
from mambamed.errors import MambamedError
from mambamed.run.device import autocast
from mambamed.run.workplace import Workplace
from mambamed.ssm import chosen_backend

_STEPS = 5
_GAIN = 1.05  # a smaller gain does not repay the minutes of compiling


def choose_compile(
    wanted: str, network: nn.Module, shape: tuple[int, ...], place: Workplace, known: bool | None = None
) -> tuple[bool, str]:
    """Whether the training step is compiled, and the reason.

    Args:
        wanted: the recipe's "always", "never" or "auto".
        network: on its device; a copy of it is measured.
        shape: `(B, C, X, Y, Z)` of a step's patches.
        known: choice of the fold's first session, which is kept.
    """
    if wanted != "auto":
        return wanted == "always", f"compile {wanted}: the recipe says so"
    if known is not None:
        return known, f"compile {'on' if known else 'off'}: as in the first session of this fold"
    path, key = cache_file(), _key(network, shape, place)
    kept = _read(path)
    where = "measured before"
    if key not in kept:
        where = f"measured now, kept in {path}"
        try:
            plain = step_seconds(network, shape, place, compiled=False)
            fused = step_seconds(network, shape, place, compiled=True)
        except Exception as error:  # no compiler here, an unsupported operation, or no memory for the copy
            if place.device.type == "cuda":
                torch.cuda.empty_cache()
            return False, f"compile off: it fails here ({type(error).__name__}: {str(error).splitlines()[0]})"
        kept[key] = (plain, fused)
        _write(path, kept)
    plain, fused = kept[key]
    wins = plain > _GAIN * fused
    seconds = f"{fused:.3f} s a step with it, {plain:.3f} without"
    return wins, f"compile {'on' if wins else 'off'}: {seconds}, {where}"


def step_seconds(network: nn.Module, shape: tuple[int, ...], place: Workplace, compiled: bool) -> float:
    """Median time of forward and backward pass on random patches, after a first one that compiles."""
    network = copy.deepcopy(network).train()
    forward = torch.compile(network, dynamic=False) if compiled else network
    image = torch.randn(shape).to(place.device, memory_format=place.layout)
    seconds = []
    for _ in range(1 + _STEPS):
        began = time.monotonic()
        with autocast(place.device, place.precision):
            outputs = forward(image)
        depths = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        torch.stack([depth.float().square().mean() for depth in depths]).sum().backward()
        if place.device.type == "cuda":
            torch.cuda.synchronize(place.device)
        seconds.append(time.monotonic() - began)
        network.zero_grad(set_to_none=True)
    return statistics.median(seconds[1:])


def cache_file() -> Path:
    """File of the measurements: `mambamed/compile.json` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mambamed" / "compile.json"


def _key(network: nn.Module, shape: tuple[int, ...], place: Workplace) -> str:
    on_gpu = place.device.type == "cuda"
    cpu = f"{platform.node()} {torch.get_num_threads()}"
    device = torch.cuda.get_device_name(place.device) if on_gpu else cpu
    versions = f"{torch.__version__} {mambamed.__version__} {chosen_backend(place.device)[0]}"
    text = f"{network!r} {shape} {place.precision} {place.layout} {device} {versions}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, tuple[float, float]]:
    try:
        return dict(CompileTimes.read(path).seconds)
    except MambamedError:  # absent or damaged: measured again
        return {}


def _write(path: Path, kept: dict[str, tuple[float, float]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        CompileTimes(seconds=kept).write(path)
    except (MambamedError, OSError):  # a read-only home: measured again next time
        return
