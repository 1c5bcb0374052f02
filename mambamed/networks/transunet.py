"""TransUNet in 3D: nnU-Net with a vision transformer at its bottom, queries that read its decoder, or both.

Source: Chen et al., "TransUNet: Rethinking the U-Net architecture design for medical image segmentation
through the lens of transformers", Medical Image Analysis 2024, and the authors' code. With the widths W of
nnU-Net's plan, from the coarsest grid to the finest:

    U-Net   two conv units per stage and per decoder step, transposed convolutions without bias, a 1x1x1 head
            without bias on every step
    bottom  conv1 W -> hidden, + learned positions, dropout; `vit_depth` blocks; LN; conv1 hidden -> W. The
            result replaces the output of the bottom stage: there is no residual around the transformer
    block   x + A(LN(x)), then x + MLP(LN(x)); LN with eps 1e-6; A with separate linear layers for query, key,
            value and output; MLP hidden -> mlp -> hidden with GELU, and dropout after both layers

`layer_scale`, with g learned per channel and 1e-5 at the start, for both branches f of a block:

    none      x + f(LN(x))
    branch    x + g f(LN(x)), the usual LayerScale (Touvron et al. 2021)
    residual  g x + f(LN(x)), as in the authors' code for Synapse: it scales the residual, so that the
              transformer has almost no skip connections at the start

With `queries`, a query decoder replaces the heads; see `parts.query_decoder`.

Departs: the authors start from weights of ImageNet, here the transformer starts from random numbers. In their
code with queries, the heads of the U-Net exist without a use; here they do not.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks.parts.blocks import AxisOrder, Norm, check_choice, rounded_up_patch, run_checkpointed
from mambamed.networks.parts.dense import DenseNetwork, PublicOption, Row
from mambamed.networks.parts.query_decoder import LEVELS, QueryDecoder
from mambamed.networks.parts.topology import make_topology
from mambamed.networks.parts.unet import ConvUnit, encoder_stages, he_initialize, transposed_steps

LayerScale = Literal["none", "branch", "residual"]
_EPS = 1e-6  # of the transformer's layer norms
_SCALE = 1e-5  # of layer scale at the start


class Attention(nn.Module):
    """Multi-head attention of tokens among themselves, with one linear layer each for q, k, v and output."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, L, width)` -> the same shape."""
        parts = [
            f(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)
        ]
        y = functional.scaled_dot_product_attention(*parts)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A block of the transformer; see the formulas of the module."""

    def __init__(self, width: int, mlp: int, heads: int, dropout: float, layer_scale: LayerScale) -> None:
        super().__init__()
        self.layer_scale = layer_scale
        self.norm1 = nn.LayerNorm(width, _EPS)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, _EPS)
        self.fc1 = nn.Linear(width, mlp)
        self.fc2 = nn.Linear(mlp, width)
        self.dropout = nn.Dropout(dropout)
        scales = [None if layer_scale == "none" else nn.Parameter(torch.full((width,), _SCALE)) for _ in "12"]
        self.scale1, self.scale2 = scales
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, L, width)` -> the same shape."""
        x = self._sum(x, self.attention(self.norm1(x)), self.scale1)
        hidden = self.dropout(functional.gelu(self.fc1(self.norm2(x))))
        return self._sum(x, self.dropout(self.fc2(hidden)), self.scale2)

    def _sum(self, x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
        if scale is None:
            return x + branch
        return x + scale * branch if self.layer_scale == "branch" else scale * x + branch


class BottomTransformer(nn.Module):
    """Replaces the features of a small grid by those that a vision transformer makes of its voxels.

    Args:
        channels: of the features.
        grid: the only shape that fits, because positions are learned.
    """

    def __init__(
        self,
        channels: int,
        grid: Sequence[int],
        depth: int,
        width: int,
        mlp: int,
        heads: int,
        dropout: float,
        layer_scale: LayerScale,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.embed = nn.Conv3d(channels, width, 1)
        self.positions = nn.Parameter(torch.zeros(1, grid[0] * grid[1] * grid[2], width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, mlp, heads, dropout, layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(width, _EPS)
        self.project = nn.Conv3d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, D, H, W)` -> the same shape."""
        tokens = self.dropout(self.embed(x).flatten(2).transpose(1, 2) + self.positions)
        for block in self.blocks:
            tokens = run_checkpointed(block, tokens, wanted=self.gradient_checkpointing)
        return self.project(self.norm(tokens).transpose(1, 2).unflatten(2, x.shape[2:]))


class TransUNet(DenseNetwork):
    """TransUNet.

    Args:
        vit_depth: blocks of the transformer; 0 for none: nnU-Net, or with queries the authors' decoder form.
        patch_size: of the training, in the order of the network's axes, from which strides and kernels are
            planned unless they are given. With a transformer, positions are learned for it: a smaller input
            is padded to it, a larger one is a RecipeError.
        hidden, mlp, heads: width of the transformer, of its MLPs, and its attention heads.
        layer_scale: "none", "branch" or "residual"; see the formulas of the module.
        dropout: probability, of the transformer's inputs and in its MLPs.
        queries: their number, 20 in the authors' code; 0 for the heads of nnU-Net.
        query_layers: layers of the query decoder.
        query_layer_scale: see `query_decoder`.
        plan: see `topology.make_topology`; in the order of the network's axes.
    """

    examples = (
        "patch_size: [128, 128, 128]",
        "vit_depth: 0, queries: 20",
        "patch_size: [128, 128, 128], queries: 20",
    )
    may_be_zero = ("vit_depth",)
    small: ClassVar = {
        "patch_size": [32, 32, 32],
        "channels": 4,
        "stages": 3,
        "vit_depth": 1,
        "hidden": 24,
        "mlp": 32,
        "heads": 4,
        "dropout": 0.0,
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        vit_depth: int = 12,
        patch_size: Sequence[int] = (128, 128, 128),
        hidden: int = 768,
        mlp: int = 3072,
        heads: int = 12,
        layer_scale: LayerScale = "none",
        dropout: float = 0.1,
        queries: int = 0,
        query_layers: int = 2,
        query_layer_scale: bool = False,
        norm: Norm = "instance",
        deep_supervision: bool = True,
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
        **plan: Any,
    ) -> None:
        check_choice("layer_scale", layer_scale, ("none", "branch", "residual"))
        if heads < 1 or hidden % heads:
            raise RecipeError(
                f"network.heads: expected a divisor of {hidden}, got {heads}. Change one of them."
            )
        topology = make_topology(patch_size=patch_size, **plan)
        widths, divisor = topology.widths, topology.divisor
        grid = rounded_up_patch(patch_size, divisor)
        if queries and len(widths) <= LEVELS:
            raise RecipeError(
                f"network.queries: expected 0 with {len(widths)} stages, got {queries}. "
                f"Give 0, or at least {LEVELS + 1} stages."
            )
        scales = [(1, 1, 1)] * (query_layers + 1) if queries else topology.scales[:-1]
        super().__init__(
            divisor,
            strides=scales if deep_supervision else scales[:1],
            axis_order=axis_order,
            patch_size=grid if vit_depth else None,
        )
        self.deep_supervision = deep_supervision
        self.gradient_checkpointing = gradient_checkpointing
        unit, counts = functools.partial(ConvUnit, norm=norm), [2] * len(widths)
        self.stages = nn.ModuleList(encoder_stages(in_channels, topology, unit, counts))
        self.steps = nn.ModuleList(transposed_steps(topology, unit, counts, bias=False))
        heads_of = widths[-2::-1] if deep_supervision else widths[:1]
        self.heads = nn.ModuleList(
            nn.Conv3d(width, out_channels, 1, bias=False) for width in ([] if queries else heads_of)
        )
        he_initialize(self)
        bottom = [size // each for size, each in zip(grid, divisor, strict=True)]
        sizes = (vit_depth, hidden, mlp, heads, dropout, layer_scale, gradient_checkpointing)
        self.transformer = BottomTransformer(widths[-1], bottom, *sizes) if vit_depth else nn.Identity()
        self.queries: QueryDecoder | None = None
        if queries:
            levels = widths[LEVELS:0:-1]  # of the decoder steps before the last one
            decoder = (levels, widths[0], out_channels, queries, query_layers, query_layer_scale)
            self.queries = QueryDecoder(*decoder)

    def compute(self, x: Tensor) -> list[Tensor]:
        """`(B, in_channels, D, H, W)` -> logits of every step, the finest first; outside training one."""
        again, skips = self.gradient_checkpointing, []
        for stage in self.stages:
            x = run_checkpointed(stage, x, wanted=again)
            skips.append(x)
        x = self.transformer(skips.pop())
        features = [x]
        for step in self.steps:
            x = run_checkpointed(step, x, skips.pop(), wanted=again)
            features.append(x)
        every = self.training and self.deep_supervision
        if self.queries is not None:
            return self.queries(features[-1 - LEVELS : -1], x, every)
        if not every:
            return [self.heads[-1](x)]
        return [head(f) for head, f in zip(self.heads, features[1:], strict=True)][::-1]

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """Depth, heads and layer scale of the transformer, and the queries; see `public_names`."""
        if not any(key.startswith("conv_blocks_context.") for key in public):
            return []
        depth = _count(r"transformer\.encoder\.layer\.(\d+)\.", public)
        found = [PublicOption("vit_depth", depth, "shown", "This is the number of blocks in the file.")]
        if depth:
            found.append(PublicOption("heads", 12, "assumed", "All configurations of the authors have 12."))
        if "transformer.encoder.layer.0.ls1.gamma" in public:
            remark = "The authors' code scales the residual; branch has the same keys."
            found.append(PublicOption("layer_scale", "residual", "assumed", remark))
        states = public.get("predictor.query_feat.weight")
        queries = 0 if states is None else len(states)
        found.append(PublicOption("queries", queries, "shown", "This is the number of queries in the file."))
        if queries:
            layers = _count(r"predictor\.transformer_ffn_layers\.(\d+)\.", public)
            scaled = any(re.match(r"predictor\..*gamma$", key) for key in public)
            found.append(
                PublicOption("query_layers", layers, "shown", "This is the number of layers in the file.")
            )
            remark = f"The file has {'' if scaled else 'no '}layer scale in the query decoder."
            found.append(PublicOption("query_layer_scale", scaled, "shown", remark))
        return found

    def public_names(self) -> list[Row]:
        """Names of the authors' code, whose U-Net is that of nnU-Net v1.

        With queries, its heads of the U-Net and the projections of levels that no layer reads are dropped.
        """
        unit, part = r"(conv|instnorm)\.", {"conv": 0, "instnorm": 1}
        block = r"transformer\.encoder\.layer\.(\d+)"
        rows: list[Row] = [] if self.queries is None else self.queries.public_names()
        return [
            *rows,
            (
                rf"conv_blocks_context\.(\d)\.blocks\.(\d)\.{unit}",
                lambda i, j, p: f"stages.{i}.{j}.{part[p]}.",
            ),
            (
                rf"conv_blocks_context\.(\d)\.(\d)\.blocks\.0\.{unit}",
                lambda i, j, p: f"stages.{i}.{j}.{part[p]}.",
            ),
            (
                rf"conv_blocks_localization\.(\d)\.(\d)\.blocks\.0\.{unit}",
                lambda u, j, p: f"steps.{u}.convolve.{j}.{part[p]}.",
            ),
            (r"tu\.(\d)\.", lambda u: f"steps.{u}.up."),
            (r"seg_outputs\.(\d)\.", lambda u: f"heads.{u}."),
            (r"transformer\.embeddings\.patch_embeddings\.", lambda: "transformer.embed."),
            (r"transformer\.embeddings\.position_embeddings", lambda: "transformer.positions"),
            (rf"{block}\.attention_norm\.", lambda i: f"transformer.blocks.{i}.norm1."),
            (rf"{block}\.ffn_norm\.", lambda i: f"transformer.blocks.{i}.norm2."),
            (rf"{block}\.attn\.", lambda i: f"transformer.blocks.{i}.attention."),
            (rf"{block}\.ffn\.", lambda i: f"transformer.blocks.{i}."),
            (rf"{block}\.ls(\d)\.gamma", lambda i, k: f"transformer.blocks.{i}.scale{k}"),
            (r"transformer\.encoder\.encoder_norm\.", lambda: "transformer.norm."),
            (r"conv_more\.", lambda: "transformer.project."),
        ]


def _count(pattern: str, public: Mapping[str, Tensor]) -> int:
    """How many different numbers the keys have at a place."""
    return len({found[1] for key in public if (found := re.match(pattern, key))})
