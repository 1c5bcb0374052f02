"""The inner loops where they are hardest: far surfaces, odd sizes, ends of memory words."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mambamed.metrics import kernels
from mambamed.metrics.kernels import loops

MEMBER = np.zeros(256, np.uint8)
MEMBER[1] = 1


def surfaces(shape, seed):
    random = np.random.default_rng(seed)
    masks = (random.random((2, *shape)) > 0.9).astype(np.uint8)
    masks[0, : shape[0] // 2], masks[1, shape[0] // 2 :] = 0, 0
    box = np.array([(0, n) for n in shape])
    return [loops("numba").surface_voxels(mask, MEMBER, box) for mask in masks]


@pytest.mark.parametrize("budget", [600, 1, 0])
def test_nearest_points_are_those_of_all_pairs_however_early_the_search_gives_up(monkeypatch, budget) -> None:
    monkeypatch.setattr(kernels, "_COLUMNS_PER_POINT", budget)
    spacing = np.array([0.7, 1.3, 2.9])
    for seed in range(4):
        ours, theirs = surfaces((24, 9, 7), seed)
        expected = cdist(ours.positions() * spacing, theirs.positions() * spacing).min(axis=1)
        np.testing.assert_allclose(loops("numba").distances(ours, theirs, spacing), expected, rtol=1e-12)
        np.testing.assert_allclose(loops("numpy").distances(ours, theirs, spacing), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["numba", "numpy"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (4, 4, 8), (2, 3, 16), (5, 1, 9)])
def test_counts_and_boxes_are_those_of_a_plain_count(name, shape) -> None:
    random = np.random.default_rng(sum(shape))
    pair = random.choice(4, (2, *shape), p=(0.85, 0.05, 0.05, 0.05)).astype(np.uint8)
    joint, *boxes = loops(name).tally(pair[0], pair[1], 5)
    for i in range(5):
        for j in range(5):
            assert joint[i, j] == np.sum((pair[0] == i) & (pair[1] == j))
    for labels, found in zip(pair, boxes, strict=True):
        for value in range(1, 5):
            places = np.argwhere(labels == value)
            if len(places):
                expected = np.stack([places.min(axis=0), places.max(axis=0) + 1], axis=1)
                np.testing.assert_array_equal(found[value], expected)
            else:
                assert np.all(found[value] == 0)


def test_metrics_are_computed_without_numba_where_it_is_missing(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mambamed.metrics.compiled", None)
    monkeypatch.delattr("mambamed.metrics.compiled", raising=False)
    loops.cache_clear()
    try:
        assert loops().name == "numpy"
        with pytest.raises(ImportError):
            loops("numba")
    finally:
        loops.cache_clear()


@pytest.mark.parametrize("place", range(12))
def test_a_single_voxel_is_found_where_eight_voxels_span_more_than_a_plane(place) -> None:
    reference, prediction = np.zeros((2, 2, 3, 2), np.uint8)
    prediction.flat[place] = 1
    joint, _, boxes = loops("numpy").tally(reference, prediction, 2)
    assert joint.tolist() == [[11, 1], [0, 0]]
    where = np.unravel_index(place, prediction.shape)
    assert boxes[1].tolist() == [[i, i + 1] for i in where]
