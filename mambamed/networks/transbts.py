"""TransBTS: a U-Net of residual blocks with a transformer on the tokens of its coarsest grid.

Source: Wang et al., "TransBTS: Multimodal Brain Tumor Segmentation Using Transformer", MICCAI 2021, arXiv
2103.04430, and the authors' code. With `channels` = C (16) and `hidden` = E (512):

    stem         conv3 to C, dropout of whole channels in training
    encoder      widths C, 2 C, 4 C, 8 C with 1, 2, 2, 4 units; between them conv3 stride 2. Skips: the first
                 three outputs. Unit: x + conv3(ReLU(GN(conv3(ReLU(GN(x)))))), group norm of 8 groups
    tokens       BN, ReLU, conv3 to E; + learned positions, dropout
    transformer  `layers` (4) times x + dropout(attention(LN(x))), then x + MLP(LN(x)), E -> 4096 -> E with
                 GELU and dropouts; queries, keys and values without bias. No norm at the end
    bottom       two conv3 - BN - ReLU to 8 C, then x + the same two on 8 C
    decoder      three times conv1 to half the width, transposed conv2, concat [skip, up], conv1 back to this
                 width, then x + two conv3 - BN - ReLU
    head         conv1 -> K

Departs from the public code, which drops channels in evaluation too, computes a last layer norm and does not
use it, and ends with a softmax where ours gives logits. Its weights of two unused layers are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks.parts.blocks import (
    AxisOrder,
    DoubleConv,
    Norm,
    make_norm,
    rounded_up_patch,
    run_checkpointed,
)
from mambamed.networks.parts.dense import DenseNetwork, PublicOption, Row
from mambamed.networks.parts.tokens import attend

_GROUPS = 8  # of the group norms
_UNITS = (1, 2, 2, 4)  # of the encoder's four grids


class Unit(nn.Module):
    """x + conv3(ReLU(GN(conv3(ReLU(GN(x))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(_GROUPS, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, D, H, W)` -> the same shape."""
        y = self.conv1(functional.relu(self.norm1(x), inplace=True))
        return x + self.conv2(functional.relu(self.norm2(y), inplace=True))


class Layer(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)); dropout after the attention and in the MLP."""

    def __init__(self, width: int, mlp: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width)
        wide, narrow = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.mlp = nn.Sequential(wide, nn.GELU(), nn.Dropout(dropout), narrow, nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, L, E)` -> the same shape."""
        x = x + self.drop(self.proj(attend(self.qkv(self.norm1(x)), self.heads)))
        return x + self.mlp(self.norm2(x))


class Convolutions(DoubleConv):
    """x + two conv3 - norm - ReLU."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__(channels, channels, norm=norm)

    def forward(self, input: Tensor) -> Tensor:
        """`(B, C, D, H, W)` -> the same shape."""
        return input + super().forward(input)


class UpStep(nn.Module):
    """Twice the grid and half the width, with the skip; residual convolutions."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        half = channels // 2
        self.narrow = nn.Conv3d(channels, half, 1)
        self.up = nn.ConvTranspose3d(half, half, 2, 2)
        self.fuse = nn.Conv3d(channels, half, 1)
        self.convolve = Convolutions(half, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`(B, C, D, H, W)` and its skip `(B, C/2, 2 D, 2 H, 2 W)` -> the shape of the skip."""
        return self.convolve(self.fuse(torch.cat([skip, self.up(self.narrow(x))], dim=1)))


class TransBTS(DenseNetwork):
    """TransBTS for segmentation; patch_size is in the order of the axes D, H, W on which it computes.

    Args:
        patch_size: of the training, for which positions are learned; rounded up to multiples of 8. A smaller
            input is padded to it, a larger one is a RecipeError.
        channels: C, width at full resolution, a multiple of 8.
        hidden, mlp, layers, heads: width of the transformer, of its MLPs, its layers, its attention heads.
        dropout: in the transformer.
        channel_dropout: probability of dropping each channel of the stem.
        norm: batch norms of the public code or instance norms; the encoder keeps its group norms.
    """

    public_axis_order: ClassVar[AxisOrder] = "xyz"
    small: ClassVar = dict(
        channels=8,
        hidden=16,
        mlp=24,
        layers=1,
        heads=2,
        patch_size=[32, 32, 32],
        dropout=0.0,
        channel_dropout=0.0,
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        patch_size: Sequence[int] = (128, 128, 128),
        channels: int = 16,
        hidden: int = 512,
        mlp: int = 4096,
        layers: int = 4,
        heads: int = 8,
        dropout: float = 0.1,
        channel_dropout: float = 0.2,
        norm: Norm = "batch",
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        if channels % _GROUPS:
            raise RecipeError(
                f"network.channels: expected a multiple of {_GROUPS}, got {channels}. Change it."
            )
        if hidden % heads:
            raise RecipeError(
                f"network.heads: expected a divisor of {hidden}, got {heads}. Change one of them."
            )
        d, h, w = rounded_up_patch(patch_size, 8)
        super().__init__((8, 8, 8), axis_order=axis_order, patch_size=(d, h, w))
        self.gradient_checkpointing = gradient_checkpointing
        widths = [channels * 2**i for i in range(4)]
        self.stem = nn.Sequential(
            nn.Conv3d(in_channels, channels, 3, padding=1), nn.Dropout3d(channel_dropout)
        )
        self.downs = nn.ModuleList(nn.Conv3d(width, 2 * width, 3, 2, 1) for width in widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Unit(width) for _ in range(count)))
            for width, count in zip(widths, _UNITS, strict=True)
        )
        self.embed = nn.Sequential(
            make_norm(norm, widths[3]), nn.ReLU(), nn.Conv3d(widths[3], hidden, 3, padding=1)
        )
        self.positions = nn.Parameter(torch.zeros(1, d * h * w // 8**3, hidden))
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(hidden, mlp, heads, dropout) for _ in range(layers))
        self.bottom = nn.Sequential(DoubleConv(hidden, widths[3], norm=norm), Convolutions(widths[3], norm))
        self.steps = nn.ModuleList(UpStep(width, norm) for width in widths[:0:-1])
        self.head = nn.Conv3d(channels, out_channels, 1)

    def compute(self, x: Tensor) -> list[Tensor]:
        """`(B, in_channels, D, H, W)` -> the logits alone."""
        again = self.gradient_checkpointing
        x = run_checkpointed(self.stages[0], self.stem(x), wanted=again)
        skips = []
        for down, stage in zip(self.downs, list(self.stages)[1:], strict=True):
            skips.append(x)
            x = run_checkpointed(stage, down(x), wanted=again)
        grid = run_checkpointed(self.embed, x, wanted=again)
        tokens = self.drop(grid.flatten(2).transpose(1, 2) + self.positions)
        for layer in self.layers:
            tokens = run_checkpointed(layer, tokens, wanted=again)
        x = tokens.transpose(1, 2).unflatten(2, grid.shape[2:])
        x = run_checkpointed(self.bottom, x, wanted=again)
        for step in self.steps:
            x = run_checkpointed(step, x, skips.pop(), wanted=again)
        return [self.head(x)]

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """What no key shows: heads and, of the number of tokens, the patch; see `public_names`."""
        found = [PublicOption("heads", 8, "assumed", "The authors' code has 8.")]
        positions = public.get("position_encoding.position_embeddings")
        if positions is not None and positions.shape[1:2] == (16**3,):
            remark = "The number of tokens agrees."
            found.append(PublicOption("patch_size", [128, 128, 128], "assumed", remark))
        return found

    def public_names(self) -> list[Row]:
        """Rows for the public code; see `mambamed.networks.public_names`."""
        net = r"transformer\.net\.(\d+)\.fn\."
        part = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4}  # of a DoubleConv
        pair = r"((?:conv|bn)[12])\."
        unit = {"conv1": "conv1", "bn1": "norm1", "conv2": "conv2", "bn2": "norm2"}
        sizes = {"1": "narrow", "2": "up", "3": "fuse"}
        return [
            (r"linear_encoding\.|pre_head_ln\.", None),  # not used
            (r"Unet\.InitConv\.conv\.", lambda: "stem.0."),
            (r"Unet\.EnDown(\d)\.conv\.", lambda i: f"downs.{i - 1}."),
            (rf"Unet\.EnBlock1\.{pair}", lambda of: f"stages.0.0.{unit[of]}."),
            (rf"Unet\.EnBlock(\d)_(\d)\.{pair}", lambda i, j, of: f"stages.{i - 1}.{j - 1}.{unit[of]}."),
            (r"bn\.", lambda: "embed.0."),
            (r"conv_x\.", lambda: "embed.2."),
            (r"position_encoding\.position_embeddings", lambda: "positions"),
            (rf"{net}fn\.(qkv|proj)\.", lambda i, of: f"layers.{i // 2}.{of}."),
            (rf"{net}fn\.net\.(\d)\.", lambda i, k: f"layers.{i // 2}.mlp.{k}."),
            (rf"{net}norm\.", lambda i: f"layers.{i // 2}.norm{i % 2 + 1}."),
            (rf"Enblock8_(\d)\.{pair}", lambda i, of: f"bottom.{i - 1}.{part[of]}."),
            (r"DeUp(\d)\.conv([123])\.", lambda i, k: f"steps.{4 - i}.{sizes[str(k)]}."),
            (rf"DeBlock(\d)\.{pair}", lambda i, of: f"steps.{4 - i}.convolve.{part[of]}."),
            (r"endconv\.", lambda: "head."),
        ]
