"""run.json of an output folder: the finished cases, with their input, models and settings."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os.path import lexists
from pathlib import Path
from typing import Any

import mambamed
from mambamed.cases import Case
from mambamed.documents.prediction import PredictionRecord
from mambamed.errors import CaseError, RecipeError
from mambamed.io.images import files_behind
from mambamed.io.json_files import read_json, write_json
from mambamed.jobs.output import OutputFolder
from mambamed.jobs.shard import Shard
from mambamed.run.provenance import provenance, sha256_of
from mambamed.terminal import printable

# Between two writings of a record, in times of the last one: a long record takes a twentieth of the time. The
# cases that a kill loses are done again.
PAUSE = 20


class Record:
    """The cases of an output folder. A result is valid only if the record lists it as done.

    Args:
        place: the folder, locked by this process.
        settings: what determines the results in addition to the input; JSON-ready.
        reasons: what was chosen on this machine, and why.
        cases: to be done by this process.
        overwrite: discard what the folder holds.
        shard: the part that this process works on. It has a record of its own; cases that other parts have
            finished are known too.
        covariates: names of the covariates that count as input.
        names: further keys: names of what the results contain, and the account of the input.

    Attributes:
        place: the folder.
        faults: case id -> line, for each case that could not be done.

    Raises:
        RecipeError: the folder holds results of other settings, or files that this command did not write.
    """

    def __init__(
        self,
        place: OutputFolder,
        settings: dict[str, Any],
        reasons: Sequence[str],
        cases: Sequence[Case],
        overwrite: bool,
        shard: Shard = Shard(),  # noqa: B008 - frozen
        covariates: Sequence[str] = (),
        names: Mapping[str, Any] | None = None,
    ) -> None:
        self.place, self._settings, self._covariates = place, settings, covariates
        self._path, self._whole = place.record_path(shard), shard.count == 1
        self._guard = threading.Lock()  # cases finish in one thread and fail in another
        self.faults: dict[str, str] = {}
        foreign = [] if overwrite else self._unrecorded(cases)
        known = self._known(settings, overwrite)
        foreign = [path for path, case_id in foreign if case_id not in known]
        if foreign:
            raise RecipeError(
                f"{foreign[0]}: already exists and was not written by these models. Give another -o, or "
                "--overwrite."
            )
        self._reject_changed(known, cases)
        for case in cases:  # so that a file that is replaced is not held against its old digest after a kill
            if known.get(case.id, {}).get("status") == "done" and not self._same_input(known[case.id], case):
                if place.only:  # nothing else says that the file may be of another person
                    raise RecipeError(
                        f"{place.target}: is the result of another image, or the image has changed. Give "
                        "another -o, or --overwrite."
                    )
                del known[case.id]
        # Every case has its entry before its file is written: a file without an entry is not ours.
        waiting = {case.id: {"status": "waiting"} for case in cases}
        self._document: dict[str, Any] = {
            "format": PredictionRecord.FORMAT,
            "version": mambamed.__version__,
            "settings": settings,
            **(names or {}),
            "reasons": list(reasons),
            **provenance(),
            "cases": {**waiting, **known},
        }
        self._seconds, self._written = 0.0, 0.0
        self.flush()

    def _unrecorded(self, cases: Sequence[Case]) -> list[tuple[Path, str]]:
        """Files of cases, and tables without any record, that exist; each with its case id."""
        files = [(path, case.id) for case in cases if (path := self.place.file(case)) and lexists(path)]
        tables = [] if self.place.records() else [self.place.path / name for name in self.place.tables]
        return [*files, *((path, "") for path in tables if path.exists())]

    def _known(self, settings: dict[str, Any], overwrite: bool) -> dict[str, Any]:
        """The cases that earlier commands finished here with the same settings, in whatever parts."""
        known: dict[str, Any] = {}
        others = [path for path in self.place.records() if path != self._path]
        for path in [*others, self._path]:  # its own entries override those of others
            if not path.is_file():
                continue
            document = read_json(path)
            if not isinstance(document, dict) or not {"version", "cases"} <= document.keys():
                raise RecipeError(
                    f"{path}: was written by something else and is no record of results. Give another -o."
                )
            if overwrite:
                if self._whole and path != self._path:  # this process holds the folder whole
                    path.unlink(missing_ok=True)
                continue
            record = PredictionRecord.checked(document, path)
            if record.settings != settings:
                raise RecipeError(
                    f"{path}: holds predictions of other models or settings. Give --overwrite or another -o."
                )
            _merge(known, record.to_json()["cases"])
        return known

    def holds(self, case: Case) -> bool:
        """Whether this case is finished: its input is the recorded one and its file exists."""
        known, path = self._document["cases"][case.id], self.place.file(case)
        done = known.get("status") == "done" and self._same_input(known, case)
        return done and (path is None or path.is_file())

    def _reject_changed(self, known: Mapping[str, Any], cases: Sequence[Case]) -> None:
        """Reject results that somebody has changed; `known` is empty with `--overwrite`."""
        digests: dict[str, set[str]] = {}
        for case in cases:
            if (entry := known.get(case.id, {})).get("status") == "done" and "sha256" in entry:
                digests[f"{case.id}{self.place.suffixes[0]}"] = {entry["sha256"]}
        tables = [PredictionRecord.read(path).tables for path in self.place.records()] if known else []
        for name, digest in (pair for table in tables if all(tables) for pair in table.items()):
            digests.setdefault(name, set()).add(digest)
        for name, written in digests.items():
            path = self.place.path / name
            if path.is_file() and sha256_of(path) not in written:
                raise RecipeError(
                    f"{path}: was changed after mambamed wrote it. Give another -o, or --overwrite."
                )

    @contextmanager
    def writing_tables(self) -> Iterator[None]:
        """Within the block the tables are written; their digests show whether somebody changes them."""
        self._document["tables"] = {}
        self.flush()
        yield
        further = [f"{i}{end}" for i in self._document["cases"] for end in self.place.suffixes[1:]]
        paths = [self.place.path / name for name in (*self.place.tables, *further)]
        self._document["tables"] = {path.name: sha256_of(path) for path in paths if path.is_file()}
        self.flush()

    def finished(self, cases: Sequence[Case]) -> dict[str, Mapping[str, Any]]:
        """The entries of the finished cases, including those that other parts have finished meanwhile."""
        known: dict[str, Any] = {}
        for path in self.place.records():
            if path != self._path and (other := PredictionRecord.read(path)).settings == self._settings:
                _merge(known, other.to_json()["cases"])
        _merge(known, self._document["cases"])
        return {
            case.id: entry
            for case in cases
            if (entry := known.get(case.id, {})).get("status") == "done"
            and self._same_input(entry, case)
            and ((path := self.place.file(case)) is None or path.is_file())
        }

    def done(
        self, case: Case, seconds: float, warnings: Sequence[str], results: Mapping[str, Any] | None = None
    ) -> None:
        """The files of a case are written; `results` are what the record itself keeps."""
        path = self.place.file(case)
        digest = {} if path is None else {"sha256": sha256_of(path)}
        facts = {**digest, "seconds": round(seconds, 2), "warnings": [*warnings], **(results or {})}
        self._write(case, {"status": "done", **facts})

    def failed(self, case: Case, error: CaseError) -> None:
        """A case could not be done; the others continue."""
        self.faults[case.id] = f"{case.id}: {error}"
        self._write(case, {"status": "failed", "fault": str(error)})

    def _write(self, case: Case, facts: dict[str, Any]) -> None:
        with self._guard:
            self._document["cases"][case.id] = {**facts, **self._input(case)}
            due = time.monotonic() >= self._written + PAUSE * self._seconds
        if due:
            self.flush()

    def flush(self) -> None:
        """Write the record as it is now."""
        with self._guard:
            began = time.monotonic()
            write_json(self._path, self._document)
            self._written = time.monotonic()
            self._seconds = self._written - began

    def _input(self, case: Case) -> dict[str, Any]:
        covariates = {name: case.covariates.get(name) for name in self._covariates}
        missing = {"missing": [*case.missing.values()]} if case.missing else {}
        return {"input": _stamp(case), **missing, **({"covariates": covariates} if covariates else {})}

    def _same_input(self, entry: Mapping[str, Any], case: Case) -> bool:
        known = {"missing": [], **self._input(case)}
        return all((entry.get(key) or []) == value for key, value in known.items())


def _merge(known: dict[str, Any], cases: Mapping[str, Any]) -> None:
    """Add the entries of a record; one that is done stays done."""
    for case_id, facts in cases.items():
        if facts["status"] == "done" or known.get(case_id, {}).get("status") != "done":
            known[case_id] = facts


def _stamp(case: Case) -> list[list[Any]]:
    """Name, size and time of the case's files: a changed input is done again.

    Of a DICOM series the size of all files and the time of the last.
    """
    stamps: list[list[Any]] = []
    for channel in case.channels:
        path = channel.path
        try:
            states = [file.stat() for file in files_behind(path, channel.files)]
        except OSError:  # vanished, or not permitted: reading the case reports that
            states = []
        size = sum(state.st_size for state in states) if states else None
        changed = max((state.st_mtime_ns for state in states), default=None)
        stamps.append([printable(path.name), size, changed])
    return stamps
