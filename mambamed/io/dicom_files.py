"""Single DICOM files: which files are DICOM, their tags, and what those without an image are.

GDCM of SimpleITK reads the tags. What it cannot read is recognized by the first bytes of the file.

Source: DICOM PS3.10 7.1 (File Meta Information), PS3.5 7.1 (data elements).
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from mambamed.errors import CaseError

SERIES, STUDY, PATIENT = "0020|000e", "0020|000d", "0010|0020"
DESCRIPTION, MODALITY, FRAME_OF_REFERENCE = "0008|103e", "0008|0060", "0020|0052"
CLASS, INSTANCE, IMAGE_TYPE = "0008|0016", "0008|0018", "0008|0008"
POSITION, ORIENTATION, SPACING = "0020|0032", "0020|0037", "0028|0030"
ROWS, COLUMNS, BITS, SAMPLES, FRAMES = "0028|0010", "0028|0011", "0028|0100", "0028|0002", "0028|0008"
# Tags by which the acquisitions of one series differ, the most telling first.
ACQUISITION = {
    "0020|0012": "AcquisitionNumber",
    "0020|9156": "FrameAcquisitionNumber",
    "0018|0081": "EchoTime",
    "0018|9082": "EffectiveEchoTime",
    "0018|0086": "EchoNumbers",
    "0020|0100": "TemporalPositionIdentifier",
    "0020|9128": "TemporalPositionIndex",
    "0018|9087": "DiffusionBValue",
    "0018|0082": "InversionTime",
    "0018|1060": "TriggerTime",
    "0018|1314": "FlipAngle",
    "0018|1210": "ConvolutionKernel",
    "0008|0008": "ImageType",
    "0020|0011": "SeriesNumber",
    "0008|0032": "AcquisitionTime",
    "0008|0033": "ContentTime",
}
_TAGS = (
    SERIES, STUDY, PATIENT, DESCRIPTION, MODALITY, FRAME_OF_REFERENCE, CLASS, INSTANCE, IMAGE_TYPE,
    POSITION, ORIENTATION, SPACING, ROWS, COLUMNS, BITS, SAMPLES, FRAMES, *ACQUISITION,
)  # fmt: skip
# Beginnings of the SOP classes of objects that are no images to predict -> short name.
_NO_IMAGES = {
    "1.2.840.10008.1.3.10": "DICOMDIR",
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",
    "1.2.840.10008.5.1.4.1.1.66": "registration or raw data",
    "1.2.840.10008.5.1.4.1.1.481.1": "RTIMAGE",
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
    "1.2.840.10008.5.1.4.1.1.481": "RT object",
    "1.2.840.10008.5.1.4.1.1.88": "report",
    "1.2.840.10008.5.1.4.1.1.11": "presentation state",
    "1.2.840.10008.5.1.4.1.1.104": "document",
    "1.2.840.10008.5.1.4.1.1.9": "waveform",
    "1.2.840.10008.5.1.4.34": "RT object",
}
# What pydicom raises for damaged files and values.
BROKEN = (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError, OverflowError)
_SUFFIXES = (".dcm", ".ima", ".dicom")
_MAGIC_AT, _MAGIC = 128, b"DICM"
_HEAD = 2**16
# Value representations of the first elements of a file without a preamble (groups 2 and 8).
_FIRST_VR = (b"UL", b"UI", b"CS", b"OB", b"SH", b"DA", b"LO", b"IS", b"TM", b"DT")
# Uncompressed transfer syntaxes, whose file size shows whether a file is complete.
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its name or its first bytes, also without a preamble."""
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.name.lower().endswith(_SUFFIXES):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(_MAGIC_AT + 4)
    except OSError:  # it may be a slice: reading it reports the error
        return "." not in path.name or path.suffix[1:].isdigit()
    if head[_MAGIC_AT:] == _MAGIC:
        return True
    return _begins_with_an_element(head) and (bool(series_named_in(path)) or _can_be_read(path))


def _can_be_read(path: Path) -> bool:
    try:
        tags_of(path)
    except CaseError:
        return False
    return True


