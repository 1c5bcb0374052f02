"""What a fold's validation chose of a classifier comes back, and what does not belong to it is refused."""

from __future__ import annotations

import pytest

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.run import Calibration
from mambamed.errors import ModelError
from mambamed.run.calibration import read_calibration, write_calibration
from tests.answers.stubs import stub_run


def run_of(tmp_path, *classes):
    run = stub_run(tmp_path / "run", manifest=MANIFEST, folds=())
    run.fold_folder(0).mkdir()
    return type(run)(run.root, run.recipe, run.plan, MANIFEST.changed(classes=classes))


MANIFEST = DatasetManifest(name="d", channels={"a": "mri"}, labels={"background": 0, "x": 1})


def test_a_calibration_comes_back(tmp_path) -> None:
    run = run_of(tmp_path, "well", "ill")
    assert read_calibration(run, 0) is None
    chosen = Calibration(temperature=1.5, threshold=0.25, criterion="youden", cases=9)
    write_calibration(run, 0, chosen)
    assert read_calibration(run, 0) == chosen


def test_a_threshold_of_more_than_two_classes_is_refused(tmp_path) -> None:
    run = run_of(tmp_path, "well", "ill", "worse")
    write_calibration(run, 0, Calibration(threshold=0.25))
    with pytest.raises(
        ModelError, match=r"calibration\.json: threshold: expected none for 3 classes, got 0\.25"
    ):
        read_calibration(run, 0)
