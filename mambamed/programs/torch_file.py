"""A traced network as a file of torch.export, which torch loads without mambamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mambamed.programs.tracing import quiet_export
from mambamed.ssm.exported import decompositions


def write_torch_export(program: Any, path: Path) -> list[Path]:
    """Write a program of `tracing.traced`, its scans as loops of torch; the file."""
    with quiet_export(), torch.no_grad():
        torch.export.save(program.run_decompositions(decompositions()), path)
    return [path]


def run_torch_export(path: Path, image: Tensor) -> NDArray[np.float32]:
    """The logits of the program that was written."""
    with quiet_export(), torch.no_grad():
        return torch.export.load(path).module()(image).numpy()
