"""CoTr: a convolutional encoder and decoder, joined by a transformer whose tokens sample a few places.

Source: Xie et al. 2021, "CoTr: Efficiently Bridging CNN and Transformer for 3D Medical Image Segmentation",
and the settings of the authors' trainer; the attention is that of Zhu et al. 2021 (Deformable DETR) in three
dimensions. With `channels` = C, and strides relative to an input of `(D, H, W)`:

    c0      conv7 stride (1, 2, 2) to C, norm, LeakyReLU
    c1..c3  residual units with one convolution each, to 3C, 6C, 6C; strides (2, 4, 4), (4, 8, 8), (8, 16, 16)
    tokens  of c2 and of c3, width 6C; positions: axis-wise sines of the level's grid + a vector per level
    layers  LN(s + A(s)), LN(s + MLP(s)); A = deformable attention, query s + positions
    decoder up(tokens of c3) + tokens of c2, unit; up, + c1, unit; up, + c0, unit; conv1 -> K, up (1, 2, 2)

Deformable attention: each head of a token reads `points` places of either level, weighted by a softmax over
them. A place is the token's own center plus an offset; both are linear layers of the query.

`sampling="public"`, the default, keeps a fault of the public code, because its weights were trained with it:
centers and offsets are listed as (d, w, h), and read as (w, h, d). Every token therefore looks at transposed
places: its depth selects a column, its column a row, its row a depth. "aligned" reads them where they are.

Departs: the last 1x1x1 convolution runs before the trilinear upsampling, not after it. The two commute, and
the larger grid then has K channels instead of C.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks.parts.blocks import AxisOrder, Norm, Triple, check_choice, make_norm, run_checkpointed
from mambamed.networks.parts.dense import DenseNetwork, PublicOption, Row
from mambamed.networks.parts.doubling import doubled
from mambamed.networks.parts.positions import sines
from mambamed.networks.parts.unet import SLOPE

Sampling = Literal["public", "aligned"]
# Axes (0 = D, 1 = H, 2 = W) of the three numbers of a place; the sampler always reads them as W, H, D.
_LISTED: dict[Sampling, Triple] = {"public": (0, 2, 1), "aligned": (2, 1, 0)}
_STRIDES: tuple[Triple, ...] = ((1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8))


class StandardizedConv(nn.Conv3d):
    """Convolution whose kernels have mean 0 and variance 1 per output channel.

    Source: Qiao et al. 2019 (weight standardization); unbiased variance + 1e-12, as in the public code.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Conv3d`."""
        variance, mean = torch.var_mean(self.weight, (1, 2, 3, 4), keepdim=True)
        return self._conv_forward(input, (self.weight - mean) / (variance + 1e-12).sqrt(), self.bias)


class ConvUnit(nn.Sequential):
    """conv without bias, same padding - norm - LeakyReLU 0.01 (unless `activate` is false)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int | Triple,
        norm: Norm,
        standardize: bool,
        activate: bool = True,
    ) -> None:
        kind = StandardizedConv if standardize else nn.Conv3d
        conv = kind(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        activation = nn.LeakyReLU(SLOPE, inplace=True) if activate else nn.Identity()
        super().__init__(conv, make_norm(norm, out_channels), activation)


class ShortUnit(nn.Module):
    """LeakyReLU(norm(conv3 x) + shortcut x): residual, with a single convolution; it has the stride."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: Norm, standardize: bool
    ) -> None:
        super().__init__()
        options = {"stride": stride, "norm": norm, "standardize": standardize, "activate": False}
        self.conv = ConvUnit(in_channels, out_channels, 3, **options)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = ConvUnit(in_channels, out_channels, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, D, H, W)` -> `(B, out_channels, D/stride, ...)`."""
        return functional.leaky_relu(self.conv(x) + self.shortcut(x), SLOPE, inplace=True)


class DecoderUnit(nn.Module):
    """x + two conv units of x; no activation after the sum."""

    def __init__(self, channels: int, norm: Norm, standardize: bool) -> None:
        super().__init__()
        units = (ConvUnit(channels, channels, 3, 1, norm, standardize) for _ in range(2))
        self.convs = nn.Sequential(*units)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, D, H, W)` -> the same shape."""
        return x + self.convs(x)


@dataclass(frozen=True)
class Levels:
    """The grids of the tokens, which lie one level after the other, each in the order D, H, W."""

    shapes: Sequence[Triple]
    positions: Tensor  # (L, C), added to the queries
    centers: Tensor  # (L, 3), of each token on its own grid, 0 to 1, as the sampler will read them
    sizes: Tensor  # (levels, 1, 3), by which the offsets are divided


