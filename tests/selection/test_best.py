"""`predict` of an ensemble file: weights, folds and postprocessing are those of the file."""

from __future__ import annotations

import numpy as np
import pytest

from mambamed.api import predict
from mambamed.documents.ensemble import EnsembleFile
from mambamed.errors import MambamedError
from mambamed.run.provenance import sha256_of
from tests.answers.stubs import stub_run, write_blobs


def test_an_ensemble_file_is_a_model(tmp_path) -> None:
    write_blobs(tmp_path / "images", 1)
    runs = [
        stub_run(tmp_path / name, folds=(fold,), patch_size=(32, 32, 32)) for fold, name in enumerate("ab")
    ]

    def masks(models, name: str, **options) -> bytes:
        options = {"device": "cpu", "precision": "fp32", "tta": "none", **options}
        predict(models, tmp_path / "images", tmp_path / name, **options)
        return (tmp_path / name / "case_0.nii.gz").read_bytes()

    def file(*weights: float, **more) -> EnsembleFile:
        members = [
            {
                "model": run.root.name,
                "weight": weight,
                "checkpoints": {f"fold_{k}": sha256_of(run.weights(k))},
            }
            for k, (run, weight) in enumerate(zip(runs, weights, strict=True))
        ]
        return EnsembleFile.checked({"members": members, **more}, "ensemble.json")

    path = tmp_path / "ensemble.json"
    file(1.0, 1.0).write(path)
    both = masks([runs[0].root, runs[1].root], "both")
    assert masks([path], "equal") == both
    file(1e6, 1.0).write(path)
    first = masks([runs[0].root], "first")
    assert masks([path], "heavy") == first != both
    file(
        1e6, 1.0, postprocess={"largest_component": ["one", "two"], "min_mm3": {"one": 1e5, "two": 1e5}}
    ).write(path)
    assert masks([path], "processed") != both
    with pytest.raises(MambamedError, match="Give no other model with it"):
        masks([path, runs[0].root], "x")
    with pytest.raises(MambamedError, match="names the folds"):
        masks([path], "x", folds="0")
    weights = runs[1].checkpoint(1)
    weights.write_bytes(runs[0].checkpoint(0).read_bytes())
    with pytest.raises(MambamedError, match="is not the checkpoint that 'mambamed best' chose"):
        masks([path], "x")


def test_a_threshold_of_a_region_decides_as_its_probability_does(tmp_path) -> None:
    from mambamed.documents.manifest import DatasetManifest
    from mambamed.recipe import Recipe
    from mambamed.tasks.segmentation import Segmentation
    from mambamed.volumes.restore import offsets_of

    manifest = DatasetManifest(
        name="x",
        channels={"m": "mri"},
        labels={"background": 0, "a": 1, "b": 2},
        regions={"all": (1, 2), "b": (2,)},
    )
    task = Segmentation(Recipe.model_validate({"network": {"name": "nnunet"}}), manifest)
    logits = np.random.default_rng(0).normal(0, 2, (2, 5, 5, 5)).astype(np.float32)
    labels = task.decode(logits - offsets_of({"b": 0.3}, task)[:, None, None, None])
    assert ((labels == 2) == (1 / (1 + np.exp(-logits[1])) > 0.3)).all()
