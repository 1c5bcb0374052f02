"""The way back in one named step: logits on the prepared grid -> a label map on the native grid."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mambamed.geometry import from_ras
from mambamed.io.images import smallest_integer
from mambamed.preparation.grid import CaseGeometry
from mambamed.tasks.segmentation import Segmentation


def native_labels(logits: Tensor, geometry: CaseGeometry, task: Segmentation) -> NDArray:
    """Undo resampling, crop and orientation, and decide.

    One channel at a time is brought to native voxels, linearly, both grids covering the same box; the
    decision is kept while they pass, so that never all channels exist on the native grid.

    Args:
        logits: `(K, X, Y, Z)` float32 on the prepared grid.
        geometry: where the prepared grid lies in the file.
        task: what the channels mean.

    Returns:
        Label map of `geometry.shape_native`, in the smallest integer type; 0 outside the crop box.
    """
    shape = geometry.shape_cropped
    dtype = smallest_integer(max(task.values))
    values = torch.tensor(task.values, dtype=torch.int32)
    if task.by_regions:
        labels = torch.zeros(shape, dtype=torch.int32)
        for channel in task.order:
            labels[_resampled(logits[channel], shape) > 0] = values[channel]
    else:
        best = _resampled(logits[0], shape)
        winner = torch.zeros(shape, dtype=torch.int32)
        for channel in range(1, len(logits)):
            score = _resampled(logits[channel], shape)
            higher = score > best
            winner[higher] = channel
            best = torch.where(higher, score, best)
        labels = values[winner.long()]
    oriented = np.zeros(geometry.shape_oriented, dtype)
    box = tuple(slice(a, b) for a, b in zip(geometry.crop_start, geometry.crop_stop, strict=True))
    oriented[box] = labels.numpy()
    return from_ras(oriented, geometry.orientation)


def _resampled(channel: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """`(X, Y, Z)` -> `shape`, linear between voxel centers; the tensor itself where nothing changes."""
    if tuple(channel.shape) == shape:
        return channel
    grid = functional.interpolate(channel[None, None], size=shape, mode="trilinear", align_corners=False)
    return grid[0, 0]
