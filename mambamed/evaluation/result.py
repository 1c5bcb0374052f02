"""What an evaluation found, all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambamed.documents.evaluation import RegionRow
from mambamed.errors import CaseError
from mambamed.evaluation.scoring import CaseScores
from mambamed.metrics import Metric
from mambamed.metrics.rules import Rules
from mambamed.report.tables import Table


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        table: the summary for people: a row a region, and their average.
        summaries: every region in every metric.
        cases: every case.
        regions: names in the order of the tables -> labels.
        metrics: what was measured, in the order of the tables.
        rules: the conventions behind the numbers; `settings` tells them in words.
        settings: protocol, conventions, versions, by name.
        output: folder of the files; None where nothing was written.
        written: the files.
        paper_table: where asked for: the table as papers print it.
        faults: what could not be scored or paired, one line each.
    """

    table: Table
    summaries: tuple[RegionRow, ...]
    cases: tuple[CaseScores, ...]
    regions: Mapping[str, tuple[int, ...]]
    metrics: tuple[Metric, ...]
    rules: Rules
    settings: Mapping[str, Any]
    output: Path | None = None
    written: tuple[Path, ...] = ()
    paper_table: Table | None = None
    faults: tuple[CaseError, ...] = ()
