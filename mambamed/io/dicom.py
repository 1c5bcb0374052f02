"""Read DICOM series as volumes: find, sort and check the slices; GDCM of SimpleITK decodes them.

A series is all files with the same SeriesInstanceUID, or the frames of one file (`dicom_frames`). Series that
do not form a straight grid are rejected: missing, duplicate or unevenly spaced slices, different sizes or
directions, a tilted gantry, colors.
RescaleSlope and RescaleIntercept are applied, so CT is in Hounsfield units.

Source: DICOM PS3.3 C.7.6.2 (Image Plane Module: position, orientation, spacing of the first voxels, LPS).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import CaseError
from mambamed.geometry import Affine, fault_of_affine
from mambamed.io import dicom_frames
from mambamed.io.sizes import check_memory

_SERIES, _DESCRIPTION, _MODALITY = "0020|000e", "0008|103e", "0008|0060"
_POSITION, _ORIENTATION, _SPACING = "0020|0032", "0020|0037", "0028|0030"
_ROWS, _COLUMNS, _BITS, _SAMPLES = "0028|0010", "0028|0011", "0028|0100", "0028|0002"
_FRAMES = "0028|0008"
_SUFFIXES = (".dcm", ".ima", ".dicom")
_MAGIC_AT, _MAGIC = 128, b"DICM"
# Uncompressed transfer syntaxes, whose file size shows whether a file is complete.
_PLAIN = (b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2")
_SYNTAX_TAG = b"\x02\x00\x10\x00UI"
_EVEN = 0.01  # tolerance, as a fraction of the step: scanners round to decimals
_PARALLEL = 1e-3


@dataclass(frozen=True)
class Series:
    """Files of one series, not yet sorted or checked."""

    uid: str  # SeriesInstanceUID
    folder: Path
    files: tuple[Path, ...]  # sorted by name
    modality: str  # e.g. "CT", "MR"
    description: str  # SeriesDescription


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its name or its first bytes."""
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.name.lower().endswith(_SUFFIXES):
        return True
    if "." in path.name and not path.suffix[1:].isdigit():
        return False  # DICOM files have a suffix of DICOM, no suffix, or part of a UID
    try:
        with path.open("rb") as file:
            return file.read(_MAGIC_AT + 4)[_MAGIC_AT:] == _MAGIC
    except OSError:  # it may be a slice: reading it reports the error
        return True


def find_series(source: Path) -> list[Series]:
    """All series in a folder and its subfolders, by folder and uid.

    An unreadable file is a series of its own, without a uid; reading that series raises the error.
    """
    found = []
    for name, subfolders, names in os.walk(source):
        subfolders.sort()
        folder = Path(name)
        paths = [path for path in (folder / name for name in sorted(names)) if is_dicom(path)]
        readable = [path for path in paths if _can_be_read(path)]
        found += [Series("", folder, (path,), "", "") for path in paths if path not in readable]
        found += _series_in(folder, readable)
    return found


def _can_be_read(path: Path) -> bool:
    try:
        _tags(path)
    except CaseError:
        return False
    return True


def _series_in(folder: Path, paths: Sequence[Path]) -> list[Series]:
    """The series among the files of a folder."""
    grouped: dict[str, list[Path]] = {}
    facts: dict[str, Mapping[str, str]] = {}
    for path in paths:
        if is_dicom(path):
            tags = _tags(path)
            uid = tags.get(_SERIES, "")
            if _ROWS in tags:  # a DICOMDIR, report or plan contains no image
                grouped.setdefault(uid, []).append(path)
                facts.setdefault(uid, tags)
    return [
        Series(uid, folder, tuple(files), facts[uid].get(_MODALITY, ""), facts[uid].get(_DESCRIPTION, ""))
        for uid, files in sorted(grouped.items())
    ]


def series_of(path: Path) -> Series:
    """The series that a file belongs to, or the only series in a folder.

    Raises CaseError: not DICOM, or a folder with several series.
    """
    if path.is_dir():
        found = _series_in(path, sorted(path.iterdir()))
        if not found:
            raise CaseError(f"{path}: is a folder without DICOM images. Check the path.")
        if len(found) > 1:
            shown = ", ".join([*(s.description or s.uid for s in found[:5]), *(["..."] if found[5:] else [])])
            raise CaseError(
                f"{path}: contains {len(found)} DICOM series ({shown}). Give a file of one of them."
            )
        return found[0]
    uid = _tags(path).get(_SERIES, "")
    found = [series for series in _series_in(path.parent, sorted(path.parent.iterdir())) if series.uid == uid]
    if not found:
        raise CaseError(f"{path}: is a DICOM file without an image. Give a slice of a series.")
    return found[0]


