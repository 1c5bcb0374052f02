"""Building blocks of several architectures: norms, residual blocks, padding to a divisor, checkpointing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mambamed.errors import RecipeError
from mambamed.networks.parts.instance_norm import InstanceNorm

Norm = Literal["batch", "instance", "none"]
AxisOrder = Literal["xyz", "zyx"]
Triple = tuple[int, int, int]
Answer = Tensor | list[Tensor]


def check_choice(option: str, value: object, choices: Iterable[object]) -> None:
    """Raise `RecipeError` if an option of a network has none of its possible values."""
    if value not in (known := tuple(choices)):
        raise RecipeError(
            f"network.{option}: expected {', '.join(map(str, known))}, got {value!r}. Choose one of them."
        )


def make_norm(norm: Norm, channels: int, affine: bool = True) -> nn.Module:
    """The normalization of a recipe's `network.norm`, over `(B, C, X, Y, Z)`; RecipeError for other names.

    Batch norm is the papers' choice for nnMamba. Its statistics are unreliable at batch size 1 or 2, where
    instance norm is safer. `affine`: learn a weight and a bias per channel; batch norm always has them.
    """
    check_choice("norm", norm, ("batch", "instance", "none"))
    if norm == "batch":
        return nn.BatchNorm3d(channels)
    return InstanceNorm(channels, affine=affine) if norm == "instance" else nn.Identity()


class ChannelNorm(nn.Module):
    """Layer norm over the channels of `(B, C, X, Y, Z)`."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def scan_axes(axis_order: AxisOrder) -> Triple:
    """Order of the grid's axes in a scan, the last one fastest: a recipe's `network.axis_order`.

    "zyx" is for weights of networks that were trained on `(z, y, x)` arrays. RecipeError for other names.
    """
    check_choice("axis_order", axis_order, ("xyz", "zyx"))
    return (0, 1, 2) if axis_order == "xyz" else (2, 1, 0)


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


