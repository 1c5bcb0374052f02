"""Which columns of a table name its cases and persons, also as BIDS and CAPS name them.

| columns | case | person |
|---|---|---|
| `case`, `case_id` or `id` | the cell | `subject`, `patient`, `participant_id`, ..., else by the id |
| a person and `session_id`, `session` or `visit` | `PERSON_SESSION`, e.g. `sub-01_ses-02` | the person |
| a person alone | the person | the person |

A case is a visit. Programs that write whole numbers as 1.0 mean the visit 1. An id like `sub-01_ses-02` names
its person, `sub-01`, by itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mambamed.cases import ROWS_OF_ONE_ID, person_of
from mambamed.io.tables import column_of, unescaped
from mambamed.schema_errors import repeated

CASE_COLUMNS = ("case", "case_id", "id")
PARTICIPANT_COLUMNS = ("participant_id", "participant")
PERSON_COLUMNS = ("subject", "subject_id", "patient", "patient_id")
SESSION_COLUMNS = ("session_id", "session", "visit_id", "visit")
EXPECTED = "case, case_id, id or participant_id"  # for messages
_NOT_KNOWN = {"", "n/a", "na", "nan"}
_FLOAT = re.compile(r"([0-9]+)\.0+")


def is_stated(cell: str) -> bool:
    """Whether a cell says something, i.e. is not empty and not the "n/a" of BIDS or of a program.

    >>> is_stated("n/a"), is_stated("NaN"), is_stated(""), is_stated("0")
    (False, False, False, True)
    """
    return cell.strip().lower() not in _NOT_KNOWN


@dataclass(frozen=True)
class CaseColumns:
    """The columns of a table that name its cases; either `case` or `person` is not None."""

    case: str | None
    person: str | None
    session: str | None  # only without `case`

    @classmethod
    def of(cls, headers: Sequence[str]) -> CaseColumns | None:
        """The columns among these headers, in any capitals; None if there are none.

        >>> CaseColumns.of(["participant_id", "session_id", "age"])
        CaseColumns(case=None, person='participant_id', session='session_id')
        """
        kinds = (CASE_COLUMNS, PARTICIPANT_COLUMNS, PERSON_COLUMNS, SESSION_COLUMNS)
        case, participant, person, session = (column_of(headers, names) for names in kinds)
        if case is None and session is None and participant and person:
            case = participant
        else:
            person = (participant or person) if session and not case else (person or participant)
        if case and case.lower() == "id" and session and person is None:
            case, person = None, case  # several rows have the id of a person
        if case is None and person is None:
            return None
        return cls(case, person, None if case else session)

    @property
    def used(self) -> set[str]:
        """The columns that are not about the case, but name it."""
        return {column for column in (self.case, self.person, self.session) if column}

    @property
    def name_visits(self) -> bool:
        """Whether the columns surely are those of a list of cases."""
        return bool(self.case or self.session) or (self.person or "").lower() == "participant_id"

    @property
    def note(self) -> str:
        """What was understood, in words; empty if a column holds the case ids."""
        if self.session:
            return (
                f"one case per visit (columns {self.person} and {self.session}), of the person {self.person}"
            )
        return "" if self.person is None or self.case is None else f"persons are in the column {self.person}"

    def identify(
        self, rows: Sequence[Mapping[str, Any]], known: Collection[str] = ()
    ) -> list[tuple[str, str]]:
        """The case id and the person of each row; an id is empty if its cell is.

        Args:
            known: ids of cases elsewhere: if they are those of the persons, a person's only visit has its id.

        >>> columns = CaseColumns.of(["participant_id", "session_id"])
        >>> columns.identify([{"participant_id": "sub-1", "session_id": "ses-M00"}])
        [('sub-1_ses-M00', 'sub-1')]
        """
        persons = [_text(row.get(self.person)) if self.person else "" for row in rows]
        persons = [person if is_stated(person) else "" for person in persons]
        if self.case:
            cases = [_text(row.get(self.case)) for row in rows]
        elif self.session:
            sessions = [_text(row.get(self.session)) for row in rows]
            cases = [_visit(*each) for each in zip(persons, sessions, strict=True)]
            alone = bool(known) and not set(cases) & set(known) and repeated(persons) is None
            if alone and set(persons) & set(known):
                cases = persons
        else:
            cases = persons
        own = self.person if self.case or self.session else None
        return [
            (case, person if own and person else person_of(case))
            for case, person in zip(cases, persons, strict=True)
        ]

    def twice(self, path: Any, cases: Iterable[str]) -> str | None:
        """A message about a case with two rows, or None."""
        if not (case := repeated(cases)):
            return None
        hint = "" if self.case or self.session else " If its rows are visits, add a column session_id."
        return f"{path}: duplicate case {case}. {ROWS_OF_ONE_ID}{hint}"


def _text(cell: Any) -> str:
    return "" if cell is None else unescaped(str(cell).strip())


def _visit(person: str, session: str) -> str:
    """The id of a visit; BIDS' prefixes are completed if one of the two has its own.

    >>> _visit("sub-01", "02"), _visit("01", "ses-02"), _visit("p1", "2.0"), _visit("p1", "n/a")
    ('sub-01_ses-02', 'sub-01_ses-02', 'p1_2', 'p1')
    """
    if match := _FLOAT.fullmatch(session):
        session = match[1]
    if not person or not is_stated(session):
        return person
    if person.startswith("sub-") and not session.startswith("ses-"):
        session = f"ses-{session}"
    elif session.startswith("ses-") and not person.startswith("sub-"):
        person = f"sub-{person}"
    return f"{person}_{session}"
