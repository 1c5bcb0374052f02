"""One case: its grid, its labels and its scores, against numbers counted by hand."""

import nibabel as nib
import numpy as np
import pytest

from mambamed.errors import CaseError
from mambamed.evaluation.scoring import integer_labels, score_files
from mambamed.metrics import parse_metrics
from mambamed.metrics.rules import DEFAULT

METRICS = parse_metrics(["dice"])


def write(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def masks() -> tuple[np.ndarray, np.ndarray]:
    """Reference: 8 voxels of label 1. Prediction: 4 of these and 4 others."""
    reference, prediction = np.zeros((4, 5, 6), np.uint8), np.zeros((4, 5, 6), np.uint8)
    reference[1:3, 1:3, 1:3] = 1
    prediction[2:4, 1:3, 1:3] = 1
    return reference, prediction


def test_dice_and_diagonal_are_those_counted_by_hand(tmp_path) -> None:
    reference, prediction = masks()
    spaced = np.diag([3.0, 1.0, 1.0, 1.0])
    case = score_files(
        "a",
        write(tmp_path / "r.nii", reference, spaced),
        write(tmp_path / "p.nii", prediction, spaced),
        None,
        None,
        METRICS,
        DEFAULT,
    )
    assert case.fault is None and set(case.regions) == {"1"}
    assert case.regions["1"].values["dice"] == pytest.approx(2 * 4 / (8 + 8))
    assert case.diagonal_mm == pytest.approx(np.sqrt(12**2 + 5**2 + 6**2))
    assert case.subject == "a"


def test_voxels_of_the_ignored_label_do_not_count(tmp_path) -> None:
    reference, prediction = masks()
    reference[3] = 9  # the 4 false positives are there
    files = write(tmp_path / "r.nii", reference), write(tmp_path / "p.nii", prediction)
    case = score_files("a", *files, {"organ": (1,)}, (0, 1, 9), METRICS, DEFAULT, ignored=9)
    assert case.regions["organ"].values["dice"] == pytest.approx(2 * 4 / (8 + 4))


def test_another_order_of_axes_is_the_same_grid(tmp_path) -> None:
    reference, prediction = masks()
    swapped = np.eye(4)[:, [1, 0, 2, 3]]
    files = (
        write(tmp_path / "r.nii", reference),
        write(tmp_path / "p.nii", prediction.swapaxes(0, 1), swapped),
    )
    case = score_files("a", *files, {"organ": (1,)}, None, METRICS, DEFAULT)
    assert case.regions["organ"].values["dice"] == pytest.approx(0.5)


def test_another_grid_is_a_fault_unless_resampling_is_allowed(tmp_path) -> None:
    reference, _ = masks()
    fine = np.repeat(np.repeat(np.repeat(reference, 2, 0), 2, 1), 2, 2)
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] = -0.25
    files = write(tmp_path / "r.nii", reference), write(tmp_path / "p.nii", fine, affine)
    wanted = ({"organ": (1,)}, None, METRICS, DEFAULT)
    assert "of the reference" in (score_files("a", *files, *wanted).fault or "")
    resampled = score_files("a", *files, *wanted, resample=True)
    assert resampled.fault is None
    assert resampled.regions["organ"].values["dice"] == 1


def test_a_missing_or_unreadable_prediction_is_a_fault_of_the_case(tmp_path) -> None:
    reference = write(tmp_path / "r.nii", masks()[0])
    wanted = ({"organ": (1,)}, None, METRICS, DEFAULT)
    assert "has no prediction" in (score_files("a", reference, None, *wanted).fault or "")
    (tmp_path / "p.nii").write_text("no image")
    case = score_files("a", reference, tmp_path / "p.nii", *wanted)
    assert case.fault is not None and case.regions == {}


def test_labels_are_integers_that_the_dataset_has(tmp_path) -> None:
    path = tmp_path / "p.nii"
    assert integer_labels(np.array([0.9999, 2.0001]), path, (0, 1, 2)).tolist() == [1, 2]
    with pytest.raises(CaseError, match=r"holds 0\.5, not an integer"):
        integer_labels(np.array([0.5]), path, None)
    with pytest.raises(CaseError, match="label -1 is negative"):
        integer_labels(np.array([-1]), path, None)
    with pytest.raises(CaseError, match=r"label 3 is not among those to be scored \(0, 1, from the labels"):
        integer_labels(np.array([0, 3]), path, (0, 1))
