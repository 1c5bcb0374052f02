"""Expected messages have the documented form: `file:line: key: fact. What to do.`"""

import json
from pathlib import Path

import pytest

from mambamed.errors import RecipeError
from mambamed.recipe import dump_recipe, load_recipe, recipe_schema

MINIMAL = "network: {name: nnmamba}\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def faults(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value).splitlines()


def test_a_resolved_recipe_reads_back_unchanged(tmp_path) -> None:
    recipe = load_recipe(write(tmp_path, "a.yaml", MINIMAL + "dataset: {regions: {WT: [1, 2]}}\n"))
    again = load_recipe(write(tmp_path, "b.yaml", dump_recipe(recipe)))
    assert again == recipe
    assert recipe.name == "a"


def test_an_unknown_key_is_named_with_its_line_and_the_likely_one(tmp_path) -> None:
    path = write(tmp_path, "bad.yaml", MINIMAL + "training:\n  epochs: 3\n  patchsize: [1, 2, 3]\n")
    assert faults(path) == [f"{path}:4: training.patchsize: unknown key - did you mean 'patch_size'?"]


def test_all_faults_are_told_at_once(tmp_path) -> None:
    text = MINIMAL + "training:\n  epohcs: 3\n  optimizer:\n    lr: fast\ninference: {overlap: 2}\n"
    lines = faults(write(tmp_path, "bad.yaml", text))
    assert len(lines) == 3
    assert any(":3: training.epohcs" in line and "epochs" in line for line in lines)
    assert any(":5: training.optimizer.lr" in line and "'fast'" in line for line in lines)
    assert any(":6: inference.overlap" in line for line in lines)


def test_keys_that_contradict_each_other_are_told_with_other_faults(tmp_path) -> None:
    text = (
        MINIMAL + "measures: {length: [a]}\ntraining: {epohcs: 3}\nevaluation: {metrics: [dise]}\n"
        "dataset: {split: {train: 2, val: 0.5}, labels: {background: 0, liver: 1}}\n"
        "inference: {postprocess: {fill_holes: [lever]}}\n"
    )
    keys = [line.split(": ")[1] for line in faults(write(tmp_path, "bad.yaml", text))]
    assert sorted(set(keys)) == [
        "dataset.split.train",
        "evaluation.metrics",
        "inference.postprocess.fill_holes",
        "measures",
        "measures.length",
        "training.epohcs",
    ]


def test_a_missing_network_is_named(tmp_path) -> None:
    path = write(tmp_path, "bad.yaml", "task: segmentation\n")
    assert faults(path) == [f"{path}:1: network: missing. Add it."]


def test_overrides_are_checked_like_the_file(tmp_path) -> None:
    path = write(tmp_path, "a.yaml", MINIMAL)
    recipe = load_recipe(path, ["training.epochs=7", "network.mixer=none", "training.patch_size=[8, 8, 4]"])
    assert recipe.training.epochs == 7
    assert recipe.network.options == {"mixer": "none"}
    assert recipe.training.patch_size == (8, 8, 4)
    assert faults(path, "training.epohcs=7") == [
        "--set training.epohcs=7: training.epohcs: unknown key - did you mean 'epochs'?"
    ]
    assert "expected key=value" in faults(path, "epochs")[0]
    assert "task is not a section" in faults(write(tmp_path, "b.yaml", "task: segmentation\n"), "task.x=1")[0]


def test_a_fault_in_an_override_names_the_override_and_not_the_line_that_it_replaces(tmp_path) -> None:
    path = write(tmp_path, "a.yaml", MINIMAL + "\ntraining: {patch_size: [32, 32, 32]}\n")
    (line,) = faults(path, "training.patch_size=[0, 32, 32]")
    assert line.startswith("--set training.patch_size=[0, 32, 32]: training.patch_size.0: expected")


