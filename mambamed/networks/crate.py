"""CRATE in 3D: a transformer whose layers are steps of one optimization, a baseline for classification.

Source: Yu et al. 2023, "White-Box Transformers via Sparse Rate Reduction", arXiv 2306.01129, and the row
"CRATE" of Table 3 of Gong et al., arXiv 2402.03526v2, whose public code has the 3D form. With `width` = C, at
an input of `(D, H, W)`:

    tokens   cubes of 8^3 voxels (channel fastest), LN, linear -> C, LN; a class token; learned positions
    layer    t + O(attention(U LN(t))), queries, keys and values all the same product with U (MSSA)
             ReLU(z + s (z D - (z D^T) D) - s l), z = LN(t), s = l = 0.1, with one matrix D (ISTA)
    head     class token, LN, linear -> 1000, linear -> K

The second step of a layer has no residual connection, and the head nothing between its linear layers.

Departs: the public network ends in a sigmoid, and its loss applies a second one; here are logits. The public
configuration needs inputs of 104 x 128 x 104 voxels; here any multiple of 8.
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
    Triple,
    check_choice,
    pad_to_grid,
    rounded_up_patch,
    run_checkpointed,
)
from mambamed.networks.parts.dense import PublicOption, Row

_TOKEN = 8  # voxels along each axis
_STEP = 0.1  # s
_SPARSITY = 0.1  # l
_HIDDEN = 1000  # outputs of the first linear layer of the head


class Layer(nn.Module):
    """Attention with one projection for queries, keys and values, then a step towards sparse tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.subspaces = nn.Linear(width, width, bias=False)  # U
        self.out = nn.Linear(width, width)  # O
        self.norm2 = nn.LayerNorm(width)
        self.dictionary = nn.Parameter(torch.empty(width, width))  # D
        nn.init.kaiming_uniform_(self.dictionary)

    def forward(self, t: Tensor) -> Tensor:
        """`(B, L, C)` -> the same shape."""
        u = self.subspaces(self.norm1(t)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(u, u, u)  # (B, heads, L, C / heads)
        z = self.norm2(t + self.out(attended.transpose(1, 2).flatten(2)))
        # z D - (z D^T) D, with one product less
        slope = (z - z @ self.dictionary.T) @ self.dictionary
        return functional.relu(z + _STEP * slope - _STEP * _SPARSITY)


class Crate(nn.Module):
    """CRATE for classification.

    Args:
        patch_size: of the training, for which positions are learned, in the order D, H, W; rounded up to
            multiples of 8. A smaller input is padded to it, a larger one is a RecipeError.
        width: C.
        depth, heads: layers, and attention heads of each.
        axis_order: "zyx" permutes the volume on entry, for weights trained on (z, y, x) arrays.
    """

    public_axis_order: ClassVar[AxisOrder] = "xyz"
    sizes_in_own_order: ClassVar[bool] = True
    examples = ("patch_size: [128, 128, 128]",)
    small: ClassVar = {"patch_size": [24, 24, 32], "width": 16, "depth": 2, "heads": 2}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        patch_size: Sequence[int] = (104, 128, 104),
        width: int = 576,
        depth: int = 12,
        heads: int = 12,
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        super().__init__()
        check_choice("axis_order", axis_order, ("xyz", "zyx"))
        if width % heads:
            raise RecipeError(
                f"network.heads: expected a divisor of network.width ({width}), got {heads}. Correct one."
            )
        self.axis_order: AxisOrder = axis_order
        self.gradient_checkpointing = gradient_checkpointing
        d, h, w = rounded_up_patch(patch_size, _TOKEN)
        self.grid: Triple = (d, h, w) if axis_order == "xyz" else (w, h, d)
        self.divisor = (1, 1, 1)
        voxels = in_channels * _TOKEN**3
        self.embed = nn.Sequential(nn.LayerNorm(voxels), nn.Linear(voxels, width), nn.LayerNorm(width))
        self.positions = nn.Parameter(torch.randn(1, d * h * w // _TOKEN**3 + 1, width))
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, _HIDDEN), nn.Linear(_HIDDEN, out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` -> `(B, out_channels)` logits."""
        x = pad_to_grid(x, self.grid)
        if self.axis_order == "zyx":
            x = x.permute(0, 1, 4, 3, 2)
        tokens = self.embed(_cubes(x))
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], dim=1) + self.positions
        for layer in self.layers:
            tokens = run_checkpointed(layer, tokens, wanted=self.gradient_checkpointing)
        return self.head(tokens[:, 0])

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """What no key shows: heads and, of the number of tokens, the patch; see `public_names`."""
        found = [PublicOption("heads", 12, "assumed", "The authors' code has 12.")]
        if "pos_embedding" in public and public["pos_embedding"].shape[1:2] == (13 * 16 * 13 + 1,):
            patch = [8 * 13, 8 * 16, 8 * 13]
            found.append(PublicOption("patch_size", patch, "assumed", "The number of tokens agrees."))
        return found

    def public_names(self) -> list[Row]:
        """Names of the nnMamba authors' 3D CRATE."""
        layer = r"transformer\.layers\.(\d+)"
        return [
            (r"to_patch_embedding\.([123])\.", lambda k: f"embed.{k - 1}."),
            (r"pos_embedding", lambda: "positions"),
            (r"cls_token", lambda: "class_token"),
            (rf"{layer}\.([01])\.norm\.", lambda i, k: f"layers.{i}.norm{k + 1}."),
            (rf"{layer}\.0\.fn\.qkv\.", lambda i: f"layers.{i}.subspaces."),
            (rf"{layer}\.0\.fn\.to_out\.0\.", lambda i: f"layers.{i}.out."),
            (rf"{layer}\.1\.fn\.weight", lambda i: f"layers.{i}.dictionary"),
            (r"mlp_head\.([012])\.", lambda k: f"head.{k}."),
        ]


def _cubes(x: Tensor) -> Tensor:
    """`(B, C, D, H, W)` -> `(B, L, 8^3 C)`: cubes in the order D, H, W, within each d, h, w, channel."""
    for axis in (2, 4, 6):
        x = x.unflatten(axis, (-1, _TOKEN))
    return x.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)
