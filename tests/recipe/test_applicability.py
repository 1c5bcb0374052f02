"""Keys of a recipe that would have no effect are rejected when it is loaded, with their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mambamed.cli.commands import make_app
from mambamed.errors import RecipeError
from mambamed.recipe import dump_recipe, load_recipe, parse_recipe_of_run, recipe_schema
from mambamed.recipe.applicability import APPLIES_TO

NETWORK = "network: {name: nnmamba}\n"


def load(folder: Path, text: str, of_a_run: bool = False):
    path = folder / "r.yaml"
    path.write_text(NETWORK + text)
    return parse_recipe_of_run(path.read_text(), str(path)) if of_a_run else load_recipe(path)


def fault(folder: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(folder, text)
    return str(caught.value).removeprefix(f"{folder}/")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "training:\n  loss:\n    class_balance: false\n",
            "r.yaml:4: training.loss.class_balance: applies only to classification; "
            "this recipe's task is segmentation. Remove it.",
        ),
        (
            "landmarks:\n  sigma_mm: 3\n",
            "r.yaml:3: landmarks.sigma_mm: applies only to landmarks; "
            "this recipe's task is segmentation. Remove it.",
        ),
        (
            "evaluation: {threshold: f1}\n",
            "r.yaml:2: evaluation.threshold: applies only to classification; "
            "this recipe's task is segmentation. Remove it.",
        ),
        (
            "evaluation: {sdr_mm: [1]}\n",
            "r.yaml:2: evaluation.sdr_mm: applies only to landmarks; "
            "this recipe's task is segmentation. Remove it.",
        ),
        (
            "dataset: {covariates: {age: number}}\n",
            "r.yaml:2: dataset.covariates: applies only to classification; "
            "this recipe's task is segmentation. Remove it.",
        ),
        (
            "task: landmarks\nevaluation: {metrics: [dice]}\n",
            "r.yaml:3: evaluation.metrics: applies only to segmentation; "
            "this recipe's task is landmarks. Remove it.",
        ),
        (
            "task: classification\ninference: {overlap: 0.25}\n",
            "r.yaml:3: inference.overlap: applies only to segmentation and landmarks; "
            "this recipe's task is classification. Remove it.",
        ),
        (
            "training: {optimizer: {name: adam, momentum: 0.9}}\n",
            "r.yaml:2: training.optimizer.momentum: applies only to sgd; "
            "this recipe's training.optimizer.name is adam. Remove it.",
        ),
    ],
)
def test_a_key_without_effect_is_rejected_with_its_line(tmp_path, text, line) -> None:
    assert fault(tmp_path, text) == line


def test_all_keys_without_effect_are_reported_at_once(tmp_path) -> None:
    lines = fault(tmp_path, "landmarks: {sigma_mm: 3, decode: argmax}\nmeasures: {w: [a, b]}\n").splitlines()
    assert sorted(line.split(": ")[1] for line in lines) == [
        "landmarks.decode",
        "landmarks.sigma_mm",
        "measures",
    ]


@pytest.mark.parametrize("task", ["segmentation", "landmarks", "classification"])
def test_a_dumped_recipe_holds_every_default_and_loads(tmp_path, task) -> None:
    recipe = load(tmp_path, f"task: {task}\n")
    (tmp_path / "dumped.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "dumped.yaml").model_dump() == recipe.model_dump()


def test_a_run_of_an_earlier_version_with_such_keys_stays_readable(tmp_path) -> None:
    text = "landmarks: {sigma_mm: 3}\nevaluation: {metrics: [dicee]}\n"
    assert load(tmp_path, text, of_a_run=True).evaluation.metrics == ("dicee",)


def test_every_key_of_the_table_is_a_key_of_the_schema() -> None:
    schema = recipe_schema()
    for key in [*APPLIES_TO, *(deciding for deciding, _ in APPLIES_TO.values())]:
        at = schema
        for part in key.split("."):
            properties = at["properties"]
            assert part in properties, key
            reference = properties[part].get("$ref", "")
            at = schema["$defs"][reference.rpartition("/")[2]] if reference else {"properties": {}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "evaluation: {metrics: [dicee]}",
            ["r.yaml:2: evaluation.metrics: unknown metric 'dicee'", "'dice'"],
        ),
        ("evaluation: {metrics: [nsd]}", ["evaluation.metrics: metric 'nsd' needs a tolerance"]),
        ("evaluation: {metrics: []}", ["evaluation.metrics: no metric given"]),
        ("training: {patch_size: [64, 0, 64]}", ["training.patch_size", "greater than or equal to 1, got 0"]),
        ("training: {clip: .inf}", ["r.yaml:2: training.clip: expected a finite number, got inf"]),
        (
            "dataset: {labels: {background: 0, liver: 1}}\ninference: {postprocess: {fill_holes: [livr]}}",
            ["r.yaml:3: inference.postprocess.fill_holes: livr is not predicted; expected one of liver."],
        ),
        (
            "dataset: {regions: {WT: [1, 2]}}\ninference: {postprocess: {min_mm3: {TC: 10}}}",
            ["r.yaml:3: inference.postprocess.min_mm3: TC is not predicted; expected one of WT."],
        ),
        ("schema: 2", ["r.yaml:2: schema: expected at most 1, got 2. Update mambamed."]),
        ("schema: one", ["r.yaml:2: schema: expected at most 1, got 'one'. Write schema: 1."]),
    ],
)
def test_what_training_would_find_too_late_is_found_when_loading(tmp_path, text, words) -> None:
    line = fault(tmp_path, text + "\n")
    assert all(word in line for word in words), line


def test_a_recipe_may_state_the_version_of_its_schema(tmp_path) -> None:
    assert load(tmp_path, "schema: 1\n") == load(tmp_path, "")
    assert recipe_schema()["properties"]["schema"]["maximum"] == 1


def test_all_files_are_checked_before_the_command_fails(tmp_path) -> None:
    files = []
    for name in ("a", "b"):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(NETWORK + "evaluation: {metrics: [dicee]}\n")
    done = CliRunner().invoke(make_app(), ["recipes", "check", *map(str, files), "hippocampus_nnmamba"])
    assert done.exit_code == 2
    assert all(f"{file}:2: evaluation.metrics" in done.stderr for file in files)


def test_a_valid_recipe_is_reported_as_ok() -> None:
    done = CliRunner().invoke(make_app(), ["recipes", "check", "hippocampus_nnmamba"])
    assert (done.exit_code, done.stdout) == (0, "hippocampus_nnmamba: OK\n")
