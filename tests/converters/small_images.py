"""Images of a few voxels, for converters that look into files."""

from pathlib import Path

import numpy as np

from mambamed.geometry import Affine
from mambamed.io.images import Image, write_image

# x runs to the left, 2 mm; z 3 mm; an origin that is not zero.
LPS = np.array([[-2.0, 0, 0, 10], [0, -2.0, 0, 20], [0, 0, 3.0, -30], [0, 0, 0, 1]])


def write_small(path: Path, value: int = 0, affine: Affine = LPS, seed: int = 0) -> Path:
    """6 x 5 x 4 voxels: noise, or a label map with a block of `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(1, 900, (6, 5, 4)).astype(np.int16)
    if value:
        array = np.zeros((6, 5, 4), np.uint8)
        array[1:4, 1:3, 1:3] = value
    write_image(path, array, Image(array, affine))
    return path
