"""What several architectures are made of: norms, residual blocks, padding to a divisor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mambamed.errors import RecipeError

Norm = Literal["batch", "instance", "none"]


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """The normalization of a recipe's `network.norm`, over `(B, C, X, Y, Z)`.

    Batch norm is the papers' choice for nnMamba; its statistics are fragile at batch 1 or 2, where
    instance norm is the safer one.

    Raises:
        RecipeError: no such norm.
    """
    if norm == "batch":
        return nn.BatchNorm3d(channels)
    if norm == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    if norm == "none":
        return nn.Identity()
    raise RecipeError(f"network.norm: {norm!r} is not one of batch, instance, none")


class DoubleConv(nn.Sequential):
    """conv3 - norm - ReLU - conv3 - norm - ReLU; the first convolution may have a stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, norm: Norm = "batch") -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, 3, stride, 1),
            make_norm(norm, out_channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(out_channels, out_channels, 3, 1, 1),
            make_norm(norm, out_channels),
            nn.ReLU(inplace=True),
        )


def pad_to_divisor(x: Tensor, divisor: Sequence[int]) -> Tensor:
    """Zeros behind the end of each spatial axis of `(B, C, X, Y, Z)`, up to a multiple of the divisor.

    >>> import torch
    >>> pad_to_divisor(torch.zeros(1, 1, 5, 16, 1), (4, 4, 4)).shape
    torch.Size([1, 1, 8, 16, 4])
    """
    missing = [-size % each for size, each in zip(x.shape[2:], divisor, strict=True)]
    if not any(missing):
        return x
    return functional.pad(x, [pad for size in reversed(missing) for pad in (0, size)])


def crop_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The first `shape` voxels of `(B, C, X, Y, Z)`: undoes `pad_to_divisor`."""
    return x[:, :, : shape[0], : shape[1], : shape[2]]


def strided_shape(shape: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Shape of a grid of this shape after strides, rounded up.

    >>> strided_shape((5, 8, 9), (2, 2, 4))
    (3, 4, 3)
    """
    return tuple(-(-size // each) for size, each in zip(shape, stride, strict=True))


def run_checkpointed(part: Callable[[Tensor], Tensor], x: Tensor, wanted: bool) -> Tensor:
    """`part(x)`; where wanted, its activations are computed again in the backward pass instead of kept."""
    if not wanted or not x.requires_grad:
        return part(x)
    result = checkpoint(part, x, use_reentrant=False)
    assert isinstance(result, Tensor)
    return result
