"""An evaluation as subject: the cases of `evaluate -o`, or of a fold of a run, with their scores."""

from __future__ import annotations

import importlib
from pathlib import Path

from mambamed.documents.evaluation import read_summary
from mambamed.viewer.content import Subject

# Task of an evaluation -> the module that shows its scores.
SCORES = {"segmentation": "mask_scores", "landmarks": "point_scores", "classification": "class_scores"}


def is_evaluation(folder: Path) -> bool:
    """Whether a folder holds the tables of an evaluation."""
    return (folder / "summary.json").is_file() and (folder / "cases.csv").is_file()


def evaluation_subject(folder: Path, images: Path | None, references: Path | None = None) -> Subject:
    """The cases of an evaluation, the worst first.

    Args:
        images, references: as in `Images` (default: found by the paths in summary.json).

    Raises:
        DatasetError: its tables cannot be read.
    """
    summary = read_summary(folder / "summary.json")
    module = importlib.import_module(f"mambamed.viewer.{SCORES[summary.task]}")
    return module.scored_subject(folder, summary, images, references)
