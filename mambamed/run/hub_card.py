"""The model card of a run, in the format of the Hugging Face Hub: what the run knows; no case, path or host.

Source: the hub's documentation, "Model Cards" (metadata in YAML, of which JSON values are a part).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mambamed.documents.evaluation import Row, read_summary
from mambamed.documents.splits import FoldName
from mambamed.errors import MambamedError
from mambamed.io.json_text import json_line
from mambamed.io.tables import read_csv
from mambamed.run.folder import Run

_KINDS = {
    "segmentation": "image-segmentation",
    "landmarks": "keypoint-detection",
    "classification": "image-classification",
}
_SHOWN = {"dice": "Dice", "hd95": "HD95 (mm)", "error_mm": "mean radial error (mm)", "auc": "AUC"}


@dataclass(frozen=True)
class _Validation:
    fold: FoldName
    cases: int
    subjects: int
    rows: Sequence[Row]


def hub_card(
    run: Run, folds: Sequence[FoldName], details: str, dataset_name: str | None, license: str | None
) -> str:
    """The text of README.md.

    Args:
        folds: that are in the model file.
        details: the card in the model file, whose first line is its title.
        dataset_name: of the training data; None: not stated.
        license: of the model, as the hub spells it, e.g. cc-by-4.0; None: not stated.
    """
    recipe, found = run.recipe, [each for fold in folds if (each := _validation(run, fold))]
    stated = {
        "library_name": "mambamed",
        **({"license": license} if license else {}),
        "pipeline_tag": _KINDS[recipe.task],
        "tags": ["medical-imaging", "3d", recipe.task, recipe.network.name],
    }
    if results := _results(run, found, dataset_name):
        stated["model-index"] = results
    head = [f"{key}: {json_line(value)}" for key, value in stated.items()]
    uses = ", ".join(run.manifest.channels)
    data = f"Trained on {dataset_name}." if dataset_name else "The publisher did not name the training data."
    lines = [
        *("---", *head, "---", "", details.strip(), "", "## Data", "", data),
        *_counts(run, folds, found),
        *([] if found else ["No validation was recorded."]),
        *("", "## Validation", ""),
        *(_table(found) if found else ["No scores were recorded."]),
        *("", "## Intended use", ""),
        f"Research on images with the channels {uses} that resemble the training data in scanner, protocol",
        "and population. Check the results on your own data first. Not a medical device, not for diagnosis.",
        *("", "## License and citation", ""),
        f"License: {license or 'not stated by the publisher. Ask before you use the model'}.",
        "Cite mambamed (CITATION.cff in its repository) and the paper of the network.",
        "",
    ]
    return "\n".join(lines)


def _counts(run: Run, folds: Sequence[FoldName], found: Sequence[_Validation]) -> list[str]:
    """How many cases and subjects each fold was trained and validated on, as far as it is recorded."""
    lines, validated = [], {each.fold: each for each in found}
    for fold in folds:
        recorded = run.recorded(fold) if run.members is None else {}
        parts = []
        if (cases := recorded.get("training_cases")) is not None:
            parts.append(f"trained on {cases} cases of {recorded.get('training_subjects')} subjects")
        if fold in validated:
            parts.append(f"validated on {validated[fold].cases} cases of {validated[fold].subjects} subjects")
        lines += [f"Fold {fold}: {', '.join(parts)}."] if parts else []
    return lines


def _validation(run: Run, fold: FoldName) -> _Validation | None:
    """The scores of a fold, if it was validated."""
    folder = run.fold_folder(fold)
    if not (run.members is None and run.is_validated(fold)):
        return None
    try:
        summary = read_summary(folder / "summary.json")
        headers, rows = read_csv(folder / "cases.csv")
    except MambamedError:
        return None
    cases = {row["case"] for row in rows} if "case" in headers else set[str]()
    subjects = {row["subject"] for row in rows} if "subject" in headers else cases
    rows_shown = [row for row in summary.summaries if _metric(row) in _SHOWN and math.isfinite(row.mean)]
    return _Validation(fold, len(cases), len(subjects), rows_shown)


def _metric(row: Row) -> str:
    """Its metric without tolerance and convention."""
    return re.split("[@:]", str(getattr(row, "metric", "")))[0].lower()


def _table(found: Sequence[_Validation]) -> list[str]:
    lines = ["| fold | structure | metric | mean | 95 % interval, by subject |", "|---|---|---|---|---|"]
    for each in found:
        for row in each.rows:
            low, high = row.interval
            interval = f"{low:.4g} to {high:.4g}" if math.isfinite(low) else "too few subjects"
            name, metric = getattr(row, "name", ""), _SHOWN[_metric(row)]
            if convention := str(getattr(row, "metric", "")).partition(":")[2]:
                metric += f", {convention}"
            lines.append(f"| {each.fold} | {name} | {metric} | {row.mean:.4g} | {interval} |")
    return lines


def _results(run: Run, found: Sequence[_Validation], dataset_name: str | None) -> list[dict[str, object]]:
    metrics = [
        {
            "type": _metric(row),
            "name": f"{getattr(row, 'name', '')}, fold {each.fold}",
            "value": round(row.mean, 4),
        }
        for each in found
        for row in each.rows
    ]
    if not metrics:
        return []
    name = dataset_name or "not stated"
    dataset = {"name": f"{name} (validation cases)", "type": "private"}
    result = {"task": {"type": _KINDS[run.recipe.task]}, "dataset": dataset, "metrics": metrics}
    return [{"name": run.recipe.name, "results": [result]}]
