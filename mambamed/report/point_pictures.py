"""Landmarks on three planes of their case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.geometry import (
    Affine,
    affine_to_ras,
    orientation_of,
    spacing_of,
    to_ras,
    voxel_to_world,
    world_to_voxel,
)
from mambamed.io.atomic import write_bytes
from mambamed.report.canvas import new_figure, plain_style, png_of

_PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
_COLOR = "#E69F00"  # distinguishable from gray for color-blind readers (Okabe & Ito 2008)
_FAINTEST = 0.25
_NAMES_SHOWN = 60


@plain_style()
def draw_points(
    path: Path, title: str, image: NDArray, affine: Affine, voxels: Mapping[str, Sequence[float]]
) -> None:
    """Draw three planes through the median of the landmarks, with all landmarks on each plane.

    The patient's right is on the left of axial and coronal planes; voxels keep their aspect ratio in mm.
    Landmarks far from the plane are drawn with lower opacity.

    Args:
        path: a .png file, written atomically.
        image: `(X, Y, Z)` in the axis order of the file.
        affine: voxel -> world, mm, RAS+.
        voxels: landmark -> position in voxels of the file.
    """
    orientation = orientation_of(affine)
    turned = to_ras(image, orientation)
    affine_turned = affine_to_ras(affine, image.shape, orientation)
    spacing = spacing_of(affine_turned)
    world = voxel_to_world(affine, np.array([*voxels.values()], float).reshape(-1, 3))
    places = world_to_voxel(affine_turned, world)
    figure = new_figure(figsize=(12, 4.6), dpi=100, facecolor="black")
    middle = np.median(places, axis=0) if len(places) else (np.array(turned.shape) - 1) / 2
    for axes, (name, axis) in zip(figure.subplots(1, 3), _PLANES, strict=True):
        plane = int(np.clip(round(middle[axis]), 0, turned.shape[axis] - 1))
        _draw_plane(axes, turned.take(plane, axis=axis), axis, spacing)
        _mark(axes, [*voxels], places, axis, plane, turned.shape[axis])
        axes.set_title(name, color="white", fontsize=10)
    figure.suptitle(title, color="white", fontsize=11)
    write_bytes(path, png_of(figure))


def _draw_plane(axes: Any, plane: NDArray, axis: int, spacing: NDArray[np.float64]) -> None:
    across, up = (a for a in range(3) if a != axis)
    shown = np.asarray(plane, float).T
    low, high = np.percentile(shown, [1, 99.5])
    axes.imshow(shown, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower",
                aspect=spacing[up] / spacing[across], interpolation="nearest")  # fmt: skip
    if axis != 0:
        axes.invert_xaxis()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_frame_on(False)


def _mark(
    axes: Any, names: Sequence[str], places: NDArray[np.float64], axis: int, plane: int, length: int
) -> None:
    across, up = (a for a in range(3) if a != axis)
    for name, place in zip(names, places, strict=True):
        strength = max(_FAINTEST, 1 - 2 * abs(place[axis] - plane) / length)
        axes.plot(place[across], place[up], "o", ms=4, mfc="none", mec=_COLOR, alpha=strength)
        if len(names) <= _NAMES_SHOWN:
            axes.annotate(name, (place[across], place[up]), xytext=(3, 3), textcoords="offset points",
                          color=_COLOR, fontsize=7, alpha=strength, annotation_clip=True)  # fmt: skip
