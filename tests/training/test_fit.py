import dataclasses
import math
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan, ZScore
from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.preparation.options import parse_bytes
from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Silence
from mambamed.recipe import Recipe
from mambamed.run.folder import create_run, planned_run
from mambamed.run.workplace import Workplace
from mambamed.training import fit as fit_module
from mambamed.training.estimate import loss_bytes
from mambamed.training.fit import fit_recipe, probe_step, real_step_gib
from mambamed.training.step import Steps
from mambamed.training.training import _fitted
from tests.exhausted import every_library, fails

GIB = 2**30
MANIFEST = DatasetManifest(name="made", channels={"ct": "ct"}, labels={"background": 0, "organ": 1})
PLAN = Plan(
    spacing_mm=(0.8, 0.8, 5.0),
    shape_median=(400, 380, 60),
    patch_size=(128, 128, 128),
    batch_size=2,
    crop="nonzero",
    normalization=(ZScore(),),
)
PLACE = Workplace(torch.device("cpu"), "fp32", torch.contiguous_format)


def recipe(name="nnmamba", training=None, **options) -> Recipe:
    return Recipe.model_validate({"network": {"name": name, **options}, "training": training or {}})


def by_voxels(gib_a_million):
    """A network whose memory is in proportion to its voxels."""

    def probe(asked, patch, batch):
        return gib_a_million * batch * patch[0] * patch[1] * patch[2] / 1e6

    return probe


def test_the_patch_shrinks_where_it_is_longest_against_the_median_case_until_it_fits() -> None:
    """9 of 10 GiB, 1 GiB a million voxels: two patches of at most 4.5 million, but not far below."""
    fit = fit_recipe(recipe(), PLAN, MANIFEST, 10 * GIB, PLACE, Silence(), by_voxels(1.0)).training
    x, y, z = fit.patch_size
    assert fit.batch_size == 2
    assert 3.8e6 < x * y * z <= 4.5e6
    assert all(n % 16 == 0 for n in fit.patch_size)
    assert abs(x / 400 - y / 380) < 0.06
    assert abs(z / 60 - x / 400) < 0.3


def test_the_batch_grows_only_where_the_whole_case_fits() -> None:
    plan = PLAN.changed(shape_median=(35, 50, 35))
    fit = fit_recipe(recipe(), plan, MANIFEST, 1 * GIB, PLACE, Silence(), by_voxels(1.0)).training
    assert fit.patch_size == (48, 64, 48)
    assert fit.batch_size == 6  # 0.9 GiB / 0.147 million voxels


