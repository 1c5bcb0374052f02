"""nnU-Net's plain convolutional U-Net.

Source: Isensee et al. 2021, Nature Methods 18:203; layers as its public v2 network (PlainConvUNet).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import nn

from mambamed.networks.blocks import Norm
from mambamed.networks.unet import ConvUnit, UNet, chain, he_initialize, make_topology, transposed_steps


class NnUNet(UNet):
    """nnU-Net, plain: `blocks` conv units a stage on both sides.

    Args:
        in_channels: channels of the input.
        out_channels: K.
        channels, max_channels, stages, strides, kernels: see `unet.make_topology`.
        blocks: conv units a stage.
        norm: "instance", or "batch".
        deep_supervision: in training, give the logits of every decoder step.
        gradient_checkpointing: compute each stage again in the backward pass instead of keeping it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 32,
        max_channels: int = 320,
        stages: int | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
        kernels: Sequence[int | Sequence[int]] | None = None,
        blocks: int = 2,
        norm: Norm = "instance",
        deep_supervision: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        topology = make_topology(channels, max_channels, stages, strides, kernels)
        unit = functools.partial(ConvUnit, norm=norm)
        inputs = (in_channels, *topology.widths[:-1])
        encoder: list[nn.Module] = [
            chain(unit, blocks, before, width, kernel, stride)
            for before, width, kernel, stride in zip(
                inputs, topology.widths, topology.kernels, topology.strides, strict=True
            )
        ]
        steps = transposed_steps(topology, unit, [blocks] * (len(encoder) - 1))
        super().__init__(topology, encoder, steps, out_channels, deep_supervision, gradient_checkpointing)
        he_initialize(self)
