"""What segmenters have in common whose encoder is a plain vision transformer over patches of 16^3."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional

from mambamed.networks.parts.blocks import Norm, make_norm, run_checkpointed
from mambamed.networks.parts.unet import SLOPE, he_initialize

TOKEN = 16  # voxels along each axis
DEPTHS = [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8)]  # strides of the decoder's outputs


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Attention of tokens among themselves: `(B, L, 3 C)` -> `(B, L, C)`.

    The last axis holds queries, keys and values, and each of them the heads one after another.
    """
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, C / heads)
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class UpStep(nn.Module):
    """Transposed conv2 - conv3 without bias - norm - LeakyReLU 0.01, on twice the grid."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__()
        self.transposed = nn.ConvTranspose3d(in_channels, out_channels, 2, 2)
        self.conv = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm = make_norm(norm, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, D, H, W)` -> `(B, out_channels, 2 D, 2 H, 2 W)`."""
        return functional.leaky_relu(self.norm(self.conv(self.transposed(x))), SLOPE, inplace=True)


class UpDecoder(nn.Module):
    """Four steps from tokens to voxels, without skip connections, and a 1x1x1 head.

    Args:
        width: of the tokens.
        channels: at full resolution; twice as many on each coarser grid.
        deep_supervision: also 1x1x1 heads on the first three steps.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        out_channels: int,
        norm: Norm,
        deep_supervision: bool,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        widths = [width, *(channels * 2**i for i in (3, 2, 1, 0))]
        self.steps = nn.ModuleList(UpStep(*pair, norm) for pair in itertools.pairwise(widths))
        self.head = nn.Conv3d(channels, out_channels, 1)
        coarse = widths[3:0:-1] if deep_supervision else []
        self.deep_heads = nn.ModuleList(nn.Conv3d(each, out_channels, 1) for each in coarse)
        he_initialize(self)

    def forward(self, x: Tensor, every: bool) -> list[Tensor]:
        """`(B, width, D, H, W)` -> logits on 16 times the grid; `every`: also those of `deep_heads`."""
        features = []
        for step in self.steps:
            x = run_checkpointed(step, x, wanted=self.gradient_checkpointing)
            features.append(x)
        depths = zip(self.deep_heads, features[-2::-1], strict=False) if every else ()
        return [self.head(x), *(head(f) for head, f in depths)]
