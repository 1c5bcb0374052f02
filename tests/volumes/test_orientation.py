"""One real case, stored in every way: the mask lies at the same place in the world.

The network is one voxel wide (a threshold), so that its answer itself does not depend on a direction, and
what is tested is the way in and the way back.
"""

import itertools
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from scipy import ndimage
from torch import nn

from mambamed.api import predict
from mambamed.io.images import read_image
from mambamed.volumes.ensemble import Ensemble
from mambamed.volumes.sliding_window import Windows, window_slabs
from tests.answers.stubs import stub_run, write_nifti
from tests.real_data import DATA

CASE = DATA / "Task04_Hippocampus" / "imagesTr" / "hippocampus_001.nii.gz"
SERIES = DATA / "dicom" / "hippocampus_crop"
WAYS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not CASE.is_file() or not SERIES.is_dir(), reason=f"no {CASE} or no {SERIES}"),
]


class Bright(nn.Module):
    """Label 5 where a voxel is brighter than the mean, else background; half a unit is no label 1."""

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), torch.full_like(x, -9.0), x], dim=1)


@pytest.fixture
def bright(monkeypatch):
    def slabs(self, image, on_progress, on_message):
        windows = Windows((24, 24, 24), overlap=0.25)
        return window_slabs(
            [Bright()], torch.from_numpy(np.ascontiguousarray(image)), windows, device=self.device
        )

    monkeypatch.setattr(Ensemble, "slabs", slabs)


def masks_of(folder: Path, inputs: Path) -> dict[str, nib.Nifti1Image]:
    run = stub_run(folder / "run", spacing=(1.0, 1.0, 1.0))
    summary = predict([run.root], inputs, folder / "out", device="cpu", precision="fp32", tta="none")
    assert summary.faults == ()
    return {path.name.split(".")[0]: nib.load(path) for path in (folder / "out").glob("*.nii.gz")}


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def on_grid_of(mask: nib.Nifti1Image, other: nib.Nifti1Image) -> np.ndarray:
    """The voxels of `other` that lie in the mask, through the world, nearest voxel, by scipy."""
    way = np.linalg.inv(mask.affine) @ other.affine
    inside = (np.asanyarray(mask.dataobj) > 0).astype(np.uint8)
    return ndimage.affine_transform(inside, way[:3, :3], way[:3, 3], other.shape, order=0) > 0


def test_all_48_orders_and_signs_of_the_axes_give_the_same_voxels(bright, tmp_path) -> None:
    image = nib.load(CASE)
    for number, (axes, signs) in enumerate(WAYS):
        turned = image.as_reoriented(np.array(list(zip(axes, signs, strict=True))))
        write_nifti(
            tmp_path / "images" / f"way_{number:02}.nii.gz", np.asanyarray(turned.dataobj), turned.affine
        )
    masks = masks_of(tmp_path, tmp_path / "images")
    assert len(masks) == 48
    found = {name: nib.as_closest_canonical(mask) for name, mask in masks.items()}
    first = np.asanyarray(found["way_00"].dataobj) > 0
    assert 0.2 < first.mean() < 0.8
    for name, mask in found.items():
        np.testing.assert_allclose(mask.affine, found["way_00"].affine, atol=1e-4)
        assert dice(np.asanyarray(mask.dataobj) > 0, first) >= 0.99, name


