"""ResNet against MONAI's: equal parameter counts, and equal answers for equal weights.

Published counts of the 3D forms differ by the stem's stride and the biases of shortcuts, neither of which the
paper has.
"""

import pytest
import torch
from monai.networks import nets

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from tests.networks.monai_reference import count, on_meta, same_order


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnet_has_the_parameters_of_the_paper(depth) -> None:
    theirs = getattr(nets, f"resnet{depth}")
    with torch.device("meta"):
        reference = theirs(spatial_dims=3, n_input_channels=1, num_classes=2, bias_downsample=False)
    assert count(on_meta("resnet", 1, 2, depth=depth)) == count(reference)


@pytest.mark.parametrize(("depth", "block"), [(18, "basic"), (50, "bottleneck")])
def test_resnet_answers_as_monais_with_the_same_weights(depth, block) -> None:
    widths = [8, 16, 32, 64]
    options = {"conv1_t_stride": 2, "n_input_channels": 2, "num_classes": 3, "bias_downsample": False}
    theirs = nets.ResNet(block, [1, 2, 1, 1], widths, **options).eval()
    ours = build_network("resnet", 2, 3, depth=depth, channels=8, blocks=[1, 2, 1, 1]).eval()
    ours.load_state_dict(same_order(theirs, ours))
    x = torch.randn(2, 2, 35, 33, 40)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "depth"), [("resnet", 121), ("densenet", 50)])
def test_a_depth_that_it_does_not_have_is_refused(name, depth) -> None:
    with pytest.raises(RecipeError, match=rf"network\.depth: expected .*, got {depth}\. Choose"):
        build_network(name, 1, 2, depth=depth)
