"""ResUNet: residual stages and a light decoder without any Mamba, the papers' baseline for landmarks.

Source: the row "ResUNet" of the landmark tables of Gong et al., arXiv 2402.03526, after He et al. 2016. The
text gives no layers; the authors' landmark pipeline (LFC) has this network:

    c1  DoubleConv, stride 2                C, X/2
    c2, c3, c4  3 residual blocks each     2C, X/4   4C, X/8   8C, X/16
    c5, c6, c7  x2 trilinear, concat [up, skip], DoubleConv -> 4C, 2C, C
    out x2 trilinear, conv3 - norm - ReLU - conv3 -> K logits

which is nnMamba v1 without its Mambas, layer by layer. The head departs from it as in nnMamba.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mambamed.networks.nnmamba import ENCODER_NAMES, Decoder, Head
from mambamed.networks.parts.blocks import (
    Answer,
    DoubleConv,
    Norm,
    pad_to_divisor,
    residual_stage,
    run_checkpointed,
)
from mambamed.networks.parts.dense import PublicOption, Row


class ResUNet(nn.Module):
    """ResUNet for landmark heatmaps and segmentation.

    Args:
        channels: C, width at half resolution.
        blocks: residual blocks per stage.
        head: "linear", "wide", or "paper" with norm and ReLU on the logits; see `nnmamba.Decoder`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 32,
        blocks: int = 3,
        norm: Norm = "batch",
        deep_supervision: bool = False,
        head: Head = "linear",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.divisor = (16, 16, 16)
        self.gradient_checkpointing = gradient_checkpointing
        self.stem = DoubleConv(in_channels, channels, 2, norm)
        widths, mixers = (channels, 2 * channels, 4 * channels), (None,) * (blocks - 1)
        self.stages = nn.ModuleList(residual_stage(width, 2 * width, norm, mixers) for width in widths)
        self.decoder = Decoder(channels, out_channels, norm, head, deep_supervision)
        self.deep_supervision_strides = self.decoder.strides

    def forward(self, x: Tensor) -> Answer:
        """`(B, in_channels, X, Y, Z)` -> `(B, K, X, Y, Z)` logits; a list in training with depths."""
        again = self.gradient_checkpointing
        features = [run_checkpointed(self.stem, pad_to_divisor(x, self.divisor), wanted=again)]
        for stage in self.stages:
            features.append(run_checkpointed(stage, features[-1], wanted=again))
        return self.decoder(features[-1], features[:-1], x.shape[2:], again)

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """The head; see `mambamed.networks.public_names`."""
        return Decoder.public_options(public)

    def public_names(self) -> list[Row]:
        """Rows for the ResUNet of the same code; see `mambamed.networks.public_names`."""
        return [*ENCODER_NAMES, *self.decoder.public_names()]
