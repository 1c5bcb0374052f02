"""Runs mambamed as a process of its own: the command, its progress and faults, and how it is stopped.

Plain Python without 3D Slicer and without mambamed, whose libraries stay in their own environment. The events
are those of `--json-lines`, see docs/other-programs.md.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IMAGES = "images"  # folders and the case of a work folder
RESULTS = "results"
CASE = "volume"
_LINES_KEPT = 50  # of stderr
_ON_WINDOWS = os.name == "nt"


@dataclass(frozen=True)
class Model:
    """What a model needs and answers.

    Attributes:
        command: of mambamed.
        channels: names of the volumes, in the order of the network's input.
    """

    command: str
    channels: tuple[str, ...]


def read_model(path: str) -> Model | None:
    """Describe a run folder or a model file; None for other models, e.g. hf://org/name, and damaged ones."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                dataset = json.loads(archive.read("dataset.json"))
        else:
            dataset = json.loads((Path(path) / "dataset.json").read_text(encoding="utf-8"))
        command = (
            "landmarks" if dataset.get("landmarks") else "classify" if dataset.get("classes") else "predict"
        )
        return Model(command, tuple(dataset["channels"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return None


def image_files(work: Path, count: int) -> list[Path]:
    """Files for the volumes, one per channel; by nnU-Net's names, mambamed reads them as one case."""
    (work / IMAGES).mkdir(parents=True, exist_ok=True)
    return [work / IMAGES / f"{CASE}_{number:04}.nii.gz" for number in range(count)]


def command_words(program: str, command: str, model: str, work: Path, device: str = "auto") -> list[str]:
    """The words of the command that processes the volumes of `image_files`."""
    formats = {"predict": ["--format", "seg-nrrd"], "landmarks": ["--export", "mrk.json"]}
    if command not in formats:
        raise ValueError(f"{command}: expected predict or landmarks")
    paths = [model, str(work / IMAGES), "-o", str(work / RESULTS)]
    return [program, command, *paths, *formats[command], "--device", device, "--overwrite", "--json-lines"]


def result_file(command: str, work: Path) -> Path:
    """The segmentation with names and colors, or the markups."""
    suffix = {"predict": "seg.nrrd", "landmarks": "mrk.json"}[command]
    return work / RESULTS / f"{CASE}.{suffix}"


@dataclass
class State:
    """What is known of a process from its events.

    Attributes:
        text: one line about the current stage.
        fraction: finished part of the current stage; None before the first one.
        messages: for people, in their order.
        result: what the command printed; None before its end, or if it failed as a whole.
        faults: why the command or its case failed.
    """

    text: str = "starting"
    fraction: float | None = None
    messages: list[str] = field(default_factory=list)
    result: Any = None
    faults: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Read a line of stdout; what is no event is a message."""
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError):
            self.messages += [line.rstrip()] if line.strip() else []
            return
        if kind == "progress":
            self.fraction, self.text = event["fraction"], _in_words(event)
        elif kind == "message":
            self.messages.append(event["text"])
        elif kind == "error":
            self.faults += event["error"]["messages"]
        elif kind == "result":
            self.result = event["result"]
            self.faults += self.result.get("faults", []) if isinstance(self.result, dict) else []


def _in_words(event: Mapping[str, Any]) -> str:
    """A line about a stage, e.g. `predicting 0/1 cases, windows 3/12, 40 s left`."""
    parts = [f"{event['stage']} {event['done']}/{event['total']} {event['unit']}"]
    if "windows" in event["facts"]:
        parts.append(f"windows {event['facts']['windows']}")
    if event["seconds_left"]:
        parts.append(f"{event['seconds_left']:.0f} s left")
    return ", ".join(parts)


class Process:
    """A running command. Call `update` regularly; it never waits.

    Args:
        words: the command.
        environment: of the process (default: that of this one). Variables of Slicer's own Python
            (PYTHONHOME, LD_LIBRARY_PATH) must not be in it.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.state = State()
        self.cancelled = False
        self._errors: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        group = subprocess.CREATE_NEW_PROCESS_GROUP if _ON_WINDOWS else 0  # type: ignore[attr-defined]
        self._process = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=None if environment is None else dict(environment),
            creationflags=group,
        )
        self._threads = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._lines.put(line)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self._errors = [*self._errors, line.rstrip()][-_LINES_KEPT:]

    def update(self) -> bool:
        """Read the events that have come; returns whether the process still runs."""
        running = self._process.poll() is None or any(thread.is_alive() for thread in self._threads)
        while not self._lines.empty():
            self.state.add(self._lines.get())
        if not running and self.state.result is None and not self.state.faults and not self.cancelled:
            fact = f"mambamed ended with exit code {self._process.returncode}"
            self.state.faults = ["\n".join([fact, *self._errors])]
        return running

    @property
    def succeeded(self) -> bool:
        """Whether the command has ended, and its result is there."""
        return self._process.poll() == 0 and self.state.result is not None

    def cancel(self) -> None:
        """Interrupt the command, as Ctrl-C does; a second call ends it at once."""
        if self._process.poll() is None:
            if self.cancelled:
                self._process.kill()
            elif _ON_WINDOWS:
                self._process.send_signal(signal.CTRL_BREAK_EVENT)  # type: ignore[attr-defined]
            else:
                self._process.send_signal(signal.SIGINT)
        self.cancelled = True

    def end(self, patience: float = 5.0) -> None:
        """Cancel the command and wait until it has ended, so that its folder can be removed.

        Args:
            patience: seconds that it has to end by itself.
        """
        self.cancel()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
