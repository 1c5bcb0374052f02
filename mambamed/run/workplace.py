"""Where a process computes: device, precision and memory layout, chosen with their reasons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mambamed.errors import RecipeError
from mambamed.run.device import choose_device, choose_precision, memory_format, own_gpu, set_cudnn
from mambamed.ssm.scan import VARIABLE, asked_backend, asking_for, chosen_backend, serves, why_unavailable


@dataclass(frozen=True)
class Workplace:
    """Device, numeric precision and memory layout of training, validation or prediction."""

    device: torch.device
    precision: str
    layout: torch.memory_format  # of 5-D tensors in training and its validation
    compiled: bool = False  # whether training steps run through torch.compile


@contextmanager
def scan_option(name: str, here: bool = True) -> Iterator[None]:
    """The commands within compute selective scans by this backend, the value of --scan.

    Args:
        here: whether this machine computes; else its workers check whether they have the backend.

    Raises RecipeError: the backend cannot be used here.
    """
    if here and name != "auto":
        _check_usable(name)
    with asking_for(name):
        yield


def _check_usable(name: str, kind: str | None = None) -> None:
    """Raise RecipeError if the backend that --scan names cannot be used, or not on this type of device."""
    if reason := why_unavailable(name):
        raise RecipeError(f"--scan {name}: cannot be used here: {reason}. Choose another backend, or auto.")
    if kind is not None and not serves(name, kind):
        raise RecipeError(
            f"--scan {name}: does not run on the device {kind}. Choose another backend, or another --device."
        )


def choose_workplace(
    device: str, precision: str, one_per_gpu: bool = False, search: bool = False
) -> tuple[Workplace, dict[str, str]]:
    """Choose device, precision and memory layout, and set up cuDNN for a CUDA device.

    Args:
        device, precision: see `choose_device` and `choose_precision`.
        one_per_gpu: whether processes started by torchrun or SLURM on one machine use one GPU each.
        search: see `set_cudnn`; for training.

    Returns: The workplace, and one line per choice, including the scan backend, with the reason for it.

    Raises RecipeError: device or precision cannot be used, or the scan backend that --scan or the environment
    names.
    """
    chosen, why_device = choose_device(device)
    if one_per_gpu and chosen.type == "cuda" and ":" not in device:  # no number was asked for
        number = own_gpu(torch.cuda.device_count())
        if number is not None:
            chosen, why_device = torch.device("cuda", number), f"{why_device}; one of several processes"
            torch.cuda.set_device(chosen)
    kind, why_kind = choose_precision(precision, chosen)
    layout = memory_format(chosen, kind, training=True)
    if (asked := asked_backend()) != "auto":
        _check_usable(asked, chosen.type)
    try:
        backend, why_backend = chosen_backend(chosen)
    except ValueError as error:
        raise RecipeError(f"environment variable {VARIABLE}: {error}. Set another, or none.") from None
    lines = {
        "device": f"device {chosen}: {why_device}",
        "precision": f"precision {kind}: {why_kind}",
        "scan_backend": f"scan backend {backend}: {why_backend}",
        "layout": f"memory layout {str(layout).removeprefix('torch.')}",
    }
    if chosen.type == "cuda":
        lines["cudnn"] = set_cudnn(search)
    return Workplace(chosen, kind, layout), lines
