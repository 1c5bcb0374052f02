"""The temperature of masks: from which voxels, and its value where it is known."""

from __future__ import annotations

import numpy as np
import pytest

from mambamed.answers.mask_calibration import VOXELS_PER_CASE, sample_voxels, temperature_of


def drawn(temperature: float, by_regions: bool) -> list:
    """Cases whose truth is drawn from the softmax or sigmoid of their logits divided by a temperature."""
    random = np.random.default_rng(1)
    samples = []
    for case in range(4):
        logits = random.normal(0, 3, (3, 20, 20, 20))
        scaled = logits / temperature
        if by_regions:
            truth = random.random(logits.shape) < 1 / (1 + np.exp(-scaled))
        else:
            chances = np.exp(scaled) / np.exp(scaled).sum(0)
            truth = (random.random((1, 20, 20, 20)) > chances.cumsum(0)).sum(0)
        samples.append(sample_voxels(logits, truth, np.ones((20, 20, 20), bool), case))
    return samples


@pytest.mark.parametrize("by_regions", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_temperature_by_which_the_truth_was_drawn_is_found(temperature, by_regions) -> None:
    samples = drawn(temperature, by_regions)
    assert {sample.logits.shape for sample in samples} == {(VOXELS_PER_CASE, 3)}
    assert temperature_of(samples) == pytest.approx(temperature, rel=0.06)


def test_voxels_far_from_the_structures_and_ignored_ones_do_not_count() -> None:
    truth = np.zeros((40, 40, 40), np.int64)
    truth[20, 20, 20:22] = 1
    logits = np.zeros((2, 40, 40, 40), np.float32)
    logits[1] = np.where(truth > 0, 5, -5) + np.linspace(0, 1, 40)[:, None, None]
    known = np.ones(truth.shape, bool)
    sample = sample_voxels(logits, truth, known)
    assert len(sample.truth) == 11 * 11 * 12 and sample.truth.sum() == 2  # five voxels on every side
    known[20] = False  # the structure's plane: one voxel of the rest stands for the case
    assert len(sample_voxels(logits, truth, known).truth) == 6 * 6 * 6
    assert temperature_of([]) is None
