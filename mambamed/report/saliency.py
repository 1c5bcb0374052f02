"""Three planes of a case, overlaid with a saliency map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.geometry import Affine, affine_to_ras, orientation_of, spacing_of, to_ras
from mambamed.io.atomic import write_bytes
from mambamed.report.canvas import new_figure, plain_style, png_of

_PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))
_SHOWN_FROM = 0.2  # of the largest saliency


@plain_style()
def draw_saliency(path: Path, title: str, image: NDArray, affine: Affine, saliency: NDArray) -> None:
    """Draw three planes through the most salient voxel.

    The patient's right is on the left of axial and coronal planes; voxels keep their aspect ratio in mm.

    Args:
        path: a .png file, written atomically.
        image: `(X, Y, Z)` in the axis order of the file.
        affine: voxel -> world, mm, RAS+.
        saliency: `(X, Y, Z)` from 0 to 1 on the same grid.
    """
    orientation = orientation_of(affine)
    volume, heat = to_ras(image, orientation), to_ras(saliency, orientation)
    spacing = spacing_of(affine_to_ras(affine, image.shape, orientation))
    places = np.unravel_index(int(heat.argmax()), heat.shape)
    figure = new_figure(figsize=(9.5, 3.6), dpi=100, facecolor="black")
    shown = None
    for axes, (name, axis) in zip(figure.subplots(1, 3), _PLANES, strict=True):
        across, up = (a for a in range(3) if a != axis)
        plane = np.asarray(volume.take(places[axis], axis=axis), float).T
        over = heat.take(places[axis], axis=axis).T
        ratio = spacing[up] / spacing[across]
        low, high = np.percentile(plane, [1, 99.5])
        axes.imshow(plane, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=ratio)
        shown = axes.imshow(
            np.ma.masked_less(over, _SHOWN_FROM), cmap="inferno", vmin=0, vmax=1, alpha=0.5, origin="lower",
            aspect=ratio,
        )  # fmt: skip
        if axis != 0:
            axes.invert_xaxis()
        axes.set_title(name, color="white", fontsize=10)
        axes.set_axis_off()
    assert shown is not None
    bar = figure.colorbar(shown, ax=figure.axes, shrink=0.8)
    bar.ax.tick_params(colors="white", labelsize=8)
    figure.suptitle(title, color="white", fontsize=10)
    write_bytes(path, png_of(figure))
