"""Where an image has content: the bounding box of what is not zero in any channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mambamed.documents.plan import Triple
from mambamed.preparation.image_kernels import filled_mask, grow_box, in_kernel_type


def nonzero_box(channels: Sequence[NDArray]) -> tuple[Triple, Triple]:
    """First and last-plus-one voxel along each axis of what is not zero in any channel.

    Args:
        channels: `(X, Y, Z)` arrays of one shape.

    Returns:
        `(start, stop)`; the whole grid where everything is zero.

    Source:
        nnU-Net's crop_to_nonzero: filling the holes of the mask does not change its box.

    >>> image = np.zeros((5, 6, 7)); image[1:3, 2, 4:6] = 1
    >>> nonzero_box([image])
    ((1, 2, 4), (3, 3, 6))
    """
    shape = channels[0].shape
    start, stop = np.array(shape, np.int64), np.zeros(3, np.int64)
    for channel in channels:
        grow_box(in_kernel_type(channel), start, stop)
    if not stop.any():
        start, stop = np.zeros(3, np.int64), np.array(shape, np.int64)
    x, y, z = (int(v) for v in start)
    a, b, c = (int(v) for v in stop)
    return (x, y, z), (a, b, c)


def nonzero_mask(channels: Sequence[NDArray]) -> NDArray[np.bool_]:
    """`(X, Y, Z)`: not zero in any channel, holes filled: what "zscore_nonzero" counts.

    Source: nnU-Net's create_nonzero_mask. Within the crop box the answer is that of the whole image,
    because what lies beyond the box is outside.
    """
    return filled_mask([in_kernel_type(channel) for channel in channels])
