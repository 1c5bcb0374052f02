"""Against SciPy's splines in float64, as nnU-Net calls them through scikit-image's `resize`."""

import numpy as np
import pytest
import scipy.ndimage

from mambamed.preparation.resample import coarse_axis, resample_label, resample_volume, resampled_shape

RNG = np.random.default_rng(4)
GRIDS = [((20, 24, 18), (31, 17, 18)), ((9, 30, 12), (5, 45, 20)), ((12, 12, 1), (6, 20, 4))]


def zoomed(volume, shape, order):
    """`resize(mode="edge", anti_aliasing=False)`, whose clip to the old range is the caller's."""
    factors = [m / n for n, m in zip(volume.shape, shape, strict=True)]
    return scipy.ndimage.zoom(volume.astype(float), factors, order=order, mode="nearest", grid_mode=True)


def smooth_labels(shape, count):
    field = scipy.ndimage.gaussian_filter(RNG.normal(size=shape), 2)
    return np.digitize(field, np.quantile(field, np.linspace(0.5, 0.95, count))).astype(np.uint8)


def resample_image(array, shape, coarse=None):
    out = np.empty((len(array), *shape), np.float32)
    for channel, target in zip(array, out, strict=True):
        resample_volume(channel, target, coarse=coarse)
    return out


def in_layouts(array):
    """The same values as files and views have them in memory."""
    yield np.ascontiguousarray(array)
    yield np.asfortranarray(array)
    yield np.ascontiguousarray(array.transpose(1, 0, 2)).transpose(1, 0, 2)
    yield np.asfortranarray(array[::-1, :, ::-1])[::-1, :, ::-1]
    yield np.pad(array, 2)[2:-2, 2:-2, 2:-2]


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_cubic_splines_are_scipys_in_every_memory_layout(old, new, dtype) -> None:
    volume = (RNG.normal(size=old) * 100).astype(dtype)
    expected = np.clip(zoomed(volume, new, 3), volume.min(), volume.max())
    for layout in in_layouts(volume):
        ours = resample_image(layout[None], new)[0]
        np.testing.assert_allclose(ours, expected, atol=1e-4 * volume.std())


def test_channels_do_not_meet() -> None:
    volume = RNG.normal(size=(2, 6, 7, 8)).astype(np.float32)
    both = resample_image(volume, (9, 5, 8))
    for channel in range(2):
        np.testing.assert_array_equal(both[channel], resample_image(volume[channel][None], (9, 5, 8))[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_a_coarse_axis_are_resampled_in_their_plane_and_repeated(axis) -> None:
    """nnU-Net: `resize` of each slice, clipped to it, then `map_coordinates(order=0)` along the axis."""
    old, new = [20, 24, 22], [30, 17, 25]
    old[axis], new[axis] = 6, 21
    volume = RNG.normal(size=old).astype(np.float32)
    in_plane = [m for k, m in enumerate(new) if k != axis]
    slices = [
        np.clip(zoomed(plane, in_plane, 3), plane.min(), plane.max())
        for plane in np.moveaxis(volume, axis, 0)
    ]
    where = 6 / 21 * (np.arange(21) + 0.5) - 0.5
    index = scipy.ndimage.map_coordinates(np.arange(6.0), where[None], order=0, mode="nearest").astype(int)
    expected = np.moveaxis(np.stack(slices)[index], 0, axis)
    for layout in in_layouts(volume):
        np.testing.assert_allclose(resample_image(layout[None], new, coarse=axis)[0], expected, atol=1e-4)
    labels = smooth_labels(old, 1)
    votes = np.stack([zoomed(p == 1, in_plane, 1) >= 0.5 - 1e-9 for p in np.moveaxis(labels, axis, 0)])
    ours = resample_label(labels, new, coarse=axis)
    np.testing.assert_array_equal(ours, np.moveaxis(votes[index], 0, axis))


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_labels_are_nnunets_wherever_one_has_half_the_votes(old, new) -> None:
    """Elsewhere nnU-Net leaves background, and the largest share wins here."""
    labels = smooth_labels(old, 4)
    shares = np.stack([zoomed(labels == value, new, 1) for value in range(5)])
    expected = np.zeros(new, int)
    for value in range(5):
        expected[shares[value] >= 0.5 - 1e-9] = value
    decided = shares.max(0) >= 0.5 - 1e-9
    assert decided.mean() > 0.9
    for layout in in_layouts(labels):
        ours = resample_label(layout, new)
        np.testing.assert_array_equal(ours[decided], expected[decided])
        chosen = np.take_along_axis(shares, ours[None].astype(int), 0)[0]
        np.testing.assert_allclose(chosen, shares.max(0), atol=1e-6)


def test_labels_of_every_type_are_resampled_alike() -> None:
    labels = smooth_labels((9, 8, 7), 3)
    expected = resample_label(labels, (12, 5, 9))
    for dtype in (np.int8, np.int16, np.int32, np.uint16, np.int64):
        ours = resample_label(labels.astype(dtype), (12, 5, 9))
        assert ours.dtype == dtype
        np.testing.assert_array_equal(ours, expected)


def test_a_constant_stays_constant() -> None:
    assert np.all(resample_image(np.full((1, 5, 6, 7), 37.25), (8, 3, 7)) == np.float32(37.25))


def test_shapes_and_axes_follow_nnunets_rules() -> None:
    """By hand from `compute_new_shape` and `determine_do_sep_z_and_axis`."""
    assert resampled_shape((35, 50, 35), (1, 1, 1), (1, 1, 1)) == (35, 50, 35)
    assert resampled_shape((3, 3, 3), (1, 1, 1), (9, 2, 1)) == (1, 2, 3)  # 1.5 rounds to even
    assert coarse_axis((5, 0.8, 0.8), (1.5, 1.5, 1.5)) == 0
    assert coarse_axis((1, 1, 3), (1, 1, 1)) is None  # more than three times, not three
    assert coarse_axis((1, 5, 5), (1, 1, 1)) is None  # two coarse axes: all are splines
    assert coarse_axis((1, 1, 1), (1, 1, 4)) == 2


def test_what_is_no_volume_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(0, 6, 7\)"):
        resample_label(np.zeros((0, 6, 7), np.uint8), (5, 6, 7))
