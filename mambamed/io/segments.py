"""Segmentations with named segments: 3D Slicer's `.seg.nrrd`, DICOM Segmentation, RT Structure Set.

Their grid may be another part of the image's lattice, and segments may overlap. Here they become masks on the
grid of the image, and, with the labels of a dataset, a label map.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.cases import SegmentNames
from mambamed.errors import CaseError
from mambamed.geometry import Affine, spacing_of, voxel_to_world
from mambamed.io.images import case_id_of, is_slicer_segmentation, smallest_integer
from mambamed.schema_errors import named, some_of

Shape = tuple[int, int, int]

_MODULES = {"SEG": "dicom_labels", "RTSTRUCT": "rtstruct"}  # of this package, by the kind of a DICOM object
_MOST_SETS = 60_000  # of segments that share voxels
_TOLERANCE_MM, _TOLERANCE = 0.1, 0.01  # of corners: headers store float32; the second in voxels


@dataclass(frozen=True)
class Contents:
    """What a segmentation holds, from its header.

    Attributes:
        values: segment name -> its number in the file, in the order of the file.
        ignored: names of what has no volume, e.g. points of a structure set.
        may_overlap: whether segments may share voxels.
        series: SeriesInstanceUIDs of the images it refers to.
        frame: its FrameOfReferenceUID; empty if none is named.
    """

    values: dict[str, int]
    ignored: tuple[str, ...] = ()
    may_overlap: bool = True
    series: tuple[str, ...] = ()
    frame: str = ""


@dataclass(frozen=True)
class Part:
    """Voxels of a segment: `mask` `(X, Y, Z)` at the index `start` of the image grid."""

    name: str
    start: Shape
    mask: NDArray[np.bool_]


def is_segmentation(path: Path) -> bool:
    """Whether a file is a segmentation with named segments."""
    return is_slicer_segmentation(path) or (case_id_of(path) is None and _dicom_kind(path) in _MODULES)


def read_contents(path: Path) -> Contents:
    """The segments of a file. Raises CaseError: damaged, without segments, or two of one name."""
    return _module(path).read_contents(path)


def read_parts(path: Path, shape: Shape, affine: Affine, resample: bool = False) -> list[Part]:
    """The segments on the grid of an image; several parts may have one name.

    Args:
        shape, affine: of the image.
        resample: take the nearest voxel if the segmentation is on another lattice.

    Raises CaseError: damaged, on another lattice, or outside the image.
    """
    return _module(path).read_parts(path, shape, affine, resample)


def check_reference(path: Path, image: Path, files: Sequence[Path] = ()) -> None:
    """Check that a DICOM segmentation is one of the image, if that is a DICOM series.

    Args:
        image, files: as in `ChannelFile`.

    Raises CaseError: it refers to another series, or to no series and another frame of reference.
    """
    if is_slicer_segmentation(path) or case_id_of(image) is not None:
        return
    from mambamed.io.dicom import series_of
    from mambamed.io.dicom_files import FRAME_OF_REFERENCE, SERIES, tags_of

    contents, series = read_contents(path), series_of(image, files)
    key, wanted = (SERIES, contents.series) if contents.series else (FRAME_OF_REFERENCE, (contents.frame,))
    found = ""
    for file in series.files:  # some exporters give every slice a series of its own
        if not any(wanted) or (found := tags_of(file).get(key, "")) in wanted:
            return
    what = "series" if contents.series else "frame of reference"
    raise CaseError(
        f"{path}: refers to the {what} {some_of(wanted)}, but its image {image} is of {found or 'none'}. "
        "Pair it with its own image."
    )


def own_grid(path: Path) -> tuple[Shape, Affine] | None:
    """Shape and affine of the segmentation itself; None if it has contours and no grid."""
    return _module(path).own_grid(path)


def _module(path: Path) -> Any:
    name = "seg_nrrd" if is_slicer_segmentation(path) else _MODULES.get(_dicom_kind(path))
    if name is None:
        raise CaseError(f"{path}: is not a segmentation (.seg.nrrd, SEG or RTSTRUCT). Check the file.")
    return importlib.import_module(f"mambamed.io.{name}")


def _dicom_kind(path: Path) -> str:
    from mambamed.io.dicom_files import kind_without_image

    return kind_without_image(path) or "" if path.is_file() else ""


def sets_of(parts: Iterable[Part], shape: Shape) -> tuple[NDArray[np.uint16], list[frozenset[str]]]:
    """Which segments hold each voxel: `(X, Y, Z)` indices into a list of sets of names; 0 is no segment.

    Raises ValueError: more sets than a label map could show.
    """
    codes = np.zeros(shape, np.uint16, order="F")
    sets: list[frozenset[str]] = [frozenset()]
    known: dict[frozenset[str], int] = {sets[0]: 0}
    for part in parts:
        box = tuple(slice(a, a + n) for a, n in zip(part.start, part.mask.shape, strict=True))
        inside = codes[box]
        found = np.unique(inside[part.mask])
        table = np.arange(len(sets), dtype=np.uint16)
        for code in found.tolist():
            united = sets[code] | {part.name}
            if united not in known:
                if len(sets) > _MOST_SETS:
                    raise ValueError(f"more than {_MOST_SETS} combinations of segments share voxels")
                known[united] = len(sets)
                sets.append(united)
            table[code] = known[united]
        inside[part.mask] = table[inside[part.mask]]
    return codes, sets


def label_map(
    path: Path, shape: Shape, affine: Affine, names: SegmentNames, resample: bool = False
) -> NDArray[Any]:
    """A segmentation as label map on the grid of an image.

    Raises CaseError: as `read_parts`; a segment is no label or region of `names`, two segments are the same
    one, or voxels are in several segments that no label has in common.
    """
    contents = read_contents(path)
    known = [*names.labels, *names.regions]
    if unknown := [name for name in contents.values if names.spelled.get(name, name) not in known]:
        expected = some_of([named(name) for name in dict.fromkeys(known) if names.labels.get(name) != 0])
        raise CaseError(
            f"{path}: segment {some_of([named(name) for name in unknown])} is not a label of the dataset "
            f"({expected}). Rename it in the file, or add it to the labels."
        )
    first: dict[str, str] = {}
    for name in contents.values:
        if (other := first.setdefault(names.spelled.get(name, name), name)) != name:
            raise CaseError(
                f"{path}: segments {named(other)} and {named(name)} differ only in spelling. Rename one of "
                "them."
            )
    try:
        codes, sets = sets_of(read_parts(path, shape, affine, resample), shape)
    except ValueError as error:
        raise CaseError(f"{path}: {error}. Write several files with fewer segments.") from error
    values = [0] * len(sets)
    for code, united in enumerate(sets[1:], 1):
        fitting = names.values_of(united, frozenset(contents.values))
        if len(fitting) != 1:
            raise CaseError(f"{path}: {_overlap(united, fitting, names, int((codes == code).sum()))}")
        values[code] = fitting[0]
    return np.array(values, smallest_integer(max(values)))[codes]


def _overlap(united: frozenset[str], fitting: Sequence[int], names: SegmentNames, voxels: int) -> str:
    listed = " and ".join(named(name) for name in sorted(united))
    if fitting:
        labels = [named(name) for name, value in names.labels.items() if value in fitting]
        return (
            f"{voxels} voxels are only in {listed}, which may be {' or '.join(labels)}. Add segments that "
            "distinguish them."
        )
    if len(united) > 1:
        return (
            f"layers overlap: {voxels} voxels are in {listed}, and no label of the dataset is. Separate "
            "them, or define regions."
        )
    around = [
        named(region)
        for region, values in names.regions.items()
        if region not in united and {names.labels.get(name) for name in united} & set(values)
    ]
    return (
        f"{voxels} voxels are in {listed} but not in {' and '.join(around)}, which contains it. Correct it."
    )


def placement(
    affine: Affine, shape: Sequence[int], image_affine: Affine
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """How the voxels of a grid lie on the lattice of an image; None if they do not.

    Corners may differ by a hundredth of a voxel plus 0.1 mm.

    Args:
        affine, shape: of the grid.

    Returns: `turn` `(3, 3)` of -1, 0, 1 and `start` `(3,)`: voxel i of the grid is voxel `turn @ i + start`.
    """
    step = np.linalg.inv(image_affine) @ affine
    turn, start = np.rint(step[:3, :3]), np.rint(step[:3, 3])
    if not np.isfinite(step).all() or np.abs(start).max() > 1e6 or (np.abs(turn).sum(axis=0) != 1).any():
        return None
    if (np.abs(turn).sum(axis=1) != 1).any():
        return None
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1).T
    gap = voxel_to_world(affine, corners) - voxel_to_world(image_affine, corners @ turn.T + start)
    if np.abs(gap).max() > _TOLERANCE_MM + _TOLERANCE * spacing_of(image_affine).min():
        return None
    return turn.astype(np.int64), start.astype(np.int64)


def placed(
    path: Path, name: str, mask: NDArray[np.bool_], where: tuple[NDArray, NDArray], shape: Shape
) -> Part | None:
    """A mask of another grid on that of the image, cut to its box; None if it is empty.

    Args:
        where: from `placement`.
        shape: of the image.

    Raises CaseError: voxels lie outside the image.
    """
    box = [np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis))) for axis in range(3)]
    if not box[0].size:
        return None
    first, last = np.array([(line[0], line[-1]) for line in box]).T
    mask = mask[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))]
    turn, start = where
    ends = np.stack([turn @ first + start, turn @ last + start])
    low, high = ends.min(axis=0), ends.max(axis=0)
    if (low < 0).any() or (high >= shape).any():
        raise CaseError(
            f"{path}: segment {named(name)} reaches out of the image: its voxels go from "
            f"{tuple(low.tolist())} to {tuple(high.tolist())} in an image of shape {tuple(shape)}. Check "
            "that it belongs to this image."
        )
    axes = [int(np.flatnonzero(row)[0]) for row in turn]
    flips = tuple(slice(None, None, -1) if row.sum() < 0 else slice(None) for row in turn)
    a, b, c = (int(n) for n in low)
    return Part(name, (a, b, c), mask.transpose(axes)[flips])


def other_lattice(path: Path, affine: Affine, image_affine: Affine) -> CaseError:
    """The fault of a segmentation that is not on the lattice of its image."""
    step = np.linalg.inv(image_affine) @ affine
    own, image = ("x".join(f"{edge:.4g}" for edge in spacing_of(each)) for each in (affine, image_affine))
    offset = step[:3, 3] - np.rint(step[:3, 3])
    fact = (
        f"spacing {own} mm against {image} mm"
        if own != image
        else f"origin off by {'x'.join(f'{o:.2g}' for o in offset)} voxels"
        if np.abs(offset).max() > _TOLERANCE
        else "another orientation"
    )
    return CaseError(
        f"{path}: is not on the voxels of its image: {fact}. Export it on the grid of the image, or use "
        "--fix-geometry resample (in evaluate: --resample)."
    )


def resampled(mask: NDArray[np.bool_], affine: Affine, shape: Shape, image_affine: Affine) -> NDArray:
    """A mask on the grid of an image, by the nearest voxel."""
    from scipy import ndimage

    step = np.linalg.inv(affine) @ image_affine
    offset: Any = step[:3, 3]  # scipy's annotation allows only a single number
    return ndimage.affine_transform(
        mask.astype(np.uint8), step[:3, :3], offset, output_shape=shape, order=0
    ).astype(bool)
