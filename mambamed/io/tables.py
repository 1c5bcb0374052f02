"""Write CSV tables without formula cells, and read them with errors by line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mambamed.errors import DatasetError
from mambamed.io.atomic import write_text
from mambamed.io.text_files import read_text
from mambamed.schema_errors import named

# Spreadsheets run cells that begin with one of these (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
NOTES = ".notes.csv"  # end of the name of a table of notes, see `viewer.notes`


def write_csv(path: Path, headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically.

    Numbers are written with full precision, None and NaN as empty cells; text that a spreadsheet would run
    as a formula is prefixed with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([cell_text(header) for header in headers])
    writer.writerows([cell_text(cell) for cell in row] for row in rows)
    write_text(path, text.getvalue())


def write_tsv(path: Path, headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a tab-separated table of BIDS atomically: as `write_csv`, with "n/a" for empty cells."""
    lines = [list(headers), *([cell_text(cell) or "n/a" for cell in row] for row in rows)]
    write_text(path, "".join("\t".join(line) + "\n" for line in lines))


def cell_text(cell: Any) -> str:
    """A cell as text.

    >>> cell_text("=HYPERLINK(1)"), cell_text(-0.5), cell_text(float("nan")), cell_text(None)
    ("'=HYPERLINK(1)", '-0.5', '', '')
    """
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ""
    text = str(getattr(cell, "item", lambda: cell)())
    return f"'{text}" if isinstance(cell, str) and text.startswith(_FORMULA) else text


def unescaped(cell: str) -> str:
    """A cell without the apostrophe that `cell_text` adds.

    >>> unescaped("'=SUM(A1)"), unescaped("'t Hooft")
    ('=SUM(A1)', "'t Hooft")
    """
    return cell[1:] if len(cell) > 1 and cell[0] == "'" and cell[1] in "=+-@\t\r" else cell


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV or TSV file with a header line; the separator (comma, tab, semicolon) is the header's.

    Returns: The headers, and a row a line as header -> text.

    Raises DatasetError: absent, empty, not text, a header given twice, or a row of another length.
    """
    text = read_text(path)
    first = text.partition("\n")[0]
    separator = max(",\t;", key=first.count)
    try:
        lines = list(csv.reader(io.StringIO(text), delimiter=separator, strict=True))
    except csv.Error as error:
        raise DatasetError(f"{path}: not a CSV table: {error}. Check its quotes.") from error
    if not lines or not any(lines[0]):
        raise DatasetError(f"{path}: is empty. Write a header line and one row per case.")
    headers = [header.strip() for header in lines[0]]
    if len(set(headers)) != len(headers):
        raise DatasetError(f"{path}: duplicate columns in {headers}. Rename one.")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(line):
            continue
        if len(line) != len(headers):
            cells = named(separator.join(line))
            raise DatasetError(
                f"{path}:{number}: expected {len(headers)} cells, got {len(line)} ({cells}). "
                "Check for decimal commas and missing quotes."
            )
        rows.append({header: cell.strip() for header, cell in zip(headers, line, strict=True)})
    return headers, rows


def is_notes(path: Path) -> bool:
    """Whether a table holds a person's notes about what lies there, and no data.

    >>> is_notes(Path("preds.csv.notes.csv")), is_notes(Path("preds.csv"))
    (True, False)
    """
    return path.name.lower().endswith(NOTES)


def column_of(headers: Iterable[str], names: Sequence[str]) -> str | None:
    """The column with the first of these names that exists; upper and lower case are equal.

    >>> column_of(["Age", "ID"], ("case", "id")), column_of(["age"], ("case", "id"))
    ('ID', None)
    """
    by_lower = {header.lower(): header for header in headers}
    return next((by_lower[name] for name in names if name in by_lower), None)
