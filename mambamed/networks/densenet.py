"""3D DenseNet, the papers' second convolutional baseline for classification.

Source: Huang et al. 2017, "Densely Connected Convolutional Networks", Table 1 (DenseNet-BC, growth g = 32),
with every 2D operation made 3D. With `channels` = C = 2 g, at an input of `(X, Y, Z)`:

    stem         conv7 stride 2, norm, ReLU, max of 3 stride 2                      C, X/4
    dense layer  norm - ReLU - conv1 -> 4 g - norm - ReLU - conv3 -> g, concatenated to its input
    blocks       four rows of dense layers; between them norm - ReLU - conv1 to half - mean of 2, stride 2
    head         norm, ReLU, mean over the grid, dropout, linear

Departure at odd grids: the means between the blocks round up, while the usual form drops the last voxels and
fails below 64 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.networks.parts.blocks import Norm, check_choice, make_norm, pad_to_two_voxels, run_checkpointed

_LAYERS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32), 264: (6, 12, 64, 48)}
_BOTTLENECK = 4  # the pointwise convolution has 4 g output channels


class DenseLayer(nn.Module):
    """norm - ReLU - conv1 -> 4 g - norm - ReLU - conv3 -> g (`growth`), concatenated to the input."""

    def __init__(self, in_channels: int, growth: int, norm: Norm) -> None:
        super().__init__()
        inner = _BOTTLENECK * growth
        self.layers = nn.Sequential(
            make_norm(norm, in_channels),
            nn.ReLU(),  # not in place: without a norm this would change the input
            nn.Conv3d(in_channels, inner, 1, bias=False),
            make_norm(norm, inner),
            nn.ReLU(inplace=True),
            nn.Conv3d(inner, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> `(B, C + g, X, Y, Z)`."""
        return torch.cat([x, self.layers(x)], dim=1)


class _HalvedMean(nn.Module):
    """Mean of 2 voxels along each axis, or of 1 at its end."""

    def forward(self, x: Tensor) -> Tensor:
        kernel = [min(size, 2) for size in x.shape[2:]]  # a kernel larger than the grid cannot be exported
        return functional.avg_pool3d(x, kernel, kernel, ceil_mode=True)


class DenseNet(nn.Module):
    """3D DenseNet for classification.

    Args:
        depth: 121, 169, 201 or 264.
        channels: C, width of the stem; 64 in the paper.
        growth: g, channels that each dense layer adds (default: half of `channels`).
        blocks: dense layers of each block (default: those of the depth).
        dropout: probability, before the linear layer; the paper has none there.
    """

    examples = ("", "depth: 169")
    small: ClassVar = {"channels": 8, "blocks": [2, 2, 2, 2]}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        depth: int = 121,
        channels: int = 64,
        growth: int | None = None,
        blocks: Sequence[int] | None = None,
        dropout: float = 0.0,
        norm: Norm = "batch",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_choice("depth", depth, _LAYERS)
        self.divisor = (1, 1, 1)
        self.gradient_checkpointing = gradient_checkpointing
        growth = growth or channels // 2
        self.stem = nn.Sequential(
            nn.Conv3d(in_channels, channels, 7, 2, 3, bias=False),
            make_norm(norm, channels),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, 2, 1),
        )
        self.stages = nn.ModuleList()
        width = channels
        for level, count in enumerate(blocks or _LAYERS[depth]):
            down = [_transition(width, norm)] if level else []
            width = width // 2 if level else width
            layers = [DenseLayer(width + i * growth, growth, norm) for i in range(count)]
            self.stages.append(nn.Sequential(*down, *layers))
            width += count * growth
        self.last = nn.Sequential(make_norm(norm, width), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, out_channels)
        nn.init.zeros_(self.linear.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` -> `(B, out_channels)` logits."""
        x = pad_to_two_voxels(x, 2 ** (len(self.stages) + 1))
        for part in (self.stem, *self.stages, self.last):
            x = run_checkpointed(part, x, wanted=self.gradient_checkpointing)
        return self.linear(self.dropout(x.mean((2, 3, 4))))


def _transition(width: int, norm: Norm) -> nn.Sequential:
    """To half the width and half the grid."""
    return nn.Sequential(
        make_norm(norm, width),
        nn.ReLU(inplace=True),
        nn.Conv3d(width, width // 2, 1, bias=False),
        _HalvedMean(),
    )
