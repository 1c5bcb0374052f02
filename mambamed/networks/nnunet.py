"""nnU-Net's plain convolutional U-Net.

Source: Isensee et al. 2021, Nature Methods 18:203; layers as its public v2 network (PlainConvUNet).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import nn

from mambamed.networks.parts.blocks import Norm
from mambamed.networks.parts.topology import PerStage, make_topology, per_stage
from mambamed.networks.parts.unet import ConvUnit, UNet, chain, he_initialize, transposed_steps


class NnUNet(UNet):
    """nnU-Net, plain: `blocks` conv units a stage on both sides.

    Args:
        channels, max_channels, ..., patch_size, spacing_mm: see `topology.make_topology`.
        blocks: conv units of a stage and of the decoder step back to it; one number, or one a stage.
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
        blocks: int | Sequence[int] = 2,
        norm: Norm = "instance",
        deep_supervision: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        topology = make_topology(channels, max_channels, stages, strides, kernels, patch_size, spacing_mm)
        unit = functools.partial(ConvUnit, norm=norm)
        counts = per_stage("blocks", blocks, len(topology.widths))
        inputs = (in_channels, *topology.widths[:-1])
        encoder: list[nn.Module] = [
            chain(unit, count, before, width, kernel, stride)
            for count, before, width, kernel, stride in zip(
                counts, inputs, topology.widths, topology.kernels, topology.strides, strict=True
            )
        ]
        steps = transposed_steps(topology, unit, counts[-2::-1])
        super().__init__(topology, encoder, steps, out_channels, deep_supervision, gradient_checkpointing)
        he_initialize(self)
