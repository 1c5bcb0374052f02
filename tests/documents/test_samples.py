"""Files that version 0.1.0 wrote, of a tiny dataset per task, are read by today's models.

Made by 0.1.0 with random images; machine paths are replaced and the metadata of checkpoints is kept as JSON.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mambamed.documents.base import Document, Model
from mambamed.documents.prediction import PointFile, PredictionRecord
from mambamed.documents.prepared import CaseRecord, Fingerprint
from mambamed.documents.run import Calibration, CheckpointFacts, ModelIndex, RunRecord, Thresholds
from mambamed.preparation.grid import CaseGeometry
from mambamed.preparation.store import PreparedDataset
from mambamed.run.calibration import read_calibration
from mambamed.run.folder import Run
from mambamed.run.listing import list_runs
from mambamed.run.thresholds import read_thresholds

SAMPLES = Path(__file__).parent / "samples" / "0.1.0"
TASKS = ("segmentation", "landmarks", "classification")
MODELS: dict[str, type[Model]] = {
    "*/prepared/cases/c1.json": CaseRecord,
    "*/run/run.json": RunRecord,
    "*/run/fold_0/thresholds.json": Thresholds,
    "*/run/fold_0/calibration.json": Calibration,
    "*/run/fold_0/checkpoint_*.json": CheckpointFacts,
    "*/prediction/*run.json": PredictionRecord,
    "*/prediction/c1.json": PointFile,
    "*/model.json": ModelIndex,
}
FILES = [(path, model) for pattern, model in MODELS.items() for path in sorted(SAMPLES.glob(pattern))]


@pytest.mark.parametrize(("path", "model"), FILES, ids=lambda value: getattr(value, "stem", ""))
def test_a_file_is_read_and_written_back_whole(path, model, tmp_path) -> None:
    model.read(path).write(tmp_path / path.name)
    new, old = (json.loads(file.read_text()) for file in (tmp_path / path.name, path))
    if issubclass(model, Document):
        assert new.pop("format") == 1
        old.pop("format", None)
    assert new == old


@pytest.mark.parametrize("task", TASKS)
def test_a_prepared_dataset_opens(task, tmp_path) -> None:
    folder = SAMPLES / task / "prepared"
    dataset = PreparedDataset.open(folder)
    assert dataset.case_ids == [f"c{n}" for n in range(10)] and len(dataset.splits) == 5
    geometry = CaseGeometry.of(dataset.case("c1").document.geometry)
    assert geometry.record() == dataset.case("c1").document.geometry
    cases = json.loads((folder / "fingerprint.json").read_text())
    Fingerprint.checked({"cases": cases}, folder).write(tmp_path / "fingerprint.json")
    assert (tmp_path / "fingerprint.json").read_bytes() == (folder / "fingerprint.json").read_bytes()


@pytest.mark.parametrize("task", TASKS)
def test_a_run_opens(task, tmp_path) -> None:
    shutil.copytree(SAMPLES / task / "run", tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.recipe.task == task and run.recorded(0)["steps"] == 2
    assert (read_thresholds(run, 0) is not None) == (task == "landmarks")
    assert (read_calibration(run, 0) is not None) == (task == "classification")
    run.checkpoint(0).touch()
    run.checkpoint(0, "last").touch()
    (line,) = list_runs(tmp_path).runs
    name, better = {"landmarks": ("error_mm", 4.19167)}.get(task, (line.score_name, line.score))
    assert line.epoch == 1 and line.score_name == name and line.score == pytest.approx(better, abs=1e-5)


def test_there_are_samples_of_every_kind() -> None:
    assert {model for _, model in FILES} == set(MODELS.values())
