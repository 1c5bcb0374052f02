"""nnMamba v2 for dense prediction: a residual encoder with MICCSS, skip scaling, a light decoder.

Source: Gong et al., "nnMamba: 3D Biomedical Image Segmentation, Classification and Landmark Detection with
State Space Model", arXiv 2402.03526v2: section 2.3 and Algorithm 1 (MICCSS), section 2.4 (skip scaling).
Where text and the authors' code differ, the code of the net they name as theirs counts (`nnMamba.py`).

With `channels` = C, at an input of `(X, Y, Z)`:

    c1  DoubleConv, stride 2                    C, X/2        skip scaled by SE
    c2  3 residual blocks, MICCSS in 2 and 3   2C, X/4        skip scaled by SE
    c3  the same                               4C, X/8        skip scaled by SE
    c4  the same                               8C, X/16
    c5, c6, c7  x2 trilinear, concat [up, skip], DoubleConv -> 4C, 2C, C
    out x2 trilinear, conv3 - norm - ReLU - conv3 -> K logits

We depart in one place: the public net ends in norm and ReLU, so that its logits cannot be negative;
`head="paper"` gives that form, with otherwise the same parameter names.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks.blocks import (
    DoubleConv,
    Norm,
    crop_to,
    make_norm,
    pad_to_divisor,
    run_checkpointed,
    strided_shape,
)
from mambamed.ssm import Mamba

Mixer = Literal["miccss", "mic", "none"]
_BLOCKS = 3


class MambaInConvolution(nn.Module):
    """MICCSS: 1x1x1 conv, one Mamba read four ways, residual, 1x1x1 conv.

        a = ReLU(norm(conv(x)));  y = mean over F of F(Mamba(F(tokens of a)));  out = ReLU(norm(conv(y + a)))

    with F in {identity, flip of the length, flip of the channels, both} for "miccss", the identity alone
    for "mic". For "none" y = 0: the matched control, which differs by the state space alone.

    Args:
        channels: width, in and out.
        mixer: see above.
        norm: see `make_norm`.
        d_state: states of the Mamba.

    Source:
        Algorithm 1; the tokens run through the grid with the last axis fastest.
    """

    def __init__(self, channels: int, mixer: Mixer, norm: Norm, d_state: int = 16) -> None:
        super().__init__()
        if mixer not in ("miccss", "mic", "none"):
            raise RecipeError(f"network.mixer: {mixer!r} is not one of miccss, mic, none")
        self.mixer = mixer
        self.conv_in = _pointwise(channels, norm)
        self.mamba = Mamba(channels, d_state=d_state, d_conv=4, expand=2) if mixer != "none" else None
        self.conv_out = _pointwise(channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        a = self.conv_in(x)
        if self.mamba is None:
            return self.conv_out(a)
        tokens = a.permute(0, 2, 3, 4, 1).flatten(1, 3)  # (B, L, C), a view where channels are last in memory
        y = self.mamba.readings(tokens) if self.mixer == "miccss" else self.mamba(tokens)
        y = y.reshape(a.shape[0], *a.shape[2:], a.shape[1]).permute(0, 4, 1, 2, 3)
        return self.conv_out(y + a)


def _pointwise(channels: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, channels, 1, bias=False), make_norm(norm, channels), nn.ReLU(inplace=True)
    )


class ResidualBlock(nn.Module):
    """conv3 - norm - ReLU - conv3 - norm, + mixer(input), + input, ReLU.

    Args:
        in_channels, out_channels: widths.
        stride: of the first convolution; where it or the width changes, the input passes a strided
            1x1x1 convolution with norm before it is added.
        norm: see `make_norm`.
        mixer: adds its reading of the block's input; None for a plain block.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: Norm, mixer: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = make_norm(norm, out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = make_norm(norm, out_channels)
        self.mixer = mixer
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride, bias=False), make_norm(norm, out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> `(B, C', X/stride, ...)`."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)), inplace=True)))
        if self.mixer is not None:
            y = y + self.mixer(x)
        return functional.relu(y + self.shortcut(x), inplace=True)


class SkipScaling(nn.Module):
    """Squeeze-and-excitation on a skip: c * sigmoid(W2 relu(W1 mean(c))), reduction 16 (section 2.4)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        squeezed = max(channels // reduction, 1)
        self.weigh = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(inplace=True), nn.Linear(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, c: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        return c * self.weigh(c.mean((2, 3, 4)))[:, :, None, None, None]


class NnMamba(nn.Module):
    """nnMamba v2 for segmentation and landmark heatmaps.

    Args:
        in_channels: channels of the input.
        out_channels: K.
        channels: C, width at half resolution; 32 in the paper.
        mixer: "miccss" (the paper), "mic" (its ablation without the flips), "none" (matched control).
        d_state: states of each Mamba.
        share_mamba: blocks 2 and 3 of a stage share one MICCSS, weights and norm statistics, as in the
            public code.
        norm: "batch" (the paper) or "instance" (safer at small batches).
        deep_supervision: in training, also give logits at strides 2, 4, 8 from 1x1x1 heads on c7, c6, c5
            (the form of the authors' released trainers).
        head: "linear", or "paper" with norm and ReLU on the logits.
        gradient_checkpointing: compute each stage again in the backward pass instead of keeping it.

    Attributes:
        divisor: 16 along each axis; other shapes are padded inside.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 32,
        mixer: Mixer = "miccss",
        d_state: int = 16,
        share_mamba: bool = True,
        norm: Norm = "batch",
        deep_supervision: bool = True,
        head: Literal["linear", "paper"] = "linear",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if head not in ("linear", "paper"):
            raise RecipeError(f"network.head: {head!r} is not one of linear, paper")
        c = channels
        self.divisor = (16, 16, 16)
        self.deep_supervision = deep_supervision
        self.gradient_checkpointing = gradient_checkpointing
        self.deep_supervision_strides = [(s, s, s) for s in ((1, 2, 4, 8) if deep_supervision else (1,))]

        self.stem = DoubleConv(in_channels, c, 2, norm)
        self.stages = nn.ModuleList(
            _stage(width, 2 * width, mixer, d_state, share_mamba, norm) for width in (c, 2 * c, 4 * c)
        )
        self.skips = nn.ModuleList(SkipScaling(width) for width in (c, 2 * c, 4 * c))
        self.decoders = nn.ModuleList(DoubleConv(3 * width, width, 1, norm) for width in (4 * c, 2 * c, c))
        last = DoubleConv(c, out_channels, 1, norm)
        self.head = last if head == "paper" else nn.Sequential(*list(last)[:4])
        self.deep_heads = nn.ModuleList(
            nn.Conv3d(width, out_channels, 1) for width in ((c, 2 * c, 4 * c) if deep_supervision else ())
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """`(B, in_channels, X, Y, Z)` -> `(B, K, X, Y, Z)` logits; a list in training with depths."""
        shape = x.shape[2:]
        features = run_checkpointed(self.stem, pad_to_divisor(x, self.divisor), self.gradient_checkpointing)
        skips = []
        for stage, skip in zip(self.stages, self.skips, strict=True):
            skips.append(skip(features))
            features = run_checkpointed(stage, features, self.gradient_checkpointing)
        coarse = []
        for decoder, skip in zip(self.decoders, reversed(skips), strict=True):
            joined = torch.cat([_doubled(features), skip], dim=1)
            features = run_checkpointed(decoder, joined, self.gradient_checkpointing)
            coarse.append(features)
        logits = crop_to(self.head(_doubled(features)), shape)
        if not (self.training and self.deep_supervision):
            return logits
        heads = zip(self.deep_heads, reversed(coarse), self.deep_supervision_strides[1:], strict=True)
        return [logits, *(crop_to(head(f), strided_shape(shape, stride)) for head, f, stride in heads)]


def _stage(
    in_channels: int, out_channels: int, mixer: Mixer, d_state: int, share_mamba: bool, norm: Norm
) -> nn.Sequential:
    """Three residual blocks: the first halves the grid, the others have a MICCSS, one for both if shared."""
    blocks = [ResidualBlock(in_channels, out_channels, 2, norm)]
    mix: nn.Module | None = None
    for _ in range(1, _BLOCKS):
        if mix is None or not share_mamba:
            mix = MambaInConvolution(out_channels, mixer, norm, d_state)
        blocks.append(ResidualBlock(out_channels, out_channels, 1, norm, mix))
    return nn.Sequential(*blocks)


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
