"""3D UX-Net: a convolutional encoder with kernels of 7^3 in place of Swin attention, a UNETR-like decoder.

Source: Lee et al., "3D UX-Net: A Large Kernel Volumetric ConvNet Modernizing Hierarchical Transformer for
Medical Image Segmentation", ICLR 2023, arXiv 2209.15076, and the authors' code. With `channels` = C:

    stage i  0..3, width C 2^i, stride 2^(i+1): down, then blocks
    down     stem: dense conv7 stride 2, LN; else LN, conv2 stride 2. LN is over the channels
    block    x + gamma * conv1(GELU(conv1(LN(conv7(x))))), all in groups of one channel: depthwise conv7, and
             pointwise C -> 4C -> C with 1 -> 4 -> 1 numbers per channel, so that a stage mixes no channels.
             gamma is learned per channel and starts at 1e-6
    output   LN, only for the decoder
    decoder  that of SegMamba: residual blocks of the input and of each output, four transposed conv2 with
             concatenation and a residual block, a last residual block, conv1 -> K

Departs from the public code, which has 48 channels before the last convolution whatever the width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from mambamed.errors import RecipeError
from mambamed.networks.parts.blocks import AxisOrder, ChannelNorm, Norm, run_checkpointed
from mambamed.networks.parts.dense import DenseNetwork, Row
from mambamed.networks.segmamba import UNETR_NAMES, ResidualConv, UpBlock


class Block(nn.Module):
    """Depthwise conv7, LN over the channels, an MLP of each channel alone, scaled by gamma, + input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 7, padding=3, groups=channels)
        self.norm = ChannelNorm(channels)
        self.mlp = nn.Sequential(
            nn.Conv3d(channels, 4 * channels, 1, groups=channels),
            nn.GELU(),
            nn.Conv3d(4 * channels, channels, 1, groups=channels),
        )
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, D, H, W)` -> the same shape."""
        if x.device.type == "cpu":
            # Its backward pass takes 2.5 s, with contiguous channels 141 s (48 x 48^3 numbers, two threads).
            x = x.contiguous(memory_format=torch.channels_last_3d)
        return x + self.gamma.view(-1, 1, 1, 1) * self.mlp(self.norm(self.conv(x)))


class UXNet(DenseNetwork):
    """3D UX-Net for segmentation.

    Args:
        channels: C, width of the first stage, doubled with each of the four; 48 in the paper.
        hidden: width at the bottom of the decoder (default: 16 C).
        depths: blocks of each stage.
        norm: of the decoder.
    """

    public_axis_order: AxisOrder = "xyz"
    small: ClassVar = dict(channels=4, depths=[1, 1, 1, 1])

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 48,
        hidden: int | None = None,
        depths: Sequence[int] = (2, 2, 2, 2),
        norm: Norm = "instance",
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        if len(depths) != 4:
            raise RecipeError(
                f"network.depths: expected four numbers, got {list(depths)}. Give one per stage."
            )
        super().__init__((16, 16, 16), axis_order=axis_order)
        self.gradient_checkpointing = gradient_checkpointing
        widths = [channels * 2**stage for stage in range(4)]
        bottom = hidden or 2 * widths[-1]
        stem = nn.Sequential(nn.Conv3d(in_channels, channels, 7, 2, 3), ChannelNorm(channels))
        halve = (
            nn.Sequential(ChannelNorm(width), nn.Conv3d(width, 2 * width, 2, 2)) for width in widths[:-1]
        )
        self.downs = nn.ModuleList([stem, *halve])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        self.outputs = nn.ModuleList(ChannelNorm(width) for width in widths)
        into = zip((in_channels, *widths), (*widths, bottom), strict=True)
        self.encoders = nn.ModuleList(ResidualConv(before, after, norm) for before, after in into)
        back = zip((bottom, *widths[:0:-1]), widths[::-1], strict=True)
        self.decoders = nn.ModuleList(UpBlock(before, after, norm) for before, after in back)
        self.last = ResidualConv(channels, channels, norm)
        self.head = nn.Conv3d(channels, out_channels, 1)

    def compute(self, x: Tensor) -> list[Tensor]:
        """`(B, in_channels, D, H, W)` -> the logits alone."""
        again = self.gradient_checkpointing
        encoders = list(self.encoders)
        skips = [run_checkpointed(encoders[0], x, wanted=again)]
        stages = zip(self.downs, self.stages, self.outputs, encoders[1:], strict=True)
        for down, stage, output, encoder in stages:
            x = run_checkpointed(stage, run_checkpointed(down, x, wanted=again), wanted=again)
            skips.append(run_checkpointed(encoder, output(x), wanted=again))
        x = skips.pop()
        for decoder in self.decoders:
            x = run_checkpointed(decoder, x, skips.pop(), wanted=again)
        return [self.head(run_checkpointed(self.last, x, wanted=again))]

    def public_names(self) -> list[Row]:
        """Rows for the public code; see `mambamed.networks.public_names`."""
        parts = {"gamma": "gamma", "dwconv.": "conv.", "norm.": "norm.norm.", "pwconv1.": "mlp.0."}
        parts["pwconv2."] = "mlp.2."
        part = "|".join(parts).replace(".", r"\.")
        down = r"uxnet_3d\.downsample_layers\."
        return [
            (rf"{down}0\.1\.", lambda: "downs.0.1.norm."),
            (rf"{down}([1-3])\.0\.", lambda i: f"downs.{i}.0.norm."),
            (rf"{down}(\d)\.(\d)\.", lambda i, j: f"downs.{i}.{j}."),
            (rf"uxnet_3d\.stages\.(\d)\.(\d+)\.({part})", lambda i, j, of: f"stages.{i}.{j}.{parts[of]}"),
            (r"uxnet_3d\.norm(\d)\.", lambda i: f"outputs.{i}.norm."),
            *UNETR_NAMES,
        ]
