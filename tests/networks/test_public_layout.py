"""The notation of public layouts."""

import pytest
import torch

from tests.networks.public_layout import read_layout


def test_lines_expand_to_keys_and_shapes() -> None:
    layout = read_layout(
        """
        stem.{0,3}        conv(4, 32, 3)     # two convolutions
        layer{i=1..2}.up  transposed(64 * i, 32 * i, (1, 2, 2), bias=False)
        pos               tensor(1, patch, 8)
        """,
        patch=7,
    )
    assert layout.shapes == {
        "stem.0.weight": (32, 4, 3, 3, 3),
        "stem.0.bias": (32,),
        "stem.3.weight": (32, 4, 3, 3, 3),
        "stem.3.bias": (32,),
        "layer1.up.weight": (64, 32, 1, 2, 2),
        "layer2.up.weight": (128, 64, 1, 2, 2),
        "pos": (1, 7, 8),
    }


def test_copies_have_the_tensors_of_their_origin_and_count_once() -> None:
    layout = read_layout("a{k=1..2}.x batch_norm(3)\nb{k=1..2} = a{k}.x\nb1.more linear(2, 1)")
    assert layout.copies["b2.running_var"] == "a2.x.running_var"
    assert layout.parameters == 2 * 6 + 3
    state = layout.tensors()
    assert set(state) == set(layout.shapes)
    assert torch.equal(state["b2.weight"], state["a2.x.weight"])
    assert not torch.equal(state["b2.weight"], state["b1.weight"])
    assert state["b1.running_var"].min() >= 1
    assert state["b1.num_batches_tracked"].dtype == torch.int64


def test_a_mamba_has_the_tensors_of_the_public_block() -> None:
    """32 640 parameters at width 64, counted for mamba_ssm's block."""
    assert read_layout("m mamba(64)").parameters == 32640
    assert "m.A_b_log" in read_layout("m mamba(64, ways='bs')").shapes


def test_a_key_that_is_listed_twice_is_an_error() -> None:
    with pytest.raises(AssertionError, match=r"a\.weight is listed twice"):
        read_layout("a norm(2)\na.weight tensor(2)")
