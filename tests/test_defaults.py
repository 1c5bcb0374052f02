"""`benchmarks/defaults.py`: its table says which network is better, with the sign and the interval turned."""

import importlib
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mambamed import api
from mambamed.documents.study import StudyDifference, StudyRecord, StudyRun, StudyScore, read_study
from mambamed.evaluation.classification import evaluate_probabilities
from mambamed.io.probabilities import Probabilities, write_probabilities
from mambamed.preparation.store import PreparedDataset
from mambamed.studies.plan import cells_of, trained_rows


@pytest.fixture
def defaults(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    return importlib.import_module("defaults")


@pytest.fixture
def logistic(defaults):
    return importlib.import_module("logistic")


@pytest.fixture(scope="module")
def sizes(tmp_path_factory) -> Path:
    """Prepared: 20 cubes of noise, with edges of 8 or 12 mm."""
    folder, random = tmp_path_factory.mktemp("sizes"), np.random.default_rng(0)
    rows = ["case,image,class"]
    for number in range(20):
        edge, name = ((8, "small"), (12, "large"))[number % 2]
        image = random.uniform(1, 2, (edge, edge, edge)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"c{number:02}.nii.gz")
        rows.append(f"c{number:02},{folder}/c{number:02}.nii.gz,{name}")
    (folder / "cases.csv").write_text("\n".join(rows))
    api.prepare(folder / "cases.csv", folder / "prepared", workers=1)
    return folder / "prepared"


def test_a_difference_is_turned_to_the_network_of_the_row(defaults) -> None:
    """By hand: second minus first is 0.02 (0.01 to 0.05), so first minus second is -0.02 (-0.05 to -0.01)."""
    test = StudyDifference(
        dataset="d", region="average", metric="dice", first="a", second="b", subjects=9, difference=0.02,
        interval=(0.01, 0.05), wilcoxon_holm=0.5, permutation_holm=0.25, delong_holm=math.nan,
    )  # fmt: skip
    row = lambda name: StudyScore(  # noqa: E731
        dataset="d", recipe=name, region="average", metric="dice", seeds={"0": 0.5}, mean=0.5, sd=0,
        interval=(0, 1), rank=1, units=9,
    )  # fmt: skip
    assert defaults.difference_of([test], row("b"), "a") == ("+0.0200 (+0.0100 to +0.0500)", "0.250")
    assert defaults.difference_of([test], row("a"), "b") == ("-0.0200 (-0.0500 to -0.0100)", "0.250")
    assert defaults.difference_of([test], row("a"), "c") == ("", "")


def test_every_dataset_has_a_task_whose_present_network_is_compared(defaults) -> None:
    for known in defaults.DATASETS.values():
        assert defaults.NETWORKS_OF_TASKS[known.task][0] in defaults.NETWORKS[known.task]


def test_the_features_of_a_small_image(logistic) -> None:
    """By hand: voxels of 2 x 1 x 1 mm, of which three are not 0: -1 and 1 at low x, 3 at high x."""
    image = np.array([[[[-1, 1]], [[0, 0]], [[0, 3]]]])
    found = logistic.features_of(image, (2, 1, 1))
    extent, volume, moments = [6, 1, 2], [0.006], [1, math.sqrt(8 / 3)]
    percentiles = [-0.8, 0, 1, 2, 2.8]
    bins = [0.0] * 12
    for place in (4, 8, 11):  # from -1, from 1, up to 3
        bins[place] = 1 / 3
    halves = [0.004, 0.002, 0, 0.75]  # the middle slice belongs to both
    assert found == pytest.approx([*extent, *volume, *moments, *percentiles, *bins, *halves])
    assert np.isfinite(logistic.features_of(np.zeros((2, 1, 2, 2)), (1, 1, 1))).all()


def test_a_logistic_regression_is_compared_with_the_networks_of_a_study(
    defaults, logistic, sizes, tmp_path
) -> None:
    """It knows every size. Of the network's two seeds, one is always right and one always wrong: 0.5 less."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "name: small\ntask: classification\ndataset: {classes: [large, small]}\nnetwork: {name: resnet}\n"
        "training: {patch_size: [16, 16, 16]}\n"
    )
    (tmp_path / "study.yaml").write_text(
        f"datasets: {{hippocampus_size: {{prepared: {sizes}}}}}\nrecipes: {{resnet: {{recipe: {recipe}}}}}\n"
        "folds: [1, 2]\nseeds: 2\nbudget: {cpu_minutes: 5}\n"
    )
    study, dataset = read_study(tmp_path / "study.yaml"), PreparedDataset.open(sizes)
    for cell in cells_of(study, trained_rows(study), tmp_path / "study"):
        for fold in cell.folds:
            cases = tuple(dataset.splits[fold]["val"])
            chances = [
                [0.9, 0.1] if dataset.case(each).class_name == "large" else [0.1, 0.9] for each in cases
            ]
            values = np.array(chances)[:, :: -1 if cell.seed else 1]
            folder = cell.root / f"fold_{fold}"
            folder.mkdir(parents=True)
            table = Probabilities(("large", "small"), cases, values, 0.5, False)
            write_probabilities(folder / "predictions.csv", table)
            evaluate_probabilities(folder / "predictions.csv", sizes, only_predicted=True, output=folder)
    found = logistic.against_networks(study, "hippocampus_size", tmp_path / "study")
    (score,) = (each for each in found.scores if each.metric == "accuracy")
    (test,) = (each for each in found.differences if each.metric == "accuracy")
    assert (score.recipe, score.mean, score.units) == ("logistic_regression", 1, 8)
    assert (test.first, test.second, test.difference) == ("resnet", "logistic_regression", 0.5)
    run = StudyRun(
        dataset="hippocampus_size", recipe="resnet", seed=0, command="", folds=(1, 2), finished=True, steps=7
    )
    network = score.changed(recipe="resnet", mean=0.5, seeds={"0": 1.0, "1": 0.0}, sd=0.7071)
    record = StudyRecord(study=study, runs=(run,), scores=(network,))
    kept = {"command": "c", "date": "d", "machine": "m", "record": json.loads(record.model_dump_json())}
    without = defaults.table(kept, "f.json")
    assert not any("logistic" in line for line in without)
    lines = defaults.table({**kept, "logistic": json.loads(found.model_dump_json())}, "f.json")
    assert [line.split(" | ")[0] for line in lines if line.startswith("|")][2:] == [
        "| logistic regression",
        "| resnet",
    ]
    assert lines[4].endswith("| minus logistic regression | p |")
    assert lines[7].split(" | ")[-2].startswith("-0.5000 (-0.5000 to -0.5000)")


def test_the_section_says_that_there_is_no_comparison_yet(defaults, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(defaults, "RESULTS", tmp_path)
    assert defaults.section()[-1] == "No comparison is kept yet."
