import pytest

from mambamed.errors import RecipeError
from mambamed.networks import build_network


def test_a_topology_that_does_not_agree_is_refused() -> None:
    with pytest.raises(RecipeError, match="3 stages, 2 strides"):
        build_network("nnunet", 1, 2, stages=3, strides=[1, 2])
