"""Prepared cases as sampler and reader meet them: with a label map, with landmarks, or with a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import DatasetError
from mambamed.preparation.store import PreparedCase
from mambamed.tasks.covariates import Wanted, covariate_numbers

Triple = tuple[int, int, int]


class PointedCase:
    """A case with landmarks.

    Attributes:
        points: `(K, 3)` prepared voxels of the landmarks, in the order of their names; NaN for those that
            the case does not have.
        foreground: `(n, 4)` rows [landmark's index + 1, x, y, z] of those inside, on which patches may be
            centered.
    """

    def __init__(self, case: PreparedCase, names: Sequence[str]) -> None:
        self._case, self.shape = case, case.shape
        there = case.points_voxel
        rows = [there.get(name, np.full(3, np.nan)) for name in names]
        self.points: NDArray[np.float64] = np.array(rows, dtype=float).reshape(-1, 3)
        nearest = np.round(self.points)
        inside = ((nearest >= 0) & (nearest < self.shape)).all(1)  # NaN is not
        numbers = np.flatnonzero(inside)
        self.foreground: NDArray = np.column_stack([numbers + 1, nearest[inside]]).astype(np.int32)

    def image(self, box: Any = None) -> NDArray:
        """As `PreparedCase.image`."""
        return self._case.image(box)


class ClassedCase:
    """A case with a class.

    Attributes:
        class_index: its class, as a place among the classes' names.
        foreground: nothing: patches are centered nowhere in particular.
        covariates: `(M,)` numbers that the network reads beside the image, NaN where not known.

    Raises:
        DatasetError: the case's class is not one of them.
        CaseError: a covariate that cannot be read.
    """

    def __init__(self, case: PreparedCase, classes: Sequence[str], covariates: Wanted | None = None) -> None:
        if case.class_name is None or case.class_name not in classes:
            raise DatasetError(
                f"{case.id}: class {case.class_name!r} is not one of {', '.join(classes)}; prepare again"
            )
        self._case, self.shape = case, case.shape
        self.class_index = list(classes).index(case.class_name)
        self.covariates: NDArray = covariate_numbers(case.covariates, covariates or {}, case.id)
        self.foreground: NDArray = np.zeros((0, 4), np.int32)

    def image(self, box: Any = None) -> NDArray:
        """As `PreparedCase.image`."""
        return self._case.image(box)


class PartlyLabeledCase:
    """A case of whose voxels some were left unlabeled: those of the label "ignore".

    Attributes:
        foreground: `(n, 4)` rows [label value, x, y, z] of the labeled ones alone: a patch centered on what
            nobody labeled would teach little.
    """

    def __init__(self, case: PreparedCase, ignored: int) -> None:
        self._case, self._ignored, self.shape = case, ignored, case.shape

    @property
    def foreground(self) -> NDArray:
        """As `PreparedCase.foreground`, without the ignored label."""
        rows = self._case.foreground
        return rows[rows[:, 0] != self._ignored]

    def image(self, box: Any = None) -> NDArray:
        """As `PreparedCase.image`."""
        return self._case.image(box)

    def label(self, box: Any = None) -> NDArray:
        """As `PreparedCase.label`."""
        return self._case.label(box)


def readable(
    cases: Mapping[str, PreparedCase],
    reads: str,
    names: Sequence[str],
    covariates: Wanted | None = None,
    ignored: int | None = None,
) -> dict[str, Any]:
    """The cases with what a task reads beside the image.

    Args:
        reads: "labels", "points" or "class".
        names: of the landmarks or classes, in the order of the network's outputs.
        covariates: that the network reads too, of cases with a class.
        ignored: value of the label "ignore", where the dataset has one.
    """
    if reads == "labels" and ignored is not None:
        return {case_id: PartlyLabeledCase(case, ignored) for case_id, case in cases.items()}
    if reads == "points":
        return {case_id: PointedCase(case, names) for case_id, case in cases.items()}
    if reads == "class":
        return {case_id: ClassedCase(case, names, covariates) for case_id, case in cases.items()}
    return dict(cases)
