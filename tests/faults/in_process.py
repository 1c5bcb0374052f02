"""A command of mambamed in this process: the same lines and exit codes without the seconds of a start."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from typer.testing import CliRunner

from mambamed.cli.commands import make_app


@dataclass(frozen=True)
class Answer:
    """Exit code, stdout, and the lines of stderr."""

    code: int
    stdout: str
    lines: list[str]

    def line_with(self, *words: str) -> str:
        """The only line of stderr that holds all the words."""
        found = [line for line in self.lines if all(word in line for word in words)]
        assert len(found) == 1, f"{words}: {self.lines}"
        return found[0]


def call(*arguments: object) -> Answer:
    """Run `mambamed ARGUMENTS`; whatever is no fault of the user's is raised."""
    logger = logging.getLogger("mambamed")
    handlers = list(logger.handlers)
    try:
        done = CliRunner().invoke(make_app(), [str(argument) for argument in arguments])
    finally:
        logger.handlers[:] = handlers
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Answer(done.exit_code, done.stdout, done.stderr.splitlines())
