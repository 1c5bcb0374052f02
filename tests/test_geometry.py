"""Expected values come from nibabel and SimpleITK, or from a calculation by hand."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambamed.geometry import (
    affine_to_ras,
    difference_of_grids,
    from_ras,
    orientation_of,
    spacing_of,
    to_ras,
    voxel_to_world,
    world_to_voxel,
)

CODES = ["".join(p) for s in itertools.product("RL", "AP", "SI") for p in itertools.permutations(s)]


def affine_of_codes(codes: str, spacing=(1.0, 2.0, 3.0)) -> np.ndarray:
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (4, 5, 6))
    return affine @ np.diag([*spacing, 1.0])


@pytest.mark.parametrize("codes", CODES)
def test_an_array_is_brought_to_ras_as_nibabel_does(codes) -> None:
    affine, shape = affine_of_codes(codes), (4, 5, 6)
    array = np.arange(120).reshape(shape)
    orientation = orientation_of(affine)
    theirs = nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.int16), affine))
    np.testing.assert_array_equal(to_ras(array, orientation), np.asanyarray(theirs.dataobj))
    np.testing.assert_allclose(affine_to_ras(affine, shape, orientation), theirs.affine)
    np.testing.assert_array_equal(from_ras(to_ras(array, orientation), orientation), array)


@given(st.lists(st.floats(-40, 40), min_size=3, max_size=3))
def test_an_oblique_grid_gets_the_axes_that_nibabel_gives_it(degrees) -> None:
    x, y, z = np.radians(degrees)
    turn_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn_x @ turn_y @ turn_z * (0.5, 1.0, 4.0)
    theirs = nib.io_orientation(affine)
    ours = orientation_of(affine)
    assert [int(np.argwhere(theirs[:, 0] == world)[0, 0]) for world in range(3)] == list(ours.axes)
    assert [bool(theirs[axis, 1] < 0) for axis in ours.axes] == list(ours.flips)
    np.testing.assert_allclose(spacing_of(affine), (0.5, 1.0, 4.0))


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=3))
def test_world_and_voxel_are_inverse(point) -> None:
    affine = affine_of_codes("PIR", (0.7, 1.3, 5.0))
    np.testing.assert_allclose(voxel_to_world(affine, world_to_voxel(affine, point)), point, atol=1e-9)


def test_points_go_where_nibabel_puts_them() -> None:
    affine = affine_of_codes("LPS")
    points = np.array([[0, 0, 0], [3, 4, 5]])
    np.testing.assert_allclose(voxel_to_world(affine, points), nib.affines.apply_affine(affine, points))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a + np.array([[0, 0, 0, 10.0]] + [[0] * 4] * 3), "origin differs by 10 mm"),
        (lambda a: a @ np.diag([-1, 1, 1, 1]), "orientation RAS against LAS"),
        (lambda a: a @ np.diag([1, 1, 2, 1]), "spacing 1x1x1 mm against 1x1x2 mm"),
    ],
)
def test_a_difference_of_grids_is_named(change, words) -> None:
    assert difference_of_grids((9, 9, 9), np.eye(4), (9, 9, 9), change(np.eye(4))) == words


def test_float32_noise_of_headers_is_no_difference() -> None:
    affine = affine_of_codes("LPS", (0.7421875, 0.7421875, 2.5))
    noisy = affine.astype(np.float32) * (1 + 1e-6)
    assert difference_of_grids((512, 512, 90), affine, (512, 512, 90), noisy) is None
