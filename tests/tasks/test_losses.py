"""Losses against torch, MONAI and SciPy, and by hand; unknown voxels count for nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import RecipeError
from mambamed.recipe import Recipe
from mambamed.tasks.losses import binary_cross_entropy, boundary_loss, cross_entropy, signed_distance
from mambamed.tasks.segmentation import Segmentation

LABELS = {"background": 0, "a": 1, "b": 2, "ignore": 3}


def task(regions=None, labels=LABELS, **loss) -> Segmentation:
    recipe = Recipe.model_validate({"network": {"name": "nnmamba"}, "training": {"loss": loss}})
    return Segmentation(
        recipe,
        DatasetManifest(name="d", channels={"m": "mri"}, labels=labels, regions=regions or {}),
        (1.0, 2.0, 3.0),
    )


def batch(outputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, outputs, 5, 4, 3, generator=generator, requires_grad=True)
    return logits, torch.randint(0, 3, (2, 5, 4, 3), generator=generator)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 3.0, 0.5])])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torchs(weights, smoothing):
    logits, target = batch()
    target[0, :3] = -1
    got = cross_entropy(logits.log_softmax(1), target, weights, smoothing, 0.0)
    expected = functional.cross_entropy(
        logits, target, weight=weights, ignore_index=-1, label_smoothing=smoothing
    )
    torch.testing.assert_close(got, expected)
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (got, expected))
    torch.testing.assert_close(ours, theirs)


def test_focal_loss_equals_monais():
    from monai.losses.focal_loss import FocalLoss

    logits, target = batch()
    expected = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0)(logits, target[:, None])
    # MONAI means over labels as well, of which all but one are zero.
    got = cross_entropy(logits.log_softmax(1), target, None, 0.0, 2.0)
    torch.testing.assert_close(got, expected * 3)
    masks = functional.one_hot(target, 3).movedim(-1, 1).bool()
    expected = FocalLoss(gamma=1.5)(logits, masks.float())
    torch.testing.assert_close(binary_cross_entropy(logits, masks, None, 0.0, 1.5), expected)


def test_binary_cross_entropy_of_weights_and_smoothing_by_hand():
    # One voxel, two regions: logit 0 costs ln 2 whatever the target; logit ln 3 is p = 3/4, target 0.9.
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1, 1)
    truth = torch.tensor([False, True]).view(1, 2, 1, 1, 1)
    got = binary_cross_entropy(logits, truth, torch.tensor([1.0, 3.0]), 0.2, 0.0)
    second = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    assert float(got) == pytest.approx((math.log(2) + 3 * second) / 4, abs=1e-6)


def test_signed_distance_is_zero_on_the_rim_and_counts_millimeters():
    # Kervadec's one_hot2dist: edt(outside) - (edt(inside) - 1), here with mm for voxels.
    mask = np.zeros((7, 5), bool)
    mask[2:5, 1:4] = True
    got = signed_distance(mask, (1.0, 1.0))
    assert got[0, 2] == 2 and got[2, 2] == 0 and got[3, 2] == -1
    assert signed_distance(mask, (2.0, 5.0))[0, 2] == 4


def test_the_boundary_loss_by_hand_and_without_a_boundary():
    reference = torch.tensor([False, True, False, False]).view(1, 1, 4, 1, 1)
    probabilities = torch.tensor([0.5, 1.0, 0.0, 0.25]).view(1, 1, 4, 1, 1)
    # Distances in mm at 2 mm: 2, 0, 2, 4: (0.5 * 2 + 0.25 * 4) / 4.
    assert float(boundary_loss(probabilities, reference, (2.0, 2.0, 2.0))) == pytest.approx(0.5)
    nothing = torch.zeros_like(reference)
    assert float(boundary_loss(probabilities, nothing, (1.0, 1.0, 1.0))) == 0
    known = torch.tensor([True, True, True, False]).view(1, 1, 4, 1, 1)
    assert float(boundary_loss(probabilities, reference, (2.0, 2.0, 2.0), known)) == pytest.approx(1 / 3)


PARTS = {"focal": 0.5, "boundary": 0.1, "label_smoothing": 0.05}


@pytest.mark.parametrize("regions", [None, {"all": (1, 2), "b": (2,)}], ids=["labels", "regions"])
@pytest.mark.parametrize("parts", [{}, PARTS], ids=["plain", "all parts"])
def test_what_a_network_says_of_unknown_voxels_changes_nothing(regions, parts):
    with_ignore = task(regions, **parts)
    assert (
        with_ignore.outputs == len(with_ignore.names) + (regions is None)
        and "ignore" not in with_ignore.names
    )
    logits, labels = batch(with_ignore.outputs)
    labels[:, 2:4] = 3
    target = with_ignore.encode(labels)
    assert set(target.unique().tolist()) == {-1, 0, 1, 2}
    loss = with_ignore.loss(logits, target)
    gradient = torch.autograd.grad(loss, logits)[0]
    assert (gradient[:, :, 2:4] == 0).all() and (gradient[:, :, :2] != 0).any()
    other = logits.detach().clone()
    other[:, :, 2:4] = 9.0
    assert float(with_ignore.loss(other, target)) == pytest.approx(loss.item(), rel=1e-6)
    assert torch.equal(with_ignore.score(other, target), with_ignore.score(logits, target))
    if not parts:  # the loss of the voxels that are known, alone
        keep = [0, 1, 4]
        alone = task(regions, labels={n: v for n, v in LABELS.items() if v != 3})
        expected = alone.loss(logits[:, :, keep], alone.encode(labels[:, keep]))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_patch_of_which_nothing_is_known_teaches_nothing():
    learner = task(dice=0)
    logits, labels = batch()
    loss = learner.loss(logits, learner.encode(torch.full_like(labels, 3)))
    assert loss.item() == 0 and (torch.autograd.grad(loss, logits)[0] == 0).all()


@pytest.mark.parametrize(
    "part", [{"focal": 1.0}, {"boundary": 0.1}, {"label_smoothing": 0.3}, {"class_weights": {"a": 4.0}}]
)
def test_each_part_of_the_loss_changes_it(part):
    logits, labels = batch()
    plain, changed = task(), task(**part)
    one, other = (each.loss(logits, each.encode(labels)).item() for each in (plain, changed))
    assert one != pytest.approx(other, rel=1e-3)


def test_depth_weights_of_a_recipe_are_normalized_and_the_rest_is_zero():
    logits, labels = batch()
    learner = task(depth_weights=[3, 1])
    target = learner.encode(labels)
    one, two = logits.detach(), torch.randn(2, 3, 5, 4, 3)
    expected = 0.75 * task().loss(one, target) + 0.25 * task().loss(two, target)
    got = learner.loss([one, two, torch.full_like(one, torch.nan)], target)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_weights_of_unknown_names_are_refused():
    with pytest.raises(RecipeError, match="class_weights names liver; the network answers background, a, b"):
        task(class_weights={"liver": 2.0})
