"""UniMiSS's segmentation network: a pyramid transformer of nnU-Net's shape (MiT).

Source: Xie et al. 2022, "UniMiSS: Universal Medical Self-Supervised Learning via Breaking Dimensionality
Barrier", and the authors' code for fine-tuning. With `channels` = C, and strides relative to an input of
`(D, H, W)`:

    E0       conv7 stride (1, 2, 2) to C, norm, LeakyReLU
    E1..E4   conv3 stride 2 to 1.5 C, 4 C, 8 C, 16 C, norm, LeakyReLU; + learned positions; blocks
    D0..D2   transposed conv2 to 8 C, 4 C, 1.5 C; + E3, E2, E1; + learned positions; blocks; LN at D2's end
    D3       transposed conv2 to C; + E0; conv3, norm, LeakyReLU
    answer   conv1 -> K, trilinear up (1, 2, 2)
    block    x + attention(LN(x)), then x + MLP(LN(x)), C -> 4 C -> C with GELU

Keys and values of the attention come from a smaller grid: a convolution whose kernel and stride are the
reduction (6, 4, 2, 1 at E1 to E4; the D on the same grid have the same), then LN. What is left at the end of
an axis is dropped. There are 1, 2, 4 and 8 heads at E1 to E4, and 8, 4 and 2 at D0 to D2. LN has eps 1e-6 in
the blocks of the encoder, and 1e-5 elsewhere; queries, keys and values have a bias in the encoder alone.

Departs: the last 1x1x1 convolution runs before the trilinear upsampling, not after it. The two commute, and
the larger grid then has K channels instead of C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks.parts.blocks import (
    AxisOrder,
    Norm,
    Triple,
    check_choice,
    rounded_up_patch,
    run_checkpointed,
)
from mambamed.networks.parts.dense import DenseNetwork, PublicOption, Row
from mambamed.networks.parts.doubling import doubled
from mambamed.networks.parts.unet import ONE, ConvUnit

Variant = Literal["small", "tiny"]
# Blocks of E1 .. E4, D0 .. D2.
_DEPTHS: dict[Variant, Sequence[int]] = {"small": (2, 3, 4, 3, 3, 4, 3), "tiny": (1,) * 7}
_HEADS, _REDUCTIONS = (1, 2, 4, 8), (6, 4, 2, 1)  # of E1 .. E4; D0 has the heads of E4, and so on
_STRIDES: tuple[Triple, ...] = ((1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8), (8, 16, 16))
_DIVISOR: Triple = (16, 32, 32)
_THREE: Triple = (3, 3, 3)


class ReducedAttention(nn.Module):
    """Attention of all tokens to those of a grid that is smaller by `reduction` along each axis."""

    def __init__(self, width: int, heads: int, reduction: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(width, 2 * width, bias=bias)
        self.proj = nn.Linear(width, width)
        self.reduce = self.norm = None
        if reduction > 1:
            self.reduce = nn.Conv3d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """`(B, L, width)` of a grid of this shape -> the same shape."""
        read = x
        if self.reduce is not None and self.norm is not None:
            smaller = self.reduce(x.transpose(1, 2).unflatten(2, shape))
            read = self.norm(smaller.flatten(2).transpose(1, 2))
        parts = (self.q(x), *self.kv(read).chunk(2, dim=2))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        y = functional.scaled_dot_product_attention(q, k, v)  # (B, heads, L, width / heads)
        return self.proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x))."""

    def __init__(self, width: int, heads: int, reduction: int, bias: bool, eps: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attention = ReducedAttention(width, heads, reduction, bias)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """`(B, L, width)` of a grid of this shape -> the same shape."""
        x = x + self.attention(self.norm1(x), shape)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Learned positions and blocks on the voxels of a grid.

    Args:
        grid: the only shape that fits.
        encoder: whether it is a part of the encoder, see the module.
        last: whether a layer norm follows the blocks.
    """

    def __init__(
        self,
        width: int,
        grid: Triple,
        depth: int,
        heads: int,
        reduction: int,
        encoder: bool,
        recomputed: bool,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.recomputed = recomputed
        self.positions = nn.Parameter(torch.empty(1, grid[0] * grid[1] * grid[2], width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        eps = 1e-6 if encoder else 1e-5
        self.blocks = nn.ModuleList(Block(width, heads, reduction, encoder, eps) for _ in range(depth))
        self.norm = nn.LayerNorm(width) if last else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`(B, width, D, H, W)` -> the same shape."""
        shape = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = run_checkpointed(block, tokens, shape, wanted=self.recomputed)
        return self.norm(tokens).transpose(1, 2).unflatten(2, shape)


class UniMiss(DenseNetwork):
    """UniMiSS's network for segmentation.

    Args:
        patch_size: of the training, in the order of the network's axes, rounded up to multiples of (16, 32,
            32): positions are learned for it. A smaller input is padded to it, a larger one is a RecipeError.
        variant: "small" has 2 to 4 blocks per stage, "tiny" one.
        channels: C, width at stride (1, 2, 2); an even number.
    """

    examples = ("patch_size: [128, 128, 128]",)
    small: ClassVar = {"patch_size": [32, 32, 32], "channels": 4, "variant": "tiny"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        patch_size: Sequence[int] = (96, 96, 96),
        variant: Variant = "small",
        channels: int = 32,
        norm: Norm = "instance",
        deep_supervision: bool = True,
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        patch = rounded_up_patch(patch_size, _DIVISOR)
        strides = _STRIDES[: 5 if deep_supervision else 1]
        super().__init__(_DIVISOR, strides=strides, axis_order=axis_order, patch_size=patch)
        check_choice("variant", variant, _DEPTHS)
        if channels % 2:
            raise RecipeError(f"network.channels: expected an even number, got {channels}. Change it.")
        depths, again = _DEPTHS[variant], gradient_checkpointing
        widths = [channels, channels * 3 // 2, 4 * channels, 8 * channels, 16 * channels]
        grids = [(patch[0] >> i, patch[1] >> i + 1, patch[2] >> i + 1) for i in range(5)]  # of E0 .. E4
        self.gradient_checkpointing = again
        self.stem = ConvUnit(in_channels, channels, (7, 7, 7), (1, 2, 2), norm, bias=False)
        self.downs, self.encoders = nn.ModuleList(), nn.ModuleList()
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        for i in range(4):
            shape = (widths[i + 1], grids[i + 1], depths[i], _HEADS[i], _REDUCTIONS[i])
            self.downs.append(ConvUnit(widths[i], widths[i + 1], _THREE, (2, 2, 2), norm, bias=False))
            self.encoders.append(Transformer(*shape, encoder=True, recomputed=again))
        for i, stage in enumerate((3, 2, 1)):
            shape = (widths[stage], grids[stage], depths[4 + i], _HEADS[stage], _REDUCTIONS[stage - 1])
            self.ups.append(nn.ConvTranspose3d(widths[stage + 1], widths[stage], 2, 2))
            self.decoders.append(Transformer(*shape, encoder=False, recomputed=again, last=i == 2))
        self.last_up = nn.ConvTranspose3d(widths[1], channels, 2, 2)
        self.last = ConvUnit(channels, channels, _THREE, ONE, norm, bias=False)
        self.head = nn.Conv3d(channels, out_channels, 1)
        deep = widths[:4] if deep_supervision else []
        self.deep_heads = nn.ModuleList(nn.Conv3d(width, out_channels, 1) for width in deep)
        self._initialize()

    def compute(self, x: Tensor) -> list[Tensor]:
        """`(B, in_channels, D, H, W)` -> logits at the strides of the input, E0, E1, E2 and E3."""
        again = self.gradient_checkpointing
        x = run_checkpointed(self.stem, x, wanted=again)
        skips = [x]
        for down, encoder in zip(self.downs, self.encoders, strict=True):
            x = encoder(run_checkpointed(down, x, wanted=again))
            skips.append(x)
        levels = []
        for up, decoder, skip in zip(self.ups, self.decoders, skips[-2:0:-1], strict=True):
            x = decoder(up(x) + skip)
            levels.append(x)
        levels.append(run_checkpointed(self.last, self.last_up(x) + skips[0], wanted=again))
        answer = doubled(self.head(levels[-1]), axes=(3, 4))
        if not self.training:
            return [answer]
        deep = zip(self.deep_heads, reversed(levels), strict=False)
        return [answer, *(head(level) for head, level in deep)]

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """The variant, by the blocks of E1."""
        small = any("transformer.block1.1." in key for key in public)
        remark = f"The first stage of the file has {'several blocks' if small else 'one block'}."
        return [PublicOption("variant", "small" if small else "tiny", "shown", remark)]

    def public_names(self) -> list[Row]:
        """Names of the authors' code for fine-tuning; the files of the self-supervised training differ."""
        part = {"conv": 0, "norm": 1}
        of = {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
        of |= {f"attn.{name}": f"attention.{name}" for name in ("q", "kv", "proj", "norm")}
        of |= {"attn.sr": "attention.reduce"}
        block = "|".join(name.replace(".", r"\.") for name in of)
        root, encoder = r"(?:model\.)?", r"(?:model\.)?transformer\."
        return [
            (rf"{encoder}patch_embed0\.(conv|norm)\.", lambda p: f"stem.{part[p]}."),
            (rf"{encoder}patch_embed(\d)\.proj\.(conv|norm)\.", lambda i, p: f"downs.{i - 1}.{part[p]}."),
            (rf"{encoder}pos_embed(\d)", lambda i: f"encoders.{i - 1}.positions"),
            (
                rf"{encoder}block(\d)\.(\d+)\.({block})\.",
                lambda i, j, p: f"encoders.{i - 1}.blocks.{j}.{of[p]}.",
            ),
            (rf"{root}DecEmbed(\d)\.proj\.", lambda i: f"ups.{i}."),
            (rf"{root}DecPosEmbed(\d)", lambda i: f"decoders.{i}.positions"),
            (rf"{root}Decblock(\d)\.(\d+)\.({block})\.", lambda i, j, p: f"decoders.{i}.blocks.{j}.{of[p]}."),
            (rf"{root}norm\.", lambda: "decoders.2.norm."),
            (rf"{root}transposeconv_stage3\.", lambda: "last_up."),
            (rf"{root}stage3_de\.(conv|norm)\.", lambda p: f"last.{part[p]}."),
            (rf"{root}ds(\d)_cls_conv\.", lambda i: f"deep_heads.{3 - i}."),
            (rf"{root}cls_conv\.", lambda: "head."),
        ]

    def _initialize(self) -> None:
        """Linear layers are drawn from a narrow normal distribution, convolutions by He's rule."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if isinstance(module.bias, Tensor):
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
