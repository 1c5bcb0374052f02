"""The goals for one H200, and whether the rows of `gpu_check.py` meet them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
_FEW_PROGRAMS = 132  # batch times channels: one program per multiprocessor of an H200
_PEERS = ("cuda", "mamba_ssm, its layout, bf16", "mamba_ssm, its layout, fp32")


@dataclass(frozen=True)
class Goal:
    """A goal, and what was measured of it; None without a measurement."""

    text: str
    measured: float | None
    met: bool | None


def goals(rows: Sequence[Row]) -> list[Goal]:
    """All goals in the order of their importance, judged if the rows are those of a GPU."""
    on_gpu = any("gpu" in row for row in rows)
    ratios = _scan_ratios(rows)
    narrow = [ratio for programs, ratio in ratios if programs <= _FEW_PROGRAMS]
    scan = [kinds["scan"] for kinds in _values(rows, "profile:mamba_bi", "by_kind") if "scan" in kinds]
    steps, firsts = (_values(rows, "train:nnmamba:bf16", name) for name in ("step_s", "first_s"))
    slowed = [
        row["step_s_fed"] / row["step_s_same_batch"]
        for row in _of(rows, "loader")
        if row.get("threads") == "as trained"
    ]
    planned = [
        abs(row["estimate_gib"] / row["peak_gib"] - 1)
        for row in _of(rows, "train")
        if "estimate_gib" in row and "peak_gib" in row
    ]
    at_least = [
        ("scan: times as fast as mamba_ssm, worst shape >= 1", min, [ratio for _, ratio in ratios], 1.0),
        ("scan: the same where batch x channels <= 132 >= 2", min, narrow, 2.0),
        ("predict: labels equal to the CPU's, worst precision >= 0.9995", min,
         _values(rows, "predict", "same_label"), 0.9995),
    ]  # fmt: skip
    at_most = [
        ("mamba_bi: scan per step, ms <= 90", max, scan, 90.0),
        ("nnmamba: bf16 step, s <= 0.03", max, steps, 0.03),
        ("nnmamba: first step, s <= 20, kernels compiled before", max, firsts, 20.0),
        ("nnmamba: idle share of the GPU <= 0.1", max, _values(rows, "profile:nnmamba", "idle_share"), 0.1),
        ("loader: step on loaded batches / on one batch <= 1.05", max, slowed, 1.05),
        ("planner: largest deviation from the measured peak <= 0.15", max, planned, 0.15),
    ]
    found = [_goal(*each, sign=1, judged=on_gpu) for each in at_least]
    return found + [_goal(*each, sign=-1, judged=on_gpu) for each in at_most]


def _goal(text: str, worst: Any, values: list[float], limit: float, sign: int, judged: bool) -> Goal:
    measured = worst(values) if values else None
    met = None if measured is None or not judged else sign * measured >= sign * limit
    return Goal(text, measured, met)


def _scan_ratios(rows: Iterable[Row]) -> list[tuple[int, float]]:
    """Batch times channels, and the time of the fastest form of mamba_ssm over Triton's, of each shape."""
    shapes: dict[str, dict[str, float]] = {}
    for row in _of(rows, "speed"):
        if "forward_ms" in row:
            shapes.setdefault(row["shape"], {})[row["what"]] = row["forward_ms"] + row["backward_ms"]
    ratios = []
    for shape, times in shapes.items():
        peers = [times[name] for name in _PEERS if name in times]
        if peers and "triton" in times:
            batch, channels, *_ = map(int, shape.split("x"))
            ratios.append((batch * channels, min(peers) / times["triton"]))
    return ratios


def _of(rows: Iterable[Row], task: str) -> list[Row]:
    """The rows of a task, or of all tasks of a kind."""
    return [row for row in rows if row["task"] == task or row["task"].partition(":")[0] == task]


def _values(rows: Iterable[Row], task: str, name: str) -> list[Any]:
    return [row[name] for row in _of(rows, task) if name in row]
