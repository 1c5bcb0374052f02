"""Uni-, bi- and multidirectional Mamba U-Nets.

Source: Lumetti et al., "Accurate 3D Medical Image Segmentation with Mambas", section 2; layers and state
sizes, which the text does not give, as in their public code (TamingMambas).

nnU-Net's residual U-Net with two residual units per stage on both sides, and after every stage of the encoder
a Mamba layer, whose output both the next stage and the skip receive (`mamba_at="skips"`, a variant of the
code that the paper does not describe: the skip alone):

    MambaTrans   x + Mamba(LN(x)), then x + Linear(LN(x)): one linear layer, no activation
    uni          MambaTrans(LN(tokens))
    bi           LN(f(t) + flip(g(flip t))), t = LN(tokens), f and g separate MambaTrans
    multi        mean over axis orders of bi without its first LN, each order with its own weights

The paper names the orders (H,W,D), (H,D,W), (W,H,D), (D,W,H); the code's fourth is (D,H,W), which is the
default here. `orders="all"` uses all six (twelve sequences).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from mambamed.networks.nnunet_resenc import residual_encoder, residual_encoder_names
from mambamed.networks.parts.blocks import AxisOrder, Norm, check_choice, run_checkpointed, scan_axes
from mambamed.networks.parts.dense import PublicOption, Row
from mambamed.networks.parts.topology import make_topology
from mambamed.networks.parts.unet import (
    COPIES,
    DECODER_NAMES,
    ResidualUnit,
    UNet,
    residual_unit_names,
    transposed_steps,
)
from mambamed.ssm import Mamba
from mambamed.ssm.orders import grid_from_tokens, tokens_from_grid

Directions = Literal["uni", "bi", "multi"]
Order = tuple[int, int, int]
CODE_ORDERS: tuple[Order, ...] = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 0, 1))
PAPER_ORDERS: tuple[Order, ...] = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 1, 0))
_STATE_CAP = {"uni": 256, "bi": 256, "multi": 64}


class MambaTrans(nn.Module):
    """x + Mamba(LN(x)), then x + Linear(LN(x)), over tokens `(B, L, C)`."""

    def __init__(self, channels: int, d_state: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.mamba = Mamba(channels, d_state=d_state, d_conv=4, expand=2)
        self.norm2 = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: Tensor, reverse: bool = False) -> Tensor:
        """Tokens -> tokens; `reverse` equals flipping the length before and after."""
        x = x + self.mamba(self.norm1(x), reverse=reverse)
        return x + self.linear(self.norm2(x))


class BothWays(nn.Module):
    """LN(f(t) + flip(g(flip t))) over tokens `(B, L, C)`; `recomputed`: see `MambaLayer`."""

    def __init__(self, channels: int, d_state: int, recomputed: bool) -> None:
        super().__init__()
        self.recomputed = recomputed
        self.forth = MambaTrans(channels, d_state)
        self.back = MambaTrans(channels, d_state)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens -> tokens."""
        again = self.recomputed
        forth = run_checkpointed(self.forth, x, wanted=again)
        return self.norm(forth + run_checkpointed(self.back, x, True, wanted=again))


class MambaLayer(nn.Module):
    """The layer after a stage: `(B, C, X, Y, Z)` -> the same shape.

    Args:
        orders: axis orders: order (i, j, k) reads with axis k fastest; all but "multi" use only the first.
        cap: the number of states is the width, but at most this.
        recomputed: recompute the activations of each sequence in the backward pass instead of storing them.
    """

    def __init__(
        self,
        channels: int,
        directions: Directions,
        orders: Sequence[Order],
        cap: int,
        recomputed: bool = False,
    ) -> None:
        super().__init__()
        d_state = min(channels, cap)
        self.orders = tuple(orders) if directions == "multi" else tuple(orders[:1])
        self.norm = nn.Identity() if directions == "multi" else nn.LayerNorm(channels)
        if directions == "uni":
            self.blocks = nn.ModuleList([MambaTrans(channels, d_state)])
        else:
            self.blocks = nn.ModuleList(BothWays(channels, d_state, recomputed) for _ in self.orders)

    def forward(self, x: Tensor) -> Tensor:
        """Mean over the orders."""
        total: Tensor | None = None
        for block, order in zip(self.blocks, self.orders, strict=True):
            tokens = block(self.norm(tokens_from_grid(x, order)))
            y = grid_from_tokens(tokens, x.shape[2:], order)
            total = y if total is None else total + y
        assert total is not None
        return total / len(self.orders) if len(self.orders) > 1 else total


