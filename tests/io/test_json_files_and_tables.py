import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambamed.errors import DatasetError
from mambamed.io.json_files import read_json, write_json
from mambamed.io.tables import read_csv, write_csv


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1,\n "b": }', "line 2 column 7"),
        (b'{"labels": {"x": 1, "x": 2}}', "duplicate key 'x'"),
        (b"[" * 100_000, "dataset.json: nested too deep"),
        (b'"\xff"', "is not UTF-8 text"),
    ],
)
def test_a_document_that_cannot_be_read_is_one_line(tmp_path, content, words) -> None:
    path = tmp_path / "dataset.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=words) as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_an_absent_document_is_one_line(tmp_path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        read_json(tmp_path / "dataset.json")


def test_a_byte_order_mark_of_windows_is_no_fault(tmp_path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    )
)
def test_documents_survive_a_round_trip(tmp_path_factory, document) -> None:
    path = tmp_path_factory.getbasetemp() / "round.json"
    write_json(path, document)
    assert read_json(path) == json.loads(json.dumps(document))


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
        ("a,a\n1,2\n", "given twice"),
        ("case,x\nc1,1,5\n", "a.csv:2: 3 cells under 2 headers"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(tmp_path, text, words) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=words):
        read_csv(path)
