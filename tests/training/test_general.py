"""General recipes: sized by costs that are given, then made and trained for a small dataset."""

from __future__ import annotations

import math

import pytest
import torch

from mambamed.errors import RecipeError
from mambamed.recipe import commented_recipe, load_recipe
from mambamed.run.folder import Run
from mambamed.run.workplace import Workplace
from mambamed.training import train
from mambamed.training.general import general_recipe, new_recipe, recipe_to_train
from mambamed.training.schedule import Pace
from mambamed.training.sizing import ENOUGH_STEPS, LEAST_STEPS
from tests.tasks.datasets import LABELS, dataset_of

PLACE = Workplace(torch.device("cpu"), "fp32", torch.contiguous_format)


def by_size(seconds: float, validation: float = 0.0):
    """A device whose steps take `seconds` with 8 channels and 10,000 voxels, in proportion to both."""

    def measure(recipe):
        voxels, width = math.prod(recipe.training.patch_size), recipe.network.options.get("channels", 8)
        return 1.0, Pace(seconds * voxels / 10_000 * width / 8, 0.0, validation)

    return measure


def made(seconds: float, hours: float | None, validation: float = 0.0, **options):
    dataset = options.pop("dataset", None) or dataset_of(cases=195, labels=LABELS)
    return general_recipe(
        dataset, PLACE, hours=hours, measure=by_size(seconds, validation), fit="64G", **options
    )


def test_a_short_time_keeps_the_narrow_network_and_the_patch_of_the_plan() -> None:
    """89,600 voxels at 0.02 s per 10,000: 0.18 s a step, 4017 in 0.2 h."""
    recipe = made(0.02, 0.2).recipe
    assert recipe.network.options["channels"] == 8
    assert recipe.training.patch_size == (40, 56, 40) and recipe.training.batch_size == 2
    assert 3900 < recipe.training.steps <= 4050


def test_a_long_time_widens_the_network_as_long_as_enough_steps_fit() -> None:
    """0.18, 0.36 and 0.72 s a step: 5000 of them take 0.25, 0.5 and 1 h."""
    widths = [made(0.02, hours).recipe.network.options["channels"] for hours in (0.3, 0.6, 1.2)]
    assert widths == [8, 16, 32]
    assert made(0.02, 1.2).recipe.training.steps >= ENOUGH_STEPS - 250


def test_a_slow_device_reduces_the_patch_until_the_least_number_of_steps_fits() -> None:
    """9 s a step: 80 steps in 0.2 h; a patch of 32x32x32 takes 3.3 s, 219 steps."""
    result = made(1.0, 0.2)
    assert result.recipe.training.patch_size == (32, 32, 32)
    assert result.recipe.training.steps < LEAST_STEPS
    assert any("reduced from 40x56x40" in line for line in result.notes())


def test_a_patch_that_validates_slower_is_not_reduced() -> None:
    def measure(recipe):
        whole = math.prod(recipe.training.patch_size) == 40 * 56 * 40
        return 1.0, Pace(9.0, 0.0, 0.0 if whole else 600.0)

    dataset = dataset_of(cases=195, labels=LABELS)
    recipe = general_recipe(dataset, PLACE, hours=0.2, measure=measure).recipe
    assert recipe.training.patch_size == (40, 56, 40)


def test_a_time_for_no_step_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"--hours 0\.05: one step takes"):
        made(1.0, 0.05, validation=505.0, option="--hours")


def test_memory_that_holds_no_patch_is_refused_and_little_memory_reduces_it() -> None:
    dataset = dataset_of(labels=LABELS, shape=(128, 128, 128), batch=2)
    small = general_recipe(dataset, PLACE, measure=by_size(0.001), fit="1G").recipe.training.patch_size
    assert small is not None and math.prod(small) < 128**3
    with pytest.raises(RecipeError, match="GiB"):
        general_recipe(dataset, PLACE, measure=by_size(0.001), fit="10M")


def test_with_the_clock_as_its_end_the_schedule_has_all_steps() -> None:
    training = made(0.02, 0.2, ends_by_clock=True).recipe.training
    assert training.steps == 15_600  # 156 cases, 200 times, two per step


def test_what_is_asked_is_kept() -> None:
    asked = {"network": {"name": "segmamba"}, "training": {"patch_size": [32, 32, 32], "batch_size": 1}}
    overrides = ["training.patch_size=[32,32,32]", "training.batch_size=1"]
    recipe = made(0.02, 0.2, asked=asked, overrides=overrides).recipe
    assert recipe.network.name == "segmamba" and "channels" not in recipe.network.options
    assert (recipe.training.patch_size, recipe.training.batch_size) == ((32, 32, 32), 1)


