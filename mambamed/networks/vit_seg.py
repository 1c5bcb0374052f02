"""A vision transformer as a segmenter, for the row "ViT" of nnMamba's table of BraTS.

Source: the row of Table 1 of Gong et al., arXiv 2402.03526v1, which cites Dosovitskiy et al. 2021. Neither
the paper nor its public code describes the network, so the form is ours. The encoder is MONAI's `ViT`:

    tokens   conv16 stride 16, + learned positions                               `hidden`, D/16
    blocks   `layers` times x + A(LN(x)), then x + MLP(LN(x)) with GELU; at last LN
    head     up: four times transposed conv2, conv3, norm, LeakyReLU, of the widths 256, 128, 64, 32; then
             conv1. No skip connections, which would make it UNETR
             linear: transposed conv4 stride 4 to 16 channels, then another to K, as in MONAI's `ViTAutoEnc`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks.parts.blocks import AxisOrder, Norm, check_choice, rounded_up_patch, run_checkpointed
from mambamed.networks.parts.dense import DenseNetwork, Row
from mambamed.networks.parts.tokens import DEPTHS, TOKEN, UpDecoder, attend


class Block(nn.Module):
    """x + A(LN(x)), then x + MLP(LN(x)); queries, keys and values without bias."""

    def __init__(self, width: int, mlp: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, mlp)
        self.fc2 = nn.Linear(mlp, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, L, width)` -> the same shape."""
        x = x + self.proj(attend(self.qkv(self.norm1(x)), self.heads))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class LinearDecoder(nn.Sequential):
    """Two transposed convolutions with nothing in between: a linear map of each token to its 16^3 voxels."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__(nn.ConvTranspose3d(width, 16, 4, 4), nn.ConvTranspose3d(16, out_channels, 4, 4))

    def forward(self, input: Tensor, every: bool = False) -> list[Tensor]:
        """`(B, width, D, H, W)` -> one tensor of logits on 16 times the grid; `every` has no effect."""
        return [super().forward(input)]


class ViTSeg(DenseNetwork):
    """Vision transformer for segmentation, with a convolutional decoder without skip connections.

    Args:
        patch_size: of the training, for which positions are learned; rounded up to multiples of 16. A smaller
            input is padded to it, a larger one is a RecipeError.
        head: "up" or "linear"; see the module.
        channels: of the decoder at full resolution.
        hidden, mlp, layers, heads: width of the transformer, of its MLPs, its blocks, its attention heads
            (default: those of ViT-B).
        deep_supervision: only with `head: up`, at strides 1, 2, 4, 8.
    """

    public_axis_order: ClassVar[AxisOrder] = "xyz"
    examples = ("patch_size: [128, 128, 128]", "patch_size: [128, 128, 128], head: linear")
    small: ClassVar = {
        "patch_size": [32, 32, 32],
        "channels": 4,
        "hidden": 24,
        "mlp": 32,
        "layers": 2,
        "heads": 4,
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        patch_size: Sequence[int] = (96, 96, 96),
        head: Literal["up", "linear"] = "up",
        channels: int = 32,
        hidden: int = 768,
        mlp: int = 3072,
        layers: int = 12,
        heads: int = 12,
        norm: Norm = "instance",
        deep_supervision: bool = False,
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        check_choice("head", head, ("up", "linear"))
        if hidden % heads:
            raise RecipeError(
                f"network.heads: expected a divisor of {hidden}, got {heads}. Change one of them."
            )
        if deep_supervision and head == "linear":
            raise RecipeError(
                "network.deep_supervision: expected false with head: linear, got true. Set false."
            )
        d, h, w = rounded_up_patch(patch_size, TOKEN)
        super().__init__(
            (TOKEN, TOKEN, TOKEN),
            strides=DEPTHS if deep_supervision else DEPTHS[:1],
            axis_order=axis_order,
            patch_size=(d, h, w),
        )
        self.gradient_checkpointing = gradient_checkpointing
        self.embed = nn.Conv3d(in_channels, hidden, TOKEN, TOKEN)
        self.positions = nn.Parameter(torch.zeros(1, d * h * w // TOKEN**3, hidden))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList(Block(hidden, mlp, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.decoder = (
            UpDecoder(hidden, channels, out_channels, norm, deep_supervision, gradient_checkpointing)
            if head == "up"
            else LinearDecoder(hidden, out_channels)
        )

    def compute(self, x: Tensor) -> list[Tensor]:
        """`(B, in_channels, D, H, W)` -> logits, in training with depths the finest first."""
        grid = self.embed(x)
        tokens = grid.flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = run_checkpointed(block, tokens, wanted=self.gradient_checkpointing)
        features = self.norm(tokens).transpose(1, 2).unflatten(2, grid.shape[2:])
        return self.decoder(features, every=self.training)

    def public_names(self) -> list[Row]:
        """Names of MONAI's ViT and ViTAutoEnc, and of a decoder `up`.

        MONAI's blocks have a norm for a cross-attention that they do not have.
        """
        block = r"(?:vit\.)?blocks\.(\d+)"
        return [
            (r"(?:vit\.)?patch_embedding\.patch_embeddings\.", lambda: "embed."),
            (r"(?:vit\.)?patch_embedding\.position_embeddings", lambda: "positions"),
            (rf"{block}\.norm_cross_attn\.", None),
            (rf"{block}\.norm(\d)\.", lambda i, k: f"blocks.{i}.norm{k}."),
            (rf"{block}\.attn\.qkv\.", lambda i: f"blocks.{i}.qkv."),
            (rf"{block}\.attn\.out_proj\.", lambda i: f"blocks.{i}.proj."),
            (rf"{block}\.mlp\.linear(\d)\.", lambda i, k: f"blocks.{i}.fc{k}."),
            (r"(?:vit\.)?norm\.", lambda: "norm."),
            (r"up\.", lambda: "decoder."),
            (r"conv3d_transpose\.", lambda: "decoder.0."),
            (r"conv3d_transpose_1\.", lambda: "decoder.1."),
        ]
