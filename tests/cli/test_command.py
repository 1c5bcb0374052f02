import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from mambamed.cli.command import after_interruption, command
from mambamed.cli.json_output import as_json
from mambamed.documents.fault import FaultReport
from mambamed.errors import CaseError, DatasetError, RunError
from mambamed.progress import Progress


@dataclass
class Summary:
    output: Path
    dice: float = float("nan")
    faults: list[CaseError] = field(default_factory=list)


def verb(
    source: Annotated[Path, typer.Argument(help="What to read.")],
    mode: Annotated[str, typer.Option(help="What happens.")] = "work",
    progress: Progress | None = None,
) -> Summary:
    """Do something."""
    assert progress is not None
    progress.start("working", 1, "cases")
    progress.advance(1, loss=0.5)
    if mode == "dataset":
        raise DatasetError("a.json: no images; give another folder\nb.json: broken")
    if mode == "run":
        raise RunError("disk full")
    if mode == "long name":
        Path("y" * 300).exists()
    if mode == "many":
        return Summary(source, faults=[CaseError(f"case_{k}: cut off") for k in range(195)])
    if mode == "interrupt":
        raise KeyboardInterrupt
    if mode == "interrupt at a step":
        raise KeyboardInterrupt("stopped at step 2 of 6")
    if mode == "bug":
        raise ZeroDivisionError
    return Summary(source, faults=[CaseError("case_2: cut off")] if mode == "case" else [])


@pytest.fixture
def run():
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command(verb, lambda summary: print("wrote", summary.output)))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_result_goes_to_stdout(run) -> None:
    done = run("here", "-q")
    assert (done.exit_code, done.stdout) == (0, "wrote here\n")


def test_json_is_the_summary_by_field(run) -> None:
    done = run("here", "--json")
    assert json.loads(done.stdout) == {"output": "here", "dice": None, "faults": []}


@pytest.mark.parametrize(
    ("mode", "code", "line"),
    [
        ("dataset", 2, "mambamed: a.json: no images; give another folder\nmambamed: b.json: broken\n"),
        ("run", 1, "mambamed: disk full\n"),
        ("long name", 1, f"mambamed: {'y' * 300}: File name too long. Shorten the name.\n"),
        ("case", 3, "mambamed: case_2: cut off\n"),
    ],
)
def test_a_fault_is_a_line_and_an_exit_code(run, mode, code, line) -> None:
    done = run("here", "--mode", mode, "-q")
    assert (done.exit_code, done.stderr) == (code, line)


@pytest.mark.parametrize(
    ("mode", "kind", "code"),
    [
        ("dataset", "DatasetError", 2),
        ("run", "RunError", 1),
        ("long name", "MachineError", 1),
        ("interrupt", "Interrupted", 130),
        ("bug", "InternalError", 1),
    ],
)
def test_a_fault_with_json_is_one_document_on_stdout(run, mode, kind, code) -> None:
    done = run("here", "--mode", mode, "--json")
    error = FaultReport.model_validate_json(done.stdout).error
    assert (error.kind, error.exit_code, done.exit_code) == (kind, code, code)
    assert len(error.messages) == (2 if mode == "dataset" else 1)


def test_many_faults_are_five_and_their_number(run) -> None:
    lines = run("here", "--mode", "many", "-q").stderr.splitlines()
    assert len(lines) == 6
    assert lines[-1] == "mambamed: and 190 more faults, 195 in all. Use --verbose or --json to list all."
    assert len(run("here", "--mode", "many", "-v", "-q").stderr.splitlines()) == 195
    assert len(json.loads(run("here", "--mode", "many", "--json").stdout)["faults"]) == 195


def test_an_interruption_says_how_to_continue(run) -> None:
    done = run("here", "--mode", "interrupt", "-q")
    assert (done.exit_code, done.stderr) == (
        130,
        "mambamed: Interrupted. Run the same command again; it starts from the beginning.\n",
    )
    done = run("here", "--mode", "interrupt at a step", "-q")
    assert done.stderr.startswith("mambamed: Interrupted: stopped at step 2 of 6. Run the same command again")
    assert after_interruption("train", {}) == "Run the same command with --resume to continue."
    for name in ("prepare", "predict", "landmarks", "classify"):
        assert after_interruption(name, {"overwrite": False}) == "Run the same command again to continue."
    assert "without --overwrite" in after_interruption("classify", {"overwrite": True})


def test_a_bug_keeps_its_traceback(run) -> None:
    assert isinstance(run("here", "--mode", "bug", "-q").exception, ZeroDivisionError)


def test_help_shows_the_parameters_and_not_the_progress(run) -> None:
    text = run("--help").stdout
    assert "Do something" in text
    assert "What happens" in text
    assert "progress " not in text


def test_numbers_that_json_lacks_become_null_or_text() -> None:
    assert as_json({"a": float("nan"), "b": float("inf"), "c": (1, 2.5)}) == {
        "a": None,
        "b": "inf",
        "c": [1, 2.5],
    }


def test_a_quiet_terminal_does_not_keep_warnings_from_the_record(run, caplog) -> None:
    run("here", "-q")
    logging.getLogger("mambamed").warning("constant channel")
    assert "constant channel" in caplog.text
