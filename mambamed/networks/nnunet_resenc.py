"""nnU-Net with a residual encoder (ResEnc M and L: the same layers, planned for other memory).

Source: Isensee et al. 2024, "nnU-Net Revisited", arXiv 2404.09556; layers as the public v2 network
(ResidualEncoderUNet): residual units 1, 3, 4, 6, 6, 6 and one conv unit a decoder step.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import nn

from mambamed.networks.parts.blocks import Norm
from mambamed.networks.parts.topology import PerStage, Topology, make_topology, per_stage
from mambamed.networks.parts.unet import (
    ConvUnit,
    ResidualUnit,
    UNet,
    chain,
    he_initialize,
    transposed_steps,
)

_BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6)


class NnUNetResEnc(UNet):
    """nnU-Net ResEnc.

    Args:
        channels, max_channels, ..., patch_size, spacing_mm: see `topology.make_topology`.
        blocks: residual units of each stage; 1, 3, 4, 6, 6, ... where not given.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 32,
        max_channels: int = 320,
        stages: int | None = None,
        strides: PerStage | None = None,
        kernels: PerStage | None = None,
        patch_size: Sequence[int] | None = None,
        spacing_mm: Sequence[float] | None = None,
        blocks: int | Sequence[int] | None = None,
        norm: Norm = "instance",
        deep_supervision: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        topology = make_topology(channels, max_channels, stages, strides, kernels, patch_size, spacing_mm)
        count = len(topology.widths)
        counts = per_stage("blocks", blocks or _BLOCKS[:count], count)
        encoder: list[nn.Module] = residual_encoder(in_channels, topology, counts, norm)
        unit = functools.partial(ConvUnit, norm=norm)
        steps = transposed_steps(topology, unit, [1] * (len(encoder) - 1))
        super().__init__(topology, encoder, steps, out_channels, deep_supervision, gradient_checkpointing)
        he_initialize(self)


def residual_encoder(
    in_channels: int, topology: Topology, counts: Sequence[int], norm: Norm
) -> list[nn.Module]:
    """Stem (one conv unit) and residual units of every stage; the stem belongs to the first."""
    unit = functools.partial(ResidualUnit, norm=norm)
    stem = ConvUnit(in_channels, topology.widths[0], topology.kernels[0], norm=norm)
    stages: list[nn.Module] = []
    before = topology.widths[0]
    for count, width, kernel, stride in zip(
        counts, topology.widths, topology.kernels, topology.strides, strict=True
    ):
        units = chain(unit, count, before, width, kernel, stride)
        stages.append(nn.Sequential(stem, units) if not stages else units)
        before = width
    return stages
