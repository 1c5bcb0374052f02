"""Prepared datasets in memory: their documents without files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan, Triple, per_case
from mambamed.documents.prepared import CaseEntry
from mambamed.preparation.planning import patch_size_for
from mambamed.preparation.store import PreparedDataset


def dataset_of(
    *,
    cases: int = 10,
    shape: Triple = (35, 50, 35),
    batch: int = 5,
    classes_of: Sequence[str] | None = None,
    covariates: Sequence[Mapping[str, str]] | None = None,
    **fields: Any,
) -> PreparedDataset:
    """A dataset of one MRI channel, of which four fifths of the cases are for training."""
    manifest = DatasetManifest(name="made", channels={"MRI": "mri"}, **fields)
    plan = Plan(
        spacing_mm=(1.0, 1.0, 1.0),
        shape_median=shape,
        patch_size=patch_size_for(shape),
        batch_size=batch,
        crop="none",
        normalization=(per_case("zscore"),),
    )
    entries = [
        CaseEntry.model_validate(
            {
                "id": f"c{k}",
                "subject": f"c{k}",
                "class": classes_of[k] if classes_of else None,
                "covariates": dict(covariates[k]) if covariates else {},
                "shape": shape,
                "channels": 1,
                "has_label": bool(manifest.labels),
            }
        )
        for k in range(cases)
    ]
    ids = [entry.id for entry in entries]
    known = cases * 4 // 5
    return PreparedDataset(
        Path("prepared/mine"), manifest, plan, [{"train": ids[:known], "val": ids[known:]}], entries
    )


LABELS = {"background": 0, "Anterior": 1, "Posterior": 2}
