"""Window accumulation against MONAI's sliding_window_inference and against the identity."""

import itertools

import pytest
import torch
from torch import nn

from mambamed.inference.sliding_window import Windows, window_logits, window_positions

CPU = torch.device("cpu")


class Smooth(nn.Module):
    """A stand-in whose answer depends on where in the window a voxel lies, as a real network's does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(2, 3, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.mark.parametrize("shape", [(20, 17, 33), (9, 40, 16), (16, 16, 16), (5, 6, 7)])
@pytest.mark.parametrize("gaussian", [True, False])
def test_a_network_that_copies_gives_the_volume_back(shape, gaussian) -> None:
    image = torch.randn(2, *shape)
    windows = Windows((16, 16, 16), gaussian=gaussian, mirror_axes=(0, 2), batch_size=3)
    torch.testing.assert_close(
        window_logits([nn.Identity()], image, windows, device=CPU), image, rtol=1e-5, atol=1e-5
    )


def test_constant_weights_give_what_monai_gives() -> None:
    from monai.inferers import sliding_window_inference

    image, network = torch.randn(2, 24, 24, 40), Smooth().eval()
    ours = window_logits([network], image, Windows((16, 16, 16), gaussian=False), device=CPU)
    with torch.inference_mode():
        theirs = sliding_window_inference(image[None], (16, 16, 16), 1, network, overlap=0.5, mode="constant")
    torch.testing.assert_close(ours, theirs[0], rtol=1e-4, atol=1e-5)


def test_gaussian_weights_are_those_of_the_formula() -> None:
    """By hand, in float64: sum of w * logits over sum of w, w = exp(-d^2 / (2 (patch/8)^2))."""
    image, network, patch = torch.randn(2, 24, 16, 40), Smooth().eval(), 16
    offset = torch.arange(patch).double() - 7.5
    line = torch.exp(-(offset**2) / (2 * 2.0**2))
    weight = line[:, None, None] * line[:, None] * line
    total, covered = torch.zeros(3, 24, 16, 40).double(), torch.zeros(24, 16, 40).double()
    with torch.inference_mode():
        for x in (0, 8):
            for z in (0, 8, 16, 24):
                logits = network(image[None, :, x : x + patch, :, z : z + patch])[0].double()
                total[:, x : x + patch, :, z : z + patch] += weight * logits
                covered[x : x + patch, :, z : z + patch] += weight
    ours = window_logits([network], image, Windows((patch, patch, patch)), device=CPU)
    torch.testing.assert_close(ours, (total / covered).float(), rtol=1e-4, atol=1e-5)


def test_mirrored_copies_are_averaged_in_the_images_own_direction() -> None:
    class Ramp(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.arange(x.shape[2], dtype=x.dtype)[:, None, None]

    image = torch.zeros(1, 8, 8, 8)
    windows = Windows((8, 8, 8), gaussian=False, mirror_axes=(0,))
    # By hand: the mean of i and 7 - i is 3.5 everywhere.
    assert torch.all(window_logits([Ramp()], image, windows, device=CPU) == 3.5)


def test_an_ensemble_is_the_mean_of_its_networks() -> None:
    class Constant(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full_like(x, self.value)

    windows = Windows((8, 8, 8))
    logits = window_logits([Constant(1), Constant(4)], torch.zeros(1, 12, 8, 8), windows, device=CPU)
    torch.testing.assert_close(logits, torch.full((1, 12, 8, 8), 2.5))


def test_windows_cover_the_axis_and_overlap_enough() -> None:
    for size in range(1, 200, 7):
        for patch in (8, 16, 33):
            starts = window_positions(size, patch, 0.5)
            covered = {v for s in starts for v in range(s, s + patch)}
            assert covered >= set(range(size))
            assert all(b - a <= patch / 2 + 1 for a, b in itertools.pairwise(starts))


def test_every_window_is_told() -> None:
    told: list[tuple[int, int]] = []
    image = torch.zeros(1, 16, 8, 8)
    window_logits([nn.Identity()], image, Windows((8, 8, 8)), device=CPU, heard=lambda *n: told.append(n))
    assert told == [(1, 3), (2, 3), (3, 3)]
