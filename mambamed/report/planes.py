"""What all pictures of volumes share: the three planes, letters of the sides, gray window, colors, legend."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mambamed.geometry import Affine, affine_to_ras, orientation_of, spacing_of, to_ras

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
"""Name of each plane and the RAS+ axis that it is perpendicular to."""

SIDES = {2: "RLAP", 1: "RLSI", 0: "PASI"}
"""Axis of a plane -> sides of the patient on its left, right, top and bottom edge.

Radiological convention: the patient's right is on the left of axial and coronal planes, and the sagittal
plane looks to the left."""

# Distinguishable for color-blind readers (Okabe & Ito 2008).
_FIRST_COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_GOLDEN = 0.6180339887
_SAMPLES = 32  # along an axis, for the gray window
_DARKEST = 0.15  # of the range of the content: its distance to black
_LEGEND_ROW, _LEGEND_MARK, _LEGEND_LETTER = 0.21, 0.5, 0.083  # inches


def color_of(number: int) -> str:
    """The color of label `number + 1` or landmark `number`, the same in every picture.

    >>> color_of(0), color_of(7)
    ('#E69F00', '#60f25a')
    """
    if number < len(_FIRST_COLORS):
        return _FIRST_COLORS[number]
    hue = number * _GOLDEN % 1
    r, g, b = colorsys.hsv_to_rgb(hue, 0.63, 0.95)
    return f"#{round(255 * r):02x}{round(255 * g):02x}{round(255 * b):02x}"


def gray_window(volume: NDArray) -> tuple[float, float]:
    """The intensities that are drawn black and white in every plane of a volume.

    White is the percentile 99.5 of the voxels that differ from the corner, which is the background; black is
    below their percentile 0.5, so that the darkest content differs from the background. Large volumes are
    sampled.
    """
    sample = volume[tuple(slice(None, None, -(-n // _SAMPLES)) for n in volume.shape)]
    values = np.asarray(sample, np.float64).ravel()
    differs = values != values[0]
    content = values[differs] if differs.any() else values
    lowest, (low, high) = float(values.min()), np.percentile(content, (0.5, 99.5))
    black = max(lowest, float(low - _DARKEST * (high - low))) if high > low else lowest
    return black, max(float(high), black + 1e-6)


class Turned:
    """A volume turned to RAS+ axes, drawn plane by plane.

    Args:
        image: `(X, Y, Z)` in the axis order of the file.
        affine: voxel -> world, mm, RAS+.

    Attributes:
        image: a view of it with RAS+ axes.
        affine: of this view.
    """

    def __init__(self, image: NDArray, affine: Affine) -> None:
        self._orientation = orientation_of(affine)
        self.image = to_ras(image, self._orientation)
        self.affine = affine_to_ras(affine, image.shape, self._orientation)
        self._spacing, self._window = spacing_of(self.affine), gray_window(image)

    def turned(self, array: NDArray) -> NDArray:
        """Another array on the grid of the file, with RAS+ axes."""
        return to_ras(array, self._orientation)

    def show(self, axes: Any, plane: NDArray, axis: int, **settings: Any) -> Any:
        """Show the `(across, up)` pixels of a plane with its sides as `SIDES` states; returns the image."""
        across, up = across_and_up(axis)
        shown = axes.imshow(
            plane.T, origin="lower", aspect=float(self._spacing[up] / self._spacing[across]),
            interpolation="nearest", **settings,
        )  # fmt: skip
        edges = (-0.5, plane.shape[0] - 0.5)
        axes.set_xlim(edges if axis == 0 else edges[::-1])
        return shown

    def draw(self, axes: Any, axis: int, place: int, box: Sequence[slice] = (slice(None),) * 3) -> None:
        """Draw the slice `place` of an axis in gray, with the letters of its sides.

        Args:
            box: the part of the view that is shown; `place` counts from its start.
        """
        low, high = self._window
        plane = np.asarray(self.image[tuple(box)].take(place, axis=axis), np.float64)
        self.show(axes, plane, axis, cmap="gray", vmin=low, vmax=high)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_frame_on(False)
        corners = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
        anchors = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
        for letter, (x, y), (ha, va) in zip(SIDES[axis], corners, anchors, strict=True):
            axes.text(
                x, y, letter, ha=ha, va=va, transform=axes.transAxes, color="white", fontsize=10,
                fontweight="bold", path_effects=outlined(),
            )  # fmt: skip


def across_and_up(axis: int) -> tuple[int, int]:
    """The axes along the width and the height of a plane."""
    first, second = (a for a in range(3) if a != axis)
    return first, second


def outlined(width: float = 2.0) -> list[Any]:
    """A black outline of text or marks, which makes them readable on any gray."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="black")]


def add_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Add a legend below the planes, in as many rows as the width requires; the figure grows by them."""
    if not handles:
        return
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, int(figure.get_figwidth() / (_LEGEND_MARK + _LEGEND_LETTER * longest)))
    rows = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * rows)
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=min(columns, len(handles)), frameon=False,
        labelcolor="white", fontsize=9,
    )  # fmt: skip


def names_by_value(labels: Mapping[str, int] | None) -> dict[int, str]:
    """Label value -> name."""
    return {value: name for name, value in (labels or {}).items()}
