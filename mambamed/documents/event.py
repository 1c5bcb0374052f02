"""The lines on stdout of a command with `--json-lines`, one event each; the last is `result` or `error`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mambamed.documents.base import Count, Fraction, Model, NotNegative
from mambamed.documents.fault import Fault


class ProgressEvent(Model):
    """How far a stage is; a change of the stage ends the previous one."""

    event: Literal["progress"] = "progress"
    stage: str
    """E.g. "predicting"."""
    unit: str
    """What is counted, e.g. "cases"."""
    done: Count
    total: Count
    fraction: Fraction
    """Finished part of the stage, including the finished windows of the current case."""
    facts: dict[str, str | float | None]
    """Current values, e.g. `case`, `windows` ("3/12") or `loss`; their names depend on the stage."""
    seconds: NotNegative
    """Since the stage started."""
    seconds_left: NotNegative | None
    """Estimated from the finished part; null before anything is finished."""


class MessageEvent(Model):
    """A message or a warning for people."""

    event: Literal["message"] = "message"
    text: str


class ResultEvent(Model):
    """The last event of a command that finished, also if some cases failed (exit code 3)."""

    event: Literal["result"] = "result"
    result: Any
    """What the command prints with `--json`; `faults` has one line per failed case."""


class ErrorEvent(Model):
    """The last event of a command that failed as a whole."""

    event: Literal["error"] = "error"
    error: Fault


Event = Annotated[
    ProgressEvent | MessageEvent | ResultEvent | ErrorEvent,
    Field(discriminator="event"),
]
