"""Blocks of the diffusion transformer DiT as a segmenter, for the rows "DiT" of nnMamba's tables of BraTS.

Source: the rows of Table 1 of Gong et al., arXiv 2402.03526v1 and v2, which cite Peebles & Xie 2023,
"Scalable diffusion models with transformers". Neither the papers nor their public code describe the network,
so the form is ours:

    tokens   conv16 stride 16, + sines of the place along each axis                `hidden`, D/16
    blocks   `layers` times x + a1 A(LN(x) (1 + g1) + b1), then x + a2 MLP(LN(x) (1 + g2) + b2), with the tanh
             form of GELU; at last LN(x) (1 + g) + b. LN has no parameters, and eps 1e-6
    decoder  four times transposed conv2, conv3, norm, LeakyReLU, of the widths 256, 128, 64, 32; then conv1.
             No skip connections

In DiT, shift b, scale g and gate a of a block are linear functions of the time and the class of a diffusion
step. A segmenter has neither, so they would be constant; here they are learned numbers, zero at the start as
in DiT (adaLN-Zero). This is the same family of functions with 42.5 M fewer parameters.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks.parts.blocks import AxisOrder, Norm, Triple, run_checkpointed
from mambamed.networks.parts.dense import DenseNetwork, Row
from mambamed.networks.parts.tokens import DEPTHS, TOKEN, UpDecoder, attend

_EPS = 1e-6


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift over the last axis."""
    return functional.layer_norm(x, x.shape[-1:], 1 + scale, shift, _EPS)


class Block(nn.Module):
    """A block of DiT for a constant condition; see the formulas of the module."""

    def __init__(self, width: int, mlp: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Parameter(torch.zeros(6, width))  # shift, scale, gate; shift, scale, gate
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, mlp)
        self.fc2 = nn.Linear(mlp, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, L, width)` -> the same shape."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation
        x = x + gate1 * self.proj(attend(self.qkv(modulated(x, shift1, scale1)), self.heads))
        hidden = functional.gelu(self.fc1(modulated(x, shift2, scale2)), approximate="tanh")
        return x + gate2 * self.fc2(hidden)


class DiTSeg(DenseNetwork):
    """DiT's blocks for segmentation, with a convolutional decoder without skip connections.

    Args:
        channels: of the decoder at full resolution.
        hidden, mlp, layers, heads: width of the transformer, a multiple of 6, and of its MLPs, its blocks,
            its attention heads (default: those of DiT-B).
        deep_supervision: at strides 1, 2, 4, 8.
    """

    public_axis_order: ClassVar[AxisOrder] = "xyz"
    small: ClassVar = {"channels": 4, "hidden": 24, "mlp": 32, "layers": 2, "heads": 4}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
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
        if hidden % 6:
            raise RecipeError(f"network.hidden: expected a multiple of 6, got {hidden}. Change it.")
        if hidden % heads:
            raise RecipeError(
                f"network.heads: expected a divisor of {hidden}, got {heads}. Change one of them."
            )
        strides = DEPTHS if deep_supervision else DEPTHS[:1]
        super().__init__((TOKEN, TOKEN, TOKEN), strides=strides, axis_order=axis_order)
        self.gradient_checkpointing = gradient_checkpointing
        self.embed = nn.Conv3d(in_channels, hidden, TOKEN, TOKEN)
        self.blocks = nn.ModuleList(Block(hidden, mlp, heads) for _ in range(layers))
        self.modulation = nn.Parameter(torch.zeros(2, hidden))  # shift, scale
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d) and module.bias is not None:
                nn.init.xavier_uniform_(module.weight.flatten(1))  # a view
                nn.init.zeros_(module.bias)
        self.decoder = UpDecoder(
            hidden, channels, out_channels, norm, deep_supervision, gradient_checkpointing
        )

    def compute(self, x: Tensor) -> list[Tensor]:
        """`(B, in_channels, D, H, W)` -> logits, in training with depths the finest first."""
        grid = self.embed(x)
        shape: Triple = (grid.shape[2], grid.shape[3], grid.shape[4])
        tokens = grid.flatten(2).transpose(1, 2)
        tokens = tokens + places(shape, tokens.shape[2], tokens.device).to(tokens.dtype)
        for block in self.blocks:
            tokens = run_checkpointed(block, tokens, wanted=self.gradient_checkpointing)
        tokens = modulated(tokens, *self.modulation)
        return self.decoder(tokens.transpose(1, 2).unflatten(2, shape), every=self.training)

    def public_names(self) -> list[Row]:
        """Names of this form of the network; there is no public code of it."""
        return [
            (r"embed\.", lambda: "embed."),
            (r"blocks\.(\d+)\.", lambda i: f"blocks.{i}."),
            (r"modulation", lambda: "modulation"),
            (r"up\.", lambda: "decoder."),
        ]


def places(shape: Triple, width: int, device: torch.device) -> Tensor:
    """`(D H W, width)` float64: per axis sin(n w_k), then cos(n w_k), w_k = 10000^(-k / (width / 6))."""
    each = width // 6
    frequency = 10000.0 ** (-torch.arange(each, dtype=torch.float64, device=device) / each)
    parts = []
    for axis, size in enumerate(shape):
        angle = torch.arange(size, dtype=torch.float64, device=device)[:, None] * frequency
        table = torch.cat([angle.sin(), angle.cos()], dim=1)  # (N, width / 3)
        view = [size if a == axis else 1 for a in range(3)]
        parts.append(table.view(*view, 2 * each).expand(*shape, 2 * each))
    return torch.cat(parts, dim=-1).flatten(0, 2)
