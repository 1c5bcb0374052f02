"""A small job for each verb that writes: its arguments, and the folder that it writes."""

from __future__ import annotations

from pathlib import Path

import torch

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan, ZScore
from mambamed.recipe import Recipe
from mambamed.run.checkpoint import write_checkpoint
from mambamed.run.folder import create_run, planned_run
from mambamed.run.model import make_network
from tests.answers.stubs import stub_run, write_blobs
from tests.faults.fault_files import LABEL, packed
from tests.faults.test_manifests import class_list

QUICK = ("--device", "cpu", "--precision", "fp32", "-q")


def prepare_job(folder: Path, cases: int = 3) -> list[str]:
    """Three cases with a class each."""
    rows = [f"c{number}|{'ill' if number % 2 else 'well'}" for number in range(cases)]
    return ["prepare", str(class_list(folder / "raw", rows)), "--workers", "1", "--folds", "2", "-q"]


def predict_job(folder: Path, cases: int = 2) -> list[str]:
    """Two masks with their statistics and probabilities."""
    run = stub_run(folder / "run", patch_size=(8, 8, 8))
    write_blobs(folder / "images", cases)
    asked = ("--tta", "none", "--overlap", "0", "--statistics", "--save-probabilities")
    return ["predict", str(run.root), str(folder / "images"), *asked, *QUICK]


def landmarks_job(folder: Path, cases: int = 2) -> list[str]:
    """Points of two images, in every kind of file, with pictures."""
    asked = {"task": "landmarks", "dataset": {"landmarks": ["tip", "tail"]}, "network": {"name": "nnmamba"}}
    run = untrained_run(
        folder / "run", asked, DatasetManifest(name="tips", channels={"a": "mri"}, landmarks=("tip", "tail"))
    )
    write_blobs(folder / "images", cases)
    kinds = ("--export", "mrk.json,fcsv,csv", "--preview", "--tta", "none")
    return ["landmarks", str(run), str(folder / "images"), *kinds, *QUICK]


def classify_job(folder: Path, cases: int = 2) -> list[str]:
    """Probabilities of two images, and where the network looked; the output is to be a file."""
    network = {"name": "nnmamba_classifier"}
    asked = {"task": "classification", "dataset": {"classes": ["well", "ill"]}, "network": network}
    run = untrained_run(
        folder / "run", asked, DatasetManifest(name="ills", channels={"a": "mri"}, classes=("well", "ill"))
    )
    write_blobs(folder / "images", cases)
    return ["classify", str(run), str(folder / "images"), "--saliency", "--tta", "none", *QUICK]


def untrained_run(root: Path, settings: dict[str, dict[str, object]], manifest: DatasetManifest) -> Path:
    """A run whose network has learned nothing."""
    settings["network"]["channels"] = 4
    recipe = Recipe.model_validate({"name": "untrained", **settings})
    plan = Plan(
        spacing_mm=(1.0, 1.0, 1.0),
        shape_median=(20, 22, 18),
        patch_size=(24, 24, 24),
        batch_size=2,
        crop="none",
        normalization=(ZScore(),),
    )
    run = create_run(planned_run(recipe, plan, manifest, root))
    run.fold_folder(0).mkdir()
    torch.manual_seed(0)
    weights = make_network(recipe, manifest).state_dict()
    write_checkpoint(run.checkpoint(0), {f"network.{name}": w for name, w in weights.items()}, {"step": 1})
    return run.root


def export_job(folder: Path, cases: int = 0) -> list[str]:
    """A run of two folds and no cases; the output is to be a file."""
    return ["export", str(stub_run(folder / "run", folds=(0, 1)).root), "-q"]


def evaluate_job(folder: Path, cases: int = 3) -> list[str]:
    """Masks against themselves."""
    (folder / "masks").mkdir(parents=True)
    for number in range(cases):
        (folder / "masks" / f"m{number}.nii.gz").write_bytes(packed(LABEL))
    masks = str(folder / "masks")
    return ["evaluate", masks, masks, "--regions", "one=1,two=2", "-q"]


JOBS = {
    "prepare": prepare_job,
    "predict": predict_job,
    "landmarks": landmarks_job,
    "classify": classify_job,
    "evaluate": evaluate_job,
    "export": export_job,
}
# They hold times, or the name of the folder.
TIMED = {"run.json", "preds.run.json", "summary.json", "report.html"}


def output_of(verb: str, place: Path) -> Path:
    """What `-o` is to name: a folder, but for the two verbs that write a file."""
    return place / {"classify": "preds.csv", "export": "model.mambamed"}.get(verb, "out")
