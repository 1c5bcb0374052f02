"""3D ResNet, the papers' convolutional baseline for classification.

Source: He et al. 2016, "Deep Residual Learning", Table 1, with every 2D operation made 3D (Hara et al. 2018).
With `channels` = C, at an input of `(X, Y, Z)`:

    stem      conv7 stride 2, norm, ReLU, max of 3 stride 2            C, X/4
    stages    residual blocks, the 2nd to 4th stage with stride 2      C E, 2C E, 4C E, 8C E;  X/32
    head      mean over the grid, dropout, linear

E is 1 for depths 18 and 34 (two conv3 a block) and 4 for 50, 101, 152 (conv1, conv3, conv1 to four times the
width). The papers do not say which depth they trained.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from mambamed.networks.parts.blocks import (
    Norm,
    ResidualBlock,
    check_choice,
    make_norm,
    pad_to_two_voxels,
    run_checkpointed,
)

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_EXPANSION = 4


class Bottleneck(nn.Module):
    """conv1 - norm - ReLU - conv3 (strided) - norm - ReLU - conv1 to 4 W - norm, + shortcut, ReLU.

    W is the inner width. The shortcut is that of `ResidualBlock`.
    """

    def __init__(self, in_channels: int, inner: int, stride: int, norm: Norm) -> None:
        super().__init__()
        out_channels = _EXPANSION * inner
        self.conv1 = nn.Conv3d(in_channels, inner, 1, bias=False)
        self.norm1 = make_norm(norm, inner)
        self.conv2 = nn.Conv3d(inner, inner, 3, stride, 1, bias=False)
        self.norm2 = make_norm(norm, inner)
        self.conv3 = nn.Conv3d(inner, out_channels, 1, bias=False)
        self.norm3 = make_norm(norm, out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride, bias=False), make_norm(norm, out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> `(B, 4 W, X/stride, ...)`."""
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        y = functional.relu(self.norm2(self.conv2(y)), inplace=True)
        return functional.relu(self.norm3(self.conv3(y)) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """3D ResNet for classification.

    Args:
        depth: 18, 34, 50, 101 or 152.
        channels: C; 64 in the paper.
        blocks: residual blocks of each stage (default: those of the depth).
        dropout: probability, before the linear layer; the paper has none.
    """

    examples = ("", "depth: 34", "depth: 50")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        depth: int = 18,
        channels: int = 64,
        blocks: Sequence[int] | None = None,
        dropout: float = 0.0,
        norm: Norm = "batch",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_choice("depth", depth, _BLOCKS)
        self.divisor = (1, 1, 1)
        self.gradient_checkpointing = gradient_checkpointing
        self.stem = nn.Sequential(
            nn.Conv3d(in_channels, channels, 7, 2, 3, bias=False),
            make_norm(norm, channels),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, 2, 1),
        )
        self.stages = nn.ModuleList()
        before = channels
        block, expansion = (Bottleneck, _EXPANSION) if depth >= 50 else (ResidualBlock, 1)
        for level, count in enumerate(blocks or _BLOCKS[depth]):
            width, units = channels * 2**level, []
            for i in range(count):
                units.append(block(before, width, 2 if i == 0 and level > 0 else 1, norm))
                before = expansion * width
            self.stages.append(nn.Sequential(*units))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(before, out_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` -> `(B, out_channels)` logits."""
        x = pad_to_two_voxels(x, 2 ** (len(self.stages) + 1))
        for part in (self.stem, *self.stages):
            x = run_checkpointed(part, x, wanted=self.gradient_checkpointing)
        return self.linear(self.dropout(x.mean((2, 3, 4))))
