"""Read and write RT Structure Sets: named contours in the slices of a series.

Requires pydicom (extra `dicom`), imported at first use. A voxel is inside if its center is, by the even-odd
rule over all contours of a structure in a slice. A contour up to a tenth of a slice away from a slice counts
as in it. What is written runs along the edges of voxels, so that the same voxels are read again.

Source: DICOM PS3.3 C.8.8.5 (Structure Set), C.8.8.6 (ROI Contour).
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import CaseError
from mambamed.geometry import Affine, voxel_to_world, world_to_voxel
from mambamed.io.atomic import open_atomic
from mambamed.io.dicom_files import BROKEN, pydicom, read_dataset
from mambamed.io.dicom_labels import add_name, items, word
from mambamed.io.images import faults_named
from mambamed.io.polygons import filled, outlines
from mambamed.io.segments import Contents, Part, Shape
from mambamed.numerals import is_whole
from mambamed.schema_errors import named

log = logging.getLogger("mambamed")

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_SNAP = 0.1  # of the distance between slices
_WIDEST_GAP = 5  # slices; structures that are farther apart are separate
_LPS = np.array([-1.0, -1.0, 1.0])
_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, which the standard names here
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_FROM_IMAGE = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


@faults_named
def read_contents(path: Path) -> Contents:
    """See `segments.read_contents`."""
    return _contents(path, read_dataset(path))


def _contents(path: Path, document: Any) -> Contents:
    names: dict[str, int] = {}
    for structure in items(document, "StructureSetROISequence"):
        add_name(names, structure.get("ROIName"), structure.get("ROINumber"), path)
    kinds: dict[int, set[str]] = {}
    for contours in items(document, "ROIContourSequence"):
        number = _referenced(path, contours, names.values())
        kinds.setdefault(number, set()).update(
            word(each, "ContourGeometricType") for each in items(contours, "ContourSequence")
        )
    closed = {number for number, found in kinds.items() if found & {*_CLOSED}}
    for name, number in names.items():
        if number in closed and (other := kinds[number] - {*_CLOSED}):
            shown = ", ".join(sorted(other)) or "unknown"
            raise CaseError(
                f"{path}: {named(name)} has closed contours and others ({shown}). Remove the others."
            )
    values = {name: number for name, number in names.items() if number in closed}
    if not values:
        raise CaseError(f"{path}: has no structure with closed contours. Check the file.")
    frames, series = [], []
    for frame in items(document, "ReferencedFrameOfReferenceSequence"):
        frames.append(word(frame, "FrameOfReferenceUID"))
        for study in items(frame, "RTReferencedStudySequence"):
            found = items(study, "RTReferencedSeriesSequence")
            series += [word(each, "SeriesInstanceUID") for each in found]
    return Contents(
        values,
        ignored=tuple(name for name, number in names.items() if kinds.get(number) and number not in closed),
        may_overlap=len(values) > 1,
        series=tuple(filter(None, series)),
        frame=next(iter(frames), ""),
    )


def _referenced(path: Path, contours: Any, known: Any) -> int:
    number = str(contours.get("ReferencedROINumber", ""))
    if not is_whole(number) or int(number) not in known:
        raise CaseError(f"{path}: contours of a structure that is not described. Export it again.")
    return int(number)


def own_grid(path: Path) -> None:
    """See `segments.own_grid`: contours have none."""
    return


@faults_named
def read_parts(path: Path, shape: Shape, affine: Affine, resample: bool = False) -> list[Part]:
    """See `segments.read_parts`; contours are never resampled."""
    document = read_dataset(path)
    found = list(_contours(path, document, _contents(path, document), affine))
    if not found:
        return []
    spreads = np.array([np.ptp(points, axis=0) for _, points in found])
    axis = int(np.argmin(spreads.max(axis=0)))
    worst = int(np.argmax(spreads[:, axis]))
    if spreads[worst, axis] > _SNAP:
        raise CaseError(
            f"{path}: a contour of {named(found[worst][0])} is not in a slice of the image: it reaches over "
            f"{spreads[worst, axis]:.2g} slices. Export it for this image."
        )
    slices: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
    a, b = (k for k in range(3) if k != axis)
    for name, points in found:
        place = float(points[:, axis].mean())
        number = round(place)
        if abs(place - number) > _SNAP:
            raise CaseError(
                f"{path}: a contour of {named(name)} is between slices of the image, "
                f"{abs(place - number):.2g} of a slice from the nearest; up to {_SNAP:g} is accepted. Export "
                "it for this image."
            )
        low, high = points.min(axis=0), points.max(axis=0)
        outside = (high[[a, b]] < -0.5).any() or (low[[a, b]] > np.array(shape)[[a, b]] - 0.5).any()
        if outside or not 0 <= number < shape[axis]:
            raise CaseError(
                f"{path}: a contour of {named(name)} lies outside the image. Check that it belongs to it."
            )
        slices.setdefault((name, number), []).append(points[:, [a, b]])
    _warn_of_gaps(path, slices)
    parts = []
    for (name, number), polygons in slices.items():
        corners = np.concatenate(polygons)
        low = np.clip(np.floor(corners.min(axis=0)), 0, None).astype(int)
        high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (shape[a], shape[b]))
        mask = filled([polygon - low for polygon in polygons], (int(high[0] - low[0]), int(high[1] - low[1])))
        start = [0, 0, 0]
        start[a], start[b], start[axis] = int(low[0]), int(low[1]), number
        parts.append(Part(name, (start[0], start[1], start[2]), np.expand_dims(mask, axis)))
    return parts


def _warn_of_gaps(path: Path, slices: Iterable[tuple[str, int]]) -> None:
    """Warn of slices without a contour between two that have one and are near each other."""
    of_structures: dict[str, list[int]] = {}
    for name, number in sorted(slices):
        of_structures.setdefault(name, []).append(number)
    for name, numbers in of_structures.items():
        steps = np.diff(numbers)
        if left_out := int((steps[steps <= _WIDEST_GAP] - 1).sum()):
            log.warning(
                "%s: %s has no contour in %d slices between slices with contours; they count as background",
                *(path, named(name), left_out),
            )


def _contours(
    path: Path, document: Any, contents: Contents, affine: Affine
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Structure and `(n, 3)` voxel indices of the corners of each closed contour."""
    names = {number: name for name, number in contents.values.items()}
    for contours in items(document, "ROIContourSequence"):
        name = names.get(_referenced(path, contours, document_numbers(document)))
        for contour in items(contours, "ContourSequence") if name else ():
            try:
                points = np.array(contour.get("ContourData"), np.float64)
            except BROKEN:
                points = np.array([np.nan])
            if points.ndim != 1 or points.size % 3 or not np.isfinite(points).all():
                raise CaseError(
                    f"{path}: a contour of {named(name)} is no list of points with three finite coordinates. "
                    "Export it again."
                )
            points = world_to_voxel(affine, points.reshape(-1, 3) * _LPS)
            if np.abs(points).max(initial=0) > 1e7:
                raise CaseError(
                    f"{path}: a contour of {named(name)} lies outside the image. Export it again."
                )
            if len(points) > 2:  # a point and a line have no inside
                yield str(name), points


