"""The description of a program says what the verbs of mambamed do with the run."""

import pytest

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan, ZScore
from mambamed.documents.program import Program, ProgramFile
from mambamed.documents.run import Calibration
from mambamed.programs.description import described
from mambamed.recipe import Recipe
from mambamed.run.calibration import write_calibration
from mambamed.run.folder import create_run, planned_run
from mambamed.run.thresholds import write_thresholds

FACTS = {
    "version": "0",
    "program": "onnx",
    "opset": 20,
    "files": (ProgramFile(name="model.onnx", bytes=1, sha256="0" * 64),),
    "checkpoint": "best",
    "largest_difference": 0.0,
}


def run_of(folder, answers, **recipe):
    manifest = DatasetManifest(name="d", channels={"a": "mri"}, **answers)
    sizes = {"shape_median": (9, 9, 9), "patch_size": (16, 16, 16), "batch_size": 1, "crop": "none"}
    plan = Plan(spacing_mm=(1.0, 2.0, 3.0), normalization=(ZScore(),), **sizes)
    asked = Recipe.model_validate({"name": "r", "network": {"name": "nnmamba"}, **recipe})
    run = create_run(planned_run(asked, plan, manifest, folder))
    run.fold_folder(0).mkdir(exist_ok=True)
    return run


def written_and_read(run, tmp_path) -> Program:
    described(run, [0], **FACTS).write(tmp_path / "model.onnx.json")
    return Program.read(tmp_path / "model.onnx.json")


def test_regions_are_written_in_the_order_of_the_masks(tmp_path) -> None:
    labels = {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}
    regions = {"ET": (3,), "WT": (1, 2, 3), "TC": (1, 3)}
    post = {"postprocess": {"min_mm3": {"ET": 50.0}}, "tta": "none", "overlap": 0.25}
    run = run_of(tmp_path / "run", {"labels": labels, "regions": regions}, inference=post)
    found = written_and_read(run, tmp_path)
    assert found.masks is not None and found.masks.decision == "positive"
    # by hand: WT is written first, then TC over it, then ET
    assert [list(regions)[k] for k in found.masks.order] == ["WT", "TC", "ET"]
    assert found.masks.values == (3, 2, 1)
    assert found.masks.postprocess.min_mm3 == {"ET": 50.0}
    assert found.windows.mirror_axes == () and found.windows.overlap == 0.25


@pytest.mark.parametrize("threshold", [None, 0.4])
def test_landmarks_have_thresholds(tmp_path, threshold) -> None:
    settings = {"landmarks": {"threshold": threshold}} if threshold else {}
    run = run_of(tmp_path / "run", {"landmarks": ("nose", "chin")}, task="landmarks", **settings)
    write_thresholds(run, 0, {"nose": 0.1, "chin": 0.2}, 5)
    found = written_and_read(run, tmp_path)
    assert found.points is not None and found.points.names == ("nose", "chin")
    assert found.points.thresholds == (
        {"nose": 0.4, "chin": 0.4} if threshold else {"nose": 0.1, "chin": 0.2}
    )
    assert found.masks is None and found.windows.kind == "sliding"


def test_classes_have_a_temperature_and_a_threshold(tmp_path) -> None:
    network = {"network": {"name": "resnet"}}
    run = run_of(tmp_path / "run", {"classes": ("well", "ill")}, task="classification", **network)
    write_calibration(run, 0, Calibration(temperature=1.5, threshold=0.3, criterion="youden", cases=4))
    found = written_and_read(run, tmp_path)
    assert found.classes is not None
    assert (found.classes.temperature, found.classes.threshold) == (1.5, 0.3)
    assert found.windows.kind == "centered" and found.preparation.spacing_mm == (1.0, 2.0, 3.0)
