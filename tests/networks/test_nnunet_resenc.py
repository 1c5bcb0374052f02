import pytest
import torch

from mambamed.networks import build_network
from tests.networks.published_plans import millions, planned


def test_resenc_has_the_parameters_that_nnunet_prints() -> None:
    """102.35 M for ResEnc L on BraTS, as its documentation's memory table lists the size."""
    assert millions(planned("nnunet_resenc", "brats")) == pytest.approx(102.354, abs=1e-3)


def test_a_residual_unit_starts_as_its_shortcut() -> None:
    """The last norm starts at zero, so that only the shortcut speaks."""
    network = build_network("nnunet_resenc", 1, 2, channels=4, stages=2)
    unit = network.stages[1][1]
    x = torch.randn(1, 8, 4, 4, 4)
    torch.testing.assert_close(unit(x), torch.nn.functional.leaky_relu(x, 0.01))
