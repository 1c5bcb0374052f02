"""Losses against MONAI and by hand; regions; what goes in comes out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mambamed.documents.manifest import DatasetManifest
from mambamed.errors import DatasetError, RecipeError
from mambamed.recipe import Recipe
from mambamed.recipe.tasks import TASKS
from mambamed.tasks.base import task_for
from mambamed.tasks.segmentation import Segmentation, nearest_labels, region_writing
from tests.batches.memory_case import MemoryCase

LABELS = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def recipe(**loss) -> Recipe:
    return Recipe.model_validate({"network": {"name": "nnmamba"}, "training": {"loss": loss}})


def by_labels(labels=LABELS, **loss) -> Segmentation:
    return Segmentation(recipe(**loss), DatasetManifest(name="d", channels={"a": "mri"}, labels=labels))


def by_regions(**loss) -> Segmentation:
    return Segmentation(
        recipe(**loss), DatasetManifest(name="d", channels={"a": "mri"}, labels=LABELS, regions=REGIONS)
    )


def random_batch(outputs: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, outputs, 6, 5, 4, generator=generator, requires_grad=True)
    return logits, torch.randint(0, 4, (2, 6, 5, 4), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_loss_over_labels_equals_monais(batch_dice):
    from monai.losses.dice import DiceCELoss

    logits, labels = random_batch(4)
    task = by_labels(batch_dice=batch_dice, dice=0.7, cross_entropy=1.3)
    expected = DiceCELoss(
        include_background=True, to_onehot_y=True, softmax=True, smooth_nr=1e-5, smooth_dr=1e-5,
        batch=batch_dice, lambda_dice=0.0, lambda_ce=1.3,
    )(logits, labels[:, None].long())  # fmt: skip
    expected = expected + DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1e-5, smooth_dr=1e-5,
        batch=batch_dice, lambda_dice=0.7, lambda_ce=0.0,
    )(logits, labels[:, None].long())  # fmt: skip
    got = task.loss(logits, task.encode(labels))
    assert got.item() == pytest.approx(expected.item(), abs=1e-6)
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (got, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-4)


def test_the_loss_over_regions_equals_monais_dice_and_torchs_binary_cross_entropy():
    from monai.losses.dice import DiceLoss

    logits, labels = random_batch(3)
    masks = torch.stack([sum(labels == v for v in members) > 0 for members in REGIONS.values()], dim=1)
    dice = DiceLoss(sigmoid=True, smooth_nr=1e-5, smooth_dr=1e-5)(logits, masks.float())
    entropy = torch.nn.functional.binary_cross_entropy(torch.sigmoid(logits), masks.float())
    task = by_regions()
    got = task.loss(logits, task.encode(labels)).item()
    assert got == pytest.approx((dice + entropy).item(), abs=1e-6)


def test_the_loss_of_two_voxels_by_hand():
    # Probabilities of label 1: 3/4 where it is, 1/4 where it is not. Dice 2 * .75 / (1 + 1) = .75;
    # cross-entropy -ln .75 in both voxels.
    task = by_labels({"background": 0, "a": 1}, smooth=0)
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]]).T.view(1, 2, 2, 1, 1)
    target = task.encode(torch.tensor([1, 0]).view(1, 2, 1, 1))
    assert float(task.loss(logits, target)) == pytest.approx(0.25 - math.log(0.75), abs=1e-6)


def test_depths_count_half_as_much_each():
    task = by_labels()
    labels = torch.randint(0, 4, (1, 8, 8, 8))
    target = task.encode(labels)
    depths = [torch.randn(1, 4, 8 // s, 8 // s, 8 // s) for s in (1, 2, 4)]
    alone = [float(task.loss(depth, nearest_labels(target, depth.shape[2:]))) for depth in depths]
    expected = (alone[0] + alone[1] / 2 + alone[2] / 4) / 1.75
    assert float(task.loss(depths, target)) == pytest.approx(expected, rel=1e-5)


def test_a_coarser_target_is_what_torch_calls_nearest_exact():
    labels = torch.randint(0, 4, (2, 9, 7, 10))
    expected = torch.nn.functional.interpolate(labels[:, None].float(), size=(5, 4, 5), mode="nearest-exact")
    torch.testing.assert_close(nearest_labels(labels, (5, 4, 5)), expected[:, 0].long())


def test_the_loss_is_float32_whatever_the_logits_are():
    logits, labels = random_batch(4)
    task = by_labels()
    half = logits.bfloat16()
    loss = task.loss(half, task.encode(labels))
    assert loss.dtype == torch.float32
    # To the last bit what float32 makes of the same numbers: nothing is added up in bf16.
    assert loss.item() == task.loss(half.float(), task.encode(labels)).item()


@pytest.mark.parametrize("task", [by_labels(), by_regions()], ids=["labels", "regions"])
def test_what_is_encoded_is_decoded(task):
    labels = torch.randint(0, 4, (1, 5, 6, 7), dtype=torch.uint8)
    target = task.encode(labels)
    if task.by_regions:
        masks = torch.stack([sum(labels[0] == v for v in m) > 0 for m in REGIONS.values()])
        logits = masks.float() * 2 - 1
    else:
        logits = torch.nn.functional.one_hot(target[0], 4).movedim(-1, 0).float()
    np.testing.assert_array_equal(task.decode(logits), labels[0].numpy())
    counts = task.score(logits[None], target)
    assert all(score == 1 for score in task.summarize(counts).values())


def test_labels_that_are_not_consecutive_keep_their_values():
    task = by_labels({"background": 0, "a": 4, "b": 300})
    labels = torch.tensor([0, 4, 300, 4]).view(1, 4, 1, 1)
    target = task.encode(labels)
    assert target.flatten().tolist() == [0, 1, 2, 1]
    decoded = task.decode(torch.nn.functional.one_hot(target[0], 3).movedim(-1, 0).float())
    assert decoded.dtype == np.uint16 and decoded.ravel().tolist() == [0, 4, 300, 4]


def test_a_label_that_the_manifest_does_not_know_is_named():
    with pytest.raises(DatasetError, match=r"\[7\]"):
        by_labels().encode(torch.tensor([0, 7]).view(1, 2, 1, 1))
    with pytest.raises(DatasetError, match=r"\[3\]"):
        by_labels({"background": 0, "a": 4}).encode(torch.tensor([0, 3]).view(1, 2, 1, 1))


def test_regions_nest_in_the_label_map_whatever_the_logits():
    task = by_regions()
    labels = task.decode(np.random.default_rng(0).normal(size=(3, 8, 8, 8)))
    wt, tc, et = (np.isin(labels, members) for members in REGIONS.values())
    assert (wt | ~tc).all() and (tc | ~et).all() and et.any()


def test_regions_in_any_order_write_their_own_labels():
    # BraTS: edema marks WT out, the necrotic core marks TC out.
    order, values = region_writing({"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)})
    assert order == (2, 1, 0) and values == (3, 1, 2)


def test_regions_write_the_labels_that_the_manifest_gives_in_its_order():
    """B is written last, with 3, although A has fewer labels and would write 2 by the rule."""
    regions = {"A": (1, 2), "B": (2, 3, 1)}
    fields = {"labels": {"background": 0, "a": 1, "b": 2, "c": 3}, "regions": regions}
    manifest = DatasetManifest(name="d", channels={"x": "mri"}, region_values=(1, 3), **fields)
    logits = np.array([[1.0, 1, -1], [-1, 1, -1]]).reshape(2, 3, 1, 1)
    assert Segmentation(recipe(), manifest).decode(logits).ravel().tolist() == [1, 3, 0]
    with pytest.raises(ValueError, match="region_values: expected one per region, 2, got 1"):
        manifest.changed(region_values=(1,))


def test_two_equal_regions_cannot_be_written():
    with pytest.raises(DatasetError, match=r"region a .*label map cannot show it"):
        region_writing({"a": (1, 2), "b": (2, 1)})


def test_dice_of_counts_equals_sklearns_f1():
    from sklearn.metrics import f1_score

    logits, labels = random_batch(4)
    task = by_labels()
    scores = task.summarize(task.score(logits.detach(), task.encode(labels)))
    predicted = logits.argmax(1).numpy().ravel()
    expected = f1_score(labels.numpy().ravel(), predicted, labels=[1, 2, 3], average=None)
    assert list(scores) == ["NCR", "ED", "ET"]
    np.testing.assert_allclose(list(scores.values()), expected, atol=1e-12)


def test_a_structure_that_is_nowhere_has_no_score():
    task = by_labels()
    nothing = torch.zeros(1, 4, 2, 2, 2)
    scores = task.summarize(task.score(nothing, torch.zeros(1, 2, 2, 2, dtype=torch.int64)))
    assert all(math.isnan(score) for score in scores.values())


def test_the_number_of_outputs():
    assert by_labels().outputs == 4 and by_regions().outputs == 3
    assert by_regions().names == ("WT", "TC", "ET")


def test_a_network_of_cases_is_refused() -> None:
    with pytest.raises(RecipeError, match="nnmamba is a classification network"):
        by_labels().loss(torch.zeros(2, 4), torch.zeros(2, 3, 3, 3))


def test_a_dataset_without_labels_is_refused():
    with pytest.raises(DatasetError, match="nothing to segment"):
        Segmentation(recipe(), DatasetManifest(name="d", channels={"a": "mri"}, labels={"background": 0}))


def test_every_task_of_the_table_is_there():
    manifest = DatasetManifest(
        name="d", channels={"a": "mri"}, labels=LABELS, landmarks=("nose",), classes=("NC", "AD")
    )
    for name in TASKS:
        assert task_for(recipe().model_copy(update={"task": name}), manifest).outputs > 0


def test_a_task_that_is_not_in_the_table_is_refused():
    manifest = DatasetManifest(name="d", channels={"a": "mri"}, labels=LABELS)
    with pytest.raises(RecipeError, match=r"registration.*segmentation"):
        task_for(recipe().model_copy(update={"task": "registration"}), manifest)


def sided(labels, pairs, regions=None) -> Segmentation:
    asked = {"network": {"name": "nnmamba"}, "dataset": {"mirror_pairs": pairs}}
    fields = {"labels": labels, "regions": regions or {}}
    return Segmentation(
        Recipe.model_validate(asked), DatasetManifest(name="d", channels={"a": "mri"}, **fields)
    )


def mirrored(task: Segmentation, labels: torch.Tensor) -> torch.Tensor:
    """The target of a volume that is mirrored across x."""
    volume = labels.flip(1).numpy()
    case = task.case(MemoryCase(np.zeros((1, *volume.shape[1:]), np.float32), volume[0]))
    return task.encode(torch.from_numpy(case.reference(volume, lambda points: points, True)))


@pytest.mark.parametrize("regions", [None, {"l": (1,), "both": (1, 3, 5), "r": (5,)}])
def test_a_mirrored_target_is_that_of_the_mirrored_outputs(regions) -> None:
    """The loss of logits and volume equals that of both mirrored, whose channels change places."""
    labels = {"background": 0, "l": 1, "mid": 3, "r": 5, "ignore": 7}
    task = sided(labels, [["l", "r"]], regions)
    assert task.mirror_order == ((0, 3, 2, 1) if regions is None else (2, 1, 0))
    generator = torch.Generator().manual_seed(0)
    volume = torch.tensor([0, 1, 3, 5, 7], dtype=torch.uint8)[
        torch.randint(0, 5, (1, 8, 6, 4), generator=generator)
    ]
    depths = [torch.randn(1, task.outputs, 8 // d, 6 // d, 4 // d, generator=generator) for d in (1, 2)]
    other = [logits.flip(2)[:, list(task.mirror_order)] for logits in depths]
    assert float(task.loss(depths[0], task.encode(volume))) == pytest.approx(
        float(task.loss(other[0], mirrored(task, volume))), rel=1e-5
    )
    symmetric = torch.cat([volume[:, :4], mirrored_pair(volume[:, :4])], dim=1)
    assert torch.equal(mirrored(task, symmetric), task.encode(symmetric))
    assert float(task.loss(other, mirrored(task, symmetric))) > 0  # coarser depths take the same target


def mirrored_pair(half: torch.Tensor) -> torch.Tensor:
    """The other half of a symmetric body: 1 and 5 are the partners."""
    flipped = half.flip(1)
    return torch.where(flipped == 1, 5, torch.where(flipped == 5, 1, flipped)).to(half.dtype)


def test_labels_outside_the_dataset_are_still_reported_in_mirrored_patches() -> None:
    with pytest.raises(DatasetError, match=r"labels \[9\] are not in the manifest"):
        mirrored(
            sided({"background": 0, "l": 1, "r": 2}, [["l", "r"]]),
            torch.full((1, 4, 4, 4), 9, dtype=torch.uint8),
        )


@pytest.mark.parametrize("task", [by_labels({"background": 0, "NCR": 1, "ED": 2, "ET": 7}), by_regions()])
def test_a_picture_of_a_patch_has_the_labels_that_decode_gives(task) -> None:
    logits, labels = random_batch(task.outputs)
    reference, prediction = task.marks(task.encode(labels.clamp(max=2))[0], logits[0].detach())
    assert np.array_equal(reference.label, labels[0].clamp(max=2).numpy())
    assert np.array_equal(prediction.label, task.decode(logits[0]))
    assert task.marks(torch.zeros(6, 5, 4, dtype=torch.int64), logits[0]) is None  # nothing to compare with
