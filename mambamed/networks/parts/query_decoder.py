"""Logits by queries that read the features of a U-Net: the decoder of TransUNet in 3D.

Source: Chen et al., "TransUNet", Medical Image Analysis 2024, after Cheng et al. 2022 (Mask2Former), and the
authors' code. Each query predicts the probabilities p of the classes and of "no object", and a mask m:

    features  the three levels before the finest, from the coarsest on: conv1 -> 192, group norm, + one vector
              per level, which is learned
    start     learned states o and positions e of the queries
    layer     o = LN(o + A(o + e, level + sines, level)), in which a query attends to the voxels where its
              mask is positive, or to all if it is so nowhere; o = LN(o + A(o + e, o + e, o));
              o = LN(o + MLP(o)), with ReLU
    answer    of d = LN(o): p = softmax(linear(d)), m = MLP(d) . (conv1 of the finest features, -> 192)
    logits    log(sum over queries of p sigmoid(m)), without the p of "no object"

Layer i reads level i mod 3; with the usual two layers the last level remains unread. The largest logit is
where the sum is largest, as in the authors' inference, and softmax of the logits is the sum, normalized.
Sigmoid, for overlapping regions, is above 0.5 where the sum is above 1. With `layer_scale`, as in the
authors' code, o = LN(o + g A(...)) among the queries and o = LN(g (o + MLP(o))); g is learned and 1e-5 at
the start.

Departs: the authors train by Hungarian matching of queries and classes. Here the logits of all predictions,
of the start and of each layer, are outputs of deep supervision at full resolution, for the losses that all
networks have. The projection of a level that no layer reads does not exist here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.networks.parts.blocks import Triple
from mambamed.networks.parts.dense import Row
from mambamed.networks.parts.positions import sines

LEVELS = 3  # that the queries read, one after another
_SCALE = 1e-5  # of layer scale at the start


class QueryLayer(nn.Module):
    """A layer of the query decoder; see the formulas of the module."""

    def __init__(self, width: int, heads: int, mlp: int, layer_scale: bool) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross_norm = nn.LayerNorm(width)
        self.own = nn.MultiheadAttention(width, heads, batch_first=True)
        self.own_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, mlp)
        self.fc2 = nn.Linear(mlp, width)
        self.mlp_norm = nn.LayerNorm(width)
        scales = [nn.Parameter(torch.full((width,), _SCALE)) if layer_scale else None for _ in "12"]
        self.own_scale, self.mlp_scale = scales

    def forward(self, o: Tensor, e: Tensor, level: Tensor, positions: Tensor, hidden: Tensor) -> Tensor:
        """States of the queries -> states.

        Args:
            o, e: `(B, Q, width)` states and positions of the queries.
            level, positions: `(B, L, width)` and `(L, width)` voxels of a level and their positions.
            hidden: `(B, Q, L)` bool, the voxels that a query does not attend to.
        """
        hidden = hidden.repeat_interleave(self.cross.num_heads, 0)
        attended, _ = self.cross(o + e, level + positions, level, attn_mask=hidden, need_weights=False)
        o = self.cross_norm(o + attended)
        attended, _ = self.own(o + e, o + e, o, need_weights=False)
        o = self.own_norm(o + (attended if self.own_scale is None else self.own_scale * attended))
        o = o + self.fc2(functional.relu(self.fc1(o)))
        return self.mlp_norm(o if self.mlp_scale is None else self.mlp_scale * o)


class QueryDecoder(nn.Module):
    """Logits by queries that read some levels of a U-Net's features; see the formulas of the module.

    Args:
        levels: channels of the levels; of them, as many are used as there are layers.
        finest: channels of the features at full resolution.
        width, heads, mlp: of the layers; the width is a multiple of 96.
    """

    def __init__(
        self,
        levels: Sequence[int],
        finest: int,
        out_channels: int,
        queries: int,
        layers: int,
        layer_scale: bool,
        *,
        width: int = 192,
        heads: int = 8,
        mlp: int = 1536,
    ) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(
            nn.Sequential(nn.Conv3d(channels, width, 1), nn.GroupNorm(32, width))
            for channels in levels[:layers]
        )
        self.level_embed = nn.Parameter(torch.randn(len(levels), width))
        self.state = nn.Parameter(torch.randn(queries, width))
        self.positions = nn.Parameter(torch.randn(queries, width))
        self.layers = nn.ModuleList(QueryLayer(width, heads, mlp, layer_scale) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, out_channels + 1)
        self.masks = nn.Sequential(
            *(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        )
        self.mask_features = nn.Conv3d(finest, width, 1)

    def forward(self, levels: Sequence[Tensor], finest: Tensor, every: bool) -> list[Tensor]:
        """Features `(B, C, D, H, W)` -> `(B, K, D, H, W)` logits of the last layer.

        `every`: also those of the layers before it and of the start, the last layer first. All is computed in
        the type of the weights, also under autocast, because sums of small probabilities precede a logarithm.
        """
        levels, finest = [x.to(self.state.dtype) for x in levels], finest.to(self.state.dtype)
        device = finest.device.type
        exact = torch.autocast(device, enabled=False) if device != "meta" else nullcontext()
        with exact:
            return self._answers(levels, finest, every)

    def _answers(self, levels: Sequence[Tensor], finest: Tensor, every: bool) -> list[Tensor]:
        batch = finest.shape[0]
        # Not expanded: torch's counter of operations cannot track views of parameters.
        e, state = (each.repeat(batch, 1, 1) for each in (self.positions, self.state))
        tokens = [
            project(x).flatten(2).transpose(1, 2) + vector
            for project, x, vector in zip(self.inputs, levels, self.level_embed, strict=False)
        ]
        states = [state]
        for i, layer in enumerate(self.layers):
            j = i % len(tokens)
            shape = _shape(levels[j])
            positions = sines(shape, tokens[j].shape[2], finest.device, first=1.0).to(tokens[j].dtype)
            state = layer(state, e, tokens[j], positions, self._hidden(state, finest, shape))
            states.append(state)
        return [self._logits(state, finest) for state in (states[::-1] if every else states[-1:])]

    def _hidden(self, state: Tensor, finest: Tensor, shape: Triple) -> Tensor:
        """`(B, Q, L)`: where the mask, resized to a level, is negative; nowhere, if it is so everywhere."""
        with torch.no_grad():
            # Masks are linear in the features, so that these can be resized instead, which are fewer numbers.
            small = functional.interpolate(finest, shape, mode="trilinear", align_corners=False)
            hidden = self._masks(self.norm(state), small) < 0
            return hidden & ~hidden.all(2, keepdim=True)

    def _masks(self, d: Tensor, features: Tensor) -> Tensor:
        """`(B, Q, width)` and `(B, C, D, H, W)` -> `(B, Q, D H W)`, before the sigmoid.

        The product with `mask_features` is computed from right to left: Q instead of `width` channels on the
        full grid.
        """
        embedding = self.masks(d)
        weight, bias = self.mask_features.weight.flatten(1), self.mask_features.bias
        assert bias is not None
        return torch.baddbmm((embedding @ bias)[:, :, None], embedding @ weight, features.flatten(2))

    def _logits(self, state: Tensor, finest: Tensor) -> Tensor:
        d = self.norm(state)
        p = self.classes(d).softmax(2)[:, :, :-1]
        sums = p.transpose(1, 2) @ self._masks(d, finest).sigmoid()
        return sums.clamp_min(torch.finfo(sums.dtype).tiny).log().unflatten(2, finest.shape[2:])

    def public_names(self) -> list[Row]:
        """Names of the authors' code."""
        at = lambda name, i: f"queries.layers.{i}.{name}"  # noqa: E731
        cross, own, mlp = (
            rf"predictor\.transformer_{name}_layers\.(\d)\."
            for name in ("cross_attention", "self_attention", "ffn")
        )
        return [
            (r"seg_outputs\.", None),
            (rf"input_proj\.[{len(self.inputs)}-9]\.", None),
            (r"input_proj\.(\d)\.", lambda i: f"queries.inputs.{i}."),
            (r"linear_mask_features\.", lambda: "queries.mask_features."),
            (r"predictor\.query_feat\.weight", lambda: "queries.state"),
            (r"predictor\.query_embed\.weight", lambda: "queries.positions"),
            (r"predictor\.level_embed\.weight", lambda: "queries.level_embed"),
            (r"predictor\.decoder_norm\.", lambda: "queries.norm."),
            (r"predictor\.class_embed\.", lambda: "queries.classes."),
            (r"predictor\.mask_embed\.layers\.(\d)\.", lambda i: f"queries.masks.{2 * i}."),
            (rf"{cross}(?:multihead_attn|attn)\.", lambda i: at("cross.", i)),
            (rf"{cross}norm\.", lambda i: at("cross_norm.", i)),
            (rf"{own}(?:self_attn|attn)\.", lambda i: at("own.", i)),
            (rf"{own}norm\.", lambda i: at("own_norm.", i)),
            (rf"{own}(?:\w+\.)?gamma", lambda i: at("own_scale", i)),
            (rf"{mlp}linear(\d)\.", lambda i, k: at(f"fc{k}.", i)),
            (rf"{mlp}norm\.", lambda i: at("mlp_norm.", i)),
            (rf"{mlp}(?:\w+\.)?gamma", lambda i: at("mlp_scale", i)),
        ]


def _shape(x: Tensor) -> Triple:
    d, h, w = x.shape[2:]
    return d, h, w
