"""Instance norm of bf16 with channels last against torch's own in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mambamed.networks.parts import instance_norm
from mambamed.networks.parts.instance_norm import InstanceNorm

LAST = torch.channels_last_3d


@pytest.mark.parametrize("shape", [(1, 8, 9, 10, 7), (2, 3, 5, 4, 6), (1, 1, 4, 4, 4), (1, 5, 2, 1, 1)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("voxels", [1, 100, 2**16])
def test_it_is_the_exact_result_rounded_to_bf16(shape, affine, voxels, monkeypatch) -> None:
    monkeypatch.setattr(instance_norm, "_VOXELS", voxels)
    monkeypatch.setattr(nn.InstanceNorm3d, "forward", None)  # torch's own way is not taken
    torch.manual_seed(0)
    norm = InstanceNorm(shape[1], affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = (3 * torch.randn(shape) + 7).bfloat16().contiguous(memory_format=LAST)
    with torch.no_grad():
        found = norm(x)
        weight, bias = (each.double() if affine else None for each in (norm.weight, norm.bias))
        exact = functional.instance_norm(x.double(), weight=weight, bias=bias)
    assert found.dtype == torch.bfloat16 and found.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-4)


def test_many_equal_voxels_do_not_shift_the_mean() -> None:
    """As outside the body: a sum in float32 over all voxels would stand still against their number."""
    x = torch.randn(1, 2, 64, 128, 128)
    x[:, :, :60] = torch.tensor([2.71, 3.14])[:, None, None, None]
    x = x.bfloat16().contiguous(memory_format=LAST)
    with torch.inference_mode():
        found, exact = InstanceNorm(2)(x), functional.instance_norm(x.double())
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-3)


def test_gradients_and_other_types_are_left_to_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = InstanceNorm(3, affine=True), nn.InstanceNorm3d(3, affine=True)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(2, 3, 4, 5, 6)
    for each in (
        x,
        x.bfloat16(),
        x.contiguous(memory_format=LAST),
        x.bfloat16().contiguous(memory_format=LAST),
    ):
        torch.testing.assert_close(ours(each), theirs(each), rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
        last = x.bfloat16().contiguous(memory_format=LAST)
        torch.testing.assert_close(ours.bfloat16()(last), theirs.bfloat16()(last), rtol=0, atol=0)
        lone = torch.zeros(1, 3, 1, 1, 1).bfloat16()
        with pytest.raises(ValueError, match="more than 1 spatial element"):
            ours.train()(lone)
