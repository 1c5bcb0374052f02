"""An output that cannot be written is told before any image is read."""

from __future__ import annotations

import pytest

from mambamed.io import nifti
from tests.exhausted import fails
from tests.faults.in_process import call
from tests.faults.small_jobs import JOBS, output_of


@pytest.mark.parametrize("verb", JOBS)
def test_an_output_that_cannot_be_written_is_told_first(verb, tmp_path, monkeypatch) -> None:
    """Below a file, where root cannot write either."""
    arguments = JOBS[verb](tmp_path)
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(nifti, "read_header", fails(AssertionError("an image was read first")))
    done = call(*arguments, "-o", output_of(verb, tmp_path / "file"))
    assert done.code in {1, 2} and done.line_with(str(tmp_path / "file"))
    assert len(done.lines) == 1 and (tmp_path / "file").read_text() == "mine"
