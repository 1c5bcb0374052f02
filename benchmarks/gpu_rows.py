"""Rows of `gpu_check.py`: appended to a file one by one, and printed as short tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_goals import goals

_AGREE = ("shape", "kind", "reverse", "backend", "out", "worst_gradient", "same_bits", "ok")
COLUMNS = {  # kind of task -> columns of its table
    "peer": _AGREE,
    "agree": _AGREE,
    "fused": _AGREE,
    "speed": ("shape", "what", "forward_ms", "backward_ms", "bytes_floor_ms", "exp_floor_ms", "note"),
    "captured": ("shape", "what", "forward_ms", "backward_ms", "launches", "graphs", "same_bits", "note"),
    "tune": ("shape", "variant", "forward_ms", "backward_ms", "out_error", "kernels_ms"),
    "train": (
        "network",
        "precision",
        "setting",
        "step_s",
        "first_s",
        "peak_gib",
        "reserved_gib",
        "estimate_gib",
        "probe_gib",
        "skipped",
        "losses",
    ),
    "compile": ("network", "step_s", "first_s", "peak_gib", "losses"),
    "profile": ("network", "wall_ms", "busy_ms", "idle_share", "by_kind"),
    "block": ("part", "forward_ms", "backward_ms"),
    "loader": ("threads", "augment_on", "patches_s", "step_s_fed", "step_s_same_batch"),
    "predict": ("precision", "seconds", "windows", "same_label", "peak_gib", "cpu_seconds"),
    "predict_bounded": ("limit_gib", "said", "same_label"),
    "exact": ("network", "outcome"),
}


def append_row(file: Path, row: dict[str, Any]) -> None:
    """Write a row as one line, at once."""
    with file.open("a") as lines:
        lines.write(json.dumps(row, default=str) + "\n")


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print one table per kind of task, the faults, and the longest tasks."""
    measured = [row for row in rows if "took_s" not in row]
    of_kind = {
        kind: [row for row in measured if row["task"].partition(":")[0] == kind]
        for kind in ("machine", *COLUMNS)
    }
    for row in of_kind["machine"]:
        print("\n" + "  ".join(f"{name} {value}" for name, value in row.items() if name != "task"))
    for kind, names in COLUMNS.items():
        found = [row for row in of_kind[kind] if any(name in row for name in names)]
        if found:
            print(f"\n{kind}: {' | '.join(names)}")
        for row in found:
            print("  " + " | ".join(cell(row.get(name)) for name in names))
    for row in of_kind["profile"]:
        print(f"\nprofile {row.get('network')}: the kernels that take most time")
        for name, share, ms in row.get("top", []):
            print(f"  {share:6.1%} {ms:9.2f} ms  {name[:100]}")
    print("\ngoals on one H200: goal | measured | met")
    for goal in goals(measured):
        met = {None: "not measured" if goal.measured is None else "not judged on a CPU", True: "yes"}
        print(f"  {goal.text} | {cell(goal.measured)} | {met.get(goal.met, 'no')}")
    faults = [row for row in rows if "fault" in row]
    if faults:
        print("\nfaults")
    for row in faults:
        print(f"  {row['task']}: {row['fault']}"[:300])
    took = sorted(((row["took_s"], row["task"]) for row in rows if "took_s" in row), reverse=True)
    print("\nlongest tasks: " + ", ".join(f"{task} {seconds:.0f} s" for seconds, task in took[:8]))


def cell(value: Any) -> str:
    """A value as text of a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{name} {cell(each)}" for name, each in value.items())
    if isinstance(value, list):
        return " ".join(cell(each) for each in value)
    return "" if value is None else str(value)
