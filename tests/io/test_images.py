"""Faults that real files have: each is made here; the verdict is that of the fault list of the design.

What is accepted is compared with nibabel's reading of the same file.
"""

import gzip
import logging
import os
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from mambamed.errors import CaseError
from mambamed.io.images import Image, read_header, read_image, write_image

SHAPE = (7, 6, 5)
RNG = np.random.default_rng(0)
VOXELS = RNG.integers(-100, 1000, SHAPE).astype(np.int16)
AFFINE = np.array([[-0.8, 0, 0, 90], [0, 0.9, 0, -126], [0, 0, 5.0, -72], [0, 0, 0, 1]])


def nifti(array=VOXELS, affine=AFFINE, kind=nib.Nifti1Image, **fields) -> bytes:
    """A NIfTI file as bytes, with header fields overwritten after nibabel made it."""
    image = kind(array, affine, dtype=array.dtype)
    image.header.set_qform(affine, code=1)
    image.header.set_sform(affine, code=1)
    data = bytearray(image.to_bytes())
    header = type(image.header)(bytes(data[: int(image.header["sizeof_hdr"])]), check=False)
    for name, value in fields.items():
        header[name] = value
    data[: header.binaryblock.__len__()] = header.binaryblock
    return bytes(data)


def write(folder, data: bytes, name="CASE_0000.nii.gz"):
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def sform(affine) -> dict:
    return {f"srow_{axis}": affine[i] for i, axis in enumerate("xyz")}


SHEARED = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

