"""Cases and persons of tables; the columns are those of BIDS 1.10 and of Clinica's CAPS lists."""

import pytest

from mambamed.cases import Case, person_of
from mambamed.io.case_columns import CaseColumns


@pytest.mark.parametrize(
    ("headers", "row", "named_by"),
    [
        ("case", "a", ("a", "a")),
        ("case,subject", "a,p", ("a", "p")),
        ("case,subject", "a,n/a", ("a", "a")),
        ("participant_id,session_id", "n/a,1", ("", "")),
        ("case,participant_id,session_id", "a,p,1", ("a", "p")),
        ("participant_id,session_id", "sub-01,ses-M00", ("sub-01_ses-M00", "sub-01")),
        ("participant_id,session_id", "sub-01,M00", ("sub-01_ses-M00", "sub-01")),
        ("participant_id,session_id", "01,ses-M00", ("sub-01_ses-M00", "01")),
        ("participant_id,session_id", "sub-01,n/a", ("sub-01", "sub-01")),
        ("Patient,Visit", "p1,2", ("p1_2", "p1")),
        ("patient,visit", "p1,2.0", ("p1_2", "p1")),
        ("patient,visit", "p1,2.05", ("p1_2.05", "p1")),
        ("participant_id", "sub-01", ("sub-01", "sub-01")),
        ("participant_id,subject", "scan1,p", ("scan1", "p")),
        ("subject_id", "p", ("p", "p")),
        ("id,session", "p,2", ("p_2", "p")),
        ("id", "sub-01_ses-02", ("sub-01_ses-02", "sub-01")),
        ("case", "sub-01_T1w", ("sub-01_T1w", "sub-01")),
        ("case", "sub-01.x", ("sub-01.x", "sub-01.x")),
    ],
)
def test_columns_name_cases_and_persons(headers, row, named_by) -> None:
    names = headers.split(",")
    columns = CaseColumns.of(names)
    assert columns is not None
    assert columns.identify([dict(zip(names, row.split(","), strict=True))]) == [named_by]
    assert columns.used <= set(names)


def test_other_columns_name_nothing() -> None:
    assert CaseColumns.of(["age", "session_id", "T1w"]) is None


def test_only_visits_have_the_ids_of_their_persons_if_the_cases_elsewhere_have() -> None:
    columns = CaseColumns.of(["subject", "session"])
    assert columns is not None
    rows = [{"subject": "p1", "session": "1"}, {"subject": "p2", "session": "1"}]
    assert [case for case, _ in columns.identify(rows, ["p1", "p2"])] == ["p1", "p2"]
    assert [case for case, _ in columns.identify(rows, ["p1_1"])] == ["p1_1", "p2_1"]
    again = [*rows, {"subject": "p1", "session": "2"}]
    assert [case for case, _ in columns.identify(again, ["p1"])] == ["p1_1", "p2_1", "p1_2"]


def test_a_second_row_of_a_person_asks_for_the_visits() -> None:
    alone, visits = CaseColumns.of(["participant_id"]), CaseColumns.of(["participant_id", "session_id"])
    assert alone is not None and visits is not None
    assert "add a column session_id" in (alone.twice("t.tsv", ["a", "a"]) or "")
    assert (visits.twice("t.tsv", ["a_1", "a_1"]) or "").endswith("merge the rows.")
    assert visits.twice("t.tsv", ["a_1", "a_2"]) is None


def test_the_subject_of_a_case_is_the_person_of_its_id() -> None:
    assert Case("sub-01_ses-02", ()).subject == "sub-01"
    assert Case("sub-01_ses-02", (), subject="p").subject == "p"
    assert person_of("subject_1") == "subject_1"
