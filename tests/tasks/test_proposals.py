"""What the tasks propose for datasets whose documents are known."""

import pytest

from mambamed.errors import RecipeError
from mambamed.networks import NETWORKS, options_of
from mambamed.recipe.tasks import TASKS
from mambamed.tasks.proposals import FORMS, NETWORKS_OF_TASKS, proposal_for, tasks_of
from tests.tasks.datasets import LABELS, dataset_of


def values(proposal) -> dict:
    return {choice.key: choice.value for choice in proposal.choices}


def why(proposal, key: str) -> str:
    return next(choice.why for choice in proposal.choices if choice.key == key)


def test_every_task_has_a_network_that_exists_with_the_options_of_its_form() -> None:
    assert NETWORKS_OF_TASKS.keys() == TASKS.keys()
    assert {name for name, _ in NETWORKS_OF_TASKS.values()} <= FORMS.keys() <= NETWORKS.keys()
    for name, form in FORMS.items():
        assert {*form.options, "channels"} <= set(options_of(name)), name


def test_labels_are_learned_in_the_patch_of_the_plan_and_mirrored_from_left_to_right() -> None:
    proposal = proposal_for(dataset_of(cases=195, labels=LABELS))
    found = values(proposal)
    assert proposal.task == found["task"] == "segmentation"
    assert found["dataset.labels"] == LABELS and "dataset.regions" not in found
    assert proposal.patch == (40, 56, 40) and not proposal.whole
    assert found["training.augment.mirror"] == ["x"]
    assert proposal.steps == 156 * 200 / 2  # every case 200 times, two per step


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": {"background": 0, "lesion_r": 1}},
        {"labels": {"background": 0, "a": 1, "b": 2}, "regions": {"lh": (1,), "both": (1, 2)}},
    ],
)
def test_labels_and_regions_of_one_side_are_not_mirrored(fields) -> None:
    proposal = proposal_for(dataset_of(**fields))
    assert values(proposal)["training.augment.mirror"] == []
    assert "no partner on the other side" in why(proposal, "training.augment.mirror")


def test_labels_of_both_sides_are_paired_and_mirrored() -> None:
    proposal = proposal_for(dataset_of(labels={"background": 0, "left kidney": 1, "right kidney": 2}))
    assert values(proposal)["dataset.mirror_pairs"] == [["left kidney", "right kidney"]]
    assert values(proposal)["training.augment.mirror"] == ["x"]


def test_regions_are_named_with_their_sigmoid_outputs() -> None:
    regions = {"WT": (1, 2), "TC": (1,)}
    proposal = proposal_for(dataset_of(labels={"background": 0, "core": 1, "edema": 2}, regions=regions))
    assert values(proposal)["dataset.regions"] == {"WT": [1, 2], "TC": [1]}
    assert "sigmoid" in why(proposal, "dataset.regions")


def test_landmarks_that_are_pairs_by_name_are_paired_and_mirrored() -> None:
    proposal = proposal_for(dataset_of(landmarks=("eye_left", "eye_right", "nose")))
    assert values(proposal)["dataset.mirror_pairs"] == [["eye_left", "eye_right"]]
    assert values(proposal)["training.augment.mirror"] == ["x"]


@pytest.mark.parametrize(
    "landmarks", [("eye_left", "nose"), ("1", "2"), ("eye_left", "eye_right", "ear_left")]
)
def test_landmarks_without_a_partner_are_not_mirrored(landmarks) -> None:
    found = values(proposal_for(dataset_of(landmarks=landmarks)))
    assert found["training.augment.mirror"] == [] and "dataset.mirror_pairs" not in found


def test_classes_are_learned_from_whole_cases_whose_sides_are_swapped() -> None:
    classes = ["left", "right"] * 5
    proposal = proposal_for(dataset_of(classes=("left", "right"), classes_of=classes, shape=(200, 210, 150)))
    assert proposal.whole and proposal.patch == (200, 216, 152)
    assert values(proposal)["training.augment.mirror"] == ["x"]
    assert values(proposal)["dataset.mirror_pairs"] == [["left", "right"]]


def test_a_dataset_of_two_tasks_names_both_and_serves_the_one_that_is_asked() -> None:
    dataset = dataset_of(labels=LABELS, classes=("a", "b"), classes_of=["a", "b"] * 5)
    assert tasks_of(dataset.manifest) == ["segmentation", "classification"]
    assert "classification" in why(proposal_for(dataset), "task")
    assert proposal_for(dataset, "classification").task == "classification"
    with pytest.raises(RecipeError, match="nothing to learn landmarks from"):
        proposal_for(dataset, "landmarks")
    with pytest.raises(RecipeError, match="no labels, landmarks or classes"):
        proposal_for(dataset_of())
