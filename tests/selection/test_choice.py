"""`best` of two runs with two folds, and `predict` of the file that it writes."""

from __future__ import annotations

import mambamed
from mambamed.documents.ensemble import EnsembleFile
from mambamed.run.provenance import sha256_of
from mambamed.training.training import train
from tests.answers.stubs import write_blobs
from tests.training.small_run import CONVOLUTIONS, small_recipe


def test_the_first_run_is_kept_without_evidence_and_its_file_predicts_as_the_run(prepared, tmp_path) -> None:
    """Two folds have too few subjects for any test to reach 0.05, so nothing may be chosen."""
    runs = [tmp_path / "one", tmp_path / "two"]
    for seed, run in enumerate(runs):
        recipe = small_recipe(CONVOLUTIONS, epochs=1, steps_per_epoch=1, seed=seed)
        for fold in (0, 1):
            train(recipe, prepared=prepared, output=run, fold=str(fold), device="cpu")
    summary = mambamed.best(runs, tmp_path / "best", device="cpu")
    assert summary.chosen == ("one x 1",) and summary.ensemble == tmp_path / "best" / "ensemble.json"
    file = EnsembleFile.read(summary.ensemble)
    (member,) = file.members
    assert member.checkpoints == {
        f"fold_{fold}": sha256_of(runs[0] / f"fold_{fold}" / "checkpoint_best.safetensors") for fold in (0, 1)
    }
    options = {row[1] for row in summary.table.rows} | {row[0] for row in summary.table.rows}
    assert any("two" in option for option in options)  # it was tested
    write_blobs(tmp_path / "images", 1)
    for model, name in ((summary.ensemble, "file"), (runs[0], "run")):
        mambamed.predict([model], tmp_path / "images", tmp_path / name, device="cpu", tta="none")
    masks = [(tmp_path / name / "case_0.nii.gz").read_bytes() for name in ("file", "run")]
    assert masks[0] == masks[1]
