"""Where a classifier looked: by hand for a network that one can see through, and in the file's own grid."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from mambamed.answers.saliency import Cam, grad_cam, integrated_gradients, on_native_grid
from mambamed.errors import ModelError
from mambamed.geometry import Orientation
from mambamed.networks import build_network
from mambamed.preparation.grid import CaseGeometry
from mambamed.tasks.covariates import WithCovariates


class SeeThrough(nn.Module):
    """Class 1 is the mean of the image, class 0 its opposite."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool3d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.pool(x).mean((1, 2, 3, 4))
        return torch.stack([-mean, mean], dim=1)


def test_the_map_is_where_the_class_is() -> None:
    patch = torch.zeros(1, 8, 8, 12)
    patch[0, 2:4, 4:6, 10:12] = 3
    found = grad_cam(SeeThrough(), patch, 1).values
    assert found.shape == (4, 4, 6)
    expected = np.zeros((4, 4, 6))
    expected[1, 2, 5] = 1
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("method", [grad_cam, integrated_gradients])
def test_what_speaks_against_a_class_is_not_shown(method) -> None:
    patch = torch.zeros(1, 8, 8, 8)
    patch[0, 2:4, 4:6, 4:6] = 3
    assert (method(SeeThrough(), patch, 0).values == 0).all()


def test_the_contributions_to_a_sum_are_its_parts() -> None:
    """By hand: the log-odds of class 1 are twice the mean, so that each voxel adds its value."""
    patch = torch.zeros(1, 8, 8, 12)
    patch[0, 2:4, 4:6, 8:10] = 3
    found = integrated_gradients(SeeThrough(), patch, 1)
    expected = ndimage.gaussian_filter(patch[0].numpy(), 1.0)
    np.testing.assert_allclose(found.values, expected / expected.max(), atol=1e-5)
    assert found.step.tolist() == [1, 1, 1] and found.start.tolist() == [0, 0, 0]


class Brightest(nn.Module):
    """Class 1 if a place of five voxels is bright, wherever it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = nn.functional.avg_pool3d(x[:, :1], 5, 1, 2)
        highest = mean.flatten(1).amax(1)
        return torch.stack([torch.zeros_like(highest), 9 * (highest - 1)], dim=1)


def test_the_highest_place_lies_in_the_ball_that_decides() -> None:
    random = np.random.default_rng(0)
    for center in random.uniform(4, 20, (5, 3)):
        ball = ((np.indices((24, 24, 24)) - center[:, None, None, None]) ** 2).sum(0) <= 9
        image = random.normal(size=ball.shape) + 3 * ball
        found = integrated_gradients(Brightest(), torch.from_numpy(image.astype(np.float32))[None], 1)
        assert ball[np.unravel_index(int(found.values.argmax()), ball.shape)]


def test_covariates_are_constant_and_may_be_unknown() -> None:
    network = WithCovariates(Brightest(), 1, 2, 2).eval()
    patch = torch.rand(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    unknown = torch.full_like(patch, float("nan"))
    found = integrated_gradients(network, torch.cat([patch, torch.ones_like(patch), unknown]), 1)
    assert found.values.max() == pytest.approx(1)
    np.testing.assert_allclose(found.values, integrated_gradients(Brightest(), patch, 1).values, atol=1e-5)


@pytest.mark.parametrize("name", ["nnmamba_classifier", "resnet"])
def test_a_shipped_classifier_shows_a_map_without_changing(name) -> None:
    torch.manual_seed(0)
    network = build_network(name, 1, 2).eval().requires_grad_(False)
    found = grad_cam(network, torch.randn(1, 40, 48, 34), 1).values
    assert min(found.shape) >= 4
    assert found.min() >= 0
    assert found.max() == pytest.approx(1)
    assert not any(module._forward_hooks for module in network.modules())


class Halved(nn.Module):
    """A pooling that is no module of torch, as DenseNet's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool3d(x, 2, 2, ceil_mode=True)


def test_a_feature_lies_in_the_middle_of_the_voxels_that_change_it() -> None:
    torch.manual_seed(0)
    down = nn.Sequential(nn.Conv3d(1, 2, 7, 2, 3), nn.AvgPool3d(3, 2, 1), Halved())
    network = nn.Sequential(down, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 2))
    patch = torch.rand(1, 65, 65, 65)
    cam = grad_cam(network, patch, 1)
    assert cam.values.shape == (9, 9, 9)
    moved = patch[None].requires_grad_()
    (slope,) = torch.autograd.grad(down(moved)[0, :, 4, 4, 4].sum(), moved)
    places = np.argwhere(slope[0, 0].numpy() != 0)
    assert cam.step.tolist() == [8, 8, 8]
    np.testing.assert_allclose(cam.start + 4 * cam.step, (places.min(0) + places.max(0)) / 2)


