"""The saliency map lies on the voxels that it is about, in the colors of its bar."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from mambamed.report.saliency import draw_saliency


def drawn(folder, image, saliency, affine):
    draw_saliency(folder / "s.png", "case", image, affine, saliency)
    return np.rint(imread(folder / "s.png")[..., :3] * 255)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_map_covers_the_voxels_that_it_marks(tmp_path, sign) -> None:
    """The lesion is bright in the upper row; in the lower one it is covered by the map, at the same place."""
    image = np.zeros((30, 36, 24), np.int16)
    image[4:10, 6:14, 3:9] = 100
    picture = drawn(tmp_path, image, (image > 0).astype(np.float32), np.diag([sign, sign, 1.0, 1.0]))
    hottest = np.rint(np.array(matplotlib.colormaps["plasma"](1.0)[:3]) * 255)
    hot = (np.abs(picture - hottest) <= 1).all(-1)
    hot[:, 820:] = False  # the bar
    white = (picture > 250).all(-1)
    half = picture.shape[0] // 2
    for columns in (slice(40, 290), slice(290, 550), slice(550, 820)):
        bright, marked = np.argwhere(white[:half, columns]), np.argwhere(hot[half:, columns])
        big = [np.median(places, axis=0)[1] for places in (bright, marked)]
        assert len(marked) > 500
        assert big[0] == pytest.approx(big[1], abs=4)


def test_the_planes_go_through_the_maximum_of_the_map(tmp_path) -> None:
    """Two bright blocks: only the one at the maximum is covered, though the other is more salient in sum."""
    image, saliency = np.zeros((30, 36, 24), np.int16), np.zeros((30, 36, 24), np.float32)
    saliency[2:14, 2:14, 2:8] = 0.5
    image[20, 30, 20], saliency[20, 30, 20] = 100, 1.0
    picture = drawn(tmp_path, image, saliency, np.eye(4))
    hottest = np.rint(np.array(matplotlib.colormaps["plasma"](1.0)[:3]) * 255)
    hot = (np.abs(picture - hottest) <= 1).all(-1)
    assert all(hot[:, columns].any() for columns in (slice(40, 290), slice(290, 550), slice(550, 820)))


def test_every_color_of_the_map_is_one_of_its_bar(tmp_path) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(100, 10, (12, 12, 12))
    saliency = rng.uniform(0, 1, image.shape).astype(np.float32)
    picture = drawn(tmp_path, image, saliency, np.eye(4))
    colored = picture[:, :800][np.ptp(picture[:, :800], axis=-1) > 30]
    bar = np.rint(matplotlib.colormaps["plasma"](np.linspace(0, 1, 1024))[:, :3] * 255)
    distance = np.array([np.abs(bar - pixel).max(-1).min() for pixel in colored[::50]])
    assert len(distance) > 1000
    assert np.mean(distance <= 2) > 0.95  # the others are edges of letters


def test_a_map_of_zeros_is_drawn(tmp_path) -> None:
    picture = drawn(tmp_path, np.arange(60.0).reshape(3, 4, 5), np.zeros((3, 4, 5), np.float32), np.eye(4))
    assert picture.std() > 0
