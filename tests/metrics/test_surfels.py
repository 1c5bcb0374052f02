"""The derived table of areas against the hand-made one of surface-distance."""

import numpy as np
import pytest

from mambamed.metrics.surfels import VOXELS, area_of_codes


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 5.0), (2.0, 0.5, 1.3)])
def test_areas_equal_the_table_of_surface_distance(spacing) -> None:
    from surface_distance import lookup_tables

    theirs = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    bit = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    # Their bits are counted from the other end.
    codes = [sum(int(bit[v]) for k, v in enumerate(VOXELS) if code >> k & 1) for code in range(256)]
    np.testing.assert_allclose(area_of_codes(np.array(spacing)), theirs[codes], rtol=1e-12, atol=1e-12)
