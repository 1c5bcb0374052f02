"""U-Mamba: nnU-Net's residual U-Net with one Mamba at the bottom (Bot), or one after every stage (Enc).

Source: Ma et al., "U-Mamba: Enhancing Long-range Dependency for Biomedical Image Segmentation",
arXiv 2401.04722; layers as in the public code: its own residual block (a 1x1x1 shortcut with bias and without
norm), nearest upsampling, and one block instead of two in the deeper half of both sides.

In Enc, if a stage has no more voxels than channels, the channels are the tokens and the voxels their width:
such weights fit only one patch size, so that `patch_size` is required and other grids are rejected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks.nnmamba_v1 import VoxelMamba
from mambamed.networks.parts.blocks import AxisOrder, Norm, check_choice, make_norm, scan_axes
from mambamed.networks.parts.dense import PublicOption, Row
from mambamed.networks.parts.topology import Triple, make_topology
from mambamed.networks.parts.unet import (
    COPIES,
    ONE,
    SLOPE,
    DecoderStep,
    ResidualUnit,
    UNet,
    residual_unit_names,
    same_padding,
    strided_shape,
)
from mambamed.ssm.orders import grid_from_tokens, tokens_from_grid


class BiasedResidual(nn.Module):
    """conv - norm - LeakyReLU - conv - norm, + strided 1x1x1 conv with bias, LeakyReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Triple, stride: Triple, norm: Norm
    ) -> None:
        super().__init__()
        padding = same_padding(kernel)
        self.conv1 = nn.Conv3d(in_channels, out_channels, kernel, stride, padding)
        self.norm1 = make_norm(norm, out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, kernel, 1, padding)
        self.norm2 = make_norm(norm, out_channels)
        self.shortcut = nn.Conv3d(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` -> `(B, out_channels, X/stride, ...)`."""
        y = functional.leaky_relu(self.norm1(self.conv1(x)), SLOPE, inplace=True)
        return functional.leaky_relu(self.norm2(self.conv2(y)) + self.shortcut(x), SLOPE, inplace=True)


class ChannelMamba(VoxelMamba):
    """Mamba(LN(tokens)) with one token per channel, whose width is the number of voxels."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        rows = tokens_from_grid(x, self.axes).transpose(1, 2)  # (B, C, voxels)
        return grid_from_tokens(self.mamba(self.norm(rows)).transpose(1, 2), x.shape[2:], self.axes)


class NearestUp(nn.Module):
    """Nearest upsampling by the stride, and a 1x1x1 convolution to the skip's width.

    Departs: the public code convolves after the upsampling, for up to eight times the voxels; the results
    are equal.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Triple) -> None:
        super().__init__()
        self.stride = tuple(float(s) for s in stride)
        self.conv = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` -> `(B, out_channels, X stride, ...)`."""
        return functional.interpolate(self.conv(x), scale_factor=self.stride, mode="nearest")


class UMamba(UNet):
    """U-Mamba.

    Args:
        variant: "bot" or "enc".
        patch_size: of the training; required by "enc", whose layers and fixed grid depend on it.
        plan: see `topology.make_topology`.
    """

    examples = ("", "variant: enc, patch_size: [128, 128, 128]")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        variant: Literal["bot", "enc"] = "bot",
        patch_size: Sequence[int] | None = None,
        mixer: Literal["mamba", "none"] = "mamba",
        norm: Norm = "instance",
        deep_supervision: bool = True,
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
        **plan: Any,
    ) -> None:
        check_choice("variant", variant, ("bot", "enc"))
        check_choice("mixer", mixer, ("mamba", "none"))
        topology = make_topology(patch_size=patch_size, **plan)
        widths, count = topology.widths, len(topology.widths)
        stem = _blocks(in_channels, widths[0], topology.kernels[0], ONE, 2, norm)
        counts = [2 if level < math.ceil(count / 2) else 1 for level in range(count)]
        stages = zip((widths[0], *widths), widths, topology.kernels, topology.strides, counts, strict=False)
        first, *others = (_blocks(*stage, norm) for stage in stages)
        encoder: list[nn.Module] = [nn.Sequential(stem, first), *others]
        if mixer == "mamba":
            layers = _mamba_layers(variant, widths, topology.strides, patch_size, scan_axes(axis_order))
            encoder = [nn.Sequential(*pair) for pair in zip(encoder, layers, strict=True)]
        steps = []
        for level in range(count - 1, 0, -1):
            units = 2 if len(steps) < math.ceil((count - 1) / 2 + 0.5) else 1
            width, kernel = widths[level - 1], topology.kernels[level - 1]
            up = NearestUp(widths[level], width, topology.strides[level])
            steps.append(DecoderStep(up, _blocks(2 * width, width, kernel, ONE, units, norm)))
        super().__init__(topology, encoder, steps, out_channels, deep_supervision, gradient_checkpointing)
        self.mixer = mixer

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """The variant; strides have no keys, because nothing upsamples by weights; see `public_names`."""
        found = []
        if any(key.startswith("mamba_layer.") for key in public):
            found.append(PublicOption("variant", "bot", "shown", "The file has one Mamba."))
        elif any(key.startswith("encoder.mamba_layers.") for key in public):
            found.append(PublicOption("variant", "enc", "shown", "The file has a Mamba per stage."))
        stages = len({key.split(".")[2] for key in public if key.startswith("encoder.stages.")})
        if stages > 1 and not options.keys() & {"strides", "patch_size", "stages"}:
            remark = "nnU-Net's plans state the strides of the stages."
            found.append(PublicOption("strides", [1, *[2] * (stages - 1)], "assumed", remark))
        return found

    def public_names(self) -> list[Row]:
        """Rows for U-Mamba's `nets`; see `mambamed.networks.public_names`."""
        inner = "" if self.mixer == "none" else ".0"  # next to the Mamba layer
        stage = lambda i, j: f"stages.{i}{inner}.{j}" if i else f"stages.0{inner}.1.{j}"  # noqa: E731
        rows: list[Row] = [
            *COPIES,
            (r"mamba_layer\.", lambda: f"stages.{len(self.stages) - 1}.1."),
            (r"encoder\.mamba_layers\.(\d)\.", lambda i: f"stages.{i}.1."),
            (r"decoder\.upsample_layers\.(\d)\.", lambda i: f"steps.{i}.up."),
            *self.head_names(),
        ]
        places: list[tuple[str, Callable[..., str]]] = [
            (r"encoder\.stem\.(\d+)", lambda j: f"stages.0{inner}.0.{j}"),
            (r"encoder\.stages\.(\d)\.(\d+)", stage),
            (r"decoder\.stages\.(\d)\.(\d+)", lambda i, j: f"steps.{i}.convolve.{j}"),
        ]
        for public, ours in places:
            rows += residual_unit_names(public, ours)
            # BasicResBlock; its third convolution is the shortcut.
            rows.append((rf"{public}\.conv3\.", lambda *at, ours=ours: f"{ours(*at)}.shortcut."))
            part = rf"{public}\.((?:conv|norm)[12])\."
            rows.append((part, lambda *at, ours=ours: f"{ours(*at[:-1])}.{at[-1]}."))
        return rows


def _blocks(
    in_channels: int, width: int, kernel: Triple, stride: Triple, units: int, norm: Norm
) -> nn.Sequential:
    first = BiasedResidual(in_channels, width, kernel, stride, norm)
    return nn.Sequential(first, *(ResidualUnit(width, width, kernel, ONE, norm) for _ in range(1, units)))


def _mamba_layers(
    variant: str,
    widths: Sequence[int],
    strides: Sequence[Triple],
    patch_size: Sequence[int] | None,
    axes: Triple,
) -> list[nn.Module]:
    """One layer per stage; for "bot" only the last is a Mamba."""
    if variant == "bot":
        return [*(nn.Identity() for _ in widths[:-1]), VoxelMamba(widths[-1], axes=axes)]
    if patch_size is None:
        raise RecipeError("network.patch_size: umamba enc needs it. Set it to the patch size of training.")
    layers: list[nn.Module] = []
    grid: tuple[int, ...] = tuple(int(size) for size in patch_size)
    for width, stride in zip(widths, strides, strict=True):
        grid = strided_shape(grid, stride)
        voxels = math.prod(grid)
        layers.append(ChannelMamba(voxels, axes=axes) if voxels <= width else VoxelMamba(width, axes=axes))
    return layers
