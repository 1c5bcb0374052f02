"""The table of documents: every kind of file that mambamed writes and reads back, with its JSON Schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from mambamed.documents.ensemble import EnsembleFile
from mambamed.documents.evaluation import AnySummary, ComparisonFile
from mambamed.documents.event import Event
from mambamed.documents.fault import FaultReport
from mambamed.documents.jobs import JobRequest, JobState
from mambamed.documents.manifest import DatasetManifest
from mambamed.documents.plan import Plan
from mambamed.documents.prediction import PointFile, PredictionRecord
from mambamed.documents.prepared import CaseRecord, FingerprintCase, PreparedIndex
from mambamed.documents.program import Program
from mambamed.documents.run import (
    Calibration,
    CheckpointFacts,
    CompileTimes,
    ModelIndex,
    RunRecord,
    Thresholds,
)
from mambamed.documents.splits import SplitsFile
from mambamed.documents.study import Study, StudyRecord
from mambamed.errors import RecipeError
from mambamed.io.ledger import Line
from mambamed.recipe import Recipe, recipe_schema
from mambamed.schema_errors import did_you_mean, shortened

# Kind -> what a file of this kind is, and the type of its parsed content
KINDS: dict[str, tuple[str, Any]] = {
    "recipe": ("recipe.yaml", Recipe),
    "prepared-dataset": ("dataset.json of a prepared dataset", PreparedIndex),
    "case": ("cases/CASE.json of a prepared dataset", CaseRecord),
    "fingerprint": ("fingerprint.json of a prepared dataset", tuple[FingerprintCase, ...]),
    "plan": ("plan.json of a prepared dataset, a run or a model", Plan),
    "splits": ("splits.json of a prepared dataset, and the file of --splits", SplitsFile),
    "dataset": ("dataset.json of a run or a model", DatasetManifest),
    "run": ("run.json of a run", RunRecord),
    "checkpoint": ("metadata of a checkpoint", CheckpointFacts),
    "thresholds": ("thresholds.json of a fold", Thresholds),
    "calibration": ("calibration.json of a fold", Calibration),
    "model": ("model.json of a model file", ModelIndex),
    "program": ("model.onnx.json or model.pt2.json next to an exported program", Program),
    "ensemble": ("ensemble.json of `best`, a model for `predict`", EnsembleFile),
    "prediction": ("run.json of predictions", PredictionRecord),
    "points": ("CASE.json of predicted landmarks", PointFile),
    "evaluation": ("summary.json of an evaluation", AnySummary),
    "comparison": ("comparison.json of a comparison", ComparisonFile),
    "job": ("NAME.json of a folder of jobs", JobRequest),
    "job-state": ("NAME.state.json of a folder of jobs", JobState),
    "study": ("STUDY.yaml, the file of `study`", Study),
    "study-results": ("study.json of a study", StudyRecord),
    "files": (".mambamed-files of an output folder, one line of it", Line),
    "error": ("output of a command with --json that failed", FaultReport),
    "event": ("line of the output of a command with --json-lines", Event),
    "compile-times": ("compile.json in the cache folder", CompileTimes),
}


@dataclass(frozen=True)
class Kind:
    """A kind of document, and what a file of this kind is."""

    kind: str
    file: str


def kinds() -> list[Kind]:
    """All kinds."""
    return [Kind(kind, file) for kind, (file, _) in KINDS.items()]


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind of document.

    Raises:
        RecipeError: there is no such kind.
    """
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS) or f". Choose one of {', '.join(KINDS)}."
        raise RecipeError(f"schema: no kind of document {shortened(kind)}{hint}")
    return recipe_schema() if kind == "recipe" else TypeAdapter(KINDS[kind][1]).json_schema()
