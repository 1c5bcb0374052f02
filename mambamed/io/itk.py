"""Read NRRD and MetaImage through SimpleITK, whose `(z, y, x)` order and LPS world are converted here.

Checked in addition to SimpleITK: the size before memory is allocated, checksums of compressed data, and that
the voxels are not in another file.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from mambamed.errors import CaseError
from mambamed.geometry import Affine, fault_of_affine
from mambamed.io.sizes import check_claim, check_memory
from mambamed.memory import is_out_of_memory

Shape = tuple[int, int, int]

_HEADER_BYTES = 2**16


def read(path: Path, max_voxels: int) -> tuple[NDArray, Affine]:
    """Voxels `(X, Y, Z)` in the file's type, and their affine, voxel -> world, mm, RAS+.

    Raises CaseError: damaged, not 3D with one value per voxel, more voxels than the limit or the file can
    hold.
    """
    reader = _opened(path, max_voxels)
    check_memory(path, reader.GetSize(), _dtype_of(reader))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return sitk.GetArrayViewFromImage(image).transpose(2, 1, 0).copy(order="F"), _affine_of(reader, path)


def read_header(path: Path, max_voxels: int) -> tuple[Shape, Affine, np.dtype]:
    """Shape, affine and type, without reading the voxels; errors are those of `read`."""
    reader = _opened(path, max_voxels)
    x, y, z = reader.GetSize()
    return (x, y, z), _affine_of(reader, path), _dtype_of(reader)


def read_layers(path: Path, max_voxels: int) -> NDArray:
    """Voxels of a NRRD file with several values per voxel, `(L, X, Y, Z)`; errors are those of `read`."""
    reader = _opened(path, max_voxels, layers=True)
    check_memory(path, (reader.GetNumberOfComponents(), *reader.GetSize()), _dtype_of(reader))
    try:
        array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return array.T.reshape(-1, *reader.GetSize()) if array.ndim == 3 else array.transpose(3, 2, 1, 0)


def read_layers_header(path: Path, max_voxels: int) -> tuple[Shape, int, Affine, np.dtype, dict[str, str]]:
    """Shape, number of layers, affine, type and the keys of the header; errors are those of `read`."""
    reader = _opened(path, max_voxels, layers=True)
    x, y, z = reader.GetSize()
    keys = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    return (x, y, z), reader.GetNumberOfComponents(), _affine_of(reader, path), _dtype_of(reader), keys


def _opened(path: Path, max_voxels: int, layers: bool = False) -> Any:
    """A reader that has read and checked the header; `layers`: several values per voxel are accepted."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if not head:
        raise CaseError(f"{path}: is empty (0 bytes). Copy it again.")
    # An empty line ends the header of NRRD, ElementDataFile that of MetaImage.
    if head.startswith(b"NRRD"):
        text, _, _ = head.partition(b"\n\n")
        elsewhere = b"data file:" in text.lower() or b"datafile:" in text.lower()
        is_raw = b"encoding: raw" in text
        if b"encoding: gz" in text:
            _check_deflated(path, len(text) + 2, zlib.MAX_WBITS + 16)
    else:
        text, _, rest = head.partition(b"ElementDataFile")
        place, _, _ = rest.partition(b"\n")
        elsewhere = bool(rest) and place.partition(b"=")[2].strip().upper() != b"LOCAL"
        is_raw = b"BinaryData = True" in text and b"CompressedData = True" not in text
        if rest and b"CompressedData = True" in text:
            _check_deflated(path, len(text) + len(b"ElementDataFile") + len(place) + 1, zlib.MAX_WBITS)
    if elsewhere:
        raise CaseError(f"{path}: its voxels are in another file. Convert it to a single file.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    size = reader.GetSize()
    components = reader.GetNumberOfComponents()
    if len(size) != 3 or (components != 1 and not layers):
        raise CaseError(f"{path}: is {len(size)}D {size}, not 3D with one value per voxel. Convert it.")
    if min(size) < 1:
        raise CaseError(f"{path}: shape {size} is invalid. Correct the header.")
    claimed = (components, *size) if layers else size
    check_claim(path, claimed, _dtype_of(reader), path.stat().st_size, not is_raw, max_voxels)
    return reader


def _dtype_of(reader: Any) -> np.dtype:
    return sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID())).dtype


def _affine_of(reader: Any, path: Path) -> Affine:
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) * np.array(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()
    affine[:2] *= -1  # LPS -> RAS
    affine += 0.0  # no -0
    if fault := fault_of_affine(affine):
        raise CaseError(f"{path}: {fault}. Correct the header.")
    return affine


def _check_deflated(path: Path, start: int, wbits: int) -> None:
    """Verify the checksum, which SimpleITK ignores, of data that begin at `start`; `wbits` as in zlib."""
    inflater = zlib.decompressobj(wbits)
    with path.open("rb") as file:
        file.seek(start)
        try:
            while not inflater.eof:
                block = inflater.unconsumed_tail or file.read(2**20)
                if not block:
                    raise CaseError(f"{path}: truncated: the compressed data end early. Copy it again.")
                inflater.decompress(block, 2**22)
        except zlib.error as error:
            raise CaseError(f"{path}: corrupt compressed data ({error}). Copy it again.") from error


def _unreadable(path: Path, error: RuntimeError) -> CaseError | MemoryError:
    if is_out_of_memory(error):
        return MemoryError(str(error))
    reason = str(error).strip().splitlines()[-1].strip()
    ends_early = any(word in reason for word in ("got only", "but received", "No such file"))
    fact = f"{'truncated: ' if ends_early else ''}cannot be read as an image ({reason})"
    return CaseError(f"{path}: {fact}. Copy it again or convert it to NIfTI.")
