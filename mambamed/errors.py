"""Errors that a user can fix, reported in one line: file, fact, and what to do.

The command line prints such an error without a traceback and exits with its `exit_code`;
any other exception is a bug of mambamed and keeps its traceback.
"""

from __future__ import annotations

_LONGEST_LINE = 1500


class MambamedError(Exception):
    """Base class; the message has the form `PATH: KEY: fact. What to do.`

    A line that repeats long texts of a file loses its middle.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(_shortened, message.split("\n"))))


def _shortened(line: str) -> str:
    half = _LONGEST_LINE // 2
    return line if len(line) <= _LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


class RecipeError(MambamedError):
    """A recipe, override or option is invalid; the message has one line per fault."""


class DatasetError(MambamedError):
    """A dataset as a whole cannot be used, e.g. it has no images or an invalid manifest."""


class CaseError(MambamedError):
    """One case cannot be used; the other cases are processed and the exit code is 3."""


class ModelError(MambamedError):
    """A run folder, checkpoint or model file cannot be used."""


class RunError(MambamedError):
    """A command failed while running, e.g. a full disk, a non-finite loss, a folder in use."""

    exit_code = 1
