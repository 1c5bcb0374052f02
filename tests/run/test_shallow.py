"""Convolutions over few planes in bf16 on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mambamed.run.shallow import ShallowSafeConv3d, make_shallow_safe


def dirty_memory() -> None:
    """Memory that a result may be given is not clean by chance."""
    for size in (64, 100, 512, 1000, 5000, 20000):
        torch.full((size,), 3e38)


def gradient(conv: nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    conv.weight.grad = None
    dirty_memory()
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x)
    out.float().sin().sum().backward()
    assert conv.weight.grad is not None
    return conv.weight.grad.clone()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 2, 2), (2, 1, 1), (2, 4, 4), (3, 2, 2), (4, 2, 2), (5, 3, 2), (8, 6, 1)]
)
def test_gradients_over_few_planes_are_those_of_float32_every_time(shape, stride):
    torch.manual_seed(0)
    conv = nn.Conv3d(16, 16, 3, stride, 1, bias=False).to(memory_format=torch.channels_last_3d)
    x = torch.randn(2, 16, *shape).to(memory_format=torch.channels_last_3d)
    conv(x).sin().sum().backward()
    assert conv.weight.grad is not None
    exact = conv.weight.grad.clone()
    make_shallow_safe(conv)
    assert type(conv) is ShallowSafeConv3d
    for _ in range(10):
        # bf16 has 8 bits: sums of some dozen products of size one
        torch.testing.assert_close(gradient(conv, x), exact, atol=0.3, rtol=0.05)


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("shape", [(5, 3, 2), (8, 6, 1), (3, 6, 2)])
def test_results_over_few_voxels_are_those_of_float32_every_time(shape, kernel) -> None:
    """On CPUs with AMX, plain convolutions give up to 1e38 here."""
    torch.manual_seed(0)
    conv, x = nn.Conv3d(16, 32, kernel, 2, kernel // 2), torch.randn(1, 16, *shape)
    make_shallow_safe(conv)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        exact = nn.functional.conv3d(x.double(), conv.weight.double(), conv.bias.double(), 2, kernel // 2)
        for _ in range(10):
            dirty_memory()
            torch.testing.assert_close(conv(x).double(), exact, atol=1e-4, rtol=1e-4)


def test_names_weights_copies_and_deep_volumes_stay_as_they_were():
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Conv3d(4, 2, 1))
    plain = copy.deepcopy(network)
    make_shallow_safe(network)
    assert type(network[1]) is nn.Conv3d and list(network.state_dict()) == list(plain.state_dict())
    x = torch.randn(1, 1, 6, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert copy.deepcopy(network)(x).equal(plain(x))
