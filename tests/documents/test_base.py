"""Faults of a document: one line each, with file, key, what was expected and what to do."""

from __future__ import annotations

import pytest
from pydantic import model_validator

from mambamed.documents.base import Document, Finite, Model, Size
from mambamed.errors import DatasetError


class Part(Model):
    kind: str
    count: Size

    @model_validator(mode="after")
    def _not_seven(self) -> Part:
        if self.count == 7:
            raise ValueError(f"no {self.kind}")
        return self


class Sample(Document):
    box: tuple[int, int]
    width: Finite = 1.0
    parts: tuple[Part, ...] = ()


def test_a_document_is_read_as_it_was_written(tmp_path) -> None:
    sample = Sample(box=(1, 2), width=0.5, parts=(Part(kind="a", count=3),))
    sample.write(tmp_path / "sample.json")
    assert Sample.read(tmp_path / "sample.json") == sample


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"box": [1, "2"]}', "box.1: expected a valid integer, got '2'. Correct the file."),
        ('{"box": [1, 2], "width": NaN}', "width: expected a finite number, got nan. Correct the file."),
        ('{"box": [1, 2], "width": true}', "width: expected a valid number, got True. Correct the file."),
        ("{}", "box: missing. Correct the file."),
        ('{"box": [1, 2], "wdith": 2}', "wdith: unknown key - did you mean 'width'? Correct the file."),
        ('{"box": [1, 2], "parts": [{"kind": "a", "count": 0}]}', "parts.0.count: expected greater than or"),
        ("[]", "content: expected an object, got []. Correct the file."),
        (r'{"box": [1, 2], "a\nb\u001b": 2}', r"'a\nb\x1b': unknown key. Correct the file."),
        (r'{"box": [1, 2], "parts": [{"kind": "a\nb", "count": 7}]}', "parts.0: no a b. Correct the file."),
        ('{"box": [1, 2], "": 2}', "'': unknown key. Correct the file."),
        ('{"box": [1, 2], "width": 1e400}', "width: expected a finite number, got inf. Correct the file."),
        ('{"box": [1, 2], "format": 2}', "format: expected at most 1, got 2: a newer version of mambamed"),
        ('{"box": [1, 2], "format": "1"}', "format: expected a valid integer, got '1'."),
    ],
)
def test_a_fault_is_a_line(text, line, tmp_path) -> None:
    path = tmp_path / "sample.json"
    path.write_text(text)
    with pytest.raises(DatasetError) as caught:
        Sample.read(path)
    assert str(caught.value).startswith(f"{path}: {line}")


def test_a_line_with_long_texts_keeps_its_start_and_its_end(tmp_path) -> None:
    path = tmp_path / "sample.json"
    path.write_text('{"box": [1, 2], "' + "x" * 100_000 + '": 2}')
    with pytest.raises(DatasetError) as caught:
        Sample.read(path)
    line = str(caught.value)
    assert len(line) < 2000 and line.startswith(f"{path}: xxx") and line.endswith("key. Correct the file.")


def test_all_faults_are_reported_at_once(tmp_path) -> None:
    path = tmp_path / "sample.json"
    path.write_text('{"box": 1, "width": "x", "more": 0}')
    with pytest.raises(DatasetError) as caught:
        Sample.read(path)
    assert str(caught.value).count("\n") == 2
