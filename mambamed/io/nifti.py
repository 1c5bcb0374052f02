"""Read NIfTI-1 and NIfTI-2 with checks, and write them; nibabel parses the headers.

Checked in addition to nibabel: truncated streams, checksums, headers that claim more data than the file can
hold, invalid affines, and sforms and qforms that disagree. Memory is allocated only after these checks.
"""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from isal import isal_zlib
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from mambamed.errors import CaseError
from mambamed.geometry import Affine, fault_of_affine, spacing_of
from mambamed.io.sizes import check_claim, check_memory

log = logging.getLogger("mambamed")

Header = Any  # Nifti1Header or Nifti2Header of nibabel, which have no common public type

GZIP_MAGIC = b"\x1f\x8b"
_HEADER_BYTES = {348: 352, 540: 544}  # sizeof_hdr -> bytes including the extension flag
_SHEAR_TOLERANCE = 5e-3  # largest cosine between two axes that counts as rounding
_WRITE_LEVEL = 1
_TILE = 16  # voxels
_BLOCK_BYTES = 2**18  # compressed bytes read at once
_PIECE_BYTES = 2**20  # decompressed bytes read at once
_STREAM_FAULTS: tuple[type[Exception], ...] = (isal_zlib.IsalError, zlib.error)  # type: ignore[assignment]


class NiftiStream:
    """The decompressed bytes of an open NIfTI file, read on demand; `path` is named in the errors."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.file_bytes = path.stat().st_size
        start = file.read(540)
        file.seek(0)
        self.compressed = start.startswith(GZIP_MAGIC)
        self._inflater = isal_zlib.decompressobj(wbits=31)
        self._returned = b""
        named = path.name.lower().endswith(".gz")
        if self.file_bytes == 0:
            raise CaseError(f"{path}: is empty (0 bytes). Copy it again.")
        if named and not self.compressed:
            if header_size(start) is None:
                raise CaseError(f"{path}: is neither gzip nor NIfTI. Download it again.")
            raise CaseError(f"{path}: is not gzip although its suffix is .gz. Rename it to .nii.")
        if not named and self.compressed:
            raise CaseError(f"{path}: is gzip although its suffix is .nii. Rename it to .nii.gz.")

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer only at the end of the data; errors are those of `read_into`."""
        buffer = bytearray(count)
        return bytes(buffer[: self.read_into(memoryview(buffer))])

    def skip(self, count: int) -> bool:
        """Skip `count` bytes in small pieces; False if the data end before."""
        while count > 0:
            passed = len(self.read(min(count, _PIECE_BYTES)))
            if not passed:
                return False
            count -= passed
        return True

    def read_into(self, buffer: memoryview) -> int:
        """Fill a buffer and return the number of bytes; it is partly filled only at the end of the data.

        Raises CaseError: the compressed stream is truncated or damaged.
        """
        filled = min(len(self._returned), len(buffer))
        buffer[:filled], self._returned = self._returned[:filled], self._returned[filled:]
        while filled < len(buffer):
            if self.compressed:
                # Small pieces stay in the processor's cache until they are copied.
                part = self._inflate(min(len(buffer) - filled, _PIECE_BYTES))
                buffer[filled : filled + len(part)] = part
                count = len(part)
            else:
                count = self._file.readinto(buffer[filled:])  # type: ignore[attr-defined]
            if not count:
                break
            filled += count
        return filled

    def give_back(self, data: bytes) -> None:
        """Push back `data`, so that the next `read` returns it first."""
        self._returned = data

    def check_end(self) -> None:
        """After the last voxel: verify the checksum, and warn about further data."""
        if self.read(1):
            log.warning("%s: size: more data than its header states; the rest is ignored", self._path)

    def _inflate(self, limit: int) -> bytes:
        """At most `limit` decompressed bytes; none at the end."""
        while True:
            if self._inflater.eof and not self._next_member():
                return b""
            raw = self._inflater.unconsumed_tail or self._file.read(_BLOCK_BYTES)
            try:
                part = self._inflater.decompress(raw, limit)
            except _STREAM_FAULTS as error:
                raise CaseError(f"{self._path}: corrupt compressed data ({error}). Copy it again.") from error
            if part:
                return part
            if not raw and not self._inflater.eof:
                raise CaseError(f"{self._path}: truncated: the compressed data end early. Copy it again.")

    def _next_member(self) -> bool:
        """Whether another gzip member follows; zero padding after the last one is allowed."""
        rest = self._inflater.unused_data.lstrip(b"\0")
        while not rest:
            block = self._file.read(2**16)
            if not block:
                return False
            rest = block.lstrip(b"\0")
        if len(rest) < 2:
            rest += self._file.read(2**16)
        if not rest.startswith(GZIP_MAGIC):
            log.warning("%s: size: bytes after the compressed data are not gzip and are ignored", self._path)
            self._file.seek(0, 2)
            return False
        self._inflater = isal_zlib.decompressobj(wbits=31)
        self._file.seek(-len(rest), 1)
        return True


