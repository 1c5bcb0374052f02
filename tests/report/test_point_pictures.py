"""Landmarks stand on the voxels that they name, whatever way the file is stored."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import ndimage

from mambamed.report.point_pictures import draw_points


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_circle_surrounds_the_bright_voxel(tmp_path, sign) -> None:
    image = np.zeros((20, 24, 16), np.int16)
    image[4:7, 7:10, 3:6] = 100
    affine = np.diag([sign, sign, 2.0, 1.0])
    draw_points(tmp_path / "p.png", "case", image, affine, {"tip": (5.0, 8.0, 4.0)})
    picture = imread(tmp_path / "p.png")[..., :3]
    # The block of voxels around the landmark; letters are thinner.
    white = ndimage.binary_opening(picture.min(-1) > 0.95, np.ones((4, 4)))
    orange = (picture[..., 0] > 0.8) & (picture[..., 2] < 0.2)
    assert white.any()
    third = picture.shape[1] // 3
    for number in range(3):  # axial, coronal, sagittal
        columns = slice(number * third, (number + 1) * third)
        bright = np.argwhere(white[:, columns]).mean(0)
        marked = np.argwhere(orange[:, columns])
        near = np.linalg.norm(marked - bright, axis=1)
        assert (near < 10).sum() > 10  # pixels of the circle


def test_a_picture_without_landmarks_is_drawn(tmp_path) -> None:
    draw_points(tmp_path / "p.png", "nothing found", np.zeros((4, 5, 6)), np.eye(4), {})
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_every_landmark_has_its_own_color_and_all_have_full_opacity(tmp_path) -> None:
    image = np.zeros((40, 40, 40), np.int16)
    points = {"a": (5.0, 5.0, 5.0), "b": (20.0, 20.0, 20.0), "c": (35.0, 35.0, 35.0)}  # a, c: far off
    draw_points(tmp_path / "p.png", "case", image, np.eye(4), points)
    picture = np.rint(imread(tmp_path / "p.png")[..., :3] * 255)
    for color in ((230, 159, 0), (86, 180, 233), (0, 158, 115)):  # Okabe & Ito 2008
        assert (picture == color).all(-1).sum() > 30
    # An absent landmark leaves the colors of the others.
    draw_points(tmp_path / "q.png", "case", image, np.eye(4), {"c": points["c"]}, landmarks=list(points))
    picture = np.rint(imread(tmp_path / "q.png")[..., :3] * 255)
    assert (picture == (0, 158, 115)).all(-1).sum() > 30
    assert not (picture == (230, 159, 0)).all(-1).any()