def read_header(path: Path, max_voxels: int) -> tuple[tuple[int, int, int], Affine, np.dtype]:
    """Shape, affine and usual type of the series of a file or folder, without reading voxels.

    Raises CaseError: its slices do not form a volume.
    """
    grid = grid_of(path, max_voxels)
    return grid.shape, grid.affine, np.dtype(np.int16)


def read(path: Path, max_voxels: int) -> tuple[NDArray, Affine]:
    """Voxels `(X, Y, Z)` of the series of a file or folder, and their affine, voxel -> world, mm, RAS+.

    Raises CaseError: its slices do not form a volume, or one is damaged.
    """
    grid = grid_of(path, max_voxels)
    check_memory(path, grid.shape, np.dtype(np.int16))
    if grid.frames is not None:
        planes = dicom_frames.read_frames(grid.files[0])
        return np.asfortranarray(planes[list(grid.frames)].transpose(2, 1, 0)), grid.affine
    import SimpleITK as sitk  # noqa: N813  imported late: it takes 90 MB, which NIfTI does not need

    slices = []
    for file in grid.files:
        try:
            image = sitk.ReadImage(str(file))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise CaseError(f"{file}: corrupt: cannot be read ({reason}). Copy it again.") from error
        # (1, rows, columns) -> (X, Y): the voxels of a row are along x.
        slices.append(sitk.GetArrayViewFromImage(image).reshape(grid.shape[1], grid.shape[0]).T.copy())
    dtype = np.result_type(*slices)  # RescaleSlope may differ from slice to slice
    array = np.empty(grid.shape, dtype, order="F")
    for z, plane in enumerate(slices):
        array[:, :, z] = plane
    return array, grid.affine


@dataclass(frozen=True)
class Grid:
    """A series whose slices form a volume."""

    # one per slice, in the order of the third axis; or a single file with several frames
    files: tuple[Path, ...]
    shape: tuple[int, int, int]  # `(X, Y, Z)`
    affine: Affine  # `(4, 4)` voxel -> world, mm, RAS+
    # numbers of the frames in that order, from 0; None if every slice is a file
    frames: tuple[int, ...] | None = None


def grid_of(path: Path, max_voxels: int = 2**31) -> Grid:
    """The grid of the series of a file or folder, with the slices sorted by position.

    Raises CaseError: its slices do not form a volume.
    """
    series = series_of(path)
    where = f"{series.folder}: series {series.description or series.uid}"
    files, tags = series.files, [_tags(file) for file in series.files]
    names, has_frames = [file.name for file in files], len(files) == 1 and _frames(tags[0]) > 1
    if has_frames:
        tags = dicom_frames.frame_tags(files[0])
        names = [f"frame {number}" for number in range(1, len(tags) + 1)]
        files = files * len(tags)
    for file, facts in zip(files, tags, strict=True):
        _check_slice(file, facts, tags[0], files[0])
    columns, rows = int(tags[0][_COLUMNS]), int(tags[0][_ROWS])
    if len(tags) < 2:
        raise CaseError(f"{where}: one slice, 2D, not 3D. Give the folder of all slices.")
    if rows * columns * len(tags) > max_voxels:
        raise CaseError(
            f"{where}: {rows * columns * len(tags)} voxels, more than the limit of {max_voxels}. "
            "Resample or crop the image."
        )
    along_x, along_y = np.array(_numbers(tags[0], _ORIENTATION, 6, where)).reshape(2, 3)
    normal = np.cross(along_x, along_y)
    if abs(along_x @ along_y) > _PARALLEL or abs(np.linalg.norm(normal) - 1) > _PARALLEL:
        raise CaseError(f"{where}: row and column directions are not orthonormal. Convert it.")
    positions = np.array([_numbers(facts, _POSITION, 3, where) for facts in tags])
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    steps = np.diff(positions @ normal)
    _check_steps(steps, [names[i] for i in order], where)
    step = (positions[-1] - positions[0]) / (len(tags) - 1)
    if np.linalg.norm(step - normal * (step @ normal)) > _EVEN * np.linalg.norm(step):
        raise CaseError(
            f"{where}: its axes are not orthonormal (gantry tilt). Resample it to a straight grid."
        )
    between_rows, between_columns = _numbers(tags[0], _SPACING, 2, where)
    if not (between_rows > 0 and between_columns > 0):
        raise CaseError(f"{where}: spacing {between_rows, between_columns} cannot be; correct the header")
    affine = np.eye(4)
    # PixelSpacing is (between rows, between columns): the second goes along a row, x.
    affine[:3, :3] = np.column_stack([along_x * between_columns, along_y * between_rows, step])
    affine[:3, 3] = positions[0]
    affine[:2] *= -1  # LPS -> RAS
    if fault := fault_of_affine(affine):
        raise CaseError(f"{where}: {fault}. Correct the headers.")
    shape = (columns, rows, len(tags))
    if has_frames:
        return Grid(series.files, shape, affine + 0.0, tuple(int(i) for i in order))
    return Grid(tuple(files[i] for i in order), shape, affine + 0.0)


