"""Arrays of a prepared dataset: what is written is read back, whole and in boxes."""

from __future__ import annotations

import blosc2
import numpy as np
import pytest

from mambamed.errors import DatasetError
from mambamed.preparation.store import encode_array, read_array


# Less than a chunk, an axis just beyond one, a single slice, and a file above the size that is read at once.
@pytest.mark.parametrize("shape", [(1, 35, 51, 34), (2, 65, 20, 7), (40, 33, 1), (2, 90, 100, 70)])
def test_boxes_are_the_parts_of_what_was_written(tmp_path, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    path = tmp_path / "case.b2nd"
    path.write_bytes(encode_array(array))
    assert (path.stat().st_size > 1 << 20) == (array.size > 10**6)
    np.testing.assert_array_equal(read_array(path), array)
    start, stop = (3, 0, 0), (31, 17, 400)  # beyond the last voxel nothing is read
    np.testing.assert_array_equal(read_array(path, (start, stop)), array[..., 3:31, 0:17, :])


@pytest.mark.parametrize("size", [35, 64, 65, 155, 300])
def test_parts_of_an_axis_are_even(size):
    stored = blosc2.ndarray_from_cframe(encode_array(np.zeros((size, 3, 3), np.uint8)))
    chunk, block = stored.chunks[0], stored.blocks[0]
    assert chunk <= 64 and block <= 32
    # As few as cubes of 64 would make, and less is filled up than there are parts.
    assert -(-size // chunk) == -(-size // 64) and chunk * -(-size // chunk) - size < -(-size // chunk)
    assert block * -(-chunk // block) - chunk < 2


def test_a_truncated_file_is_refused_by_name(tmp_path):
    path = tmp_path / "case.b2nd"
    path.write_bytes(encode_array(np.ones((1, 20, 20, 20), np.float16))[:-40])
    with pytest.raises(DatasetError, match=r"case\.b2nd: cannot be read"):
        read_array(path)
