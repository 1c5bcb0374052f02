"""What a command prints on stdout with `--json` if it fails as a whole."""

from __future__ import annotations

from typing import Literal

from mambamed.documents.base import Model

FaultKind = Literal[
    "UsageError",
    "RecipeError",
    "DatasetError",
    "CaseError",
    "ModelError",
    "RunError",
    "MachineError",
    "Interrupted",
    "InternalError",
]


class Fault(Model):
    """Why a command failed."""

    kind: FaultKind
    """UsageError: the command line; the next five: see mambamed.errors; MachineError: memory, disk or
    permissions; Interrupted: Ctrl-C; InternalError: a bug of mambamed."""
    messages: tuple[str, ...]
    """One line per fault, as on stderr."""
    exit_code: int
    """1 failed while running, 2 invalid usage, recipe, dataset or model, 130 interrupted."""


class FaultReport(Model):
    """The output of a command that failed; it has no other key."""

    error: Fault
