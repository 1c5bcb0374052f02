"""The stages of SegMamba-V2's encoder: large kernels with a gate, and a Mamba that reads in three orders.

Source: Xing et al. 2025, IEEE TMI, doi 10.1109/TMI.2025.3589797, and the authors' code of June 2025, which
this follows. Their figure shows another network: parallel convolutions for downsampling, depthwise
convolutions, gated spatial convolutions and MLPs in the stages, uncertainty in the skips.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mambamed.networks.parts.blocks import Norm, Triple, make_norm
from mambamed.networks.parts.dense import Row
from mambamed.ssm import Mamba
from mambamed.ssm.orders import grid_from_tokens, tokens_from_grid

# Each swaps the first axis with another one, or none; these are not the cyclic orders.
_ORDERS: tuple[Triple, ...] = ((0, 1, 2), (1, 0, 2), (2, 1, 0))

V2_NAMES: list[Row] = [
    (r"vit\.downsample_layers\.(\d)\.0\.", lambda i: f"stages.{i}.0."),
    (
        r"vit\.gscs\.(\d)\.(\d+)\.(deep|shortcut)_path\.(\d)\.block\.0\.",
        lambda i, j, path, k: f"stages.{i}.1.{j}.{path}.{k}.0.",
    ),
    (r"vit\.gscs\.(\d)\.(\d+)\.se\.fc\.", lambda i, j: f"stages.{i}.1.{j}.weigh."),
    (r"vit\.stages\.(\d)\.(\d+)\.", lambda i, j: f"stages.{i}.2.{j}."),
]


def large_kernel_stage(
    in_channels: int, channels: int, units: int, layers: int, norm: Norm, axes: Triple
) -> nn.Sequential:
    """conv3 stride 2 without norm or activation, then large-kernel units, then Mamba layers."""
    return nn.Sequential(
        nn.Conv3d(in_channels, channels, 3, 2, 1),
        nn.Sequential(*(LargeKernelUnit(channels, norm) for _ in range(units))),
        nn.Sequential(*(ThreeOrderMamba(channels, axes) for _ in range(layers))),
    )


def conv_norm_relu(channels: int, kernel: int, norm: Norm, dilation: int = 1) -> nn.Sequential:
    """Convolution on the same grid, norm without affine parameters, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv3d(channels, channels, kernel, padding=padding, dilation=dilation)
    return nn.Sequential(conv, make_norm(norm, channels, affine=False), nn.ReLU(inplace=True))


class LargeKernelUnit(nn.Module):
    """s * gate(mean of s) with s = deep(x) + shortcut(x) + x: the identity is inside the gate.

    deep: kernels 5, 3, and 3 with dilation 2; shortcut: 3, 1; each convolution with norm and ReLU. The gate
    is Linear to an eighth, ReLU, Linear, sigmoid (squeeze-and-excitation).
    """

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.deep = nn.Sequential(
            conv_norm_relu(channels, 5, norm),
            conv_norm_relu(channels, 3, norm),
            conv_norm_relu(channels, 3, norm, dilation=2),
        )
        self.shortcut = nn.Sequential(conv_norm_relu(channels, 3, norm), conv_norm_relu(channels, 1, norm))
        squeezed = max(channels // 8, 1)
        self.weigh = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(inplace=True), nn.Linear(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        s = self.deep(x) + self.shortcut(x) + x
        return s * self.weigh(s.mean((2, 3, 4)))[:, :, None, None, None]


class ThreeOrderMamba(nn.Module):
    """x + the sum of Mamba(LN(x)) in three orders, with one LN and one Mamba for all; forward only.

    Args:
        axes: of the grid as D, H, W, to which the three orders refer.
    """

    def __init__(self, channels: int, axes: Triple) -> None:
        super().__init__()
        self.orders: list[Triple] = [(axes[a], axes[b], axes[c]) for a, b, c in _ORDERS]
        self.norm = nn.LayerNorm(channels)
        self.mamba = Mamba(channels, d_state=16, d_conv=4, expand=2)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        y = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        tokens = torch.cat([tokens_from_grid(y, order) for order in self.orders])  # (3 B, X Y Z, C)
        for part, order in zip(self.mamba(tokens).chunk(3), self.orders, strict=True):
            x = x + grid_from_tokens(part, x.shape[2:], order)
        return x
