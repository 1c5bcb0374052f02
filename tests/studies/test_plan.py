"""From a study to its rows, runs and commands; the shipped studies cover the tables of the papers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mambamed.documents.study import Budget, Study, read_study
from mambamed.errors import RecipeError
from mambamed.recipe import load_recipe, shipped_recipes
from mambamed.studies.plan import cells_of, has_mixer, steps_settings, trained_rows, training_commands

STUDIES = Path(__file__).resolve().parents[2] / "studies"


def study_of(recipes: Mapping[str, Any], **more: Any) -> Study:
    dataset = {"hippocampus": {"prepared": str(more.pop("prepared", "prepared/x"))}}
    return Study.checked({"datasets": dataset, "recipes": recipes, **more}, "study.yaml")


def test_settings_of_the_recipe_override_those_of_all_and_a_twin_has_no_mixer() -> None:
    recipes = {
        "mamba": {"recipe": "{dataset}_nnmamba", "set": {"network.channels": 8}},
        "unet": {"recipe": "hippocampus_nnunet"},
    }
    rows = trained_rows(study_of(recipes, twins=True, set={"network.channels": 4, "training.ema": 0.5}))
    assert [row.name for row in rows] == ["mamba", "mamba-none", "unet"]
    assert [row.recipe.network.options["channels"] for row in rows] == [8, 8, 4]
    assert {row.recipe.training.ema for row in rows} == {0.5}
    assert [has_mixer(row.recipe) for row in rows] == [True, False, False]
    assert rows[1].words[-2:] == ("--set", "network.mixer=none")


def test_a_twin_starts_from_the_twin_of_its_source_if_there_is_one() -> None:
    recipes = {
        "source": {"recipe": "hippocampus_nnmamba", "twin": True},
        "alone": {"recipe": "hippocampus_nnmamba", "twin": False},
        "a": {"recipe": "hippocampus_nnmamba", "init_from": "hippocampus/source"},
        "b": {"recipe": "hippocampus_nnmamba", "init_from": "hippocampus/alone"},
    }
    rows = trained_rows(study_of(recipes, twins=True))
    starts = {row.name: "/".join(row.init_from) for row in rows if row.init_from}
    assert starts == {
        "a": "hippocampus/source",
        "a-none": "hippocampus/source-none",
        "b": "hippocampus/alone",
        "b-none": "hippocampus/alone",
    }


def test_a_twin_has_not_the_numbers_of_the_paper() -> None:
    rows = trained_rows(study_of({"mamba": {"recipe": "brats_nnmamba", "twin": True}}))
    assert rows[0].recipe.paper and not rows[1].recipe.paper


def test_faults_of_all_recipes_are_reported_at_once() -> None:
    recipes = {
        "a": {"recipe": "hippocampus_nnmama"},
        "b": {"recipe": "hippocampus_nnunet", "set": {"training.epoch": 3}},
        "c": {"recipe": "hippocampus_nnunet", "twin": True},
        "d": {"recipe": "hippocampus_nnmamba", "twin": True},
        "d-none": {"recipe": "hippocampus_nnunet"},
    }
    with pytest.raises(RecipeError) as caught:
        trained_rows(study_of(recipes))
    lines = str(caught.value).split("\n")
    assert "recipes.a: hippocampus_nnmama: no such recipe - did you mean 'hippocampus_nnmamba'?" in lines[0]
    assert "recipes.b: --set training.epoch=3: training.epoch: unknown key" in lines[1]
    assert lines[2] == "recipes.c.twin: network nnunet has no mixer. Remove it."
    assert lines[3] == "recipes: two rows are called d-none. Rename one." and len(lines) == 4


@pytest.mark.parametrize(("steps", "epochs"), [(250, 5), (100, 2), (1, 1), (7, 1), (6000, 120)])
def test_a_budget_of_steps_is_met_exactly(steps, epochs) -> None:
    recipe = load_recipe("hippocampus_nnunet")  # epochs of 50 steps
    changed = load_recipe("hippocampus_nnunet", steps_settings(recipe, steps)).training
    assert (changed.steps, changed.epochs) == (steps, epochs)


def test_runs_and_commands(prepared, tmp_path) -> None:
    recipes = {
        "a": {"recipe": "hippocampus_nnunet"},
        "b": {"recipe": "hippocampus_nnunet", "init_from": "hippocampus/a"},
    }
    budget = {"hours": 0.5}
    study = study_of(recipes, prepared=prepared, seeds=[0, 4], folds=[1, 0], budget=budget)
    cells = cells_of(study, trained_rows(study), tmp_path)
    assert [cell.name for cell in cells] == [
        f"hippocampus.{name}.seed_{seed}" for seed in (0, 4) for name in ("a", "b")
    ]
    commands = list(training_commands(cells[3], Budget(hours=0.5), ("-q",)))
    root = tmp_path / "runs" / "hippocampus"
    assert commands[0] == (1, (
        "train", "hippocampus_nnunet", "--set", "training.seed=4", "--max-hours", "0.5",
        "-d", str(prepared), "-o", str(root / "b" / "seed_4"), "-f", "1",
        "--init-from", str(root / "a" / "seed_4"), "--resume", "-q",
    ))  # fmt: skip
    assert commands[1][0] == 0
    (cpu, _) = training_commands(cells[3], Budget(cpu_minutes=15), ())
    assert cpu[1][4:6] == ("--max-cpu-minutes", "15")
    with pytest.raises(RecipeError, match=r"folds: 7: .* has 5 folds, counted from 0"):
        cells_of(study.changed(folds=(7,)), trained_rows(study), tmp_path)


def test_every_recipe_with_numbers_of_a_paper_is_in_the_study_of_its_table() -> None:
    known: dict[str, set[str]] = {}
    for file in sorted(STUDIES.glob("*_table*.yaml")):
        for row in trained_rows(read_study(file)):
            known.setdefault(file.stem, set()).add(row.words[0])
    tables = {
        "Accurate 3D Medical Image Segmentation with Mambas, Table ": "mambas",
        "nnMamba, arXiv 2402.03526v1, Table ": "nnmamba_v1",
        "nnMamba, arXiv 2402.03526v2, Table ": "nnmamba_v2",
        "SegMamba, arXiv 2401.13560, Table ": "segmamba",
    }
    counted = 0
    for name in shipped_recipes():
        source = str(load_recipe(name).paper.get("source", ""))
        for begin, stem in tables.items():
            if source.startswith(begin):
                assert name in known[f"{stem}_table{source.removeprefix(begin)[0]}"], name
                counted += 1
    assert counted > 80
