"""Images as arrays `(X, Y, Z)` in the file's own order, with the affine voxel -> world, mm, RAS+.

NIfTI goes its own checked path (`nifti`); NRRD, MetaImage and DICOM series go through SimpleITK, whose
`(z, y, x)` order and LPS world end here. A folder, or a file that is DICOM, stands for its series.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import CaseError, DatasetError
from mambamed.geometry import Affine, spacing_of
from mambamed.io.atomic import write_bytes

MAX_VOXELS = 2**31
_LARGEST_SANE = 1e15  # squares of more than that overflow in float32, and no scanner writes it
_NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*_NIFTI, ".nrrd", ".mha")


@dataclass(frozen=True)
class Image:
    """An image in memory.

    Attributes:
        array: `(X, Y, Z)`, in the file's type where it stores no scaling, else float32.
        affine: `(4, 4)` voxel -> world, mm, RAS+.
        header: what the file said beyond that, for writing an answer with the same geometry; opaque.
    """

    array: NDArray
    affine: Affine
    header: Any = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel, mm, in array order."""
        x, y, z = (float(edge) for edge in spacing_of(self.affine))
        return x, y, z


@dataclass(frozen=True)
class ImageHeader:
    """An image without its voxels.

    Attributes:
        shape: `(X, Y, Z)`.
        volumes: length of the fourth axis; 1 for a 3-D file.
        affine: `(4, 4)` voxel -> world, mm, RAS+.
        dtype: type of the voxels as stored.
        header: as in `Image`.
    """

    shape: tuple[int, int, int]
    volumes: int
    affine: Affine
    dtype: np.dtype
    header: Any = None


def read_image(path: Path, volume: int | None = None, max_voxels: int = MAX_VOXELS) -> Image:
    """Read an image.

    Args:
        path: `.nii`, `.nii.gz`, `.nrrd`, `.mha`; a folder of one DICOM series, or one file of a series.
        volume: index along the fourth axis of a 4-D file; None for a 3-D file.
        max_voxels: refuse larger files before any memory is taken.

    Raises:
        CaseError: absent, no regular file, damaged, no image, a geometry that cannot be right, NaN or Inf.
    """
    if not path.name.lower().endswith(_NIFTI):
        array, affine = _reader(path).read(path, max_voxels)
        _check_volume(path, 1, volume)
        _check_finite(array, path)
        return Image(array, affine)
    check_file(path)
    from mambamed.io import nifti

    with path.open("rb") as file:
        stream = nifti.NiftiStream(file, path)
        header = nifti.read_header(stream, path)
        shape = nifti.check_shape(header, path, stream, max_voxels)
        affine = nifti.affine_of(header, path)
        _check_volume(path, shape[3], volume)
        array = nifti.voxels_of(header, stream, shape, path)[..., volume or 0]
    if shape[3] > 1:
        array = array.copy(order="F")  # lets the other volumes go
    array = nifti.scaled(array, header)
    _check_finite(array, path)
    return Image(array, affine, header)


def read_header(path: Path, max_voxels: int = MAX_VOXELS) -> ImageHeader:
    """Read where an image lies, without its voxels.

    Raises:
        CaseError: as `read_image`, but for what only the voxels show.
    """
    if not path.name.lower().endswith(_NIFTI):
        shape, affine, dtype = _reader(path).read_header(path, max_voxels)
        return ImageHeader(shape, 1, affine, dtype)
    check_file(path)
    from mambamed.io import nifti

    with path.open("rb") as file:
        stream = nifti.NiftiStream(file, path)
        header = nifti.read_header(stream, path)
        x, y, z, volumes = nifti.check_shape(header, path, stream, max_voxels)
    return ImageHeader((x, y, z), volumes, nifti.affine_of(header, path), header.get_data_dtype(), header)


