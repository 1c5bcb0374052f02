"""A way around a fault of oneDNN: gradients of convolutions over one or two planes, in bf16 on CPUs.

Where the first axis has no more planes than the kernel reaches over, the gradient of the weights holds
memory that was never written (seen in torch 2.13: kernel 3 over 2 planes, or stride 2 over 1 or 2): now
zeros, now NaN, never the same twice. Those few voxels are convolved in float32 instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShallowSafeConv3d(nn.Conv3d):
    """`nn.Conv3d` that leaves autocast where the volume is as shallow as its kernel."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Conv3d`."""
        if input.shape[2] > self.kernel_size[0] or input.device.type != "cpu":
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


def make_shallow_safe(network: nn.Module) -> None:
    """Let every convolution of a network that trains in bf16 on a CPU take care; weights and names stay."""
    for module in network.modules():
        if type(module) is nn.Conv3d and module.kernel_size[0] > 1:
            module.__class__ = ShallowSafeConv3d
