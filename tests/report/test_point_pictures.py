"""Landmarks stand on the voxels that they name, whatever way the file is stored."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from mambamed.report.point_pictures import draw_points


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_circle_surrounds_the_bright_voxel(tmp_path, sign) -> None:
    image = np.zeros((20, 24, 16), np.int16)
    image[5, 8, 4] = 100
    affine = np.diag([sign, sign, 2.0, 1.0])
    draw_points(tmp_path / "p.png", "case", image, affine, {"tip": (5.0, 8.0, 4.0)})
    picture = imread(tmp_path / "p.png")[..., :3]
    white = (picture.min(-1) > 0.95).copy()
    white[:70] = False  # titles
    orange = (picture[..., 0] > 0.8) & (picture[..., 2] < 0.2)
    assert white.any()
    third = picture.shape[1] // 3
    for number in range(3):  # axial, coronal, sagittal
        columns = slice(number * third, (number + 1) * third)
        bright = np.argwhere(white[:, columns]).mean(0)
        marked = np.argwhere(orange[:, columns])
        near = np.linalg.norm(marked - bright, axis=1)
        assert (near < 8).sum() > 10  # pixels of the circle


def test_a_picture_without_landmarks_is_drawn(tmp_path) -> None:
    draw_points(tmp_path / "p.png", "nothing found", np.zeros((4, 5, 6)), np.eye(4), {})
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
