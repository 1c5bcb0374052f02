"""Landmarks on three planes of their case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.geometry import Affine, voxel_to_world, world_to_voxel
from mambamed.io.atomic import write_bytes
from mambamed.report.canvas import new_figure, plain_style, png_of
from mambamed.report.planes import PLANES, Turned, across_and_up, add_legend, color_of, outlined

_NAMES_SHOWN, _SHORT = 8, 4  # more landmarks, and longer names, have a number beside the marks
_NEAR = 2  # voxels


@plain_style()
def draw_points(
    path: Path,
    title: str,
    image: NDArray,
    affine: Affine,
    voxels: Mapping[str, Sequence[float]],
    landmarks: Sequence[str] = (),
    channel: str = "",
) -> None:
    """Draw three planes through the median of the landmarks, with all landmarks on each plane.

    Each landmark has a color; its mark is a ring within two voxels of the plane, and a cross elsewhere. Sides
    of the patient are lettered; voxels keep their aspect ratio in mm.

    Args:
        path: a .png file, written atomically.
        image: `(X, Y, Z)` in the axis order of the file.
        affine: voxel -> world, mm, RAS+.
        voxels: landmark -> position in voxels of the file.
        landmarks: names of all landmarks, in the order of their colors (default: those of `voxels`).
        channel: name of the image's channel.
    """
    from matplotlib.lines import Line2D

    volume, names = Turned(image, affine), list(landmarks or voxels)
    world = voxel_to_world(affine, np.array([*voxels.values()], float).reshape(-1, 3))
    places = world_to_voxel(volume.affine, world)
    figure = new_figure(figsize=(12, 4.8), dpi=100, facecolor="black")
    middle = np.median(places, axis=0) if len(places) else (np.array(volume.image.shape) - 1) / 2
    named = len(names) <= _NAMES_SHOWN or max(map(len, names)) <= _SHORT
    texts = {name: name if named else str(k + 1) for k, name in enumerate(names)}
    for axes, (plane, axis) in zip(figure.subplots(1, 3), PLANES, strict=True):
        place = int(np.clip(round(middle[axis]), 0, volume.image.shape[axis] - 1))
        volume.draw(axes, axis, place)
        for name, point in zip(voxels, places, strict=True):
            _mark(axes, texts[name], color_of(names.index(name)), point, axis, place)
        axes.set_title(plane, color="white", fontsize=10)
    figure.suptitle(f"{title}, {channel}" if channel else title, color="white", fontsize=11)
    numbered = {n: n if texts[n] == n else f"{texts[n]}: {n}" for n in names}
    handles = [
        Line2D([], [], ls="", marker="o", color=color_of(names.index(n)), label=label)
        for n, label in numbered.items()
        if n in voxels
    ]
    if handles:
        plain: dict[str, Any] = {"ls": "", "color": "white", "mfc": "none"}
        handles.append(Line2D([], [], marker="o", **plain, label="in this plane"))
        handles.append(Line2D([], [], marker="x", **plain, label="before or behind it"))
    add_legend(figure, handles)
    write_bytes(path, png_of(figure))


def _mark(axes: Any, text: str, color: str, point: NDArray[np.float64], axis: int, place: int) -> None:
    across, up = across_and_up(axis)
    near = abs(point[axis] - place) <= _NEAR
    axes.plot(
        point[across], point[up], "o" if near else "x", ms=7 if near else 5, mew=1.5, mec=color, mfc="none",
        path_effects=outlined(3),
    )  # fmt: skip
    left, right = axes.get_xlim()
    inwards = -1 if (point[across] - left) / (right - left) > 0.6 else 1  # the text stays inside of the plane
    axes.annotate(
        text, (point[across], point[up]), xytext=(5 * inwards, 4), textcoords="offset points", color=color,
        fontsize=9, fontweight="bold", annotation_clip=True, path_effects=outlined(2.5),
        ha="left" if inwards > 0 else "right",
    )  # fmt: skip
