"""Three planes of a case with reference and prediction outlined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.geometry import Affine
from mambamed.io.atomic import write_bytes
from mambamed.report.canvas import new_figure, plain_style, png_of
from mambamed.report.planes import PLANES, Turned, add_legend, color_of, names_by_value

_FILL, _REFERENCE_WIDTH, _PREDICTION_WIDTH = 0.32, 0.6, 1.6
_MARGIN = 3


@dataclass(frozen=True)
class PicturedCase:
    """One row of the picture."""

    title: str
    image: NDArray  # `(X, Y, Z)` in the axis order of the file
    affine: Affine  # voxel -> world, mm, RAS+
    reference: NDArray | None = None  # a label map on the same grid; so is the prediction
    prediction: NDArray | None = None
    channel: str = ""  # name of the image's channel


def draw_cases(path: Path, cases: Sequence[PicturedCase], labels: Mapping[str, int] | None = None) -> None:
    """Draw one row of three planes per case, each through the slice with the most outlined voxels.

    Sides of the patient are lettered; all planes of a case have the same gray window. Voxels keep their
    aspect ratio in mm.

    Args:
        path: a .png file, written atomically.
        labels: name -> value, for the legend.
    """
    write_bytes(path, render_cases(cases, labels))


@plain_style()
def render_cases(cases: Sequence[PicturedCase], labels: Mapping[str, int] | None = None) -> bytes:
    """The picture of `draw_cases` as the bytes of a .png file."""
    from matplotlib.lines import Line2D

    figure = new_figure(figsize=(9.5, 3.2 * len(cases) + 0.5), dpi=100, facecolor="black")
    grid = figure.subplots(len(cases), 3, squeeze=False)
    values = sorted({int(v) for case in cases for mask in _masks(case) for v in np.unique(mask) if v > 0})
    for row, case in zip(grid, cases, strict=True):
        _draw_case(row, case, values)
        title = f"{case.title}\n{case.channel}" if case.channel else case.title
        row[0].set_ylabel(title, color="white", fontsize=9)
    for axes, (name, _) in zip(grid[0], PLANES, strict=True):
        axes.set_title(name, color="white", fontsize=10)
    names = names_by_value(labels)
    handles = [Line2D([], [], color=color_of(v - 1), lw=4, label=names.get(v, f"label {v}")) for v in values]
    if any(case.reference is not None for case in cases) and any(c.prediction is not None for c in cases):
        handles.append(Line2D([], [], color="white", lw=7, alpha=_FILL, label="reference (filled)"))
        handles.append(Line2D([], [], color="white", lw=_PREDICTION_WIDTH, label="prediction (line)"))
    add_legend(figure, handles)
    return png_of(figure)


def _masks(case: PicturedCase) -> list[NDArray]:
    return [mask for mask in (case.reference, case.prediction) if mask is not None]


def _draw_case(row: Sequence[Any], case: PicturedCase, values: Sequence[int]) -> None:
    volume = Turned(case.image, case.affine)
    masks = [volume.turned(mask) for mask in _masks(case)]
    box = _content(volume.image, masks)
    masks = [mask[box] for mask in masks]
    places = _middle(masks, volume.image[box].shape)
    for axes, (_, axis) in zip(row, PLANES, strict=True):
        volume.draw(axes, axis, places[axis], box)
        for mask, is_reference in zip(masks, [case.reference is not None, False], strict=False):
            _outline(axes, mask.take(places[axis], axis=axis).T, is_reference, values)


def _outline(axes: Any, cut: NDArray, is_reference: bool, values: Sequence[int]) -> None:
    for value in values:
        inside = cut == value
        if not inside.any():
            continue
        # Padded with zeros, so that an outline at the border is closed.
        rim = np.pad(inside.astype(float), 1)
        x, y = (np.arange(-1, n + 1) for n in (cut.shape[1], cut.shape[0]))
        color = color_of(value - 1)
        if is_reference:
            axes.contourf(x, y, rim, levels=[0.5, 1.5], colors=[color], alpha=_FILL)
        width = _REFERENCE_WIDTH if is_reference else _PREDICTION_WIDTH
        axes.contour(x, y, rim, levels=[0.5], colors=[color], linewidths=width)


def _content(image: NDArray, masks: Sequence[NDArray]) -> tuple[slice, ...]:
    """The bounding box of the masks and of all voxels that differ from the corner voxel, with a margin."""
    something = image != image[0, 0, 0]
    for mask in masks:
        something = something | (mask > 0)
    box = []
    for axis, length in enumerate(something.shape):
        found = np.flatnonzero(something.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = (found[0], found[-1] + 1) if found.size else (0, length)
        box.append(slice(max(0, low - _MARGIN), min(length, high + _MARGIN)))
    return tuple(box)


def _middle(masks: Sequence[NDArray], shape: Sequence[int]) -> list[int]:
    """The voxel through which planes are cut: along each axis the slice with the most outlined voxels."""
    for mask in masks:
        if (mask > 0).any():
            return [int((mask > 0).sum(axis=tuple(b for b in range(3) if b != a)).argmax()) for a in range(3)]
    return [n // 2 for n in shape]
