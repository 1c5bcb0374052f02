"""`sh run check`: every check runs and is printed, and a fault in any of them is the exit code."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STEPS = ["ruff check .", "ruff format --check .", "lint-imports", "pyright"]


@pytest.mark.parametrize("failing", [None, "ruff", "lint-imports", "pyright"])
def test_all_checks_run_and_one_fault_fails(tmp_path, failing) -> None:
    for name in ("run", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for tool in ("python", "ruff", "lint-imports", "pyright"):
        (tools / tool).write_text(f"#!/bin/sh\nexit {int(tool == failing)}\n")
        (tools / tool).chmod(0o755)
    (tmp_path / ".venv" / "installed-dev").touch()
    done = subprocess.run(["sh", "run", "check"], cwd=tmp_path, capture_output=True, text=True)
    assert [line.removeprefix("check: ") for line in done.stdout.splitlines()][:4] == STEPS
    assert done.returncode == (failing is not None)
    assert (failing or "") in done.stderr


def test_an_unknown_command_is_rejected(tmp_path) -> None:
    shutil.copy(ROOT / "run", tmp_path)
    done = subprocess.run(["sh", "run", "lint"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "sh run check" in done.stderr
    assert not (tmp_path / ".venv").exists()
