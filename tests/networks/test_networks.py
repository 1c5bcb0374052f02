"""The table of networks: numbers that no size can be are rejected before a network is built of them."""

from __future__ import annotations

import math

import pytest

from mambamed.errors import RecipeError
from mambamed.networks import build_network


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("umamba", {"strides": [[-1, 1, 1]] * 4}, "network.strides: expected 1 to 1048576, got -1. Correct"),
        (
            "mamba_unet",
            {"strides": [[2, 2, 0]] * 3},
            "network.strides: expected 1 to 1048576, got 0. Correct",
        ),
        ("nnunet", {"channels": 0}, "network.channels: expected 1 to 1048576, got 0. Correct the value."),
        ("nnunet", {"channels": 10**9}, "network.channels: expected 1 to 1048576, got 1000000000. Correct"),
        ("vitpose", {"heads": True}, "network.heads: expected a number, got True. Correct the value."),
        ("crate", {"width": "wide"}, "network.width: expected a number, got 'wide'. Correct the value."),
        ("resunet", {"blocks": -1}, "network.blocks: expected 1 to 1048576, got -1. Correct the value."),
        ("resnet", {"dropout": -0.5}, "network.dropout: expected 0 to 1048576, got -0.5. Correct the value."),
        (
            "resnet",
            {"dropout": math.nan},
            "network.dropout: expected 0 to 1048576, got nan. Correct the value.",
        ),
        (
            "umamba",
            {"channels": 4, "strides": [[128] * 3] * 3},
            "network.strides: images would be padded to multiples of (2097152",
        ),
    ],
)
def test_a_number_that_no_size_can_be_is_rejected(name, options, line) -> None:
    """Networks with strides below 1 were built, and failed in the first case with an error of torch."""
    with pytest.raises(RecipeError) as caught:
        build_network(name, 1, 2, **options)
    assert str(caught.value).startswith(line)
