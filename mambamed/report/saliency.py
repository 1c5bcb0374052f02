"""Three planes of a case, without and with a saliency map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.geometry import Affine
from mambamed.io.atomic import write_bytes
from mambamed.report.canvas import new_figure, plain_style, png_of
from mambamed.report.planes import PLANES, Turned

_SHOWN_FROM = 0.2  # of the largest saliency


@plain_style()
def draw_saliency(
    path: Path, title: str, image: NDArray, affine: Affine, saliency: NDArray, channel: str = ""
) -> None:
    """Draw three planes through the most salient voxel: the image above, and below it with the map.

    The map is opaque where it exceeds a fifth of its maximum, so that its colors are those of the bar.
    Sides of the patient are lettered; voxels keep their aspect ratio in mm.

    Args:
        path: a .png file, written atomically.
        image: `(X, Y, Z)` in the axis order of the file.
        affine: voxel -> world, mm, RAS+.
        saliency: `(X, Y, Z)` from 0 to 1 on the same grid.
        channel: name of the image's channel.
    """
    volume = Turned(image, affine)
    heat = volume.turned(saliency)
    highest = float(heat.max())
    peak = np.unravel_index(int(heat.argmax()), heat.shape) if highest > 0 else [n // 2 for n in heat.shape]
    figure = new_figure(figsize=(9.5, 6.2), dpi=100, facecolor="black")
    grid, shown = figure.subplots(2, 3), None
    for column, (name, axis) in enumerate(PLANES):
        place = int(peak[axis])
        for axes in grid[:, column]:
            volume.draw(axes, axis, place)
        hot = np.ma.masked_less(heat.take(place, axis=axis), _SHOWN_FROM * highest or 1.0)
        limits = {"vmin": _SHOWN_FROM * highest, "vmax": highest or 1.0}
        shown = volume.show(grid[1, column], hot, axis, cmap="plasma", **limits)
        grid[0, column].set_title(name, color="white", fontsize=10)
    assert shown is not None
    grid[0, 0].set_ylabel(channel or "image", color="white", fontsize=9)
    grid[1, 0].set_ylabel("with saliency", color="white", fontsize=9)
    bar = figure.colorbar(shown, ax=grid, shrink=0.8)
    bar.ax.tick_params(colors="white", labelsize=8)
    bar.set_label("saliency", color="white", fontsize=9)
    place = "planes through its maximum" if highest > 0 else "the map is 0 everywhere"
    figure.suptitle(f"{title} ({place})", color="white", fontsize=10)
    write_bytes(path, png_of(figure))
