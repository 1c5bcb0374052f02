"""`predict`: images in, one mask a case out, on the grid of the case's own file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mambamed.answers.mask_files import Wanted, missing
from mambamed.answers.pipeline import predict_cases
from mambamed.answers.postprocess import check_names
from mambamed.cases import Case
from mambamed.converters.inputs import find_inputs
from mambamed.errors import ModelError, RecipeError
from mambamed.io.dicom_seg import check_dicom_seg
from mambamed.jobs.record import Record, sha256_of
from mambamed.jobs.shard import chosen_shard
from mambamed.preparation.options import parse_bytes
from mambamed.progress import Progress, Silence
from mambamed.runs.device import keep_freed_memory
from mambamed.volumes.ensemble import Ensemble, load_ensemble


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
    save_probabilities: bool = False,
    statistics: bool = False,
    format: str = "nifti",
    shard: str | None = None,
    max_ram: str | None = None,
    max_vram: str | None = None,
    progress: Progress | None = None,
) -> PredictSummary:
    """Segment every case of a folder.

    One case is read ahead and one is written behind while the network works, so that it waits for neither;
    logits are decided as they come, so that memory does not grow with classes times voxels.

    Args:
        models: run folders or one-file models; several make an ensemble.
        inputs: an image, a folder of images, or a folder of case folders.
        output: receives `CASE.nii.gz` and run.json, which records every finished case. A case of the
            same input, models and settings that is recorded and unchanged is kept.
        folds, checkpoint, overlap, tta, device, precision: as in `load_ensemble`.
        resume: says that kept cases are expected; that is done without it as well.
        overwrite: do every case again, whatever the folder holds.
        preview: also write `CASE_preview.png`.
        save_probabilities: also write `CASE_probabilities.npz`: `probabilities` `(K, X, Y, Z)` float16 on the
            file's grid, before postprocessing, their `names`, and the `affine`.
        statistics: also write `CASE_statistics.json`: volume and mean intensity of each label or region.
        format: "nifti", or "dicom-seg": `CASE.dcm`, which refers to the series that was read.
        shard: do one part of the cases, as in "2/4", while other processes do the others in the same folder;
            where not given, torchrun's or SLURM's rank says which.
        max_ram: memory that this process may take, as in "6G": a case whose sum of windows does not fit is
            refused, the others go on; the axis that takes least memory is chosen.
        max_vram: memory of the GPU that it may take; what does not fit goes on with smaller batches, then
            on the CPU.
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
    ensemble = dataclasses.replace(ensemble, max_ram=parse_bytes(max_ram, "--max-ram") if max_ram else None)
    if max_vram:
        _bound_gpu(ensemble.device, parse_bytes(max_vram, "--max-vram"))
    if ensemble.task.reads != "labels":
        verb = {"points": "landmarks", "class": "classify"}[ensemble.task.reads]
        raise ModelError(f"{ensemble.run.root}: makes no masks; use 'mambamed {verb}'")
    for reason in ensemble.reasons:
        progress.say(reason)
    outputs = Wanted(preview, save_probabilities, statistics, format)
    part = chosen_shard(shard)
    check_names(ensemble.run.recipe.inference.postprocess, ensemble.run.manifest)
    cases = part.cases(find_inputs(Path(inputs), list(ensemble.run.manifest.channels)))
    if format == "dicom-seg":
        check_dicom_seg(cases)
    _check_output(cases, output, outputs)
    with part.lock(output):
        settings = {**_settings(ensemble, models, checkpoint), "format": format}
        record = Record(
            output, settings, ensemble.reasons, cases, overwrite, outputs.suffix, part.record_name
        )
        wanted = [case for case in cases if not record.holds(case) or missing(outputs, case, output)]
        progress.start("predicting", len(wanted), "cases")
        predict_cases(ensemble, wanted, record, progress, outputs)
    done = tuple(case.id for case in cases if case.id not in record.faults)
    return PredictSummary(
        output=output,
        cases=done,
        kept=len(cases) - len(wanted),
        faults=tuple(record.faults.values()),
        seconds=time.monotonic() - began,
        next_command=f"mambamed evaluate {output} REFERENCES",
    )


def _bound_gpu(device: torch.device, limit: int) -> None:
    """Let torch say that memory is out where so much is taken.

    Raises:
        RecipeError: there is no such bound on this device.
    """
    if device.type != "cuda":
        raise RecipeError(f"--max-vram: the device is {device}, a bound is known for CUDA; use --max-ram")
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), device)


def _settings(ensemble: Ensemble, models: Sequence[Path], checkpoint: str) -> dict[str, Any]:
    """What decides the masks beside the input."""
    members = []
    for model, member in zip(models, ensemble.members, strict=True):
        files = {fold: member.run.checkpoint(fold, checkpoint) for fold in member.folds}
        members.append(
            {
                "run": Path(model).resolve().name,
                "checkpoints": {f"fold_{fold}": sha256_of(path) for fold, path in files.items()},
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
        "postprocess": ensemble.run.recipe.inference.postprocess.model_dump(mode="json"),
    }


def _check_output(cases: Sequence[Case], output: Path, wanted: Wanted) -> None:
    """Refuse an output folder in which a mask would take the place of an image."""
    images = {channel.path.resolve(): channel.path for case in cases for channel in case.channels}
    for case in cases:
        mask = (output / f"{case.id}{wanted.suffix}").resolve()
        if mask in images:
            raise RecipeError(f"{images[mask]}: its mask would overwrite it; give another -o")
