"""ViTPose in 3D: a small vision transformer and an upsampling decoder, a baseline for landmarks.

Source: the row "VitPose" of Table 4 of Gong et al., arXiv 2402.03526v2, after Xu et al. 2022, "ViTPose". The
text gives no layers; the authors' landmark pipeline (LFC) has this network, far smaller than the 2D ViTPose.
With `width` = C, at an input of `(D, H, W)`:

    tokens   conv8 stride 8, + learned positions, + one learned vector for all        C, D/8
    blocks   `depth` times x + attention(LN(x)), then x + MLP(LN(x)), C -> 4C -> C; at last LN
    decoder  three times x2 trilinear, DoubleConv                                      C, D/4, D/2, D

Departs: in the public network the last DoubleConv has K channels, so that the heatmaps end in norm and ReLU.
`head="paper"` is this form. In the default, "linear", it has C channels, and a 1x1x1 convolution to K logits
follows. The public network accepts only cubes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mambamed.errors import RecipeError
from mambamed.networks.parts.blocks import (
    AxisOrder,
    DoubleConv,
    Norm,
    check_choice,
    rounded_up_patch,
    run_checkpointed,
)
from mambamed.networks.parts.dense import DenseNetwork, PublicOption, Row
from mambamed.networks.parts.doubling import Doubled
from mambamed.networks.parts.tokens import attend

_TOKEN = 8  # voxels along each axis
_EPS = 1e-6


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)).

    A head has `width // heads` channels, e.g. 10 of 64 // 6: the heads together are narrower than the tokens.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        inner = heads * (width // heads)
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, _EPS)
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, _EPS)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, L, C)` -> the same shape."""
        x = x + self.proj(attend(self.qkv(self.norm1(x)), self.heads))
        return x + self.mlp(self.norm2(x))


class ViTPose(DenseNetwork):
    """ViTPose in 3D for landmark heatmaps and segmentation.

    Args:
        patch_size: of the training, for which positions are learned; rounded up to multiples of 8. A smaller
            input is padded to it, a larger one is a RecipeError.
        width: C.
        depth, heads: transformer blocks, and their attention heads.
        head: "linear", or "paper" with norm and ReLU on the logits; see the module.
    """

    public_axis_order: ClassVar[AxisOrder] = "zyx"
    examples = ("", "head: paper")
    small: ClassVar = {"patch_size": [24, 24, 32], "width": 16, "depth": 2, "heads": 3}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        patch_size: Sequence[int] = (128, 128, 128),
        width: int = 64,
        depth: int = 6,
        heads: int = 6,
        head: Literal["linear", "paper"] = "linear",
        norm: Norm = "batch",
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        check_choice("head", head, ("linear", "paper"))
        if heads > width:
            raise RecipeError(
                f"network.heads: expected at most network.width ({width}), got {heads}. Use fewer heads."
            )
        grid = rounded_up_patch(patch_size, _TOKEN)
        super().__init__((_TOKEN, _TOKEN, _TOKEN), axis_order=axis_order, patch_size=grid)
        self.gradient_checkpointing = gradient_checkpointing
        count = grid[0] * grid[1] * grid[2] // _TOKEN**3
        self.embed = nn.Conv3d(in_channels, width, _TOKEN, _TOKEN)
        self.positions = nn.Parameter(torch.zeros(1, count + 1, width))  # the first is added to every token
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, _EPS)
        steps: list[nn.Module] = [_doubled(width, width, norm), _doubled(width, width, norm)]
        if head == "paper":
            steps.append(_doubled(width, out_channels, norm))
        else:
            steps.append(_doubled(width, width, norm).append(nn.Conv3d(width, out_channels, 1)))
        self.steps = nn.ModuleList(steps)

    def compute(self, x: Tensor) -> list[Tensor]:
        """`(B, in_channels, D, H, W)` -> `(B, K, D, H, W)` logits."""
        again = self.gradient_checkpointing
        x = self.embed(x)
        tokens = x.flatten(2).transpose(1, 2) + self.positions[:, 1:] + self.positions[:, :1]
        for block in self.blocks:
            tokens = run_checkpointed(block, tokens, wanted=again)
        x = self.norm(tokens).transpose(1, 2).unflatten(2, x.shape[2:])
        for step in self.steps:
            x = run_checkpointed(step, x, wanted=again)
        return [x]

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """The head, by its second norm; see `mambamed.networks.public_names`."""
        if "conv7.conv.4.weight" not in public:
            return []
        return [
            PublicOption("head", "paper", "shown", "The file has norms of the heatmaps."),
            PublicOption("heads", 6, "assumed", "The authors' code has 6."),
        ]

    def public_names(self) -> list[Row]:
        """Names of the authors' landmark pipeline."""
        return [
            (r"patch_embed\.proj\.", lambda: "embed."),
            (r"pos_embed", lambda: "positions"),
            (r"blocks\.(\d+)\.(norm[12])\.", lambda i, name: f"blocks.{i}.{name}."),
            (r"blocks\.(\d+)\.attn\.(qkv|proj)\.", lambda i, name: f"blocks.{i}.{name}."),
            (r"blocks\.(\d+)\.mlp\.fc([12])\.", lambda i, k: f"blocks.{i}.mlp.{2 * k - 2}."),
            (r"last_norm\.", lambda: "norm."),
            (r"conv([567])\.conv\.", lambda i: f"steps.{i - 5}.1."),
        ]


def _doubled(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Trilinear upsampling by 2, then the convolutions."""
    return nn.Sequential(Doubled(), DoubleConv(in_channels, out_channels, 1, norm))
