"""A way around a fault of oneDNN: convolutions over few voxels, in bf16 on CPUs.

Where an axis has no more voxels than the kernel reaches over, results and gradients of the weights may hold
memory that was never written: now zeros, now 1e35 or NaN, never the same twice. Seen in torch 2.13 on CPUs
with AMX: gradients with kernel 3 over 2 planes, and with stride 2 also results, e.g. over 5 x 3 x 2 voxels.
With more voxels than the kernel on every axis there was no fault. Those few voxels are convolved in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShallowSafeConv3d(nn.Conv3d):
    """`nn.Conv3d` that leaves autocast where an axis of the volume is as short as the kernel."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Conv3d`."""
        axes = zip(input.shape[2:], self.kernel_size, strict=True)
        if input.device.type != "cpu" or all(length > kernel or kernel == 1 for length, kernel in axes):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


def make_shallow_safe(network: nn.Module) -> None:
    """Let every convolution of a network that computes in bf16 on a CPU take care; weights and names stay."""
    for module in network.modules():
        if type(module) is nn.Conv3d and max(module.kernel_size) > 1:
            module.__class__ = ShallowSafeConv3d
