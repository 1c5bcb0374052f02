"""nnMamba v2 for classification: MIC at the stem, three stages, a Mamba over the hierarchy of their means.

Source: Gong et al., "nnMamba: 3D Biomedical Image Segmentation, Classification and Landmark Detection with
State Space Model", arXiv 2402.03526v2, section 2.3, and the authors' code of July 2024.

With `channels` = C, at an input of `(X, Y, Z)`:

    c1  DoubleConv, stride 2; c1' = c1 + MIC(c1)         C, X/2
    c2, c3, c4  3 residual blocks each    2C, X/4   4C, X/8   8C, X/16
    p   means of c2, c3, c4 as 2C rows of 1, 2 and 4 columns: (B, 2C, 7)
    q   p + Mamba(p), the columns being the tokens
    MLP 14C -> C -> classes, ReLU and dropout between, of the rows of q

Departures of the text from the code, which is followed here: MICCSS at the stem (`mixer="miccss"`), maxima
instead of means, and 1+2+3 columns, which cannot contain the channels of the stages. In the ISBI form of the
code (`hierarchy="concat"`) the MLP reads the means one after another. The matched control (`mixer="none"`)
has no scan: the stem keeps the 1x1x1 convolutions of MIC, and q = p.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mambamed.networks.nnmamba import ENCODER_NAMES, MIC_NAMES, MIC_PARTS, MambaInConvolution, Mixer
from mambamed.networks.parts.blocks import (
    AxisOrder,
    DoubleConv,
    Norm,
    check_choice,
    pad_to_two_voxels,
    residual_stage,
    run_checkpointed,
    scan_axes,
)
from mambamed.networks.parts.dense import PublicOption, Row
from mambamed.ssm import Mamba


class NnMambaClassifier(nn.Module):
    """nnMamba v2 for classification.

    Args:
        out_channels: classes; 1 in the public code, for two classes.
        channels: C, width at half resolution; 32 in the paper.
        mixer: of the stem, "mic" (the public code), "miccss" (the text: four readings of X*Y*Z/8 tokens), or
            "none": no scan at all.
        hierarchy: "sequence" (a Mamba over the seven columns) or "concat" (the means as they are, no Mamba).
        dropout: probability, before the last linear layer.
    """

    public_axis_order = "xyz"  # read with nibabel
    examples = ("", "hierarchy: concat")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 32,
        mixer: Mixer = "mic",
        hierarchy: Literal["sequence", "concat"] = "sequence",
        d_state: int = 8,
        dropout: float = 0.5,
        norm: Norm = "batch",
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        super().__init__()
        check_choice("hierarchy", hierarchy, ("sequence", "concat"))
        self.divisor = (1, 1, 1)
        self.gradient_checkpointing = gradient_checkpointing
        self.stem = DoubleConv(in_channels, channels, 2, norm)
        self.reader = MambaInConvolution(channels, mixer, norm, d_state, scan_axes(axis_order))
        widths = (channels, 2 * channels, 4 * channels)
        self.stages = nn.ModuleList(residual_stage(width, 2 * width, norm) for width in widths)
        reads_sequence = hierarchy == "sequence" and mixer != "none"
        self.sequence = Mamba(2 * channels, d_state, d_conv=2, expand=2) if reads_sequence else None
        first, last = nn.Linear(14 * channels, channels), nn.Linear(channels, out_channels)
        mlp = nn.Sequential(first, nn.ReLU(inplace=True), nn.Dropout(dropout), last)
        # Two names, because weights for one order of the inputs must not load for the other: up to version
        # 0.2, the MLP of "concat" was `mlp`, and its inputs were the rows of p.
        self.mlp, self.mlp_of_means = (None, mlp) if hierarchy == "concat" else (mlp, None)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` -> `(B, out_channels)` logits."""
        again = self.gradient_checkpointing
        c1 = run_checkpointed(self.stem, pad_to_two_voxels(x, 16), wanted=again)
        features = c1 + run_checkpointed(self.reader, c1, wanted=again)
        means = []
        for stage in self.stages:
            features = run_checkpointed(stage, features, wanted=again)
            means.append(features.mean((2, 3, 4)))
        if self.mlp_of_means is not None:
            return self.mlp_of_means(torch.cat(means, dim=1))
        assert self.mlp is not None
        return self.mlp(self.read_hierarchy(means).flatten(1))

    def read_hierarchy(self, means: list[Tensor]) -> Tensor:
        """Stage means `(B, 2C)`, `(B, 4C)`, `(B, 8C)` -> q, `(B, 2C, 7)`.

        Channel c of stage k (0, 1, 2) goes to row `c div 2^k`, and there to column `c mod 2^k` of its 2^k.
        """
        rows = means[0].shape[1]
        columns = torch.cat([mean.unflatten(1, (rows, -1)) for mean in means], dim=2)
        if self.sequence is None:
            return columns
        # no ReLU before it, as in the public code: means of ReLU outputs are not negative
        return columns + self.sequence(columns.transpose(1, 2)).transpose(1, 2)

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """What the MLP reads, and the form of the stem; see `mambamed.networks.public_names`."""
        sequence = any(key.startswith("mamba_seq.") for key in public)
        hierarchy, has = ("sequence", "has a") if sequence else ("concat", "has no")
        return [
            PublicOption("hierarchy", hierarchy, "shown", f"The file {has} Mamba over the means."),
            PublicOption("mixer", "mic", "assumed", "The public code scans once; miccss has the same keys."),
        ]

    def public_names(self) -> list[Row]:
        """Rows for `nnMamba4cls.py`; see `mambamed.networks.public_names`."""
        return [
            (rf"mamba_layer_stem\.{MIC_PARTS}", lambda part: f"reader.{MIC_NAMES[part]}."),
            (r"mamba_seq\.mamba\.", lambda: "sequence."),
            *ENCODER_NAMES,
            (r"mlp\.", lambda: "mlp." if self.mlp_of_means is None else "mlp_of_means."),
        ]
