"""From images to a table of probabilities: a trained classifier, its seeds, its faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mambamed.api import classify
from mambamed.cases import Case, ChannelFile
from mambamed.documents.manifest import DatasetManifest, RawDataset
from mambamed.errors import ModelError, RecipeError
from mambamed.evaluation.classification import evaluate_probabilities
from mambamed.io.json_files import read_json, write_json
from mambamed.io.probabilities import read_probabilities
from mambamed.preparation.prepare import prepare
from mambamed.progress import Silence
from mambamed.recipe import Recipe
from mambamed.run.calibration import read_calibration
from mambamed.run.folder import Run
from mambamed.training import train
from mambamed.training.validate import read_scores

SHAPE = (16, 14, 12)


class Collector(Silence):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def settings(seed: int) -> Recipe:
    return Recipe.model_validate(
        {
            "task": "classification",
            "name": f"sides_{seed}",
            "dataset": {
                "classes": ["left", "right"],
                "covariates": {"age": "number", "sex": ["F", "M"]},
                "split": {"train": 0.5, "val": 0.5, "test": 0.0},
            },
            "preprocess": {"spacing": "keep", "crop": "none", "normalize": "none"},
            "network": {"name": "nnmamba_classifier", "channels": 4, "dropout": 0.0},
            "training": {
                "epochs": 2, "steps_per_epoch": 8, "batch_size": 4, "patch_size": [16, 14, 12],
                "optimizer": {"lr": 1e-2}, "schedule": {"name": "constant"}, "augment": {"mirror": []},
                "precision": "fp32", "seed": seed,
            },
            "inference": {"tta": "none"},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Bright boxes on the left or right (or in the middle: nobody asks), two seeds trained."""
    root: Path = tmp_path_factory.mktemp("sides")
    random, cases = np.random.default_rng(0), []
    for number in range(30):
        side = ("left", "right", "middle")[number % 3]
        image = random.normal(0, 0.2, SHAPE).astype(np.float32)
        x = {"left": 1, "right": 10, "middle": 5}[side]
        image[x : x + 5, 3:9, 3:9] += 2
        path = root / "images" / f"c{number:02}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        # Some files are stored right to left; the side of the world is the same.
        flipped = number % 2
        affine = np.diag([-1.0, 1, 1, 1] if flipped else [1.0, 1, 1, 1])
        nib.save(nib.Nifti1Image(image[::-1] if flipped else image, affine), path)
        known = {"age": str(50 + number), "sex": "FM"[number % 2]} if number % 5 else {"age": "n/a"}
        cases.append(Case(path.name[:3], (ChannelFile(path),), class_name=side, covariates=known))
    manifest = DatasetManifest(name="sides", channels={"MRI": "mri"}, classes=("left", "middle", "right"))
    prepare(RawDataset(manifest, cases), root / "prepared", recipe=settings(0), workers=1)
    rows = [f"{case.id},{case.class_name},{case.covariates['age']}" for case in cases]
    (root / "classes.csv").write_text("\n".join(["case,class,age", *rows]))
    for seed in (0, 1):
        train(settings(seed), prepared=root / "prepared", output=root / f"run_{seed}", device="cpu")
    return root


def test_a_validation_writes_what_the_house_promises(world) -> None:
    fold = world / "run_0" / "fold_0"
    names = {path.name for path in fold.iterdir()}
    assert names >= {"predictions.csv", "calibration.json", "cases.csv", "summary.csv", "summary.json"}
    run = Run.open(world / "run_0")
    calibration = read_calibration(run, 0)
    known = read_scores(run, 0)
    assert calibration is not None
    assert known is not None
    split = read_json(world / "prepared" / "splits.json")[0]["val"]
    asked = [c for c in split if int(c[1:]) % 3 != 2]
    table = read_probabilities(fold / "predictions.csv")
    assert sorted(table.cases) == asked
    assert table.threshold == calibration.threshold
    assert calibration.cases == len(asked)
    found = evaluate_probabilities(fold / "predictions.csv", world / "classes.csv", only_predicted=True)
    assert known.scores == {"right": found.runs[0].scores.values["auc"]}  # type: ignore[union-attr]
    assert known.scores["right"] > 0.9
    log = (fold / "train.log").read_text()
    assert "of other classes left out" in log
    assert "test on others" in log


