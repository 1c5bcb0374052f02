"""nnU-Net with a residual encoder (ResEnc M and L: the same layers, planned for different memory sizes).

Source: Isensee et al. 2024, "nnU-Net Revisited", arXiv 2404.09556; layers as the public v2 network
(ResidualEncoderUNet): residual units 1, 3, 4, 6, 6, 6 and one conv unit per decoder step.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import nn

from mambamed.networks.parts.blocks import Norm
from mambamed.networks.parts.dense import Row
from mambamed.networks.parts.topology import Topology, make_topology, per_stage
from mambamed.networks.parts.unet import (
    COPIES,
    DECODER_NAMES,
    ONE,
    UNIT,
    ConvUnit,
    ResidualUnit,
    UNet,
    encoder_stages,
    residual_unit_names,
    transposed_steps,
    unit_part,
)

_BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6)


class NnUNetResEnc(UNet):
    """nnU-Net ResEnc.

    Args:
        blocks: residual units of each stage (default: 1, 3, 4, 6, 6, ...).
        decoder_blocks: conv units of each decoder step, the coarsest first; one number, or one per step.
        plan: see `topology.make_topology`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        blocks: int | Sequence[int] | None = None,
        decoder_blocks: int | Sequence[int] = 1,
        norm: Norm = "instance",
        deep_supervision: bool = True,
        gradient_checkpointing: bool = False,
        **plan: Any,
    ) -> None:
        topology = make_topology(**plan)
        count = len(topology.widths)
        counts = per_stage("blocks", blocks or _BLOCKS[:count], count)
        encoder = residual_encoder(in_channels, topology, counts, norm)
        unit = functools.partial(ConvUnit, norm=norm)
        of_steps = per_stage("decoder_blocks", decoder_blocks, len(encoder) - 1)
        steps = transposed_steps(topology, unit, of_steps)
        super().__init__(topology, encoder, steps, out_channels, deep_supervision, gradient_checkpointing)

    def public_names(self) -> list[Row]:
        """Rows for ResidualEncoderUNet; see `mambamed.networks.public_names`."""
        return [*COPIES, *residual_encoder_names(), *DECODER_NAMES, *self.head_names()]


def residual_encoder(
    in_channels: int, topology: Topology, counts: Sequence[int], norm: Norm
) -> list[nn.Module]:
    """Stem (one conv unit) and residual units of every stage; the stem belongs to the first."""
    stem = ConvUnit(in_channels, topology.widths[0], topology.kernels[0], ONE, norm)
    unit = functools.partial(ResidualUnit, norm=norm)
    first, *others = encoder_stages(topology.widths[0], topology, unit, counts)
    return [nn.Sequential(stem, first), *others]


def residual_encoder_names(inner: str = "") -> list[Row]:
    """Rows of `residual_encoder`; `inner`: where its stages lie in ours, if a layer follows each."""
    place = lambda i, j: f"stages.{i}{inner}.{j}" if i else f"stages.0{inner}.1.{j}"  # noqa: E731
    return [
        (rf"encoder\.stem\.convs\.0\.{UNIT}", lambda part: f"stages.0{inner}.0.{unit_part(part)}"),
        *residual_unit_names(r"encoder\.stages\.(\d)\.blocks\.(\d+)", place),
    ]
