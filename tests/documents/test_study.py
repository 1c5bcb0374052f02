"""STUDY.yaml: faults are named with their line, all at once."""

from __future__ import annotations

import pytest

from mambamed.documents.study import read_study
from mambamed.errors import RecipeError

GOOD = """datasets:
  hippo: {prepared: prepared/hippo}
recipes:
  mamba: {recipe: hippocampus_nnmamba, twin: true}
  unet: {recipe: hippocampus_nnunet}
"""


def test_defaults_are_one_fold_and_one_seed_as_the_recipes_say(tmp_path) -> None:
    (tmp_path / "study.yaml").write_text(GOOD)
    study = read_study(tmp_path / "study.yaml")
    assert (study.folds, study.seeds, study.budget, study.twins) == ((0,), 1, None, False)
    assert study.datasets["hippo"].part == "val" and study.recipes["mamba"].twin is True


@pytest.mark.parametrize(
    ("added", "line", "fact"),
    [
        ("folds: every\n", 6, "folds: expected"),
        ("seeds: 0\n", 6, "seeds: expected"),
        ("budget: {hours: 1, steps: 3}\n", 6, "budget: expected one of hours, cpu_minutes and steps. Give"),
        ("bugdet: {hours: 1}\n", 6, "bugdet: unknown key - did you mean 'budget'?"),
        ("compare_with: unnet\n", 1, "unnet is not among the recipes - did you mean 'unet'?"),
        ("  c: {recipe: x, datasets: [hipo]}\n", 1, "hipo is not among the datasets - did you mean 'hippo'?"),
        (
            "  c: {recipe: x, init_from: hippo/nothing}\n",
            1,
            "init_from: the study has no row nothing on hippo",
        ),
        ("  a/b: {recipe: x}\n", 6, "'a/b': expected letters, digits and _ . -. Rename it."),
        ("  c:\n    recipe: 3\n", 7, "recipes.c.recipe: expected a valid string, got 3. Correct the value."),
        ("  c: {set: {}}\n", 6, "recipes.c.recipe: missing. Add it."),
    ],
)
def test_a_fault_has_its_line(tmp_path, added, line, fact) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(GOOD + added)
    with pytest.raises(RecipeError) as caught:
        read_study(file)
    (message,) = str(caught.value).split("\n")
    assert message.startswith(f"{file}:{line}: ") and fact in message


def test_all_faults_are_reported_at_once(tmp_path) -> None:
    (tmp_path / "study.yaml").write_text(GOOD + "level: 2\nfolds: [-1]\ntwins: maybe\n")
    with pytest.raises(RecipeError) as caught:
        read_study(tmp_path / "study.yaml")
    assert [line.split(": ")[1] for line in str(caught.value).split("\n")] == ["twins", "folds", "level"]
