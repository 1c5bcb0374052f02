"""mambamed: 3D medical imaging on Mamba networks.

The way of a scan, one folder a station:

    converters   files on disk -> cases
    preparation  cases -> prepared dataset (orient, crop, resample, normalize, plan, store)
    batches      prepared dataset -> batches (sampling, augmentation)
    ssm          the selective scan and the Mamba block, alone in its wing
    networks     batches -> logits, one file an architecture
    tasks        what is asked of the network
    runs         the run folder
    training     the loop
    inference    logits -> native space
    evaluation   predictions and references -> tables, through metrics and report
    io           every file is read and written here
    recipe, cases, geometry, errors: the words all others speak

The verbs (`prepare`, `train`, `predict`, `classify`, `evaluate`, ...) are functions of `mambamed.api`
and commands of the same names and parameters on the command line.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "classify",
    "compare",
    "convert_points",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "extend",
    "import_weights",
    "landmarks",
    "predict",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("mambamed.api"), name)
    raise AttributeError(f"module 'mambamed' has no attribute {name!r}")