def header_size(start: bytes) -> int | None:
    """348 for NIfTI-1, 540 for NIfTI-2, None for anything else, from the first bytes of a file."""
    for order in ("little", "big"):
        size = int.from_bytes(start[:4], order)
        magic = start[344:348] if size == 348 else start[4:8]
        if size in _HEADER_BYTES and magic[:3] in {b"n+1", b"n+2"}:
            return size
    return None


def read_header(stream: NiftiStream, path: Path) -> Header:
    """Read and check the header; the stream is then at the first voxel.

    Raises CaseError: not NIfTI, or an invalid header.
    """
    start = stream.read(540)
    size = header_size(start)
    if size is None:
        raise CaseError(f"{path}: is not NIfTI (no magic number). Convert it or download it again.")
    if len(start) < size:
        raise CaseError(f"{path}: truncated: ends within its header. Copy it again.")
    kind = nib.Nifti1Header if size == 348 else nib.Nifti2Header
    try:
        header = kind(start[:size], check=False)
        offset = float(header["vox_offset"])
        header.get_data_dtype()
    except (HeaderDataError, ValueError, KeyError) as error:
        code = int(kind(start[:size], check=False)["datatype"])
        raise CaseError(f"{path}: datatype code {code} is unknown. Convert the file.") from error
    if not offset >= _HEADER_BYTES[size] or offset > 2**40:
        raise CaseError(f"{path}: truncated or damaged: vox_offset is {offset:g}. Copy it again.")
    if not stream.skip(int(offset) - len(start)):
        raise CaseError(f"{path}: truncated: its voxels would begin at byte {offset:g}. Copy it again.")
    stream.give_back(start[int(offset) :])
    return header


def check_shape(
    header: Header, path: Path, stream: NiftiStream, max_voxels: int
) -> tuple[int, int, int, int]:
    """`(X, Y, Z, volumes)` of the file.

    Raises CaseError: not 3D or 4D, an empty axis, an unsupported type, or more data than the file can hold or
    `max_voxels` allows.
    """
    count = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : max(count, 0) + 1]]
    if not 1 <= count <= 7 or any(n < 1 for n in sizes):
        raise CaseError(f"{path}: shape {tuple(sizes)} with {count} axes is invalid. Correct the header.")
    if count >= 5 and any(n > 1 for n in sizes[4:]):
        raise CaseError(f"{path}: is 5D {tuple(sizes)}, a vector image. Use one file per channel.")
    del sizes[4:]
    if len(sizes) < 3:
        raise CaseError(f"{path}: is {len(sizes)}D {tuple(sizes)}, not 3D. Stack its slices to a volume.")
    x, y, z, volumes = (*sizes, 1)[:4]
    dtype = header.get_data_dtype()
    if dtype.fields is not None or int(header["datatype"]) in {128, 2304}:
        raise CaseError(f"{path}: contains RGB colors, not intensities. Convert it to gray values.")
    if dtype.kind == "c":
        raise CaseError(f"{path}: contains complex numbers. Save their magnitude.")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise CaseError(f"{path}: datatype {dtype} is not supported. Convert it to float32.")
    check_claim(path, sizes, dtype, stream.file_bytes, stream.compressed, max_voxels)
    return x, y, z, volumes


@np.errstate(invalid="ignore")  # numpy warns of signaling NaNs, which are reported like others
def affine_of(header: Header, path: Path) -> Affine:
    """The affine, voxel -> world, mm, RAS+: the sform if there is one, else the qform, else pixdim alone.

    If the sform is sheared, a valid qform is used instead, because readers disagree about such sforms. Raises
    CaseError: an invalid affine.
    """
    sform, qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    zooms = np.asarray(header["pixdim"][1:4], float)
    if not np.all(np.isfinite(zooms)) or ((zooms == 0).any() and not sform):
        raise CaseError(f"{path}: spacing {zooms.tolist()} is invalid. Correct the header.")
    if (zooms < 0).any():
        log.warning("%s: spacing %s is negative; the absolute value is used", path, zooms.tolist())
        header = header.copy()
        header["pixdim"][1:4] = np.abs(zooms)
    if int(header["xyzt_units"]) & 7 in {1, 3}:
        unit = {1: "meter", 3: "micrometer"}[int(header["xyzt_units"]) & 7]
        log.warning("%s: unit in the header is %s; the values are used as mm", path, unit)
    by_sform = _checked(header.get_sform(), path) if sform else None
    by_qform = _qform(header, path, needed=not sform) if qform else None
    if by_sform is None:
        if by_qform is not None:
            return by_qform
        log.warning("%s: orientation is unknown (sform and qform codes are 0); using nibabel's default", path)
        return _checked(header.get_best_affine(), path)
    directions = by_sform[:3, :3] / spacing_of(by_sform)
    sheared = np.abs(directions.T @ directions - np.eye(3)).max() > _SHEAR_TOLERANCE
    if sheared and by_qform is None:
        raise CaseError(
            f"{path}: its axes are not orthonormal (gantry tilt or shear). Resample it to a straight grid."
        )
    if by_qform is not None and (sheared or not np.allclose(by_sform, by_qform, atol=0.5)):
        taken = "qform, as the sform is sheared" if sheared else "sform"
        log.warning("%s: sform and qform differ; using the %s", path, taken)
        return by_qform if sheared else by_sform
    return by_sform


