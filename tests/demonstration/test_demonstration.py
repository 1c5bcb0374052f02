"""The main job, end to end, in less than a minute: what the demo command does where its time is too short."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from mambamed import demonstration
from mambamed.demonstration import PICTURED_CASES, demo
from mambamed.demonstration.phantom import LABELS, make_phantom, write_phantoms
from mambamed.progress import Silence
from mambamed.recipe import load_recipe
from mambamed.training.costs import check_time
from mambamed.training.schedule import Pace

MINUTES = 1e-4
TRAINING_CASES, TEST_CASES = 6, PICTURED_CASES  # fewer than the command has


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    """A machine of any speed is too slow for so little time, and takes a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demonstration, "TRAINING_CASES", TRAINING_CASES)
        patch.setattr(demonstration, "TEST_CASES", TEST_CASES)
        yield demo(tmp_path_factory.mktemp("demo"), minutes=MINUTES)


def test_every_test_case_has_a_mask_on_its_own_grid(summary) -> None:
    masks = sorted(summary.predictions.glob("*.nii.gz"))
    assert len(masks) == TEST_CASES
    for mask in masks:
        case = mask.name.removesuffix(".nii.gz")
        image = nib.load(summary.data / "test" / case / f"{case}-t1n.nii.gz")
        loaded = nib.load(mask)
        assert loaded.shape == image.shape
        np.testing.assert_array_equal(loaded.affine, image.affine)
        assert set(np.unique(np.asanyarray(loaded.dataobj))) <= set(LABELS.values())
        assert sitk.ReadImage(str(mask)).GetSize() == image.shape


def test_the_run_and_the_evaluation_hold_what_they_promise(summary) -> None:
    fold = summary.run / "fold_0"
    for name in ("log.csv", "progress.png", "train.log", "cases.csv", "summary.json"):
        assert (fold / name).stat().st_size > 0, name
    record = json.loads((summary.run / "run.json").read_text())
    assert record["folds"]["0"]["seed"] == 0
    cases = json.loads((summary.evaluation.output / "summary.json").read_text())["metric_per_case"]
    assert len(cases) == TEST_CASES
    assert [row[0] for row in summary.evaluation.table.rows] == ["WT", "TC", "ET", "average"]
    assert len(json.loads((summary.prepared / "dataset.json").read_text())["cases"]) == TRAINING_CASES
    assert summary.picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_same_command_again_changes_no_mask(summary) -> None:
    masks = {path.name: path.stat().st_mtime_ns for path in summary.predictions.glob("*.nii.gz")}
    demo(summary.data.parent, minutes=MINUTES)
    assert masks == {path.name: path.stat().st_mtime_ns for path in summary.predictions.glob("*.nii.gz")}


def test_a_machine_that_is_too_slow_for_the_time_trains_longer(tmp_path, monkeypatch) -> None:
    """By hand: five steps of 30 s, an epoch's end of 10 s and a validation of 140 s take 300 s."""
    calls, said = [], []

    def slow(recipe, *, limit, measured, **options):
        calls.append((limit.seconds, limit.option, measured))
        if not measured:
            check_time(Pace(30.0, 10.0, 140.0), limit.seconds, limit.option)

    monkeypatch.setattr(demonstration, "train", slow)
    progress = Silence()
    monkeypatch.setattr(progress, "say", said.append)
    demonstration._train(load_recipe("phantom_nnmamba"), tmp_path, tmp_path, 1.0, progress)
    assert calls == [(60.0, "--max-hours", False), (pytest.approx(300.0), "--max-hours", True)]
    assert "one step takes 30.0 s. Training is extended to 5.0 minutes" in said[1]
    assert said[2].endswith("--max-hours 0.083")
    calls.clear()
    demonstration._train(load_recipe("phantom_nnmamba"), tmp_path, tmp_path, 3.5, progress)
    assert calls == [(210.0, "--max-hours", False)]  # one step fits


def test_a_phantom_is_a_function_of_its_seed_and_its_regions_nest(tmp_path) -> None:
    one, again, other = (make_phantom(seed, (32, 40, 32), 4.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.image, again.image)
    assert not np.array_equal(one.image, other.image)
    from scipy.ndimage import binary_dilation

    core = np.isin(one.label, (1, 3))
    assert set(np.unique(one.label[binary_dilation(core, iterations=1)])) <= {0, 1, 2, 3}
    assert core.any()
    assert (one.image[:, 0, 0, 0] == 0).all()
    (folder,) = write_phantoms(tmp_path, 1, labels=False)
    assert len(list(folder.iterdir())) == 4
