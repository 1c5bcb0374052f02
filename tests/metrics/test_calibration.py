"""Temperature scaling, against a search by hand and its own promises."""

import numpy as np
import pytest

from mambamed.metrics.calibration import fit_temperature, softmax


def test_a_classifier_twice_too_sure_is_given_its_temperature_back() -> None:
    random = np.random.default_rng(0)
    honest = random.normal(0, 1.5, (20000, 3))
    drawn = (softmax(honest).cumsum(1) > random.random((20000, 1))).argmax(1)
    found = fit_temperature(2 * honest, drawn)
    assert found == pytest.approx(2, rel=0.03)


def test_no_other_temperature_makes_the_classes_more_likely() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0, 3, (60, 2))
    truth = (logits[:, 1] + random.normal(0, 4, 60) > logits[:, 0]).astype(int)
    found = fit_temperature(logits, truth)
    assert found is not None

    def unlikelihood(temperature: float) -> float:
        return -np.log(softmax(logits / temperature)[np.arange(60), truth]).sum()

    grid = np.geomspace(0.1, 15, 400)
    assert unlikelihood(found) <= min(map(unlikelihood, grid)) + 1e-6


def test_a_classifier_without_an_error_is_not_made_surer() -> None:
    logits = np.array([[3.0, 0.0]] * 8 + [[0.0, 3.0]] * 8)
    assert fit_temperature(logits, [0] * 8 + [1] * 8) == pytest.approx(1)


def test_few_cases_and_a_single_class_calibrate_nothing() -> None:
    assert fit_temperature(np.zeros((9, 2)), [0, 1] * 4 + [0]) is None
    assert fit_temperature(np.zeros((20, 2)), [1] * 20) is None


def test_logits_and_classes_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="classes for logits"):
        fit_temperature(np.zeros((20, 2)), [0, 1])
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(np.full((20, 2), np.nan), [0, 1] * 10)
