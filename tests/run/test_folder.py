"""The run folder: what was asked comes back, two runs never share a folder."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan, ZScore
from mambamed.errors import ModelError, RecipeError, RunError
from mambamed.io.lock import folder_lock
from mambamed.io.ownership import Output
from mambamed.recipe import Evaluation, Inference, Recipe
from mambamed.run.folder import Run, create_run, planned_run, writing
from tests.answers.stubs import stub_run

MANIFEST = DatasetManifest(name="d", channels={"a": "mri"}, labels={"background": 0, "x": 1, "y": 2})
PLAN = Plan(
    spacing_mm=(1.0, 1.0, 2.0),
    shape_median=(30, 40, 50),
    patch_size=(32, 48, 48),
    batch_size=2,
    crop="nonzero",
    normalization=(ZScore(),),
)


def recipe(dataset=None, **training) -> Recipe:
    return Recipe.model_validate(
        {"name": "r", "network": {"name": "nnmamba"}, "training": training, "dataset": dataset or {}}
    )


def test_a_written_run_opens_as_it_was(tmp_path):
    run = create_run(planned_run(recipe(), PLAN, MANIFEST, tmp_path / "run"))
    back = Run.open(tmp_path / "run")
    assert back == run and back.recipe.network.name == "nnmamba" and back.folds == []


def test_the_recipes_patch_and_batch_go_before_the_plans(tmp_path):
    run = planned_run(recipe(patch_size=[16, 16, 16], batch_size=5), PLAN, MANIFEST, tmp_path)
    assert run.plan.patch_size == (16, 16, 16) and run.plan.batch_size == 5
    assert planned_run(recipe(), PLAN, MANIFEST, tmp_path).plan == PLAN
    assert not list(tmp_path.iterdir())  # nothing is written


def test_the_same_run_is_found_again_and_another_is_refused(tmp_path):
    create_run(planned_run(recipe(epochs=5), PLAN, MANIFEST, tmp_path))
    create_run(planned_run(recipe(epochs=5), PLAN, MANIFEST, tmp_path))
    with pytest.raises(RecipeError, match=r"another run, which differs in training\.epochs\. Give"):
        create_run(planned_run(recipe(epochs=6), PLAN, MANIFEST, tmp_path))


def test_a_section_that_training_does_not_read_may_change(tmp_path):
    """F1: a typo among the metrics does not lock the trained run."""
    create_run(planned_run(recipe(), PLAN, MANIFEST, tmp_path))
    changes = {
        "evaluation": Evaluation(metrics=("iou",)),
        "inference": Inference(overlap=0.25),
        "paper": {"dice": 0.9},
    }
    lines: list[str] = []
    create_run(planned_run(recipe().model_copy(update=changes), PLAN, MANIFEST, tmp_path), lines.append)
    assert Run.open(tmp_path).recipe.evaluation.metrics == ("iou",)
    assert lines == [
        "recipe inference.overlap, evaluation.metrics, paper.dice: changed since the run began; "
        "recipe.yaml is updated"
    ]


def test_a_validation_by_the_recipe_as_it_was_is_outdated(tmp_path):
    run = create_run(planned_run(recipe(), PLAN, MANIFEST, tmp_path))
    run.fold_folder(0).mkdir()
    for seconds, path in enumerate((run.checkpoint(0), run.fold_folder(0) / "summary.json")):
        path.touch()
        os.utime(path, (4e9 + seconds, 4e9 + seconds))
    assert run.is_validated(0)
    os.utime(tmp_path / "recipe.yaml", (5e9, 5e9))
    assert not run.is_validated(0)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"recipe": "r", "folds": []}', "folds: expected "),
        (
            '{"recipe": "r", "folds": {"0": {"steps": "7"}}}',
            "folds.0.steps: expected a valid integer, got",
        ),
        ("[]", "content: expected an object, got []."),
        ("{", "not valid JSON"),
    ],
)
def test_a_record_that_cannot_be_is_one_line(tmp_path, text, line):
    """F8."""
    run = create_run(planned_run(recipe(), PLAN, MANIFEST, tmp_path))
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ModelError) as caught:
        run.recorded(0)
    assert str(caught.value).startswith(f"{tmp_path / 'run.json'}: {line}")


def test_a_recipe_whose_channel_is_of_another_kind_is_rejected(tmp_path):
    """F11: names and kinds agree, in `train` as in `prepare`."""
    with pytest.raises(RecipeError, match=r"dataset\.channels: .* a \(ct\) .* \| a \(mri\)"):
        planned_run(recipe({"channels": {"a": "ct"}}), PLAN, MANIFEST, tmp_path)


def test_a_plan_of_an_unknown_scheme_does_not_predict(tmp_path):
    """F5."""
    create_run(planned_run(recipe(), PLAN, MANIFEST, tmp_path))
    for old, new, key in (("zscore", "zscroe", r"normalization\.0\.scheme"), ("nonzero", "nonzer", "crop")):
        text = (tmp_path / "plan.json").read_text()
        (tmp_path / "plan.json").write_text(text.replace(f'"{old}"', f'"{new}"'))
        with pytest.raises(ModelError, match=rf"plan\.json: {key}: expected .*, got '{new}'"):
            Run.open(tmp_path)
        (tmp_path / "plan.json").write_text(text)


def test_a_plan_for_another_number_of_channels_is_rejected(tmp_path):
    create_run(planned_run(recipe(), PLAN.changed(normalization=(ZScore(),) * 2), MANIFEST, tmp_path))
    with pytest.raises(ModelError, match=r"plan\.json: normalization: expected 1 entries, .*, got 2"):
        Run.open(tmp_path)


def rewritten(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("dataset", "old", "new", "fact"),
    [
        (
            {"labels": {"background": 0, "x": 1, "y": 2}},
            '"y": 2',
            '"y": 3',
            "labels: expected those of the re",
        ),
        (
            {"channels": {"a": "mri"}},
            '"mri"',
            '"ct"',
            "channels: expected those of the recipe, {'a': 'mri'}, go",
        ),
        (
            {"regions": {"all": [1, 2]}},
            '"regions": {',
            '"regions": {"more": [1],',
            "regions: expected those of t",
        ),
        (
            None,
            '"labels": {\n  "background": 0,\n  "x": 1,\n  "y": 2\n }',
            '"labels": {}',
            "labels: expected at least 1",
        ),
    ],
)
def test_a_manifest_that_does_not_agree_with_the_recipe_is_rejected(tmp_path, dataset, old, new, fact):
    create_run(planned_run(recipe(dataset), PLAN, MANIFEST, tmp_path))
    rewritten(tmp_path / "dataset.json", old, new)
    with pytest.raises(ModelError) as caught:
        Run.open(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'dataset.json'}: {fact}")


@pytest.mark.parametrize(("task", "key"), [("landmarks", "landmarks"), ("classification", "classes")])
def test_a_manifest_without_what_the_task_answers_is_rejected(tmp_path, task, key):
    create_run(planned_run(recipe(), PLAN, MANIFEST, tmp_path))
    rewritten(tmp_path / "recipe.yaml", "task: segmentation", f"task: {task}")
    with pytest.raises(
        ModelError, match=rf"dataset\.json: {key}: expected at least .* for the task {task}, got 0"
    ):
        Run.open(tmp_path)


def test_a_name_that_only_looks_like_a_fold_is_ignored(tmp_path):
    run = create_run(planned_run(recipe(), PLAN, MANIFEST, tmp_path))
    for name in ("fold_0", "fold_²", "fold_07", "fold_x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint_best.safetensors").touch()
    assert run.folds == [0]
    with pytest.raises(RecipeError, match="--folds ²: expected all, none or numbers"):
        run.chosen_folds("²")


def test_regions_of_the_recipe_replace_the_datasets(tmp_path):
    run = planned_run(recipe({"regions": {"all": [1, 2]}}), PLAN, MANIFEST, tmp_path)
    assert run.manifest.regions == {"all": (1, 2)}


@pytest.mark.parametrize(
    ("dataset", "word"),
    [
        ({"channels": {"t1": "mri"}}, r"dataset\.channels"),
        ({"labels": {"background": 0}}, r"dataset\.labels"),
    ],
)
def test_a_recipe_for_another_dataset_is_refused(tmp_path, dataset, word):
    with pytest.raises(RecipeError, match=word):
        planned_run(recipe(dataset), PLAN, MANIFEST, tmp_path)


def test_folds_are_those_with_a_checkpoint(tmp_path):
    run = planned_run(recipe(), PLAN, MANIFEST, tmp_path)
    for path in (run.checkpoint(2, "best"), run.checkpoint(0, "last"), run.checkpoint(10, "best")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run.fold_folder(1).mkdir()
    assert run.folds == [0, 2, 10]


def test_what_is_recorded_of_one_fold_leaves_the_others(tmp_path):
    run = planned_run(recipe(), PLAN, MANIFEST, tmp_path)
    run.record(1, {"steps": 5})
    run.record(0, {"steps": 7})
    assert run.recorded(1) == {"steps": 5} and run.recorded(0) == {"steps": 7} and run.recorded(3) == {}


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"not a run folder: no recipe\.yaml"):
        Run.open(tmp_path)


@pytest.mark.parametrize("name", ["plan.json", "dataset.json"])
def test_a_damaged_run_is_refused(tmp_path, name):
    create_run(planned_run(recipe(), PLAN, MANIFEST, tmp_path))
    (tmp_path / name).write_text('{"patch_size": 3}')
    with pytest.raises(ModelError, match=rf"{name}: .*: missing"):
        Run.open(tmp_path)


def test_a_recipe_that_names_code_is_refused(tmp_path):
    create_run(planned_run(recipe(), PLAN, MANIFEST, tmp_path))
    (tmp_path / "recipe.yaml").write_text("network: !!python/object/apply:os.system [echo pwned]\n")
    with pytest.raises(ModelError, match=r"recipe\.yaml"):
        Run.open(tmp_path)


def test_the_recipe_does_not_change_while_another_fold_is_trained(tmp_path) -> None:
    run = stub_run(tmp_path / "run", folds=(0, 1))
    longer = replace(
        run,
        recipe=run.recipe.model_copy(
            update={
                "training": run.recipe.training.model_copy(update={"epochs": run.recipe.training.epochs + 1})
            }
        ),
    )
    before = (run.root / "recipe.yaml").read_bytes()
    with folder_lock(run.fold_folder(0)), writing(run.root, [1]):
        with pytest.raises(RunError, match="fold_0: is being trained"):
            create_run(longer, extend=True, folds=[1])
        assert (run.root / "recipe.yaml").read_bytes() == before
    with writing(run.root, [1]):
        create_run(longer, extend=True, folds=[1])
    assert Run.open(run.root).recipe == longer.recipe


def test_a_fold_that_is_a_link_or_holds_something_else_is_not_written(tmp_path) -> None:
    run = stub_run(tmp_path / "run", folds=(0,))
    (tmp_path / "elsewhere").mkdir()
    (run.root / "fold_1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecipeError, match="fold_1: is a link"), writing(run.root, [1]):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())
    with Output(run.root / "fold_2", "folder of masks").locked():
        pass
    with pytest.raises(RecipeError, match="fold_2: holds a folder of masks"), writing(run.root, [2]):
        pass


SIDED = DatasetManifest(name="d", channels={"a": "mri"}, labels={"background": 0, "left": 1, "right": 2})


def test_a_run_keeps_the_pairs_and_axes_that_were_decided(tmp_path):
    run = create_run(planned_run(recipe(), PLAN, SIDED, tmp_path))
    assert Run.open(tmp_path).recipe.dataset.mirror_pairs == (("left", "right"),)
    assert Run.open(tmp_path).task.mirror_order == (0, 2, 1)
    assert create_run(planned_run(recipe(), PLAN, SIDED, tmp_path)) == run
    alone = SIDED.changed(labels={"background": 0, "left": 1, "x": 2})
    run = create_run(planned_run(recipe(), PLAN, alone, tmp_path / "alone"))
    assert run.recipe.training.augment.mirror == ("y", "z")


def test_a_run_of_an_earlier_version_goes_on_without_pairs(tmp_path):
    """mambamed 0.1.0 wrote an empty `landmark_pairs` and mirrored labels without swapping them."""
    create_run(planned_run(recipe(), PLAN, SIDED, tmp_path, as_trained=True))
    file = tmp_path / "recipe.yaml"
    file.write_text(file.read_text().replace("mirror_pairs: []", "landmark_pairs: []"))
    again = create_run(planned_run(recipe(), PLAN, SIDED, tmp_path))
    assert again.recipe.dataset.mirror_pairs == () and again.task.mirror_order is None
    assert "landmark_pairs" in file.read_text()
