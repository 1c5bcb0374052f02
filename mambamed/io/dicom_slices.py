"""Which slices of a DICOM series form a volume: sorted, without copies and without a localizer among them.

Slices of another orientation or size than all others are left out with a warning, if they are few; copies of
a slice too. Every other contradiction is an error: several acquisitions, slices of two patients, missing
slices.

Tolerances: 1e-3 for the components of directions, 0.1 % for PixelSpacing (numbers are compared, not their
text), 1 % of a step for the distances of slices, because scanners round to decimals.

Source: DICOM PS3.3 C.7.6.2 (Image Plane Module: position, orientation, spacing of the first voxels, LPS).
"""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import CaseError
from mambamed.io.dicom_files import (
    ACQUISITION,
    COLUMNS,
    IMAGE_TYPE,
    INSTANCE,
    ORIENTATION,
    PATIENT,
    POSITION,
    ROWS,
    SAMPLES,
    SERIES,
    SPACING,
    STUDY,
    simpleitk,
)
from mambamed.schema_errors import some_of

EVEN = 0.01  # tolerance, as a fraction of the step
PARALLEL = 1e-3
_TIMES = {"AcquisitionTime", "ContentTime"}
_MOST_LEFT_OUT, _SHARE_LEFT_OUT = 3, 0.1  # slices, or fraction of the others


@dataclass(frozen=True)
class Plane:
    """One slice: a file, or a frame of a file."""

    file: Path
    frame: int | None  # number of the frame, from 0; None if the file has one
    name: str  # for messages
    tags: Mapping[str, str]


def stack(planes: Sequence[Plane], where: str) -> tuple[list[Plane], list[str]]:
    """The slices of the volume, along the normal of the first, and notes about those that are left out.

    Raises CaseError: they do not form a volume.
    """
    _check_same(planes, where)
    notes = []
    planes, odd = _alike(planes, where)
    if odd:
        notes.append(f"{some_of(plane.name for plane in odd)}: left out, {_difference(odd[0], planes[0])}")
    planes, copies = _without_copies(planes)
    if copies:
        shown = some_of(f"{copy.name} of {kept.name}" for copy, kept in copies)
        notes.append(f"copies of slices are left out: {shown}")
    if len(uids := {plane.tags.get(SERIES, "") for plane in planes}) > 1:
        notes.append(f"{len(uids)} SeriesInstanceUIDs, one per slice, are read as one series")
    if len(planes) < 2:
        raise CaseError(f"{where}: one slice, 2D, not 3D. Give the folder of all slices.")
    along_x, along_y = np.array(numbers(planes[0], ORIENTATION, 6)).reshape(2, 3)
    normal = np.cross(along_x, along_y)
    if abs(along_x @ along_y) > PARALLEL or abs(np.linalg.norm(normal) - 1) > PARALLEL:
        raise CaseError(f"{where}: row and column directions are not orthonormal. Convert it.")
    heights = np.array([numbers(plane, POSITION, 3) for plane in planes]) @ normal
    order = np.argsort(heights, kind="stable")
    ordered = [planes[i] for i in order]
    try:
        _check_steps(heights[order], ordered, where)
    except CaseError as error:
        raise error if len(uids) == 1 else CaseError(f"{error} ({notes[-1]})") from None
    return ordered, [f"{where}: {note}" for note in notes]


def numbers(plane: Plane, tag: str, count: int) -> list[float]:
    """The numbers of a tag. Raises CaseError: too few, or no numbers."""
    values = _parsed(plane, tag)
    if len(values) != count:
        shown = tag.replace("|", ",")
        raise CaseError(
            f"{plane.file}: DICOM tag ({shown}): expected {count} numbers, got {len(values)}. Correct it."
        )
    return list(values)


def _parsed(plane: Plane, tag: str) -> tuple[float, ...]:
    """The numbers of a tag; none if it is absent or contains something else."""
    try:
        values = tuple(float(part) for part in plane.tags.get(tag, "").split("\\"))
    except ValueError:
        return ()
    return values if np.all(np.isfinite(values)) else ()


