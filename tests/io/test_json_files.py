import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mambamed.errors import DatasetError
from mambamed.io.json_files import read_json, write_json


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


def test_a_huge_document_is_rejected_unread(tmp_path) -> None:
    path = tmp_path / "dataset.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # without blocks on the disk
    with pytest.raises(DatasetError, match=r"dataset.json: larger than 256 MB\. Check the path\.$"):
        read_json(path)


def test_a_duplicate_among_many_keys_is_found_at_once(tmp_path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text("{" + "".join(f'"{n}": 0,' for n in range(100_000)) + '"last": 0, "last": 0}')
    with pytest.raises(DatasetError, match="duplicate key 'last'"):  # minutes if each key were counted anew
        read_json(path)


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
