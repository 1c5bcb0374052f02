"""Left and right in names, as data sets write them."""

import pytest

from mambamed.tasks.sides import pairs_by_name, side_of


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("kidney_left", "left"),
        ("Left-Hippocampus", "left"),
        ("rightVentricle", "right"),
        ("R", "right"),
        ("femur_r", "right"),
        ("lh.V1", "left"),
        ("rh-insula", "right"),
        ("KidneyL", "left"),
        ("LV", None),
        ("liver", None),
        ("copyright", None),
        ("Anterior", None),
        ("left and right", None),
    ],
)
def test_a_side_is_a_word_of_its_own(name, side) -> None:
    assert side_of(name) == side


def test_names_that_differ_only_in_the_side_are_a_pair() -> None:
    names = ["R eye", "L eye", "nose", "ear_left", "ear right", "tooth_left_1", "tooth_left_2"]
    pairs, alone = pairs_by_name(names)
    assert set(pairs) == {("L eye", "R eye"), ("ear_left", "ear right")}
    assert set(alone) == {"tooth_left_1", "tooth_left_2"}