class DeformableAttention(nn.Module):
    """Each head of a token reads `points` places of every level.

    Source: Deformable DETR, Eq. 3, without masks.
    """

    def __init__(self, channels: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(channels, heads * levels * points * 3)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        self._initialize()

    def forward(self, tokens: Tensor, levels: Levels) -> Tensor:
        """`(B, L, C)` -> the same shape."""
        batch, length, channels = tokens.shape
        query = tokens + levels.positions
        # Places and sums are float32: bfloat16 has 256 steps between 0.5 and 1, too few for a large grid.
        offsets = self.offsets(query).float().view(batch, length, self.heads, self.levels, self.points, 3)
        places = levels.centers[:, None, None, None] + offsets / levels.sizes
        places = (2 * places - 1).movedim(1, 2).flatten(0, 1)  # (B heads, L, levels, points, 3), -1 to 1
        weights = self.weights(query).float().view(batch, length, self.heads, -1).softmax(-1)
        weights = weights.movedim(1, 2).reshape(-1, 1, length, self.levels, self.points)
        values = self.value(tokens).float().transpose(1, 2).reshape(batch * self.heads, -1, length)
        parts = values.split([math.prod(shape) for shape in levels.shapes], dim=2)
        total = torch.zeros_like(values)
        for level, (part, shape) in enumerate(zip(parts, levels.shapes, strict=True)):
            at = places[:, :, level, :, None]  # (B heads, L, points, 1, 3)
            read = functional.grid_sample(part.unflatten(2, shape), at, align_corners=False)[..., 0]
            total = total + (read * weights[:, :, :, level]).sum(-1)
        return self.out(total.view(batch, channels, length).transpose(1, 2))

    def _initialize(self) -> None:
        """Point p of head h is p voxels away along (cos t, sin t cos t, sin t sin t), t = 2 pi h / heads.

        The largest component of the direction is 1.
        """
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ways = torch.stack([angle.cos(), angle.sin() * angle.cos(), angle.sin() * angle.sin()], dim=1)
        ways = ways / ways.abs().amax(1, keepdim=True)
        far = ways[:, None, None] * torch.arange(1, self.points + 1)[:, None]  # (heads, 1, points, 3)
        with torch.no_grad():
            self.offsets.bias.copy_(far.expand(-1, self.levels, -1, -1).reshape(-1))
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.weights.bias)


class DeformableLayer(nn.Module):
    """LN(s + attention), then LN(s + MLP(s)), with dropout on both branches and inside the MLP."""

    def __init__(self, channels: int, attention: DeformableAttention, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        first, last = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        for layer in (first, last):
            nn.init.xavier_uniform_(layer.weight)
        self.mlp = nn.Sequential(first, nn.GELU(), nn.Dropout(dropout), last)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, levels: Levels) -> Tensor:
        """`(B, L, C)` -> the same shape."""
        s = self.norm1(tokens + self.dropout(self.attention(tokens, levels)))
        return self.norm2(s + self.dropout(self.mlp(s)))


