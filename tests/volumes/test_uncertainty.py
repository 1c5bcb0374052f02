"""Entropy, disagreement and expected Dice, against SciPy's entropies of every pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import entropy

from mambamed.documents.manifest import DatasetManifest
from mambamed.recipe import Recipe
from mambamed.tasks.segmentation import Segmentation
from mambamed.volumes.uncertainty import LogPartition, UncertaintyArrays, uncertainty_of

SHAPE, TEMPERATURE = (4, 5, 3), 1.7
LABELS = {"background": 0, "a": 1, "b": 2}


def task_of(**regions: tuple[int, ...]) -> Segmentation:
    manifest = DatasetManifest(name="x", channels={"m": "mri"}, labels=LABELS, regions=regions)
    return Segmentation(Recipe.model_validate({"network": {"name": "nnunet"}}), manifest)


def computed(task: Segmentation, passes: np.ndarray) -> UncertaintyArrays:
    """The arrays from `(n, K, X, Y, Z)` logits of n passes."""
    further = LogPartition(TEMPERATURE, bool(task.by_regions))(torch.from_numpy(passes))
    logits = np.concatenate([passes.mean(0), further.numpy().mean(0)]).astype(np.float32)
    chances = np.empty((task.outputs, *SHAPE), np.float16)
    arrays = UncertaintyArrays(chances, *(np.empty(SHAPE, np.float32) for _ in range(2)))
    values = arrays.values(task, TEMPERATURE)
    for plane in range(SHAPE[0]):
        for target, found in zip(values.arrays, values.of(logits[:, plane]), strict=True):
            target[plane] = found
    return arrays


def test_of_labels_they_are_the_entropies_of_scipy() -> None:
    passes = np.random.default_rng(0).normal(0, 3, (6, 3, *SHAPE))
    arrays = computed(task_of(), passes)
    combined, alone = softmax(passes.mean(0) / TEMPERATURE, axis=0), softmax(passes / TEMPERATURE, axis=1)
    np.testing.assert_allclose(arrays.chances, combined, atol=1e-3)
    np.testing.assert_allclose(arrays.entropy, entropy(combined, axis=0) / np.log(3), atol=1e-5)
    apart = np.mean([entropy(combined, each, axis=0) for each in alone], axis=0)  # Kullback-Leibler
    np.testing.assert_allclose(arrays.disagreement, apart, atol=1e-5)


def test_of_regions_they_are_the_means_over_the_regions() -> None:
    passes = np.random.default_rng(1).normal(0, 3, (5, 2, *SHAPE))
    arrays = computed(task_of(all=(1, 2), b=(2,)), passes)
    combined, alone = expit(passes.mean(0) / TEMPERATURE), expit(passes / TEMPERATURE)
    np.testing.assert_allclose(arrays.chances, combined, atol=1e-3)
    both = entropy([combined, 1 - combined], axis=0).mean(0) / np.log(2)
    np.testing.assert_allclose(arrays.entropy, both, atol=1e-5)
    apart = [entropy([combined, 1 - combined], [each, 1 - each], axis=0).mean(0) for each in alone]
    np.testing.assert_allclose(arrays.disagreement, np.mean(apart, axis=0), atol=1e-5)


def test_passes_that_agree_have_no_disagreement_and_far_logits_overflow_nothing() -> None:
    alike = np.repeat(np.random.default_rng(2).normal(0, 200, (1, 3, *SHAPE)), 4, axis=0)
    arrays = computed(task_of(), alike)
    assert np.isfinite(arrays.entropy).all() and arrays.disagreement.max() < 1e-4
    arrays = computed(task_of(all=(1, 2), b=(2,)), alike[:, :2])
    assert np.isfinite(arrays.entropy).all() and arrays.disagreement.max() < 1e-4


def test_numbers_of_a_structure_by_hand() -> None:
    task = task_of()
    chances = np.zeros((3, *SHAPE), np.float16)
    chances[0] = 1
    chances[:, 0, 0, 0] = 0.25, 0.75, 0
    chances[:, 1, 0, 0] = 0.5, 0.5, 0
    labels = np.zeros(SHAPE, np.uint8)
    labels[0, 0, 0] = 1
    maps = [np.full(SHAPE, value, np.float32) for value in (0.25, 0.5)]
    first, second = uncertainty_of(UncertaintyArrays(chances, *maps), labels, task, [(1,), (2,)])
    # Dice 2 * 0.75 / (1.25 + 1)
    assert first == {"expected_dice": pytest.approx(2 / 3), "entropy": 0.25, "disagreement": 0.5}
    assert second == {"expected_dice": None, "entropy": None, "disagreement": None}
