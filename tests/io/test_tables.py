import pytest

from mambamed.errors import DatasetError
from mambamed.io.tables import read_csv, write_csv


def test_a_cell_that_a_spreadsheet_would_run_is_made_harmless(tmp_path) -> None:
    write_csv(tmp_path / "a.csv", ["case", "dice"], [["=HYPERLINK(1)", 0.5], ["+1", -0.25], ["a,b", None]])
    assert (tmp_path / "a.csv").read_text() == "case,dice\n'=HYPERLINK(1),0.5\n'+1,-0.25\n\"a,b\",\n"


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_the_separator_is_the_headers(tmp_path, separator) -> None:
    path = tmp_path / "a.csv"
    path.write_text(separator.join(["case", "age"]) + "\r\n" + separator.join(["c1", "41"]) + "\r\n\r\n")
    assert read_csv(path) == (["case", "age"], [{"case": "c1", "age": "41"}])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a,a\n1,2\n", "duplicate columns"),
        ("case,x\nc1,1,5\n", "a.csv:2: expected 2 cells, got 3"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(tmp_path, text, words) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=words):
        read_csv(path)
