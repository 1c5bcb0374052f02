import pytest
import torch

from mambamed.errors import RecipeError
from mambamed.networks import build_network


def test_a_topology_that_does_not_agree_is_refused() -> None:
    with pytest.raises(RecipeError, match="3 stages, 2 strides"):
        build_network("nnunet", 1, 2, stages=3, strides=[1, 2])


@pytest.mark.parametrize("name", ["nnunet", "nnunet_resenc"])
def test_decoder_steps_may_have_another_number_of_units(name) -> None:
    with torch.device("meta"):
        network = build_network(name, 1, 2, widths=[4, 8, 12], blocks=2, decoder_blocks=[3, 1])
    assert [len(step.convolve) for step in network.steps] == [3, 1]
    assert [step.up.out_channels for step in network.steps] == [8, 4]
    with pytest.raises(RecipeError, match=r"decoder_blocks: \[1, 2, 3\] is neither one number nor 2"):
        build_network(name, 1, 2, stages=3, decoder_blocks=[1, 2, 3])
