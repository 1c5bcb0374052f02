"""Segmentations with named segments on either side of an evaluation, against Dice by hand."""

import nibabel as nib
import numpy as np
import pytest

from mambamed.api import evaluate
from mambamed.cases import SegmentNames
from mambamed.errors import CaseError, DatasetError
from mambamed.evaluation.label_pair import read_pair
from mambamed.io.dicom_seg import write_segmentation
from mambamed.io.images import read_image
from mambamed.io.rtstruct import write_rtstruct
from tests.io.pydicom_series import write_axial
from tests.io.test_seg_nrrd import AFFINE, SHAPE, write_slicer

NAMES = SegmentNames({"background": 0, "liver": 1, "tumor": 2})


def truth() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:6, 2:6, 1:4], labels[6, 7, 1:5] = 1, 2
    return labels


def guess() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:7, 2:6, 1:4], labels[6, 7, 2:5] = 1, 2
    return labels


def dice(name: str) -> float:
    value = {"liver": 1, "tumor": 2}[name]
    a, b = truth() == value, guess() == value
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def as_nifti(path, labels) -> None:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(labels, AFFINE), path)


def as_slicer(path, labels, values) -> None:
    """Cropped to the segments, with values of its own."""
    path.parent.mkdir(exist_ok=True)
    box = [np.flatnonzero(labels.any(tuple({0, 1, 2} - {k}))) for k in range(3)]
    start = [int(each[0]) for each in box]
    cropped = labels[tuple(slice(each[0], each[-1] + 1) for each in box)]
    table = np.array([0, values["liver"], values["tumor"]], np.uint8)
    write_slicer(path, [table[cropped]], {name: (0, value) for name, value in values.items()}, start)


@pytest.mark.parametrize("sides", [("nifti", "slicer"), ("slicer", "nifti"), ("slicer", "slicer")])
def test_either_side_may_be_a_segmentation(tmp_path, sides) -> None:
    for side, labels, kind in zip(("ref", "pred"), (truth(), guess()), sides, strict=True):
        if kind == "nifti":
            as_nifti(tmp_path / side / "a.nii.gz", labels)
        else:
            values = {"liver": 1, "tumor": 2}
            if sides == ("slicer", "slicer") and side == "pred":
                values = {"tumor": 1, "liver": 2}
            as_slicer(tmp_path / side / "a.seg.nrrd", labels, values)
    found = evaluate(
        tmp_path / "pred", tmp_path / "ref", metrics="dice", output=tmp_path / "out", report=True
    )
    assert found.faults == ()
    (case,) = found.cases
    assert {name: scores.values["dice"] for name, scores in case.regions.items()} == {
        name: pytest.approx(dice(name)) for name in ("liver", "tumor")
    }
    assert evaluate(tmp_path / "pred", tmp_path / "ref", metrics="dice", regions="liver=1").cases


def test_names_that_one_side_has_alone_are_said(tmp_path) -> None:
    as_slicer(tmp_path / "ref" / "a.seg.nrrd", truth(), {"liver": 1, "tumor": 2})
    as_slicer(tmp_path / "named" / "a.seg.nrrd", guess(), {"liver": 1, "tumor": 2})
    path = tmp_path / "named" / "a.seg.nrrd"
    path.write_bytes(path.read_bytes().replace(b"_Name:=liver", b"_Name:=organ"))
    notes = evaluate(tmp_path / "named", tmp_path / "ref", metrics="dice").table.notes
    assert "only the references have liver" in notes and "only the predictions have organ" in notes
    as_nifti(tmp_path / "bare" / "a.nii.gz", guess())
    notes = evaluate(tmp_path / "bare", tmp_path / "ref", metrics="dice").table.notes
    assert any(
        "predictions without names of labels (a.nii.gz)" in n and "liver 1, tumor 2" in n for n in notes
    )
    notes = evaluate(tmp_path / "ref", tmp_path / "ref", metrics="dice").table.notes
    assert not any("only the" in note or "without names" in note for note in notes)


