"""Read multi-frame DICOM: the frames of enhanced CT, MR and PET, like the slices of a series.

Requires pydicom (extra `dicom`), imported at first use. `dicom` checks that the frames form a volume; several
echoes or diffusion directions at the same position are rejected.

Source: DICOM PS3.3 C.7.6.16 (Multi-frame Functional Groups), C.7.6.16.2.9 (Pixel Value Transformation).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import CaseError
from mambamed.io.dicom_files import BROKEN, read_dataset

CONVERT = "Convert it to NIfTI, e.g. with dcm2niix."
IMAGES = {
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted
    "1.2.840.10008.5.1.4.1.1.4.1",  # enhanced MR
    "1.2.840.10008.5.1.4.1.1.4.4",  # legacy converted
    "1.2.840.10008.5.1.4.1.1.130",  # enhanced PET
    "1.2.840.10008.5.1.4.1.1.128.1",  # legacy converted
}
# Keyword -> functional group, per frame or shared.
_PLACED = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
}
_OF_ALL = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")


def frame_tags(file: Path) -> list[dict[str, str]]:
    """The tags of every frame as text, `"0020|0032"` -> value, in file order.

    Raises CaseError: not enhanced CT, MR or PET, no functional groups, or pydicom is not installed.
    """
    document = _read(file, pixels=False)
    from pydicom.datadict import tag_for_keyword

    def key(keyword: str) -> str:
        tag = tag_for_keyword(keyword) or 0
        return f"{tag >> 16:04x}|{tag & 0xFFFF:04x}"

    common = {key(name): str(document[name].value) for name in _OF_ALL if name in document}
    frames = []
    for number in range(_count(document)):
        values = {name: _of_frame(document, number, group, name) for name, group in _PLACED.items()}
        placed = {key(name): _text(value) for name, value in values.items() if value is not None}
        frames.append(common | placed)
    return frames


def read_frames(file: Path) -> NDArray:
    """`(frames, rows, columns)` with RescaleSlope and RescaleIntercept of each frame applied, in file order.

    Integers if all slopes are 1 and all intercepts are integers, else float32. Raises CaseError: as
    `frame_tags`; truncated, or a compression that pydicom cannot decode.
    """
    document = _read(file, pixels=True)
    try:
        planes = document.pixel_array
        stored = planes.reshape(-1, *planes.shape[-2:])
    except BROKEN as error:
        raise CaseError(
            f"{file}: corrupt: its frames cannot be decoded ({type(error).__name__}). Copy it again."
        ) from error
    group, numbers = "PixelValueTransformationSequence", range(_count(document))
    slopes, intercepts = (
        np.array([1.0 * (_of_frame(document, n, group, name) or absent) for n in numbers])
        for name, absent in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    if (slopes == 1).all() and (intercepts == np.rint(intercepts)).all():
        if not intercepts.any():
            return stored
        values = stored.astype(np.int64) + intercepts.astype(np.int64)[:, None, None]
        small = np.iinfo(np.int16)
        fits = small.min <= values.min() and values.max() <= small.max
        return values.astype(np.int16 if fits else np.int32)
    return (stored * slopes[:, None, None] + intercepts[:, None, None]).astype(np.float32)


def _read(file: Path, pixels: bool) -> Any:
    document = read_dataset(file, pixels)
    if str(document.get("SOPClassUID")) not in IMAGES:
        kind = getattr(document.get("SOPClassUID"), "name", "of no kind")
        raise CaseError(f"{file}: {_count(document)} frames ({kind}), not CT, MR or PET. {CONVERT}")
    if len(document.get("PerFrameFunctionalGroupsSequence") or ()) != _count(document):
        raise CaseError(f"{file}: no position for each of its {_count(document)} frames. {CONVERT}")
    return document


def _text(value: Any) -> str:
    return str(value) if isinstance(value, (str, int, float)) else "\\".join(map(str, value))


def _count(document: Any) -> int:
    return int(document.get("NumberOfFrames") or 1)


def _of_frame(document: Any, number: int, group: str, name: str) -> Any:
    """A value of a frame, its own or the shared one; None if there is neither."""
    shared = document.get("SharedFunctionalGroupsSequence") or ()
    for functional in (document.PerFrameFunctionalGroupsSequence[number], *shared):
        items = functional.get(group)
        if items and name in items[0]:
            return items[0][name].value
    return None
