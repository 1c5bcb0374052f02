"""What every evaluation has, whatever its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambamed.errors import CaseError
from mambamed.report.tables import Table, write_table


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What all evaluations have in common.

    Attributes:
        table: the summary for people.
        settings: conventions, sources and versions, by name.
        output: folder of the files; None if nothing was written.
        written: the files.
        paper_table: if requested: a table like those of papers, one row per method.
        faults: cases that could not be scored or paired.
    """

    table: Table
    settings: Mapping[str, Any]
    output: Path | None = None
    written: tuple[Path, ...] = ()
    paper_table: Table | None = None
    faults: tuple[CaseError, ...] = ()

    def write_paper_table(self, name: str) -> list[Path]:
        """Write `table_NAME` as .csv, .md and .tex if it was requested; returns the paths."""
        if self.paper_table is None or self.output is None:
            return []
        return write_table(self.output / f"table_{name}", self.paper_table)