def test_the_sides_may_spell_a_segment_differently(tmp_path) -> None:
    as_slicer(tmp_path / "ref" / "a.seg.nrrd", truth(), {"liver": 1, "tumor": 2})
    as_slicer(tmp_path / "a.seg.nrrd", guess(), {"liver": 1, "tumor": 2})
    (tmp_path / "pred").mkdir()
    renamed = (tmp_path / "a.seg.nrrd").read_bytes().replace(b"liver", b"LIVER")
    (tmp_path / "pred" / "a.seg.nrrd").write_bytes(renamed)
    found = evaluate(tmp_path / "pred", tmp_path / "ref", metrics="dice")
    assert found.faults == ()
    assert {name: scores.values["dice"] for name, scores in found.cases[0].regions.items()} == {
        name: pytest.approx(dice(name)) for name in ("liver", "tumor")
    }


def test_values_without_names_contradict_names_that_differ(tmp_path) -> None:
    as_nifti(tmp_path / "ref" / "a.nii.gz", truth())
    as_nifti(tmp_path / "ref" / "b.nii.gz", truth())
    as_slicer(tmp_path / "pred" / "a.seg.nrrd", guess(), {"liver": 1, "tumor": 2})
    as_slicer(tmp_path / "pred" / "b.seg.nrrd", guess(), {"tumor": 1, "liver": 2})
    with pytest.raises(DatasetError, match=r"tumor 2 \(.*a\.seg\.nrrd\) \| tumor 1 \(.*b\.seg\.nrrd\)"):
        evaluate(tmp_path / "pred", tmp_path / "ref", metrics="dice")


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_dicom_objects_of_predict_are_predictions(tmp_path, kind) -> None:
    write_axial(tmp_path / "ct", [3.0 * n for n in range(6)], SliceThickness=3)
    image = read_image(tmp_path / "ct")
    labels = np.zeros(image.array.shape, np.uint8)
    labels[1:3, 1:3, 1:4], labels[4, :, 2] = 1, 2
    (tmp_path / "pred").mkdir()
    if kind == "SEG":
        write_segmentation(tmp_path / "pred" / "a.dcm", labels, tmp_path / "ct", NAMES.labels, "x")
    else:
        structures = {"liver": (1,), "tumor": (2,)}
        write_rtstruct(tmp_path / "pred" / "a.dcm", labels, tmp_path / "ct", structures, [(1, 0, 0)] * 2, "x")
    (tmp_path / "ref").mkdir()
    nib.save(nib.Nifti1Image(labels, image.affine), tmp_path / "ref" / "a.nii.gz")
    found = evaluate(tmp_path / "pred", tmp_path / "ref", metrics="dice")
    assert found.faults == () and [s.values["dice"] for s in found.cases[0].regions.values()] == [1, 1]
    if kind == "RTSTRUCT":
        with pytest.raises(CaseError, match="Give one of the two as a label map"):
            read_pair(tmp_path / "pred" / "a.dcm", tmp_path / "pred" / "a.dcm", NAMES)


def test_two_lattices_are_refused_or_resampled(tmp_path) -> None:
    as_slicer(tmp_path / "a.seg.nrrd", truth(), {"liver": 1, "tumor": 2})
    lps = np.diag([-1.0, -1, 1, 1]) @ AFFINE
    lps[:3, 3] += lps[:3, :3] @ [0.4, 0, 0]
    write_slicer(tmp_path / "b.seg.nrrd", [guess()], {"liver": (0, 1), "tumor": (0, 2)}, lps=lps)
    with pytest.raises(CaseError, match=r"origin off by 0\.4x0x0 voxels.*evaluate: --resample"):
        read_pair(tmp_path / "a.seg.nrrd", tmp_path / "b.seg.nrrd", NAMES)
    one, two = read_pair(tmp_path / "a.seg.nrrd", tmp_path / "b.seg.nrrd", NAMES, resample=True)
    assert two is not None and one.array.shape == two.array.shape and two.array.any()
