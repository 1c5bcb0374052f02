"""Thresholds of landmarks come back; a document that holds none is told."""

from __future__ import annotations

import pytest

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan, ZScore
from mambamed.errors import ModelError
from mambamed.recipe import Recipe
from mambamed.run.folder import Run
from mambamed.run.thresholds import NAME, read_thresholds, write_thresholds


def run_in(root) -> Run:
    plan = Plan(
        spacing_mm=(1.0, 1.0, 1.0), shape_median=(8, 8, 8), patch_size=(8, 8, 8), batch_size=1, crop="none",
        normalization=(ZScore(),),
    )  # fmt: skip
    recipe = Recipe.model_validate({"task": "landmarks", "network": {"name": "nnmamba"}})
    run = Run(
        root,
        recipe,
        plan,
        DatasetManifest(name="heads", channels={"a": "mri"}, landmarks=("nose", "left ear")),
    )
    run.fold_folder(0).mkdir(parents=True)
    return run


def test_thresholds_come_back(tmp_path) -> None:
    run = run_in(tmp_path)
    assert read_thresholds(run, 0) is None
    write_thresholds(run, 0, {"nose": 0.25, "left ear": 0.0}, 7)
    assert read_thresholds(run, 0) == {"nose": 0.25, "left ear": 0.0}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[]", "content"),
        ("{}", "cases"),
        ('{"cases": 3}', "thresholds"),
        ('{"cases": 3, "thresholds": {"nose": "high"}}', r"thresholds\.nose"),
        ('{"cases": 3, "thresholds": {"nose": NaN}}', r"thresholds\.nose"),
        ('{"cases": 3, "thresholds": {"nose": 1.5, "left ear": 0.0}}', r"thresholds\.nose"),
        ('{"cases": 3, "thresholds": {"nose": 0.5}}', "thresholds"),
        ('{"cases": 3, "thresholds": {"nsoe": 0.5, "left ear": 0.0}}', "thresholds"),
    ],
)
def test_a_document_without_thresholds_is_told(tmp_path, text, key) -> None:
    run = run_in(tmp_path)
    (run.fold_folder(0) / NAME).write_text(text)
    with pytest.raises(ModelError, match=rf"thresholds\.json: {key}: "):
        read_thresholds(run, 0)
