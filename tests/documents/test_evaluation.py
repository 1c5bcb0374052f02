"""`summary.json` of evaluations: read as written, files of mambamed 0.1.0 too, faults as lines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mambamed.documents.evaluation import SUMMARIES, read_summary
from mambamed.errors import DatasetError
from mambamed.evaluation.compare import compare

SAMPLES = Path(__file__).parent / "samples" / "0.1.0"


@pytest.mark.parametrize("task", SUMMARIES)
def test_a_summary_of_0_1_0_is_read_and_written_back_whole(task, tmp_path) -> None:
    """Such a file has no `task`."""
    path = SAMPLES / f"summary_{task}.json"
    summary = read_summary(path)
    assert summary.task == task
    summary.write(tmp_path / "summary.json")
    old, new = (json.loads(p.read_text()) for p in (path, tmp_path / "summary.json"))
    assert new.pop("task") == task
    assert new["settings"].pop("other_files") == []  # since 0.2.0
    if task == "classification":
        assert [new["settings"].pop(name) for name in ("predictions", "references")] == ["", ""]
    for row in [*new["summaries"], *([new["overall"]] if task == "landmarks" else [])]:
        row.pop("values", None)  # since 0.2.0, as `absent`
        assert row.pop("absent", 0) == 0
    for case in new["cases"].values() if task == "landmarks" else ():
        assert case.pop("absent") == []
    assert json.dumps(new, sort_keys=True) == json.dumps(old, sort_keys=True)


def test_the_means_of_a_metric_are_those_of_its_rows() -> None:
    segmentation = read_summary(SAMPLES / "summary_segmentation.json")
    assert list(segmentation.means("dice")) == ["WT", "TC", "ET"]
    landmarks = read_summary(SAMPLES / "summary_landmarks.json")
    assert list(landmarks.means("error_mm")) == ["a", "b", "c"]
    classification = read_summary(SAMPLES / "summary_classification.json")
    assert list(classification.means("auc")) == ["NC", "MCI", "AD"]
    assert list(classification.means("accuracy")) == ["all"]


def edited(task: str, *keys, value) -> dict:
    document = json.loads((SAMPLES / f"summary_{task}.json").read_text())
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return document


@pytest.mark.parametrize(
    ("task", "keys", "value", "line"),
    [
        ("segmentation", ("settings", "metrics"), ["dicee"], "settings.metrics.0: unknown metric 'dicee'"),
        ("segmentation", ("settings", "miss"), math.nan, "settings.miss: expected a finite number, got nan"),
        ("segmentation", ("summaries",), {}, "summaries: expected a valid"),
        ("segmentation", ("faults",), None, "faults: expected a valid"),
        ("landmarks", ("settings", "sdr_mm"), ["3"], "settings.sdr_mm.0: expected a valid number, got '3'"),
        ("landmarks", ("overall", "found"), -1, "overall.found: expected greater than or equal to 0, got -1"),
        ("classification", ("settings", "classes"), ["a"], "settings.classes: "),
        ("classification", ("summaries", 0, "mean"), "0.5", "summaries.0.mean: expected a valid number"),
        ("classification", ("format",), 2, "format: expected at most 1, got 2: a newer version of mambamed"),
        ("classification", ("task",), "age", "task: expected one of segmentation, landmarks, classification"),
        ("classification", ("settings",), 3, "task: expected one of segmentation"),
    ],
)
def test_a_fault_is_a_line_for_whoever_reads_the_file(task, keys, value, line, tmp_path) -> None:
    path = tmp_path / "a" / "summary.json"
    path.parent.mkdir()
    path.write_text(json.dumps(edited(task, *keys, value=value)))
    with pytest.raises(DatasetError) as caught:
        read_summary(path)
    assert str(caught.value).startswith(f"{path}: {line}")
    with pytest.raises(DatasetError) as again:
        compare([path.parent, path.parent])
    assert str(again.value) == str(caught.value)
