"""`predict`: images in, one mask a case out, on the grid of the case's own file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mambamed
from mambamed.cases import Case
from mambamed.converters import find_inputs
from mambamed.errors import CaseError, RecipeError
from mambamed.inference.ensemble import Ensemble, load_ensemble
from mambamed.inference.restore import native_labels
from mambamed.io.documents import read_json, write_json
from mambamed.io.images import Image, read_image, write_image
from mambamed.io.lock import folder_lock
from mambamed.preparation.grid import CaseGeometry
from mambamed.preparation.prepare_image import prepare_image
from mambamed.progress import Progress, Silence
from mambamed.runs.device import keep_freed_memory
from mambamed.tasks.segmentation import Segmentation


@dataclass(frozen=True)
class PredictSummary:
    """What `predict` did.

    Attributes:
        output: the folder of the masks.
        cases: ids of the cases that now have a mask.
        kept: how many of them were there already.
        faults: one line for every case that could not be done.
        seconds: wall time.
        next_command: what to do next.
    """

    output: Path
    cases: tuple[str, ...]
    kept: int
    faults: tuple[str, ...]
    seconds: float
    next_command: str


def predict(
    models: Sequence[Path],
    inputs: Path,
    output: Path,
    *,
    folds: str = "all",
    checkpoint: str = "best",
    overlap: float | None = None,
    tta: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    preview: bool = False,
    progress: Progress | None = None,
) -> PredictSummary:
    """Segment every case of a folder.

    One case is read ahead and one is written behind while the network works, so that it waits for neither.

    Args:
        models: run folders; several make an ensemble.
        inputs: an image, a folder of images, or a folder of case folders.
        output: receives `CASE.nii.gz` and run.json, which records every finished case. A case of the
            same input, models and settings that is recorded and unchanged is kept.
        folds, checkpoint, overlap, tta, device, precision: as in `load_ensemble`.
        resume: says that kept cases are expected; that is done without it as well.
        overwrite: do every case again, whatever the folder holds.
        preview: also write `CASE_preview.png`.
        progress: hears how far the work is.

    Raises:
        MambamedError: nothing can be predicted at all: no images, no usable model, the folder holds
            predictions of other models or settings.
    """
    began = time.monotonic()
    progress = progress or Silence()
    keep_freed_memory()
    ensemble = load_ensemble(
        models,
        folds=folds,
        checkpoint=checkpoint,
        overlap=overlap,
        tta=tta,
        device=device,
        precision=precision,
    )
    for reason in ensemble.reasons:
        progress.say(reason)
    cases = find_inputs(Path(inputs), list(ensemble.run.manifest.channels))
    with folder_lock(output):
        record = Record(output, _settings(ensemble, models, checkpoint), list(ensemble.reasons), overwrite)
        wanted = [case for case in cases if not record.holds(case)]
        progress.start("predicting", len(wanted), "cases")
        for case, image, labels, seconds in _answers(ensemble, wanted, record, progress):
            path = output / f"{case.id}.nii.gz"
            write_image(path, labels, like=image)
            if preview:
                _draw(output / f"{case.id}_preview.png", image, labels, ensemble.run.manifest.labels)
            record.done(case, path, seconds)
    done = tuple(case.id for case in cases if case.id not in record.faults)
    return PredictSummary(
        output=output,
        cases=done,
        kept=len(cases) - len(wanted),
        faults=tuple(record.faults.values()),
        seconds=time.monotonic() - began,
        next_command=f"mambamed evaluate {output} REFERENCES",
    )


class Record:
    """run.json of a prediction folder: what is finished, of which input, by which models and settings.

    Args:
        output: the folder.
        settings: what decides the masks; JSON-ready.
        reasons: what was chosen on this machine, and why.
        overwrite: forget what the folder holds.

    Raises:
        RecipeError: the folder holds predictions of other settings.
    """

    def __init__(self, output: Path, settings: dict[str, Any], reasons: list[str], overwrite: bool) -> None:
        self._path = output / "run.json"
        self._document: dict[str, Any] = {
            "version": mambamed.__version__,
            "settings": settings,
            "reasons": reasons,
            "cases": {},
        }
        self.faults: dict[str, str] = {}
        if self._path.is_file() and not overwrite:
            known = read_json(self._path)
            if known.get("settings") != settings:
                raise RecipeError(
                    f"{output}: holds predictions of other models or settings; give --overwrite or another -o"
                )
            self._document["cases"] = known.get("cases", {})
        self._output = output

    def holds(self, case: Case) -> bool:
        """Whether this very case is finished: its input is the recorded one and its mask is intact."""
        known = self._document["cases"].get(case.id, {})
        mask = self._output / f"{case.id}.nii.gz"
        return (
            known.get("status") == "done"
            and known.get("input") == _stamp(case)
            and mask.is_file()
            and known.get("sha256") == _sha256(mask)
        )

    def done(self, case: Case, mask: Path, seconds: float) -> None:
        """The mask of a case is written."""
        self._write(case, {"status": "done", "sha256": _sha256(mask), "seconds": round(seconds, 2)})

    def failed(self, case: Case, error: CaseError) -> None:
        """A case could not be done; the others go on."""
        self.faults[case.id] = f"{case.id}: {error}"
        self._write(case, {"status": "failed", "fault": str(error)})

    def _write(self, case: Case, facts: dict[str, Any]) -> None:
        self._document["cases"][case.id] = {**facts, "input": _stamp(case)}
        write_json(self._path, self._document)


Prepared = tuple[Image, NDArray[np.float32], CaseGeometry]


def _answers(
    ensemble: Ensemble, cases: Sequence[Case], record: Record, progress: Progress
) -> Iterator[tuple[Case, Image, NDArray, float]]:
    """Label maps in the order of the cases; the next case is read while the network works on this one."""
    task = ensemble.task
    assert isinstance(task, Segmentation)
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "restorer") as restorer:
        ahead: Future[Prepared] | None = None
        behind: tuple[Case, Image, Future[NDArray], float] | None = None
        for number, case in enumerate(cases):
            began = time.monotonic()
            reading = ahead or reader.submit(_read, case, ensemble)
            following = cases[number + 1] if number + 1 < len(cases) else None
            try:
                image, prepared, geometry = reading.result()
            except CaseError as error:
                record.failed(case, error)
                progress.advance(1, case=case.id)
                ahead = reader.submit(_read, following, ensemble) if following else None
                continue
            ahead = reader.submit(_read, following, ensemble) if following else None
            logits = ensemble.logits(prepared)
            del prepared
            restoring = restorer.submit(native_labels, logits, geometry, task)
            if behind is not None:
                yield behind[0], behind[1], behind[2].result(), behind[3]
            behind = (case, image, restoring, time.monotonic() - began)
            progress.advance(1, case=case.id)
        if behind is not None:
            yield behind[0], behind[1], behind[2].result(), behind[3]


def _read(case: Case, ensemble: Ensemble) -> Prepared:
    images = [read_image(channel.path, channel.volume) for channel in case.channels]
    array, geometry = prepare_image(images, ensemble.run.plan)
    return images[0], array, geometry


def _settings(ensemble: Ensemble, models: Sequence[Path], checkpoint: str) -> dict[str, Any]:
    """What decides the masks beside the input."""
    members = []
    for model, member in zip(models, ensemble.members, strict=True):
        files = [member.run.checkpoint(fold, checkpoint) for fold in member.run.folds]
        members.append(
            {
                "run": Path(model).name,
                "checkpoints": {
                    str(f.relative_to(member.run.root)): _sha256(f) for f in files if f.is_file()
                },
                "networks": len(member.networks),
                "overlap": member.windows.overlap,
                "gaussian": member.windows.gaussian,
                "mirror_axes": list(member.windows.mirror_axes),
                "patch_size": list(member.windows.patch_size),
            }
        )
    return {
        "members": members,
        "device": ensemble.device.type,
        "precision": ensemble.precision,
    }


def _stamp(case: Case) -> list[list[Any]]:
    """Name, size and time of the case's files: a changed input is done again."""
    stamps = []
    for channel in case.channels:
        status = channel.path.stat() if channel.path.exists() else None
        size, changed = (status.st_size, status.st_mtime_ns) if status else (None, None)
        stamps.append([channel.path.name, size, changed])
    return stamps


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _draw(path: Path, image: Image, labels: NDArray, names: Mapping[str, int]) -> None:
    from mambamed.report.pictures import PicturedCase, draw_cases

    title = path.name.removesuffix("_preview.png")
    draw_cases(path, [PicturedCase(title, image.array, image.affine, prediction=labels)], names)
