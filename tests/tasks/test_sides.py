"""Left and right in names, as data sets write them."""

import pytest

from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import RecipeError
from mambamed.recipe import Recipe
from mambamed.tasks.sides import decided_mirroring, mirroring_lines, pairs_by_name


@pytest.mark.parametrize(
    ("name", "has_side"),
    [
        ("kidney_left", True),
        ("Left-Hippocampus", True),
        ("rightVentricle", True),
        ("R", True),
        ("femur_r", True),
        ("lh.V1", True),
        ("rh-insula", True),
        ("KidneyL", True),
        ("LV", False),
        ("liver", False),
        ("copyright", False),
        ("vertebrae_L5", False),
        ("L5S1", False),
        ("R2star", False),
        ("leftkidney", True),
        ("Lung_Rt", True),
        ("Anterior", False),
    ],
)
def test_a_side_is_a_word_of_its_own(name, has_side) -> None:
    assert pairs_by_name([name]) == ((), (name,) if has_side else ())


def test_names_that_differ_only_in_the_side_are_a_pair() -> None:
    names = ["R eye", "L eye", "nose", "ear_left", "ear right", "tooth_left_1", "tooth_left_2"]
    pairs, alone = pairs_by_name(names)
    assert set(pairs) == {("L eye", "R eye"), ("ear_left", "ear right")}
    assert set(alone) == {"tooth_left_1", "tooth_left_2"}


def test_a_name_with_both_sides_is_paired_with_its_opposite() -> None:
    assert pairs_by_name(["L>R", "R>L", "none"]) == ((("L>R", "R>L"),), ())
    assert pairs_by_name(["left or right", "none"]) == ((), ("left or right",))


def test_two_names_for_one_side_are_ambiguous() -> None:
    assert pairs_by_name(["left eye", "l_eye", "right eye"]) == ((), ("left eye", "l_eye", "right eye"))


def decided(pairs=(), augment=None, task="segmentation", covariates=None, **fields):
    manifest = DatasetManifest(name="d", channels={"a": "mri"}, **fields)
    asked = {
        "task": task,
        "name": "r",
        "dataset": {"mirror_pairs": pairs, "covariates": covariates or {}},
        "network": {"name": "nnunet"},
        "training": {"augment": augment or {}},
    }
    recipe = Recipe.model_validate(asked)
    found = decided_mirroring(recipe, manifest)[0]
    lines = mirroring_lines(recipe, found, manifest)
    return found.dataset.mirror_pairs, "".join(found.training.augment.mirror), " ".join(lines)


def labels(*names: str) -> dict[str, int]:
    return {"background": 0, **{name: k for k, name in enumerate(names, start=1)}}


SIDES = (("left", "right"),)
A_AND_B = {"labels": labels("a", "b"), "regions": {"A": (1,), "B": (2,)}}


@pytest.mark.parametrize(
    ("fields", "pairs"),
    [
        ({"labels": labels("left", "right", "liver")}, SIDES),
        ({"labels": {**labels("left", "right"), "ignore": 9}}, SIDES),
        ({"labels": labels("a", "b"), "pairs": [["a", "b"]]}, (("a", "b"),)),
        (
            {"labels": labels("left", "right", "lung_l"), "pairs": [["lung_l", "lung_l"]]},
            (("lung_l",) * 2, *SIDES),
        ),
        ({"labels": labels("a", "b"), "regions": {"left": (1,), "right": (2,), "all": (1, 2)}}, SIDES),
        ({"labels": labels("left", "right"), "regions": {"A": (1,), "B": (2,)}}, (("A", "B"),)),
        (
            {"labels": labels("a", "b"), "regions": {"A": (1,), "B": (2,)}, "pairs": [["a", "b"]]},
            (("A", "B"),),
        ),
        ({"task": "classification", "classes": ("left", "right", "none")}, SIDES),
        ({"task": "landmarks", "landmarks": ("nose", "left", "right")}, SIDES),
    ],
)
def test_both_sides_are_paired(fields, pairs) -> None:
    found, mirror, lines = decided(**fields)
    assert (found, mirror) == (pairs, "xyz")
    assert lines.startswith("mirrored across x, which swaps ")


@pytest.mark.parametrize(
    ("fields", "fact"),
    [
        ({"labels": labels("left", "b")}, "left: no partner on the other side"),
        ({"labels": labels("left_a", "l_a", "right_a")}, "left_a, l_a, right_a: no partner"),
        ({"labels": labels("left", "right", "lung_l"), "pairs": [["left", "right"]]}, "lung_l: no partner"),
        ({"labels": labels("left", "right"), "regions": {"A": (1,)}}, "region A holds labels of one side"),
        (
            {"labels": labels("a", "b", "c"), "regions": {"left": (1, 3), "right": (2,), "lesion": (3,)}},
            "label 3 is in left, lesion, and no label is in just lesion, right",
        ),
        ({"task": "classification", "classes": ("left", "ill")}, "left: no partner"),
        (
            {"task": "classification", "classes": ("ill", "well"), "covariates": {"side": ["left", "right"]}},
            "the covariate side names a side",
        ),
    ],
)
def test_without_a_partner_nothing_is_mirrored_across_x(fields, fact) -> None:
    _, mirror, lines = decided(**fields)
    assert mirror == "yz" and lines.startswith("not mirrored across x: ") and fact in lines


def test_names_without_a_side_are_their_own_mirror_image() -> None:
    assert decided(labels=labels("liver", "spleen")) == ((), "xyz", "")
    assert decided(labels=labels("left", "right"), regions={"both": (1, 2)}) == ((), "xyz", "")


def test_a_pose_turned_around_is_mirrored_only_across_x() -> None:
    """Mirroring y and turning by 180 degrees about z is mirroring x."""
    turned = {"rotate": 1.0, "rotate_degrees": 180}
    pairs, mirror, lines = decided(labels=labels("left", "right"), augment=turned)
    assert (pairs, mirror) == (SIDES, "x") and "not mirrored across y, z: rotations" in lines
    assert decided(labels=labels("left", "b"), augment=turned)[1] == ""
    assert decided(labels=labels("a", "b"), augment=turned)[1] == "xyz"


def test_a_pair_of_what_is_not_predicted_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"dataset\.mirror_pairs: a and chin: expected two of a, b"):
        decided(labels=labels("a", "b"), pairs=[["a", "chin"]])
    with pytest.raises(RecipeError, match="A and b: expected two of A, B or two labels"):
        decided(labels=labels("a", "b"), regions={"A": (1,), "B": (2,)}, pairs=[["A", "b"]])
