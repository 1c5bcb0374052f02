"""`predict --uncertainty`: the masks stay, the maps follow from the folds, the table from the record."""

from __future__ import annotations

import csv
import shutil

import nibabel as nib
import numpy as np
import pytest
from scipy.special import rel_entr

from mambamed.api import predict
from mambamed.documents.run import Calibration
from mambamed.errors import RecipeError
from mambamed.run.calibration import write_calibration
from tests.answers.stubs import stub_run, write_blobs


def go(run, images, output, **options):
    return predict([run.root], images, output, device="cpu", precision="fp32", **options)


def loaded(path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj).astype(float)


@pytest.fixture
def world(tmp_path):
    write_blobs(tmp_path / "images", 2)
    return stub_run(tmp_path / "run", folds=(0, 1), patch_size=(32, 32, 32)), tmp_path


def test_maps_and_table_of_two_folds(world) -> None:
    run, tmp_path = world
    images, out = tmp_path / "images", tmp_path / "out"
    go(run, images, tmp_path / "plain", tta="none", save_probabilities=True)
    each = []
    for fold in "01":
        go(run, images, tmp_path / fold, tta="none", folds=fold, save_probabilities=True)
        each.append(np.load(tmp_path / fold / "case_0_probabilities.npz")["probabilities"].astype(float))
    go(run, images, out, tta="none", uncertainty=True)
    for path in (tmp_path / "plain").glob("*.nii.gz"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    combined = np.load(tmp_path / "plain" / "case_0_probabilities.npz")["probabilities"].astype(float)
    entropy = loaded(out / "uncertainty" / "case_0_entropy.nii.gz")
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = -np.where(combined > 0, combined * np.log(combined), 0).sum(0) / np.log(3)
    np.testing.assert_allclose(entropy, expected, atol=2e-3)  # probabilities are kept as float16
    apart = np.mean([rel_entr(combined, one).sum(0) for one in each], axis=0)
    disagreement = loaded(out / "uncertainty" / "case_0_disagreement.nii.gz")
    assert disagreement.max() > 0.05
    np.testing.assert_allclose(disagreement, apart, atol=3e-3)
    with (out / "uncertainty.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["structure"]) for row in rows] == [
        (case, name) for case in ("case_0", "case_1") for name in ("one", "two")
    ]
    for row, label, channel in zip(rows, (1, 5), (1, 2), strict=False):
        mask = loaded(out / "case_0.nii.gz") == label
        if not mask.any():
            assert row["entropy"] == row["expected_dice"] == ""
            continue
        assert float(row["entropy"]) == pytest.approx(entropy[mask].mean(), abs=1e-5)
        dice = 2 * combined[channel][mask].sum() / (combined[channel].sum() + mask.sum())
        assert float(row["expected_dice"]) == pytest.approx(dice, abs=1e-3)
    assert go(run, images, out, tta="none", uncertainty=True).kept == 2
    (out / "uncertainty" / "case_1_entropy.nii.gz").unlink()  # of a case, done again
    assert go(run, images, out, tta="none", uncertainty=True).kept == 1
    with pytest.raises(RecipeError, match="other models or settings"):
        go(run, images, out, tta="none")


def test_the_temperature_is_that_of_the_folds_and_a_single_mask_has_its_maps_next_to_it(world) -> None:
    run, tmp_path = world
    image, out = tmp_path / "images" / "case_0.nii.gz", tmp_path / "one"
    go(run, image, out / "mask.nii.gz", uncertainty=True)
    apart = loaded(out / "mask_disagreement.nii.gz").mean()
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == [
        "mask.nii.gz",
        "mask.run.json",
        "mask_disagreement.nii.gz",
        "mask_entropy.nii.gz",
        "mask_labels_itksnap.txt",
        "mask_labels_slicer.ctbl",
    ]
    for fold, temperature in ((0, 2.0), (1, 8.0)):
        write_calibration(run, fold, Calibration(temperature=temperature, cases=10))
    shutil.rmtree(out)
    lines: list[str] = []

    class Listener:
        def start(self, *_: object) -> None: ...
        def advance(self, *_: object, **__: object) -> None: ...
        def say(self, line: str) -> None:
            lines.append(line)

    go(run, image, out / "mask.nii.gz", uncertainty=True, progress=Listener())
    assert "temperature 4, chosen on validation cases" in lines  # the geometric mean
    # To second order it falls with the square of the temperature.
    assert loaded(out / "mask_disagreement.nii.gz").mean() == pytest.approx(apart / 16, rel=0.3)