def _begins_with_an_element(head: bytes) -> bool:
    """Whether the first bytes are a data element of group 2 or 8: DICOM without a preamble, or ACR-NEMA."""
    for order in ("little", "big"):
        group, element = (int.from_bytes(head[at : at + 2], order) for at in (0, 2))  # type: ignore[arg-type]
        if group not in (2, 8) or element > 0x60 or len(head) < 12:
            continue
        length = int.from_bytes(head[4:8], order)  # type: ignore[arg-type]
        if head[4:6] in _FIRST_VR or (length <= 64 and length % 2 == 0):
            return True
    return False


def simpleitk() -> Any:
    """SimpleITK, without its warnings, which would show values of tags; it takes 90 MB."""
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return sitk


def pydicom() -> Any:
    """The package pydicom, without the warnings of pydicom and highdicom, which would show values of tags.

    Raises ImportError: it is not installed.
    """
    import pydicom

    for name in ("pydicom", "highdicom"):
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return pydicom


def read_dataset(path: Path, pixels: bool = False) -> Any:
    """A DICOM file as a data set of pydicom.

    Raises CaseError: damaged, or pydicom is not installed.
    """
    try:
        return pydicom().dcmread(path, stop_before_pixels=not pixels)
    except ImportError as error:
        raise CaseError(
            f"{path}: enhanced DICOM, SEG and RTSTRUCT require pydicom. Run pip install 'mambamed[dicom]'."
        ) from error
    except (OSError, *BROKEN) as error:
        raise CaseError(f"{path}: is truncated or not DICOM. Copy it again.") from error


def tags_of(path: Path) -> dict[str, str]:
    """The tags of a file as text, `"0020|0032"` -> value, without padding.

    Raises CaseError: it cannot be read, or has no image.
    """
    reader = simpleitk().ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        path.open("rb").close()
        reader.ReadImageInformation()
    except OSError as error:
        raise CaseError(f"{path}: cannot be read ({error.strerror}). Check the file.") from error
    except RuntimeError as error:
        raise CaseError(f"{path}: is truncated or not DICOM. Copy it again, or move it elsewhere.") from error
    return {key: reader.GetMetaData(key).strip("\0 ") for key in _TAGS if reader.HasMetaDataKey(key)}


def kind_without_image(path: Path, sop_class: str | None = None) -> str | None:
    """What a DICOM object is that has no image to read, e.g. "RTSTRUCT"; None if it should have one."""
    found = sop_class or next(iter(_uids(path, 0x0002, 0x0002) or _uids(path, 0x0008, 0x0016)), "")
    begins = [begin for begin in _NO_IMAGES if found == begin or found.startswith(f"{begin}.")]
    return _NO_IMAGES[max(begins, key=len)] if begins else None


def series_named_in(path: Path) -> list[str]:
    """The SeriesInstanceUIDs in the first bytes of a file that GDCM cannot read."""
    return _uids(path, 0x0020, 0x000E)


def is_truncated(path: Path, needed: int) -> bool:
    """Whether an uncompressed file is smaller than its voxels, of `needed` bytes."""
    syntax = next(iter(_uids(path, 0x0002, 0x0010, 2048)), "")
    return syntax in _PLAIN and path.stat().st_size < needed


def _uids(path: Path, group: int, element: int, most: int = _HEAD) -> list[str]:
    """The values of a tag of type UI in the first bytes of a file."""
    try:
        with path.open("rb") as file:
            head = file.read(most)
    except OSError:
        return []
    tag = group.to_bytes(2, "little") + element.to_bytes(2, "little")
    found, at = [], head.find(tag)
    while at >= 0:
        start, explicit = at + 8, head[at + 4 : at + 6] == b"UI"
        length = int.from_bytes(head[at + 6 if explicit else at + 4 : start], "little")
        value = head[start : start + length].rstrip(b"\0 ") if length <= 64 else b""
        if value and value.replace(b".", b"").isdigit():
            found.append(value.decode())
        at = head.find(tag, at + 4)
    return found
