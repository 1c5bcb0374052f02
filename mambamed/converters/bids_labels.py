"""Names of labels in BIDS: tables `dseg.tsv` of `derivatives`, with the columns index and name.

Source: the BIDS specification 1.10, "Common image-derived labels".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mambamed.cases import BACKGROUND
from mambamed.documents.agreement import Naming, disagreement, special
from mambamed.errors import DatasetError
from mambamed.io.ledger import ledger_above
from mambamed.io.tables import read_csv
from mambamed.numerals import is_whole
from mambamed.schema_errors import named


def label_tables(source: Path) -> list[Path]:
    """The tables of a dataset, sorted; without those of predictions."""
    return [path for path in sorted((source / "derivatives").glob("**/*dseg.tsv")) if not is_predicted(path)]


def is_predicted(path: Path) -> bool:
    """Whether a derivative is a prediction of mambamed, which is no reference."""
    return ledger_above(path) is not None


def labels_of_tables(tables: Sequence[Path]) -> dict[str, int]:
    """Name -> value of all tables, with the background; empty if none of them names labels.

    Raises DatasetError: two rows or tables disagree, or an index is not a whole number.
    """
    known: dict[str, int] = {}
    first: Naming | None = None
    for path in tables:
        headers, rows = read_csv(path)
        if not {"index", "name"} <= set(headers):
            continue
        found: dict[str, int] = {}
        for row in rows:
            name, index = special(row["name"]), row["index"]
            if not is_whole(index):
                raise DatasetError(f"{path}: index: expected a whole number, got {named(index)}. Correct it.")
            if found.setdefault(name, int(index)) != int(index):
                raise DatasetError(
                    f"{path}: {named(name)} has the values {found[name]} and {index}. Keep one of them."
                )
        naming = Naming.of(str(path), found)
        if first and (line := disagreement(first, naming)):
            raise DatasetError(f"{path}: names disagree: {line}. Correct one of them.")
        values = set(known.values())
        known |= {name: value for name, value in found.items() if value not in values}
        first = Naming.of(first.source if first else str(path), known)
    return known if not known or 0 in known.values() else {BACKGROUND: 0, **known}
