"""The command line as a whole: help, completion in a shell, faults as JSON."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from mambamed.documents.fault import FaultReport

COMMAND = [sys.executable, "-m", "mambamed"]


def run(*arguments, **environment):
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", [["train"], ["recipes", "show"]])
def test_help_of_a_command_is_its_help(words) -> None:
    assert run("help", *words) == run(*words, "--help")


def test_help_of_an_unknown_command_is_a_fault() -> None:
    code, _, lines = run("help", "trian")
    assert code == 2
    assert "No such command 'trian'" in lines


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("mambamed conv", ["convert-points"]),
        ("mambamed train hippocampus_points_nnmamba_n", ["hippocampus_points_nnmamba_none"]),
        ("mambamed predict run images --tta m", ["mirror"]),
    ],
)
def test_bash_completes_commands_recipes_and_values(words, wanted) -> None:
    """As the script of `--show-completion` calls it."""
    count = str(len(words.split()) - 1)
    code, out, _ = run(_MAMBAMED_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    assert (code, out.split()) == (0, wanted)


def test_the_script_for_bash_is_shown() -> None:
    shown = run("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")[1]
    assert "complete -o default -F _mambamed_completion mambamed" in shown


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["recipes", "show", "hippocampus_nnmanba"], "RecipeError", "did you mean 'hippocampus_nnmamba'?"),
        (["recipes", "show", "x", "--colour"], "UsageError", "No such option"),
        (["predict", "run", "images", "-o", "x", "--tta", "no"], "UsageError", "'no' is not one of"),
        (["predict"], "UsageError", "Missing"),
        (["evaluate", "absent", "absent"], "DatasetError", "absent"),
    ],
)
def test_a_fault_is_json_on_stdout_with_the_same_exit_code(arguments, kind, message) -> None:
    code, out, lines = run(*arguments, "--json")
    error = FaultReport.model_validate_json(out).error
    assert (error.kind, error.exit_code, code) == (kind, 2, 2)
    assert message in error.messages[0]
    assert lines  # for people


def test_more_messages_do_not_change_the_exit_code() -> None:
    code, _, lines = run("recipes", "show", "absent", "-v")
    assert code == 2
    assert "Traceback" in lines
    assert lines.endswith("mambamed: absent: no such recipe. See 'mambamed recipes list', or give a path.\n")


def test_recipes_take_one_line_each_at_80_columns() -> None:
    main, other = pty.openpty()
    command = [*COMMAND, "recipes", "list", "--task", "landmarks"]
    environment = {**os.environ, "COLUMNS": "80"}
    process = subprocess.Popen(command, stdout=other, stdin=subprocess.DEVNULL, env=environment)
    os.close(other)
    text = b""
    try:
        while part := os.read(main, 4096):
            text += part
    except OSError:  # the other end is closed
        pass
    os.close(main)
    assert process.wait() == 0
    lines = text.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("mouse_skull_nnmamba ") for line in lines) == 1
    assert len(lines) == 10  # a header and nine recipes
