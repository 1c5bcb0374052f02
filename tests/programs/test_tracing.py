"""The mean of several networks."""

import torch
from torch import nn

from mambamed.programs.tracing import MeanOf


def test_logits_of_folds_are_averaged() -> None:
    networks = [nn.Conv3d(1, 2, 1), nn.Conv3d(1, 2, 1), nn.Conv3d(1, 2, 1)]
    image = torch.randn(2, 1, 3, 4, 5)
    expected = torch.stack([network(image) for network in networks]).mean(0)
    torch.testing.assert_close(MeanOf(networks)(image), expected)