def document_numbers(document: Any) -> set[int]:
    """The numbers of the structures that are described."""
    return {int(each.ROINumber) for each in items(document, "StructureSetROISequence")}


def write_rtstruct(
    path: Path,
    labels: NDArray,
    series: Path,
    structures: Mapping[str, Sequence[int]],
    colors: Sequence[tuple[float, float, float]],
    algorithm: str,
    files: Sequence[Path] = (),
) -> None:
    """Write a label map as RT Structure Set, atomically.

    Args:
        path: a .dcm file.
        labels: `(X, Y, Z)` on the grid of the series as `io.dicom.read` gives it.
        series: folder of a DICOM series, or one of its files; source of patient, study, frame of reference
            and geometry. Every contour refers to its slice.
        structures: name -> the labels it unites; each becomes a structure even if it has no contour.
        colors: of the structures, red, green and blue from 0 to 1.
        algorithm: name of the algorithm (default: mambamed).
        files: of the series, if they are known.

    Raises CaseError: the series lacks attributes that a structure set requires; RunError: the file cannot be
    written.
    """
    from mambamed.io.dicom import grid_of

    grid = grid_of(series, files=files)
    first = read_dataset(grid.files[0])
    if missing := [keyword for keyword in _REQUIRED if not first.get(keyword)]:
        raise CaseError(
            f"{series}: has no {missing[0]}, which a structure set requires. Use another --format."
        )
    used = [grid.files[0]] * grid.shape[2] if len(grid.files) == 1 else grid.files
    try:
        images = {file: pydicom().dcmread(file, stop_before_pixels=True) for file in dict.fromkeys(used)}
        slices = []
        for number, file in enumerate(used):
            reference = _item(
                ReferencedSOPClassUID=images[file].SOPClassUID,
                ReferencedSOPInstanceUID=images[file].SOPInstanceUID,
            )
            if grid.frames is not None:
                reference.ReferencedFrameNumber = grid.frames[number] + 1
            slices.append(reference)
        document = _document(images[used[0]], slices, algorithm or "mambamed")
        _add_structures(document, labels, grid.affine, slices, structures, colors, algorithm or "mambamed")
    except BROKEN as error:
        reason = (
            str(error) if isinstance(error, AttributeError) else type(error).__name__
        )  # no values of tags
        fact = f"its headers do not allow a structure set ({reason})"
        raise CaseError(f"{series}: {fact}. Use another --format.") from error
    with open_atomic(path) as file:
        document.save_as(file, enforce_file_format=True)


