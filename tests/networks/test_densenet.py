"""DenseNet against MONAI's: equal parameter counts, and equal answers for equal weights."""

import pytest
import torch
from monai.networks import nets

from mambamed.networks import build_network
from tests.networks.monai_reference import count, on_meta, same_order


@pytest.mark.parametrize("depth", [121, 169, 201, 264])
def test_densenet_has_the_parameters_of_the_paper(depth) -> None:
    with torch.device("meta"):
        reference = getattr(nets, f"DenseNet{depth}")(spatial_dims=3, in_channels=1, out_channels=2)
    assert count(on_meta("densenet", 1, 2, depth=depth)) == count(reference)


def test_densenet_answers_as_monais_with_the_same_weights() -> None:
    theirs = nets.DenseNet(3, 2, 3, init_features=8, growth_rate=4, block_config=(2, 3, 1, 2)).eval()
    ours = build_network("densenet", 2, 3, channels=8, blocks=[2, 3, 1, 2]).eval()
    ours.load_state_dict(same_order(theirs, ours))
    x = torch.randn(2, 2, 64, 32, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
