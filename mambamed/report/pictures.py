"""Three planes of a case with reference and prediction outlined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.geometry import Affine, affine_to_ras, orientation_of, spacing_of, to_ras
from mambamed.io.atomic import write_bytes
from mambamed.report.canvas import new_figure, plain_style, png_of

# Distinguishable for color-blind readers (Okabe & Ito 2008).
_COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_FILL, _REFERENCE_WIDTH, _PREDICTION_WIDTH = 0.32, 0.6, 1.6
_MARGIN = 3
_PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))


@dataclass(frozen=True)
class PicturedCase:
    """One row of the picture."""

    title: str
    image: NDArray  # `(X, Y, Z)` in the axis order of the file
    affine: Affine  # voxel -> world, mm, RAS+
    reference: NDArray | None = None  # a label map on the same grid; so is the prediction
    prediction: NDArray | None = None


def draw_cases(path: Path, cases: Sequence[PicturedCase], labels: Mapping[str, int] | None = None) -> None:
    """Draw one row of three planes per case, each through the slice with the most outlined voxels.

    Radiological convention: the patient's right is on the left of axial and coronal planes, and the sagittal
    plane looks to the left. Voxels keep their aspect ratio in mm.

    Args:
        path: a .png file, written atomically.
        labels: name -> value, for the legend.
    """
    write_bytes(path, render_cases(cases, labels))


@plain_style()
def render_cases(cases: Sequence[PicturedCase], labels: Mapping[str, int] | None = None) -> bytes:
    """The picture of `draw_cases` as the bytes of a .png file."""
    from matplotlib.lines import Line2D

    figure = new_figure(figsize=(9.5, 3.2 * len(cases) + 0.7), dpi=100, facecolor="black")
    grid = figure.subplots(len(cases), 3, squeeze=False)
    values = sorted({int(v) for case in cases for mask in _masks(case) for v in np.unique(mask) if v > 0})
    color_of = {value: _COLORS[i % len(_COLORS)] for i, value in enumerate(values)}
    for row, case in zip(grid, cases, strict=True):
        for axes, (name, axis) in zip(row, _PLANES, strict=True):
            _draw_plane(axes, case, axis, color_of)
            if case is cases[0]:
                axes.set_title(name, color="white", fontsize=10)
        row[0].set_ylabel(case.title, color="white", fontsize=9)
    names = {value: name for name, value in (labels or {}).items()}
    handles = [Line2D([], [], color=color_of[v], label=names.get(v, f"label {v}")) for v in values]
    if any(case.reference is not None for case in cases) and any(c.prediction is not None for c in cases):
        handles.append(Line2D([], [], color="white", lw=7, alpha=_FILL, label="reference (filled)"))
        handles.append(Line2D([], [], color="white", lw=_PREDICTION_WIDTH, label="prediction (line)"))
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
            labelcolor="white", fontsize=9,
        )  # fmt: skip
    return png_of(figure)


def _masks(case: PicturedCase) -> list[NDArray]:
    return [mask for mask in (case.reference, case.prediction) if mask is not None]


def _draw_plane(axes: Any, case: PicturedCase, axis: int, color_of: Mapping[int, str]) -> None:
    orientation = orientation_of(case.affine)
    shown = _content(case)
    image = to_ras(case.image[shown], orientation)
    masks = [to_ras(mask[shown], orientation) for mask in _masks(case)]
    spacing = spacing_of(affine_to_ras(case.affine, case.image.shape, orientation))
    place = _middle(masks, image.shape)[axis]
    across, up = (a for a in range(3) if a != axis)
    plane = np.asarray(image.take(place, axis=axis), float).T
    low, high = np.percentile(plane[plane != 0] if (plane != 0).any() else plane, [1, 99.5])
    axes.imshow(plane, cmap="gray", vmin=min(low, 0) if low > 0 else low, vmax=max(high, low + 1e-6),
                origin="lower", aspect=spacing[up] / spacing[across], interpolation="nearest")  # fmt: skip
    for mask, is_reference in zip(masks, [case.reference is not None, False], strict=False):
        cut = mask.take(place, axis=axis).T
        for value, color in color_of.items():
            inside = cut == value
            if inside.any():
                # Padded with zeros, so that an outline at the border is closed.
                rim = np.pad(inside.astype(float), 1)
                x, y = (np.arange(-1, n + 1) for n in (cut.shape[1], cut.shape[0]))
                if is_reference:
                    axes.contourf(x, y, rim, levels=[0.5, 1.5], colors=[color], alpha=_FILL)
                width = _REFERENCE_WIDTH if is_reference else _PREDICTION_WIDTH
                axes.contour(x, y, rim, levels=[0.5], colors=[color], linewidths=width)
    if axis != 0:
        axes.invert_xaxis()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_frame_on(False)


def _content(case: PicturedCase) -> tuple[slice, ...]:
    """The bounding box of the masks and of all voxels that differ from the corner voxel, with a margin."""
    something = case.image != case.image[0, 0, 0]
    for mask in _masks(case):
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
