"""The list of runs: the score is found by its name, in runs of version 0.1.0 too."""

from __future__ import annotations

import pytest

from mambamed.io.atomic import write_text
from mambamed.run.listing import list_runs
from tests.answers.stubs import stub_run

ROWS = "1,0.5,0.6,0.8,0.1,0\n2,0.4,0.5,,0.2,0\n3,0.4,0.5,0.7,0.3,0\n"
HEADER = "epoch,loss,validation_loss,dice,wait,skipped\n"


@pytest.mark.parametrize(
    ("header", "score", "best"),
    [
        (HEADER, None, ("dice", 0.8)),  # of the task
        (HEADER.replace("dice,wait", "wait,dice"), None, ("dice", 0.3)),  # wherever the column is
        (HEADER, {"name": "wait", "higher_is_better": False}, ("wait", 0.1)),
    ],
)
def test_the_best_score_is_found_by_name_and_direction(tmp_path, header, score, best) -> None:
    run = stub_run(tmp_path / "run")
    write_text(run.fold_folder(0) / "log.csv", header + ROWS)
    if score:
        run.record(0, {"score": score})
    line = list_runs(tmp_path).runs[0]
    assert (line.score_name, line.score) == best and line.epoch == 3


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        (HEADER.replace("dice", "iou") + ROWS, "dice: no such column"),
        (HEADER + ROWS.replace("0.8", "high"), "expected numbers"),
        (HEADER + "1,0.5\n", "expected 6 cells, got 2"),
    ],
)
def test_a_log_that_cannot_be_read_is_a_line(tmp_path, text, fact) -> None:
    run = stub_run(tmp_path / "run")
    write_text(run.fold_folder(0) / "log.csv", text)
    found = list_runs(tmp_path)
    assert not found.runs and "log.csv" in found.faults[0] and fact in found.faults[0]


def test_a_run_with_its_best_checkpoint_alone_is_listed(tmp_path) -> None:
    """As `import-weights` writes it."""
    stub_run(tmp_path / "run")
    found = list_runs(tmp_path)
    assert [(line.fold, line.epoch, line.score) for line in found.runs] == [(0, 0, None)]