def _item(**values: Any) -> Any:
    """A data set, e.g. an item of a sequence."""
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _document(image: Any, slices: Sequence[Any], algorithm: str) -> Any:
    """A structure set without structures."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    import mambamed

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(_CLASS), generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    document = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    now = datetime.datetime.now()
    values = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": _CLASS,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        **{keyword: image.get(keyword) for keyword in _FROM_IMAGE},
        "StudyInstanceUID": image.StudyInstanceUID,
        "Modality": "RTSTRUCT",
        "SeriesInstanceUID": generate_uid(),
        "SeriesNumber": int(image.get("SeriesNumber") or 0) + 1000,  # differs from that of the series
        "SeriesDescription": f"{algorithm} structures"[:64],
        "OperatorsName": None,
        "Manufacturer": "mambamed",
        "ManufacturerModelName": "mambamed",
        "SoftwareVersions": mambamed.__version__,
        "FrameOfReferenceUID": image.FrameOfReferenceUID,
        "PositionReferenceIndicator": None,
        "InstanceNumber": 1,
        "StructureSetLabel": "mambamed",
        "StructureSetName": algorithm[:64],
        "StructureSetDate": f"{now:%Y%m%d}",
        "StructureSetTime": f"{now:%H%M%S}",
        "ApprovalStatus": "UNAPPROVED",
    }
    for keyword, value in values.items():
        setattr(document, keyword, value)
    series = _item(SeriesInstanceUID=image.SeriesInstanceUID, ContourImageSequence=list(slices))
    study = _item(
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=image.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    document.ReferencedFrameOfReferenceSequence = [
        _item(FrameOfReferenceUID=image.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    ]
    return document


def _add_structures(
    document: Any,
    labels: NDArray,
    affine: Affine,
    slices: Sequence[Any],
    structures: Mapping[str, Sequence[int]],
    colors: Sequence[tuple[float, float, float]],
    algorithm: str,
) -> None:
    described, drawn, observed = [], [], []
    for number, (name, members) in enumerate(structures.items(), 1):
        structure = _item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=document.FrameOfReferenceUID,
            ROIName=name[:64],
            ROIGenerationAlgorithm="AUTOMATIC",
            ROIGenerationDescription=algorithm[:64],
        )
        contours = []
        for z in np.flatnonzero(np.isin(labels, members).any(axis=(0, 1))).tolist():
            for outline in outlines(np.isin(labels[:, :, z], members)):
                corners = np.column_stack([outline, np.full(len(outline), z)])
                points = voxel_to_world(affine, corners) * _LPS + 0.0
                contour = _item(
                    ContourImageSequence=[slices[z]],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourData=[f"{value:.5f}" for value in points.ravel()],
                )
                contours.append(contour)
        color = [round(255 * part) for part in colors[number - 1]]
        item = _item(ROIDisplayColor=color, ReferencedROINumber=number)
        if contours:
            item.ContourSequence = contours
        described.append(structure)
        drawn.append(item)
        observed.append(
            _item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType=None,
                ROIInterpreter=None,
            )
        )
    document.StructureSetROISequence = described
    document.ROIContourSequence = drawn
    document.RTROIObservationsSequence = observed
