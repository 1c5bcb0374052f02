"""nnU-Net's plain convolutional U-Net.

Source: Isensee et al. 2021, Nature Methods 18:203; layers as its public v2 network (PlainConvUNet).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from mambamed.networks.parts.blocks import Norm
from mambamed.networks.parts.dense import Row
from mambamed.networks.parts.topology import make_topology, per_stage
from mambamed.networks.parts.unet import (
    COPIES,
    DECODER_NAMES,
    UNIT,
    ConvUnit,
    UNet,
    encoder_stages,
    transposed_steps,
    unit_part,
)


class NnUNet(UNet):
    """nnU-Net, plain: `blocks` conv units per stage on both sides.

    Args:
        blocks: conv units of a stage and of the decoder step back to it; one number, or one per stage.
        decoder_blocks: conv units of each decoder step, the coarsest first, if they differ from `blocks`.
        plan: see `topology.make_topology`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        blocks: int | Sequence[int] = 2,
        decoder_blocks: int | Sequence[int] | None = None,
        norm: Norm = "instance",
        deep_supervision: bool = True,
        gradient_checkpointing: bool = False,
        **plan: Any,
    ) -> None:
        topology = make_topology(**plan)
        unit = functools.partial(ConvUnit, norm=norm)
        counts = per_stage("blocks", blocks, len(topology.widths))
        encoder = encoder_stages(in_channels, topology, unit, counts)
        of_steps = per_stage("decoder_blocks", decoder_blocks or counts[-2::-1], len(topology.widths) - 1)
        steps = transposed_steps(topology, unit, of_steps)
        super().__init__(topology, encoder, steps, out_channels, deep_supervision, gradient_checkpointing)

    def public_names(self) -> list[Row]:
        """Rows for PlainConvUNet; see `mambamed.networks.public_names`."""
        stage = rf"encoder\.stages\.(\d)\.0\.convs\.(\d+)\.{UNIT}"
        return [
            *COPIES,
            (stage, lambda i, j, p: f"stages.{i}.{j}.{unit_part(p)}"),
            *DECODER_NAMES,
            *self.head_names(),
        ]