def test_classify_says_what_the_validation_said(world, tmp_path) -> None:
    """The stored images are float16, hence the tolerance."""
    images = tmp_path / "images"
    images.mkdir()
    table = read_probabilities(world / "run_0" / "fold_0" / "predictions.csv")
    for case in table.cases:
        shutil.copy(world / "images" / f"{case}.nii.gz", images)
    found = classify([world / "run_0"], images, tmp_path / "p.csv", covariates=None, device="cpu")
    order = [found.probabilities.cases.index(case) for case in table.cases]
    # without covariates: a model that heard them says about the same of these images
    assert np.abs(found.probabilities.values[order] - table.values).max() < 0.2
    rows = [
        f"{case},{50 + int(case[1:])},{'FM'[int(case[1:]) % 2]}" for case in table.cases if int(case[1:]) % 5
    ]
    (tmp_path / "known.csv").write_text("\n".join(["case,age,sex", *rows]))
    told = classify(
        [world / "run_0"], images, tmp_path / "q.csv", covariates=tmp_path / "known.csv", device="cpu"
    )
    np.testing.assert_allclose(told.probabilities.values[order], table.values, atol=2e-3)
    assert told.probabilities.threshold == table.threshold
    document = read_json(tmp_path / "q.run.json")
    assert document["cases"]["c01"]["status"] == "done"
    assert document["settings"]["seeds"] == [0]


def test_runs_of_several_seeds_answer_together_by_the_mean_of_their_probabilities(world, tmp_path) -> None:
    images = world / "images"
    one, two = (
        classify([world / f"run_{seed}"], images, tmp_path / f"{seed}.csv", device="cpu").probabilities
        for seed in (0, 1)
    )
    both = classify([world / "run_0", world / "run_1"], images, tmp_path / "both.csv", device="cpu")
    np.testing.assert_allclose(both.probabilities.values, (one.values + two.values) / 2, atol=1e-6)
    assert both.probabilities.threshold == pytest.approx((one.threshold + two.threshold) / 2)


def test_where_the_network_looked_is_written_on_the_files_own_grid(world, tmp_path) -> None:
    for case in ("c00", "c01"):
        (tmp_path / case).mkdir()
        shutil.copy(world / "images" / f"{case}.nii.gz", tmp_path / case)
        found = classify(
            [world / "run_0", world / "run_1"], tmp_path / case, tmp_path / f"{case}.csv", saliency=True,
            device="cpu",
        )  # fmt: skip
        assert found.saliency is not None
        heat = nib.load(found.saliency / f"{case}.nii.gz")
        image = nib.load(world / "images" / f"{case}.nii.gz")
        assert heat.shape == image.shape
        assert np.array_equal(heat.affine, image.affine)
        assert 0 <= heat.get_fdata().min() <= heat.get_fdata().max() <= 1
        assert (found.saliency / f"{case}.png").stat().st_size > 1000


def test_a_bad_case_is_named_and_the_rest_is_classified(world, tmp_path) -> None:
    images = tmp_path / "images"
    shutil.copytree(world / "images", images)
    (images / "c03.nii.gz").write_bytes(b"")
    broken = np.full(SHAPE, np.nan, np.float32)
    nib.save(nib.Nifti1Image(broken, np.eye(4)), images / "c04.nii.gz")
    found = classify([world / "run_0"], images, tmp_path / "p.csv", device="cpu")
    assert len(found.faults) == 2
    assert "c03" in found.faults[0]
    assert "NaN" in found.faults[1]
    assert len(read_probabilities(tmp_path / "p.csv").cases) == 28
    assert read_json(tmp_path / "p.run.json")["cases"]["c03"]["status"] == "failed"


def test_a_name_that_a_spreadsheet_would_run_is_classified_and_escaped(world, tmp_path) -> None:
    (tmp_path / "images").mkdir()
    shutil.copy(world / "images" / "c00.nii.gz", tmp_path / "images" / "-1+HYPERLINK(1).nii.gz")
    classify([world / "run_0"], tmp_path / "images", tmp_path / "p.csv", device="cpu")
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith("'-1+HYPERLINK")
    assert read_probabilities(tmp_path / "p.csv").cases == ("-1+HYPERLINK(1)",)


def test_a_given_threshold_goes_before_the_validations(world, tmp_path) -> None:
    images = world / "images"
    all_right = classify([world / "run_0"], images, tmp_path / "p.csv", threshold=0.0, device="cpu")
    assert set(all_right.probabilities.labels) == {"right"}
    assert read_probabilities(tmp_path / "p.csv").threshold == 0


def test_options_that_cannot_be_meant_stop_before_any_work(world, tmp_path) -> None:
    run, images = [world / "run_0"], world / "images"
    for options, says in (
        ({"threshold": 1.5}, "from 0 to 1"),
        ({"covariates": world / "nowhere.csv"}, "nowhere.csv"),
    ):
        with pytest.raises(Exception, match=says):
            classify(run, images, tmp_path / "p.csv", device="cpu", **options)
    with pytest.raises(RecipeError, match=r"e\.g\. preds\.csv"):
        classify(run, images, tmp_path / "folder", device="cpu")
    assert not (tmp_path / "p.csv").exists()


