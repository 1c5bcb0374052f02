"""Score one case: read reference and prediction, check that they match, compute the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mambamed.cases import SegmentNames
from mambamed.errors import CaseError
from mambamed.evaluation.label_pair import read_pair
from mambamed.geometry import Affine, affine_to_ras, difference_of_grids, from_ras, orientation_of, to_ras
from mambamed.io.images import Image
from mambamed.memory import is_out_of_memory, too_large
from mambamed.metrics import Metric
from mambamed.metrics.rules import Rules
from mambamed.metrics.segmentation import RegionScores, score_case

# Maximum distance of a label stored as float, e.g. 0.99999997, from an integer.
_ROUNDING = 1e-3


class Together(Protocol):
    """Processes that evaluate together: each scores its share of the cases, and all get all scores."""

    def share(self, items: Sequence[Any]) -> list[Any]:
        """The items of this process."""
        ...

    def gather(self, done: Sequence[Any]) -> list[Any]:
        """The results of all processes for their shares, in the order of the items."""
        ...


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case.

    Attributes:
        regions: label or region name -> scores; empty if the case could not be scored.
        reference, prediction: files; None without a prediction.
        diagonal_mm: of the reference image: the penalty for a miss; NaN if unreadable.
        fault: why the case could not be scored, or None.
        labels: all that occur in the two files, without the background; empty if they could not be read.
    """

    case: str
    regions: Mapping[str, RegionScores]
    reference: Path
    prediction: Path | None
    diagonal_mm: float
    subject: str
    fault: str | None = None
    labels: tuple[int, ...] = ()


def score_files(
    case: str,
    reference: Path,
    prediction: Path | None,
    regions: Mapping[str, Sequence[int]] | None,
    allowed: Sequence[int] | None,
    metrics: Sequence[Metric],
    rules: Rules,
    resample: bool = False,
    subject: str = "",
    ignored: int | None = None,
    source: str = "the labels asked for",
    names: SegmentNames | None = None,
) -> CaseScores:
    """Score one case; errors in its files become its `fault`.

    Args:
        prediction: None is a fault.
        regions: name -> labels (default: each label that occurs, under its number).
        allowed: labels that may occur (default: any).
        resample: resample the prediction to the grid of the reference (nearest neighbor) if they differ.
        subject: the case itself if empty.
        ignored: label of the reference whose voxels are not scored.
        source: where the allowed labels are from, for messages.
        names: what the names of segments are in a label map.
    """
    diagonal, fault, occurring = float("nan"), None, []
    try:
        truth, answer = read_pair(reference, prediction, names or SegmentNames(), resample)
        diagonal = float(np.linalg.norm(np.array(truth.array.shape) * truth.spacing))
        expected = integer_labels(truth.array, reference, allowed, source)
        if prediction is None or answer is None:
            raise CaseError(f"{reference}: {case} has no prediction. Predict it, or use --only-predicted.")
        given = integer_labels(answer.array, prediction, allowed, source)
        given = on_grid_of(truth, given, answer.affine, prediction, resample)
        if ignored is not None:
            unknown = expected == ignored
            expected, given = np.where(unknown, 0, expected), np.where(unknown | (given == ignored), 0, given)
        occurring = _occurring(expected, given)
        wanted = regions or {str(label): (label,) for label in occurring}
        scores = score_case(expected, given, truth.spacing, wanted, metrics, rules)
    except CaseError as error:
        scores, fault = {}, str(error)
    except Exception as error:
        if not isinstance(error, ValueError) and not is_out_of_memory(error):
            raise
        line = too_large(error) if is_out_of_memory(error) else f"{error}; check the file"
        scores, fault = {}, f"{prediction}: {line}"
    return CaseScores(case, scores, reference, prediction, diagonal, subject or case, fault, tuple(occurring))


def integer_labels(
    array: NDArray, path: Path, allowed: Sequence[int] | None, source: str = "the labels asked for"
) -> NDArray:
    """A label map as integers.

    Raises:
        CaseError: a value that is not an integer, negative, or not among `allowed`.
    """
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        off = np.abs(array - rounded) > _ROUNDING
        if off.any():
            raise CaseError(
                f"{path}: holds {array[off][0]:g}, not an integer. Choose a label map, not an image."
            )
        array = rounded.astype(np.int32)
    low = int(array.min(initial=0))
    if low < 0:
        raise CaseError(f"{path}: label {low} is negative. Remap it.")
    if allowed is not None:
        unknown = sorted(set(_occurring(array)) - set(allowed))
        if unknown:
            named = ", ".join(str(label) for label in unknown[:5])
            shown = ", ".join(str(label) for label in allowed)
            raise CaseError(
                f"{path}: label {named} is not among those to be scored ({shown}, from {source}). "
                "Add it there, or name what is scored: --regions NAME=VALUE."
            )
    return array


def on_grid_of(truth: Image, labels: NDArray, affine: Affine, path: Path, resample: bool) -> NDArray:
    """The labels on the grid of the reference: unchanged, reoriented, or resampled if requested.

    Raises:
        CaseError: the grids differ and `resample` is not set.
    """
    shape = truth.array.shape
    difference = difference_of_grids(shape, truth.affine, labels.shape, affine)
    if difference is None:
        return labels
    # The same voxels in another axis order are the same grid.
    ours, theirs = orientation_of(truth.affine), orientation_of(affine)
    turned = to_ras(labels, theirs)
    ras_shape = to_ras(truth.array, ours).shape
    same = difference_of_grids(
        ras_shape,
        affine_to_ras(truth.affine, shape, ours),
        turned.shape,
        affine_to_ras(affine, labels.shape, theirs),
    )
    if same is None:
        return np.ascontiguousarray(from_ras(turned, ours))
    if not resample:
        raise CaseError(
            f"{path}: {difference} of the reference. Save it on the reference's grid, or use --resample."
        )
    from scipy import ndimage

    to_prediction = np.linalg.inv(affine) @ truth.affine
    return ndimage.affine_transform(
        labels, to_prediction[:3, :3], to_prediction[:3, 3].tolist(), output_shape=shape, order=0
    )


def _occurring(*arrays: NDArray) -> list[int]:
    """The labels that occur, without the background."""
    found: set[int] = set()
    for array in arrays:
        found.update(np.unique(array[array != 0]).tolist())
    return sorted(found)
