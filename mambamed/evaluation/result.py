"""What every evaluation has, whatever its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambamed.errors import CaseError
from mambamed.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured; the evaluation of each task adds its numbers.

    Attributes:
        table: the summary for people.
        settings: conventions, sources and versions, by name.
        output: folder of the files; None if nothing was written.
        written: the files.
        paper_table: if requested: the table as papers print it, one row per method.
        faults: what could not be scored or paired, one line each.
    """

    table: Table
    settings: Mapping[str, Any]
    output: Path | None = None
    written: tuple[Path, ...] = ()
    paper_table: Table | None = None
    faults: tuple[CaseError, ...] = ()
