"""Single steps against nnU-Net's rules, worked out with NumPy and SciPy on the same arrays."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage

from mambamed.batches.augment import change_intensities
from mambamed.documents.plan import Ct, MinMax, Plan, Rgb, ZScore, ZScoreNonzero, per_case
from mambamed.errors import CaseError
from mambamed.geometry import voxel_to_world, world_to_voxel
from mambamed.io.images import Image
from mambamed.preparation.crop import nonzero_box, nonzero_mask
from mambamed.preparation.normalize import Scaling
from mambamed.preparation.prepare_image import prepare_image, prepare_label
from mambamed.recipe import Augment

RNG = np.random.default_rng(0)


def plan(spacing=(1.0, 1.0, 1.0), scheme="none", crop="nonzero", channels=1, keep=False) -> Plan:
    return Plan(
        spacing_mm=spacing,
        shape_median=(8, 8, 8),
        patch_size=(8, 8, 8),
        batch_size=2,
        crop=crop,
        normalization=(per_case(scheme),) * channels,
        keep_spacing=keep,
    )


def test_the_box_holds_what_is_not_zero_in_any_channel() -> None:
    first, second = np.zeros((9, 8, 7)), np.zeros((9, 8, 7))
    first[2, 3, 4], second[5, 1, 6] = 1, -1
    assert nonzero_box([first, second]) == ((2, 1, 4), (6, 4, 7))
    assert nonzero_box([np.zeros((3, 4, 5))]) == ((0, 0, 0), (3, 4, 5))


def test_the_mask_has_no_holes() -> None:
    image = np.ones((7, 7, 7))
    image[3, 3, 3] = 0
    image[0] = 0
    np.testing.assert_array_equal(nonzero_mask([image]), scipy.ndimage.binary_fill_holes(image != 0))
    assert nonzero_mask([image])[3, 3, 3]


def normalized(channel, normalization, mask):
    out = np.empty(channel.shape, np.float32)
    Scaling.of(channel, normalization, mask).fill(channel, out)
    return out


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_normalization_is_nnunets(dtype) -> None:
    channel = RNG.integers(0, 200, (6, 7, 8)).astype(dtype)
    mask = RNG.random((6, 7, 8)) > 0.4
    exact = channel.astype(np.float64)
    np.testing.assert_allclose(
        normalized(channel, ZScore(), None), (exact - exact.mean()) / exact.std(), atol=1e-5
    )
    inside = np.where(mask, (exact - exact[mask].mean()) / exact[mask].std(), 0)
    np.testing.assert_allclose(normalized(channel, ZScoreNonzero(), mask), inside, atol=1e-5)
    ct = Ct(mean=60.0, std=30.0, low=20.0, high=150.0)
    np.testing.assert_allclose(
        normalized(channel, ct, None), (np.clip(exact, 20, 150) - 60) / 30, rtol=1e-5, atol=1e-5
    )

    least, largest = exact.min(), exact.max()
    np.testing.assert_allclose(
        normalized(channel, MinMax(), None), (exact - least) / (largest - least), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(normalized(channel, Rgb(), None), exact / 255, rtol=1e-6)


def test_a_constant_channel_becomes_zero_and_an_outlier_does_not_overflow() -> None:
    for scheme in (ZScore(), MinMax()):
        assert np.all(normalized(np.full((3, 3, 3), 7), scheme, None) == 0)
    channel = RNG.normal(size=(4, 4, 4)).astype(np.float32)
    channel[0, 0, 0] = 3e38
    assert np.isfinite(normalized(channel, ZScore(), None)).all()


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
def test_any_way_of_storing_a_volume_gives_the_same_prepared_array(axes, signs) -> None:
    """A RAS volume of 1 x 2 x 3 mm, stored with axes permuted and mirrored, prepared to 1.5 mm."""
    array, affine = RNG.normal(size=(12, 10, 8)).astype(np.float32) + 9, np.diag([1.0, 2.0, 3.0, 1.0])
    reference, geometry = prepare_image([Image(array, affine)], plan((1.5, 1.5, 1.5)))
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    stored = array.transpose(axes)
    for new, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        turn[axis, new] = sign
        if sign < 0:
            turn[axis, 3] = array.shape[axis] - 1
            stored = np.flip(stored, new)
    ours, other = prepare_image([Image(stored, affine @ turn)], plan((1.5, 1.5, 1.5)))
    np.testing.assert_allclose(ours, reference, atol=1e-5)
    np.testing.assert_allclose(other.affine_prepared, geometry.affine_prepared, atol=1e-9)


def test_axes_as_stored_are_cropped_and_resampled_in_the_order_of_the_file() -> None:
    array = RNG.normal(size=(12, 10, 8)).astype(np.float32) + 9
    array[:2] = 0
    affine = np.array([[0, -2.0, 0, 1], [0, 0, 3.0, 2], [-1.0, 0, 0, 3], [0, 0, 0, 1]])
    stored = plan((2.0, 2.0, 1.5)).changed(axes="stored")
    ours, geometry = prepare_image([Image(array, affine)], stored)
    reference, _ = prepare_image([Image(array, np.diag([1.0, 2.0, 3.0, 1.0]))], plan((2.0, 2.0, 1.5)))
    np.testing.assert_array_equal(ours, reference)
    assert geometry.crop_start == (2, 0, 0) and geometry.shape_prepared == (5, 10, 16)
    corner = voxel_to_world(geometry.affine_prepared, (-0.5, -0.5, -0.5))
    np.testing.assert_allclose(corner, voxel_to_world(affine, (1.5, -0.5, -0.5)))


def test_like_nnunet_the_spacing_is_that_of_the_header() -> None:
    """35 voxels of 0.5 mm are 17.5 of 1 mm, rounded to 18; by the rounded directions they are 17.49999."""
    header = nib.Nifti1Header()
    header["pixdim"][1:4] = 0.5, 1.0, 1.0
    affine = np.diag([0.49999997, 1.0, 1.0, 1.0])
    image = Image(RNG.normal(size=(35, 8, 8)).astype(np.float32), affine, header)
    assert prepare_image([image], plan())[0].shape == (1, 17, 8, 8)
    assert prepare_image([image], plan().changed(like_nnunet=True))[0].shape == (1, 18, 8, 8)
    header["pixdim"][1] = 0.6  # not the spacing of this affine
    assert prepare_image([image], plan().changed(like_nnunet=True))[0].shape == (1, 17, 8, 8)


def test_like_nnunet_logits_take_the_nearest_slice_along_a_coarse_axis() -> None:
    image = Image(RNG.normal(size=(8, 9, 10)).astype(np.float32), np.diag([1.0, 1.0, 5.0, 1.0]))
    like = plan((1.0, 1.0, 2.0)).changed(like_nnunet=True)
    assert prepare_image([image], like)[1].nearest_axis == 2
    assert prepare_image([image], plan((1.0, 1.0, 2.0)))[1].nearest_axis is None


def test_the_prepared_grid_covers_the_box_of_the_native_one() -> None:
    array = np.ones((10, 12, 14), np.int16)
    affine = np.diag([0.5, 1.0, 2.0, 1.0])
    prepared, geometry = prepare_image([Image(array, affine)], plan((1.0, 1.0, 1.0)))
    assert prepared.shape == (1, 5, 12, 28)
    for corner in itertools.product((-0.5, 1.0), repeat=3):
        edge = [(-0.5 if c < 0 else n - 0.5) for c, n in zip(corner, array.shape, strict=True)]
        new = [(-0.5 if c < 0 else n - 0.5) for c, n in zip(corner, prepared.shape[1:], strict=True)]
        there = world_to_voxel(geometry.affine_prepared, voxel_to_world(affine, edge))
        np.testing.assert_allclose(there, new, atol=1e-9)


def test_a_label_comes_to_the_grid_of_its_image_in_whatever_order_it_is_stored() -> None:
    image = np.zeros((8, 9, 10), np.float32)
    image[2:7, 1:8, 3:9] = 5
    label = np.zeros((8, 9, 10), np.float32)
    label[4, 5, 6], label[3, 3, 3] = 2.0000001, 0.9999999
    _, geometry = prepare_image([Image(image, np.eye(4))], plan())
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = 7
    for stored, affine in ((label, np.eye(4)), (label[::-1], flipped)):
        prepared = prepare_label(Image(stored, affine), geometry)
        assert prepared.dtype == np.uint8
        assert prepared.shape == (5, 7, 6)
        assert prepared[2, 4, 3] == 2
        assert prepared[1, 2, 0] == 1
        assert prepared.astype(int).sum() == 3


def test_keeping_the_spacing_resamples_nothing() -> None:
    array = RNG.integers(1, 99, (6, 7, 8)).astype(np.int16)
    prepared, _ = prepare_image([Image(array, np.diag([0.7, 0.7, 3.0, 1.0]))], plan(keep=True))
    np.testing.assert_array_equal(prepared[0], array)


def test_channels_that_do_not_fit_are_refused() -> None:
    array = np.ones((4, 4, 4))
    with pytest.raises(CaseError, match="1 channels, but the model expects 2"):
        prepare_image([Image(array, np.eye(4))], plan(channels=2))
    moved = np.eye(4)
    moved[0, 3] = 20
    with pytest.raises(CaseError, match="channel 1 is not on the grid of channel 0: origin"):
        prepare_image([Image(array, np.eye(4)), Image(array, moved)], plan(channels=2))


def test_a_missing_channel_is_zero_as_a_dropped_one_is_in_training() -> None:
    """`change_intensities` sets a dropped channel of the normalized patch to 0."""
    images = [Image(RNG.normal(7, 2, size=(8, 9, 10)).astype(np.float32), np.eye(4)) for _ in range(2)]
    three = plan((1.5, 1.5, 1.5)).changed(normalization=(ZScore(),) * 3)
    array, _ = prepare_image(images, three, missing=[1])
    two, _ = prepare_image(images, three.changed(normalization=(ZScore(),) * 2))
    assert (array[1] == 0).all()
    np.testing.assert_array_equal(array[[0, 2]], two)
    still = dict.fromkeys(("noise", "blur", "brightness", "contrast", "low_resolution", "gamma"), 0)
    always = Augment(drop_channel=1.0, **still)
    dropped = change_intensities(array.copy(), always, np.random.default_rng(0))
    assert sum(bool((channel == 0).all()) for channel in dropped) >= 2
    with pytest.raises(CaseError, match="2 channels, but the model expects 3"):
        prepare_image(images, three)
