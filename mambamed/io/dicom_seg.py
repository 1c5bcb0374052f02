"""Write a label map as one DICOM Segmentation object that refers to the slices of its series.

Requires pydicom and highdicom (extra `dicom`), imported at first use.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambamed.cases import BACKGROUND, IGNORE, Case
from mambamed.errors import CaseError, RecipeError
from mambamed.io.atomic import open_atomic
from mambamed.io.dicom import grid_of
from mambamed.io.dicom_files import pydicom
from mambamed.io.images import case_id_of

# Attributes that the standard requires and that anonymizers may remove: they are added, as empty.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


def check_dicom_output(cases: Sequence[Case], format: str) -> None:
    """Check before prediction that masks can be written as `format`, dicom-seg or rtstruct.

    Raises RecipeError: pydicom or highdicom is not installed, or a case is not a DICOM series.
    """
    try:
        importlib.import_module("highdicom" if format == "dicom-seg" else "pydicom")
    except ImportError as error:
        fact = f"--format {format}: requires {error.name}. Run pip install 'mambamed[dicom]'."
        raise RecipeError(fact) from error
    for case in cases:
        if not case.fault and case_id_of(case.channels[0].path) is not None:
            raise RecipeError(
                f"{case.channels[0].path}: is not a DICOM series, which --format {format} requires. "
                "Remove the option."
            )


def write_segmentation(
    path: Path,
    labels: NDArray,
    series: Path,
    names: Mapping[str, int],
    algorithm: str,
    files: Sequence[Path] = (),
) -> None:
    """Write a label map as a binary DICOM Segmentation, atomically.

    Args:
        path: a .dcm file.
        labels: `(X, Y, Z)` on the grid of the series as `io.dicom.read` gives it.
        series: folder of a DICOM series, or one of its files; source of patient, study, frame of reference
            and geometry. Every frame refers to its slice.
        names: label name -> value; each becomes a segment even if it is absent, so that segment numbers are
            the same for all cases.
        algorithm: name of the algorithm (default: mambamed).

    Raises CaseError: the series lacks attributes that a segmentation requires; RunError: the file cannot be
    written.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    import mambamed

    values = {value: name for name, value in names.items() if name not in (BACKGROUND, IGNORE)}
    there = sorted(values)
    by = hd.AlgorithmIdentificationSequence(
        name=algorithm or "mambamed", version=mambamed.__version__, family=codes.DCM.ArtificialIntelligence
    )
    anatomy, segments = codes.SCT.AnatomicalStructure, []
    for number, value in enumerate(there, 1):
        name, automatic = values[value], hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
        abnormal = "tumor" in name.lower() or "lesion" in name.lower()
        kind = codes.SCT.MorphologicallyAbnormalStructure if abnormal else anatomy
        segments.append(hd.seg.SegmentDescription(number, name[:64], kind, anatomy, automatic, by))
    numbers = np.zeros(max(there) + 1, np.uint8 if len(there) < 256 else np.uint16)
    numbers[there] = np.arange(1, len(there) + 1)
    planes = numbers[labels.transpose(2, 1, 0)]  # (slices, rows, columns)
    grid = grid_of(series, files=files)
    if grid.frames is not None:
        planes = planes[np.argsort(grid.frames)]
    try:
        slices = [pydicom().dcmread(file) for file in grid.files]
        for document, name in itertools.product(slices, _MAY_BE_EMPTY):
            if name not in document:
                setattr(document, name, None)
        document = hd.seg.Segmentation(
            source_images=slices,
            pixel_array=planes,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=int(slices[0].get("SeriesNumber") or 0) + 1000,  # differs from that of the series
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="mambamed",
            manufacturer_model_name="mambamed",
            software_versions=mambamed.__version__,
            device_serial_number="0",
            series_description=f"{algorithm or 'mambamed'} segmentation"[:64],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = (
            str(error) if isinstance(error, AttributeError) else type(error).__name__
        )  # no values of tags
        fact = f"its headers do not allow a DICOM segmentation ({reason})"
        raise CaseError(f"{series}: {fact}. Use another --format.") from error
    with open_atomic(path) as file:
        document.save_as(file)