def test_oblique_and_anisotropic_grids_hold_the_same_mask(bright, tmp_path) -> None:
    """Turned by 20 degrees about each axis: the very voxels. Planes of a third of the distance, every third
    one the image's own: what lies between is interpolated, which a threshold of a noisy image would show."""
    image = nib.load(CASE)
    voxels = np.asanyarray(image.dataobj)
    angle = np.deg2rad(20)
    turn = np.eye(4)
    for a, b in ((0, 1), (1, 2), (0, 2)):
        one = np.eye(4)
        one[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = one @ turn
    write_nifti(tmp_path / "images" / "plain.nii.gz", voxels, image.affine)
    write_nifti(tmp_path / "images" / "oblique.nii.gz", voxels, turn @ image.affine)
    coarse = ndimage.zoom(voxels.astype(np.float32), (1, 1, 3), order=1, grid_mode=True, mode="nearest")
    fine = image.affine @ np.diag([1, 1, voxels.shape[2] / coarse.shape[2], 1])
    fine[:3, 3] = (image.affine @ [0, 0, (voxels.shape[2] / coarse.shape[2] - 1) / 2, 1])[:3]
    write_nifti(tmp_path / "images" / "anisotropic.nii.gz", coarse, fine)
    masks = masks_of(tmp_path, tmp_path / "images")
    plain = np.asanyarray(masks["plain"].dataobj) > 0
    assert dice(np.asanyarray(masks["oblique"].dataobj) > 0, plain) >= 0.99
    np.testing.assert_allclose(masks["oblique"].affine, turn @ image.affine, atol=1e-4)
    assert dice(on_grid_of(masks["anisotropic"], masks["plain"]), plain) >= 0.99


def test_nifti_nrrd_and_dicom_of_one_series_give_the_same_mask(bright, tmp_path) -> None:
    series = read_image(SERIES)
    write_nifti(tmp_path / "as_nifti" / "case.nii.gz", series.array, series.affine)
    (tmp_path / "as_nrrd").mkdir()
    sitk.WriteImage(
        sitk.ReadImage(str(tmp_path / "as_nifti" / "case.nii.gz")), str(tmp_path / "as_nrrd" / "case.nrrd")
    )
    found = {}
    for name, inputs in (("nifti", tmp_path / "as_nifti"), ("nrrd", tmp_path / "as_nrrd"), ("dicom", SERIES)):
        (mask,) = masks_of(tmp_path / name, inputs).values()
        found[name] = mask
    plain = np.asanyarray(found["nifti"].dataobj) > 0
    assert 0.1 < plain.mean() < 0.9
    for name in ("nrrd", "dicom"):
        assert dice(on_grid_of(found[name], found["nifti"]), plain) >= 0.99, name


def test_a_series_goes_in_and_a_segmentation_comes_out_where_the_mask_is(bright, tmp_path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    run = stub_run(tmp_path / "run")
    options = {"device": "cpu", "precision": "fp32", "tta": "none"}
    predict([run.root], SERIES, tmp_path / "seg", format="dicom-seg", **options)
    predict([run.root], SERIES, tmp_path / "nifti", **options)
    (written,) = (tmp_path / "seg").glob("*.dcm")
    (mask,) = (tmp_path / "nifti").glob("*.nii.gz")
    document = pydicom.dcmread(written)
    assert document.Modality == "SEG"
    assert [s.SegmentLabel for s in document.SegmentSequence] == ["one", "two"]
    expected = sitk.ReadImage(str(mask))  # LPS, as DICOM
    count = 0
    frames = document.pixel_array.reshape(-1, document.Rows, document.Columns)
    for frame, facts in zip(frames, document.PerFrameFunctionalGroupsSequence, strict=True):
        corner = [float(v) for v in facts.PlanePositionSequence[0].ImagePositionPatient]
        _, _, z = expected.TransformPhysicalPointToIndex(corner)
        plane = sitk.GetArrayFromImage(expected)[z]
        segment = facts.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(frame > 0, plane == {1: 1, 2: 5}[segment])
        count += int((frame > 0).sum())
    assert count == int((sitk.GetArrayFromImage(expected) > 0).sum()) > 0
    assert predict([run.root], SERIES, tmp_path / "seg", format="dicom-seg", **options).kept == 1


def test_a_series_of_which_a_slice_was_replaced_is_done_again(bright, tmp_path) -> None:
    """The folder's own time is what it was, and so is the first slice, by whose name the case goes."""
    run = stub_run(tmp_path / "run")
    series = Path(shutil.copytree(SERIES, tmp_path / "series"))
    options = {"device": "cpu", "precision": "fp32", "tta": "none"}
    assert predict([run.root], series, tmp_path / "out", **options).kept == 0
    assert predict([run.root], series, tmp_path / "out", **options).kept == 1
    with (series / "7.dcm").open("r+b") as file:
        file.write(b"other")  # in the preamble, which nobody reads
    assert predict([run.root], series, tmp_path / "out", **options).kept == 0
