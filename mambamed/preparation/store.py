"""The files of a prepared dataset, and how they are read.

```
PREPARED/ dataset.json   the manifest and the cases       fingerprint.json  plan.json  splits.json
          cases/ID.b2nd             (C, X, Y, Z) float16, blosc2
          cases/ID.label.b2nd       (X, Y, Z) uint8 or int16; absent where the case has no label
          cases/ID.foreground.npy   (n, 4) rows [label value, x, y, z], some of its foreground voxels
          cases/ID.json             geometry and intensities; written last: it makes the case complete
          references/ID.nii.gz      the label map on the image's native grid, to validate against
          qc/ID.png  index.html     three planes of every case, its label outlined; may be absent
          qc/losses.csv             what preparation keeps of each label of each case
```
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan, Triple
from mambamed.documents.prepared import CaseEntry, CaseRecord, PreparedIndex, check_channels
from mambamed.documents.splits import splits_of
from mambamed.errors import DatasetError
from mambamed.geometry import world_to_voxel
from mambamed.memory import is_out_of_memory, memory_bytes
from mambamed.preparation.grid import CaseGeometry
from mambamed.preparation.splits import Fold

FORMAT = 1
CHUNK, BLOCK = 64, 32
_READ_WHOLE = 1 << 20  # bytes; smaller files are read at once instead of being opened for each part
Box = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case in a prepared dataset."""

    image: Path
    label: Path
    foreground: Path
    reference: Path
    document: Path
    picture: Path

    @classmethod
    def of(cls, root: Path, case_id: str) -> CaseFiles:
        """The files of a case, whether they exist or not."""
        folder = root / "cases"
        return cls(
            folder / f"{case_id}.b2nd",
            folder / f"{case_id}.label.b2nd",
            folder / f"{case_id}.foreground.npy",
            root / "references" / f"{case_id}.nii.gz",
            folder / f"{case_id}.json",
            root / "qc" / f"{case_id}.png",
        )


class PreparedCase:
    """One prepared case; boxes are read on demand, also by several threads."""

    def __init__(self, root: Path, entry: CaseEntry, in_memory: bool) -> None:
        self.id, self.has_label = entry.id, entry.has_label
        self.shape: Triple = entry.shape  # `(X, Y, Z)` of the prepared grid
        self.channels = entry.channels  # number of channels
        self.subject = entry.subject or entry.id
        self.class_name = entry.class_name  # None without classes
        # landmark name -> world position, mm, RAS+; None if it is absent; no entry if it is not annotated
        self.points = entry.points or None
        self.covariates = entry.covariates  # name -> text
        self._files = CaseFiles.of(root, self.id)
        self._in_memory = in_memory
        self._kept: dict[Path, NDArray] = {}
        self._lock = threading.Lock()

    def image(self, box: Box | None = None) -> NDArray[np.float16]:
        """`(C, X, Y, Z)` float16 of a box `(start, stop)`, clipped to the case (default: all); read-only."""
        return self._read(self._files.image, box)

    def label(self, box: Box | None = None) -> NDArray:
        """`(X, Y, Z)` label values of a box `(start, stop)`, clipped to the case (default: all).

        Raises ValueError: the case has no label.
        """
        if not self.has_label:
            raise ValueError(f"{self.id}: has no label")
        return self._read(self._files.label, box)

    @property
    def foreground(self) -> NDArray:
        """`(n, 4)` sorted rows [label value, x, y, z]: some thousands of voxels per label."""
        if not self.has_label:
            return np.zeros((0, 4), np.int16)
        return self._keep(self._files.foreground, read_foreground)

    @property
    def document(self) -> CaseRecord:
        """cases/ID.json: geometry, voxels of each label, digests."""
        return CaseRecord.read(self._files.document)

    @property
    def geometry(self) -> CaseGeometry:
        """Position of the prepared grid in the case's files."""
        return CaseGeometry.of(self.document.geometry)

    @property
    def points_voxel(self) -> dict[str, NDArray[np.float64]]:
        """Landmark name -> `(3,)` position in prepared voxels, not rounded; may be cropped off.

        Without absent landmarks.
        """
        if not self.points:
            return {}
        affine = self.geometry.affine_prepared
        return {name: world_to_voxel(affine, point) for name, point in self.points.items() if point}

    @property
    def absent_points(self) -> tuple[str, ...]:
        """The landmarks that the case lacks."""
        return tuple(name for name, point in (self.points or {}).items() if point is None)

    def _read(self, path: Path, box: Box | None) -> NDArray:
        if self._in_memory:
            whole = self._keep(path, read_array)
            return whole if box is None else whole[(..., *_slices(box, self.shape))]
        return read_array(path, box)

    def _keep(self, path: Path, read: Any) -> NDArray:
        with self._lock:
            if path not in self._kept:
                array = read(path)
                array.setflags(write=False)
                self._kept[path] = array
            return self._kept[path]


