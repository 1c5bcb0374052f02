"""Two sources that name the same things agree by value and name, or both are shown."""

import pytest

from mambamed.documents.agreement import Naming, disagreement, spelled_alike, spelling
from mambamed.documents.manifest import DatasetManifest, agreed_manifest, named_by_recipe_alone
from mambamed.errors import RecipeError
from mambamed.recipe import load_recipe

BRATS = {"t1n": "mri", "t1c": "mri", "t2w": "mri", "t2f": "mri"}
# The three tumor labels of the Decathlon, and of BraTS 2023, by their official documents.
DECATHLON = {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3}
BRATS_LABELS = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}


def manifest(**fields) -> DatasetManifest:
    return DatasetManifest.of("d", **{"channels": BRATS, "labels": BRATS_LABELS, **fields})


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("Gall Bladder", "gallbladder", True),
        ("left_kidney", "left-kidney", True),
        ("left_kidney", "right_kidney", False),
        ("ER+", "ER-", False),
        ("ER-", "ER", False),
        ("1-10", "11-0", False),
        ("L1", "L 1", True),
        ("+", "-", False),
    ],
)
def test_only_capitals_spaces_and_separators_are_spelling(one, other, alike) -> None:
    assert (spelling(one) == spelling(other)) is alike


@pytest.mark.parametrize(
    ("one", "other", "line"),
    [
        ({"edema": 1, "core": 2}, {"core": 1, "edema": 2}, "edema 1, core 2 (A) | core 1, edema 2 (B)"),
        ({"edema": 1}, {"necrosis": 1}, "edema 1 (A) | necrosis 1 (B)"),
        ({"edema": 1}, {"edema": 2}, "edema 1 (A) | edema 2 (B)"),
        ({"edema": 1, "x": 5}, {"Edema": 1, "y": 4}, None),
        ({"background": 0, "a": 1}, {"unlabeled": 0, "a": 1}, None),
        ({"background": 0}, {"background": 1}, "background 0 (A) | background 1 (B)"),
        ({"edema": 1}, {"label_1": 1, "2": 2}, None),
        ({"edema": 1}, {"label_2": 1}, "edema 1 (A) | label_2 1 (B)"),
        ({"edema": 1, "core": 10}, {"Segment_01": 1, "label 10": 10, "0": 0}, None),
    ],
)
def test_labels_agree_by_value_and_name(one, other, line) -> None:
    assert disagreement(Naming.of("A", one), Naming.of("B", other)) == line


def test_a_region_of_one_label_names_that_label() -> None:
    ours = Naming.of("A", {"ET": 3}, {"WT": (1, 2, 3), "ET": (3,)})
    assert disagreement(ours, Naming.of("B", regions={"WT": (3, 2, 1)})) is None
    line = disagreement(ours, Naming.of("B", regions={"whole": (1, 2, 3), "core": (3,)}))
    assert line == "WT 1+2+3, ET 3 (A) | whole 1+2+3, core 3 (B)"
    assert disagreement(ours, Naming.of("B", regions={"whole": (1, 2, 3)}), only_names=True) is None


def test_hundreds_of_labels_are_shown_by_the_first_five() -> None:
    ours = Naming.of("A", {f"organ {n}": n for n in range(1, 201)})
    moved = Naming.of("B", {f"organ {n}": n % 200 + 1 for n in range(1, 201)})
    line = disagreement(ours, moved) or ""
    assert line.startswith("organ 1 1, organ 2 2, organ 3 3, organ 4 4, organ 5 5 and 195 more (A) | organ ")


