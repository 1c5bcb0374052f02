"""nnU-Net's rule against the shipped plans that architectures.md reports."""

import pytest

from mambamed.errors import RecipeError
from mambamed.networks.parts.topology import make_topology, per_stage, unet_topology

ONE, PLANE, ALL = (1, 1, 1), (1, 2, 2), (2, 2, 2)
FLAT, CUBE = (1, 3, 3), (3, 3, 3)

# patch, spacing -> strides, kernels (section 6: BraTS, Synapse, ACDC)
SHIPPED = [
    ((128, 128, 128), (1.0, 1.0, 1.0), [ONE, ALL, ALL, ALL, ALL, ALL], [CUBE] * 6),
    ((48, 192, 192), (3.0, 0.758, 0.758), [ONE, PLANE, ALL, ALL, ALL, PLANE], [FLAT, *[CUBE] * 5]),
    ((14, 256, 224), (6.35, 1.523, 1.523), [ONE, PLANE, PLANE, ALL, PLANE, PLANE], [FLAT, FLAT, *[CUBE] * 4]),
]


@pytest.mark.parametrize(("patch", "spacing", "strides", "kernels"), SHIPPED)
def test_plans_are_those_that_nnunet_made(patch, spacing, strides, kernels) -> None:
    assert unet_topology(patch, spacing) == (tuple(strides), tuple(kernels))
    made = make_topology(32, 320, patch_size=patch, spacing_mm=spacing)
    assert (made.strides, made.kernels) == (tuple(strides), tuple(kernels))
    assert made.widths == (32, 64, 128, 256, 320, 320)


def test_an_axis_keeps_four_voxels_and_a_lone_one_six() -> None:
    """By hand: 8 -> 4 together with others; alone only from 12 on, so 8 stays."""
    assert unet_topology((8, 8, 8))[0] == (ONE, ALL)
    assert unet_topology((7, 7, 8))[0] == (ONE,)
    assert unet_topology((7, 7, 12))[0] == (ONE, (1, 1, 2))


def test_what_a_recipe_lists_goes_before_the_rule() -> None:
    made = make_topology(8, 64, stages=3, patch_size=(128, 128, 128), spacing_mm=(5, 1, 1))
    assert made.strides == (ONE, ALL, ALL)
    made = make_topology(8, 64, kernels=[3] * 6, patch_size=(48, 192, 192), spacing_mm=(3.0, 0.758, 0.758))
    assert (made.strides[1], made.kernels[0]) == (PLANE, CUBE)


def test_widths_may_be_listed() -> None:
    assert make_topology(widths=[4, 8, 12]).widths == (4, 8, 12)
    assert make_topology(widths=[4, 8, 12]).strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2))


def test_the_divisor_is_the_product_of_the_strides() -> None:
    assert make_topology(8, 64, strides=[1, [1, 2, 2], 2]).divisor == (2, 4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 3, "strides": [1, 2]}, "3 stages, 2 strides, 3 kernels"),
        ({"stages": 1}, "at least 2"),
        ({"patch_size": (4, 4, 4)}, "at least 2"),
        ({"patch_size": (64, 64)}, "need three positive numbers"),
        ({"strides": [1, [2, 2]]}, "not enough values"),
        ({"stages": 2, "kernels": [3, 4]}, "shifts the grid"),
    ],
)
def test_a_topology_that_no_network_can_have_is_refused(options, message) -> None:
    with pytest.raises(RecipeError, match=message):
        make_topology(8, 64, **options)


def test_blocks_are_one_number_or_one_a_stage() -> None:
    assert per_stage("blocks", 2, 3) == [2, 2, 2]
    assert per_stage("blocks", (1, 3, 4), 3) == [1, 3, 4]
    for wrong in ((1, 2), (1, 0, 2), 0):
        with pytest.raises(RecipeError, match=r"network\.blocks: .* neither one number nor 3"):
            per_stage("blocks", wrong, 3)
