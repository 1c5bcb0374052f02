"""run.json of a prediction folder: which cases are finished, of which input, by which models and settings."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mambamed
from mambamed.cases import Case
from mambamed.errors import CaseError, RecipeError
from mambamed.io.images import case_id_of
from mambamed.io.json_files import read_json, write_json
from mambamed.runs.provenance import provenance

NAME = "run.json"


class Record:
    """What a prediction folder holds. A mask, or points, count only if the record vouches for them.

    Args:
        output: the folder, locked by this process.
        settings: what decides the masks beside the input; JSON-ready.
        reasons: what was chosen on this machine, and why.
        cases: what is to be predicted.
        overwrite: forget what the folder holds.
        suffix: of a case's answer: that of a mask, or of a document of points.
        name: of the record's file; one of its own for each part of a folder (see `shard`). What other parts
            have finished is known here too.

    Attributes:
        faults: case id -> the line of a case that could not be done.

    Raises:
        RecipeError: the folder holds predictions of other settings, or files that are not predictions.
    """

    def __init__(
        self,
        output: Path,
        settings: dict[str, Any],
        reasons: Sequence[str],
        cases: Sequence[Case],
        overwrite: bool,
        suffix: str = ".nii.gz",
        name: str = NAME,
    ) -> None:
        self._output, self._suffix, self._path = output, suffix, output / name
        self._guard = threading.Lock()  # cases are finished in one thread and refused in another
        self.faults: dict[str, str] = {}
        known = self._known(settings, overwrite)
        if not overwrite:
            foreign = [c.id for c in cases if c.id not in known and self.mask(c).exists()]
            if foreign:
                raise RecipeError(
                    f"{output / foreign[0]}{suffix}: was there before and is no prediction of these models; "
                    "give another -o, or --overwrite"
                )
        # Every case has its entry before its mask is written: a mask without one is somebody else's.
        waiting = {case.id: {"status": "waiting"} for case in cases}
        self._document = {
            "version": mambamed.__version__,
            "settings": settings,
            "reasons": list(reasons),
            **provenance(),
            "cases": {**waiting, **known},
        }
        write_json(self._path, self._document)

    def _known(self, settings: dict[str, Any], overwrite: bool) -> dict[str, Any]:
        """The cases that former commands wrote here with the same settings, in whatever parts."""
        known: dict[str, Any] = {}
        for path in [*self._others(), self._path]:  # the own one is the last word
            if not path.is_file():
                continue
            document = read_json(path)
            if not isinstance(document, dict) or not isinstance(document.get("settings"), dict):
                raise RecipeError(f"{self._output}: holds the {path.name} of something else; give another -o")
            if overwrite:
                if self._path.name == NAME != path.name:  # this process holds the folder whole
                    path.unlink()
                continue
            if document["settings"] != settings:
                raise RecipeError(
                    f"{self._output}: holds predictions of other models or settings; "
                    "give --overwrite or another -o"
                )
            cases = document.get("cases")
            for case_id, facts in cases.items() if isinstance(cases, dict) else ():
                if isinstance(facts, dict) and (
                    facts.get("status") == "done" or known.get(case_id, {}).get("status") != "done"
                ):
                    known[case_id] = facts
        return known

    def _others(self) -> list[Path]:
        parts = [*self._output.glob("run_*_of_*.json"), self._output / NAME]
        return sorted(path for path in parts if path != self._path)

    def mask(self, case: Case) -> Path:
        """Where the mask of a case lies, or whatever its answer is."""
        return self._output / f"{case.id}{self._suffix}"

    def holds(self, case: Case) -> bool:
        """Whether this very case is finished: its input is the recorded one and its mask is intact."""
        known, mask = self._document["cases"][case.id], self.mask(case)
        return (
            known.get("status") == "done"
            and known.get("input") == _stamp(case)
            and mask.is_file()
            and known.get("sha256") == sha256_of(mask)
        )

    def done(self, case: Case, seconds: float, warnings: Sequence[str]) -> None:
        """The mask of a case is written."""
        facts = {"sha256": sha256_of(self.mask(case)), "seconds": round(seconds, 2), "warnings": [*warnings]}
        self._write(case, {"status": "done", **facts})

    def failed(self, case: Case, error: CaseError) -> None:
        """A case could not be done; the others go on."""
        self.faults[case.id] = f"{case.id}: {error}"
        self._write(case, {"status": "failed", "fault": str(error)})

    def _write(self, case: Case, facts: dict[str, Any]) -> None:
        with self._guard:
            self._document["cases"][case.id] = {**facts, "input": _stamp(case)}
            write_json(self._path, self._document)


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _stamp(case: Case) -> list[list[Any]]:
    """Name, size and time of the case's files: a changed input is done again.

    Of a DICOM series the size of all files of its folder and the time of the last.
    """
    stamps: list[list[Any]] = []
    for channel in case.channels:
        path = channel.path
        if path.is_dir() or (path.is_file() and case_id_of(path) is None):  # DICOM, one file standing for all
            folder = path if path.is_dir() else path.parent
            files = [file for file in folder.iterdir() if file.is_file()]
        else:
            files = [path] if path.is_file() else []
        states = [file.stat() for file in files]
        size = sum(state.st_size for state in states) if states else None
        changed = max((state.st_mtime_ns for state in states), default=None)
        stamps.append([path.name, size, changed])
    return stamps
