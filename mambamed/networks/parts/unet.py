"""The U-Net of nnU-Net's plans: what its plain, residual and Mamba forms have in common.

A topology gives width, stride and kernel of each stage; each network defines the layers of its stages. A
decoder step upsamples to the skip's grid and width, concatenates [up, skip] and convolves; every step has a
1x1x1 head, for deep supervision.

Source: Isensee et al. 2021 (nnU-Net), "Blueprint parameters"; the layers are those of its public v2 networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.networks.parts.averaging import Averaged
from mambamed.networks.parts.blocks import (
    Norm,
    crop_to,
    make_norm,
    pad_to_divisor,
    run_checkpointed,
    strided_shape,
)
from mambamed.networks.parts.dense import Row
from mambamed.networks.parts.topology import Topology, Triple

Block = Callable[[int, int, Triple, Triple], nn.Module]  # in, out, kernel, stride
SLOPE = 0.01
ONE: Triple = (1, 1, 1)  # no stride


# Names of dynamic-network-architectures. Its units list their layers twice, its decoder contains the encoder.
COPIES: list[Row] = [(r"decoder\.encoder\.", None), (r".*\.all_modules\.", None)]
UNIT = r"(conv|norm)\."  # of a conv unit, whose parts are numbered in ours
DECODER_NAMES: list[Row] = [
    (r"decoder\.transpconvs\.(\d)\.", lambda i: f"steps.{i}.up."),
    (
        rf"decoder\.stages\.(\d)\.convs\.(\d+)\.{UNIT}",
        lambda i, j, p: f"steps.{i}.convolve.{j}.{unit_part(p)}",
    ),
]


def unit_part(public: str) -> str:
    """Number of a part of a conv unit, by its public name."""
    return "0." if public == "conv" else "1."


def residual_unit_names(public: str, ours: Callable[..., str]) -> list[Row]:
    """Rows of a residual unit at a place of the public network, and at the same place of ours."""
    return [
        (rf"{public}\.conv1\.{UNIT}", lambda *at: f"{ours(*at[:-1])}.first.{unit_part(at[-1])}"),
        (rf"{public}\.conv2\.{UNIT}", lambda *at: f"{ours(*at[:-1])}.{at[-1]}."),
        (rf"{public}\.skip\.(\d)\.conv\.", lambda *at: f"{ours(*at[:-1])}.shortcut.{at[-1]}."),
        (rf"{public}\.skip\.(\d)\.norm\.", lambda *at: f"{ours(*at[:-1])}.shortcut.{at[-1] + 1}."),
    ]


class ConvUnit(nn.Sequential):
    """conv (padding (k - 1) / 2) - norm - LeakyReLU 0.01."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Triple,
        stride: Triple,
        norm: Norm,
        bias: bool = True,
    ) -> None:
        conv = nn.Conv3d(in_channels, out_channels, kernel, stride, same_padding(kernel), bias=bias)
        super().__init__(conv, make_norm(norm, out_channels), nn.LeakyReLU(SLOPE, inplace=True))


def same_padding(kernel: Triple) -> Triple:
    """Padding that keeps the grid at stride 1."""
    return (kernel[0] - 1) // 2, (kernel[1] - 1) // 2, (kernel[2] - 1) // 2


class ResidualUnit(nn.Module):
    """BasicBlockD: conv unit (strided) - conv - norm, + shortcut, LeakyReLU.

    The shortcut is the input, averaged over the stride if there is one, then through a 1x1x1 convolution
    without bias and a norm if the width changes (ResNet-D).

    Source: He et al. 2019 (Bag of tricks), as in nnU-Net's residual encoder.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Triple, stride: Triple, norm: Norm
    ) -> None:
        super().__init__()
        self.first = ConvUnit(in_channels, out_channels, kernel, stride, norm)
        self.conv = nn.Conv3d(out_channels, out_channels, kernel, padding=same_padding(kernel))
        self.norm = make_norm(norm, out_channels)
        shortcut: list[nn.Module] = [Averaged(stride)] if max(stride) > 1 else []
        if in_channels != out_channels:
            shortcut += [nn.Conv3d(in_channels, out_channels, 1, bias=False), make_norm(norm, out_channels)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` -> `(B, out_channels, X/stride, ...)`."""
        y = self.norm(self.conv(self.first(x)))
        return functional.leaky_relu(y + self.shortcut(x), SLOPE, inplace=True)