def _qform(header: Header, path: Path, needed: bool) -> Affine | None:
    b, c, d = (float(header[f"quatern_{letter}"]) for letter in "bcd")
    if not b * b + c * c + d * d <= 1 + 1e-5:
        if needed:
            raise CaseError(
                f"{path}: the qform's quaternion ({b:g}, {c:g}, {d:g}) is invalid. Correct the header."
            )
        return None
    header = header.copy()
    # NIfTI-1 defines 1 and -1 for the handedness; some writers leave 0. All but -1 count as 1.
    header["pixdim"][0] = -1 if header["pixdim"][0] == -1 else 1
    try:
        return _checked(header.get_qform(), path)
    except (HeaderDataError, ValueError):
        return None


def _checked(affine: Affine | None, path: Path) -> Affine:
    affine = np.asarray(affine, float)
    if fault := fault_of_affine(affine):
        raise CaseError(f"{path}: {fault}. Correct the header.")
    return affine


def voxels_of(header: Header, stream: NiftiStream, shape: tuple[int, int, int, int], path: Path) -> NDArray:
    """All voxels `(X, Y, Z, volumes)`, in Fortran order, in the file's own type and native byte order."""
    dtype = header.get_data_dtype()
    check_memory(path, shape, dtype)
    needed = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    data = np.empty(needed, np.uint8)  # the system allocates memory only when it is filled
    there = stream.read_into(data.data)
    if there < needed:
        raise CaseError(f"{path}: truncated: {there} of {needed} bytes of voxels. Copy it again.")
    stream.check_end()
    array = data.view(dtype).reshape(shape, order="F")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def scaled(array: NDArray, header: Header) -> NDArray:
    """Voxels with `scl_slope` and `scl_inter` applied, float32; the array itself without scaling.

    A slope of 0 or NaN means no scaling (NIfTI-1 standard).
    """
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        return array
    inter = inter if np.isfinite(inter) else 0.0
    if slope == 1 and inter == 0:
        return array
    with np.errstate(over="ignore", invalid="ignore"):  # the caller reports values that are not finite
        return (array * np.float64(slope) + inter).astype(np.float32)


def encode(array: NDArray, affine: Affine, like: Header | None, compressed: bool) -> bytes:
    """A NIfTI file as bytes; deterministic, as the gzip header contains no time.

    Args:
        array: `(X, Y, Z)`.
        affine: used if `like` is None.
        like: header whose geometry (pixdim, sform, qform, codes, units) is copied exactly.
        compressed: whether to compress with gzip.
    """
    header = like.copy() if like is not None else nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header["dim"] = [3, *array.shape, 1, 1, 1, 1]
    header["pixdim"][4:] = 1
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"] = header["cal_max"] = 0
    header["intent_code"], header["intent_name"] = 0, b""
    header["descrip"], header["aux_file"] = b"mambamed", b""
    header["toffset"] = header["slice_start"] = header["slice_end"] = header["slice_duration"] = 0
    header["slice_code"] = 0
    if "db_name" in header.keys():  # noqa: SIM118 - a header is not a dict; this field may contain patient names
        header["db_name"] = b""
    header["vox_offset"] = _HEADER_BYTES[int(header["sizeof_hdr"])]
    header["magic"] = b"n+1" if int(header["sizeof_hdr"]) == 348 else header["magic"]
    if like is None:
        header.set_xyzt_units("mm")
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=1, strip_shears=True)
    ordered = _fortran_ordered(array).astype(array.dtype.newbyteorder(header.endianness), copy=False)
    start, voxels = header.binaryblock + b"\0\0\0\0", ordered.reshape(-1, order="F").view(np.uint8).data
    if not compressed:
        return start + voxels
    deflater = isal_zlib.compressobj(_WRITE_LEVEL, wbits=31)
    return deflater.compress(start) + deflater.compress(voxels) + deflater.flush()


def _fortran_ordered(array: NDArray) -> NDArray:
    """The array, or a copy, with x fastest in memory; copied by tiles, which is twice as fast."""
    if array.flags.f_contiguous:
        return array
    ordered = np.empty(array.shape, array.dtype, order="F")
    for x in range(0, array.shape[0], _TILE):
        for z in range(0, array.shape[2], _TILE):
            ordered[x : x + _TILE, :, z : z + _TILE] = array[x : x + _TILE, :, z : z + _TILE]
    return ordered
