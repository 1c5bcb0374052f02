"""The selective scan: one definition (`reference`), several ways to compute it, and the Mamba blocks.

`selective_scan` in `scan` chooses among the `BACKENDS`. Importing this package imports nothing; its names
are loaded at first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mambamed.ssm.conv import causal_conv
    from mambamed.ssm.mamba import BidirectionalMamba, Mamba
    from mambamed.ssm.scan import BACKENDS, chosen_backend, selective_scan, set_backend

__all__ = [
    "BACKENDS", "BidirectionalMamba", "Mamba", "causal_conv", "chosen_backend", "selective_scan",
    "set_backend",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = {"causal_conv": "conv", "Mamba": "mamba", "BidirectionalMamba": "mamba"}.get(name, "scan")
        return getattr(importlib.import_module(f"mambamed.ssm.{module}"), name)
    raise AttributeError(f"module 'mambamed.ssm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