class ResidualBlock(nn.Module):
    """conv3 - norm - ReLU - conv3 - norm, + mixer(input), + input, ReLU.

    The first convolution has the stride. If the grid or the width changes, the input passes a strided 1x1x1
    convolution with norm before it is added. `mixer` is an additional branch, e.g. MICCSS.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: Norm, mixer: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = make_norm(norm, out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = make_norm(norm, out_channels)
        self.mixer = mixer
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride, bias=False), make_norm(norm, out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> `(B, C', X/stride, ...)`."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)), inplace=True)))
        if self.mixer is not None:
            y = y + self.mixer(x)
        return functional.relu(y + self.shortcut(x), inplace=True)


def residual_stage(
    in_channels: int, out_channels: int, norm: Norm, mixers: Sequence[nn.Module | None] = (None, None)
) -> nn.Sequential:
    """Residual blocks: the first halves the grid and changes the width, then one follows per mixer."""
    return nn.Sequential(
        ResidualBlock(in_channels, out_channels, 2, norm),
        *(ResidualBlock(out_channels, out_channels, 1, norm, mixer) for mixer in mixers),
    )


def pad_to_divisor(x: Tensor, divisor: Sequence[int], symmetric: bool = False) -> Tensor:
    """Pad the end of each spatial axis of `(B, C, X, Y, Z)` with zeros to a multiple of the divisor.

    `symmetric`: pad both ends, with the larger half at the end.

    If a single voxel would remain at the bottom of the network, the first axis gets one more divisor:
    instance norm, and batch norm of one patch, cannot normalize a single number.

    >>> import torch
    >>> pad_to_divisor(torch.zeros(1, 1, 5, 16, 1), (4, 4, 4)).shape
    torch.Size([1, 1, 8, 16, 4])
    >>> pad_to_divisor(torch.zeros(1, 1, 4, 4, 1), (4, 4, 4)).shape
    torch.Size([1, 1, 8, 4, 4])
    >>> pad_to_divisor(torch.ones(1, 1, 2, 2, 5), (1, 1, 8), symmetric=True)[0, 0, 0, 0]
    tensor([0., 1., 1., 1., 1., 1., 0., 0.])
    """
    missing = [-size % each for size, each in zip(x.shape[2:], divisor, strict=True)]
    if all(size + pad == each for size, pad, each in zip(x.shape[2:], missing, divisor, strict=True)):
        missing[0] += divisor[0]
    if not any(missing):
        return x
    before = [size // 2 if symmetric else 0 for size in missing]
    ends = zip(reversed(before), reversed(missing), strict=True)
    return functional.pad(x, [pad for first, size in ends for pad in (first, size - first)])


def pad_to_grid(x: Tensor, grid: Triple) -> Tensor:
    """Pad the end of each axis with zeros to the grid for which positions were learned."""
    missing = [size - given for size, given in zip(grid, x.shape[2:], strict=True)]
    if min(missing) < 0:
        shape = " x ".join(map(str, x.shape[2:]))
        raise RecipeError(
            f"network.patch_size: built for {' x '.join(map(str, grid))} voxels, given {shape}; "
            "set it to the largest input"
        )
    return functional.pad(x, [pad for size in reversed(missing) for pad in (0, size)])


def rounded_up_patch(patch_size: Sequence[int], multiple: int | Triple) -> Triple:
    """The option `patch_size` of a network, rounded up along each axis; RecipeError unless of three numbers.

    If it is a single multiple along all axes, the first axis gets another one, for the reason of
    `pad_to_divisor`.

    >>> rounded_up_patch([113, 137, 8], 8), rounded_up_patch([8, 8, 8], 8)
    ((120, 144, 8), (16, 8, 8))
    """
    if len(patch_size) != 3:
        raise RecipeError(
            f"network.patch_size: expected three numbers, got {list(patch_size)}. Give one per axis."
        )
    multiples = (multiple,) * 3 if isinstance(multiple, int) else multiple
    x, y, z = (-(-int(size) // each) * each for size, each in zip(patch_size, multiples, strict=True))
    return (2 * x, y, z) if (x, y, z) == tuple(multiples) else (x, y, z)


def pad_to_two_voxels(x: Tensor, stride: int) -> Tensor:
    """Pad the end of the first axis of `(B, C, X, Y, Z)` with zeros if the stride would leave one voxel.

    For classifiers, which accept every other shape; see `pad_to_divisor` for the reason.

    >>> import torch
    >>> pad_to_two_voxels(torch.zeros(1, 1, 20, 32, 1), 32).shape
    torch.Size([1, 1, 33, 32, 1])
    >>> pad_to_two_voxels(torch.zeros(1, 1, 20, 33, 1), 32).shape
    torch.Size([1, 1, 20, 33, 1])
    """
    if max(x.shape[2:]) > stride:
        return x
    return functional.pad(x, [0, 0, 0, 0, 0, stride + 1 - x.shape[2]])


def crop_to(x: Tensor, shape: Sequence[int], start: Sequence[int] = (0, 0, 0)) -> Tensor:
    """The `shape` voxels of `(B, C, X, Y, Z)` from `start` on: the inverse of `pad_to_divisor`."""
    a, b, c = start
    return x[:, :, a : a + shape[0], b : b + shape[1], c : c + shape[2]]


def strided_shape(shape: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Shape of a grid after strides, rounded up.

    >>> strided_shape((5, 8, 9), (2, 2, 4))
    (3, 4, 3)
    """
    return tuple(-(-size // each) for size, each in zip(shape, stride, strict=True))


def crop_logits(
    outputs: Sequence[Tensor],
    shape: Sequence[int],
    strides: Sequence[Triple],
    start: Sequence[int] = (0, 0, 0),
) -> Answer:
    """Crop `(B, K, X, Y, Z)` logits of a padded grid, the finest first, to the grid of the input.

    Logits of depth d get `strided_shape(shape, strides[d])`. `start` is the input's first voxel in the padded
    grid; with a stride, it is rounded down. A single tensor is returned without a list.
    """
    cropped = [
        crop_to(logits, strided_shape(shape, stride), [a // s for a, s in zip(start, stride, strict=True)])
        for logits, stride in zip(outputs, strides, strict=False)
    ]
    return cropped if len(cropped) > 1 else cropped[0]


def run_checkpointed(part: nn.Module, *inputs: object, wanted: bool) -> Tensor:
    """`part(*inputs)`; if wanted, its activations are recomputed in the backward pass instead of stored.

    The recomputation does not change running statistics, so that training gives the same numbers.
    """
    if not wanted or not torch.is_grad_enabled():
        return part(*inputs)
    contexts = partial(checkpoint_contexts, part)
    result = checkpoint(part, *inputs, use_reentrant=False, context_fn=contexts)
    assert isinstance(result, Tensor)
    return result


def checkpoint_contexts(part: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of the first computation of a checkpointed part, and of the recomputation."""
    return nullcontext(), _StatisticsHeld(part)


class _StatisticsHeld(AbstractContextManager):
    """Batch norms use their batch's statistics as in training, but do not update the running statistics."""

    def __init__(self, part: nn.Module) -> None:
        self._norms = [m for m in part.modules() if isinstance(m, nn.BatchNorm3d) and m.training]

    def __enter__(self) -> None:
        self._before = [(norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 0.0
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked = norm.num_batches_tracked.clone()

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, batches) in zip(self._norms, self._before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