def _check_same(planes: Sequence[Plane], where: str) -> None:
    """Reject slices of several persons or studies under one uid; the values are not shown."""
    for tag, name in ((PATIENT, "PatientID"), (STUDY, "StudyInstanceUID")):
        other = next((p for p in planes if p.tags.get(tag, "") != planes[0].tags.get(tag, "")), None)
        if other is not None:
            raise CaseError(
                f"{where}: {name} differs between {planes[0].name} and {other.name}, which have the same "
                "SeriesInstanceUID. Write a list of cases with one folder per case."
            )


def _alike(planes: Sequence[Plane], where: str) -> tuple[list[Plane], list[Plane]]:
    """The slices of the most frequent orientation and size, and the few others."""
    groups: list[list[Plane]] = []
    for plane in planes:
        group = next((group for group in groups if not _differing(plane, group[0])), None)
        if group is None:
            groups.append([plane])
        else:
            group.append(plane)
    groups.sort(key=len, reverse=True)
    main, odd = groups[0], [plane for group in groups[1:] for plane in group]
    if int(main[0].tags.get(SAMPLES) or 1) != 1:
        raise CaseError(f"{main[0].file}: contains RGB colors, not intensities. Give the original series.")
    if odd and (len(odd) > max(_MOST_LEFT_OUT, _SHARE_LEFT_OUT * len(main)) or 2 * len(odd) > len(main)):
        kinds = [(len(group), group[0].name, _description(group[0])) for group in groups]
        parts = "; ".join(f"{count} like {name} ({what})" for count, name, what in kinds[:4])
        raise CaseError(
            f"{where}: images of {len(groups)} orientations or sizes: {parts}. Copy each kind to a folder of "
            "its own, and write a list of cases with these folders."
        )
    return main, odd


def _differing(plane: Plane, other: Plane) -> str:
    """In what two slices differ that cannot be of one volume; empty if in nothing."""
    for tag, what in ((ROWS, "rows"), (COLUMNS, "columns"), (SAMPLES, "colors")):
        if _parsed(plane, tag) != _parsed(other, tag):
            return what
    if _is_localizer(plane) != _is_localizer(other):
        return "image type"
    for tag, what, relative in ((ORIENTATION, "orientation", 0.0), (SPACING, "pixel spacing", PARALLEL)):
        ours, theirs = _parsed(plane, tag), _parsed(other, tag)
        absolute = 0.0 if relative else PARALLEL
        if len(ours) != len(theirs) or not np.allclose(ours, theirs, rtol=relative, atol=absolute):
            return what
    return "position" if bool(_parsed(plane, POSITION)) != bool(_parsed(other, POSITION)) else ""


def _is_localizer(plane: Plane) -> bool:
    return "LOCALIZER" in plane.tags.get(IMAGE_TYPE, "").upper().split("\\")


def _difference(odd: Plane, usual: Plane) -> str:
    what = _differing(odd, usual)
    where = f"({_description(odd)}, others {_description(usual)})"
    return f"because its {what} differs from the other slices {where}, e.g. a localizer"


def _description(plane: Plane) -> str:
    size = " x ".join(plane.tags.get(tag, "?") for tag in (COLUMNS, ROWS))
    spacing, direction = _parsed(plane, SPACING), _parsed(plane, ORIENTATION)
    text = f"{size} voxels" + (f" of {' x '.join(f'{v:g}' for v in spacing)} mm" if spacing else "")
    if len(direction) != 6:
        return f"{text}, no orientation"
    normal = np.abs(np.cross(direction[:3], direction[3:]))
    return f"{text}, {('sagittal', 'coronal', 'axial')[int(np.argmax(normal))]}"


