"""Prepared cases as sampler and patch reader see them: one class per kind of reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import DatasetError
from mambamed.preparation.store import PreparedCase
from mambamed.tasks.covariates import Wanted, covariate_numbers

Place = Callable[[NDArray], NDArray]


class PatchCase(ABC):
    """A prepared case from which patches are read.

    Attributes:
        shape: `(X, Y, Z)` of the prepared grid.
        class_name: class of the case; None without classes.
        covariates: `(M,)` numbers that the network reads in addition to the image; NaN if not known.
    """

    covariates: NDArray = np.zeros(0)

    def __init__(self, case: PreparedCase) -> None:
        self._case, self.shape, self.class_name = case, case.shape, case.class_name

    @property
    def foreground(self) -> NDArray:
        """`(n, 4)` rows [number of a label or landmark, x, y, z] on which patches may be centered."""
        return np.zeros((0, 4), np.int32)

    def image(self, box: Any = None) -> NDArray:
        """Same as `PreparedCase.image`."""
        return self._case.image(box)

    def label(self, box: Any = None) -> NDArray | None:
        """Label values of a box, which augmentation moves together with the image; None without labels."""
        return None

    @abstractmethod
    def reference(self, label: NDArray, place: Place, mirrored: bool) -> NDArray | np.integer:
        """The part of `Batch.target` that belongs to one patch.

        Args:
            label: label values of the patch; zeros if `label` returned None.
            place: maps `(n, 3)` prepared voxels to voxels of the patch.
            mirrored: whether the patch is mirrored across x, so that left and right have changed places.
        """


class LabeledCase(PatchCase):
    """A case with a label map.

    Args:
        ignored: value of the label "ignore", if the dataset has one; no patch is centered on it.
        mirrored: value of a label -> that of its partner on the other side; without the others.
    """

    def __init__(
        self, case: PreparedCase, ignored: int | None = None, mirrored: Mapping[int, int] | None = None
    ) -> None:
        super().__init__(case)
        self._ignored, self._mirrored = ignored, dict(mirrored or {})

    @property
    def foreground(self) -> NDArray:
        """Same as `PreparedCase.foreground`, without the label "ignore"."""
        rows = self._case.foreground
        return rows if self._ignored is None else rows[rows[:, 0] != self._ignored]

    def label(self, box: Any = None) -> NDArray:
        """Same as `PreparedCase.label`."""
        return self._case.label(box)

    def reference(self, label: NDArray, place: Place, mirrored: bool) -> NDArray | np.integer:
        """`(X, Y, Z)` label values."""
        if not mirrored or not self._mirrored:
            return label
        every = np.dtype(f"u{label.itemsize}")  # of uint8 or int16: each value has a place in the table
        table = np.arange(2 ** (8 * label.itemsize)).astype(every).view(label.dtype)
        for value, partner in self._mirrored.items():
            table[value] = partner
        return table[label.view(every)]


class PointedCase(PatchCase):
    """A case with landmarks.

    Args:
        names: the landmarks, in the order of the network's outputs.
        mirror_order: index of the landmark that each one becomes in an image mirrored across x.

    Attributes:
        points: `(K, 3)` prepared voxels of the landmarks; infinite for landmarks that the case lacks, NaN for
            those that are not annotated.
    """

    def __init__(
        self, case: PreparedCase, names: Sequence[str], mirror_order: Sequence[int] | None = None
    ) -> None:
        super().__init__(case)
        there = case.points_voxel
        rows = [there.get(name, np.full(3, np.nan)) for name in names]
        self.points: NDArray[np.float64] = np.array(rows, dtype=float).reshape(-1, 3)
        self._placed = np.isfinite(self.points).all(1)
        self.points[[name in case.absent_points for name in names]] = np.inf
        self._mirror_order = mirror_order
        nearest = np.round(self.points)
        inside = ((nearest >= 0) & (nearest < self.shape)).all(1)  # False for NaN and infinity
        numbers = np.flatnonzero(inside)
        self._foreground: NDArray = np.column_stack([numbers + 1, nearest[inside]]).astype(np.int32)

    @property
    def foreground(self) -> NDArray:
        """Rows [index of the landmark + 1, x, y, z] of the landmarks inside the prepared grid."""
        return self._foreground

    def reference(self, label: NDArray, place: Place, mirrored: bool) -> NDArray | np.integer:
        """`(K, 3)` landmarks in voxels of the patch."""
        points = self.points.copy()
        points[self._placed] = place(self.points[self._placed])
        if mirrored and self._mirror_order is not None:
            points = points[list(self._mirror_order)]
        return points.astype(np.float32)


class ClassedCase(PatchCase):
    """A case with a class.

    Args:
        mirror_order: index of the class that each one becomes in an image mirrored across x.

    Attributes:
        class_index: index of its class.

    Raises:
        DatasetError: the case's class is not among `classes`.
        CaseError: a covariate cannot be read.
    """

    def __init__(
        self,
        case: PreparedCase,
        classes: Sequence[str],
        covariates: Wanted | None = None,
        mirror_order: Sequence[int] | None = None,
    ) -> None:
        super().__init__(case)
        if case.class_name is None or case.class_name not in classes:
            raise DatasetError(
                f"{case.id}: class {case.class_name!r} is not one of {', '.join(classes)}. Prepare again."
            )
        self.class_index, self._mirror_order = list(classes).index(case.class_name), mirror_order
        self.covariates = covariate_numbers(case.covariates, covariates or {}, case.id)

    def reference(self, label: NDArray, place: Place, mirrored: bool) -> NDArray | np.integer:
        """Index of the class."""
        swapped = self._mirror_order if mirrored else None
        return np.int64(self.class_index if swapped is None else swapped[self.class_index])
