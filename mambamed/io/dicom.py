"""Read DICOM series as volumes; GDCM of SimpleITK decodes the slices.

`dicom_series` finds the files of a series, `dicom_slices` sorts and checks the slices, `dicom_frames` reads
files with several frames. Series that do not form a straight grid are rejected: missing or unevenly spaced
slices, several acquisitions, a tilted gantry, colors.
RescaleSlope and RescaleIntercept are applied, so CT is in Hounsfield units.

Source: DICOM PS3.3 C.7.6.2 (Image Plane Module: position, orientation, spacing of the first voxels, LPS).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import CaseError
from mambamed.geometry import Affine, fault_of_affine
from mambamed.io import dicom_frames
from mambamed.io.dicom_files import (
    BITS,
    CLASS,
    COLUMNS,
    FRAMES,
    ORIENTATION,
    POSITION,
    ROWS,
    SPACING,
    is_dicom,
    is_truncated,
    simpleitk,
    tags_of,
)
from mambamed.io.dicom_series import Series, find_series, series_of
from mambamed.io.dicom_slices import EVEN, Plane, numbers, stack
from mambamed.io.sizes import check_memory

__all__ = ["Grid", "Series", "find_series", "grid_of", "is_dicom", "read", "read_header", "series_of"]

log = logging.getLogger("mambamed")


def read_header(
    path: Path, max_voxels: int, files: Sequence[Path] = ()
) -> tuple[tuple[int, int, int], Affine, np.dtype]:
    """Shape, affine and usual type of the series of a file or folder, without reading voxels.

    Raises CaseError: its slices do not form a volume.
    """
    grid = grid_of(path, max_voxels, files)
    return grid.shape, grid.affine, np.dtype(np.int16)


def read(path: Path, max_voxels: int, files: Sequence[Path] = ()) -> tuple[NDArray, Affine]:
    """Voxels `(X, Y, Z)` of the series of a file or folder, and their affine, voxel -> world, mm, RAS+.

    Slices that are left out are warned about. `files` are those of the series, if they are known.
    Raises CaseError: its slices do not form a volume, or one is damaged.
    """
    grid = grid_of(path, max_voxels, files)
    check_memory(path, grid.shape, np.dtype(np.int16))
    for note in grid.notes:
        log.warning("%s", note)
    slices = (
        iter(_frames_of(grid)) if grid.frames is not None else (_slice(f, grid.shape) for f in grid.files)
    )
    first = next(slices)
    check_memory(path, grid.shape, first.dtype)
    array = np.empty(grid.shape, first.dtype, order="F")
    array[:, :, 0] = first
    for z, plane in enumerate(slices, 1):
        if (dtype := np.result_type(array, plane)) != array.dtype:  # RescaleSlope may differ between slices
            check_memory(path, grid.shape, dtype)
            array = array.astype(dtype, order="F")
        array[:, :, z] = plane
    return array, grid.affine


def _slice(file: Path, shape: tuple[int, int, int]) -> NDArray:
    """`(X, Y)` of a file with one slice."""
    sitk = simpleitk()
    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise CaseError(f"{file}: corrupt: its voxels cannot be decoded. Copy it again.") from error
    # (1, rows, columns) -> (X, Y): the voxels of a row are along x.
    return sitk.GetArrayViewFromImage(image).reshape(shape[1], shape[0]).T.copy()


def _frames_of(grid: Grid) -> list[NDArray]:
    """`(X, Y)` of each frame of the grid; each file is read once."""
    assert grid.frames is not None
    read = {file: dicom_frames.read_frames(file) for file in dict.fromkeys(grid.files)}
    files = grid.files if len(grid.files) == len(grid.frames) else grid.files * len(grid.frames)
    return [read[file][frame].T for file, frame in zip(files, grid.frames, strict=True)]


@dataclass(frozen=True)
class Grid:
    """A series whose slices form a volume."""

    # one per slice, in the order of the third axis; or a single file with several frames
    files: tuple[Path, ...]
    shape: tuple[int, int, int]  # `(X, Y, Z)`
    affine: Affine  # `(4, 4)` voxel -> world, mm, RAS+
    # numbers of the frames in their files, from 0, in that order; None if every slice is a file
    frames: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()  # lines about files of the series that are left out


def grid_of(path: Path, max_voxels: int = 2**31, files: Sequence[Path] = ()) -> Grid:
    """The grid of the series of a file or folder, with the slices sorted by position.

    Args:
        path, files: see `dicom_series.series_of`.
        max_voxels: reject larger volumes.

    Raises CaseError: its slices do not form a volume.
    """
    series = series_of(path, files)
    where = f"{series.folder}: series {series.name}"
    planes, notes = stack([plane for file in series.files for plane in _planes(file, series)], where)
    columns, rows = int(planes[0].tags[COLUMNS]), int(planes[0].tags[ROWS])
    for plane in planes:
        needed = rows * columns * (int(plane.tags.get(BITS) or 8) // 8)
        if is_truncated(plane.file, needed):
            size = plane.file.stat().st_size
            raise CaseError(f"{plane.file}: truncated: {size} of over {needed} bytes. Copy it again.")
    if rows * columns * len(planes) > max_voxels:
        raise CaseError(
            f"{where}: {rows * columns * len(planes)} voxels, more than the limit of {max_voxels}. "
            "Resample or crop the image."
        )
    along_x, along_y = np.array(numbers(planes[0], ORIENTATION, 6)).reshape(2, 3)
    normal = np.cross(along_x, along_y)
    first, last = (np.array(numbers(plane, POSITION, 3)) for plane in (planes[0], planes[-1]))
    step = (last - first) / (len(planes) - 1)
    if np.linalg.norm(step - normal * (step @ normal)) > EVEN * np.linalg.norm(step):
        raise CaseError(
            f"{where}: its axes are not orthonormal (gantry tilt). Resample it to a straight grid."
        )
    between_rows, between_columns = numbers(planes[0], SPACING, 2)
    if not (between_rows > 0 and between_columns > 0):
        raise CaseError(f"{where}: spacing {between_rows, between_columns} cannot be; correct the header")
    affine = np.eye(4)
    # PixelSpacing is (between rows, between columns): the second goes along a row, x.
    affine[:3, :3] = np.column_stack([along_x * between_columns, along_y * between_rows, step])
    affine[:3, 3] = first
    affine[:2] *= -1  # LPS -> RAS
    if fault := fault_of_affine(affine):
        raise CaseError(f"{where}: {fault}. Correct the headers.")
    frames = tuple(plane.frame for plane in planes if plane.frame is not None)
    used = tuple(plane.file for plane in planes)
    if frames and len(frames) < len(planes):
        raise CaseError(f"{where}: some of its files have frames and some are slices. {dicom_frames.CONVERT}")
    used = used[:1] if frames and len(set(used)) == 1 else used
    return Grid(used, (columns, rows, len(planes)), affine + 0.0, frames or None, (*series.notes, *notes))


def _planes(file: Path, series: Series) -> list[Plane]:
    """The slices of a file: one, or its frames."""
    tags, name = tags_of(file), os.path.relpath(file, series.folder)
    count = int(tags.get(FRAMES) or 1)
    if count == 1 and (POSITION in tags or tags.get(CLASS) not in dicom_frames.IMAGES):
        return [Plane(file, None, name, tags)]
    frames = dicom_frames.frame_tags(file)
    prefix = f"{name}, " if len(series.files) > 1 else ""
    return [Plane(file, n, f"{prefix}frame {n + 1}", tags | facts) for n, facts in enumerate(frames)]