def test_a_table_of_the_users_own_is_not_overwritten(world, tmp_path) -> None:
    own = tmp_path / "own.csv"
    shutil.copy(world / "classes.csv", own)
    with pytest.raises(RecipeError, match="already exists"):
        classify([world / "run_0"], world / "images", own, device="cpu")
    assert own.read_bytes() == (world / "classes.csv").read_bytes()


def test_a_list_of_cases_brings_their_covariates(world, tmp_path) -> None:
    rows = [f"c{n:02},{world / 'images' / f'c{n:02}.nii.gz'},{50 + n},{'FM'[n % 2]}" for n in (1, 4, 6)]
    listed = tmp_path / "cases.csv"
    listed.write_text("\n".join(["case,MRI,age,sex", *rows]))
    found = classify([world / "run_0"], listed, tmp_path / "p.csv", device="cpu")
    (tmp_path / "known.csv").write_text(
        "\n".join(["case,age,sex", *(f"c{n:02},{50 + n},{'FM'[n % 2]}" for n in (1, 4, 6))])
    )
    every = classify(
        [world / "run_0"],
        world / "images",
        tmp_path / "q.csv",
        covariates=tmp_path / "known.csv",
        device="cpu",
    )
    order = [every.probabilities.cases.index(case) for case in found.probabilities.cases]
    assert np.array_equal(found.probabilities.values, every.probabilities.values[order])


def test_a_covariate_far_outside_the_training_range_is_told(world, tmp_path) -> None:
    """Ages of the training cases are 51 to 79, those of the table in years but one in days."""
    ranges = Run.open(world / "run_0").manifest.covariate_ranges
    assert ranges == {"age": (51.0, 79.0)}
    said = Collector()
    ages = {"c01": "45", "c02": "7200", "c03": "n/a", "c04": "108", "c06": "-7200"}
    (tmp_path / "known.csv").write_text("\n".join(["case,age", *map(",".join, ages.items())]))
    table = {"covariates": tmp_path / "known.csv", "device": "cpu", "progress": said}
    classify([world / "run_0"], world / "images", tmp_path / "p.csv", **table)
    (line,) = [line for line in said.lines if "far outside" in line]
    assert line.startswith(
        "warning: age is far outside the training range, 51 to 79: c02: 7200, c04: 108, c06: -7"
    )
    (tmp_path / "Known.csv").write_text((tmp_path / "known.csv").read_text().replace("age", "Age"))
    classify(
        [world / "run_0"],
        world / "images",
        tmp_path / "o.csv",
        **table | {"covariates": tmp_path / "Known.csv"},
    )
    assert (tmp_path / "o.csv").read_text() == (tmp_path / "p.csv").read_text()
    old = tmp_path / "old"  # a run of an earlier version has no ranges
    shutil.copytree(world / "run_0", old)
    manifest = read_json(old / "dataset.json")
    del manifest["covariate_ranges"]
    write_json(old / "dataset.json", manifest)
    silent = Collector()
    classify([old], world / "images", tmp_path / "q.csv", **table | {"progress": silent})
    assert not any("far outside" in line for line in silent.lines)


def test_a_damaged_calibration_is_refused(world, tmp_path) -> None:
    shutil.copytree(world / "run_0", tmp_path / "run")
    write_json(tmp_path / "run" / "fold_0" / "calibration.json", {"temperature": -1, "threshold": 2})
    with pytest.raises(ModelError, match=r"calibration\.json: temperature: expected"):
        classify([tmp_path / "run"], world / "images", tmp_path / "p.csv", device="cpu")


def test_weights_of_one_question_are_a_start_for_another(world, tmp_path) -> None:
    """As NC against AD is for sMCI against pMCI: the same network, other classes."""
    recipe = settings(3)
    dataset = recipe.dataset.model_copy(update={"classes": ("middle", "right")})
    other = recipe.model_copy(update={"dataset": dataset})
    prepared, start = world / "prepared", world / "run_0"
    train(other, prepared=prepared, output=tmp_path / "run", init_from=start, device="cpu")
    log = (tmp_path / "run" / "fold_0" / "train.log").read_text()
    assert "weights of" in log
    assert "middle" in (tmp_path / "run" / "fold_0" / "predictions.csv").read_text()


def test_classes_that_the_dataset_lacks_are_refused(world, tmp_path) -> None:
    recipe = settings(0)
    dataset = recipe.dataset.model_copy(update={"classes": ("left", "above")})
    with pytest.raises(RecipeError, match="above"):
        train(
            recipe.model_copy(update={"dataset": dataset}),
            prepared=world / "prepared",
            output=tmp_path / "run",
        )
