"""Folders of patients: series, segmentations and structure sets are paired by what they refer to."""

import nibabel as nib
import numpy as np
import pydicom
import pytest

from mambamed.converters import convert
from mambamed.errors import DatasetError
from mambamed.io.dicom_seg import write_segmentation
from mambamed.io.images import read_image
from mambamed.io.rtstruct import write_rtstruct
from mambamed.preparation.prepare import prepare
from tests.io.pydicom_series import write_axial
from tests.io.test_dicom_labels import write_seg
from tests.real_data import DATA

REAL = DATA / "dicom" / "hippocampus_crop"
HEIGHTS = [3.0 * n for n in range(6)]


def labels_of(seed: int = 0) -> np.ndarray:
    """`(5, 4, 6)` with labels 1 and 2 that do not meet."""
    found = np.zeros((5, 4, 6), np.uint8)
    found[1:3, 1:3, 1:3], found[3:5, 0:2, 3 + seed % 2 :] = 1, 2
    return found


def patient(root, number: int, names, kind: str = "RTSTRUCT", image: str = "ct", labels: str = "labels"):
    """A series in one folder, and its segmentation in another one."""
    folder = root / f"p{number}"
    write_axial(folder / image, HEIGHTS, seed=number, SeriesInstanceUID=f"1.2.3.{number}1", SliceThickness=3)
    (folder / labels).mkdir(parents=True, exist_ok=True)
    target, values = folder / labels / "object.dcm", {name: n for n, name in enumerate(names, 1)}
    if kind == "SEG":
        write_segmentation(target, labels_of(number), folder / image, {"background": 0, **values}, "x")
    else:
        structures = {name: (value,) for name, value in values.items()}
        colors = [(1.0, 0, 0)] * len(names)
        write_rtstruct(target, labels_of(number), folder / image, structures, colors, "x")
    return folder


def references(dataset, output, **options) -> dict[str, np.ndarray]:
    prepare(dataset, output, qc=False, workers=1, **options)
    files = sorted((output / "references").glob("*.nii.gz"))
    return {path.name.removesuffix(".nii.gz"): np.asanyarray(nib.load(path).dataobj) for path in files}


@pytest.mark.parametrize("kinds", [("SEG", "SEG"), ("RTSTRUCT", "RTSTRUCT"), ("SEG", "RTSTRUCT")])
def test_every_series_gets_its_own_segmentation_by_name(tmp_path, kinds) -> None:
    patient(tmp_path / "in", 1, ["liver", "tumor"], kinds[0])
    patient(tmp_path / "in", 2, ["Tumor", "liver"], kinds[1], labels="../rt/p2")
    dataset = convert(tmp_path / "in")
    assert dataset.manifest.channels == {"CT": "ct"} and dataset.warnings == ()
    assert dataset.manifest.labels == {"background": 0, "liver": 1, "tumor": 2}
    found = references(dataset, tmp_path / "out")
    np.testing.assert_array_equal(found["p1_ct"], labels_of(1))
    np.testing.assert_array_equal(found["p2_ct"], np.array([0, 2, 1])[labels_of(2)])


def test_a_structure_that_a_patient_lacks_is_told_once(tmp_path) -> None:
    patient(tmp_path, 1, ["liver", "tumor"])
    patient(tmp_path, 2, ["liver"])
    (warning,) = convert(tmp_path).warnings
    assert "structures that some cases lack: tumor in p2_ct. They count as absent there" in warning


def test_series_next_to_a_labeled_one_are_left_out_and_others_are_faults(tmp_path) -> None:
    folder = patient(tmp_path / "in", 1, ["liver", "tumor"])
    write_axial(folder / "scout", HEIGHTS, SeriesInstanceUID="1.2.3.5555")
    write_axial(tmp_path / "in" / "p2" / "ct", HEIGHTS, SeriesInstanceUID="1.2.3.6666")
    dataset = convert(tmp_path / "in")
    assert [case.id for case in dataset.cases] == ["p1_ct", "p2_ct"]
    assert (
        "series without a segmentation, next to one that has one, are left out: p1_scout"
        in dataset.warnings[0]
    )
    with pytest.raises(DatasetError, match="p2_ct: no label for this case"):
        prepare(dataset, tmp_path / "out", qc=False, workers=1)


def test_a_segmentation_without_its_series_and_two_of_one_are_faults(tmp_path) -> None:
    patient(tmp_path / "in", 1, ["liver", "tumor"])
    two = patient(tmp_path / "in", 2, ["liver", "tumor"])
    lost = patient(tmp_path / "else", 3, ["liver", "tumor"])
    (tmp_path / "in" / "p3.dcm").write_bytes((lost / "labels" / "object.dcm").read_bytes())
    (two / "again.dcm").write_bytes((two / "labels" / "object.dcm").read_bytes())
    dataset = convert(tmp_path / "in")
    faults = {case.id: case.fault for case in dataset.cases if case.fault}
    assert set(faults) == {"p2_ct", "p3"}
    assert "2 segmentations of its series" in faults["p2_ct"] and "again.dcm" in faults["p2_ct"]
    assert "p3.dcm: refers to the series 1.2.3.31, of which" in faults["p3"]
    assert list(references(dataset, tmp_path / "out", skip_faulty=True)) == ["p1_ct"]


