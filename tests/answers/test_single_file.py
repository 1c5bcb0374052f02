"""`-o` names a file: the mask or the points of the only case, and what is never replaced."""

import json

import nibabel as nib
import numpy as np
import pytest

from mambamed.api import predict
from mambamed.cases import SegmentNames
from mambamed.errors import RecipeError
from mambamed.io.images import read_image
from mambamed.io.segments import label_map
from tests.answers.stubs import blob, stub_run, write_blobs, write_nifti
from tests.io.pydicom_series import write_slice


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return stub_run(tmp_path_factory.mktemp("single") / "run")


@pytest.fixture
def scan(tmp_path):
    write_blobs(tmp_path / "images", 1)
    return tmp_path / "images" / "case_0.nii.gz"


def go(run, scan, output, **options):
    return predict([run.root], scan, output, device="cpu", precision="fp32", tta="none", **options)


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii"])
def test_one_image_and_a_file_name_make_that_file(run, scan, tmp_path, name) -> None:
    go(run, scan, tmp_path / "folder")
    summary = go(run, scan, tmp_path / "out" / name)
    assert summary.output == tmp_path / "out" / name and summary.faults == ()
    tables = {"mask_labels_itksnap.txt", "mask_labels_slicer.ctbl"}
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {"mask.run.json", name, *tables}
    for table in tables:
        original = tmp_path / "folder" / table.removeprefix("mask_")
        assert (tmp_path / "out" / table).read_text() == original.read_text()
    expected = nib.load(tmp_path / "folder" / "case_0.nii.gz")
    found = nib.load(tmp_path / "out" / name)
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), np.asanyarray(expected.dataobj))
    np.testing.assert_array_equal(found.affine, expected.affine)


def test_its_own_result_is_kept_and_what_somebody_changed_is_refused(run, scan, tmp_path) -> None:
    mask = tmp_path / "mask.nii.gz"
    go(run, scan, mask, preview=True)
    assert (tmp_path / "mask_preview.png").is_file()
    before = mask.stat().st_mtime_ns
    assert go(run, scan, mask, preview=True).kept == 1 and mask.stat().st_mtime_ns == before
    mask.write_bytes(b"edited by hand")
    with pytest.raises(RecipeError, match=r"mask\.nii\.gz: was changed after mambamed wrote it"):
        go(run, scan, mask)
    assert mask.read_bytes() == b"edited by hand"
    assert go(run, scan, mask, overwrite=True).kept == 0
    assert nib.load(mask).shape == (20, 22, 18)


def test_the_result_of_another_image_is_not_replaced(run, tmp_path) -> None:
    """Two scans of one name in two folders: two persons."""
    for number, person in enumerate(("anna", "bert")):
        write_nifti(tmp_path / person / "t1.nii.gz", blob(seed=number))
    mask = tmp_path / "mask.nii.gz"
    go(run, tmp_path / "anna" / "t1.nii.gz", mask)
    before = mask.read_bytes()
    with pytest.raises(RecipeError, match=r"mask\.nii\.gz: is the result of another image"):
        go(run, tmp_path / "bert" / "t1.nii.gz", mask)
    assert mask.read_bytes() == before
    assert go(run, tmp_path / "bert" / "t1.nii.gz", mask, overwrite=True).kept == 0


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask_preview.png"])
def test_a_file_of_somebody_else_is_refused_before_any_work(run, scan, tmp_path, name) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(RecipeError, match=f"{name}: already exists and was not written by these models"):
        go(run, scan, tmp_path / "mask.nii.gz", preview=True)
    assert (tmp_path / name).read_bytes() == b"mine"


def test_a_link_is_refused(run, scan, tmp_path) -> None:
    (tmp_path / "mask.nii.gz").symlink_to(tmp_path / "elsewhere.nii.gz")
    with pytest.raises(RecipeError, match="already exists"):
        go(run, scan, tmp_path / "mask.nii.gz")
    assert not (tmp_path / "elsewhere.nii.gz").exists()


def test_the_input_is_never_the_output(run, scan) -> None:
    before = scan.read_bytes()
    with pytest.raises(RecipeError, match="is the input"):
        go(run, scan, scan, overwrite=True)
    assert scan.read_bytes() == before


def test_several_cases_need_a_folder(run, tmp_path) -> None:
    write_blobs(tmp_path / "images", 3)
    with pytest.raises(
        RecipeError, match=r"mask\.nii\.gz: is the name of one file, but the input has 3 cases"
    ):
        go(run, tmp_path / "images", tmp_path / "mask.nii.gz")
    assert not (tmp_path / "mask.nii.gz").exists() and not (tmp_path / "mask.run.json").exists()
    (tmp_path / "folder.nii.gz").mkdir()
    assert len(go(run, tmp_path / "images", tmp_path / "folder.nii.gz").cases) == 3


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("m.dcm", "--format dicom-seg or rtstruct"),
        ("m.mha", "the name of a folder"),
        ("M.NII", "the name of a folder"),
    ],
)
def test_a_name_of_another_format_is_refused(run, scan, tmp_path, name, remedy) -> None:
    with pytest.raises(RecipeError, match=rf"--format nifti writes \.nii\.gz or \.nii\. .*{remedy}"):
        go(run, scan, tmp_path / name)


def test_the_record_names_the_mask(run, scan, tmp_path) -> None:
    go(run, scan, tmp_path / "mask.nii.gz")
    record = json.loads((tmp_path / "mask.run.json").read_text())
    assert list(record["cases"]) == ["mask"] and record["cases"]["mask"]["input"][0][0] == "case_0.nii.gz"


@pytest.mark.parametrize(
    ("name", "kind"), [("m.seg.nrrd", "seg-nrrd"), ("m.dcm", "dicom-seg"), ("m.dcm", "rtstruct")]
)
def test_other_formats_hold_the_same_mask(run, tmp_path, name, kind) -> None:
    """A series of the voxels of a test image; read back as labels of that series."""
    voxels = blob()
    for z in range(voxels.shape[2]):
        tags = {"PixelSpacing": [1, 1], "SliceThickness": 1}
        write_slice(tmp_path / "ct" / f"{z}.dcm", 1.0 * z, voxels[:, :, z].T, **tags)
    image = read_image(tmp_path / "ct")
    go(run, tmp_path / "ct", tmp_path / "mask.nii.gz")
    expected = np.asanyarray(nib.load(tmp_path / "mask.nii.gz").dataobj)
    names = SegmentNames({"background": 0, "one": 1, "two": 5})
    summary = go(run, tmp_path / "ct", tmp_path / name, format=kind)
    assert summary.faults == ()
    found = label_map(tmp_path / name, image.array.shape, image.affine, names)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) == 3
