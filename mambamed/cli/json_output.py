"""Output for other programs: a result or a fault as JSON, or every event of the work as one line of JSON."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from pathlib import Path
from typing import Any, Literal

from mambamed.progress import Stage
from mambamed.terminal import close_stdout

Form = Literal["text", "json", "lines"]  # of the output: for people, with --json, with --json-lines
_SECONDS_BETWEEN_EVENTS = 0.2


class JsonLines:
    """Progress events and messages; at most five progress events per second."""

    def __init__(self) -> None:
        self._stage = Stage("", 0, "")
        self._said = 0.0
        self._facts: dict[str, Any] = {}

    def start(self, stage: str, total: int, unit: str) -> None:
        self._stage, self._facts = Stage(stage, total, unit), {}
        self._print()

    def advance(self, count: int = 1, **facts: str | float) -> None:
        stage = self._stage
        stage.advance(count, facts)
        self._facts |= facts
        if stage.seconds - self._said >= _SECONDS_BETWEEN_EVENTS or (count and stage.done >= stage.total):
            self._print()

    def say(self, line: str) -> None:
        print_message(line)

    def _print(self) -> None:
        from mambamed.documents.event import ProgressEvent

        stage, self._said = self._stage, self._stage.seconds
        left = stage.seconds_left
        event = ProgressEvent(
            stage=stage.name,
            unit=stage.unit,
            done=stage.done,
            total=stage.total,
            fraction=min(stage.reached / stage.total, 1.0) if stage.total else 1.0,
            seconds=round(stage.seconds, 3),
            seconds_left=None if left is None else round(max(left, 0.0), 3),
            facts=as_json(self._facts),
        )
        _print(event.to_json(), "lines")


def print_message(text: str) -> None:
    """Print a message event."""
    from mambamed.documents.event import MessageEvent

    _print(MessageEvent(text=text).to_json(), "lines")


def print_result(result: Any, form: Form) -> None:
    """Print a result, or the event that holds it."""
    content = as_json(result)
    _print({"event": "result", "result": content} if form == "lines" else content, form)


def print_fault(kind: Any, lines: str, code: int, form: Form) -> None:
    """Print a fault, see `mambamed.documents.fault`, or the event that holds it."""
    from mambamed.documents.event import ErrorEvent
    from mambamed.documents.fault import Fault, FaultReport

    fault = Fault(kind=kind, messages=tuple(lines.split("\n")), exit_code=code)
    _print((ErrorEvent if form == "lines" else FaultReport)(error=fault).to_json(), form)


def is_first_process() -> bool:
    """Of several training processes, only the first one prints."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def _print(content: Any, form: Form) -> None:
    from mambamed.io.json_text import json_line, json_to_print

    if not is_first_process():
        return
    text = json_line(content) if form == "lines" else json_to_print(content)
    try:
        sys.stdout.write(f"{text}\n")  # one call, so that lines of several threads do not mix
        sys.stdout.flush()
    except BrokenPipeError:
        close_stdout()


def as_json(value: Any) -> Any:
    """Convert a summary to JSON values: dataclasses and documents to objects, paths and errors to text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(document := getattr(value, "to_json", None)):  # a document
        return as_json(document())
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, (Path, BaseException)):
        return str(value)
    plain = getattr(value, "tolist", None)  # a NumPy array or scalar
    return as_json(plain()) if callable(plain) else value
