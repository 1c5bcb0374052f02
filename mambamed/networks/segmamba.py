"""SegMamba: a tri-orientated Mamba encoder with gated spatial convolution, and a UNETR-like decoder.

Source: Xing et al., "SegMamba: Long-range Sequential Modeling Mamba For 3D Medical Image Segmentation",
arXiv 2401.13560. Two forms of it were public code, and differ from the text:

`version="gsc"` (the MICCAI code, the default), per stage of width C:

    down   stem: conv7 stride 2; else instance norm, conv2 stride 2
    GSC    x + ReLU(IN(conv1(a + b))), a = two conv3 with IN and ReLU, b = conv1 with IN and ReLU
    Mamba  `depth` times x + Mamba(LN(tokens)), in three orders: forward, backward, inter-slice
    out    IN, then 1x1x1 conv -> 2C, GELU, 1x1x1 conv -> C; to the decoder only

`version="first"` (January 2024): layer norms for the instance norms of the encoder, no GSC, two orders
(forward, backward), no residual around the Mamba, 4C instead of 2C. The paper's Eq. 1 has residuals around
Mamba and MLP; no public code ever had both.

The text calls the stem depth-wise; the code's is dense, and so is ours. In the public code the inter-slice
order cuts a sequence into a fixed number of runs, which are slices for a 128^3 patch alone; `nslices="auto"`
takes the stage's own depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks.blocks import crop_to, pad_to_divisor, run_checkpointed
from mambamed.ssm import BidirectionalMamba
from mambamed.ssm.orders import grid_from_tokens, tokens_from_grid

Version = Literal["gsc", "first"]
_WIDTHS = (1, 2, 4, 8)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of `(B, C, X, Y, Z)`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class GatedSpatialConv(nn.Module):
    """x + ReLU(IN(conv1(a + b))): two convolutions beside a pointwise one (section 2.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Sequential(_conv_norm_relu(channels, 3), _conv_norm_relu(channels, 3))
        self.gate = _conv_norm_relu(channels, 1)
        self.fuse = _conv_norm_relu(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        return x + self.fuse(self.spatial(x) + self.gate(x))


def _conv_norm_relu(channels: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv3d(channels, channels, kernel, padding=kernel // 2)
    return nn.Sequential(conv, nn.InstanceNorm3d(channels), nn.ReLU())


class MambaLayer(nn.Module):
    """Mamba(LN(tokens)) in two or three orders, with or without a residual around it.

    Args:
        channels: width.
        version: see the module.
        nslices: runs of the inter-slice order; None = the depth (first axis) of the grid.
    """

    def __init__(self, channels: int, version: Version, nslices: int | None) -> None:
        super().__init__()
        self.residual = version == "gsc"
        self.nslices = nslices
        self.norm = nn.LayerNorm(channels)
        directions = ("forward", "backward", "slice") if version == "gsc" else ("forward", "backward")
        self.mamba = BidirectionalMamba(channels, d_state=16, d_conv=4, expand=2, directions=directions)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        tokens = self.mamba(self.norm(tokens_from_grid(x)), nslices=self.nslices or x.shape[2])
        y = grid_from_tokens(tokens, x.shape[2:])
        return x + y if self.residual else y


class Stage(nn.Module):
    """Downsampling, GSC, Mamba layers: what is handed to the next stage."""

    def __init__(
        self, down: nn.Module, channels: int, depth: int, version: Version, nslices: int | None, mixer: str
    ) -> None:
        super().__init__()
        self.down = down
        self.gsc = GatedSpatialConv(channels) if version == "gsc" else nn.Identity()
        layers = depth if mixer != "none" else 0
        self.layers = nn.Sequential(*(MambaLayer(channels, version, nslices) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C', X, Y, Z)` -> `(B, C, X/2, Y/2, Z/2)`."""
        return self.layers(self.gsc(self.down(x)))


class ResidualConv(nn.Module):
    """conv3 - IN - LeakyReLU - conv3 - IN, + input (1x1x1 conv and IN where the width changes), LeakyReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv3d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` -> `(B, out_channels, X, Y, Z)`."""
        y = functional.leaky_relu(functional.instance_norm(self.conv1(x)), 0.01)
        y = functional.instance_norm(self.conv2(y))
        short = x if self.shortcut is None else functional.instance_norm(self.shortcut(x))
        return functional.leaky_relu(y + short, 0.01)


class UpBlock(nn.Module):
    """Transposed convolution by 2, concatenation with the skip, residual block."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, out_channels, 2, 2, bias=False)
        self.block = ResidualConv(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` and its skip at twice the grid -> `(B, out_channels, 2X, 2Y, 2Z)`."""
        return self.block(torch.cat([self.up(x), skip], dim=1))


class SegMamba(nn.Module):
    """SegMamba for segmentation.

    Args:
        in_channels: channels of the input.
        out_channels: K.
        channels: width of the first stage; 48 in the paper, doubled with each of the four.
        hidden: width of the bottom; 16 times `channels` where not given.
        depths: Mamba layers of each stage.
        version: "gsc" or "first", see the module.
        nslices: "auto", or the four fixed numbers of the public code, (64, 32, 16, 8).
        mixer: "mamba", or "none": the Mamba layers are left out, everything else stays.
        gradient_checkpointing: compute each stage again in the backward pass instead of keeping it.

    Attributes:
        divisor: 32 along each axis: 16 for the strides, and two voxels at the bottom for its instance norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 48,
        hidden: int | None = None,
        depths: Sequence[int] = (2, 2, 2, 2),
        version: Version = "gsc",
        nslices: Literal["auto"] | Sequence[int] = "auto",
        mixer: Literal["mamba", "none"] = "mamba",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if version not in ("gsc", "first") or mixer not in ("mamba", "none"):
            raise RecipeError(f"network: version {version!r} is gsc or first, mixer {mixer!r} mamba or none")
        if len(depths) != 4 or (nslices != "auto" and len(nslices) != 4):
            raise RecipeError("network: depths and nslices are four numbers, one a stage")
        widths = [channels * factor for factor in _WIDTHS]
        hidden = hidden or 2 * widths[-1]
        self.divisor = (32, 32, 32)
        self.gradient_checkpointing = gradient_checkpointing
        self.stages = nn.ModuleList()
        self.outputs = nn.ModuleList()
        for i, width in enumerate(widths):
            down = _down(in_channels if i == 0 else widths[i - 1], width, version, first=i == 0)
            slices = None if nslices == "auto" else int(nslices[i])
            self.stages.append(Stage(down, width, depths[i], version, slices, mixer))
            self.outputs.append(_output(width, version))
        self.encoders = nn.ModuleList(
            ResidualConv(before, after)
            for before, after in zip((in_channels, *widths), (*widths, hidden), strict=True)
        )
        self.decoders = nn.ModuleList(
            UpBlock(before, after)
            for before, after in zip((hidden, *widths[:0:-1]), widths[::-1], strict=True)
        )
        self.last = ResidualConv(channels, channels)
        self.head = nn.Conv3d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` -> `(B, K, X, Y, Z)` logits."""
        shape, x = x.shape[2:], pad_to_divisor(x, self.divisor)
        skips = [self.encoders[0](x)]
        features = x
        for stage, output, encoder in zip(self.stages, self.outputs, self.encoders[1:], strict=True):
            features = run_checkpointed(stage, features, wanted=self.gradient_checkpointing)
            skips.append(encoder(output(features)))
        y = skips.pop()
        for decoder, skip in zip(self.decoders, reversed(skips), strict=True):
            y = decoder(y, skip)
        return crop_to(self.head(self.last(y)), shape)


def _down(in_channels: int, out_channels: int, version: Version, first: bool) -> nn.Sequential:
    if first:
        stem = nn.Conv3d(in_channels, out_channels, 7, 2, 3)
        return (
            nn.Sequential(stem, ChannelNorm(out_channels, 1e-6))
            if version == "first"
            else nn.Sequential(stem)
        )
    norm = nn.InstanceNorm3d(in_channels) if version == "gsc" else ChannelNorm(in_channels, 1e-6)
    return nn.Sequential(norm, nn.Conv3d(in_channels, out_channels, 2, 2))


def _output(channels: int, version: Version) -> nn.Sequential:
    """Norm and pointwise MLP on the way to the decoder."""
    norm = nn.InstanceNorm3d(channels) if version == "gsc" else ChannelNorm(channels, 1e-6)
    inner = channels * (2 if version == "gsc" else 4)
    return nn.Sequential(norm, nn.Conv3d(channels, inner, 1), nn.GELU(), nn.Conv3d(inner, channels, 1))