def test_a_child_changes_only_what_it_says(tmp_path) -> None:
    write(tmp_path, "parent.yaml", "network: {name: nnmamba, channels: 16}\ntraining: {epochs: 5, clip: 1}\n")
    child = load_recipe(write(tmp_path, "child.yaml", "extends: parent.yaml\ntraining: {epochs: 9}\n"))
    assert (child.training.epochs, child.training.clip) == (9, 1)
    assert child.network.options == {"channels": 16}
    assert child.name == "child"


def test_options_of_another_network_are_not_inherited(tmp_path) -> None:
    write(tmp_path, "parent.yaml", "network: {name: nnmamba, channels: 16}\n")
    child = load_recipe(write(tmp_path, "child.yaml", "extends: parent.yaml\nnetwork: {name: segmamba}\n"))
    assert child.network.options == {}


def test_a_fault_of_the_parent_is_told_with_the_parents_line(tmp_path) -> None:
    parent = write(tmp_path, "parent.yaml", MINIMAL + "\ntraining: {epochs: none}\n")
    lines = faults(write(tmp_path, "child.yaml", "extends: parent.yaml\n"))
    assert lines[0].startswith(f"{parent}:3: training.epochs")


@pytest.mark.parametrize("parent", ["../secret.yaml", "/etc/passwd", "..", "''"])
def test_extends_cannot_leave_the_folder(tmp_path, parent) -> None:
    assert "extends" in faults(write(tmp_path, "a.yaml", f"extends: {parent}\n"))[0]


def test_a_circle_of_parents_is_told(tmp_path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml\n")
    assert "circular" in faults(write(tmp_path, "b.yaml", "extends: a.yaml\n"))[0]


def test_fractions_of_a_split_must_sum_to_one(tmp_path) -> None:
    path = write(tmp_path, "a.yaml", MINIMAL + "dataset: {split: {train: 0.7, val: 0.1, test: 0.1}}\n")
    assert "expected train + val + test = 1, got 0.9" in faults(path)[0]


def test_a_name_that_is_no_recipe_is_one_line(tmp_path) -> None:
    assert "no such recipe" in faults(tmp_path / "nowhere.yaml")[0]


def test_a_shipped_recipe_is_found_by_name_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_name = load_recipe("hippocampus_nnmamba")
    assert load_recipe("recipes/hippocampus_nnmamba.yaml") == by_name
    assert not list(Path(tmp_path).iterdir())


def test_the_json_schema_documents_every_key() -> None:
    schema = recipe_schema()
    json.dumps(schema)
    training = schema["$defs"]["Training"]["properties"]
    assert "moving average" in training["ema"]["description"]
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("epochs=5", "'training.epochs'"),
        ("training.lr=0.1", "'training.optimizer.lr'"),
        ("overlap=0.5", "'inference.overlap'"),
    ],
)
def test_a_key_in_the_wrong_section_is_recognized(override, meant) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("hippocampus_nnmamba", [override])
    key = override.partition("=")[0]
    assert str(caught.value) == f"--set {override}: {key}: unknown key - did you mean {meant}?"


def test_a_list_in_an_override_needs_no_brackets() -> None:
    overrides = ["training.patch_size=64,32,16", "training.augment.mirror=x,y"]
    recipe = load_recipe("hippocampus_nnmamba", overrides)
    assert recipe.training.patch_size == (64, 32, 16)
    assert recipe.training.augment.mirror == ("x", "y")


def test_a_fault_through_what_is_inherited_is_that_of_the_file_that_extends(tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    parent = "task: segmentation\nnetwork: {name: nnmamba}\ntraining: {loss: {focal: 0.37}}\n"
    (tmp_path / "parent.yaml").write_text(parent)
    file.write_text("extends: parent.yaml\ntask: classification\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    lines = str(caught.value).splitlines()
    assert lines and all(line.startswith(f"{file}") for line in lines)
    assert any("It is inherited from " in line for line in lines)