class CoTr(DenseNetwork):
    """CoTr for segmentation.

    Args:
        channels: C, width at stride (1, 2, 2), and of each of six heads; the tokens have 6 C.
        depths: residual units of the three stages.
        layers, heads, points: of the transformer.
        dropout: of the transformer.
        weight_standardization: of all convolutions but the transposed ones and the heads.
        sampling: "public" or "aligned", see the module.
    """

    examples = ("",)
    small: ClassVar = {"channels": 4, "depths": [1, 2, 1], "layers": 1, "dropout": 0.0}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 64,
        depths: Sequence[int] = (3, 3, 2),
        layers: int = 6,
        heads: int = 6,
        points: int = 4,
        dropout: float = 0.1,
        weight_standardization: bool = False,
        sampling: Sampling = "public",
        norm: Norm = "instance",
        deep_supervision: bool = True,
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        super().__init__((8, 16, 16), strides=_STRIDES[: 4 if deep_supervision else 1], axis_order=axis_order)
        check_choice("sampling", sampling, _LISTED)
        if len(depths) != 3:
            raise RecipeError(
                f"network.depths: expected three numbers, got {list(depths)}. Give one per stage."
            )
        widths = [channels, 3 * channels, 6 * channels, 6 * channels]
        hidden = widths[-1]
        if hidden % heads:
            raise RecipeError(
                f"network.heads: expected a divisor of 6 channels = {hidden}, got {heads}. Change it."
            )
        self.listed = list(_LISTED[sampling])
        self.gradient_checkpointing = gradient_checkpointing
        self.stem = ConvUnit(in_channels, channels, 7, (1, 2, 2), norm, weight_standardization)
        self.stages = nn.ModuleList()
        for i, depth in enumerate(depths):
            units = [ShortUnit(widths[i], widths[i + 1], 2, norm, weight_standardization)]
            units += [
                ShortUnit(widths[i + 1], widths[i + 1], 1, norm, weight_standardization)
                for _ in range(1, depth)
            ]
            self.stages.append(nn.Sequential(*units))
        self.level_positions = nn.Parameter(torch.randn(2, hidden))
        self.layers = nn.ModuleList(
            DeformableLayer(hidden, DeformableAttention(hidden, heads, 2, points), dropout)
            for _ in range(layers)
        )
        back = widths[2::-1]
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(before, after, 2, 2, bias=False)
            for before, after in zip((hidden, *back), back, strict=False)
        )
        self.units = nn.ModuleList(DecoderUnit(width, norm, weight_standardization) for width in back)
        self.head = nn.Conv3d(channels, out_channels, 1)
        deep = widths[:3] if deep_supervision else []
        self.deep_heads = nn.ModuleList(nn.Conv3d(width, out_channels, 1) for width in deep)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def compute(self, x: Tensor) -> list[Tensor]:
        """`(B, in_channels, D, H, W)` -> logits at strides (1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8)."""
        again = self.gradient_checkpointing
        x = run_checkpointed(self.stem, x, wanted=again)
        maps = [x]
        for stage in self.stages:
            maps.append(run_checkpointed(stage, maps[-1], wanted=again))
        c3, c2 = self._transform(maps[2:])
        x, levels = c3, []
        for up, unit, skip in zip(self.ups, self.units, (c2, maps[1], maps[0]), strict=True):
            x = run_checkpointed(unit, up(x) + skip, wanted=again)
            levels.append(x)
        outputs = [doubled(self.head(x), axes=(3, 4))]
        if self.training:
            outputs += [head(y) for head, y in zip(self.deep_heads, reversed(levels), strict=False)]
        return outputs

    def _transform(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """c2 and c3 through the transformer -> c3 and c2."""
        shapes: list[Triple] = [(y.shape[2], y.shape[3], y.shape[4]) for y in maps]
        tokens = torch.cat([y.flatten(2).transpose(1, 2) for y in maps], dim=1)
        width, device = tokens.shape[2], tokens.device
        grids = zip(shapes, self.level_positions, strict=True)
        levels = Levels(
            shapes,
            positions=torch.cat([sines(shape, width, device, first=0.5) + vector for shape, vector in grids]),
            centers=torch.cat([grid_centers(shape, device) for shape in shapes])[:, self.listed],
            sizes=torch.tensor([[[shape[axis] for axis in self.listed]] for shape in shapes], device=device),
        )
        for layer in self.layers:
            tokens = run_checkpointed(layer, tokens, levels, wanted=self.gradient_checkpointing)
        parts = tokens.transpose(1, 2).split([math.prod(shape) for shape in shapes], dim=2)
        return [part.unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)][::-1]

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """Options without parameters; of heads and points, the keys show only the product."""
        remark = "The authors' trainer does not standardize weights."
        return [
            PublicOption("weight_standardization", False, "assumed", remark),
            PublicOption("sampling", "public", "assumed", "The public code has no other sampling."),
            PublicOption("heads", 6, "assumed", "The authors' trainer has 6."),
        ]

    def public_names(self) -> list[Row]:
        """Names of the authors' code."""
        part = {"conv": 0, "norm": 1}
        attention = dict(sampling_offsets="offsets", attention_weights="weights", value_proj="value")
        attention["output_proj"] = "out"
        root = r"U_ResTran3D\."
        block, layer = rf"{root}backbone\.layer(\d)\.(\d+)", rf"{root}encoder_Detrans\.encoder\.layers\.(\d)"
        unit = rf"{root}stage(\d)_de\.resconv(\d)\.(conv|norm)\."
        return [
            (rf"{root}backbone\.(conv|norm)1\.", lambda p: f"stem.{part[p]}."),
            (rf"{block}\.(conv|norm)1\.", lambda i, j, p: f"stages.{i - 1}.{j}.conv.{part[p]}."),
            (rf"{block}\.downsample\.", lambda i, j: f"stages.{i - 1}.{j}.shortcut."),
            (rf"{root}encoder_Detrans\.level_embed", lambda: "level_positions"),
            (
                rf"{layer}\.self_attn\.({'|'.join(attention)})",
                lambda i, p: f"layers.{i}.attention.{attention[p]}",
            ),
            (rf"{layer}\.norm", lambda i: f"layers.{i}.norm"),
            (rf"{layer}\.linear(\d)\.", lambda i, k: f"layers.{i}.mlp.{3 * k - 3}."),
            (rf"{root}transposeconv_stage(\d)\.", lambda i: f"ups.{2 - i}."),
            (unit, lambda i, k, p: f"units.{2 - i}.convs.{k - 1}.{part[p]}."),
            (rf"{root}ds(\d)_cls_conv\.", lambda i: f"deep_heads.{i}."),
            (rf"{root}cls_conv\.", lambda: "head."),
        ]


def grid_centers(shape: Triple, device: torch.device) -> Tensor:
    """Centers of the voxels of a grid, 0 to 1 along D, H, W: `(D H W, 3)`.

    >>> grid_centers((1, 1, 2), torch.device("cpu")).tolist()
    [[0.5, 0.5, 0.25], [0.5, 0.5, 0.75]]
    """
    axes = [(torch.arange(size, device=device) + 0.5) / size for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
