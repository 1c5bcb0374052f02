"""Files in a zip are read where they lie, and an archive that lies about them is refused."""

from __future__ import annotations

import struct
import zipfile

import pytest

from mambamed.errors import ModelError
from mambamed.io.members import members_of, opened
from mambamed.io.text_files import read_text


def zipped(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


def listed(path, most=10):
    return members_of(path, "archive", most, "Do something.")


def test_a_member_is_the_bytes_that_were_put_in_and_names_its_archive(tmp_path) -> None:
    content = {"a.json": b"{}", "folder/b": bytes(range(256)) * 5, "empty": b""}
    path = zipped(tmp_path / "x.zip", content)
    members = listed(path)
    assert {name: member.read_bytes() for name, member in members.items()} == content
    assert str(members["folder/b"]) == f"{path}: folder/b"
    whole = path.read_bytes()
    start = members["folder/b"].start
    assert whole[start : start + 1280] == content["folder/b"]


def test_the_text_of_a_member_ends_with_it(tmp_path) -> None:
    members = listed(zipped(tmp_path / "x.zip", {"a": b"first\r\n", "empty": b"", "c": b"more"}))
    assert [read_text(members[name]) for name in ("a", "empty")] == ["first\n", ""]


def test_bytes_before_the_archive_do_not_move_its_members(tmp_path) -> None:
    path = zipped(tmp_path / "x.zip", {"a": b"first"})
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert listed(path)["a"].read_bytes() == b"first"


def test_an_archive_that_is_replaced_is_not_read_by_the_old_list(tmp_path) -> None:
    path = zipped(tmp_path / "x.zip", {"a": b"first"})
    member = listed(path)["a"]
    zipped(tmp_path / "y.zip", {"b": b"12345", "a": b"other"})
    (tmp_path / "y.zip").replace(path)
    with pytest.raises(ModelError, match=r"x\.zip: was changed while it was read"), opened(member):
        pass


def changed_entry(path, field, value):
    """The archive with one number of the last entry of its list replaced."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2") + {"packed": 20, "size": 24, "start": 42}[field]
    data[at : at + 4] = struct.pack("<I", value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("field", "value", "fact"),
    [
        ("size", 10**6, "claims 1000000 bytes in a file of"),
        ("packed", 1, "claims 100 bytes in a file of"),
        ("start", 10**6, "does not lie in the file"),
        ("start", 1, "does not lie in the file"),
    ],
)
def test_what_the_list_claims_is_compared_with_the_file(tmp_path, field, value, fact) -> None:
    path = changed_entry(zipped(tmp_path / "x.zip", {"a": b"x", "b": bytes(100)}), field, value)
    with pytest.raises(ModelError, match=rf"x\.zip: member 'b' {fact}.* Do something\.$"):
        listed(path)


def test_members_that_overlap_cannot_claim_more_than_the_file(tmp_path) -> None:
    """Two entries of the list that name the same bytes, as in overlapping bombs."""
    path = zipped(tmp_path / "x.zip", {"a": bytes(1000)})
    data = path.read_bytes()
    at, end = data.rindex(b"PK\1\2"), data.rindex(b"PK\5\6")
    entry = data[at:end]
    tail = bytearray(data[end:])
    tail[8:12] = struct.pack("<HH", 3, 3)
    tail[12:16] = struct.pack("<I", 3 * len(entry))
    twins = [entry[:46] + name + entry[47:] for name in (b"a", b"b", b"c")]
    path.write_bytes(data[:at] + b"".join(twins) + bytes(tail))
    with pytest.raises(ModelError, match="claims 1000 bytes"):
        listed(path)


@pytest.mark.parametrize(
    ("data", "fact"),
    [(b"", "is not a complete archive"), (b"PK\3\4" + bytes(50), "is not a complete archive")],
)
def test_what_is_no_zip_is_one_line(tmp_path, data, fact) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(ModelError, match=fact) as caught:
        listed(tmp_path / "x.zip")
    assert "\n" not in str(caught.value)


def test_compressed_members_and_too_many_are_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match="member 'a' is compressed or encrypted"):
        listed(zipped(tmp_path / "x.zip", {"a": bytes(10**6)}, zipfile.ZIP_DEFLATED))
    with pytest.raises(ModelError, match="has 3 members, expected at most 2"):
        listed(zipped(tmp_path / "y.zip", {"a": b"", "b": b"", "c": b""}), most=2)