def test_what_the_recipe_gives_is_kept() -> None:
    asked = recipe(training={"patch_size": (64, 64, 32), "batch_size": 3})
    fit = fit_recipe(asked, PLAN, MANIFEST, 4 * GIB, PLACE, Silence(), by_voxels(1.0)).training
    assert (fit.patch_size, fit.batch_size) == ((64, 64, 32), 3)
    with pytest.raises(RecipeError, match="--fit: 3 patches of 64x64x32 take"):
        fit_recipe(asked, PLAN, MANIFEST, GIB // 10, PLACE, Silence(), by_voxels(1.0))


def test_a_budget_too_small_for_anything_is_one_line() -> None:
    with pytest.raises(RecipeError, match="2 patches of 32x32x32 take"):
        fit_recipe(recipe(), PLAN, MANIFEST, GIB // 100, PLACE, Silence(), by_voxels(1.0))


def test_strides_and_kernels_are_planned_for_anisotropic_spacing() -> None:
    """nnU-Net's rule: 5 mm against 0.8 mm is neither halved nor convolved along z at first."""
    fit = fit_recipe(recipe("nnunet"), PLAN, MANIFEST, 8 * GIB, PLACE, Silence(), by_voxels(1.0))
    options = fit.network.options
    assert options["spacing_mm"] == [0.8, 0.8, 5.0]
    assert tuple(options["patch_size"]) == fit.training.patch_size
    with torch.device("meta"):
        network = build_network("nnunet", 1, 2, **options)
    shapes = {tuple(m.kernel_size) for m in network.modules() if isinstance(m, torch.nn.Conv3d)}
    assert (3, 3, 1) in shapes
    assert (3, 3, 3) in shapes
    listed = recipe("nnunet", strides=[1, 2, 2])
    kept = fit_recipe(listed, PLAN, MANIFEST, 8 * GIB, PLACE, Silence(), by_voxels(1.0))
    assert kept.network == listed.network


def test_a_network_that_permutes_the_volume_gets_patch_and_spacing_in_its_order() -> None:
    asked = recipe("transunet", training={"patch_size": (64, 48, 32)}, axis_order="zyx")
    fit = fit_recipe(asked, PLAN, MANIFEST, 8 * GIB, PLACE, Silence(), by_voxels(1.0))
    assert fit.training.patch_size == (64, 48, 32)
    assert fit.network.options["patch_size"] == [32, 48, 64]
    assert fit.network.options["spacing_mm"] == [5.0, 0.8, 0.8]


@pytest.mark.parametrize(
    ("name", "order", "expected"),
    [
        ("unetr", None, [64, 48, 32]),
        ("unimiss", "xyz", [64, 48, 32]),
        ("unimiss", "zyx", [32, 48, 64]),
        ("crate", "zyx", [32, 48, 64]),
        ("segmamba", "zyx", None),
    ],
)
def test_a_network_for_one_patch_is_built_for_that_of_the_training(name, order, expected) -> None:
    asked = recipe(name, training={"patch_size": (64, 48, 32)}, **({"axis_order": order} if order else {}))
    fit = fit_recipe(asked, PLAN, MANIFEST, 8 * GIB, PLACE, Silence(), by_voxels(1.0))
    assert fit.network.options.get("patch_size") == expected
    assert "spacing_mm" not in fit.network.options


def test_a_smaller_patch_replaces_that_of_the_network_but_not_where_the_recipe_gives_both() -> None:
    asked = recipe("nnformer", patch_size=[128, 128, 128])
    fit = fit_recipe(asked, PLAN, MANIFEST, 8 * GIB, PLACE, Silence(), by_voxels(1.0))
    assert tuple(fit.network.options["patch_size"]) == fit.training.patch_size
    both = recipe("nnformer", training={"patch_size": (96, 96, 96)}, patch_size=[128, 128, 128])
    kept = fit_recipe(both, PLAN, MANIFEST, 8 * GIB, PLACE, Silence(), by_voxels(1.0))
    assert kept.network == both.network


def test_the_probe_measures_the_scan_that_a_formula_of_convolutions_leaves_out() -> None:
    """Twice the batch, twice the memory but for the weights; half precision less; with scans more."""
    patch = (32, 32, 32)
    small = probe_step(recipe(channels=8), MANIFEST, patch, 2, PLACE)
    double = probe_step(recipe(channels=8), MANIFEST, patch, 4, PLACE)
    assert 1.5 * small < double < 2.05 * small
    half = probe_step(recipe(channels=8), MANIFEST, patch, 2, dataclasses.replace(PLACE, precision="bf16"))
    assert half < small
    assert probe_step(recipe(channels=8, mixer="none"), MANIFEST, patch, 2, PLACE) < small


def test_the_estimate_includes_the_loss_the_target_and_the_average_of_the_weights() -> None:
    """Of 40 labels the loss holds more than the narrow network; float32 in every precision."""
    patch, labels = (32, 32, 32), {"background": 0, **{f"organ {n}": n for n in range(1, 40)}}
    many = MANIFEST.model_copy(update={"labels": labels})
    asked, voxels = recipe(channels=4), 2 * 32**3
    held = loss_bytes(asked, many, patch, 2)
    # At least the softmax, its logarithm, and the gradient of the logits, by hand.
    assert 3 * 4 * 40 * voxels < held < 12 * 4 * 40 * voxels
    for place in (PLACE, dataclasses.replace(PLACE, precision="bf16")):
        assert probe_step(asked, many, patch, 2, place) * GIB > held + 8 * voxels
    averaged = probe_step(recipe(channels=4, training={"ema": 0.9}), many, patch, 2, PLACE)
    network = build_network("nnmamba", 1, 40, channels=4)
    weights = 4 * sum(p.numel() for p in network.parameters())
    assert (averaged - probe_step(asked, many, patch, 2, PLACE)) * GIB == pytest.approx(weights, rel=1e-6)
    assert loss_bytes(asked.model_copy(update={"task": "classification"}), many, patch, 2) == 0


def test_the_probe_of_a_device_takes_the_steps_of_the_training(monkeypatch) -> None:
    """Loss, target, clipping, optimizer and moving average: by the step that loop and dry run take."""
    taken, take = [], Steps.take

    def watched(self, batches, step):
        outcome = take(self, batches, step)
        state, (loss, norm, _) = self._state, outcome.read()
        taken.append((step, loss > 0, norm > 0, len(state.optimizer.state) > 0, state.average is not None))
        return outcome

    monkeypatch.setattr(Steps, "take", watched)
    asked = recipe(channels=4, training={"ema": 0.9})
    assert math.isnan(real_step_gib(asked, MANIFEST, (16, 16, 16), 2, PLACE))  # a CPU does not count
    assert taken == [(0, True, True, True, True), (1, True, True, True, True)]


@pytest.mark.parametrize("place", ["torch.Tensor.backward", "torch.optim.AdamW.step", "numpy.stack"])
@every_library
def test_a_step_in_which_any_library_runs_out_of_memory_does_not_fit(
    error, words, place, monkeypatch
) -> None:
    monkeypatch.setattr(place, fails(error))
    asked = recipe(channels=4, training={"optimizer": {"name": "adamw"}})
    assert real_step_gib(asked, MANIFEST, (16, 16, 16), 1, PLACE) == math.inf


def test_other_errors_of_a_probe_are_raised(monkeypatch) -> None:
    monkeypatch.setattr(torch.Tensor, "backward", fails(RuntimeError("Sizes of tensors must match")))
    with pytest.raises(RuntimeError, match="must match"):
        real_step_gib(recipe(channels=4), MANIFEST, (16, 16, 16), 1, PLACE)


def test_a_step_that_does_not_fit_on_the_device_makes_the_patch_smaller(monkeypatch) -> None:
    """Whatever the estimate says: here real steps fit up to 64 voxels along each axis."""
    gib = {True: 1.0, False: math.inf}
    monkeypatch.setattr(fit_module, "real_step_gib", lambda _, __, patch, *___: gib[max(patch) <= 64])
    cuda = dataclasses.replace(PLACE, device=torch.device("cuda", 0))
    plan = PLAN.changed(shape_median=(96, 96, 96))
    fit = fit_recipe(recipe(channels=4), plan, MANIFEST, 64 * GIB, cuda, Silence()).training
    assert max(fit.patch_size) <= 64 and fit.batch_size == 2


def test_a_run_that_has_begun_keeps_its_patch(tmp_path) -> None:
    """Whatever memory is asked for when it is resumed: its weights were learned with that patch."""
    fit = fit_recipe(recipe("nnunet"), PLAN, MANIFEST, 8 * GIB, PLACE, Silence(), by_voxels(1.0))
    create_run(planned_run(fit, PLAN, MANIFEST, tmp_path / "run"))
    again = planned_run(recipe("nnunet"), PLAN, MANIFEST, tmp_path / "run")
    dataset = cast(PreparedDataset, SimpleNamespace(plan=PLAN))
    kept = _fitted(again.recipe, dataset, again, "1G", PLACE, Silence())
    assert kept.training.patch_size == fit.training.patch_size
    assert kept.network == fit.network
    assert create_run(planned_run(kept, PLAN, MANIFEST, tmp_path / "run")).plan.batch_size == 2


def test_sizes_are_written_as_people_do() -> None:
    assert parse_bytes("24GB", "--fit") == parse_bytes("24 GiB") == 24 * GIB
    with pytest.raises(RecipeError, match="--fit 24 apples: not a size"):
        parse_bytes("24 apples", "--fit")
