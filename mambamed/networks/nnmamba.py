"""nnMamba v2 for dense prediction: a residual encoder with MICCSS, skip scaling, a light decoder.

Source: Gong et al., "nnMamba: 3D Biomedical Image Segmentation, Classification and Landmark Detection with
State Space Model", arXiv 2402.03526v2: section 2.3 and Algorithm 1 (MICCSS), section 2.4 (skip scaling).
Where text and authors' code differ, the code of the network they name as theirs (`nnMamba.py`) is followed.

With `channels` = C, at an input of `(X, Y, Z)`:

    c1  DoubleConv, stride 2                    C, X/2        skip scaled by SE
    c2  3 residual blocks, MICCSS in 2 and 3   2C, X/4        skip scaled by SE
    c3  the same                               4C, X/8        skip scaled by SE
    c4  the same                               8C, X/16
    c5, c6, c7  x2 trilinear, concat [up, skip], DoubleConv -> 4C, 2C, C
    out x2 trilinear, conv3 - norm - ReLU - conv3 -> K logits

Departure: the public network ends in norm and ReLU, so that its logits cannot be negative; `head="paper"`
gives that form, with otherwise the same parameter names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mambamed.networks.parts.blocks import (
    Answer,
    AxisOrder,
    DoubleConv,
    Norm,
    Triple,
    check_choice,
    crop_logits,
    make_norm,
    pad_to_divisor,
    residual_stage,
    run_checkpointed,
    scan_axes,
)
from mambamed.networks.parts.dense import PublicOption, Row
from mambamed.networks.parts.doubling import doubled
from mambamed.ssm import Mamba
from mambamed.ssm.orders import grid_from_tokens, tokens_from_grid

Mixer = Literal["miccss", "mic", "plain", "none"]
Head = Literal["linear", "wide", "paper"]
Padding = Literal["end", "symmetric"]

# Names of the public code: the convolutional encoder, and the parts of a Mamba between convolutions.
_BLOCK = r"layer(\d)\.(\d+)\."
ENCODER_NAMES: list[Row] = [
    (r"in_conv\.conv\.", lambda: "stem."),
    (rf"{_BLOCK}conv(\d)", lambda i, j, k: f"stages.{i - 1}.{j}.conv{k}"),
    (rf"{_BLOCK}bn(\d)", lambda i, j, k: f"stages.{i - 1}.{j}.norm{k}"),
    (rf"{_BLOCK}downsample", lambda i, j: f"stages.{i - 1}.{j}.shortcut"),
]
MIC_NAMES = {
    "nin": "conv_in.0",
    "norm": "conv_in.1",
    "nin2": "conv_out.0",
    "norm2": "conv_out.1",
    "mamba": "mamba",
}
MIC_PARTS = rf"({'|'.join(MIC_NAMES)})\."


class MambaInConvolution(nn.Module):
    """MICCSS: 1x1x1 conv, one Mamba read four ways, residual, 1x1x1 conv.

        a = ReLU(norm(conv(x)));  y = mean over F of F(Mamba(F(tokens of a)));  out = ReLU(norm(conv(y + a)))

    with F in {identity, flip of the length, flip of the channels, both} for "miccss", only the identity for
    "mic". For "none" y = 0: the matched control without the state space. "plain" is the form of the authors'
    released trainers, without the second convolution and the residual: out = y with the identity.

    `axes` is the order in which the grid is read, the last one fastest. Source: Algorithm 1.
    """

    def __init__(
        self, channels: int, mixer: Mixer, norm: Norm, d_state: int = 16, axes: Triple = (0, 1, 2)
    ) -> None:
        super().__init__()
        check_choice("mixer", mixer, ("miccss", "mic", "plain", "none"))
        self.mixer, self.axes = mixer, axes
        self.conv_in = _pointwise(channels, norm)
        self.mamba = Mamba(channels, d_state=d_state, d_conv=4, expand=2) if mixer != "none" else None
        self.conv_out = _pointwise(channels, norm) if mixer != "plain" else None

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        a = y = self.conv_in(x)
        if self.mamba is not None:
            tokens = tokens_from_grid(a, self.axes)  # (B, L, C), a view if channels are last in memory
            y = self.mamba.readings(tokens) if self.mixer == "miccss" else self.mamba(tokens)
            y = grid_from_tokens(y, a.shape[2:], self.axes)
        if self.conv_out is None:
            return y
        return self.conv_out(y if self.mamba is None else y + a)


def _pointwise(channels: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, channels, 1, bias=False), make_norm(norm, channels), nn.ReLU(inplace=True)
    )


class SkipScaling(nn.Module):
    """Squeeze-and-excitation on a skip: c * sigmoid(W2 relu(W1 mean(c))), reduction 16 (section 2.4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(channels // 16, 1)
        self.weigh = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(inplace=True), nn.Linear(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, c: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        return c * self.weigh(c.mean((2, 3, 4)))[:, :, None, None, None]


class Decoder(nn.Module):
    """The decoder of both versions of nnMamba: three steps, each [upsampled, skip] - DoubleConv, and heads.

    Args:
        channels: C, width of the finest skip.
        head: "linear"; "paper" with norm and ReLU on the logits; or "wide": conv3 to C/2 - norm - ReLU -
            conv1. The first two have a bottleneck of K channels, which can delay learning of a structure.
        deep_supervision: whether there are 1x1x1 heads on the three coarser levels.
    """

    def __init__(
        self, channels: int, out_channels: int, norm: Norm, head: Head, deep_supervision: bool
    ) -> None:
        super().__init__()
        check_choice("head", head, ("linear", "wide", "paper"))
        # strides of the logits at each depth, the finest first
        self.strides: list[Triple] = [(s, s, s) for s in ((1, 2, 4, 8) if deep_supervision else (1,))]
        widths = (4 * channels, 2 * channels, channels)
        self.steps = nn.ModuleList(_DoubledConv(DoubleConv(3 * width, width, 1, norm)) for width in widths)
        if head == "wide":
            half = max(channels // 2, 1)
            first = list(DoubleConv(channels, half, 1, norm))[:3]
            last = nn.Sequential(*first, nn.Conv3d(half, out_channels, 1))
        else:
            last = DoubleConv(channels, out_channels, 1, norm)
        self.head = _DoubledConv(nn.Sequential(*list(last)[:4]) if head == "linear" else last)
        deep = widths[::-1] if deep_supervision else ()
        self.deep_heads = nn.ModuleList(nn.Conv3d(width, out_channels, 1) for width in deep)

    def forward(
        self,
        x: Tensor,
        skips: Sequence[Tensor],
        shape: Sequence[int],
        again: bool,
        start: Sequence[int] = (0, 0, 0),
    ) -> Answer:
        """Logits, the finest first.

        Args:
            x: `(B, 8C, X/16, Y/16, Z/16)`.
            skips: widths C, 2C, 4C at strides 2, 4, 8.
            shape: `(X, Y, Z)` of the input before padding.
            again: whether the steps are recomputed in the backward pass.
            start: first voxel of the input in the padded one.
        """
        levels = []
        for step, skip in zip(self.steps, reversed(skips), strict=True):  # type: ignore[arg-type]
            x = run_checkpointed(step, x, skip, wanted=again)
            levels.append(x)
        outputs = [run_checkpointed(self.head, x, wanted=again)]
        if self.training:
            outputs += [head(level) for head, level in zip(self.deep_heads, reversed(levels), strict=False)]
        return crop_logits(outputs, shape, self.strides, start)

    @staticmethod
    def public_options(public: Mapping[str, Tensor]) -> list[PublicOption]:
        """Whether the logits have a norm."""
        if "conv8.conv.4.weight" in public:
            return [PublicOption("head", "paper", "shown", "The file has a norm on the logits.")]
        return [PublicOption("head", "linear", "shown", "The file has no norm on the logits.")]

    def public_names(self) -> list[Row]:
        """Rows of the decoder and its heads."""
        deep = (lambda i: f"decoder.deep_heads.{i - 1}.") if len(self.deep_heads) else None
        return [
            (r"conv([567])\.conv\.", lambda i: f"decoder.steps.{i - 5}.convs."),
            (r"conv8\.conv\.", lambda: "decoder.head.convs."),
            (r"ds(\d)_cls_conv\.", deep),
        ]


class _DoubledConv(nn.Module):
    """Trilinear upsampling by 2, then the convolutions on it and on the skip, if there is one."""

    def __init__(self, convs: nn.Module) -> None:
        super().__init__()
        self.convs = convs

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        x = doubled(x)
        return self.convs(x if skip is None else torch.cat([x, skip], dim=1))


class NnMamba(nn.Module):
    """nnMamba v2 for segmentation and landmark heatmaps.

    Args:
        channels: C, width at half resolution; 32 in the paper.
        mixer: "miccss" (the paper), "mic" (its ablation without the flips), "plain" (the authors' released
            trainers), "none" (matched control).
        d_state: states per channel of each Mamba.
        share_mamba: blocks 2 and 3 of a stage share one MICCSS, weights and norm statistics, as in the
            public code.
        skip_scaling: whether SE scales the skips (section 2.2, Eq. 3).
        deep_supervision: in training, also return logits at strides 2, 4, 8 from 1x1x1 heads on c7, c6, c5
            (the form of the authors' released trainers).
        head: see `Decoder`.
        padding: of inputs whose shape is not a multiple of 16: "end", or "symmetric" as in the code of
            TamingMambas.
    """

    channels_last = True
    examples = ("", "mixer: none", "mixer: plain", "head: wide")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 32,
        mixer: Mixer = "miccss",
        d_state: int = 16,
        share_mamba: bool = True,
        skip_scaling: bool = True,
        norm: Norm = "batch",
        deep_supervision: bool = True,
        head: Head = "linear",
        padding: Padding = "end",
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        super().__init__()
        axes = scan_axes(axis_order)
        check_choice("padding", padding, ("end", "symmetric"))
        self.symmetric = padding == "symmetric"
        self.divisor = (16, 16, 16)
        self.gradient_checkpointing = gradient_checkpointing
        widths = (channels, 2 * channels, 4 * channels)
        self.stem = DoubleConv(in_channels, channels, 2, norm)
        self.stages = nn.ModuleList()
        for width in widths:
            first = second = MambaInConvolution(2 * width, mixer, norm, d_state, axes)
            if not share_mamba:
                second = MambaInConvolution(2 * width, mixer, norm, d_state, axes)
            self.stages.append(residual_stage(width, 2 * width, norm, (first, second)))
        self.skips = nn.ModuleList(SkipScaling(width) if skip_scaling else nn.Identity() for width in widths)
        self.decoder = Decoder(channels, out_channels, norm, head, deep_supervision)
        self.deep_supervision_strides = self.decoder.strides

    def forward(self, x: Tensor) -> Answer:
        """`(B, in_channels, X, Y, Z)` -> `(B, K, X, Y, Z)` logits; a list in training with depths."""
        again, shape = self.gradient_checkpointing, x.shape[2:]
        x = pad_to_divisor(x, self.divisor, self.symmetric)
        start = [
            (padded - size) // 2 * self.symmetric for padded, size in zip(x.shape[2:], shape, strict=True)
        ]
        features = run_checkpointed(self.stem, x, wanted=again)
        skips = []
        for stage, skip in zip(self.stages, self.skips, strict=True):
            skips.append(skip(features))
            features = run_checkpointed(stage, features, wanted=again)
        return self.decoder(features, skips, shape, again, start)

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """Head and form of the Mamba; see `mambamed.networks.public_names`."""
        found = Decoder.public_options(public)
        if any(".mamba_layer.nin2." in key for key in public):
            remark = "Its ablation mic has the same keys."
            found.append(PublicOption("mixer", "miccss", "assumed", remark))
        elif any(".mamba_layer.nin." in key for key in public):
            remark = "The file has no second convolution next to the Mambas."
            found.append(PublicOption("mixer", "plain", "shown", remark))
            remark = "Of the codes with these keys, only that of TamingMambas pads."
            found.append(PublicOption("padding", "symmetric", "assumed", remark))
        return found

    def public_names(self) -> list[Row]:
        """Rows for `nnMamba.py`; see `mambamed.networks.public_names`."""
        return [
            *ENCODER_NAMES,
            (
                rf"{_BLOCK}mamba_layer\.{MIC_PARTS}",
                lambda i, j, part: f"stages.{i - 1}.{j}.mixer.{MIC_NAMES[part]}.",
            ),
            (r"att(\d)\.layer([12])\.", lambda i, k: f"skips.{i - 1}.weigh.{2 * k - 2}."),
            *self.decoder.public_names(),
        ]
