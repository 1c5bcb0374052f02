"""Scores of a case against MedPy, MONAI and surface-distance, by hand, and by what must always hold."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mambamed.metrics import METRICS, parse_metrics
from mambamed.metrics.kernels import loops
from mambamed.metrics.rules import rules_for
from mambamed.metrics.segmentation import score_case
from tests.metrics.mask_pairs import random_pairs
from tests.real_data import DATA

ALL = parse_metrics(
    [kind if not kind.startswith("nsd") else kind.replace("nsd", "nsd@1") for kind in METRICS]
)
LOOPS = ["numba", "numpy"]


def scores(reference, prediction, spacing=(1, 1, 1), metrics=ALL, compute="numba", **rules):
    case = score_case(
        np.asarray(reference, np.uint8),
        np.asarray(prediction, np.uint8),
        spacing,
        {"region": (1,)},
        metrics,
        rules_for(**rules),
        loops(compute),
    )
    return case["region"].values


def peers(reference, prediction, spacing):
    """The same masks in MedPy 0.5, MONAI 1.6 and surface-distance 0.1."""
    import torch
    from medpy.metric import binary as medpy
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice
    from surface_distance import metrics as deepmind

    pair = [torch.tensor(mask[None, None]) for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": [float(s) for s in spacing]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distances = deepmind.compute_surface_distances(reference, prediction, spacing)
        return {
            "dice": medpy.dc(prediction, reference),
            "iou": medpy.jc(prediction, reference),
            "precision": medpy.precision(prediction, reference),
            "recall": medpy.recall(prediction, reference),
            "hd": medpy.hd(prediction, reference, spacing),
            "hd95:pooled": medpy.hd95(prediction, reference, spacing),
            "assd:pooled": medpy.assd(prediction, reference, spacing),
            "assd:mean-directed": (
                medpy.asd(prediction, reference, spacing) + medpy.asd(reference, prediction, spacing)
            )
            / 2,
            "hd95:max-directed": float(compute_hausdorff_distance(*pair, percentile=95, **options)),
            "nsd@1:voxel": float(compute_surface_dice(*pair, [1.0], **options)),
            "hd95:surface-area": deepmind.compute_robust_hausdorff(distances, 95),
            "nsd@1:surface-area": deepmind.compute_surface_dice_at_tolerance(distances, 1.0),
        }


def assert_equal_to_peers(ours, theirs):
    for name, value in theirs.items():
        # MONAI computes distances in float32, and its quantile between two of them.
        tolerance = 1e-5 if name in {"hd95:max-directed", "nsd@1:voxel"} else 1e-9
        assert ours[name] == pytest.approx(value, rel=tolerance, abs=1e-12), name


@pytest.mark.parametrize("compute", LOOPS)
def test_values_equal_medpy_monai_and_surface_distance_on_random_masks(compute) -> None:
    for reference, prediction, spacing in random_pairs(24):
        for order in "CF":
            pair = [np.asarray(mask, order=order) for mask in (reference, prediction)]
            assert_equal_to_peers(
                scores(*pair, spacing, compute=compute), peers(reference, prediction, spacing)
            )


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "brats_tcia").is_dir(), reason=f"no {DATA / 'brats_tcia'}")
def test_values_equal_the_peers_on_a_real_tumor() -> None:
    import nibabel as nib

    case = "BraTS-GLI-90001-000"
    paths = (
        DATA / "brats_tcia" / "training" / case / f"{case}-seg.nii.gz",
        DATA / "brats_tcia" / "algorithms" / "isen-20" / f"{case}.nii.gz",
    )
    reference, prediction = (
        np.asarray(nib.load(path).dataobj)[60:170:2, 60:200:2, 20:110:2] for path in paths
    )
    spacing = (1.0, 0.8, 2.0)  # not its own: anisotropy must count
    case_scores = score_case(reference, prediction, spacing, {"TC": (1, 3), "WT": (1, 2, 3)}, ALL)
    for name, members in {"TC": (1, 3), "WT": (1, 2, 3)}.items():
        masks = [np.isin(labels, members) for labels in (reference, prediction)]
        assert_equal_to_peers(case_scores[name].values, peers(*masks, spacing))


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "ct_organs").is_dir(), reason=f"no {DATA / 'ct_organs'}")
def test_many_organs_in_one_pass_equal_each_organ_alone() -> None:
    import nibabel as nib

    labels = np.asarray(nib.load(DATA / "ct_organs" / "example_seg.nii.gz").dataobj).astype(np.uint8)
    moved = np.roll(labels, (1, -1, 0), axis=(0, 1, 2))
    organs = {str(v): (int(v),) for v in np.unique(labels)[1:8]}
    together = score_case(labels, moved, (3, 3, 3), organs, ALL)
    for name, (value,) in organs.items():
        alone = scores(labels == value, moved == value, (3, 3, 3))
        for metric, expected in alone.items():
            assert together[name].values[metric] == pytest.approx(expected, nan_ok=True), (name, metric)


def test_one_voxel_three_slices_away_by_hand() -> None:
    reference, prediction = np.zeros((2, 5, 5, 5), bool)
    reference[2, 2, 0] = prediction[2, 2, 3] = True
    found = scores(reference, prediction, (0.8, 0.8, 5.0))
    assert found["dice"] == 0
    for name in ("hd", "hd95:max-directed", "hd95:pooled", "assd:pooled", "assd:mean-directed"):
        assert found[name] == pytest.approx(15.0)
    # The corners that face each other are one slice nearer.
    assert found["hd95:surface-area"] == pytest.approx(15.0)
    assert found["nsd@1:voxel"] == found["nsd@1:surface-area"] == 0


def test_a_shift_by_one_voxel_is_measured_in_millimeters() -> None:
    reference = np.zeros((6, 6, 6), bool)
    reference[1:4, 1:4, 1:4] = True
    prediction = np.roll(reference, 1, axis=2)
    found = scores(reference, prediction, (0.8, 0.8, 5.0))
    assert found["hd"] == pytest.approx(5.0)
    assert found["dice"] == pytest.approx(2 / 3)
    assert found["volume_reference"] == pytest.approx(27 * 0.8 * 0.8 * 5 / 1000)
    assert found["volume_difference"] == 0


def test_one_slice_and_masks_at_the_border_are_measured() -> None:
    reference, prediction = np.zeros((2, 6, 6, 1), bool)
    reference[:3] = True
    prediction[:4] = True
    # Outside the image is background: every voxel of a slice is its surface; one row is 1 away.
    assert scores(reference, prediction)["hd"] == 1.0
    assert scores(reference, prediction)["assd:pooled"] == pytest.approx(6 / 42)


def test_a_voxel_of_float32_size_lies_within_its_own_tolerance() -> None:
    reference, prediction = np.zeros((2, 3, 3, 3), bool)
    reference[1, 1, 1] = prediction[1, 1, 2] = True
    (metric,) = parse_metrics(["nsd@0.8:voxel"])
    spacing = (1.0, 1.0, float(np.float32(0.8)))
    assert scores(reference, prediction, spacing, (metric,))[metric.name] == 1.0


EMPTY, ONE = np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
ONE[1, 1, 1] = True


@pytest.mark.parametrize(
    ("reference", "prediction", "rules", "dice", "distance"),
    [
        (EMPTY, EMPTY, {}, math.nan, math.nan),
        (EMPTY, EMPTY, {"empty": "brats"}, 1.0, 0.0),
        (ONE, EMPTY, {}, 0.0, math.inf),
        (EMPTY, ONE, {}, 0.0, math.inf),
        # What the papers' own scripts give, as their code reads (design: "Metrics: who says what").
        (EMPTY, EMPTY, {"protocol": "segmamba"}, 0.0, 50.0),
        (ONE, EMPTY, {"protocol": "segmamba"}, 0.0, 50.0),
        (EMPTY, EMPTY, {"protocol": "tamingmambas"}, 1.0, 0.0),
        (ONE, EMPTY, {"protocol": "tamingmambas"}, 0.0, 0.0),
        (ONE, EMPTY, {"protocol": "brats-legacy"}, 0.0, 373.1287),
        (EMPTY, ONE, {"protocol": "nnunet"}, 0.0, math.inf),
    ],
)
def test_an_empty_mask_counts_for_what_the_rule_says(reference, prediction, rules, dice, distance) -> None:
    metrics = parse_metrics(["dice", "hd95", "nsd@1", "assd"])
    found = scores(reference, prediction, metrics=metrics, **rules)
    assert found["dice"] == pytest.approx(dice, nan_ok=True)
    assert found["nsd@1:surface-area"] == pytest.approx(dice, nan_ok=True)
    assert found["hd95:max-directed"] == pytest.approx(distance, nan_ok=True)
    assert found["assd:pooled"] == pytest.approx(distance, nan_ok=True)


def test_protocols_that_ignore_spacing_say_so_and_do_so() -> None:
    reference, prediction = np.zeros((2, 5, 5, 5), bool)
    reference[2, 2, 0] = prediction[2, 2, 3] = True
    metrics = parse_metrics(["hd95:pooled"])
    for protocol in ("segmamba", "tamingmambas"):
        assert scores(reference, prediction, (0.8, 0.8, 5), metrics, protocol=protocol)["hd95:pooled"] == 3
        assert "spacing ignored" in rules_for(protocol).describe()


def test_regions_may_overlap_and_labels_may_be_large() -> None:
    reference = np.zeros((4, 4, 4), np.int32)
    reference[0, 0, :3] = (1, 2, 40_000)
    prediction = np.where(reference == 2, 1, reference)
    regions = {"both": (1, 2), "one": (1,), "large": (40_000,)}
    found = score_case(reference, prediction, (1, 1, 1), regions, parse_metrics(["dice"]))
    assert {name: s.values["dice"] for name, s in found.items()} == {
        "both": 1.0,
        "one": pytest.approx(2 / 3),
        "large": 1.0,
    }


@pytest.mark.parametrize(
    ("reference", "prediction", "word"),
    [
        (np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int), "grid"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), "3-D"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), "integers"),
        (np.full((2, 2, 2), -1), np.zeros((2, 2, 2), int), "negative"),
        (np.arange(512).reshape(8, 8, 8), np.zeros((8, 8, 8), int), "too many"),
    ],
)
def test_what_is_no_pair_of_label_maps_is_refused(reference, prediction, word) -> None:
    with pytest.raises(ValueError, match=word):
        score_case(reference, prediction, (1, 1, 1), {"a": (1,)}, ALL)


MASKS = array_shapes(min_dims=3, max_dims=3, max_side=7).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)
SYMMETRIC = [
    m
    for m in ALL
    if m.kind.startswith(("dice", "iou", "hd", "assd", "nsd")) and not m.kind.startswith("lesion")
]


@settings(max_examples=40, deadline=None)
@given(MASKS, st.tuples(*[st.floats(0.3, 6)] * 3), st.floats(0.1, 10))
def test_symmetry_identity_and_scaling_hold(masks, spacing, factor) -> None:
    a, b = masks
    there, back = scores(a, b, spacing, SYMMETRIC), scores(b, a, spacing, SYMMETRIC)
    larger = scores(a, b, tuple(s * factor for s in spacing), SYMMETRIC)
    same = scores(a, a, spacing, SYMMETRIC)
    for metric in SYMMETRIC:
        name = metric.name
        assert there[name] == pytest.approx(back[name], rel=1e-9, nan_ok=True)
        # Shares of area are sums of floats: scaled, a share of exactly 95 % may fall on the other side.
        if METRICS[metric.kind].unit == "mm" and "surface-area" not in name:
            assert larger[name] == pytest.approx(there[name] * factor, rel=1e-6, nan_ok=True)
        if a.any():
            assert same[name] == (0 if METRICS[metric.kind].unit == "mm" else 1)


@settings(max_examples=40, deadline=None)
@given(MASKS, st.tuples(*[st.floats(0.3, 6)] * 3))
def test_the_compiled_loops_equal_the_plain_ones(masks, spacing) -> None:
    fast, plain = (scores(*masks, spacing, compute=name) for name in LOOPS)
    for name, value in plain.items():
        assert fast[name] == pytest.approx(value, rel=1e-9, nan_ok=True), name
