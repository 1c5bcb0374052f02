"""Images as arrays `(X, Y, Z)` in the file's own order, with the affine voxel -> world, mm, RAS+.

`nifti` reads NIfTI; SimpleITK reads NRRD, MetaImage and DICOM series. A DICOM file or its folder stands for
the series.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from mambamed.cases import TWO_OF_ONE_ID
from mambamed.errors import CaseError, DatasetError, MambamedError
from mambamed.geometry import Affine, spacing_of
from mambamed.io.atomic import write_bytes
from mambamed.io.folders import files_below
from mambamed.memory import is_out_of_memory

Given = ParamSpec("Given")
Result = TypeVar("Result")

MAX_VOXELS = 2**31
_LARGEST_SANE = 1e15  # squares of larger values overflow float32; scanners do not write them
_NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*_NIFTI, ".nrrd", ".mha")
_SLICER = ".seg.nrrd"


@dataclass(frozen=True)
class Image:
    """An image in memory."""

    array: NDArray  # `(X, Y, Z)`, in the file's type, or float32 if the file has a scaling
    affine: Affine  # `(4, 4)` voxel -> world, mm, RAS+
    header: Any = None  # the NIfTI header, for writing an image with the same geometry

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing, mm, in array order."""
        x, y, z = (float(edge) for edge in spacing_of(self.affine))
        return x, y, z


@dataclass(frozen=True)
class ImageHeader:
    """An image without its voxels."""

    shape: tuple[int, int, int]  # `(X, Y, Z)`
    volumes: int  # length of the fourth axis; 1 for a 3D file
    affine: Affine  # `(4, 4)` voxel -> world, mm, RAS+
    dtype: np.dtype  # type of the voxels as stored
    header: Any = None  # as in `Image`


def faults_named(
    read: Callable[Concatenate[Path, Given], Result],
) -> Callable[Concatenate[Path, Given], Result]:
    """A reader whose every fault, also one that a library does not expect, names the file."""

    @functools.wraps(read)
    def checked(path: Path, *given: Given.args, **named: Given.kwargs) -> Result:
        try:
            return read(path, *given, **named)
        except Exception as error:
            if isinstance(error, MambamedError) or is_out_of_memory(error):
                raise
            reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            raise CaseError(
                f"{path}: cannot be read ({reason}). Check the file, or copy it again."
            ) from error

    return checked


@faults_named
def read_image(
    path: Path, volume: int | None = None, max_voxels: int = MAX_VOXELS, *, files: Sequence[Path] = ()
) -> Image:
    """Read an image.

    Args:
        path: `.nii`, `.nii.gz`, `.nrrd`, `.mha`; a folder of one DICOM series, or one file of a series.
        volume: index along the fourth axis of a 4D file; None for a 3D file.
        max_voxels: reject larger files before allocating memory.
        files: of a DICOM series all files, if they are known.

    Raises CaseError: absent, not a regular file, damaged, not an image, invalid geometry, NaN or Inf.
    """
    if is_slicer_segmentation(path):
        raise CaseError(f"{path}: is a segmentation, not an image. Give it as the label of its image.")
    if not path.name.lower().endswith(_NIFTI):
        array, affine = _reader(path).read(path, max_voxels, *((files,) if files else ()))
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
        array = array.copy(order="F")  # frees the other volumes
    array = nifti.scaled(array, header)
    _check_finite(array, path)
    return Image(array, affine, header)


@faults_named
def read_header(path: Path, max_voxels: int = MAX_VOXELS, *, files: Sequence[Path] = ()) -> ImageHeader:
    """Read shape, affine and type without the voxels; errors are those of `read_image`."""
    if not path.name.lower().endswith(_NIFTI):
        shape, affine, dtype = _reader(path).read_header(path, max_voxels, *((files,) if files else ()))
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
        like: image whose affine (and qform, sform, codes and units, if it is NIfTI) are written.

    Raises ValueError: the array is not on the grid of `like`, or the suffix is not one of NIfTI; RunError:
    the file cannot be written.
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
    """A warning about implausible intensities, as a phrase; None if there is none.

    >>> doubt_about(np.full((2, 2, 2), 5.0))
    'is constant (5). Check the image.'
    """
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if low == high:
        return f"is constant ({low:g}). Check the image."
    if max(abs(low), abs(high)) > _LARGEST_SANE:
        return f"has an intensity range of {low:g} to {high:g}. Check for an outlier."
    return None


