"""The papers' other comparison networks, from MONAI: UNETR, SwinUNETR, SegResNet, MedNeXt, VNet, ViT.

MONAI is an extra, `pip install 'mambamed[baselines]'`. Added here are the properties of all our networks: any
input shape, a single output tensor, `norm`, `gradient_checkpointing`. Defaults are those of the networks'
papers; parameters and numbers are those of MONAI.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import MethodType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mambamed.errors import RecipeError
from mambamed.networks.parts.blocks import (
    Answer,
    Norm,
    Triple,
    check_choice,
    checkpoint_contexts,
    crop_logits,
    make_norm,
    pad_to_divisor,
    pad_to_grid,
    rounded_up_patch,
)


class _Baseline(nn.Module):
    """A network of MONAI, optionally with our norms and checkpointing.

    `norm` replaces its batch, instance and group norms; None keeps them.
    """

    def __init__(self, network: nn.Module, norm: Norm | None, gradient_checkpointing: bool) -> None:
        super().__init__()
        self.network = network
        for block in network.modules():
            if getattr(block, "with_cross_attention", None) is False and hasattr(block, "norm_cross_attn"):
                block.norm_cross_attn = nn.Identity()  # MONAI makes it and never runs it
        if norm is not None:
            _replace_norms(network, norm)
        if gradient_checkpointing:
            for child in network.children():
                for part in child if isinstance(child, nn.ModuleList) else (child,):
                    part.forward = MethodType(_recomputed, part)


class _DenseBaseline(_Baseline):
    """`(B, C, X, Y, Z)` -> `(B, K, X, Y, Z)`; pads to the divisor and crops."""

    divisor: Triple
    deep_supervision_strides: Sequence[Triple] = ((1, 1, 1),)

    def forward(self, x: Tensor) -> Answer:
        """`(B, in_channels, X, Y, Z)` -> `(B, K, X, Y, Z)` logits; a list in training with depths."""
        y = self.network(pad_to_divisor(x, self.divisor))
        return crop_logits(y if isinstance(y, tuple) else [y], x.shape[2:], self.deep_supervision_strides)


class UNETR(_DenseBaseline):
    """UNETR (Hatamizadeh et al. 2022): a ViT over patches of 16^3 as the encoder.

    Args:
        patch_size: of the training, for which positions are learned. A smaller input is padded to it, a
            larger one is a RecipeError.
        channels: width at full resolution.
        hidden, mlp, heads: width of the transformer, of its MLPs, and its attention heads.
    """

    examples = ("patch_size: [128, 128, 128]",)
    small: ClassVar = {"patch_size": [32, 32, 32], "channels": 4, "hidden": 24, "mlp": 32, "heads": 4}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        patch_size: Sequence[int] = (96, 96, 96),
        channels: int = 16,
        hidden: int = 768,
        mlp: int = 3072,
        heads: int = 12,
        norm: Norm | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        grid = rounded_up_patch(patch_size, 16)
        sizes = dict(img_size=grid, feature_size=channels, hidden_size=hidden, mlp_dim=mlp, num_heads=heads)
        super().__init__(_monai("UNETR", in_channels, out_channels, **sizes), norm, gradient_checkpointing)
        self.divisor = self.grid = grid

    def forward(self, x: Tensor) -> Answer:
        """`(B, in_channels, X, Y, Z)` -> `(B, K, X, Y, Z)` logits."""
        return crop_logits(
            [self.network(pad_to_grid(x, self.grid))], x.shape[2:], self.deep_supervision_strides
        )


class SwinUNETR(_DenseBaseline):
    """SwinUNETR (Hatamizadeh et al. 2022), and its version 2 (He et al. 2023).

    Args:
        v2: a residual convolution before each stage of the transformer.
        channels: width of the first stage; 48 in the papers, a multiple of 12.
        depths, heads: transformer blocks and attention heads of the four stages.
    """

    examples = ("", "v2: true")
    small: ClassVar = {"channels": 12, "depths": [2, 1, 1, 1]}

    divisor = (32, 32, 32)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        v2: bool = False,
        channels: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        norm: Norm | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        wanted = torch.get_default_device()
        sizes = dict(feature_size=channels, depths=tuple(depths), num_heads=tuple(heads))
        with torch.device("cpu"):  # its constructor reads numbers, which the meta device lacks
            network = _monai("SwinUNETR", in_channels, out_channels, **sizes, use_v2=v2)
        # MONAI checks by NumPy that the shape is a multiple of 32, which cannot be compiled; we padded it.
        vars(network)["_check_input_size"] = lambda shape: None
        super().__init__(network.to(wanted), norm, gradient_checkpointing)


class SegResNet(_DenseBaseline):
    """SegResNet (Myronenko 2018), without its variational branch.

    Args:
        channels: width at full resolution; 32 in the paper, a multiple of 8.
        blocks, up_blocks: residual blocks of each stage, and of each decoder step.
        norm: "instance" or "batch" for the group norms of the paper.
    """

    small: ClassVar = {"channels": 8, "blocks": [1, 1, 1], "up_blocks": [1, 1]}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 32,
        blocks: Sequence[int] = (1, 2, 2, 4),
        up_blocks: Sequence[int] = (1, 1, 1),
        norm: Norm | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        sizes = dict(init_filters=channels, blocks_down=tuple(blocks), blocks_up=tuple(up_blocks))
        super().__init__(
            _monai("SegResNet", in_channels, out_channels, **sizes), norm, gradient_checkpointing
        )
        stride = 2 ** (len(blocks) - 1)
        self.divisor = (stride, stride, stride)


_MEDNEXT_OPTIONS = (
    "encoder_expansion_ratio", "bottleneck_expansion_ratio", "decoder_expansion_ratio",
    "blocks_down", "blocks_bottleneck", "blocks_up",
)  # fmt: skip
# size -> the options above (Table 1)
_MEDNEXT = {
    "S": ((2, 2, 2, 2), 2, (2, 2, 2, 2), (2, 2, 2, 2), 2, (2, 2, 2, 2)),
    "B": ((2, 3, 4, 4), 4, (4, 4, 3, 2), (2, 2, 2, 2), 2, (2, 2, 2, 2)),
    "M": ((2, 3, 4, 4), 4, (4, 4, 3, 2), (3, 4, 4, 4), 4, (4, 4, 4, 3)),
    "L": ((3, 4, 8, 8), 8, (8, 8, 4, 3), (3, 4, 8, 8), 8, (8, 8, 4, 3)),
}


class MedNeXt(_DenseBaseline):
    """MedNeXt (Roy et al. 2023): ConvNeXt's blocks in 3D.

    Args:
        size: "S", "B", "M" or "L".
        kernel: taps along each axis of the depthwise convolutions; 3 or 5 in the paper.
        channels: width at full resolution.
        norm: "instance" or "batch" for the norms of the paper (group norm, one channel per group).
        deep_supervision: in training, also return logits at strides 2, 4, 8, 16.
    """

    examples = ("", "size: L, kernel: 5")
    small: ClassVar = {"size": "S", "channels": 4}

    channels_last = True  # depthwise convolutions: 0.65 of the time with kernels of 3
    divisor = (16, 16, 16)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        size: Literal["S", "B", "M", "L"] = "B",
        kernel: int = 3,
        channels: int = 32,
        norm: Norm | None = None,
        deep_supervision: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        check_choice("size", size, _MEDNEXT)
        sizes = dict(
            zip(_MEDNEXT_OPTIONS, _MEDNEXT[size], strict=True), init_filters=channels, kernel_size=kernel
        )
        extras = dict(use_residual_connection=True, deep_supervision=deep_supervision)
        network = _monai("MedNeXt", in_channels, out_channels, **sizes, **extras)
        super().__init__(network, norm, gradient_checkpointing)
        if deep_supervision:
            self.deep_supervision_strides = [(s, s, s) for s in (1, 2, 4, 8, 16)]


class VNet(_DenseBaseline):
    """V-Net (Milletari et al. 2016), with MONAI's batch norms.

    Args:
        in_channels: channels of the input; 1, 2, 4, 8 or 16, because they are repeated to 16.
        dropout: probability, for whole channels, in the deeper half.
    """

    divisor = (16, 16, 16)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dropout: float = 0.5,
        norm: Norm | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        rates = dict(dropout_prob_down=dropout, dropout_prob_up=(dropout, dropout))
        super().__init__(_monai("VNet", in_channels, out_channels, **rates), norm, gradient_checkpointing)


class ViT(_Baseline):
    """Vision transformer for classification (Dosovitskiy et al. 2021), over cubes of 16^3 or 8^3 voxels.

    Args:
        patch_size: of the training, for which positions are learned. A smaller input is padded to it, a
            larger one is a RecipeError.
        token: voxels along each axis of a cube that becomes one token.
        hidden, mlp, layers, heads: width of the transformer, of its MLPs, its blocks, its attention heads
            (default: those of ViT-B).
    """

    examples = ("patch_size: [128, 128, 128]", "patch_size: [128, 128, 128], token: 8")
    small: ClassVar = {"patch_size": [32, 32, 32], "hidden": 24, "mlp": 32, "layers": 2, "heads": 4}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        patch_size: Sequence[int] = (96, 96, 96),
        token: int = 16,
        hidden: int = 768,
        mlp: int = 3072,
        layers: int = 12,
        heads: int = 12,
        dropout: float = 0.0,
        norm: Norm | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        grid = rounded_up_patch(patch_size, token)
        sizes = dict(
            hidden_size=hidden, mlp_dim=mlp, num_layers=layers, num_heads=heads, dropout_rate=dropout
        )
        network = _monai(
            "ViT", in_channels, img_size=grid, patch_size=(token, token, token), classification=True,
            num_classes=out_channels, **sizes, post_activation="none",  # MONAI's default is tanh
        )  # fmt: skip
        for module in network.modules():
            if hasattr(module, "use_flash_attention"):
                # Equal up to rounding, without the matrix of all pairs. MONAI's also drops out in prediction.
                vars(module)["use_flash_attention"] = dropout == 0
        super().__init__(network, norm, gradient_checkpointing)
        self.grid = grid
        self.divisor = (1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, X, Y, Z)` -> `(B, out_channels)` logits."""
        return self.network(pad_to_grid(x, self.grid))[0]


def _monai(name: str, *channels: int, **options: Any) -> nn.Module:
    """A network of MONAI; RecipeError if it, or einops for its transformers, is not installed."""
    try:
        from monai.networks import nets

        named = dict(zip(("in_channels", "out_channels"), channels, strict=False))
        return getattr(nets, name)(**named, **options)
    except ImportError as error:
        raise RecipeError(
            f"network.name: {name} is MONAI's, which is not installed ({error}); "
            "pip install 'mambamed[baselines]'"
        ) from error


def _replace_norms(network: nn.Module, norm: Norm) -> None:
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, make_norm(norm, child.num_channels))
            elif isinstance(child, nn.BatchNorm3d | nn.InstanceNorm3d):
                setattr(parent, name, make_norm(norm, child.num_features, affine=child.affine))


def _recomputed(part: nn.Module, *inputs: Any) -> Any:
    """The forward pass of a part whose activations are recomputed in the backward pass."""
    plain = functools.partial(type(part).forward, part)
    if not torch.is_grad_enabled():
        return plain(*inputs)
    contexts = functools.partial(checkpoint_contexts, part)
    return checkpoint(plain, *inputs, use_reentrant=False, context_fn=contexts)
