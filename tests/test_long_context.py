"""`benchmarks/long_context.py`: the labels of its dataset, and the receptive fields that it computes."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from mambamed.networks import build_network

PROGRAM = Path(__file__).resolve().parents[1] / "benchmarks" / "long_context.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    return importlib.import_module("long_context")


def own_rods(rods):
    """Image and label of each rod: the four quarters of a volume."""
    x, y, _ = (size // 2 for size in rods.image.shape)
    for a in (slice(x), slice(x, None)):
        for b in (slice(y), slice(y, None)):
            yield rods.image[a, b], rods.label[a, b]


@pytest.mark.parametrize("distance", [16, 128])
def test_a_blob_has_the_class_of_the_marker_at_this_distance_on_its_rod(benchmark, distance) -> None:
    """A marker is brighter than 3 or darker than -1, more than three standard deviations from all else."""
    rods = benchmark.make_rods(5, distance)
    assert sorted(rods.kinds.tolist()) == [1, 1, 2, 2]
    for kind, (image, label) in zip(rods.kinds, own_rods(rods), strict=True):
        assert set(np.unique(label)) == {0, kind}
        ends = [np.flatnonzero((image > 3).sum((0, 1)) > 3), np.flatnonzero((image < -1).sum((0, 1)) > 3)]
        assert [end.size > 0 for end in ends] == [kind == 2, kind == 1]
        marker, blob = ends[2 - kind], np.flatnonzero(label.any((0, 1)))
        assert blob[0] - marker[-1] - 1 == distance


def test_blobs_look_the_same_in_both_classes(benchmark) -> None:
    """The means of some 1300 voxels of either class, each with noise of 0.3: the difference is below 0.05."""
    cases = [benchmark.make_rods(seed, 16) for seed in range(12)]
    means = [np.mean(np.concatenate([c.image[c.label == kind] for c in cases])) for kind in (1, 2)]
    assert means == pytest.approx([2, 2], abs=0.05)


def test_a_seed_gives_the_same_case_and_another_one_does_not(benchmark) -> None:
    first, again, other = (benchmark.make_rods(seed, 16) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label, again.label)
    assert not np.array_equal(first.image, other.image)


def test_a_blob_counts_by_most_of_its_labelled_voxels(benchmark) -> None:
    reference = np.zeros((4, 9), int)
    reference[:, :2], reference[:, 3:5], reference[:, 6:8] = 1, 2, 2
    mask = np.zeros_like(reference)
    mask[:3, :2] = 1  # 6 of 8 voxels, all right
    mask[:, 3], mask[:2, 4] = 1, 2  # 4 wrong, 2 right
    assert benchmark.blobs_right(mask, reference) == [True, False, False]


def test_the_reach_of_two_convolutions_is_their_sum(benchmark) -> None:
    layers = nn.Sequential(nn.Conv3d(1, 1, 5, padding=2), nn.ReLU(), nn.Conv3d(1, 1, 3, padding=1))
    assert benchmark.reach(layers) == 3


def test_the_reach_of_a_unet_is_that_by_hand(benchmark) -> None:
    """nnU-Net with two stages. The last two convolutions see outputs i-2 to i+2, that is, coarse voxels from
    floor((i-2)/2) to floor((i+2)/2): for odd i = 2j+1, from j-1 to j+1. The coarse stage's second convolution
    adds 1, its first one, with stride 2, sees 2(j-2)-1 to 2(j+2)+1, and the first stage adds 2: from 2j-7 to
    2j+7. The farthest is 8 from 2j+1.
    """
    network = build_network("nnunet", 1, 2, channels=1, strides=[1, 2], deep_supervision=False)
    assert benchmark.reach(network) == 8