class MambaUNet(UNet):
    """Mamba U-Net.

    Args:
        directions: "uni", "bi" or "multi".
        orders: axis orders of "multi": "code", "paper", or "all" six.
        mamba_at: "stages", or "skips": the next stage reads the stage's output before the Mamba layer.
        d_state_cap: the number of states is the stage's width, but at most this (default: 256 for uni and bi,
            64 for multi).
        gradient_checkpointing: recompute each stage in the backward pass, and in it each sequence, so that
            the memory is that of one sequence, whatever the number of directions.
        plan: see `topology.make_topology`.
    """

    examples = ("directions: uni", "directions: bi", "directions: multi")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        directions: Directions = "bi",
        orders: Literal["code", "paper", "all"] = "code",
        mamba_at: Literal["stages", "skips"] = "stages",
        d_state_cap: int | None = None,
        mixer: Literal["mamba", "none"] = "mamba",
        norm: Norm = "instance",
        deep_supervision: bool = True,
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
        **plan: Any,
    ) -> None:
        known = {"code": CODE_ORDERS, "paper": PAPER_ORDERS, "all": tuple(itertools.permutations(range(3)))}
        check_choice("directions", directions, _STATE_CAP)
        check_choice("orders", orders, known)
        check_choice("mamba_at", mamba_at, ("stages", "skips"))
        check_choice("mixer", mixer, ("mamba", "none"))
        topology = make_topology(**plan)
        encoder = residual_encoder(in_channels, topology, [2] * len(topology.widths), norm)
        if mixer == "mamba":
            cap, axes = d_state_cap or _STATE_CAP[directions], scan_axes(axis_order)
            read = [(axes[i], axes[j], axes[k]) for i, j, k in known[orders]]
            encoder = [
                nn.Sequential(stage, MambaLayer(width, directions, read, cap, gradient_checkpointing))
                for stage, width in zip(encoder, topology.widths, strict=True)
            ]
        unit = functools.partial(ResidualUnit, norm=norm)
        steps = transposed_steps(topology, unit, [2] * (len(encoder) - 1))
        super().__init__(topology, encoder, steps, out_channels, deep_supervision, gradient_checkpointing)
        self.mixer, self.mamba_at = mixer, mamba_at

    def encode(self, x: Tensor) -> list[Tensor]:
        """As in `UNet`; at the skips, the Mamba layers are beside the path through the stages."""
        if self.mamba_at == "stages" or self.mixer == "none":
            return super().encode(x)
        again, skips = self.gradient_checkpointing, []
        for stage, layer in self.stages:  # type: ignore[misc]
            x = run_checkpointed(stage, x, wanted=again)
            skips.append(run_checkpointed(layer, x, wanted=again))
        return skips

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """Directions by their layers; orders and place have no keys; see `mambamed.networks.public_names`."""
        if any(".mambas." in key for key in public):
            remark = "The order of the paper has the same keys."
            return [_directions("multi"), PublicOption("orders", "code", "assumed", remark)]
        if any(".fwd_mamba." in key for key in public):
            remark = "The class SegMambaSkip of the same code (skips) has the same keys."
            return [_directions("bi"), PublicOption("mamba_at", "stages", "assumed", remark)]
        return [_directions("uni")] if any(".mamba_layers." in key for key in public) else []

    def public_names(self) -> list[Row]:
        """Rows for TamingMambas; see `mambamed.networks.public_names`.

        Its class names are `SegMamba` for "uni", `PanSegMamba` for "bi" and `MultiSegMamba` for "multi".
        """
        block = lambda i, k=0: f"stages.{i}.1.blocks.{k}"  # noqa: E731
        ways = {"fwd": "forth", "bwd": "back"}
        part = lambda name: "linear." if name == "head" else f"{name}."  # noqa: E731
        layer, way, trans = r"encoder\.mamba_layers\.(\d)", "(fwd|bwd)_mamba", r"(mamba|norm1|norm2|head)\."
        return [
            *COPIES,
            *residual_encoder_names("" if self.mixer == "none" else ".0"),
            (rf"{layer}\.mamba\.{way}\.{trans}", lambda i, w, n: f"{block(i)}.{ways[w]}.{part(n)}"),
            (
                rf"{layer}\.mambas\.(\d)\.{way}\.{trans}",
                lambda i, k, w, n: f"{block(i, k)}.{ways[w]}.{part(n)}",
            ),
            (rf"{layer}\.mambas\.(\d)\.norm\.", lambda i, k: f"{block(i, k)}.norm."),
            (rf"{layer}\.mamba\.norm\.", lambda i: f"{block(i)}.norm."),
            (rf"{layer}\.mamba\.{trans}", lambda i, name: f"{block(i)}.{part(name)}"),
            (rf"{layer}\.norm\.", lambda i: f"stages.{i}.1.norm."),
            *residual_unit_names(
                r"decoder\.stages\.(\d)\.blocks\.(\d+)", lambda i, j: f"steps.{i}.convolve.{j}"
            ),
            *DECODER_NAMES,
            *self.head_names(),
        ]


def _directions(found: Directions) -> PublicOption:
    return PublicOption("directions", found, "shown", "The file has the layers of this form.")
