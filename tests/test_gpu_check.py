"""`benchmarks/gpu_check.py` keeps in step with the package: its code also runs on a CPU."""

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
    rows = checked(tmp_path, "agree:0", "exact:nnmamba")
    assert all(row["ok"] for row in rows if "ok" in row)
    assert [row["outcome"] for row in rows if "outcome" in row] == ["the same bits twice"]


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
