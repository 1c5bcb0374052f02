"""The run folder: one training of a recipe, and everything that a prediction needs to know about it.

=============  ==========================================================================
`folder`       `Run`: recipe, plan, manifest and the folders of the folds
`checkpoint`   weights and training state as safetensors with JSON metadata, never pickle
`model`        `load_network`: a network rebuilt from recipe + plan + manifest, never from a trainer
`export`       the one-file model: a run to be handed on, checked when it is opened
`device`       where and how precisely to compute, and why; keeping freed memory
=============  ==========================================================================

Importing this package imports nothing; the names below are found at first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mambamed.runs.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
    from mambamed.runs.device import autocast, choose_device, choose_precision, keep_freed_memory
    from mambamed.runs.folder import Run, create_run, planned_run
    from mambamed.runs.model import load_network, make_network

_HOME = {
    "Checkpoint": "checkpoint",
    "read_checkpoint": "checkpoint",
    "write_checkpoint": "checkpoint",
    "autocast": "device",
    "choose_device": "device",
    "choose_precision": "device",
    "keep_freed_memory": "device",
    "Run": "folder",
    "create_run": "folder",
    "planned_run": "folder",
    "load_network": "model",
    "make_network": "model",
}

__all__ = [
    "Checkpoint",
    "Run",
    "autocast",
    "choose_device",
    "choose_precision",
    "create_run",
    "keep_freed_memory",
    "load_network",
    "make_network",
    "planned_run",
    "read_checkpoint",
    "write_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"mambamed.runs.{_HOME[name]}"), name)
    raise AttributeError(f"module 'mambamed.runs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
