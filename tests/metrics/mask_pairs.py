"""Pairs of masks that the tests of this folder share."""

import numpy as np
from scipy import ndimage


def random_pairs(count: int, seed: int = 0):
    """Blobs, noise and near copies on small grids of any spacing: `(reference, prediction, spacing)`."""
    random = np.random.default_rng(seed)
    made = 0
    while made < count:
        shape = random.integers(1, 20, 3)
        spacing = random.uniform(0.4, 5.0, 3)
        kind = made % 4
        if kind == 0:
            reference, prediction = random.random(shape) > 0.7, random.random(shape) > 0.8
        else:
            reference = ndimage.gaussian_filter(random.normal(size=shape), 1.5) > 0.02
            prediction = ndimage.gaussian_filter(random.normal(size=shape), 1.5) > 0.05
        if kind == 2:
            prediction = ndimage.binary_dilation(reference)
        if kind == 3:  # far apart, so that the search by columns gives up
            reference[: len(reference) // 2] = False
            prediction[len(reference) // 2 :] = False
        if reference.any() and prediction.any():
            made += 1
            yield reference, prediction, spacing
