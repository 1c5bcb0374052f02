"""A small job for each verb that writes: its arguments, and the folder that it writes."""

from __future__ import annotations

from pathlib import Path

from fault_files import LABEL, packed
from stubs import stub_run, write_blobs
from test_manifests import class_list

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


def export_job(folder: Path) -> list[str]:
    """A run of two folds; the output is to be a file."""
    return ["export", str(stub_run(folder / "run", folds=(0, 1)).root), "-q"]


def evaluate_job(folder: Path, cases: int = 3) -> list[str]:
    """Masks against themselves."""
    (folder / "masks").mkdir(parents=True)
    for number in range(cases):
        (folder / "masks" / f"m{number}.nii.gz").write_bytes(packed(LABEL))
    masks = str(folder / "masks")
    return ["evaluate", masks, masks, "--regions", "one=1,two=2", "-q"]
