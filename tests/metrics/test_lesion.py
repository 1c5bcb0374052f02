"""Lesion-wise scores against the algorithm of the official script, written out step by step."""

import numpy as np
import pytest
from scipy import ndimage

from mambamed.metrics import parse_metrics
from mambamed.metrics.lesion import LesionRules
from mambamed.metrics.rules import rules_for
from mambamed.metrics.segmentation import score_case

# surface-distance calls scipy by names that will go.
pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")

METRICS = parse_metrics(["lesion_dice", "lesion_hd95", "lesion_f1"])


def step_by_step(reference, prediction, spacing, rules):
    """As the BraTS 2023 script goes, lesion by lesion on whole volumes; distances by surface-distance."""
    from surface_distance import metrics as deepmind

    structure = ndimage.generate_binary_structure(3, 2)
    corners = np.ones((3, 3, 3))

    def dilated(mask):
        if not rules.dilations:
            return mask
        return ndimage.binary_dilation(mask, structure, iterations=rules.dilations)

    zones, count = ndimage.label(dilated(reference), corners)
    lesions = zones * reference
    parts, _ = ndimage.label(prediction, corners)
    dice, hd95, claimed = [], [], set()
    for lesion in range(1, count + 1):
        mask = lesions == lesion
        touched = set(np.unique(parts[dilated(mask)])) - {0}
        claimed |= touched
        if mask.sum() * np.prod(spacing) <= rules.smallest_mm3:
            continue
        answer = np.isin(parts, list(touched))
        dice.append(2 * (mask & answer).sum() / (mask.sum() + answer.sum()))
        if touched:
            distances = deepmind.compute_surface_distances(mask, answer, spacing)
            hd95.append(deepmind.compute_robust_hausdorff(distances, 95))
        else:
            hd95.append(374.0)
    false = len(set(np.unique(parts)) - {0} - claimed)
    n = len(dice) + false
    return (sum(dice) / n, (sum(hd95) + 374 * false) / n) if n else (1.0, 0.0)


@pytest.mark.parametrize("protocol", ["brats2023", "brats2023-men", "brats2023-met"])
def test_lesion_wise_scores_equal_the_official_algorithm(protocol) -> None:
    random = np.random.default_rng(3)
    rules = rules_for(protocol)
    for number in range(8):
        noise = ndimage.gaussian_filter(random.normal(size=(2, 34, 30, 26)), (0, 1.7, 1.7, 1.7))
        reference = noise[0] > 0.24
        prediction = noise[0] + noise[1] * 0.7 > 0.28
        spacing = (1.0, 1.0, 1.0) if number % 2 else (1.5, 0.9, 2.0)
        pair = (reference.astype(np.uint8), prediction.astype(np.uint8))
        found = score_case(*pair, spacing, {"a": (1,)}, METRICS, rules)["a"].values
        dice, hd95 = step_by_step(reference, prediction, spacing, rules.lesions)
        assert found["lesion_dice"] == pytest.approx(dice, rel=1e-9)
        assert found["lesion_hd95"] == pytest.approx(hd95, rel=1e-9)


def scored(reference, prediction, rules):
    pair = (np.asarray(reference, np.uint8), np.asarray(prediction, np.uint8))
    return score_case(*pair, (1, 1, 1), {"a": (1,)}, METRICS, rules)["a"].values


def test_small_lesions_may_be_missed_and_claim_what_touches_them_but_false_ones_always_cost() -> None:
    rules = rules_for("brats2023")
    empty, small, large, false = np.zeros((4, 40, 40, 20), bool)
    small[5:8, 5:8, 5:8] = True  # 27 mm³
    large[20:28, 20:28, 5:12] = True  # 448 mm³
    false[35, 35, 2] = True
    assert scored(small, empty, rules)["lesion_dice"] == 1.0  # nothing that counts was missed
    assert scored(small, small, rules) == {"lesion_dice": 1.0, "lesion_hd95": 0.0, "lesion_f1": 1.0}
    assert scored(large, large | false, rules)["lesion_dice"] == 0.5
    assert scored(large, large | false, rules)["lesion_hd95"] == 187.0
    assert scored(large | small, large, rules)["lesion_dice"] == 1.0
    assert scored(empty, empty, rules)["lesion_dice"] == 1.0
    assert np.isnan(scored(empty, empty, rules_for())["lesion_dice"])


def test_parts_of_a_reference_nearer_than_the_dilation_are_one_lesion() -> None:
    reference = np.zeros((30, 30, 12), bool)
    reference[3:9, 3:9, 3:9] = reference[13:19, 3:9, 3:9] = True  # a gap of 4 voxels
    prediction = np.zeros_like(reference)
    prediction[3:9, 3:9, 3:9] = True
    together = scored(reference, prediction, rules_for("brats2023"))["lesion_dice"]
    apart = scored(reference, prediction, rules_for("brats2023-men"))["lesion_dice"]
    assert together == pytest.approx(2 / 3)  # one lesion, half of it found
    assert apart == pytest.approx(1 / 2)  # two lesions, one found
    assert LesionRules().dilations == 3