def test_a_network_for_one_patch_is_built_for_that_of_the_recipe() -> None:
    recipe = made(0.02, 0.2, asked={"network": {"name": "unimiss"}}).recipe
    assert recipe.network.options["patch_size"] == [40, 56, 40]
    turned = {"name": "unimiss", "axis_order": "zyx"}
    training = {"patch_size": [64, 48, 32]}
    overrides = ["training.patch_size=[64,48,32]", "network.axis_order=zyx"]
    recipe = made(0.02, 0.2, asked={"network": turned, "training": training}, overrides=overrides).recipe
    assert recipe.network.options["patch_size"] == [32, 48, 64]


@pytest.mark.parametrize(
    ("fields", "task"),
    [
        (
            {"labels": {"background": 0, "core": 1, "edema": 2}, "regions": {"WT": (1, 2), "TC": (1,)}},
            "segmentation",
        ),
        ({"landmarks": ("eye_left", "eye_right", "08")}, "landmarks"),
        (
            {
                "classes": ("a", "b"),
                "classes_of": ["a", "b"] * 5,
                "covariates": [{"age": str(50 + k), "sex": "FM"[k % 3 == 0]} for k in range(10)],
            },
            "classification",
        ),
    ],
)
def test_the_text_is_the_recipe_for_every_task(fields, task, tmp_path) -> None:
    result = made(0.02, 0.2, dataset=dataset_of(**fields))
    (tmp_path / "mine.yaml").write_text(commented_recipe([], result.choices))
    read = load_recipe(tmp_path / "mine.yaml")
    assert read == result.recipe and read.task == task
    for key in ("regions", "landmarks", "classes"):
        if key in fields:
            asked = getattr(read.dataset, key)
            assert asked == fields[key]
    if task == "classification":
        assert read.dataset.covariates == {"age": "number", "sex": ("F", "M")}


def test_a_small_dataset_is_trained_without_a_recipe_and_the_run_holds_the_reasons(
    prepared, tmp_path
) -> None:
    short = ["network.channels=4", "training.epochs=1", "training.steps_per_epoch=2"]
    options = {"overrides": short, "device": "cpu"}
    recipe, notes, measured = recipe_to_train(prepared, tmp_path / "run", **options)
    assert measured and recipe.name == prepared.name
    assert recipe.dataset.labels == {"background": 0, "one": 1, "two": 2}
    summary = train(recipe, prepared=prepared, output=tmp_path / "run", device="cpu", notes=notes)
    assert summary.folds[0].steps == 2 and not math.isnan(summary.folds[0].scores["one"])
    text = (tmp_path / "run" / "recipe.yaml").read_text()
    assert "# network.name nnunet: " in text and "# training.augment.mirror [x]: " in text
    assert Run.open(tmp_path / "run").recipe == recipe
    assert "network.name nnunet: " in (tmp_path / "run" / "fold_0" / "train.log").read_text()
    again, notes, measured = recipe_to_train(prepared, tmp_path / "run", **options)
    assert again == recipe and "that of the run" in notes[0] and not measured


@pytest.mark.parametrize(
    ("fold", "seeds", "share"),
    [(0, None, 1), ("none", None, 1), ("all", None, 5), ("all", "4,7", 10), (0, "3", 3)],
)
def test_the_time_is_that_of_one_of_several_trainings(
    fold, seeds, share, prepared, tmp_path, monkeypatch
) -> None:
    asked = []

    def general(dataset, place, **options):
        asked.append(options["hours"])
        raise RecipeError("enough")

    monkeypatch.setattr("mambamed.training.general.general_recipe", general)
    with pytest.raises(RecipeError, match="enough"):
        recipe_to_train(prepared, tmp_path / "run", fold=fold, seeds=seeds, device="cpu", max_hours=30.0)
    assert asked == [30.0 / share]


def test_a_new_recipe_is_a_file_of_its_own(prepared, tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    result = new_recipe(prepared, file, hours=0.02, device="cpu")
    assert file.read_text() == result.text and load_recipe(file).name == "mine"
    assert result.next_command == f"mambamed train {file} -d {prepared} -o runs/mine --max-hours 0.02"
    file.write_text(result.text + "# edited\n")
    with pytest.raises(RecipeError, match="already exists with other content"):
        new_recipe(prepared, file, hours=0.02, device="cpu")
    assert file.read_text().endswith("# edited\n")
    new_recipe(prepared, file, hours=0.02, device="cpu", overwrite=True)
    assert "# edited" not in file.read_text()
    assert not (tmp_path / ".mambamed-files").exists()
