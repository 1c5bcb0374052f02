"""The task of classification: its loss against torch's and a hand's, its score against scikit-learn's."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mambamed.batches.loader import PatchReader
from mambamed.batches.sampler import Sampler
from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import DatasetError, RecipeError
from mambamed.recipe import Recipe
from mambamed.tasks.base import task_for
from mambamed.tasks.cases import ClassedCase
from mambamed.tasks.classification import Classification, centered


def task(classes=("NC", "AD"), **loss) -> Classification:
    recipe = Recipe.model_validate(
        {"task": "classification", "network": {"name": "nnmamba_classifier"}, "training": {"loss": loss}}
    )
    made = task_for(recipe, DatasetManifest(name="d", channels={"a": "mri"}, classes=classes))
    assert isinstance(made, Classification)
    return made


def of_classes(*names: str) -> list[Any]:
    """Cases of these classes."""
    return [SimpleNamespace(class_name=name) for name in names]


def test_each_class_weighs_the_same_however_many_cases_it_has() -> None:
    asked = task()
    asked.begin(of_classes(*["NC"] * 9, "AD"), [])
    logits = torch.tensor([[0.0, 0.0]] * 9 + [[2.0, 0.0]])
    target = torch.tensor([0] * 9 + [1])
    # nine cases of log 2 with weight 10/18, one of log(1 + e^2) with weight 10/2, over the sum of weights, 10
    expected = (9 * 10 / 18 * math.log(2) + 5 * math.log(1 + math.e**2)) / 10
    assert float(asked.loss(logits, target)) == pytest.approx(expected)
    unbalanced = task(class_balance=False)
    unbalanced.begin(of_classes(*["NC"] * 9, "AD"), [])
    assert float(unbalanced.loss(logits, target)) == pytest.approx(
        (9 * math.log(2) + math.log(1 + math.e**2)) / 10
    )


def test_smoothing_spreads_part_of_the_target() -> None:
    # 0.9 + 0.05 of the target stays with the right class, whose log probability is log(1/(1+e^-4))
    right, wrong = -math.log1p(math.exp(-4)), -4 - math.log1p(math.exp(-4))
    logits = torch.tensor([[4.0, 0.0]])
    smooth = task(label_smoothing=0.1)
    assert float(smooth.loss(logits, torch.tensor([0]))) == pytest.approx(-(0.95 * right + 0.05 * wrong))


def test_two_classes_are_scored_by_the_area_under_the_curve() -> None:
    random = np.random.default_rng(0)
    logits, truth = random.normal(size=(50, 2)), random.integers(0, 2, 50)
    asked = task()
    numbers = asked.score(torch.from_numpy(logits), torch.from_numpy(truth))
    assert numbers.shape == (50, 1, 2)
    found = asked.summarize(numbers)
    assert found == {"AD": pytest.approx(roc_auc_score(truth, logits[:, 1] - logits[:, 0]))}


def test_more_classes_are_scored_each_against_the_rest() -> None:
    random = np.random.default_rng(0)
    logits, truth = random.normal(size=(60, 3)), random.integers(0, 3, 60)
    asked = task(("a", "b", "c"))
    found = asked.summarize(asked.score(torch.from_numpy(logits), torch.from_numpy(truth)))
    chances = torch.softmax(torch.from_numpy(logits), 1).numpy()
    for k, name in enumerate(("a", "b", "c")):
        assert found[name] == pytest.approx(roc_auc_score(truth == k, chances[:, k]))


def test_a_certain_answer_is_ranked_as_well_as_another() -> None:
    logits = torch.tensor([[0.0, 900.0], [0.0, 1000.0], [500.0, 0.0]])
    numbers = task().score(logits, torch.tensor([0, 1, 0]))
    assert torch.isfinite(numbers).all()
    assert task().summarize(numbers) == {"AD": 1.0}


def test_without_both_kinds_there_is_no_area() -> None:
    numbers = task().score(torch.zeros(3, 2), torch.tensor([1, 1, 1]))
    assert math.isnan(task().summarize(numbers)["AD"])


def test_probabilities_sum_to_one() -> None:
    assert task().decode(torch.tensor([0.0, math.log(3.0)])).tolist() == pytest.approx([0.25, 0.75])


def test_what_cannot_be_learned_is_told() -> None:
    with pytest.raises(DatasetError, match="AD: no training case"):
        task().begin(of_classes("NC", "NC"), [])
    with pytest.raises(DatasetError, match="all 2 cases are of class AD"):
        task().begin(of_classes("NC", "AD"), of_classes("AD", "AD"))
    task().begin(of_classes("NC", "AD"), [])
    with pytest.raises(DatasetError, match="has 1 classes"):
        task(("NC",))
    with pytest.raises(RecipeError, match="has a dense output"):
        task().loss(torch.zeros(1, 2, 4, 4, 4), torch.tensor([0]))


def test_a_covariate_that_no_training_case_has_is_refused() -> None:
    asked = {"age": "number", "sex": ["F", "M"], "site": ["A"]}
    recipe = Recipe.model_validate(
        {"task": "classification", "network": {"name": "resnet"}, "dataset": {"covariates": asked}}
    )
    made = task_for(recipe, DatasetManifest(name="d", channels={"a": "mri"}, classes=("NC", "AD")))
    cases = of_classes("NC", "AD")
    for case, numbers in zip(cases, ([70.0, math.nan], [math.nan, math.nan]), strict=True):
        case.covariates = np.array(numbers)
    with pytest.raises(DatasetError, match="covariate sex: unknown in all training cases"):
        made.begin(cases, [])
    cases[1].covariates[1] = 1.0
    made.begin(cases, [])


@pytest.mark.parametrize("shape", [(9, 7, 8), (5, 16, 11), (12, 12, 12)])
def test_the_middle_of_a_case_is_what_training_reads_of_it(shape) -> None:
    patch_size = (8, 10, 11)

    class InMemory:
        id, class_name, covariates = "c", "NC", {}

        def __init__(self) -> None:
            self.shape = shape
            self.array = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)

        def image(self, box=None) -> np.ndarray:
            (a, b, c), (d, e, f) = box or ((0, 0, 0), self.shape)
            return self.array[:, a:d, b:e, c:f]

    case = InMemory()
    cases = {"c": ClassedCase(case, ("NC", "AD"))}
    (request,) = Sampler(cases, patch_size, 1, 0, (0,), centered=True).requests(0)
    read, _ = PatchReader(cases, patch_size, None, (1, 1, 1)).read(request)
    assert np.array_equal(read, centered(case.array, patch_size))


def test_a_picture_of_a_case_names_its_class_and_the_likeliest() -> None:
    reference, prediction = task().marks(torch.tensor(0), torch.tensor([0.0, math.log(3)]))
    assert (reference.text, prediction.text) == ("NC", "AD (0.75)")  # 3 / (1 + 3)
