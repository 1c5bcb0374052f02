"""A label map as DICOM Segmentation: one object that refers to the slices that it was made of.

Needs pydicom and highdicom, the extra `dicom`; they are imported here alone, at the first use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.cases import BACKGROUND, IGNORE, Case
from mambamed.errors import CaseError, RecipeError
from mambamed.io.atomic import open_atomic
from mambamed.io.dicom import grid_of
from mambamed.io.images import case_id_of

_WAY_OUT = "pip install 'mambamed[dicom]'"


def check_dicom_seg(cases: Sequence[Case]) -> None:
    """Refuse what can be told before any work.

    Raises:
        RecipeError: pydicom or highdicom is absent, or a case is no DICOM series.
    """
    try:
        import highdicom  # noqa: F401 - only asked whether it is there
    except ImportError as error:
        raise RecipeError(f"--format dicom-seg: needs {error.name}; {_WAY_OUT}") from error
    for case in cases:
        if not case.fault and case_id_of(case.channels[0].path) is not None:
            raise RecipeError(
                f"{case.channels[0].path}: is no DICOM series, to which a DICOM segmentation could refer; "
                "leave --format out"
            )


def write_segmentation(
    path: Path, labels: NDArray, series: Path, names: Mapping[str, int], algorithm: str
) -> None:
    """Write a label map as a binary DICOM Segmentation, atomically.

    Args:
        path: a .dcm file.
        labels: `(X, Y, Z)` on the grid of the series as `io.dicom.read` gives it.
        series: a folder of one DICOM series, or one of its files. Patient, study, frame of reference and
            geometry are taken from it, and every frame refers to its slice.
        names: label name -> value; each becomes a segment of this name, found or not, so that the numbers of
            the segments are those of all cases.
        algorithm: what the labels are by.

    Raises:
        CaseError: the series lacks what a segmentation must take from it.
        RunError: the file cannot be written.
    """
    import highdicom as hd
    import pydicom
    from pydicom.sr.codedict import codes

    import mambamed

    values = {value: name for name, value in names.items() if name not in (BACKGROUND, IGNORE)}
    there = sorted(values)
    by = hd.AlgorithmIdentificationSequence(
        name=algorithm or "mambamed",
        version=mambamed.__version__,
        family=codes.DCM.ArtificialIntelligence,
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=values[value][:64],
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure
            if "tumor" in values[value].lower() or "lesion" in values[value].lower()
            else codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.AnatomicalStructure,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=by,
        )
        for number, value in enumerate(there, 1)
    ]
    numbers = np.zeros(max(there) + 1, np.uint8 if len(there) < 256 else np.uint16)
    numbers[there] = np.arange(1, len(there) + 1)
    planes = numbers[labels.transpose(2, 1, 0)]  # slices of rows of columns
    grid = grid_of(series)
    if grid.frames is not None:
        planes = planes[np.argsort(grid.frames)]
    try:
        slices = [_with_what_must_be_there(pydicom.dcmread(file)) for file in grid.files]
        document = hd.seg.Segmentation(
            source_images=slices,
            pixel_array=planes,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=_series_number(slices[0]),
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="mambamed",
            manufacturer_model_name="mambamed",
            software_versions=mambamed.__version__,
            device_serial_number="0",
            series_description=f"{algorithm or 'mambamed'} segmentation"[:64],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CaseError(f"{series}: its headers do not allow a DICOM segmentation ({error})") from error
    with open_atomic(path) as file:
        document.save_as(file)


_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)


def _with_what_must_be_there(document: Any) -> Any:
    """Attributes that the standard asks for, empty if need be, and that anonymizers take out altogether."""
    for name in _MAY_BE_EMPTY:
        if name not in document:
            setattr(document, name, None)
    return document


def _series_number(first: Any) -> int:
    """A number that the series itself does not have."""
    return int(first.get("SeriesNumber") or 0) + 1000
