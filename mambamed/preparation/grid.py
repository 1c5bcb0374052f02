"""The native, cropped and prepared grid of a case, and the transforms between them.

native: as stored in the file; cropped: axes brought closest to RAS+, then cut to the crop box; prepared: the
cropped grid, resampled. The affines of all three map to the same world.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mambamed.documents.plan import Spacing, Triple
from mambamed.documents.prepared import GeometryRecord
from mambamed.geometry import Orientation, affine_to_ras, spacing_of

_RECORDED = ("shape_native", "affine_native", "crop_start", "crop_stop", "shape_prepared")


@dataclass(frozen=True)
class CaseGeometry:
    """Position of the prepared array of one case in its file."""

    shape_native: Triple
    affine_native: tuple[tuple[float, ...], ...]  # voxel of the file -> world, as rows
    orientation: Orientation  # axes and flips from native to RAS+ order
    # crop_start, crop_stop: the crop box in oriented native voxels; stop is exclusive
    crop_start: Triple
    crop_stop: Triple
    shape_prepared: Triple
    nearest_axis: int | None = None  # along which logits take the nearest plane on the way back, as nnU-Net

    @property
    def shape_cropped(self) -> Triple:
        """`(X, Y, Z)` of the crop box."""
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

    def record(self) -> GeometryRecord:
        """The part of cases/ID.json; the inverse of `of`."""
        known = {name: getattr(self, name) for name in _RECORDED} | {
            "axes": self.orientation.axes, "flips": self.orientation.flips,
            "affine_prepared": self.affine_prepared.tolist(),
        }  # fmt: skip
        return GeometryRecord.model_validate(known, strict=False)

    @classmethod
    def of(cls, record: GeometryRecord) -> CaseGeometry:
        """The geometry of a record."""
        known = {name: getattr(record, name) for name in _RECORDED}
        return cls(**known, orientation=Orientation(record.axes, record.flips))