def _without_copies(planes: Sequence[Plane]) -> tuple[list[Plane], list[tuple[Plane, Plane]]]:
    """The slices, and each copy with the slice of which it is one: the same uid, place, and voxels."""
    kept: dict[tuple[object, ...], Plane] = {}
    copies = []
    for plane in planes:
        uid = plane.tags.get(INSTANCE) or plane.file
        key = (uid, plane.frame, _parsed(plane, POSITION))
        if key not in kept:
            kept[key] = plane
            continue
        if not plane.frame and not _same_voxels(plane.file, kept[key].file):
            raise CaseError(
                f"{plane.file}: has the SOPInstanceUID of {kept[key].file}, but other voxels. Move the wrong "
                "one out of the folder."
            )
        copies.append((plane, kept[key]))
    return list(kept.values()), copies


def _same_voxels(one: Path, other: Path) -> bool:
    if filecmp.cmp(one, other, shallow=False):
        return True
    sitk = simpleitk()
    try:
        first, second = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (one, other))
    except RuntimeError:  # reading the series reports the damage
        return False
    return bool(np.array_equal(first, second))


def _check_steps(heights: NDArray, planes: Sequence[Plane], where: str) -> None:
    """Reject slices that are not evenly spaced; `heights` are sorted, mm along the normal."""
    steps = np.diff(heights)
    usual = float(np.median(steps))
    double = usual <= 0 or bool((steps <= EVEN * usual).any())
    off = np.abs(steps - usual)
    if not double and (off <= EVEN * usual).all():
        return
    remedy = (
        "Copy each acquisition to a folder of its own, and write a list of cases with these folders."
        if planes[0].frame is None
        else "Convert it to NIfTI, e.g. with dcm2niix."
    )
    worst = int(np.argmin(steps)) if double else int(np.argmax(off))
    first, second = planes[worst], planes[worst + 1]
    if double:
        fact = f"duplicate slices {first.name} and {second.name} (same position)"
    else:
        fact = (
            f"uneven spacing, {steps[worst]:.3g} mm between {first.name} and {second.name}, "
            f"{usual:.3g} mm elsewhere"
        )
    if apart := _acquisitions(heights, planes):
        raise CaseError(f"{where}: {fact}: {apart}. {remedy}")
    if double:
        pair = [n for tag, n in ACQUISITION.items() if first.tags.get(tag, "") != second.tags.get(tag, "")]
        which = f"They differ in {', '.join(pair)}" if pair else "No tag distinguishes their acquisitions"
        raise CaseError(f"{where}: {fact}. {which}. {remedy}")
    raise CaseError(f"{where}: {fact}. Add the missing slices, or resample it.")


def _acquisitions(heights: NDArray, planes: Sequence[Plane]) -> str:
    """The tags by which the slices are several volumes, each evenly spaced; empty if there is none."""
    names: list[str] = []
    sizes: list[int] = []
    for tag, name in ACQUISITION.items():
        groups: dict[str, list[float]] = {}
        for plane, height in zip(planes, heights, strict=True):
            groups.setdefault(plane.tags.get(tag, ""), []).append(float(height))
        if len(groups) > 1 and all(_is_even(group) for group in groups.values()):
            sizes = sizes or [len(group) for group in groups.values()]
            if len(groups) == len(sizes):
                names.append(name + _shown(name, [*groups]))
    if not sizes:
        return ""
    total = " and ".join(map(str, sizes)) if len(sizes) < 4 else f"{min(sizes)} to {max(sizes)}"
    return f"{len(sizes)} acquisitions of {total} slices, which differ in {' and '.join(names[:4])}"


def _is_even(heights: Sequence[float]) -> bool:
    steps = np.diff(heights)
    return len(steps) > 0 and bool(steps[0] > 0 and np.allclose(steps, np.median(steps), rtol=EVEN, atol=0))


def _shown(name: str, values: Sequence[str]) -> str:
    """The values of a tag if they are short numbers; others, and times of the day, are not shown."""
    if name in _TIMES or not all(value.replace(".", "", 1).isdigit() and len(value) < 8 for value in values):
        return ""
    return f" ({some_of(f'{value:g}' for value in sorted(map(float, values)))})"
