import gzip

import nibabel as nib
import numpy as np
import pytest

from mambamed.cases import SegmentNames
from mambamed.errors import CaseError
from mambamed.io.images import Image, read_image
from mambamed.viewer.volumes import as_nifti, read_mask
from tests.viewer import scenes


def loaded(data: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(data))


def test_every_world_point_has_the_value_of_the_file(tmp_path) -> None:
    image, _ = scenes.oblique_case(tmp_path)
    shown = loaded(as_nifti(read_image(image)))
    (tmp_path / "shown.nii").write_bytes(shown.to_bytes())
    assert nib.aff2axcodes(shown.affine) == ("R", "A", "S")
    for point in scenes.world_points(50):
        assert scenes.nibabel_value(tmp_path / "shown.nii", point) == scenes.nibabel_value(image, point)


@pytest.mark.parametrize(
    ("stored", "shown"),
    [("bool", "uint8"), ("int8", "int16"), ("uint16", "uint16"), ("int64", "int32"), ("uint32", "int32"),
     ("float64", "float32"), ("float16", "float32")],
)  # fmt: skip
def test_types_that_browsers_lack_keep_their_values(stored, shown) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(stored)
    found = loaded(as_nifti(Image(array, np.eye(4))))
    assert found.get_data_dtype() == shown and np.array_equal(np.asarray(found.dataobj), array.astype(float))


def test_whole_numbers_beyond_32_bits_become_floats() -> None:
    array = np.full((2, 2, 2), 2**40, np.int64)
    assert loaded(as_nifti(Image(array, np.eye(4)))).get_data_dtype() == np.float32


def test_labels_stored_as_floats_are_rounded_and_images_are_no_labels(tmp_path) -> None:
    path = tmp_path / "mask.nii.gz"
    values = np.zeros((3, 3, 3), np.float32)
    values[1, 1, 1] = 0.99999997
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    assert read_mask(path, None, SegmentNames()).array.sum() == 1
    nib.save(nib.Nifti1Image(values + 0.5, np.eye(4)), path)
    with pytest.raises(CaseError, match="are not labels"):
        read_mask(path, None, SegmentNames())
