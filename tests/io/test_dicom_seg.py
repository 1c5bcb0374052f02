"""A label map goes out as DICOM Segmentation and comes back where it was, by other readers than ours."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from mambamed.cases import Case, ChannelFile
from mambamed.errors import RecipeError
from mambamed.io.dicom_seg import check_dicom_output, write_segmentation
from mambamed.io.images import read_image
from tests.real_data import DATA

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
SERIES = DATA / "dicom" / "hippocampus_crop"
NAMES = {"background": 0, "anterior": 1, "posterior": 4}

needs_series = pytest.mark.skipif(not SERIES.is_dir(), reason=f"no {SERIES}")


@pytest.mark.data
@needs_series
@pytest.mark.parametrize("empty", [False, True], ids=["found", "nothing found"])
def test_a_segmentation_lies_where_the_series_does(tmp_path, empty) -> None:
    image = read_image(SERIES)
    labels = np.zeros(image.array.shape, np.uint8)
    if not empty:
        labels[3:9, 5:8, 2:6] = 1
        labels[10:12, 5:30, 10] = 4
    write_segmentation(tmp_path / "case.dcm", labels, SERIES, NAMES, "hippocampi")
    document = pydicom.dcmread(tmp_path / "case.dcm")
    slices = [pydicom.dcmread(path) for path in SERIES.iterdir()]
    assert document.Modality == "SEG" and document.PatientID == slices[0].PatientID
    assert document.StudyInstanceUID == slices[0].StudyInstanceUID
    assert document.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    segments = {int(s.SegmentNumber): s.SegmentLabel for s in document.SegmentSequence}
    assert segments == {1: "anterior", 2: "posterior"}
    # Voxel by voxel through the world: SimpleITK reads the series, pydicom the frames.
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(SERIES)))
    series = reader.Execute()
    found = np.zeros(series.GetSize(), np.uint8)
    frames = document.pixel_array.reshape(-1, document.Rows, document.Columns)
    of_frame = document.PerFrameFunctionalGroupsSequence
    uids = {s.SOPInstanceUID: s for s in slices}
    for frame, facts in zip(frames, of_frame, strict=True):
        position = [float(v) for v in facts.PlanePositionSequence[0].ImagePositionPatient]
        source = facts.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_allclose(position, uids[source].ImagePositionPatient, atol=1e-4)
        _, _, z = series.TransformPhysicalPointToIndex(position)
        segment = facts.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[:, :, z][frame.T > 0] = NAMES[segments[segment]]
    ours = sitk.ReadImage(str(_nifti(tmp_path, labels, image)))
    expected = sitk.Resample(ours, series, sitk.Transform(), sitk.sitkNearestNeighbor)
    np.testing.assert_array_equal(found, sitk.GetArrayFromImage(expected).T)


def _nifti(folder: Path, labels: np.ndarray, image) -> Path:
    import nibabel as nib

    path = folder / "labels.nii.gz"
    nib.save(nib.Nifti1Image(labels, image.affine), path)
    return path


@pytest.mark.parametrize("format", ["dicom-seg", "rtstruct"])
def test_what_is_no_dicom_is_refused_before_any_work(tmp_path, format) -> None:
    case = Case("a", (ChannelFile(tmp_path / "a.nii.gz"),))
    with pytest.raises(RecipeError, match=f"is not a DICOM series, which --format {format} requires"):
        check_dicom_output([case], format)