def write_image(path: Path, array: NDArray, like: Image | ImageHeader) -> None:
    """Write an image as NIfTI, atomically.

    Args:
        path: `.nii.gz` or `.nii`.
        array: `(X, Y, Z)`, on the grid of `like`.
        like: its affine, and, where it came from NIfTI, its qform, sform, codes and units, are kept.

    Raises:
        ValueError: the array is not on the grid of `like`, or the name is not NIfTI's.
        RunError: the file cannot be written.
    """
    from mambamed.io import nifti

    shape = like.array.shape if isinstance(like, Image) else like.shape
    if array.shape != tuple(shape):
        raise ValueError(f"array of shape {array.shape} is not on the grid {tuple(shape)}")
    if not path.name.endswith(_NIFTI):
        raise ValueError(f"{path}: images are written as .nii.gz or .nii")
    if array.dtype == bool:
        array = array.astype(np.uint8)
    write_bytes(path, nifti.encode(array, like.affine, like.header, path.name.endswith(".gz")))


def doubt_about(array: NDArray) -> str | None:
    """What makes intensities doubtful, in one phrase; None for those of a proper image.

    >>> doubt_about(np.full((2, 2, 2), 5.0))
    'is constant (5); it says nothing'
    """
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if low == high:
        return f"is constant ({low:g}); it says nothing"
    if max(abs(low), abs(high)) > _LARGEST_SANE:
        return f"range {low:g} to {high:g} of intensities; check for an outlier"
    return None


def smallest_integer(largest: int) -> np.dtype:
    """The smallest unsigned type that holds labels up to `largest`, as NIfTI viewers read it.

    >>> smallest_integer(3), smallest_integer(300)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype(np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.int32)


def case_id_of(path: Path) -> str | None:
    """File name without the suffix of an image; None for what is no image (or a system's own file).

    >>> case_id_of(Path("a/brats_001.nii.gz")), case_id_of(Path("a/._x.nii.gz")), case_id_of(Path("b.txt"))
    ('brats_001', None, None)
    """
    if path.name.startswith("."):
        return None
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def images_by_id(paths: Iterable[Path], where: Path) -> dict[str, Path]:
    """Case id -> its image, of the files that are images.

    Args:
        paths: in any order; what is not named as an image is passed over.
        where: what they were found in, for the message.

    Raises:
        DatasetError: two images of one case.
    """
    found: dict[str, Path] = {}
    for path in sorted(paths):
        case_id = case_id_of(path)
        if case_id is None:
            continue
        if case_id in found:
            both = f"{found[case_id].name} and {path.name}"
            raise DatasetError(f"{where}: duplicate case {case_id}: {both}; keep one")
        found[case_id] = path
    return found


def check_file(path: Path) -> None:
    """Refuse what is no regular file, before opening it could hang.

    Raises:
        CaseError: absent, a dangling link, a folder, a pipe or a device, no permission.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        what = "is a link to nothing" if path.is_symlink() else f"cannot be read ({error.strerror})"
        raise CaseError(f"{path}: {what}; check the path") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise CaseError(f"{path}: is {kind}, not a regular file; remove it or give the image")


def _reader(path: Path) -> Any:
    """The module that reads what is not NIfTI.

    Raises:
        CaseError: as `check_file`, but that a folder may be one of DICOM where it is not named as an image.
    """
    if case_id_of(path) is None and path.is_dir():
        from mambamed.io import dicom

        return dicom
    check_file(path)
    from mambamed.io import dicom, itk

    return dicom if case_id_of(path) is None and dicom.is_dicom(path) else itk


def _check_volume(path: Path, volumes: int, volume: int | None) -> None:
    if volume is None and volumes > 1:
        raise CaseError(
            f"{path}: is 4D with {volumes} volumes, expected one; split it into one file a volume"
        )
    if volume is not None and volume >= volumes:
        raise CaseError(f"{path}: has {volumes} volumes, number {volume} is wanted; check the channels")


def _check_finite(array: NDArray, path: Path) -> None:
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return
        nan, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    if nan or infinite:
        count, what = (nan, "NaN") if nan else (infinite, "Inf")
        raise CaseError(f"{path}: {count} voxels are {what}; replace them in the image")
