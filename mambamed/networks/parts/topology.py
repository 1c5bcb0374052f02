"""Widths, strides and kernels of a U-Net: as listed in a recipe, or as nnU-Net plans them for a patch.

Source: Isensee et al. 2021 (nnU-Net), Supplement, "Network topology".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mambamed.errors import RecipeError

Triple = tuple[int, int, int]
PerStage = Sequence[int | Sequence[int]]  # one number or three per stage
_LEAST_EDGE = 4  # voxels that an axis must keep at the bottom
_ALIKE = 2.0  # spacings that differ by less than this factor are treated as equal


@dataclass(frozen=True)
class Topology:
    """Widths, strides and kernels of the stages, full resolution first."""

    widths: tuple[int, ...]
    strides: tuple[Triple, ...]  # of the first convolution of each stage; the first is usually 1
    kernels: tuple[Triple, ...]

    @property
    def divisor(self) -> Triple:
        """Product of the strides along each axis."""
        return self.scales[-1]

    @property
    def scales(self) -> tuple[Triple, ...]:
        """Voxels of the input per voxel of each stage.

        >>> Topology((4, 8, 8), ((1, 1, 1), (1, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 3).scales
        ((1, 1, 1), (1, 2, 2), (2, 4, 4))
        """
        totals = [(1, 1, 1)]
        for x, y, z in self.strides:
            totals.append((totals[-1][0] * x, totals[-1][1] * y, totals[-1][2] * z))
        return tuple(totals[1:])


def unet_topology(
    patch_size: Sequence[int], spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)
) -> tuple[tuple[Triple, ...], tuple[Triple, ...]]:
    """Strides and kernels of the stages that nnU-Net plans for a patch, full resolution first.

    In each stage those axes are halved that are long enough (8 voxels, so that 4 remain) and whose spacing is
    within a factor of two of the finest among them; a single axis only from 12 voxels on. The kernel has 3
    taps along an axis from the stage on where its spacing is within a factor of two of the finest of all, and
    1 before; the bottom has 3 along every axis.

    Args:
        patch_size: voxels (x, y, z).
        spacing_mm: of the prepared grid; only its ratios matter. ValueError unless all six are positive.

    Source: Isensee et al. 2021, as above, and the public version 2.

    >>> unet_topology((16, 16, 16))
    (((1, 1, 1), (2, 2, 2), (2, 2, 2)), ((3, 3, 3), (3, 3, 3), (3, 3, 3)))
    """
    sizes, spacings = [int(n) for n in patch_size], [float(s) for s in spacing_mm]
    if len(sizes) != 3 or len(spacings) != 3 or min(sizes) < 1 or min(spacings) <= 0:
        raise ValueError(f"patch_size {patch_size} and spacing_mm {spacing_mm}: need three positive numbers")
    strides: list[Triple] = [(1, 1, 1)]
    kernels: list[Triple] = []
    kernel = [1, 1, 1]
    while halved := _axes_to_halve(sizes, spacings):
        kernel = [
            3 if k == 3 or s / min(spacings) < _ALIKE else 1 for k, s in zip(kernel, spacings, strict=True)
        ]
        kernels.append(_triple(kernel))
        strides.append(_triple([2 if axis in halved else 1 for axis in range(3)]))
        for axis in halved:
            sizes[axis] = -(-sizes[axis] // 2)
            spacings[axis] *= 2
    return tuple(strides), (*kernels, (3, 3, 3))


def _axes_to_halve(sizes: Sequence[int], spacings: Sequence[float]) -> list[int]:
    long_enough = [axis for axis in range(3) if sizes[axis] >= 2 * _LEAST_EDGE]
    finest = min((spacings[axis] for axis in long_enough), default=0.0)
    axes = [axis for axis in long_enough if spacings[axis] / finest < _ALIKE]
    return axes if len(axes) != 1 or sizes[axes[0]] >= 3 * _LEAST_EDGE else []


def make_topology(
    channels: int = 32,
    max_channels: int = 320,
    stages: int | None = None,
    strides: PerStage | None = None,
    kernels: PerStage | None = None,
    patch_size: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    widths: Sequence[int] | None = None,
) -> Topology:
    """The topology of a recipe's options; RecipeError if they contradict each other.

    Args:
        channels: width of the first stage; doubled with each, up to `max_channels`.
        stages: number of stages (default: that of `strides`, else 6).
        strides: one number or three per stage (default: 1, 2, 2, ...).
        kernels: one number or three per stage (default: 3).
        patch_size: voxels (x, y, z); without `stages` and `strides`, nnU-Net's rule plans strides and kernels
            for it, see `unet_topology`.
        spacing_mm: of the prepared grid, for that rule (default: isotropic).
        widths: one per stage, instead of `channels` and `max_channels`.

    >>> make_topology(32, 320).widths
    (32, 64, 128, 256, 320, 320)
    """
    try:
        if patch_size is not None and stages is None and strides is None:
            strides, planned = unet_topology(patch_size, spacing_mm or (1.0, 1.0, 1.0))
            kernels = kernels or planned
        count = stages or len(strides or widths or range(6))
        strides = strides or [1, *([2] * (count - 1))]
        kernels = kernels or [3] * count
        made = Topology(
            widths=tuple(widths or (min(channels * 2**i, max_channels) for i in range(count))),
            strides=tuple(_triple(stride) for stride in strides),
            kernels=tuple(_triple(kernel) for kernel in kernels),
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(f"network: strides, kernels, patch_size or spacing_mm: {error}") from error
    if not len(made.widths) == len(strides) == len(kernels) == count >= 2:
        lengths = f"{count} stages, {len(strides)} strides, {len(kernels)} kernels, {len(made.widths)} widths"
        raise RecipeError(f"network: {lengths}: give the same number, at least 2")
    if any(k % 2 == 0 for kernel in made.kernels for k in kernel):
        raise RecipeError(f"network.kernels: {list(kernels)}: an even size shifts the grid. Use odd numbers.")
    return made


def per_stage(option: str, value: int | Sequence[int], count: int) -> list[int]:
    """One number for each of `count` stages: repeated, or as listed.

    Raises RecipeError for a list of another length, or a number below 1.
    """
    numbers = [value] * count if isinstance(value, int) else list(value)
    if len(numbers) != count or min(numbers) < 1:
        raise RecipeError(f"network.{option}: {value} is neither one number nor {count}, each at least 1")
    return numbers


def _triple(value: int | Sequence[int]) -> Triple:
    x, y, z = (value,) * 3 if isinstance(value, int) else value
    return int(x), int(y), int(z)
