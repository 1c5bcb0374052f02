"""The bounding box and the mask of the voxels that are not zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mambamed.documents.plan import Triple
from mambamed.preparation.image_kernels import filled_mask, grow_box, in_kernel_type


def nonzero_box(channels: Sequence[NDArray]) -> tuple[Triple, Triple]:
    """First and last-plus-one voxel along each axis of the voxels that are not zero in some channel.

    `channels`: `(X, Y, Z)` arrays of one shape.

    Returns: `(start, stop)`; the whole grid if all voxels are zero.

    Source: nnU-Net's crop_to_nonzero; its filling of holes does not change the box.

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
    """`(X, Y, Z)`: voxels not zero in some channel, with holes filled, as "zscore_nonzero" uses them.

    Source: nnU-Net's create_nonzero_mask. The mask of a cropped image equals that of the whole image.
    """
    return filled_mask([in_kernel_type(channel) for channel in channels])