REJECTED = {
    "quaternion": (nifti(sform_code=0, quatern_b=1.0, quatern_c=1.0), "qform"),
    "sheared sform": (nifti(qform_code=0, **sform(SHEARED)), "orthonormal"),
    "no voxel size": (nifti(sform_code=0, qform_code=0, pixdim=[1, 0, 1, 1, 1, 1, 1, 1]), "spacing"),
    "NaN in sform": (nifti(qform_code=0, **sform(AFFINE * np.nan)), "affine"),
    "zero sform": (nifti(qform_code=0, **sform(AFFINE * 0)), "affine"),
    "NaN voxels": (nifti(np.where(VOXELS > 900, np.nan, VOXELS).astype(np.float32)), "NaN"),
    "infinite voxels": (nifti(np.where(VOXELS > 900, np.inf, VOXELS).astype(np.float32)), "Inf"),
    "complex": (nifti(VOXELS.astype(np.complex64)), "complex"),
    "RGB": (nifti(np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])), "RGB"),
    "time series": (nifti(np.stack([VOXELS] * 3, axis=-1)), "4D"),
    "vector image": (nifti(np.stack([VOXELS] * 3, axis=-1)[..., None, :]), "5D"),
    "flat image": (nifti(VOXELS[..., 0]), "3D"),
    "no slices": (nifti(dim=[3, 7, 6, 0, 1, 1, 1, 1]), "shape"),
    "negative size": (nifti(dim=[3, 7, -6, 5, 1, 1, 1, 1]), "shape"),
    "unknown datatype": (nifti(datatype=77), "datatype"),
    "bad magic": (nifti(magic=b"xyz"), "NIfTI"),
    "offset behind the end": (nifti(vox_offset=1e6), "truncated"),
    "70 TB": (nifti(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "size"),
    "header alone": (nifti()[:352], "truncated"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_a_file_that_cannot_be_right_is_refused_with_its_fact(tmp_path, name) -> None:
    data, word = REJECTED[name]
    path = write(tmp_path, data)
    with pytest.raises(CaseError) as caught:
        read_image(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert word in line
    assert "\n" not in line


def damaged(name: str) -> tuple[str, bytes, str]:
    noise = nifti(RNG.integers(0, 2**15, (40, 40, 40)).astype(np.int16))
    packed = bytearray(gzip.compress(noise, mtime=0))
    if name == "cut in the middle":
        return "a.nii.gz", packed[: len(packed) // 2], "truncated"
    if name == "trailer missing":
        return "a.nii.gz", packed[:-8], "truncated"
    if name == "flipped byte":
        packed[len(packed) // 2] ^= 0xFF
        return "a.nii.gz", packed, "corrupt"
    if name == "wrong checksum":
        packed[-6] ^= 1
        return "a.nii.gz", packed, "corrupt"
    if name == "plain file cut":
        return "a.nii", noise[:-100], "truncated"
    if name == "empty":
        return "a.nii.gz", b"", "empty"
    if name == "web page":
        return "a.nii.gz", b"<html>Not found</html>" * 50, "NIfTI"
    if name == "plain named gz":
        return "a.nii.gz", noise, "gzip"
    if name == "gz named plain":
        return "a.nii", packed, "gzip"
    raise ValueError(name)


@pytest.mark.parametrize(
    "name",
    [
        "cut in the middle",
        "trailer missing",
        "flipped byte",
        "wrong checksum",
        "plain file cut",
        "empty",
        "web page",
        "plain named gz",
        "gz named plain",
    ],
)
def test_a_damaged_file_is_refused_with_its_fact(tmp_path, name) -> None:
    file, data, word = damaged(name)
    (tmp_path / file).write_bytes(data)
    with pytest.raises(CaseError, match=word) as caught:
        read_image(tmp_path / file)
    assert file in str(caught.value)


def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "folder", "link", "absent"):
        with pytest.raises(CaseError, match=f"{name}.nii.gz"):
            read_image(tmp_path / f"{name}.nii.gz")
    with pytest.raises(CaseError, match="File name too long"):
        read_image(tmp_path / ("x" * 300))


WARNED = {
    "two places": (nifti(qoffset_x=65.0), "sform"),
    "no place": (nifti(sform_code=0, qform_code=0), "orientation"),
    "sheared sform, straight qform": (nifti(**sform(SHEARED)), "qform"),
    "negative voxel size": (nifti(pixdim=[-1, -0.8, 0.9, 5, 1, 1, 1, 1]), "spacing"),
    "meters": (nifti(xyzt_units=1), "unit"),
    "more data than the header says": (nifti() + bytes(100_000), "size"),
}


@pytest.mark.parametrize("name", WARNED)
def test_a_doubtful_file_is_read_with_a_warning_that_names_it(tmp_path, name, caplog) -> None:
    data, word = WARNED[name]
    path = write(tmp_path, data)
    with caplog.at_level(logging.WARNING, "mambamed"):
        np.testing.assert_array_equal(read_image(path).array, VOXELS)
    assert any(str(path) in r.getMessage() and word in r.getMessage() for r in caplog.records)


def oblique() -> np.ndarray:
    turn = nib.eulerangles.euler2mat(0.2, -0.1, 0.3)
    return np.block([[turn * (0.8, 0.9, 5.0), np.array([[90.0], [-126], [-72]])], [np.zeros((1, 3)), 1]])


ACCEPTED = {
    "plain": nifti(),
    "oblique": nifti(affine=oblique()),
    "rounding-size shear": nifti(qform_code=0, **sform(AFFINE + 1e-4 * RNG.normal(size=(4, 4)))),
    "axes z, x, y": nifti(VOXELS.transpose(2, 0, 1), AFFINE[:, [2, 0, 1, 3]]),
    "slope NaN": nifti(scl_slope=np.nan, scl_inter=np.nan),
    "slope 0": nifti(scl_slope=0.0, scl_inter=5.0),
    "slope 2, intercept -10": nifti(scl_slope=2.0, scl_inter=-10.0),
    "one time point": nifti(VOXELS[..., None]),
    "int64": nifti(VOXELS.astype(np.int64)),
    "float64": nifti(VOXELS.astype(np.float64) / 7),
    "one slice": nifti(VOXELS[..., :1]),
    "a single voxel": nifti(VOXELS[:1, :1, :1]),
    "long and thin": nifti(np.resize(VOXELS, (2000, 1, 1))),
    "NIfTI-2": nifti(kind=nib.Nifti2Image),
}


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_healthy_file_is_read_as_nibabel_reads_it(tmp_path, name, suffix, caplog) -> None:
    path = write(tmp_path, ACCEPTED[name], f"CASE{suffix}")
    image, theirs = read_image(path), nib.load(path)
    voxels = np.asanyarray(theirs.dataobj)
    np.testing.assert_allclose(image.array, voxels.reshape(image.array.shape), rtol=1e-6)
    np.testing.assert_allclose(image.affine, theirs.affine, atol=1e-5)
    np.testing.assert_allclose(image.spacing, theirs.header.get_zooms()[:3], rtol=1e-3)
    header = read_header(path)
    assert header.shape == image.array.shape
    np.testing.assert_array_equal(header.affine, image.affine)
    assert not caplog.records


def test_big_endian_files_are_read(tmp_path) -> None:
    swapped = nib.Nifti1Image(VOXELS, AFFINE, nib.Nifti1Header(endianness=">"))
    swapped.header.set_data_dtype(">i2")
    path = write(tmp_path, swapped.to_bytes())
    assert struct.unpack(">i", gzip.decompress(path.read_bytes())[:4]) == (348,)
    image = read_image(path)
    assert image.array.dtype.isnative
    np.testing.assert_array_equal(image.array, VOXELS)


def test_legal_oddities_of_gzip_are_read(tmp_path) -> None:
    data = nifti()
    for name, packed in {
        "padded": gzip.compress(data) + bytes(5000),
        "two members": gzip.compress(data[:400]) + gzip.compress(data[400:]),
        "many members": b"".join(gzip.compress(data[i : i + 37]) for i in range(0, len(data), 37)),
    }.items():
        path = tmp_path / f"{name}.nii.gz"
        path.write_bytes(packed)
        np.testing.assert_array_equal(read_image(path).array, VOXELS)


def test_an_honest_but_huge_file_is_refused_before_memory_is_taken(tmp_path) -> None:
    path = write(tmp_path, nifti(np.zeros((300, 300, 300), np.uint8)))
    assert path.stat().st_size < 100_000
    with pytest.raises(CaseError, match="27000000 voxels"):
        read_image(path, max_voxels=10**7)


def test_one_volume_of_a_4d_file_is_read(tmp_path) -> None:
    series = np.stack([VOXELS, VOXELS + 1, VOXELS * 2], axis=-1)
    path = write(tmp_path, nifti(series))
    np.testing.assert_array_equal(read_image(path, volume=2).array, series[..., 2])
    assert read_header(path).volumes == 3
    with pytest.raises(CaseError, match="volume 3 is needed"):
        read_image(path, volume=3)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats_say_the_same_as_nifti(tmp_path, suffix) -> None:
    """SimpleITK converts the NIfTI file; both files must be read to the same voxels and places."""
    nifti_path = write(tmp_path, nifti())
    sitk.WriteImage(sitk.ReadImage(str(nifti_path)), str(tmp_path / f"a{suffix}"))
    image, other = read_image(nifti_path), read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(other.array, image.array)
    np.testing.assert_allclose(other.affine, image.affine, atol=1e-5)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compressed", [False, True])
def test_other_formats_that_are_cut_off_are_refused(tmp_path, suffix, compressed, capfd) -> None:
    path = tmp_path / f"a{suffix}"
    noise = RNG.integers(0, 2**15, (20, 20, 20)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), useCompression=compressed)
    header = read_header(path)
    assert (header.shape, header.dtype, header.volumes) == ((20, 20, 20), np.int16, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CaseError, match="truncated") as caught:
        read_image(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    if compressed:
        path.write_bytes(whole[:-500] + bytes(10) + whole[-490:])
        with pytest.raises(CaseError, match="corrupt"):
            read_image(path)
    path.write_bytes(b"")
    with pytest.raises(CaseError, match="empty"):
        read_image(path)


def test_other_formats_that_claim_too_much_are_refused(tmp_path) -> None:
    path = tmp_path / "a.nrrd"
    fields = "type: short\ndimension: 3\nsizes: 30000 30000 30000\nendian: little\nencoding: gzip"
    path.write_bytes(f"NRRD0004\n{fields}\n\n".encode() + gzip.compress(bytes(1000)))
    with pytest.raises(CaseError, match="claims a size of"):
        read_image(path)
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / "b.mha"))
    with pytest.raises(CaseError, match="more than the limit of 10"):
        read_image(tmp_path / "b.mha", max_voxels=10)
    colors = sitk.GetImageFromArray(np.zeros((4, 4, 4, 3), np.uint8), isVector=True)
    sitk.WriteImage(colors, str(tmp_path / "c.mha"))
    with pytest.raises(CaseError, match="one value per voxel"):
        read_image(tmp_path / "c.mha")


def test_an_image_whose_voxels_lie_elsewhere_is_refused(tmp_path) -> None:
    path = tmp_path / "a.mha"
    path.write_text("ObjectType = Image\nNDims = 3\nDimSize = 1 1 1\nElementDataFile = /etc/passwd\n")
    with pytest.raises(CaseError, match="another file"):
        read_image(path)


@pytest.mark.parametrize("name", ["plain", "oblique", "axes z, x, y", "NIfTI-2", "slope 2, intercept -10"])
def test_an_answer_keeps_the_geometry_of_its_image_to_the_bit(tmp_path, name) -> None:
    source = write(tmp_path, ACCEPTED[name], "source.nii.gz")
    image = read_image(source)
    labels = (image.array > 400).astype(np.uint8)
    write_image(tmp_path / "mask.nii.gz", labels, like=image)
    mask, original = nib.load(tmp_path / "mask.nii.gz"), nib.load(source)
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), labels)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, original.affine)
    for field in ("pixdim", "sform_code", "qform_code", "srow_x", "quatern_b", "qoffset_z", "xyzt_units"):
        np.testing.assert_array_equal(mask.header[field], original.header[field])
    if name == "NIfTI-2":  # which SimpleITK does not read
        return
    theirs = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs).transpose(2, 1, 0), labels)


