"""`benchmarks/gpu_check.py` keeps in step with the package: its code also runs on a CPU."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu_check.py"


def checked(out: Path, *only: str) -> list[dict]:
    """The rows of a run with tiny shapes on the CPU."""
    command = [sys.executable, str(PROGRAM), str(out), "--device", "cpu", "--small"]
    done = subprocess.run([*command, *(["--only", *only] if only else [])], capture_output=True, text=True)
    rows = json.loads((out / "gpu_check.json").read_text())
    assert done.returncode == 0, [row for row in rows if "fault" in row] or done.stderr
    return rows


def test_the_backends_agree_with_float64(tmp_path: Path) -> None:
    rows = checked(tmp_path, "agree:0", "exact:nnmamba", "captured")
    assert all(row["ok"] for row in rows if "ok" in row)
    notes = [row["note"] for row in rows if row.get("what") == "by graphs"]
    assert notes == ["no graphs on cpu"] and sum("forward_ms" in row for row in rows) == 1
    assert [row["outcome"] for row in rows if "outcome" in row] == ["the same bits twice"]


def test_goals_are_judged_by_their_worst_row(monkeypatch) -> None:
    """Expected values: by hand, e.g. the planner is 10 % above one peak and 20 % below the other."""
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    goals = importlib.import_module("gpu_goals").goals
    speed = [
        {"task": "speed:0", "shape": shape, "what": what, "forward_ms": ms, "backward_ms": 2 * ms}
        for shape, what, ms in (
            ("2x128x32768x16", "triton", 1.0), ("2x128x32768x16", "cuda", 3.0),
            ("2x128x32768x16", "mamba_ssm, its layout, bf16", 1.25), ("1x64x262144x16", "triton", 1.0),
            ("1x64x262144x16", "cuda", 1.5), ("8x2048x2048x16", "triton", 1.0),
        )
    ]  # fmt: skip
    rows = [
        {"task": "machine", "gpu": "NVIDIA H200"},
        *speed,
        {"task": "predict", "precision": "fp32", "same_label": 0.99999},
        {"task": "predict", "precision": "bf16", "same_label": 0.9994},
        {"task": "profile:mamba_bi", "by_kind": {"scan": 80.0, "norm": 20.0}},
        {"task": "train:nnmamba:bf16", "step_s": 0.025, "first_s": 30.0, "estimate_gib": 11, "peak_gib": 10},
        {"task": "train:nnunet:bf16", "step_s": 0.2, "first_s": 30.0, "estimate_gib": 8, "peak_gib": 10},
        {"task": "loader", "threads": "as trained", "step_s_fed": 0.026, "step_s_same_batch": 0.025},
        {"task": "loader", "threads": 8, "patches_s": 100},
    ]
    found = [(None if g.measured is None else round(g.measured, 4), g.met) for g in goals(rows)]
    assert found == [
        (1.25, True), (1.5, False), (0.9994, False), (80.0, True), (0.025, True), (30.0, False), (None, None),
        (1.04, True), (0.2, False),
    ]  # fmt: skip
    assert {g.met for g in goals(rows[1:])} == {None}  # a CPU is not judged


@pytest.mark.slow
def test_every_task_runs_on_a_cpu(tmp_path: Path) -> None:
    rows = checked(tmp_path)
    assert {row["task"].partition(":")[0] for row in rows} >= {
        "train",
        "speed",
        "predict",
        "loader",
        "compile",
    }
