"""From logits on the prepared grid to a label map on the native grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from mambamed.geometry import to_ras
from mambamed.io.images import smallest_integer
from mambamed.preparation.grid import CaseGeometry
from mambamed.preparation.splines import linear_neighbors, nearest_neighbors
from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.device_labels import DeviceLabels, is_resident
from mambamed.volumes.restore_kernels import Neighbors, decide_planes, widen_planes
from mambamed.volumes.window_sum import SLAB_BYTES, Slab


@dataclass(frozen=True)
class VoxelValues:
    """Numbers that are computed from the logits of every voxel of the file.

    Attributes:
        arrays: `(X, Y, Z)` each, on the grid of the file; they are filled.
        outside: value of each array outside the crop box.
        of: `(C, A, B)` logits of some voxels -> one `(A, B)` per array.
    """

    arrays: Sequence[NDArray]
    outside: Sequence[float]
    of: Callable[[NDArray[np.float32]], Sequence[NDArray]]


def probability_values(task: Segmentation, arrays: Sequence[NDArray]) -> VoxelValues:
    """Softmax over the labels, or a sigmoid per region; background outside the crop box."""
    outside = [float(not task.by_regions and value == 0) for value in task.values]
    count = task.outputs
    kind = expit if task.by_regions else softmax_of
    return VoxelValues(arrays, outside, lambda logits: [*kind(logits[:count])])


def offsets_of(thresholds: Mapping[str, float], task: Segmentation) -> NDArray[np.float32]:
    """`(K,)` numbers to be subtracted from the logits of regions with thresholds other than 0.5.

    Args:
        thresholds: region -> probability above which a voxel belongs to it.
    """
    chances = np.array([thresholds.get(name, 0.5) for name in task.names] if task.by_regions else [0.5])
    offsets = np.log(chances / (1 - chances)).astype(np.float32)
    return np.broadcast_to(offsets, (task.outputs,))


def softmax_of(logits: NDArray) -> NDArray:
    """Softmax over the first axis."""
    values = np.exp(logits - logits.max(axis=0))
    values /= values.sum(axis=0)
    return values


def labels_of_slabs(
    slabs: Iterable[Slab],
    geometry: CaseGeometry,
    task: Segmentation,
    values: Sequence[VoxelValues] = (),
    thresholds: Mapping[str, float] | None = None,
) -> NDArray:
    """Undo resampling, crop and orientation, and choose the label of each voxel, while the logits arrive.

    Each slab is interpolated linearly to native voxels, both grids covering the same box, and converted to
    labels at once: the logits never exist as a whole, neither on the prepared nor on the native grid.

    Args:
        slabs: the prepared volume's logits, in order, without gaps; else ValueError. Channels after those of
            the task do not decide the labels. A GPU that holds them chooses the labels.
        geometry: where the prepared grid lies in the file.
        values: what else is computed from the logits.
        thresholds: region -> probability above which a voxel belongs to it (default: 0.5).

    Returns:
        Label map of `geometry.shape_native`, in the smallest integer type; 0 outside the crop box. Labels:
        the largest logit, the first of equals. Regions: those with a positive logit, in the task's order.

    Source:
        Isensee et al. 2021 (nnU-Net) resamples in the same way before the decision; it takes the nearest
        plane along a coarse axis, here that axis is linear too, unless `geometry.nearest_axis` says so.
    """
    native = np.zeros(geometry.shape_native, smallest_integer(max(task.values)), order="F")
    box = tuple(slice(a, b) for a, b in zip(geometry.crop_start, geometry.crop_stop, strict=True))
    cropped = to_ras(native, geometry.orientation)[box]
    inner = []
    for each in values:
        for array, outside in zip(each.arrays, each.outside, strict=True):
            array[...] = outside
        inner.append(
            replace(each, arrays=[to_ras(array, geometry.orientation)[box] for array in each.arrays])
        )
    filler: _Filler | None = None
    for slab in slabs:
        if filler is None:
            offsets = offsets_of(thresholds, task) if thresholds else None
            filler = _Filler(cropped, slab.axis, geometry, task, inner, offsets)
        filler.take(slab)
    if filler is None or not filler.is_complete:
        raise ValueError(f"the slabs do not fill the prepared volume {geometry.shape_prepared}")
    return native


def native_labels(logits: Tensor, geometry: CaseGeometry, task: Segmentation) -> NDArray:
    """`labels_of_slabs` of logits that exist as a whole: `(K, X, Y, Z)` on the prepared grid."""
    plane_bytes = 4 * max(1, logits[:, 0].numel())
    parts = logits.float().movedim(1, 0).split(max(1, SLAB_BYTES // plane_bytes))
    starts = np.cumsum([0, *map(len, parts)])
    slabs = (Slab(0, int(n), part.cpu().contiguous()) for n, part in zip(starts, parts, strict=False))
    return labels_of_slabs(slabs, geometry, task)


class _Filler:
    """Fills a cropped native label map from slabs.

    Args:
        labels: `(X, Y, Z)` view to be filled, axes as in the prepared grid.
        axis: of the slabs.
        geometry: the shape of the prepared volume, and the axis without interpolation.
        values: what else is computed, with views like `labels` as arrays.
        offsets: `(K,)`, subtracted from the logits before the decision; None: nothing is.
    """

    def __init__(
        self,
        labels: NDArray,
        axis: int,
        geometry: CaseGeometry,
        task: Segmentation,
        values: Sequence[VoxelValues],
        offsets: NDArray[np.float32] | None = None,
    ) -> None:
        self._offsets = offsets
        shape = geometry.shape_prepared
        self._planes = np.moveaxis(labels, axis, 0)
        self._further = [
            replace(each, arrays=[np.moveaxis(array, axis, 0) for array in each.arrays]) for each in values
        ]
        self._size = shape[axis]
        a, b = (k for k in range(3) if k != axis)
        self._plane_shape = (shape[a], shape[b])
        self._along, self._across, self._inner = (
            _neighbors(shape[k], labels.shape[k], k == geometry.nearest_axis) for k in (axis, a, b)
        )
        self._order = np.array(task.order, np.int64)
        self._values = np.array(task.values, np.int32)
        self._by_regions = bool(task.by_regions)
        self._last: Tensor | None = None  # the plane before the next slab
        self._arrived = 0
        self._done = 0

    @property
    def is_complete(self) -> bool:
        """Whether every plane was filled."""
        return self._done == len(self._planes) and self._arrived == self._size

    def take(self, slab: Slab) -> None:
        """Label the native planes that the next slab determines."""
        planes = slab.planes
        shape = tuple(planes.shape[2:])
        if slab.start != self._arrived or shape != self._plane_shape:
            raise ValueError(
                f"slab from {slab.start} of planes {shape}, expected from {self._arrived} of "
                f"planes {self._plane_shape}"
            )
        base = slab.start - (self._last is not None)
        self._arrived = slab.stop
        low, high, weight = self._along
        stop = int(np.searchsorted(high, slab.stop))
        these = slice(self._done, stop)
        along = low[these] - base, high[these] - base, weight[these]
        plain = not self._further and self._offsets is None
        if not (is_resident(planes) and plain and self._take_on_device(planes, along, these)):
            wide = self._wide(planes.cpu().numpy())
            decisive = wide
            if self._offsets is not None:
                decisive = wide[:, : len(self._offsets)] - self._offsets[:, None, None]
            self._planes[these] = decide_planes(
                decisive, along, self._across, self._order, self._values, self._by_regions
            )
            if self._further:
                self._fill_further(wide, base, stop)
            self._last = torch.from_numpy(wide[-1].copy())
        self._done = stop

    def _take_on_device(self, planes: Tensor, along: Neighbors, these: slice) -> bool:
        """Label planes where their logits are; returns whether the device's memory sufficed."""
        chooser = DeviceLabels(
            self._across, self._inner, self._order.tolist(), self._values.tolist(), self._by_regions
        )
        try:
            wide = chooser.wide(planes)
            if self._last is not None:
                wide = torch.cat([self._last[None].to(wide.device), wide])
            self._planes[these] = chooser.decide(wide, along)
            self._last = wide[-1].clone()
        except torch.OutOfMemoryError:
            return False
        return True

    def _fill_further(self, wide: NDArray[np.float32], base: int, stop: int) -> None:
        low, high, weight = self._along
        row_low, row_high, row_weight = self._across
        for plane in range(self._done, stop):
            first, second = wide[low[plane] - base], wide[high[plane] - base]
            blend = first + weight[plane] * (second - first)
            upper = blend[:, row_low]
            upper = upper + row_weight[:, None] * (blend[:, row_high] - upper)
            for values in self._further:
                for target, each in zip(values.arrays, values.of(upper), strict=True):
                    target[plane] = each

    def _wide(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """The last plane of the previous slab and these, `(n, K, A, B')`: native along the inner axis."""
        kept = 0 if self._last is None else 1
        count, outputs, rows, _ = planes.shape
        wide = np.empty((kept + count, outputs, rows, len(self._inner[0])), np.float32)
        if self._last is not None:
            wide[0] = self._last.cpu().numpy()
        widen_planes(planes, self._inner, wide[kept:])
        return wide


def _neighbors(length: int, new_length: int, nearest: bool) -> Neighbors:
    if nearest:
        index = nearest_neighbors(length, new_length)
        return index, index, np.zeros(new_length, np.float32)
    low, high, weight = linear_neighbors(length, new_length)
    return low, high, weight.astype(np.float32)
