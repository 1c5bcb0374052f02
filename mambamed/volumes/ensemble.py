"""The networks of one or several runs, loaded once for all cases."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mambamed.documents.ensemble import EnsembleFile
from mambamed.documents.splits import FoldName
from mambamed.errors import ModelError, RecipeError
from mambamed.io.json_files import json_text
from mambamed.networks import network_class
from mambamed.preparation.options import parse_bytes
from mambamed.progress import Progress
from mambamed.recipe import Inference
from mambamed.run.device import memory_format
from mambamed.run.export import open_model
from mambamed.run.folder import Run
from mambamed.run.model import load_network
from mambamed.run.provenance import sha256_of
from mambamed.run.shallow import make_shallow_safe
from mambamed.run.workplace import choose_workplace
from mambamed.tasks.base import Task
from mambamed.volumes.sliding_window import Slab, Windows, slab_axis, window_slabs

_LONG_SECONDS = 600  # of one image, which are announced
_AXIS = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class Serving:
    """How models are loaded and run; the options that all commands with models share."""

    folds: str = "all"  # all trained ones, or e.g. "0,2"
    checkpoint: str = "best"  # or "last"
    overlap: float | None = None  # overrides the recipe's, like `tta` and `precision`
    tta: str | None = None
    device: str = "auto"  # see `run.device.choose_device`
    precision: str | None = None
    max_ram: str | None = None  # memory limit of this process, e.g. "6G": a larger case is rejected
    max_windows: int = 100_000  # an image that needs more is rejected
    max_vram: str | None = None  # GPU memory limit; beyond it batches shrink, then the CPU is used


@dataclass(frozen=True)
class Member:
    """One run of an ensemble: its networks, one per fold, and their windows."""

    run: Run
    folds: tuple[FoldName, ...]
    networks: tuple[nn.Module, ...]
    windows: Windows
    layout: torch.memory_format = torch.contiguous_format  # of the networks and their input
    model: str = ""  # name of the run folder or model file
    checkpoint: str = "best"  # or "last"
    weight: float = 1.0  # of each of its networks, relative to those of other members


@dataclass(frozen=True)
class Ensemble:
    """Networks whose logits are averaged."""

    members: tuple[Member, ...]  # one per run; all have the same channels, preparation and outputs
    task: Task
    device: torch.device
    precision: str
    reasons: tuple[str, ...]  # one line each about device, precision and scan backend, with the reason
    max_ram: int | None = None  # bytes that this process may use; None: no limit
    max_windows: int | None = None  # per image
    resident: bool = False  # whether slabs stay on a GPU, see `window_slabs`; of one member only
    also: Callable[[Tensor], Tensor] | None = None  # makes further channels of the slabs, see `ForwardPass`
    file: EnsembleFile | None = None  # from which it was loaded

    @property
    def passes(self) -> int:
        """Forward passes per window, over all networks and mirrored copies."""
        return sum(len(each.networks) * 2 ** len(each.windows.mirror_axes) for each in self.members)

    @property
    def run(self) -> Run:
        """The run whose manifest and plan stand for all."""
        return self.members[0].run

    def described(self) -> dict[str, Any]:
        """What determines the results in addition to the input, for the record; JSON-ready."""
        members = [
            {
                "run": member.model,
                "checkpoints": {
                    f"fold_{fold}": sha256_of(member.run.weights(fold, member.checkpoint))
                    for fold in member.folds
                },
                "preparation": _digest_of_preparation(member.run),
                "overlap": member.windows.overlap,
                "gaussian": member.windows.gaussian,
                "mirror_axes": list(member.windows.mirror_axes),
                "patch_size": list(member.windows.patch_size),
                **({"mirror_order": list(order)} if (order := member.windows.mirror_order) else {}),
                **({"weight": member.weight} if member.weight != 1 else {}),
            }
            for member in self.members
        ]
        return {"members": members, "device": self.device.type, "precision": self.precision}

    def slabs(
        self,
        image: NDArray[np.floating],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        on_message: Callable[[str], None] = lambda line: None,
    ) -> Iterator[Slab]:
        """Logits of a normalized `(C, X, Y, Z)` image on the prepared grid, slab after slab.

        The callbacks and errors are those of `window_slabs`, for each member in turn.
        """
        tensor = torch.from_numpy(np.ascontiguousarray(image, np.float32))
        axis = slab_axis(
            tensor.shape[1:], self.members[0].windows.patch_size, thrifty=self.max_ram is not None
        )
        streams = [
            window_slabs(
                member.networks,
                tensor,
                member.windows,
                device=self.device,
                precision=self.precision,
                layout=member.layout,
                axis=axis,
                max_ram=self.max_ram,
                max_windows=self.max_windows,
                on_progress=on_progress,
                on_message=on_message,
                also=self.also,
                resident=self.resident and len(self.members) == 1,
            )
            for member in self.members
        ]
        return mean_of_slabs(streams, [len(member.networks) * member.weight for member in self.members])

    def slabs_of_case(self, case_id: str, image: NDArray[np.floating], progress: Progress) -> Iterator[Slab]:
        """`slabs`, with the windows of the case reported to `progress`, and its time if that is long."""
        first: list[tuple[int, float]] = []  # windows done, and when; what was compiled is done by then

        def on_progress(done: int, total: int) -> None:
            progress.advance(0, case=case_id, windows=f"{done}/{total}")
            if len(first) < 2:
                first.append((done, time.monotonic()))
            if len(first) == 2 and first[1][0] == done:
                (before, began), (now, ended) = first
                seconds = (ended - began) / max(now - before, 1) * (total - now) * len(self.members)
                if seconds > _LONG_SECONDS:
                    hours = f"{seconds / 3600:.1f} h" if seconds > 7200 else f"{seconds / 60:.0f} min"
                    progress.say(f"{case_id}: {total} windows, about {hours}")

        return self.slabs(image, on_progress, progress.say)


def mean_of_slabs(streams: Sequence[Iterator[Slab]], weights: Sequence[float]) -> Iterator[Slab]:
    """Weighted mean of the slabs of one volume from several sources, whose slabs end at different planes.

    Each stream gives the whole volume along the same axis. The weights need not sum to 1.
    """
    if len(streams) == 1:
        yield from streams[0]
        return
    held = [next(stream, None) for stream in streams]
    start = 0
    while all(slab is not None for slab in held):
        slabs = [slab for slab in held if slab is not None]
        stop = min(slab.stop for slab in slabs)
        planes = sum(
            slab.planes[start - slab.start : stop - slab.start] * (weight / sum(weights))
            for slab, weight in zip(slabs, weights, strict=True)
        )
        assert isinstance(planes, Tensor)
        yield Slab(slabs[0].axis, start, planes)
        held = [
            next(stream, None) if slab.stop == stop else slab
            for slab, stream in zip(slabs, streams, strict=True)
        ]
        start = stop


def load_ensemble(models: Sequence[Path], serving: Serving = Serving()) -> Ensemble:
    """Load all networks of run folders or one-file models, or those that an ensemble file names.

    Raises ModelError if a run, fold or checkpoint is missing or damaged, or if runs cannot be averaged.
    """
    file, parts = _parts_of(models, serving)
    models = [part.model for part in parts]
    max_ram = parse_bytes(serving.max_ram, "--max-ram") if serving.max_ram else None
    runs = [open_model(Path(model)) for model in models]
    if not runs:
        raise RecipeError("no model. Give a run folder or a model file.")
    place, reasons = choose_workplace(
        serving.device, serving.precision or runs[0].recipe.training.precision, one_per_gpu=True
    )
    del reasons["layout"]  # each network has its own
    for run in runs[1:]:
        check_same_question(runs[0], run)
    members = []
    for part, run in zip(parts, runs, strict=True):
        layout = layout_of(run.recipe.network.name, place.device, place.precision)
        folds = tuple(run.chosen_folds(part.folds))
        _check_digests(run, part)
        networks = tuple(
            load_network(run, fold, part.checkpoint, place.device).to(memory_format=layout)  # type: ignore[call-overload]
            for fold in folds
        )
        if place.device.type == "cpu" and place.precision == "bf16":
            for network in networks:
                make_shallow_safe(network)
        windows = windows_of(run, serving.overlap, serving.tta, place.device)
        name = Path(part.model).resolve().name
        members.append(Member(run, folds, networks, windows, layout, name, part.checkpoint, part.weight))
    if serving.max_vram:
        _limit_gpu(place.device, parse_bytes(serving.max_vram, "--max-vram"))
    return Ensemble(
        tuple(members),
        runs[0].task,
        place.device,
        place.precision,
        tuple(reasons.values()),
        max_ram,
        serving.max_windows,
        file=file,
    )


@dataclass(frozen=True)
class _Part:
    """A model and how it takes part; `digests`: fold_N -> sha256 of its checkpoint, if known."""

    model: Path
    folds: str
    checkpoint: str
    weight: float = 1.0
    digests: Mapping[str, str] = field(default_factory=dict)


def _parts_of(models: Sequence[Path], serving: Serving) -> tuple[EnsembleFile | None, list[_Part]]:
    """The models, or those of an ensemble file, which must be the only one."""
    files = [Path(model) for model in models if is_ensemble(Path(model))]
    if not files:
        return None, [_Part(Path(model), serving.folds, serving.checkpoint) for model in models]
    path = files[0]
    if len(models) > 1:
        raise RecipeError(f"{path}: names all runs of an ensemble. Give no other model with it.")
    if serving.folds != "all":
        raise RecipeError(f"--folds {serving.folds}: {path} names the folds. Remove the option.")
    file = EnsembleFile.read(path)
    parts = []
    for member in file.members:
        folds = ",".join(name.removeprefix("fold_") for name in member.checkpoints)
        model = path.parent / member.model
        parts.append(_Part(model, folds, file.checkpoint, member.weight, member.checkpoints))
    return file, parts


def is_ensemble(model: Path) -> bool:
    """Whether a model is an ensemble file."""
    return model.suffix == ".json" and model.is_file()


def _digest_of_preparation(run: Run) -> str:
    """Of what decides how images are prepared and what outputs mean."""
    text = json_text([run.plan.to_json(), run.manifest.to_json()])
    return hashlib.sha256(text.encode()).hexdigest()


def _check_digests(run: Run, part: _Part) -> None:
    for name, digest in part.digests.items():
        fold = name.removeprefix("fold_")
        weights = run.weights(int(fold), part.checkpoint)
        if sha256_of(weights) != digest:
            raise ModelError(
                f"{weights}: is not the checkpoint that 'mambamed best' chose; it has changed since. Run "
                "'mambamed best' again."
            )


def _limit_gpu(device: torch.device, limit: int) -> None:
    """Set the limit at which torch reports that memory is exhausted; RecipeError if the device has none."""
    if device.type != "cuda":
        raise RecipeError(f"--max-vram: the device is {device}, only CUDA has a limit. Use --max-ram.")
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), device)


def layout_of(network: str, device: torch.device, precision: str) -> torch.memory_format:
    """The memory format in which a network is fastest.

    Source:
        Measured on an AVX-512 CPU in float32 on one thread: nnMamba, whose scans read channels last, needs
        3.2 s for 4 x 128^3 with channels last and 4.1 s without; all others, which spend more of their time
        in convolutions, need 10 to 25 % more with it (SegMamba, U-Mamba, nnU-Net at 4 x 64^3).

    >>> layout_of("nnmamba", torch.device("cpu"), "fp32"), layout_of("umamba", torch.device("cpu"), "fp32")
    (torch.channels_last_3d, torch.contiguous_format)
    """
    if device.type == "cpu" and getattr(network_class(network), "channels_last", False):
        return torch.channels_last_3d
    return memory_format(device, precision)


def windows_of(run: Run, overlap: float | None, tta: str | None, device: torch.device) -> Windows:
    """The windows of a run's network, from its recipe if nothing else is given.

    Raises RecipeError for an overlap outside 0 <= overlap < 1.
    """
    settings: Inference = run.recipe.inference
    overlap = settings.overlap if overlap is None else overlap
    if not 0 <= overlap < 1:
        raise RecipeError(f"--overlap {overlap}: must be at least 0 and less than 1")
    mirrored = run.recipe.training.augment.mirror if (tta or settings.tta) == "mirror" else ()
    if not run.task.averages_mirror_images:
        mirrored = ()
    return Windows(
        patch_size=run.plan.patch_size,
        overlap=overlap,
        gaussian=settings.gaussian,
        like_nnunet=run.plan.like_nnunet,
        mirror_axes=tuple(_AXIS[axis] for axis in mirrored),
        batch_size=1 if device.type == "cpu" else run.plan.batch_size,
        mirror_order=run.task.mirror_order,
    )


def check_same_question(first: Run, other: Run) -> None:
    """Raise ModelError for runs that differ in input or output and so cannot be averaged."""
    difference = first.manifest.difference(other.manifest)
    sizes = {"patch_size": (1, 1, 1), "batch_size": 1, "shape_median": (1, 1, 1)}
    same_plan = first.plan.changed(**sizes) == other.plan.changed(**sizes)
    if difference:
        fact = f"answers another question than {first.root}: {difference}"
        raise ModelError(f"{other.root}: {fact}. Average models with the same channels and answers.")
    if not same_plan:
        raise ModelError(f"{other.root}: differs from {first.root} in preparation; they cannot be averaged")
