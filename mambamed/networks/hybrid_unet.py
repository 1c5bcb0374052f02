"""A residual U-Net with Mamba layers in its deepest stages, where tokens are few.

Not from a paper. The encoder is that of nnU-Net ResEnc with few units, the decoder that of nnU-Net; both are
described in `nnunet_resenc` and `unet`. After each of the deepest stages

    x + BidirectionalMamba(LN(tokens of x))

reads the whole patch in both directions, with one input and one output projection (Vim's layer). Its output
projection starts at zero, so that training starts from the network without Mamba layers.

A grid has 8^s times as many tokens as stage s: a Mamba layer at full resolution costs more than the
convolutions there, and tokens that are neighbors still look alike.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from mambamed.errors import RecipeError
from mambamed.networks.nnunet_resenc import residual_encoder
from mambamed.networks.parts.blocks import AxisOrder, Norm, Triple, check_choice, scan_axes
from mambamed.networks.parts.topology import make_topology, per_stage
from mambamed.networks.parts.unet import ConvUnit, UNet, transposed_steps
from mambamed.ssm import BidirectionalMamba
from mambamed.ssm.orders import grid_from_tokens, tokens_from_grid


class ResidualMamba(nn.Module):
    """x + BidirectionalMamba(LN(tokens of x)); the output projection starts at zero.

    Args:
        axes: order in which the grid is read, the last one fastest.
    """

    def __init__(self, channels: int, d_state: int, axes: Triple) -> None:
        super().__init__()
        self.axes = axes
        self.norm = nn.LayerNorm(channels)
        self.mamba = BidirectionalMamba(channels, d_state=d_state)
        nn.init.zeros_(self.mamba.out_proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        tokens = self.mamba(self.norm(tokens_from_grid(x, self.axes)))
        return x + grid_from_tokens(tokens, x.shape[2:], self.axes)


class HybridUNet(UNet):
    """Residual U-Net with Mamba layers in its deepest stages.

    Args:
        blocks: residual units of each stage (default: 1, then 2).
        decoder_blocks: conv units of each decoder step, the coarsest first; one number, or one per step.
        mamba_stages: number of stages, counted from the deepest, that have a Mamba layer.
        d_state: states per channel of each Mamba layer.
        plan: see `topology.make_topology`.
    """

    examples = ("", "mixer: none")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        blocks: int | Sequence[int] | None = None,
        decoder_blocks: int | Sequence[int] = 1,
        mamba_stages: int = 2,
        d_state: int = 16,
        mixer: Literal["mamba", "none"] = "mamba",
        norm: Norm = "instance",
        deep_supervision: bool = True,
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
        **plan: Any,
    ) -> None:
        check_choice("mixer", mixer, ("mamba", "none"))
        topology = make_topology(**plan)
        widths, count = topology.widths, len(topology.widths)
        if mamba_stages > count:
            raise RecipeError(f"network.mamba_stages: {mamba_stages} is more than the {count} stages")
        counts = per_stage("blocks", blocks or [1, *[2] * (count - 1)], count)
        encoder = residual_encoder(in_channels, topology, counts, norm)
        if mixer == "mamba":
            axes = scan_axes(axis_order)
            for level in range(count - mamba_stages, count):
                layer = ResidualMamba(widths[level], d_state, axes)
                encoder[level] = nn.Sequential(encoder[level], layer)
        unit = functools.partial(ConvUnit, norm=norm)
        of_steps = per_stage("decoder_blocks", decoder_blocks, count - 1)
        steps = transposed_steps(topology, unit, of_steps)
        super().__init__(topology, encoder, steps, out_channels, deep_supervision, gradient_checkpointing)
