"""One case: read reference and prediction, check that they belong together, score them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import CaseError
from mambamed.geometry import Affine, affine_to_ras, difference_of_grids, from_ras, orientation_of, to_ras
from mambamed.io.images import Image, read_image
from mambamed.memory import is_out_of_memory, too_large
from mambamed.metrics import Metric
from mambamed.metrics.rules import Rules
from mambamed.metrics.segmentation import RegionScores, score_case

# Labels that came through a float, as 0.99999997, are the integer they are near.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case.

    Attributes:
        case: its id.
        regions: label or region name -> scores; empty where the case could not be scored.
        reference: its file.
        prediction: its file, None where there is none.
        diagonal_mm: from corner to corner of the image, mm: the penalty for a miss. NaN if unreadable.
        subject: the person.
        fault: why it could not be scored, as one line; None where it was.
    """

    case: str
    regions: Mapping[str, RegionScores]
    reference: Path
    prediction: Path | None
    diagonal_mm: float
    subject: str
    fault: str | None = None


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
) -> CaseScores:
    """Score one case; what is wrong with its files becomes its `fault`.

    Args:
        case: its id.
        reference, prediction: files; no prediction is a fault.
        regions: name -> labels; None: each label that occurs, under its number.
        allowed: labels that may occur; None: any.
        metrics, rules: see `score_case`.
        resample: bring the prediction to the reference's grid (nearest neighbor) where they differ.
        subject: the person; the case itself where not known.
        ignored: label of the reference whose voxels do not count, whatever the prediction says there.
    """
    diagonal, fault = float("nan"), None
    try:
        truth = read_image(reference)
        diagonal = float(np.linalg.norm(np.array(truth.array.shape) * truth.spacing))
        expected = integer_labels(truth.array, reference, allowed)
        if prediction is None:
            raise CaseError(f"{reference}: {case} has no prediction. Predict it, or use --only-predicted.")
        answer = read_image(prediction)
        given = integer_labels(answer.array, prediction, allowed)
        given = on_grid_of(truth, given, answer.affine, prediction, resample)
        if ignored is not None:
            unknown = expected == ignored
            expected, given = np.where(unknown, 0, expected), np.where(unknown | (given == ignored), 0, given)
        wanted = regions or {str(label): (label,) for label in _occurring(expected, given)}
        scores = score_case(expected, given, truth.spacing, wanted, metrics, rules)
    except CaseError as error:
        scores, fault = {}, str(error)
    except Exception as error:
        if not isinstance(error, ValueError) and not is_out_of_memory(error):
            raise
        line = too_large(error) if is_out_of_memory(error) else f"{error}; check the file"
        scores, fault = {}, f"{prediction}: {line}"
    return CaseScores(case, scores, reference, prediction, diagonal, subject or case, fault)


def integer_labels(array: NDArray, path: Path, allowed: Sequence[int] | None) -> NDArray:
    """A label map as integers, checked.

    Raises:
        CaseError: a value that is no integer, is negative, or is not among `allowed`.
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
                f'{path}: label {named} is not in the manifest ({shown}). Add it to "labels" or remap it.'
            )
    return array


def on_grid_of(truth: Image, labels: NDArray, affine: Affine, path: Path, resample: bool) -> NDArray:
    """The labels on the reference's grid: as they are, with axes turned, or resampled where asked.

    Raises:
        CaseError: the grids differ and `resample` is not set.
    """
    shape = truth.array.shape
    difference = difference_of_grids(shape, truth.affine, labels.shape, affine)
    if difference is None:
        return labels
    # The same voxels in the same places, stored in another order of axes, are the same grid.
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