def test_codes_0_stay_0(tmp_path) -> None:
    image = read_image(write(tmp_path, nifti(sform_code=0, qform_code=0)))
    write_image(tmp_path / "mask.nii.gz", VOXELS, like=image)
    header = nib.load(tmp_path / "mask.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)


def test_names_of_patients_do_not_travel_to_the_answer(tmp_path) -> None:
    image = read_image(write(tmp_path, nifti(descrip=b"Doe^Jane", db_name=b"Doe", aux_file=b"doe.txt")))
    write_image(tmp_path / "mask.nii", VOXELS, like=image)
    assert b"oe" not in (tmp_path / "mask.nii").read_bytes()[:352]


def test_the_same_mask_gives_the_same_bytes(tmp_path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_image(tmp_path / name, VOXELS, like=Image(VOXELS, AFFINE))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_an_array_on_another_grid_is_a_programmers_fault(tmp_path) -> None:
    with pytest.raises(ValueError, match="not on the grid"):
        write_image(tmp_path / "a.nii.gz", VOXELS[1:], like=Image(VOXELS, AFFINE))


def _small_nifti(kind) -> bytearray:
    image = kind(np.zeros((4, 4, 4), np.int16), np.eye(4))
    return bytearray(image.to_bytes())


def test_a_header_that_is_cut_is_truncated(tmp_path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(_small_nifti(nib.Nifti2Image)[:400])
    with pytest.raises(CaseError, match=r"a\.nii: truncated: ends within its header"):
        read_image(path)


def test_voxels_said_to_begin_beyond_the_end_take_no_memory(tmp_path) -> None:
    path, content = tmp_path / "a.nii", _small_nifti(nib.Nifti1Image)
    content[108:112] = np.float32(2**39).tobytes()  # vox_offset
    path.write_bytes(content)
    with pytest.raises(CaseError, match=r"a\.nii: truncated: its voxels would begin at byte 5\.49756e\+11"):
        read_image(path)


def test_a_signaling_nan_in_the_affine_is_nan(tmp_path) -> None:
    path, content = tmp_path / "a.nii", _small_nifti(nib.Nifti1Image)
    content[280:284] = np.uint32(0x7F800001).tobytes()  # the first number of srow_x
    path.write_bytes(content)
    with pytest.raises(CaseError, match=r"a\.nii: affine contains NaN or Inf"):
        read_image(path)
