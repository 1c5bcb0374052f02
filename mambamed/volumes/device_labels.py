"""Labels of native voxels chosen on the device that holds the logits, so that only labels are copied back.

The arithmetic is that of `restore_kernels`; the device may round differently in the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mambamed.volumes.restore_kernels import Neighbors

_CHUNK_BYTES = 2**26  # of interpolated logits at once


def is_resident(planes: Tensor) -> bool:
    """Whether logits are on a device that can choose the labels itself."""
    return planes.device.type == "cuda"


class DeviceLabels:
    """Interpolates slabs of logits to native voxels and chooses labels, where the logits are.

    Args:
        across, inner: the rows around each new row, and the voxels around each new voxel of a row.
        order, values, by_regions: see `restore_kernels.decide_planes`.
    """

    def __init__(
        self,
        across: Neighbors,
        inner: Neighbors,
        order: Sequence[int],
        values: Sequence[int],
        by_regions: bool,
    ) -> None:
        self._across, self._inner = across, inner
        self._order, self._values, self._by_regions = list(order), list(values), by_regions
        self._dtype = torch.uint8 if max(self._values) < 256 else torch.int32

    def wide(self, planes: Tensor) -> Tensor:
        """`(n, K, A, B)` -> `(n, K, A, B')`: native along the last axis."""
        return planes if planes.shape[3] == len(self._inner[0]) else _between(planes, self._inner, 3)

    def decide(self, wide: Tensor, along: Neighbors) -> NDArray:
        """`(n, K, A, B')` logits -> `(len(along[0]), A', B')` label values, on the CPU.

        Raises:
            torch.OutOfMemoryError: the device has too little memory.
        """
        rows, columns = len(self._across[0]), wide.shape[3]
        count = max(1, _CHUNK_BYTES // (4 * wide.shape[1] * rows * columns))
        labels = torch.empty((len(along[0]), rows, columns), dtype=self._dtype, device=wide.device)
        for first in range(0, len(labels), count):
            these = slice(first, first + count)
            planes = _between(wide, (along[0][these], along[1][these], along[2][these]), 0)
            labels[these] = self._chosen(_between(planes, self._across, 2))
        return labels.cpu().numpy()

    def _chosen(self, logits: Tensor) -> Tensor:
        if not self._by_regions:
            values = torch.tensor(self._values, dtype=self._dtype, device=logits.device)
            return values[logits[:, : len(self._values)].argmax(1)]
        labels = torch.zeros(logits.select(1, 0).shape, dtype=self._dtype, device=logits.device)
        for k in self._order:
            labels.masked_fill_(logits[:, k] > 0, self._values[k])
        return labels


def _between(values: Tensor, neighbors: Neighbors, axis: int) -> Tensor:
    """Linear interpolation along one axis."""
    low, high = (torch.from_numpy(np.ascontiguousarray(each)).to(values.device) for each in neighbors[:2])
    weight = torch.from_numpy(np.ascontiguousarray(neighbors[2])).to(values.device)
    first = values.index_select(axis, low)
    shape = [math.prod(weight.shape) if a == axis else 1 for a in range(values.dim())]
    return first + weight.view(shape) * (values.index_select(axis, high) - first)