def test_the_frame_of_reference_decides_where_no_series_is_named(tmp_path) -> None:
    for number in (1, 2):
        folder = patient(tmp_path, number, ["liver", "tumor"])
        for file in (folder / "ct").iterdir():
            document = pydicom.dcmread(file)
            document.FrameOfReferenceUID = f"1.2.77.{number}"
            document.save_as(file)
        document = pydicom.dcmread(folder / "labels" / "object.dcm")
        (frame,) = document.ReferencedFrameOfReferenceSequence
        frame.FrameOfReferenceUID = f"1.2.77.{number}"
        del frame.RTReferencedStudySequence
        document.save_as(folder / "labels" / "object.dcm")
    found = references(convert(tmp_path), tmp_path.parent / f"{tmp_path.name}_out")
    for number in (1, 2):
        np.testing.assert_array_equal(found[f"p{number}_ct"], labels_of(number))


def test_no_segmentation_that_can_be_read_is_one_line(tmp_path) -> None:
    folder = patient(tmp_path, 1, ["liver"])
    document = pydicom.dcmread(folder / "labels" / "object.dcm")
    del document.ROIContourSequence
    document.save_as(folder / "labels" / "object.dcm")
    with pytest.raises(DatasetError, match=r"object\.dcm: has no structure with closed contours"):
        convert(tmp_path)


def test_a_list_may_name_the_objects(tmp_path) -> None:
    """A label cell is a SEG or RTSTRUCT object; the image is its series, or the same grid as NIfTI."""
    patient(tmp_path, 1, ["liver", "tumor"], "SEG")
    two = patient(tmp_path, 2, ["liver", "tumor"])
    image = read_image(two / "ct")
    nib.save(nib.Nifti1Image(image.array.astype(np.int16), image.affine), tmp_path / "two.nii.gz")
    rows = "a,p1/ct,p1/labels/object.dcm\nb,two.nii.gz,p2/labels/object.dcm\n"
    (tmp_path / "cases.csv").write_text(f"case,CT,label\n{rows}")
    dataset = convert(tmp_path / "cases.csv")
    assert dataset.manifest.labels == {"background": 0, "liver": 1, "tumor": 2}
    found = references(dataset, tmp_path / "out")
    np.testing.assert_array_equal(found["a"], labels_of(1))
    np.testing.assert_array_equal(found["b"], labels_of(2))
    (tmp_path / "cases.csv").write_text("case,CT,label\na,p1/ct,p2/labels/object.dcm\n")
    with pytest.raises(
        DatasetError, match=r"refers to the series 1\.2\.3\.21, but its image .* is of 1\.2\.3\.11"
    ):
        prepare(convert(tmp_path / "cases.csv"), tmp_path / "out2", qc=False, workers=1)


def test_segments_of_highdicom_that_contain_each_other_become_regions(tmp_path) -> None:
    write_axial(tmp_path / "in" / "ct", HEIGHTS, SeriesInstanceUID="1.2.3.11")
    pixels = np.zeros((6, 4, 5, 2), np.uint8)
    pixels[1:4, :3, :3, 0], pixels[2, 1, 1, 1] = 1, 1
    write_seg(tmp_path / "in" / "seg.dcm", tmp_path / "in" / "ct", pixels, ["CTV", "GTV"])
    dataset = convert(tmp_path / "in")
    assert dataset.manifest.regions == {"CTV": (1, 2), "GTV": (2,)}
    (found,) = references(dataset, tmp_path / "out").values()
    np.testing.assert_array_equal(found, pixels.sum(axis=-1).transpose(2, 1, 0))


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_image_to_mask_to_object_to_label_of_a_real_series(tmp_path, kind) -> None:
    """Every voxel of the mask, 100 %, comes back from `prepare`."""
    image = read_image(REAL)
    labels = np.where(image.array > np.percentile(image.array, 85), 1, 0).astype(np.uint8)
    labels[image.array > np.percentile(image.array, 95)] = 2
    for file in REAL.iterdir():
        (tmp_path / "in" / "slices").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "slices" / file.name).write_bytes(file.read_bytes())
    target = tmp_path / "in" / "object.dcm"
    if kind == "SEG":
        write_segmentation(target, labels, REAL, {"background": 0, "one": 1, "two": 2}, "x")
    else:
        write_rtstruct(target, labels, REAL, {"one": (1,), "two": (2,)}, [(1, 0, 0), (0, 1, 0)], "x")
    (found,) = references(convert(tmp_path / "in"), tmp_path / "out").values()
    np.testing.assert_array_equal(found, labels)
