"""The border between a file's native grid and the prepared grid of one case, and the way across.

Three grids follow each other: native (as the file stores it), cropped (native voxels with axes brought
closest to RAS+, then cut to the crop box), prepared (cropped, resampled). All affines lead to the same world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.geometry import Orientation, affine_to_ras, spacing_of

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class CaseGeometry:
    """Where the prepared array of one case lies in its file.

    Attributes:
        shape_native: `(X, Y, Z)` of the file.
        affine_native: the file's voxel -> world, as rows of numbers.
        orientation: axes and flips from native to RAS+ order.
        crop_start, crop_stop: the crop box in oriented native voxels; stop is exclusive.
        shape_prepared: `(X, Y, Z)` of the prepared grid.
    """

    shape_native: Triple
    affine_native: tuple[tuple[float, ...], ...]
    orientation: Orientation
    crop_start: Triple
    crop_stop: Triple
    shape_prepared: Triple

    @property
    def shape_oriented(self) -> Triple:
        """Shape of the whole native image with its axes in RAS+ order."""
        x, y, z = (self.shape_native[axis] for axis in self.orientation.axes)
        return x, y, z

    @property
    def shape_cropped(self) -> Triple:
        """Shape of the crop box."""
        x, y, z = (b - a for a, b in zip(self.crop_start, self.crop_stop, strict=True))
        return x, y, z

    @property
    def affine_cropped(self) -> NDArray[np.float64]:
        """Voxel of the cropped grid -> world, mm, RAS+."""
        oriented = affine_to_ras(np.array(self.affine_native), self.shape_native, self.orientation)
        moved = np.eye(4)
        moved[:3, 3] = self.crop_start
        return oriented @ moved

    @property
    def spacing_cropped(self) -> Spacing:
        """Native spacing in the order of the oriented axes, mm."""
        x, y, z = (float(v) for v in spacing_of(self.affine_cropped))
        return x, y, z

    @property
    def affine_prepared(self) -> NDArray[np.float64]:
        """Voxel of the prepared grid -> world, mm, RAS+: both grids cover the same box, edge to edge."""
        ratio = np.array(self.shape_cropped) / np.array(self.shape_prepared)
        scaled = np.diag([*ratio, 1.0])
        scaled[:3, 3] = (ratio - 1) / 2
        return self.affine_cropped @ scaled

    @property
    def spacing_prepared(self) -> Spacing:
        """Spacing of the prepared grid, mm; differs from the plan's by the rounding of the shape."""
        x, y, z = (float(v) for v in spacing_of(self.affine_prepared))
        return x, y, z

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; `from_json` gives the geometry back."""
        return {
            "shape_native": list(self.shape_native),
            "affine_native": [list(row) for row in self.affine_native],
            "axes": list(self.orientation.axes),
            "flips": list(self.orientation.flips),
            "crop_start": list(self.crop_start),
            "crop_stop": list(self.crop_stop),
            "shape_prepared": list(self.shape_prepared),
            "affine_prepared": self.affine_prepared.tolist(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> CaseGeometry:
        """The geometry that `to_json` wrote; `affine_prepared` follows from the rest."""
        flips = tuple(bool(flip) for flip in document["flips"])
        return cls(
            shape_native=_triple(document["shape_native"]),
            affine_native=tuple(tuple(float(v) for v in row) for row in document["affine_native"]),
            orientation=Orientation(_triple(document["axes"]), (flips[0], flips[1], flips[2])),
            crop_start=_triple(document["crop_start"]),
            crop_stop=_triple(document["crop_stop"]),
            shape_prepared=_triple(document["shape_prepared"]),
        )


def _triple(values: Any) -> Triple:
    x, y, z = (int(v) for v in values)
    return x, y, z
