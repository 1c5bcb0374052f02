"""SegMamba: a Mamba encoder that reads the grid in three orders, gated convolutions, a UNETR-like decoder.

Source: Xing et al., "SegMamba: Long-range Sequential Modeling Mamba For 3D Medical Image Segmentation",
arXiv 2401.13560, and the authors' code. With `channels` = C, at an input of `(X, Y, Z)`:

    stage i = 0..3, width C 2^i, stride 2^(i+1): down, then the layers of the version
    skips   residual block of the input to C, and of the output of stage i to C 2^(i+1)
    decoder four times: transposed conv2, concat [up, skip], residual block; then residual block, conv1 -> K

`version="gsc"`, the default (June 2024, MICCAI):

    down    stem: conv7 stride 2; else instance norm, conv2 stride 2
    GSC     x + ReLU(IN(conv1(a + b))), a = two conv3 with IN and ReLU, b = conv1 with IN and ReLU
    Mamba   twice x + Mamba(LN(x)), in three orders: forward, backward, inter-slice
    output  IN, then 1x1x1 conv -> 2W, GELU, 1x1x1 conv -> W; only for the decoder

`residual=False` is the code of 26 March to 4 June 2024: the same without the residual, x = Mamba(LN(x)).

`version="first"` (January 2024): layer norms instead of the encoder's instance norms, no GSC, two orders
(forward, backward), no residual around the Mamba, 4W instead of 2W.

`version="paper"` (Eq. 1 of the text, early 2024): stem and down without norms; twice x + Mamba(LN(x)), two
orders, then x + MLP(LN(x)), W -> 4W -> W; the decoder receives the output unchanged.

`version="v2"` (2025, SegMamba-V2) is another encoder on the first residual block's output, at the full grid:

    down    conv3 stride 2
    units   s * gate(mean s), s = x + two paths of convolutions with kernels up to 5 (see `parts.segmamba_v2`)
    Mamba   in stages 2 and 3: x + Mamba(LN(x)), summed over three axis orders, all forward, shared weights
    output  as in "gsc"

Departures: the text calls the stem depth-wise, but in the code, and here, it is dense. In the public code the
inter-slice order splits a sequence into a fixed number of runs, which are slices only for a patch of 128^3;
`nslices="auto"` uses the stage's own depth along X.

The matched control (`mixer="none"`) omits the residual branches LN - Mamba; without residual, it omits the
Mamba and keeps the LN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks.parts.blocks import (
    Answer,
    AxisOrder,
    ChannelNorm,
    Norm,
    Triple,
    check_choice,
    crop_logits,
    make_norm,
    pad_to_divisor,
    run_checkpointed,
    scan_axes,
)
from mambamed.networks.parts.dense import PublicOption, Row
from mambamed.networks.parts.segmamba_v2 import V2_NAMES, conv_norm_relu, large_kernel_stage
from mambamed.ssm import BidirectionalMamba
from mambamed.ssm.orders import grid_from_tokens, tokens_from_grid

Version = Literal["gsc", "first", "paper", "v2"]
Mixer = Literal["mamba", "none"]
XYZ: Triple = (0, 1, 2)


class GatedSpatialConv(nn.Module):
    """x + ReLU(norm(conv1(a + b))): two convolutions in parallel to a pointwise one (GSC)."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.spatial = nn.Sequential(*conv_norm_relu(channels, 3, norm), *conv_norm_relu(channels, 3, norm))
        self.gate = conv_norm_relu(channels, 1, norm)
        self.fuse = conv_norm_relu(channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        return x + self.fuse(self.spatial(x) + self.gate(x))


class MambaLayer(nn.Module):
    """LN - Mamba on the tokens of a grid, with or without a residual, and with an MLP in the paper's form.

    Args:
        nslices: runs of the inter-slice order; None: the size of the axis that is read slowest.
        axes: order in which the grid is read, the last one fastest.
    """

    def __init__(
        self,
        channels: int,
        version: Version,
        nslices: int | None,
        mixer: Mixer = "mamba",
        axes: Triple = XYZ,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.residual, self.nslices, self.axes = residual, nslices, axes
        self.norm = self.mamba = self.mlp = None
        if mixer == "mamba" or not self.residual:
            self.norm = nn.LayerNorm(channels)
        if mixer == "mamba":
            directions = ("forward", "backward", "slice") if version == "gsc" else ("forward", "backward")
            self.mamba = BidirectionalMamba(channels, d_state=16, d_conv=4, expand=2, directions=directions)
        if version == "paper":
            first, last = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
            self.mlp = nn.Sequential(nn.LayerNorm(channels), first, nn.GELU(), last)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, W, X, Y, Z)` -> the same shape."""
        tokens = tokens_from_grid(x, self.axes)
        if self.norm is not None:
            y = self.norm(tokens)
            if self.mamba is not None:
                y = self.mamba(y, nslices=self._slices_of(x))
            tokens = tokens + y if self.residual else y
        if self.mlp is not None:
            tokens = tokens + self.mlp(tokens)
        return grid_from_tokens(tokens, x.shape[2:], self.axes)

    def _slices_of(self, x: Tensor) -> int:
        if self.nslices is None:
            return x.shape[2 + self.axes[0]]
        if (voxels := x[0, 0].numel()) % self.nslices:
            raise RecipeError(
                f"network.nslices: expected a divisor of the {voxels} voxels of a stage, got {self.nslices}. "
                "Use auto, or a patch size of multiples of 32."
            )
        return self.nslices


class ResidualConv(nn.Module):
    """conv3 - norm - LeakyReLU - conv3 - norm, + input, LeakyReLU; conv1 - norm where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = make_norm(norm, out_channels, affine=False)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = make_norm(norm, out_channels, affine=False)
        self.shortcut = None
        if in_channels != out_channels:
            conv = nn.Conv3d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(conv, make_norm(norm, out_channels, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` -> `(B, out_channels, X, Y, Z)`."""
        y = functional.leaky_relu(self.norm1(self.conv1(x)), 0.01, inplace=True)
        short = x if self.shortcut is None else self.shortcut(x)
        return functional.leaky_relu(self.norm2(self.conv2(y)) + short, 0.01, inplace=True)


def _conv(k: int) -> str:
    return "shortcut.0" if k == 3 else f"conv{k}"


# Names of MONAI's UNETR blocks around an encoder, for the decoder of this network.
UNETR_NAMES: list[Row] = [
    (r"encoder(\d)\.layer\.conv(\d)\.conv\.", lambda i, k: f"encoders.{i - 1}.{_conv(k)}."),
    (r"decoder1\.layer\.conv(\d)\.conv\.", lambda k: f"last.{_conv(k)}."),
    (r"decoder(\d)\.transp_conv\.conv\.", lambda i: f"decoders.{5 - i}.up."),
    (r"decoder(\d)\.conv_block\.conv(\d)\.conv\.", lambda i, k: f"decoders.{5 - i}.block.{_conv(k)}."),
    (r"out\.conv\.conv\.", lambda: "head."),
]


class UpBlock(nn.Module):
    """Transposed convolution by 2, concatenation with the skip, residual block."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, out_channels, 2, 2, bias=False)
        self.block = ResidualConv(2 * out_channels, out_channels, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` and its skip at twice the grid -> `(B, out_channels, 2X, 2Y, 2Z)`."""
        return self.block(torch.cat([self.up(x), skip], dim=1))


class SegMamba(nn.Module):
    """SegMamba for segmentation.

    Args:
        channels: C, width of the first stage, doubled with each of the four; 48 in the paper.
        hidden: width at the bottom of the decoder (default: 16 C).
        depths: Mamba layers of each stage; in v2 also its large-kernel units, with a Mamba in the last two.
        version: "gsc", "first", "paper" or "v2", see the module.
        nslices: "auto", or the four fixed numbers of the public code, (64, 32, 16, 8); not in v2.
        residual: x + Mamba(LN(x)) instead of Mamba(LN(x)) (default: false in "first", else true); not in v2.
    """

    examples = ("", "version: first", "version: paper", "version: v2")
    small: ClassVar = {"channels": 4, "depths": [1, 1, 1, 1]}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 48,
        hidden: int | None = None,
        depths: Sequence[int] = (2, 2, 2, 2),
        version: Version = "gsc",
        nslices: Literal["auto"] | Sequence[int] = "auto",
        residual: bool | None = None,
        mixer: Mixer = "mamba",
        norm: Norm = "instance",
        deep_supervision: bool = False,
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        super().__init__()
        check_choice("version", version, ("gsc", "first", "paper", "v2"))
        check_choice("mixer", mixer, ("mamba", "none"))
        if len(depths) != 4:
            raise RecipeError(
                f"network.depths: expected four numbers, got {list(depths)}. Give one per stage."
            )
        if nslices != "auto" and (not isinstance(nslices, Sequence) or len(nslices) != 4):
            raise RecipeError(f"network.nslices: expected auto or four numbers, got {nslices!r}. Use auto.")
        for option, lacked in (("nslices", nslices == "auto"), ("residual", residual is None)):
            if version == "v2" and not lacked:
                raise RecipeError(f"network.{option}: version v2 has no such option. Remove it.")
        axes = scan_axes(axis_order)
        residual = version != "first" if residual is None else residual
        widths = [channels * 2**stage for stage in range(4)]
        bottom = hidden or 2 * widths[-1]
        self.divisor = (16, 16, 16)
        self.version = version
        self.gradient_checkpointing = gradient_checkpointing
        strides = (1, 2, 4, 8) if deep_supervision else (1,)
        self.deep_supervision_strides: list[Triple] = [(s, s, s) for s in strides]
        self.stages = nn.ModuleList()
        self.outputs = nn.ModuleList()
        inputs = (channels if version == "v2" else in_channels, *widths[:-1])
        for i, (before, width) in enumerate(zip(inputs, widths, strict=True)):
            if version == "v2":
                layers = depths[i] if i > 1 and mixer == "mamba" else 0
                self.stages.append(large_kernel_stage(before, width, depths[i], layers, norm, axes))
            else:
                slices = None if nslices == "auto" else int(nslices[i])
                gsc = [GatedSpatialConv(width, norm)] if version == "gsc" else []
                scans = [MambaLayer(width, version, slices, mixer, axes, residual) for _ in range(depths[i])]
                down = _down(before, width, version, norm, first=i == 0)
                self.stages.append(nn.Sequential(down, *gsc, *scans))
            self.outputs.append(_output(width, version, norm))
        into = zip((in_channels, *widths), (*widths, bottom), strict=True)
        self.encoders = nn.ModuleList(ResidualConv(before, after, norm) for before, after in into)
        back = zip((bottom, *widths[:0:-1]), widths[::-1], strict=True)
        self.decoders = nn.ModuleList(UpBlock(before, after, norm) for before, after in back)
        self.last = ResidualConv(channels, channels, norm)
        self.head = nn.Conv3d(channels, out_channels, 1)
        deep = widths[1:] if deep_supervision else ()
        self.deep_heads = nn.ModuleList(nn.Conv3d(width, out_channels, 1) for width in deep)

    def forward(self, x: Tensor) -> Answer:
        """`(B, in_channels, X, Y, Z)` -> `(B, K, X, Y, Z)` logits; a list in training with depths."""
        shape, x = x.shape[2:], pad_to_divisor(x, self.divisor)
        again = self.gradient_checkpointing
        encoders = list(self.encoders)
        skips = [run_checkpointed(encoders[0], x, wanted=again)]
        x = skips[0] if self.version == "v2" else x
        for stage, output, encoder in zip(self.stages, self.outputs, encoders[1:], strict=True):
            x = run_checkpointed(stage, x, wanted=again)
            skips.append(run_checkpointed(encoder, run_checkpointed(output, x, wanted=again), wanted=again))
        x = skips.pop()
        levels = []
        for decoder, skip in zip(self.decoders, reversed(skips), strict=True):
            x = run_checkpointed(decoder, x, skip, wanted=again)
            levels.append(x)
        outputs = [self.head(run_checkpointed(self.last, x, wanted=again))]
        if self.training:
            coarse = reversed(levels[:-1])
            outputs += [head(level) for head, level in zip(self.deep_heads, coarse, strict=False)]
        return crop_logits(outputs, shape, self.deep_supervision_strides)

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """The version, by keys that others lack; see `mambamed.networks.public_names`."""
        norm = PublicOption("norm", "instance", "shown", "The norms around the convolutions have no weights.")
        if any(".deep_path." in key for key in public):
            remark = "The file has the large kernels of SegMamba-V2."
            return [PublicOption("version", "v2", "shown", remark), norm]
        if "vit.norm0.weight" in public:
            january = "The file has layer norms as in the code of January 2024"
            found = [PublicOption("version", "first", "shown", f"{january}."), norm]
            if options.get("residual"):
                remark = f"{january}, which has no residual around the Mamba."
                found.append(PublicOption("residual", False, "shown", remark))
            return found
        if any(key.startswith("vit.gscs.") for key in public):
            return [
                PublicOption(
                    "version", "gsc", "shown", "The file has gated convolutions (since March 2024)."
                ),
                norm,
                PublicOption("residual", None, "asked", _RESIDUAL),
                PublicOption("nslices", [64, 32, 16, 8], "assumed", "The public code has no other numbers."),
            ]
        return []

    def public_names(self) -> list[Row]:
        """Rows for `model_segmamba/segmamba.py`; see `mambamed.networks.public_names`.

        The first version has layer norms where the others have none.
        """
        outputs: list[Row] = [
            (r"vit\.norm(\d)\.", lambda i: f"outputs.{i}.0.norm."),
            (r"vit\.mlps\.(\d)\.fc(\d)\.", lambda i, k: f"outputs.{i}.{2 * k - 1}."),
            *UNETR_NAMES,
        ]
        if self.version == "v2":
            return [*V2_NAMES, *outputs]
        before = 2 if self.version == "gsc" else 1  # parts of a stage before its Mamba layers
        norms: list[Row] = []
        if self.version == "first":
            norms = [
                (r"vit\.downsample_layers\.0\.1\.", lambda: "stages.0.0.1.norm."),
                (r"vit\.downsample_layers\.(\d)\.0\.", lambda i: f"stages.{i}.0.0." + ("norm." if i else "")),
            ]
        gsc = {"proj": "spatial.0", "proj2": "spatial.3", "proj3": "gate.0", "proj4": "fuse.0"}
        stage = r"vit\.stages\.(\d)\.(\d+)"
        return [
            *norms,
            (r"vit\.downsample_layers\.(\d)\.(\d)\.", lambda i, j: f"stages.{i}.0.{j}."),
            (r"vit\.gscs\.(\d)\.(proj[234]?)\.", lambda i, part: f"stages.{i}.1.{gsc[part]}."),
            (rf"{stage}\.norm1?\.", lambda i, j: f"stages.{i}.{j + before}.norm."),
            (rf"{stage}\.mamba\.", lambda i, j: f"stages.{i}.{j + before}.mamba."),
            (rf"{stage}\.norm2\.", lambda i, j: f"stages.{i}.{j + before}.mlp.0."),
            (rf"{stage}\.mlp\.fc(\d)\.", lambda i, j, k: f"stages.{i}.{j + before}.mlp.{2 * k - 1}."),
            *outputs,
        ]


_RESIDUAL = (
    "Use --set network.residual=false for weights of the code of 26 March to 4 June 2024, "
    "--set network.residual=true for those of later code (MICCAI 2024)."
)


def _down(in_channels: int, out_channels: int, version: Version, norm: Norm, first: bool) -> nn.Sequential:
    """Downsampling by 2, with the norms of the version."""
    if first:
        stem = nn.Conv3d(in_channels, out_channels, 7, 2, 3)
        return nn.Sequential(stem, ChannelNorm(out_channels)) if version == "first" else nn.Sequential(stem)
    conv = nn.Conv3d(in_channels, out_channels, 2, 2)
    if version == "paper":
        return nn.Sequential(conv)
    before = ChannelNorm(in_channels) if version == "first" else make_norm(norm, in_channels, affine=False)
    return nn.Sequential(before, conv)


def _output(channels: int, version: Version, norm: Norm) -> nn.Module:
    """Norm and pointwise MLP before the decoder."""
    if version == "paper":
        return nn.Identity()
    before = ChannelNorm(channels) if version == "first" else make_norm(norm, channels, affine=False)
    inner = channels * (4 if version == "first" else 2)
    return nn.Sequential(before, nn.Conv3d(channels, inner, 1), nn.GELU(), nn.Conv3d(inner, channels, 1))