def _frames(facts: Mapping[str, str]) -> int:
    return int(facts.get(_FRAMES) or 1)


def _check_slice(file: Path, facts: Mapping[str, str], first: Mapping[str, str], first_file: Path) -> None:
    if _frames(facts) > 1:
        raise CaseError(
            f"{file}: contains {facts[_FRAMES]} frames, but its series has other files too. Move it to a "
            "folder of its own, or convert the series to NIfTI, e.g. with dcm2niix."
        )
    if int(facts.get(_SAMPLES) or 1) != 1:
        raise CaseError(f"{file}: contains RGB colors, not intensities. Remove the series.")
    for tag, what in ((_ROWS, "rows"), (_COLUMNS, "columns"), (_SPACING, "spacing")):
        if facts.get(tag) != first.get(tag):
            raise CaseError(
                f"{file}: {what} {facts.get(tag, 'none')} but {first.get(tag, 'none')} in {first_file.name}. "
                "Split the series."
            )
    wanted = _numbers(first, _ORIENTATION, 6, str(first_file))
    if not np.allclose(_numbers(facts, _ORIENTATION, 6, str(file)), wanted, atol=1e-3):
        raise CaseError(
            f"{file}: orientation differs from {first_file.name}, e.g. a localizer. Split the series."
        )
    needed = int(facts[_ROWS]) * int(facts[_COLUMNS]) * (int(facts.get(_BITS) or 8) // 8)
    if _is_plain(file) and file.stat().st_size < needed:
        raise CaseError(f"{file}: truncated: {file.stat().st_size} of over {needed} bytes. Copy it again.")


def _check_steps(steps: NDArray, names: Sequence[str], where: str) -> None:
    usual = float(np.median(steps))
    if usual <= 0 or (steps <= _EVEN * usual).any():
        worst = int(np.argmin(steps))
        raise CaseError(
            f"{where}: duplicate slices {names[worst]} and {names[worst + 1]} (same position). "
            "Split the series."
        )
    off = np.abs(steps - usual)
    if (off > _EVEN * usual).any():
        worst = int(np.argmax(off))
        fact = (
            f"{steps[worst]:.3g} mm between {names[worst]} and {names[worst + 1]}, {usual:.3g} mm elsewhere"
        )
        raise CaseError(f"{where}: uneven spacing, {fact}. Add the missing slices, or resample it.")


def _numbers(facts: Mapping[str, str], tag: str, count: int, where: str) -> list[float]:
    text = facts.get(tag, "")
    try:
        values = [float(part) for part in text.split("\\")]
    except ValueError:
        values = []
    if len(values) != count or not np.all(np.isfinite(values)):
        raise CaseError(
            f"{where}: DICOM tag ({tag.replace('|', ',')}): expected {count} numbers, got {text!r}. Fix it."
        )
    return values


def _is_plain(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(2048)
    at = head.find(_SYNTAX_TAG)
    if at < 0:
        return False
    start = at + len(_SYNTAX_TAG) + 2
    length = int.from_bytes(head[start - 2 : start], "little")
    return head[start : start + length].rstrip(b"\0 ") in _PLAIN


def _tags(path: Path) -> dict[str, str]:
    """The tags of a file as text, without padding."""
    import SimpleITK as sitk  # noqa: N813

    reader: Any = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        path.open("rb").close()
        reader.ReadImageInformation()
    except OSError as error:
        raise CaseError(f"{path}: cannot be read ({error.strerror}). Check the file.") from error
    except RuntimeError as error:
        raise CaseError(f"{path}: is truncated or not DICOM. Copy it again, or remove it.") from error
    keys = (_SERIES, _DESCRIPTION, _MODALITY, _POSITION, _ORIENTATION, _SPACING)
    keys += (_ROWS, _COLUMNS, _BITS, _SAMPLES, _FRAMES)
    return {key: reader.GetMetaData(key).strip("\0 ") for key in keys if reader.HasMetaDataKey(key)}
