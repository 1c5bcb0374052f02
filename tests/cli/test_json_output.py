"""Events of `--json-lines`: what each holds, how often they come, and that they follow their schema."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import TypeAdapter
from typer.testing import CliRunner

from mambamed.cli.command import command
from mambamed.cli.json_output import JsonLines, is_first_process
from mambamed.documents.event import Event
from mambamed.errors import CaseError, DatasetError
from mambamed.progress import Progress
from tests.answers.stubs import stub_run, write_blobs


def events(text: str) -> list[dict[str, Any]]:
    """The events of an output; each one is valid by the schema."""
    for line in text.splitlines():
        TypeAdapter(Event).validate_json(line)
    return [json.loads(line) for line in text.splitlines()]


@dataclass
class Summary:
    count: int
    faults: tuple[CaseError, ...]


def work(how: str = "well", progress: Progress | None = None) -> Summary:
    """Do something."""
    assert progress is not None
    progress.start("working", 2, "cases")
    progress.say("line 1\nline 2 \x1b[2J")
    logging.getLogger("mambamed").warning("constant channel")
    progress.advance(1, case="a", loss=float("nan"))
    progress.advance(1, case="b")
    if how == "badly":
        raise DatasetError("a.json: broken\nb.json: broken")
    if how == "bug":
        raise ZeroDivisionError("by 0")
    if how == "stopped":
        raise KeyboardInterrupt
    return Summary(2, (CaseError("b: cut off"),) if how == "partly" else ())


def run(*arguments: str):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command(work, lambda summary: print(summary.count)))
    return CliRunner().invoke(app, [*arguments, "--json-lines"])


def test_progress_messages_and_the_result_are_events() -> None:
    done = run()
    first, message, warning, last, result = events(done.stdout)
    assert (first["stage"], first["unit"], first["done"], first["total"]) == ("working", "cases", 0, 2)
    assert (first["fraction"], first["seconds_left"], first["facts"]) == (0.0, None, {})
    assert message == {"event": "message", "text": "line 1\nline 2 \x1b[2J"}
    assert warning == {"event": "message", "text": "WARNING: constant channel"}
    assert (last["done"], last["fraction"], last["seconds_left"]) == (2, 1.0, 0.0)
    assert last["facts"] == {"case": "b", "loss": None}
    assert result == {"event": "result", "result": {"count": 2, "faults": []}}
    assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("how", "code", "kind"), [("badly", 2, "DatasetError"), ("bug", 1, "InternalError"), ("stopped", 130, "")]
)
def test_a_fault_is_the_last_event(how, code, kind) -> None:
    done = run("--how", how)
    error = events(done.stdout)[-1]["error"]
    assert (error["kind"], error["exit_code"], done.exit_code) == (kind or "Interrupted", code, code)
    assert len(error["messages"]) == (2 if how == "badly" else 1)


def test_cases_that_failed_are_in_the_result() -> None:
    done = run("--how", "partly")
    assert events(done.stdout)[-1]["result"]["faults"] == ["b: cut off"]
    assert (done.exit_code, done.stderr) == (3, "mambamed: b: cut off\n")


def test_a_quiet_command_has_only_its_result() -> None:
    assert [event["event"] for event in events(run("-q").stdout)] == ["result"]


def test_at_most_five_events_per_second_and_the_last_one(capsys, monkeypatch) -> None:
    """100 cases of 10 windows, 0.01 s per window: 10 s are 50 events at most, and the first and last ones."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    lines = JsonLines()
    lines.start("predicting", 100, "cases")
    for case in range(100):
        for window in range(1, 11):
            now += 0.01
            lines.advance(0, case=f"case_{case}", windows=f"{window}/10")
        lines.advance(1, case=f"case_{case}")
    found = events(capsys.readouterr().out)
    assert 40 <= len(found) <= 52
    assert (found[0]["done"], found[-1]["done"]) == (0, 100)
    half = next(event for event in found if event["seconds"] >= 5)
    assert half["fraction"] == pytest.approx(half["seconds"] / 10, abs=0.005)
    assert half["seconds_left"] == pytest.approx(10 - half["seconds"], abs=0.1)


def test_the_program_of_the_page_shows_progress_and_result(tmp_path, monkeypatch, capsys) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "other-programs.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    stub_run(tmp_path / "runs" / "brats_nnmamba")
    write_blobs(tmp_path / "new_patients", 2)
    exec(page.partition("```python\n")[2].partition("```")[0], {})
    shown = capsys.readouterr().out
    assert "predicting: 0%, seconds left: None\n" in shown
    assert "predicting: 100%, seconds left: 0.0\n" in shown
    assert shown.endswith("masks of ['case_0', 'case_1'] in masks\n")


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1"}, True),
    ],
)
def test_of_several_processes_the_first_one_prints(variables, first, monkeypatch) -> None:
    """A rank that no size goes with, e.g. one that another program left, silences nothing."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == first