class DecoderStep(nn.Module):
    """Upsample to the skip's grid and width, concatenate [up, skip], convolve from twice its width to it."""

    def __init__(self, up: nn.Module, convolve: nn.Module) -> None:
        super().__init__()
        self.up, self.convolve = up, convolve

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """The coarser features and the skip -> features on the skip's grid, of its width."""
        return self.convolve(torch.cat([self.up(x), skip], dim=1))


class UNet(nn.Module):
    """Encoder stages, decoder steps and heads; inputs of other shapes than multiples of `divisor` are padded.

    Args:
        stages: each with its stride; their outputs are the skips.
        steps: decoder steps, the coarsest first.
    """

    def __init__(
        self,
        topology: Topology,
        stages: Sequence[nn.Module],
        steps: Sequence[nn.Module],
        out_channels: int,
        deep_supervision: bool,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.divisor = topology.divisor
        self.deep_supervision = deep_supervision
        self.gradient_checkpointing = gradient_checkpointing
        self.stages = nn.ModuleList(stages)
        self.steps = nn.ModuleList(steps)
        widths = topology.widths[-2::-1] if deep_supervision else topology.widths[:1]
        self.heads = nn.ModuleList(nn.Conv3d(width, out_channels, 1) for width in widths)
        self.deep_supervision_strides = list(topology.scales[: -1 if deep_supervision else 1])
        he_initialize(self)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """`(B, in_channels, X, Y, Z)` -> `(B, K, X, Y, Z)` logits; a list in training with depths."""
        shape = x.shape[2:]
        skips = self.encode(pad_to_divisor(x, self.divisor))
        x = skips.pop()
        features = []
        for step in self.steps:
            x = step(x, skips.pop())
            features.append(x)
        if not (self.training and self.deep_supervision):
            return crop_to(self.heads[-1](x), shape)
        depths = zip(self.heads, features, reversed(self.deep_supervision_strides), strict=True)
        return [crop_to(head(f), strided_shape(shape, s)) for head, f, s in depths][::-1]

    def encode(self, x: Tensor) -> list[Tensor]:
        """`(B, in_channels, X, Y, Z)`, multiples of `divisor` -> the outputs of the stages."""
        skips: list[Tensor] = []
        for stage in self.stages:
            x = run_checkpointed(stage, x, wanted=self.gradient_checkpointing)
            skips.append(x)
        return skips

    def head_names(self) -> list[Row]:
        """Rows of the heads. The public networks have all of them, even without deep supervision."""
        if self.deep_supervision:
            return [(r"decoder\.seg_layers\.(\d)\.", lambda i: f"heads.{i}.")]
        finest = (rf"decoder\.seg_layers\.{len(self.steps) - 1}\.", lambda: "heads.0.")
        return [finest, (r"decoder\.seg_layers\.", None)]


def chain(block: Block, count: int, before: int, width: int, kernel: Triple, stride: Triple) -> nn.Sequential:
    """`count` blocks in sequence; the first has the stride and changes the width."""
    first = block(before, width, kernel, stride)
    return nn.Sequential(first, *(block(width, width, kernel, ONE) for _ in range(1, count)))


def encoder_stages(
    in_channels: int, topology: Topology, block: Block, counts: Sequence[int]
) -> list[nn.Module]:
    """One chain of blocks per stage."""
    inputs = (in_channels, *topology.widths[:-1])
    plan = zip(counts, inputs, topology.widths, topology.kernels, topology.strides, strict=True)
    return [chain(block, *stage) for stage in plan]


def transposed_steps(
    topology: Topology, block: Block, counts: Sequence[int], bias: bool = True
) -> list[DecoderStep]:
    """Decoder steps that upsample by a transposed convolution of the stage's stride; the coarsest first.

    `bias`: of the transposed convolutions.
    """
    steps = []
    for level in range(len(topology.widths) - 1, 0, -1):
        below, width, stride = topology.widths[level], topology.widths[level - 1], topology.strides[level]
        up = nn.ConvTranspose3d(below, width, stride, stride, bias=bias)
        blocks = chain(block, counts[len(steps)], 2 * width, width, topology.kernels[level - 1], ONE)
        steps.append(DecoderStep(up, blocks))
    return steps


def he_initialize(network: nn.Module) -> None:
    """He initialization of 3D convolutions, biases zero; the last norm of a residual unit starts at zero.

    Source: He et al. 2015, slope 0.01; nnU-Net's InitWeights_He and init_last_bn_before_add_to_0.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            nn.init.kaiming_normal_(module.weight, a=SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, ResidualUnit):
            for parameter in module.norm.parameters():  # a norm may have none
                nn.init.zeros_(parameter)