class PreparedDataset:
    """A prepared dataset, opened for reading."""

    def __init__(
        self,
        root: Path,
        manifest: DatasetManifest,
        plan: Plan,
        splits: list[Fold],
        cases: Sequence[CaseEntry],
    ) -> None:
        self.root, self.manifest, self.plan = root, manifest, plan
        self.splits = splits  # one dict per fold, "train" and "val" (and "test") -> case ids
        size = sum((2 * case.channels + 1) * math.prod(case.shape) for case in cases)
        self.in_memory = size < memory_bytes() // 4  # whether arrays are kept once read
        self._cases = {case.id: PreparedCase(root, case, self.in_memory) for case in cases}

    @classmethod
    def open(cls, root: Path) -> PreparedDataset:
        """Open the output of `prepare`.

        Raises DatasetError: it is not a finished prepared dataset, or was written by a newer version.
        """
        root = Path(root)
        check_prepared(root)
        index = PreparedIndex.read(root / "dataset.json")
        plan = Plan.read(root / "plan.json")
        check_channels(plan, index, root / "plan.json", DatasetError)
        return cls(root, index.manifest, plan, splits_of(root, index), index.cases)

    @property
    def case_ids(self) -> list[str]:
        """All cases, sorted."""
        return list(self._cases)

    def case(self, case_id: str) -> PreparedCase:
        """The case of this id. Raises DatasetError: there is none."""
        if case_id not in self._cases:
            raise DatasetError(
                f"{self.root}: no case {case_id!r} among its {len(self._cases)}; check splits.json"
            )
        return self._cases[case_id]


def check_prepared(root: Path) -> None:
    """Raise DatasetError if a folder is not the finished output of `prepare`."""
    if not (root / "dataset.json").is_file():
        fact = "is not a prepared dataset: no dataset.json" if root.is_dir() else "no such folder"
        raise DatasetError(f"{root}: {fact}. Run 'mambamed prepare' (again).")


def encode_array(array: NDArray) -> bytes:
    """A blosc2 frame of a `(C, X, Y, Z)` or `(X, Y, Z)` array; equal arrays give equal bytes.

    LZ4 level 1 over shuffled bytes: reading a patch takes three times as long as a memory copy. Chunks are
    cubes of up to 64 voxels over all channels, blocks of up to 32 voxels of one channel. Both divide an axis
    evenly, because the last one is stored and decompressed at full size.
    """
    import blosc2  # late: predict needs no prepared arrays

    chunk = tuple(_even(n, CHUNK) for n in array.shape[-3:])
    # The annotations of blosc2 name every kind of store that its functions may return.
    stored: Any = blosc2.asarray(
        cast(Any, np.ascontiguousarray(array)),
        chunks=(*array.shape[:-3], *chunk),
        blocks=(*(1 for _ in array.shape[:-3]), *(_even(n, BLOCK) for n in chunk)),
        cparams={"codec": blosc2.Codec.LZ4, "clevel": 1, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1},
    )
    return bytes(stored.to_cframe())


def read_array(path: Path, box: Box | None = None) -> NDArray:
    """An array that `encode_array` made, or a box `(start, stop)` of its last three axes.

    Raises DatasetError: the file is absent or damaged.
    """
    import blosc2

    try:
        # A handle per call: a handle must not be used by two threads.
        stored: Any
        if path.stat().st_size < _READ_WHOLE:
            frame = path.read_bytes()  # kept in a variable because the array points into it
            stored = blosc2.ndarray_from_cframe(frame)
            stored.schunk.dparams = blosc2.DParams(nthreads=1)
        else:
            stored = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
        if box is None:
            return stored[:]
        # No "...": with it, blosc2 uses a slow library to resolve the index.
        return stored[(*(slice(None) for _ in stored.shape[:-3]), *_slices(box, stored.shape[-3:]))]
    except (OSError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise DatasetError(f"{path}: cannot be read ({error}). Prepare the dataset again.") from error


def encode_foreground(rows: NDArray) -> bytes:
    """The bytes of a `.npy` file of `(n, 4)` rows."""
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    return buffer.getvalue()


def read_foreground(path: Path) -> NDArray:
    """What `encode_foreground` made. Raises DatasetError: the file is absent or damaged."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}). Prepare the dataset again.") from error


def _even(size: int, largest: int) -> int:
    """The length of the parts of an axis, as few as possible, none longer than `largest`."""
    parts = max(1, -(-size // largest))
    return max(1, -(-size // parts))


def _slices(box: Box, shape: Sequence[int]) -> tuple[slice, ...]:
    """The box, clipped to the array."""
    return tuple(
        slice(max(0, int(a)), max(0, min(int(b), n))) for a, b, n in zip(box[0], box[1], shape, strict=True)
    )