def test_a_strided_convolution_lies_on_its_first_voxel_and_padding_behind_moves_nothing() -> None:
    """By hand: two convolutions of 3, stride 2, padding 1: feature i is centered on voxel 4i."""
    convolutions = [nn.Conv3d(1, 1, 3, 2, 1), nn.Conv3d(1, 1, 3, 2, 1)]
    longer = nn.ConstantPad3d((0, 0, 0, 0, 0, 4), 0.0)
    network = nn.Sequential(longer, *convolutions, nn.Flatten(), nn.Linear(80, 2))
    cam = grad_cam(network, torch.rand(1, 16, 16, 16), 1)
    assert cam.values.shape == (5, 4, 4)
    assert cam.step.tolist() == [4, 4, 4] and cam.start.tolist() == [0, 0, 0]


def test_a_network_without_places_cannot_be_shown() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(512, 2)).eval()
    with pytest.raises(ModelError, match=r"grad-cam needs features on a grid.*Use gradients\."):
        grad_cam(flat, torch.randn(1, 8, 8, 8), 0)


def test_a_vision_transformer_is_shown_at_its_cubes_of_voxels() -> None:
    """Its attention has a tensor of five axes that is no grid: queries, keys and values."""
    small = {"patch_size": [32, 32, 32], "hidden": 24, "mlp": 32, "layers": 1, "heads": 4}
    network = build_network("vit", 1, 2, token=8, **small).eval()
    cam = grad_cam(network, torch.rand(1, 32, 32, 32), 1)
    assert cam.values.shape == (4, 4, 4)
    assert cam.step.tolist() == [8, 8, 8] and cam.start.tolist() == [3.5, 3.5, 3.5]


def test_a_hot_place_is_as_hot_at_the_same_point_of_the_world() -> None:
    # stored right-to-left and with z first, cropped, resampled 2 -> 1 mm; the patch is smaller than the case
    affine = np.array([[0, -2, 0, 30], [0, 0, 2, -20], [2, 0, 0, 5], [0, 0, 0, 1.0]])
    geometry = CaseGeometry(
        shape_native=(12, 16, 14),
        affine_native=tuple(tuple(row) for row in affine.tolist()),
        orientation=Orientation((1, 2, 0), (True, False, False)),
        crop_start=(2, 1, 0),
        crop_stop=(14, 13, 12),
        shape_prepared=(24, 24, 24),
    )
    patch_size, values = (16, 16, 16), np.zeros((8, 8, 8), np.float32)
    values[2, 5, 3] = 1
    # pooled by two: each feature lies between two voxels
    native = on_native_grid(Cam(values, np.full(3, 2.0), np.full(3, 0.5)), geometry, patch_size)
    assert native.shape == geometry.shape_native
    # middle of the hot voxel: two patch voxels wide, the patch beginning at prepared voxel 4
    prepared = np.array([2, 5, 3]) * 2 + 0.5 + 4
    world = nib.affines.apply_affine(geometry.affine_prepared, prepared)
    center = nib.affines.apply_affine(np.linalg.inv(affine), world)
    weights = native / native.sum()
    grid = np.stack(np.meshgrid(*map(np.arange, native.shape), indexing="ij"), -1)
    np.testing.assert_allclose((grid * weights[..., None]).sum((0, 1, 2)), center, atol=0.05)


def test_nothing_is_hot_outside_of_the_patch() -> None:
    geometry = CaseGeometry(
        (20, 20, 20), tuple(map(tuple, np.eye(4).tolist())), Orientation((0, 1, 2), (False,) * 3),
        (0, 0, 0), (20, 20, 20), (20, 20, 20),
    )  # fmt: skip
    cam = Cam(np.ones((4, 4, 4), np.float32), np.full(3, 2.0), np.full(3, 0.5))
    native = on_native_grid(cam, geometry, (8, 8, 8))
    expected = np.zeros((20, 20, 20))
    expected[6:14, 6:14, 6:14] = 1
    np.testing.assert_allclose(native, expected, atol=1e-6)
