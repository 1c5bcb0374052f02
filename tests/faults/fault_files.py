"""The rows of the design's list of faults that are files of one case: made here, each with its verdict.

An image is a small int16 volume; its label map holds 0, 1 and 2. What a row says is that one of the two is
replaced. `REJECTED` and `WARNED` hold the words that the line must hold beside the file's name.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (14, 13, 12)
AFFINE = np.array([[-0.8, 0, 0, 90], [0, 0.9, 0, -126], [0, 0, 1.5, -72], [0, 0, 0, 1]])
_RANDOM = np.random.default_rng(7)
VOXELS = _RANDOM.integers(1, 1000, SHAPE).astype(np.int16)
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[3:7, 3:9, 3:8], LABEL[7:10, 3:9, 3:8] = 1, 2


@dataclass(frozen=True)
class Row:
    """A row of the list.

    Attributes:
        name: of the case.
        word: that the line must hold; empty where the file is accepted.
        put: writes the file that is at fault; None where only the bytes count.
        data: of the file.
        suffix: of its name.
        label: whether the label map is at fault, not the image.
    """

    name: str
    word: str = ""
    data: bytes = b""
    suffix: str = ".nii.gz"
    label: bool = False
    put: Callable[[Path], None] | None = None

    def write(self, path: Path) -> None:
        """Put the file there."""
        if self.put is not None:
            self.put(path)
        else:
            path.write_bytes(self.data)


def nifti(array: np.ndarray = VOXELS, affine: np.ndarray = AFFINE, kind: Any = None, **fields: Any) -> bytes:
    """An uncompressed NIfTI file, its header's fields overwritten at the end."""
    image = (kind or nib.Nifti1Image)(array, affine, dtype=array.dtype)
    image.header.set_qform(affine, code=1)
    image.header.set_sform(affine, code=1)
    data = bytearray(image.to_bytes())
    header = type(image.header)(bytes(data[: int(image.header["sizeof_hdr"])]), check=False)
    for name, value in fields.items():
        header[name] = value
    block = header.binaryblock
    data[: len(block)] = block
    return bytes(data)


def packed(*arguments: Any, **fields: Any) -> bytes:
    """The same as .nii.gz."""
    return gzip.compress(nifti(*arguments, **fields), mtime=0)


def sform(affine: np.ndarray) -> dict[str, Any]:
    return {f"srow_{axis}": affine[i] for i, axis in enumerate("xyz")}


def moved(millimeters: float) -> np.ndarray:
    there = AFFINE.copy()
    there[0, 3] += millimeters
    return there


def flipped_header() -> np.ndarray:
    """x mirrored about the middle of the image: the same box, the voxels run the other way."""
    turn = np.diag([-1.0, 1, 1, 1])
    turn[0, 3] = SHAPE[0] - 1
    return AFFINE @ turn


def oblique() -> np.ndarray:
    turned = AFFINE.copy()
    turned[:3, :3] = nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ AFFINE[:3, :3]
    return turned


def _big_endian() -> bytes:
    swapped = nib.Nifti1Image(VOXELS, AFFINE, nib.Nifti1Header(endianness=">"))
    swapped.header.set_data_dtype(">i2")
    return gzip.compress(swapped.to_bytes())


def _flipped_byte() -> bytes:
    data = bytearray(packed())
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def _with_outlier() -> np.ndarray:
    array = VOXELS.astype(np.float32)
    array[5, 5, 5] = 1e30
    return array


_SHEARED = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
_FLOATS = VOXELS.astype(np.float32)
_NAN, _INF = np.where(VOXELS > 900, np.nan, _FLOATS), np.where(VOXELS > 900, np.inf, _FLOATS)
_COLORS = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])