@pytest.mark.parametrize(
    ("found", "line"),
    [
        # MONAI's tutorials: a Decathlon set prepared with a recipe for BraTS.
        ({"labels": DECATHLON}, r"names disagree: NCR 1, ED 2, ET 3 \(recipe .*\| edema 1, non-enhancing"),
        ({"labels": {**BRATS_LABELS, "ED": 1, "NCR": 2}}, r"NCR 1, ED 2 .*\| ED 1, NCR 2 \(dataset d\)"),
        ({"channels": dict(reversed(BRATS.items()))}, r"t1n \(mri\), t1c .*\| t2f \(mri\), t2w"),
        ({"channels": {**BRATS, "t1n": "ct"}}, r"t1n \(mri\), .*\| t1n \(ct\)"),
        ({"channels": {"t1n": "mri"}}, "order or kinds disagree"),
        ({"regions": {"TC": (2, 3)}}, r"TC 1\+3 \(recipe .*\| TC 2\+3 \(dataset d\)"),
        ({"labels": {"background": 0, "NCR": 1, "ED": 2}}, "dataset.labels .* are not those of d"),
    ],
)
def test_a_recipe_and_a_dataset_that_mean_different_things_are_refused(found, line) -> None:
    for choose in (False, True):
        with pytest.raises(RecipeError, match=line):
            agreed_manifest(manifest(**found), load_recipe("brats_nnmamba"), choose=choose)


def test_the_recipes_spelling_is_used() -> None:
    recipe = load_recipe("brats_nnmamba")
    spelled = manifest(
        labels={"background": 0, "ncr": 1, "E_D": 2, "et": 3},
        channels={"T1N": "mri", "T1-C": "mri", "T2W": "mri", "T2F": "mri"},
    )
    agreed = agreed_manifest(spelled, recipe, choose=False)
    assert (agreed.labels, agreed.channels) == (BRATS_LABELS, BRATS)
    assert named_by_recipe_alone(spelled, recipe) is None


def test_numbers_without_names_are_named_by_the_recipe_which_is_said() -> None:
    recipe = load_recipe("brats_nnmamba")
    numbered = manifest(labels={"background": 0, "label_1": 1, "label_2": 2, "3": 3})
    assert agreed_manifest(numbered, recipe, choose=True).labels == BRATS_LABELS
    line = named_by_recipe_alone(numbered, recipe) or ""
    assert "recipe brats_nnmamba alone" in line and line.endswith("1 NCR, 2 ED, 3 ET")


def test_one_channel_may_be_named_by_its_kind() -> None:
    recipe = load_recipe("hippocampus_nnmamba")  # its channel is MRI
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}
    found = manifest(channels={"T1w": "mri"}, labels=labels)
    assert agreed_manifest(found, recipe, choose=False).channels == {"MRI": "mri"}
    with pytest.raises(RecipeError, match=r"MRI \(mri\) .*\| CT \(ct\)"):
        agreed_manifest(manifest(channels={"CT": "ct"}, labels=labels), recipe, choose=False)
    specific = load_recipe("fetal_landmarks_nnmamba")  # T2w
    with pytest.raises(RecipeError, match=r"T2w \(mri\) .*\| FLAIR \(mri\)"):
        agreed_manifest(manifest(channels={"FLAIR": "mri"}, labels={}), specific, choose=False)


def test_manifests_differ_in_the_order_of_channels_and_regions() -> None:
    first = manifest(regions={"WT": (1, 2, 3), "ET": (3,)})
    assert first.difference(manifest(regions=dict(reversed(first.regions.items())))) is not None
    assert "t2f" in (manifest().difference(manifest(channels=dict(reversed(BRATS.items())))) or "")
    assert manifest().difference(manifest(labels=dict(reversed(BRATS_LABELS.items())))) is None


def test_names_are_found_by_their_spelling_unless_that_is_ambiguous() -> None:
    known = ["Left Eye", "nose", "NOSE"]
    assert spelled_alike(["left_eye", "nose", "Nose"], known) == {"left_eye": "Left Eye", "nose": "nose"}
    assert spelled_alike(["Liver"], ["liver", "spleen", "liver"]) == {
        "Liver": "liver"
    }  # a label and a region


def test_a_recipe_spells_ignore_and_background_as_they_are() -> None:
    recipe = load_recipe("brats_nnmamba")
    for labels, line in (
        ({**BRATS_LABELS, "Ignore": 4}, "dataset.labels: 'Ignore' is spelled ignore"),
        ({"Background": 0, "NCR": 1, "ED": 2, "ET": 3}, "'Background' is spelled background"),
    ):
        changed = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"labels": labels})})
        with pytest.raises(RecipeError, match=line):
            agreed_manifest(manifest(), changed, choose=False)
