"""Series written by pydicom, slice by slice."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

CT, STUDY, SPACE = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4", "1.2.3.5"
AXIAL, CORONAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]


def write_slice(
    path: Path, z: float, voxels: np.ndarray, *, preamble: bool = True, implicit: bool = False, **tags: Any
) -> pydicom.Dataset:
    """One axial slice of `(rows, columns)` int16 at (10, 20, z) mm, LPS; `tags` replace or add tags."""
    d = pydicom.Dataset()
    d.SOPClassUID, d.SOPInstanceUID = CT, generate_uid()
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = STUDY, "1.2.3.9", SPACE
    d.Modality, d.PatientID, d.PatientName, d.SeriesDescription = "CT", "p1", "Doe^Jane", "thin"
    d.ImagePositionPatient, d.ImageOrientationPatient = [10, 20, z], AXIAL
    d.PixelSpacing = [0.75, 0.5]
    d.Rows, d.Columns = voxels.shape
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit, d.PixelRepresentation = 15, 1
    d.PixelData = voxels.astype("<i2").tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(d, name)
        else:
            setattr(d, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    if preamble:
        d.file_meta = pydicom.dataset.FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
        d.save_as(path, enforce_file_format=True)
    else:
        d.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    return d


def some_voxels(slices: int, seed: int = 0, shape: tuple[int, int] = (4, 5)) -> np.ndarray:
    """`(slices, rows, columns)`."""
    return np.random.default_rng(seed).integers(-1000, 1000, (slices, *shape))


def write_axial(
    folder: Path, heights: list[float], seed: int = 0, prefix: str = "", **tags: Any
) -> np.ndarray:
    """A series with slices at these heights, mm, in files 1.dcm, 2.dcm, ...; `(slices, rows, columns)`."""
    voxels = some_voxels(len(heights), seed)
    for number, (z, plane) in enumerate(zip(heights, voxels, strict=True), 1):
        write_slice(folder / f"{prefix}{number}.dcm", z, plane, InstanceNumber=number, **tags)
    return voxels
