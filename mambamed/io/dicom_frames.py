"""Multi-frame DICOM: the frames of enhanced CT, MR and PET, each as a slice of its own would be.

Needs pydicom, the extra `dicom`; it is imported here at the first use. Whether the frames make a volume is
judged where slices are, in `dicom`: echoes and directions of diffusion lie at one place and are refused.

Source: DICOM PS3.3 C.7.6.16 (Multi-frame Functional Groups), C.7.6.16.2.9 (Pixel Value Transformation).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambamed.errors import CaseError

_WAY_OUT = "convert it to NIfTI, with dcm2niix for example"
_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted
    "1.2.840.10008.5.1.4.1.1.4.1",  # enhanced MR
    "1.2.840.10008.5.1.4.1.1.4.4",  # legacy converted
    "1.2.840.10008.5.1.4.1.1.130",  # enhanced PET
    "1.2.840.10008.5.1.4.1.1.128.1",  # legacy converted
}
# Keyword -> the functional group that holds it, of each frame or of all.
_PLACED = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
}
_OF_ALL = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")
_BROKEN = (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError)


def frame_tags(file: Path) -> list[dict[str, str]]:
    """The tags of every frame as text, `"0020|0032"` -> value, in the order of the file.

    Raises:
        CaseError: no enhanced CT, MR or PET, no functional groups, or pydicom is not installed.
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
        placed = {key(name): "\\".join(map(str, v)) for name, v in values.items() if v is not None}
        frames.append(common | placed)
    return frames


def read_frames(file: Path) -> NDArray:
    """`(frames, rows, columns)` after each frame's RescaleSlope and RescaleIntercept, in the file's order.

    Integers where all slopes are 1 and all intercepts whole, else float32.

    Raises:
        CaseError: as `frame_tags`; truncated, or compressed in a way that pydicom cannot decode.
    """
    document = _read(file, pixels=True)
    try:
        stored = document.pixel_array
    except _BROKEN as error:
        reason = str(error).strip().splitlines()[0]
        raise CaseError(f"{file}: corrupt: its frames cannot be read ({reason}); copy it again") from error
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
    try:
        import pydicom
    except ImportError as error:
        raise CaseError(
            f"{file}: holds several frames; pip install 'mambamed[dicom]' reads those of CT, MR and PET, or "
            f"{_WAY_OUT}"
        ) from error
    try:
        document = pydicom.dcmread(file, stop_before_pixels=not pixels)
    except (OSError, *_BROKEN) as error:
        raise CaseError(f"{file}: is truncated, or no DICOM; copy it again, or remove it") from error
    if str(document.get("SOPClassUID")) not in _IMAGES:
        kind = getattr(document.get("SOPClassUID"), "name", "of no kind")
        raise CaseError(f"{file}: holds {_count(document)} frames ({kind}), no CT, MR or PET; {_WAY_OUT}")
    if len(document.get("PerFrameFunctionalGroupsSequence") or ()) != _count(document):
        raise CaseError(f"{file}: does not say where each of its {_count(document)} frames lies; {_WAY_OUT}")
    return document


def _count(document: Any) -> int:
    return int(document.get("NumberOfFrames") or 1)


def _of_frame(document: Any, number: int, group: str, name: str) -> Any:
    """A value of a frame: its own, or that of all frames; None where neither says."""
    shared = document.get("SharedFunctionalGroupsSequence") or ()
    for functional in (document.PerFrameFunctionalGroupsSequence[number], *shared):
        items = functional.get(group)
        if items and name in items[0]:
            return items[0][name].value
    return None
