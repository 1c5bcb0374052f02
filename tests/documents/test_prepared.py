"""What a prepared dataset's documents say about each other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from mambamed.documents.prepared import CaseRecord, PreparedIndex
from mambamed.documents.run import RunRecord
from mambamed.errors import DatasetError, ModelError
from mambamed.io.json_files import read_json
from tests.documents.examples import SAMPLES

PATH = Path("a.json")
RECORD = read_json(SAMPLES / "segmentation/prepared/cases/c1.json")
INDEX = read_json(SAMPLES / "segmentation/prepared/dataset.json")
FLAT = [[0.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
HUGE = [[1e200, 0, 0, 0], [0, 1e200, 0, 0], [0, 0, 1e200, 0], [0, 0, 0, 1]]
NO_AFFINE = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def changed(document: Any, keys: str, value: Any) -> Any:
    document = copy.deepcopy(document)
    at = document
    *way, last = keys.split(".")
    for key in way:
        at = at[key]
    at[last] = value
    return document


@pytest.mark.parametrize("key", ["affine_native", "affine_prepared"])
@pytest.mark.parametrize("affine", [FLAT, HUGE, NO_AFFINE])
def test_axes_that_span_no_volume_are_rejected(key, affine) -> None:
    with pytest.raises(DatasetError, match=rf"a\.json: geometry: {key}: expected axes that span a volume"):
        CaseRecord.checked(changed(RECORD, f"geometry.{key}", affine), PATH)


def test_the_shape_of_a_case_is_that_of_its_grid() -> None:
    x, y, z = RECORD["entry"]["shape"]
    with pytest.raises(DatasetError, match="entry: shape: expected that of the geometry"):
        CaseRecord.checked(changed(RECORD, "entry.shape", [x + 1, y, z]), PATH)


@pytest.mark.parametrize("value", ["", "-1", "1.0", "²", "123456", "9" * 5000])
def test_voxels_are_counted_by_label_values(value) -> None:
    with pytest.raises(DatasetError, match=r"a\.json: voxels"):
        CaseRecord.checked(changed(RECORD, "voxels", {value: 1}), PATH)


def test_a_newer_layout_is_named() -> None:
    with pytest.raises(DatasetError, match="prepared_format: expected at most 1, got 2: a newer version"):
        PreparedIndex.checked({**INDEX, "prepared_format": 2}, PATH)


@pytest.mark.parametrize("fold", ["", "-1", "01", "²", "0\n", "9" * 5000])
def test_folds_of_a_run_are_numbers(fold) -> None:
    with pytest.raises(ModelError, match=r"a\.json: folds"):
        RunRecord.checked({"folds": {fold: {}}}, PATH)
