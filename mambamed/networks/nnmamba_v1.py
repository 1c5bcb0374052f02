"""nnMamba v1: plain residual stages with one Mamba after each, or a single one at the stem.

Source: Gong et al., "nnMamba: 3D Biomedical Image Segmentation, Classification and Landmark Detection with
State Space Model", arXiv 2402.03526v1, sections 2.2 and 2.3, and the authors' code of that time.

With `channels` = C, at an input of `(X, Y, Z)`:

    c1  DoubleConv, stride 2                            C, X/2
    c2  3 residual blocks; c2' = c2 + Mamba(LN(c2))    2C, X/4
    c3  the same from c2'                              4C, X/8
    c4  the same from c3'                              8C, X/16
    decoder as in version 2; its skips are c3, c2, c1 *before* their Mamba, and are not scaled

For landmarks (`mamba_at="stem"`) only c1 has a Mamba, c1' = c1 + Mamba(LN(c1)). The classifier has the same
stem and stages, then the mean of c4 and two linear layers. The public classifier cannot run, because it calls
a layer that it never creates; this is its evident intention.

The head departs as in version 2. The matched control (`mixer="none"`) omits LN and Mamba: c' = c.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from mambamed.networks.nnmamba import ENCODER_NAMES, Decoder, Head
from mambamed.networks.parts.blocks import (
    Answer,
    AxisOrder,
    DoubleConv,
    Norm,
    Triple,
    check_choice,
    pad_to_divisor,
    pad_to_two_voxels,
    residual_stage,
    run_checkpointed,
    scan_axes,
)
from mambamed.networks.parts.dense import PublicOption, Row
from mambamed.ssm import Mamba
from mambamed.ssm.orders import grid_from_tokens, tokens_from_grid

Mixer = Literal["mamba", "none"]


class VoxelMamba(nn.Module):
    """Mamba(LN(tokens)) with one token per voxel; `axes` is the reading order, the last one fastest."""

    def __init__(self, width: int, d_state: int = 16, axes: Triple = (0, 1, 2)) -> None:
        super().__init__()
        self.axes = axes
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width, d_state=d_state, d_conv=4, expand=2)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        tokens = self.mamba(self.norm(tokens_from_grid(x, self.axes)))
        return grid_from_tokens(tokens, x.shape[2:], self.axes)


class ResidualMamba(VoxelMamba):
    """x + Mamba(LN(tokens of x))."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        return x + super().forward(x)


def _reader(channels: int, mixer: Mixer, d_state: int, axis_order: AxisOrder) -> nn.Module:
    axes = scan_axes(axis_order)
    check_choice("mixer", mixer, ("mamba", "none"))
    return ResidualMamba(channels, d_state, axes) if mixer == "mamba" else nn.Identity()


class NnMambaV1(nn.Module):
    """nnMamba v1 for segmentation and, with `mamba_at="stem"`, for landmark heatmaps.

    Args:
        channels: C, width at half resolution; 32 in the public code.
        mamba_at: "stages" (segmentation: after c2, c3, c4) or "stem" (landmarks: after c1).
        d_state: states per channel of each Mamba.
        head: "linear", "wide", or "paper" with norm and ReLU on the logits; see `nnmamba.Decoder`.
    """

    channels_last = True
    examples = ("", "mamba_at: stem")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 32,
        mamba_at: Literal["stages", "stem"] = "stages",
        mixer: Mixer = "mamba",
        d_state: int = 16,
        norm: Norm = "batch",
        deep_supervision: bool = False,
        head: Head = "linear",
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        super().__init__()
        check_choice("mamba_at", mamba_at, ("stages", "stem"))
        self.divisor = (16, 16, 16)
        self.gradient_checkpointing = gradient_checkpointing
        widths = (channels, 2 * channels, 4 * channels)
        self.stem = DoubleConv(in_channels, channels, 2, norm)
        self.stages = nn.ModuleList(residual_stage(width, 2 * width, norm) for width in widths)
        self.readers = nn.ModuleList()
        for level, width in enumerate((*widths, 8 * channels)):
            reads = (mamba_at == "stem") == (level == 0)
            self.readers.append(_reader(width, mixer, d_state, axis_order) if reads else nn.Identity())
        self.decoder = Decoder(channels, out_channels, norm, head, deep_supervision)
        self.deep_supervision_strides = self.decoder.strides

    def forward(self, x: Tensor) -> Answer:
        """`(B, in_channels, X, Y, Z)` -> `(B, K, X, Y, Z)` logits; a list in training with depths."""
        again = self.gradient_checkpointing
        features = [run_checkpointed(self.stem, pad_to_divisor(x, self.divisor), wanted=again)]
        read = run_checkpointed(self.readers[0], features[0], wanted=again)
        for stage, reader in zip(self.stages, list(self.readers)[1:], strict=True):
            features.append(run_checkpointed(stage, read, wanted=again))
            read = run_checkpointed(reader, features[-1], wanted=again)
        return self.decoder(read, features[:-1], x.shape[2:], again)

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """The head and the places of the Mambas; see `mambamed.networks.public_names`."""
        at = "stem" if any(key.startswith("mamba_layer_stem.") for key in public) else "stages"
        remark = "The file has its Mambas there."
        return [*Decoder.public_options(public), PublicOption("mamba_at", at, "shown", remark)]

    def public_names(self) -> list[Row]:
        """Rows for version 1 of `nnMamba.py`; see `mambamed.networks.public_names`."""
        return [
            (r"mamba_layer_stem\.", lambda: "readers.0."),
            (r"mamba_layer_(\d)\.", lambda i: f"readers.{i}."),
            *ENCODER_NAMES,
            *self.decoder.public_names(),
        ]


class NnMambaV1Classifier(nn.Module):
    """nnMamba v1 for classification: one Mamba at the stem, the mean of c4, two linear layers.

    In the public code `out_channels`, the classes, is 1 for two classes, and C, `channels`, is 32.
    """

    public_axis_order = "xyz"  # read with nibabel

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 32,
        mixer: Mixer = "mamba",
        d_state: int = 16,
        norm: Norm = "batch",
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        super().__init__()
        self.divisor = (1, 1, 1)
        self.gradient_checkpointing = gradient_checkpointing
        self.stem = DoubleConv(in_channels, channels, 2, norm)
        self.reader = _reader(channels, mixer, d_state, axis_order)
        widths = (channels, 2 * channels, 4 * channels)
        self.stages = nn.ModuleList(residual_stage(width, 2 * width, norm) for width in widths)
        self.mlp = nn.Sequential(
            nn.Linear(8 * channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` -> `(B, out_channels)` logits."""
        x = pad_to_two_voxels(x, 16)
        for part in (self.stem, self.reader, *self.stages):
            x = run_checkpointed(part, x, wanted=self.gradient_checkpointing)
        return self.mlp(x.mean((2, 3, 4)))

    def public_names(self) -> list[Row]:
        """Rows for the first `nnMamba4cls.py`; see `mambamed.networks.public_names`."""
        return [
            (r"mamba_layer_stem\.", lambda: "reader."),
            *ENCODER_NAMES,
            (r"mlp\.", lambda: "mlp."),
        ]
