"""plan.json: unknown schemes and crops are rejected, files of version 0.1.0 are read."""

from __future__ import annotations

import pytest

from mambamed.documents.plan import Ct, Plan, Unchanged, ZScore
from mambamed.errors import DatasetError
from mambamed.io.json_files import write_json

WRITTEN_BY_0_1_0 = {
    "spacing_mm": [1.0, 1.0, 2.5],
    "shape_median": [30, 40, 50],
    "patch_size": [32, 48, 48],
    "batch_size": 2,
    "crop": "nonzero",
    "normalization": [
        {"scheme": "ct", "mean": 60.0, "std": 20.5, "low": -10.0, "high": 150.0},
        {"scheme": "zscore", "mean": None, "std": None, "low": None, "high": None},
        {"scheme": "none"},
    ],
    "keep_spacing": False,
}


def test_a_plan_of_0_1_0_is_read_and_written_back_with_its_format(tmp_path) -> None:
    write_json(tmp_path / "plan.json", WRITTEN_BY_0_1_0)
    plan = Plan.read(tmp_path / "plan.json")
    assert plan.normalization == (Ct(mean=60.0, std=20.5, low=-10.0, high=150.0), ZScore(), Unchanged())
    unused = {"mean": None, "std": None, "low": None, "high": None}
    written = [*WRITTEN_BY_0_1_0["normalization"][:2], {"scheme": "none"} | unused]
    assert plan.to_json() == {"format": 1} | WRITTEN_BY_0_1_0 | {"normalization": written}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"crop": "nonzer"}, "crop: expected 'nonzero' or 'none', got 'nonzer'. Copy the run"),
        (
            {"normalization": [{"scheme": "zscroe"}]},
            "normalization.0.scheme: expected one of 'ct', 'zscore', 'zscore_nonzero', 'minmax', 'rgb', "
            "'none', got 'zscroe'",
        ),
        ({"normalization": [{"scheme": "CT", "mean": 0.0}]}, "normalization.0.scheme: expected one of 'ct'"),
        ({"normalization": [{"mean": 0.0}]}, "normalization.0.scheme: missing."),
        (
            {"normalization": [{"scheme": "ct", "mean": 0.0, "std": 1.0, "low": 0.0}]},
            "normalization.0.ct.high: missing.",
        ),
        (
            {"normalization": [{"scheme": "ct", "mean": 0.0, "std": 1.0, "low": 5.0, "high": 1.0}]},
            "normalization.0.ct: low: expected at most high, 1, got 5.",
        ),
        (
            {"normalization": [{"scheme": "ct", "mean": 1e300, "std": 1.0, "low": 0.0, "high": 1.0}]},
            "normalization.0.ct.mean: expected less than or equal to 1000000000000",
        ),
        ({"patch_size": [2048, 2048, 2048]}, "patch_size: expected at most 1073741824 voxels, and "),
        (
            {"patch_size": [1, 1, 8192]},
            "patch_size: expected at most 1073741824 voxels, and 4096 along an axis, g",
        ),
        ({"patch_size": [32, 0, 48]}, "patch_size.1: expected greater than or equal to 1, got 0."),
        (
            {"spacing_mm": [1.0, 1.0, -1.0]},
            "spacing_mm.2: expected greater than or equal to 0.000001, got -1",
        ),
        ({"batch_size": "2"}, "batch_size: expected a valid integer, got '2'."),
    ],
)
def test_a_value_that_cannot_be_is_named(changes, line, tmp_path) -> None:
    path = tmp_path / "plan.json"
    write_json(path, WRITTEN_BY_0_1_0 | changes)
    with pytest.raises(DatasetError) as caught:
        Plan.read(path)
    assert str(caught.value).startswith(f"{path}: {line}")
