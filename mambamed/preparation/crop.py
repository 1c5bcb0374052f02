"""Where an image has content: the bounding box of what is not zero in any channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from mambamed.preparation.plan import Triple


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
    start, stop = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.zeros(channels[0].shape[axis], bool)
        for channel in channels:
            hit |= channel.any(axis=others)
        places = np.flatnonzero(hit)
        start.append(int(places[0]) if len(places) else 0)
        stop.append(int(places[-1]) + 1 if len(places) else len(hit))
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


def nonzero_mask(channels: Sequence[NDArray]) -> NDArray[np.bool_]:
    """`(X, Y, Z)`: not zero in any channel, holes filled: what "zscore_nonzero" counts.

    Source: nnU-Net's create_nonzero_mask.
    """
    mask = channels[0] != 0
    for channel in channels[1:]:
        mask |= channel != 0
    if mask.all():
        return mask
    return scipy.ndimage.binary_fill_holes(mask)