def smallest_integer(largest: int) -> np.dtype:
    """The smallest type that holds labels up to `largest` and that NIfTI viewers support.

    >>> smallest_integer(3), smallest_integer(300)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype(np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.int32)


def case_id_of(path: Path) -> str | None:
    """File name without the suffix of an image; None if it is not an image or is hidden.

    >>> case_id_of(Path("a/brats_001.nii.gz")), case_id_of(Path("a/._x.nii.gz")), case_id_of(Path("b.txt"))
    ('brats_001', None, None)
    >>> case_id_of(Path("a/brats_001.seg.nrrd"))
    'brats_001'
    """
    if path.name.startswith("."):
        return None
    for suffix in (_SLICER, *SUFFIXES):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def is_slicer_segmentation(path: Path) -> bool:
    """Whether a file is named as a segmentation of 3D Slicer, `CASE.seg.nrrd`."""
    return path.name.lower().endswith(_SLICER) and not path.name.startswith(".")


def images_by_id(paths: Iterable[Path], where: Path) -> dict[str, Path]:
    """Case id -> image; other files, segmentations included, are ignored; `where` is named in the errors.

    Raises DatasetError: two images of one case.
    """
    return labels_by_id((path for path in paths if not is_slicer_segmentation(path)), where)


def labels_by_id(paths: Iterable[Path], where: Path) -> dict[str, Path]:
    """Case id -> label map or segmentation `CASE.seg.nrrd`; otherwise as `images_by_id`."""
    found: dict[str, Path] = {}
    for path in sorted(paths):
        if (case_id := case_id_of(path)) is not None:
            put_once(found, case_id, path, case_id, where)
    return found


def put_once(found: dict[Any, Path], key: Any, path: Path, case_id: str, where: Path) -> None:
    """`found[key] = path`. Raises DatasetError: the case has another file under this key."""
    if key in found:
        both = f"{found[key].name} and {path.name}"
        raise DatasetError(f"{where}: duplicate case {case_id}: {both}. {TWO_OF_ONE_ID}")
    found[key] = path


def files_behind(path: Path, files: Sequence[Path] = ()) -> list[Path]:
    """The file itself; of a DICOM series all its files, or if they are not known, those of its folder.

    The time of a folder does not change when a slice in it does.
    """
    if files:
        return sorted(files)
    folder = path.is_dir()
    if not folder and (case_id_of(path) is not None or not path.is_file()):
        return [path] if path.is_file() else []
    return sorted(file for file in files_below(path if folder else path.parent) if file.is_file())


def check_file(path: Path) -> None:
    """Reject all but regular files, because opening a pipe or device could hang.

    Raises CaseError: absent, a broken link, a folder, a pipe or a device, no permission.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        what = "is a broken link" if os.path.islink(path) else f"cannot be read ({error.strerror})"  # noqa: PTH114
        raise CaseError(f"{path}: {what}. Check the path.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise CaseError(f"{path}: is {kind}, not a regular file. Give the path of an image.")


def _reader(path: Path) -> Any:
    """The module that reads an image other than NIfTI; a folder is a DICOM series."""
    if case_id_of(path) is None and os.path.isdir(path):  # noqa: PTH112 - False for a name that is too long
        from mambamed.io import dicom

        return dicom
    check_file(path)
    from mambamed.io import dicom, itk

    return dicom if case_id_of(path) is None and dicom.is_dicom(path) else itk


def _check_volume(path: Path, volumes: int, volume: int | None) -> None:
    if volume is None and volumes > 1:
        raise CaseError(
            f"{path}: is 4D with {volumes} volumes, expected 3D. Split it into one file per volume."
        )
    if volume is not None and volume >= volumes:
        raise CaseError(f"{path}: has {volumes} volumes, but volume {volume} is needed. Check the channels.")


def _check_finite(array: NDArray, path: Path) -> None:
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return
        nan, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    if nan or infinite:
        count, what = (nan, "NaN") if nan else (infinite, "Inf")
        raise CaseError(f"{path}: {count} voxels are {what}. Replace them in the image.")
