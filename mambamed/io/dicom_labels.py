"""Read DICOM Segmentation objects: named segments, one frame per segment and slice.

Requires pydicom (extra `dicom`), imported at first use. A slice without a frame is background.

Source: DICOM PS3.3 C.8.20.2 (Segmentation Image Module), C.7.6.16 (Multi-frame Functional Groups).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import CaseError
from mambamed.geometry import Affine, spacing_of
from mambamed.io.dicom_files import BROKEN, read_dataset
from mambamed.io.images import MAX_VOXELS, faults_named
from mambamed.io.segments import Contents, Part, Shape, other_lattice, placed, placement, resampled
from mambamed.io.sizes import check_memory
from mambamed.numerals import is_whole
from mambamed.schema_errors import named

_LPS = np.array([-1.0, -1.0, 1.0])
_WORD = re.compile(r"[A-Za-z0-9_. ]*")
_EVEN = 0.01  # tolerance of distances, as a fraction of the step


def items(document: Any, keyword: str) -> list[Any]:
    """The items of a sequence; none if it is absent or no sequence."""
    found = document.get(keyword)
    return [*found] if found is not None and hasattr(found, "__iter__") and not isinstance(found, str) else []


def word(item: Any, keyword: str) -> str:
    """A UID or code of an item; empty if it is absent or cannot be one, so that it can stand in a message."""
    text = str(item.get(keyword) or "")
    return text if len(text) <= 64 and _WORD.fullmatch(text) else ""


def add_name(values: dict[str, int], name: Any, number: Any, path: Path) -> None:
    """`values[name] = number`. Raises CaseError: no name, or one that is there already."""
    text = str(name or "").strip()
    if not text or not text.isprintable() or not is_whole(str(number)):
        raise CaseError(f"{path}: a segment without name or number. Name it.")
    if text in values:
        raise CaseError(f"{path}: two segments are named {named(text)}. Rename one of them.")
    if int(number) in values.values():
        raise CaseError(f"{path}: two segments have the number {number}. Save it again.")
    values[text] = int(number)


@faults_named
def read_contents(path: Path) -> Contents:
    """See `segments.read_contents`."""
    return _contents(path, read_dataset(path))


def _contents(path: Path, document: Any) -> Contents:
    kind = word(document, "SegmentationType")
    if kind not in {"BINARY", "LABELMAP"}:
        raise CaseError(
            f"{path}: is a segmentation of the type {kind or 'unknown'}, e.g. of probabilities. Choose a "
            "threshold, and save it as BINARY."
        )
    values: dict[str, int] = {}
    for segment in items(document, "SegmentSequence"):
        number = segment.get("SegmentNumber")
        if kind == "LABELMAP" and number == 0:
            continue  # the background
        add_name(values, segment.get("SegmentLabel"), number, path)
    if not values:
        raise CaseError(f"{path}: names no segments. Save it again.")
    series = (word(each, "SeriesInstanceUID") for each in items(document, "ReferencedSeriesSequence"))
    return Contents(
        values,
        may_overlap=kind == "BINARY" and len(values) > 1 and word(document, "SegmentsOverlap") != "NO",
        series=tuple(filter(None, series)),
        frame=word(document, "FrameOfReferenceUID"),
    )


@dataclass(frozen=True)
class _Frames:
    """The frames of a file, not yet decoded.

    Attributes:
        shape: columns and rows.
        axes: `(3, 2)` step along a row and along a column, mm, RAS+.
        normal: unit vector, RAS+.
        places: `(n, 3)` center of the first voxel of each frame, RAS+.
        segments: number of the segment of each frame; 0: its voxels say it.
        step_mm: between slices as the header says, or 0.
    """

    shape: tuple[int, int]
    axes: NDArray[np.float64]
    normal: NDArray[np.float64]
    places: NDArray[np.float64]
    segments: tuple[int, ...]
    step_mm: float


def _frames(path: Path, document: Any) -> _Frames:
    per_frame = items(document, "PerFrameFunctionalGroupsSequence")
    shared = items(document, "SharedFunctionalGroupsSequence")
    count, rows, columns = (int(document.get(k) or 0) for k in ("NumberOfFrames", "Rows", "Columns"))
    if not count == len(per_frame) or min(rows, columns, count) < 1:
        raise CaseError(f"{path}: {count} frames, but positions of {len(per_frame)}. Copy it again.")
    if rows * columns * count > 64 * MAX_VOXELS:
        raise CaseError(f"{path}: {count} frames of {columns} x {rows} voxels are too many. Split it.")

    def of_frame(number: int, group: str, keyword: str) -> Any:
        for functional in (per_frame[number], *shared):
            if (found := items(functional, group)) and keyword in found[0]:
                return found[0].get(keyword)
        return None

    directions, spacings, places, segments = [], [], [], []
    is_map = word(document, "SegmentationType") == "LABELMAP"
    for number in range(count):
        directions.append(
            _numbers(of_frame(number, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
        )
        spacings.append(_numbers(of_frame(number, "PixelMeasuresSequence", "PixelSpacing"), 2))
        places.append(_numbers(of_frame(number, "PlanePositionSequence", "ImagePositionPatient"), 3))
        segment = of_frame(number, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
        segments.append(0 if is_map else int(segment or -1))
    facts = np.array([(*d, *s, *p) for d, s, p in zip(directions, spacings, places, strict=True)])
    if not np.isfinite(facts).all():
        raise CaseError(f"{path}: a frame has no position, orientation or spacing. Save it again.")
    if not np.allclose(facts[:, :8], facts[0, :8], atol=1e-4) or not (facts[0, 6:8] > 0).all():
        raise CaseError(f"{path}: its frames differ in orientation or spacing. Split it.")
    along = facts[0, :6].reshape(2, 3) * _LPS
    normal = np.cross(*along)
    if abs(np.linalg.norm(normal) - 1) > 1e-3 or abs(along[0] @ along[1]) > 1e-3:
        raise CaseError(f"{path}: row and column directions are not orthonormal. Save it again.")
    step = of_frame(0, "PixelMeasuresSequence", "SpacingBetweenSlices")
    step = step or of_frame(0, "PixelMeasuresSequence", "SliceThickness")
    # PixelSpacing is (between rows, between columns): the second goes along a row.
    axes = (along * facts[0, [7, 6]][:, None]).T
    return _Frames((columns, rows), axes, normal, facts[:, 8:] * _LPS, tuple(segments), float(step or 0))


def _numbers(value: Any, count: int) -> list[float]:
    """Numbers of a tag; NaN if they are absent or of another count."""
    try:
        numbers = [float(each) for each in value]
    except (TypeError, ValueError):
        numbers = []
    return numbers if len(numbers) == count else [float("nan")] * count


@faults_named
def read_parts(path: Path, shape: Shape, affine: Affine, resample: bool = False) -> list[Part]:
    """See `segments.read_parts`."""
    document = read_dataset(path, pixels=True)
    contents, frames = _contents(path, document), _frames(path, document)
    names = {number: name for name, number in contents.values.items()}
    if unknown := sorted({n for n in frames.segments if n not in names and n != 0}):
        raise CaseError(f"{path}: a frame refers to segment {unknown[0]}, which is not described.")
    grids = [_plane_affine(frames, number, affine) for number in range(len(frames.segments))]
    turns = [placement(grid, (*frames.shape, 1), affine) for grid in grids]
    if any(turn is None for turn in turns):
        if not resample:
            raise other_lattice(path, grids[turns.index(None)], affine)
        return _resampled(path, document, frames, names, shape, affine)
    parts = []
    for number, name, mask in _masks(path, document, frames, names):
        where = turns[number]
        assert where is not None
        if part := placed(path, name, mask[:, :, None], where, shape):
            parts.append(part)
    return parts


def _plane_affine(frames: _Frames, number: int, image_affine: Affine) -> Affine:
    """A frame as a volume of one slice, as thick as the slices of the image."""
    steps = image_affine[:3, :3]
    axis = int(np.argmax(np.abs(frames.normal @ (steps / spacing_of(image_affine)))))
    return _affine(frames, frames.normal * spacing_of(image_affine)[axis], frames.places[number])


def _affine(frames: _Frames, step: NDArray[np.float64], first: NDArray[np.float64]) -> Affine:
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([frames.axes, step])
    affine[:3, 3] = first
    return affine


def _masks(
    path: Path, document: Any, frames: _Frames, names: dict[int, str]
) -> Iterator[tuple[int, str, NDArray[np.bool_]]]:
    """Frame, segment name and `(X, Y)` mask of each frame that is not empty."""
    for number, plane in enumerate(_planes(path, document, frames)):
        if frames.segments[number]:
            if plane.any():
                yield number, names[frames.segments[number]], plane.T > 0
            continue
        for value in np.unique(plane).tolist():
            if value and value not in names:
                raise CaseError(f"{path}: a voxel refers to segment {value}, which is not described.")
            if value:
                yield number, names[value], np.equal(plane.T, value)


def _planes(path: Path, document: Any, frames: _Frames) -> Iterator[NDArray]:
    """`(rows, columns)` of each frame; bits are unpacked frame by frame."""
    columns, rows = frames.shape
    size, count = columns * rows, len(frames.segments)
    compressed = document.file_meta.TransferSyntaxUID.is_compressed
    if int(document.get("BitsAllocated") or 0) == 1 and not compressed:
        data = np.frombuffer(document.get("PixelData") or b"", np.uint8)
        if data.size * 8 < size * count:
            raise CaseError(f"{path}: truncated: {data.size} bytes for {count} frames. Copy it again.")
        for number in range(count):
            start = number * size
            bits = np.unpackbits(data[start // 8 : (start + size + 7) // 8], bitorder="little")
            yield bits[start % 8 : start % 8 + size].reshape(rows, columns)
        return
    check_memory(path, (count, rows, columns), np.dtype(np.uint16))
    try:
        planes = document.pixel_array.reshape(count, rows, columns)
    except BROKEN as error:
        raise CaseError(f"{path}: corrupt: its frames cannot be decoded. Copy it again.") from error
    yield from planes


def own_grid(path: Path) -> tuple[Shape, Affine]:
    """See `segments.own_grid`."""
    return _grid(path, _frames(path, read_dataset(path)))[:2]


def _grid(path: Path, frames: _Frames) -> tuple[Shape, Affine, list[int]]:
    """The smallest even grid that holds all frames, and the slice of each frame."""
    heights = frames.places @ frames.normal
    order = np.sort(heights)
    gaps = np.diff(order)
    gaps = gaps[gaps > 1e-3]
    step = float(gaps.min()) if gaps.size else frames.step_mm or 1.0
    slices = (heights - order[0]) / step
    first = frames.places[int(np.argmin(heights))]
    beside = frames.places - first - np.outer(heights - order[0], frames.normal)
    if np.abs(slices - np.rint(slices)).max() > _EVEN or np.abs(beside).max() > 0.1:
        raise CaseError(f"{path}: its frames are not on an even grid. Save it on the grid of its image.")
    numbers = np.rint(slices).astype(int)
    shape = (*frames.shape, int(numbers.max()) + 1)
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise CaseError(f"{path}: its frames are too far apart. Save it on the grid of its image.")
    return shape, _affine(frames, frames.normal * step, first), numbers.tolist()


def _resampled(
    path: Path, document: Any, frames: _Frames, names: dict[int, str], shape: Shape, affine: Affine
) -> list[Part]:
    own_shape, own_affine, slices = _grid(path, frames)
    volumes: dict[str, NDArray[np.bool_]] = {}
    for number, name, mask in _masks(path, document, frames, names):
        if name not in volumes:
            check_memory(path, (len(volumes) + 1, *own_shape), np.dtype(bool))
            volumes[name] = np.zeros(own_shape, bool)
        volumes[name][:, :, slices[number]] |= mask
    here = np.eye(3, dtype=np.int64), np.zeros(3, np.int64)
    found = (
        placed(path, name, resampled(volume, own_affine, shape, affine), here, shape)
        for name, volume in volumes.items()
    )
    return [part for part in found if part]
