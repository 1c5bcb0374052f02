"""The true class of each case, from a table or a prepared dataset."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mambamed.documents.agreement import spelled_alike
from mambamed.documents.prepared import PreparedIndex
from mambamed.errors import DatasetError
from mambamed.evaluation.pairing import subject_of
from mambamed.io.case_columns import EXPECTED, CaseColumns, is_stated
from mambamed.io.tables import read_csv, unescaped
from mambamed.schema_errors import some_of

_CLASS_COLUMNS = ("class", "reference")


@dataclass(frozen=True)
class ReferenceClasses:
    """The true classes of the cases.

    Attributes:
        class_of: case id -> class.
        subject_of: case id -> subject; the case itself if unknown.
        source: for messages.
        others: case id -> class, for cases of classes that the model does not predict.
        why_not: case id -> why it has no class.
        note: how the columns of the table were understood.
    """

    class_of: Mapping[str, str]
    subject_of: Mapping[str, str]
    source: str
    others: Mapping[str, str] = field(default_factory=dict)
    why_not: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def read_reference_classes(
    references: Path, classes: Sequence[str], predicted: Collection[str] = ()
) -> ReferenceClasses:
    """Read the classes of the cases.

    Args:
        references: a prepared dataset, or a CSV or TSV table with columns of cases and persons (see
            `CaseColumns`) and `class` (or any one column that contains the classes).
        classes: those of the predictions.
        predicted: their cases.

    Raises:
        DatasetError: no such table, no such columns, or a duplicate case.
    """
    if references.is_dir():
        return _of_prepared(references, classes)
    headers, rows = read_csv(references)
    columns = CaseColumns.of(headers)
    if columns is None:
        raise DatasetError(f"{references}: no column {EXPECTED}. Name the cases' column so.")
    column = class_column(references, headers, rows, classes, columns.used)
    named_by = columns.identify(rows, predicted)
    if fault := columns.twice(references, (case for case, _ in named_by)):
        raise DatasetError(fault)
    found = {case: unescaped(row[column]) for (case, _), row in zip(named_by, rows, strict=True)}
    subjects = {case: person if person != case else subject_of(case) for case, person in named_by}
    source = f"column {column} of {references.name}"
    return _of_classes(found, subjects, classes, source, references, columns.note)


def class_column(
    path: Path,
    headers: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    classes: Sequence[str],
    ids: Collection[str],
) -> str:
    """The column of the classes, by its name or its content.

    Raises:
        DatasetError: none, or several.
    """
    texts = {header: {unescaped(row[header]) for row in rows} for header in headers if header not in ids}
    cells = {header: set(spelled_alike(found, classes).values()) for header, found in texts.items()}
    for name in _CLASS_COLUMNS:
        if name in cells and cells[name] & set(classes):
            return name
    found = [header for header, there in cells.items() if set(classes) <= there]
    if len(found) != 1:
        which = f"several columns hold them ({', '.join(found)})" if found else "no column holds them"
        raise DatasetError(
            f"{path}: classes {', '.join(classes)}: {which}; name one 'class' ({', '.join(headers)})"
        )
    return found[0]


def _of_prepared(root: Path, classes: Sequence[str]) -> ReferenceClasses:
    cases = PreparedIndex.read(root / "dataset.json").cases
    found = {case.id: case.class_name or "" for case in cases}
    subjects = {case.id: case.subject for case in cases}
    return _of_classes(found, subjects, classes, str(root.name), root)


def _of_classes(
    found: Mapping[str, str],
    subjects: Mapping[str, str],
    classes: Sequence[str],
    source: str,
    path: Path,
    note: str = "",
) -> ReferenceClasses:
    alike = spelled_alike(set(found.values()), classes)
    known = {case: alike[name] for case, name in found.items() if name in alike}
    if not known:
        raise DatasetError(
            f"{path}: no case has one of the classes {', '.join(classes)} (found: "
            f"{some_of(sorted(set(found.values()))) or 'none'}). Choose a table with them."
        )
    others = {case: name for case, name in found.items() if is_stated(name) and case not in known}
    why_not = {
        case: f"has no class in {source}. Add it."
        for case, name in found.items()
        if not is_stated(name) and case not in known
    }
    return ReferenceClasses(known, subjects, source, others, why_not, note)