REJECTED = [
    Row("quaternion", "qform", packed(sform_code=0, quatern_b=1.0, quatern_c=1.0)),
    Row("tilted", "orthonormal", packed(qform_code=0, **sform(_SHEARED))),
    Row("no_voxel_size", "spacing", packed(sform_code=0, qform_code=0, pixdim=[1, 0, 1, 1, 1, 1, 1, 1])),
    Row("nan_affine", "affine", packed(qform_code=0, **sform(AFFINE * np.nan))),
    Row("zero_affine", "affine", packed(qform_code=0, **sform(AFFINE * 0))),
    Row("nan_voxels", "NaN", packed(_NAN.astype(np.float32))),
    Row("inf_voxels", "Inf", packed(_INF.astype(np.float32))),
    Row("complex", "complex", packed(VOXELS.astype(np.complex64))),
    Row("rgb", "RGB", packed(_COLORS)),
    Row("time_series", "4D", packed(np.stack([VOXELS] * 3, axis=-1))),
    Row("vectors", "5D", packed(np.stack([VOXELS] * 3, axis=-1)[..., None, :])),
    Row("flat", "3D", packed(VOXELS[..., 0])),
    Row("no_slices", "shape", packed(dim=[3, 14, 13, 0, 1, 1, 1, 1])),
    Row("negative_size", "shape", packed(dim=[3, 14, -13, 12, 1, 1, 1, 1])),
    Row("cut", "truncated", packed()[: len(packed()) // 2]),
    Row("no_trailer", "truncated", packed()[:-8]),
    Row("flipped_byte", "corrupt", _flipped_byte()),
    Row("plain_cut", "truncated", nifti()[:-100], ".nii"),
    Row("zero_bytes", "empty", b""),
    Row("web_page", "NIfTI", b"<html>404</html>" * 40),
    Row("plain_as_gz", "gzip", nifti()),
    Row("gz_as_plain", "gzip", packed(), ".nii"),
    Row("magic", "NIfTI", packed(magic=b"xyz")),
    Row("far_offset", "truncated", packed(vox_offset=1e6)),
    Row("datatype", "datatype", packed(datatype=77)),
    Row("claims_70_tb", "size", packed(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])),
    Row("dangling", "link", put=lambda path: path.symlink_to("nowhere.nii.gz")),
    Row("folder", "folder", put=lambda path: path.mkdir()),
    Row("pipe", "regular file", put=lambda path: os.mkfifo(path)),
]

# Of the label map alone.
REJECTED_LABELS = [
    Row("away_10_mm", "origin", packed(LABEL, moved(10)), label=True),
    # The direction of x is another, the first voxel where it was: what a viewer's careless "flip" writes.
    Row("mirrored", "orientation", packed(LABEL, AFFINE @ np.diag([-1, 1, 1, 1])), label=True),
    Row("other_spacing", "spacing", packed(LABEL, AFFINE @ np.diag([1.25, 1, 1, 1])), label=True),
    Row("other_shape", "shape", packed(LABEL[1:]), label=True),
    Row("interpolated", "0.5", packed(LABEL * np.float32(0.5)), label=True),
    Row("negative", "-1", packed(LABEL.astype(np.int16) - 1), label=True),
    Row("mask_255", "255", packed(LABEL // 2 * 255), label=True),
    Row("brats_4", "4", packed(LABEL * 2), label=True),
    Row("the_image", "label", packed(), label=True),
    Row("nan_label", "NaN", packed(np.where(LABEL > 1, np.nan, LABEL).astype(np.float32)), label=True),
    Row("slope_2", "4", packed(LABEL, scl_slope=2.0), label=True),
]

WARNED = [
    Row("two_places", "sform", packed(qoffset_x=65.0)),
    Row("no_place", "orientation", packed(sform_code=0, qform_code=0)),
    Row("half_sheared", "qform", packed(**sform(_SHEARED))),
    Row("negative_spacing", "spacing", packed(pixdim=[-1, -0.8, 0.9, 1.5, 1, 1, 1, 1])),
    Row("meters", "unit", packed(xyzt_units=1)),
    Row("constant", "constant", packed(VOXELS * 0 + 5)),
    Row("zeros", "constant", packed(VOXELS * 0)),
    Row("outlier", "range", packed(_with_outlier())),
    Row("inflates_further", "size", gzip.compress(nifti() + bytes(30_000_000), 1)),
]
WARNED_LABELS = [Row("no_foreground", "foreground", packed(LABEL * 0), label=True)]

ACCEPTED = [
    Row("plain", data=packed()),
    Row("oblique", data=packed(affine=oblique())),
    Row("rounding_shear", data=packed(qform_code=0, **sform(AFFINE + 1e-6))),
    Row("axes_zxy", data=packed(VOXELS.transpose(2, 0, 1), AFFINE[:, [2, 0, 1, 3]])),
    Row("slope_nan", data=packed(scl_slope=np.nan, scl_inter=np.nan)),
    Row("slope_0", data=packed(scl_slope=0.0, scl_inter=5.0)),
    Row("slope_half", data=packed(VOXELS * 2, scl_slope=0.5)),
    Row("int64", data=packed(VOXELS.astype(np.int64))),
    Row("big_endian", data=_big_endian()),
    Row("one_time_point", data=packed(VOXELS[..., None])),
    Row("one_slice", data=packed(VOXELS[..., :1])),
    Row("one_voxel", data=packed(VOXELS[:2, :1, :1])),
    Row("thin", data=packed(np.resize(VOXELS, (300, 2, 1)))),
    Row("zero_padded", data=packed() + bytes(3000)),
    Row("two_members", data=gzip.compress(nifti()[:400]) + gzip.compress(nifti()[400:])),
    Row("nifti_2", data=packed(kind=nib.Nifti2Image)),
]
ACCEPTED_LABELS = [
    Row("label_flipped_with_header", data=packed(LABEL[::-1], flipped_header()), label=True),
    Row("label_float_noise", data=packed(LABEL, AFFINE + 2e-5), label=True),
    Row("label_almost_integer", data=packed(LABEL + np.float32(2e-4)), label=True),
    Row("label_of_one_class", data=packed(np.minimum(LABEL, 1)), label=True),
]
