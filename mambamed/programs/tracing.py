"""From a network to a `torch.export` program with any batch size and a fixed patch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Triple = tuple[int, int, int]


class MeanOf(nn.Module):
    """The mean of the logits of several networks."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the shape of a network's logits."""
        total = self.networks[0](image)
        for network in self.networks[1:]:
            total = total + network(image)
        return total / len(self.networks)


def traced(network: nn.Module, channels: int, patch_size: Triple) -> Any:
    """`torch.export.ExportedProgram` of a network in evaluation mode, on the CPU.

    The selective scans, and the convolutions before them, may be operators of mambamed; all else is plain
    torch. The input is `(B, channels, *patch_size)` float32 with any B.
    """
    image = torch.zeros(2, channels, *patch_size)  # a batch of 1 would be taken for a constant
    batch = {0: torch.export.Dim("batch", min=1)}
    with quiet_export(), torch.no_grad():
        return torch.export.export(network, (image,), dynamic_shapes=(batch,))


@contextmanager
def quiet_export() -> Iterator[None]:
    """Within the block, exporters do not warn of their own packages."""
    known = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [each.level for each in known]
    for each in known:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(known, before, strict=True):
            each.setLevel(level)
