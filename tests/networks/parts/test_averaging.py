"""The gradient for a GPU is that of torch's average pooling."""

from __future__ import annotations

import pytest
import torch

from mambamed.networks.parts import averaging
from mambamed.networks.parts.averaging import Averaged


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (2, 3, 1)])
@pytest.mark.parametrize("shape", [(4, 6, 2), (5, 7, 3)], ids=["whole blocks", "a rest"])
def test_the_gradient_for_a_gpu_is_torchs(monkeypatch, stride, shape):
    found = []
    for rejected in (False, True):
        monkeypatch.setattr(averaging, "_is_rejected", lambda device, rejected=rejected: rejected)
        x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = Averaged(stride)(x)
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)))
        found.append((y.detach(), x.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])
