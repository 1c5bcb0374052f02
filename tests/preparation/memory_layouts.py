"""One volume in every way in which it may lie in memory."""

import numpy as np


def layouts(array):
    yield np.ascontiguousarray(array)
    yield np.asfortranarray(array)
    yield np.asfortranarray(array[::-1, :, ::-1])[::-1, :, ::-1]
    yield np.ascontiguousarray(array.transpose(2, 0, 1)).transpose(1, 2, 0)
    yield np.pad(array, 3, constant_values=9)[3:-3, 3:-3, 3:-3]
