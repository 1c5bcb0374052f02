"""The networks of one or several runs, loaded once for all cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mambamed.errors import ModelError, RecipeError
from mambamed.networks import network_class
from mambamed.recipe import Inference
from mambamed.runs.device import memory_format
from mambamed.runs.export import open_model
from mambamed.runs.folder import Run
from mambamed.runs.model import load_network
from mambamed.runs.workplace import choose_workplace
from mambamed.tasks.base import Task
from mambamed.volumes.sliding_window import Slab, Windows, slab_axis, window_slabs

_AXIS = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class Member:
    """One run's share of an ensemble: its networks, one a fold, and how they are led over a volume.

    Attributes:
        layout: memory format of the networks and their input.
    """

    run: Run
    folds: tuple[int, ...]
    networks: tuple[nn.Module, ...]
    windows: Windows
    layout: torch.memory_format = torch.contiguous_format


@dataclass(frozen=True)
class Ensemble:
    """Networks that answer together: the mean of their logits.

    Attributes:
        members: one a run; all read the same channels, prepared in the same way, and answer the same.
        task: what the logits mean.
        device, precision: where and how precisely to compute.
        reasons: a line about device, precision and scan backend each, with the reason.
        max_ram: bytes that this process may take; None: no bound.
    """

    members: tuple[Member, ...]
    task: Task
    device: torch.device
    precision: str
    reasons: tuple[str, ...]
    max_ram: int | None = None

    @property
    def run(self) -> Run:
        """The run whose manifest and plan stand for all."""
        return self.members[0].run

    def slabs(
        self,
        image: NDArray[np.floating],
        heard: Callable[[int, int], None] = lambda done, total: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Iterator[Slab]:
        """`(C, X, Y, Z)` image on the prepared grid -> its logits, slab after slab.

        Args:
            image: normalized.
            heard: called with (windows done, windows in all) of each member in turn.
            say: hears what was given up for lack of memory.

        Raises:
            CaseError: a network answers NaN or Inf, or the case does not fit into `max_ram`.
            RunError: the device has not the memory for a single window.
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
                heard=heard,
                say=say,
            )
            for member in self.members
        ]
        return mean_of_slabs(streams, [len(member.networks) for member in self.members])


def mean_of_slabs(streams: Sequence[Iterator[Slab]], weights: Sequence[float]) -> Iterator[Slab]:
    """Weighted mean of the slabs of one volume from several sources, whose slabs end at different planes.

    Args:
        streams: each gives the whole volume along the same axis.
        weights: one a stream; need not sum to 1.
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


def load_ensemble(
    models: Sequence[Path],
    *,
    folds: str = "all",
    checkpoint: str = "best",
    overlap: float | None = None,
    tta: str | None = None,
    device: str = "auto",
    precision: str | None = None,
) -> Ensemble:
    """Load every network that is to answer.

    Args:
        models: run folders, or one-file models.
        folds: "all" that are trained, or as in "0,2".
        checkpoint: "best" or "last".
        overlap, tta: go before the recipe's.
        device, precision: as in `runs.device`; the recipe's precision where not given.

    Raises:
        ModelError: a run, fold or checkpoint that is not there or damaged, or runs that do not fit together.
        RecipeError: an option that cannot be used.
    """
    runs = [open_model(Path(model)) for model in models]
    if not runs:
        raise RecipeError("predict: no model; give a run folder")
    place, reasons = choose_workplace(
        device, precision or runs[0].recipe.training.precision, one_per_gpu=True
    )
    del reasons["layout"]  # each network has its own
    for run in runs[1:]:
        _check_same_question(runs[0], run)
    members = []
    for run in runs:
        layout = layout_of(run.recipe.network.name, place.device, place.precision)
        networks, numbers = [], run.chosen_folds(folds)
        for fold in numbers:
            network = load_network(run, fold, checkpoint, place.device)
            networks.append(network.to(memory_format=layout))  # type: ignore[call-overload]
        windows = windows_of(run, overlap, tta, place.device)
        members.append(Member(run, tuple(numbers), tuple(networks), windows, layout))
    return Ensemble(tuple(members), runs[0].task, place.device, place.precision, tuple(reasons.values()))


def layout_of(network: str, device: torch.device, precision: str) -> torch.memory_format:
    """How a network's tensors lie in memory where it is fastest.

    Source:
        Measured on an AVX-512 CPU in float32, a thread: nnMamba, whose scans read channels last anyway, takes
        3.2 s for 4 x 128^3 with channels last and 4.1 s without; all others, the convolutions of which make
        up more of their time, take 10 to 25 % longer with them (SegMamba, U-Mamba, nnU-Net at 4 x 64^3).

    >>> layout_of("nnmamba", torch.device("cpu"), "fp32"), layout_of("umamba", torch.device("cpu"), "fp32")
    (torch.channels_last_3d, torch.contiguous_format)
    """
    if device.type == "cpu" and getattr(network_class(network), "channels_last", False):
        return torch.channels_last_3d
    return memory_format(device, precision)


def windows_of(run: Run, overlap: float | None, tta: str | None, device: torch.device) -> Windows:
    """How a run's network is led over a volume: its recipe's way, where nothing else is asked for.

    Raises:
        RecipeError: an overlap that no windows can have.
    """
    settings: Inference = run.recipe.inference
    overlap = settings.overlap if overlap is None else overlap
    if not 0 <= overlap < 1:
        raise RecipeError(f"--overlap {overlap}: must be at least 0 and less than 1")
    mirrored = run.recipe.training.augment.mirror if (tta or settings.tta) == "mirror" else ()
    if run.recipe.task == "landmarks" and run.recipe.landmarks.offsets:
        mirrored = ()  # an offset of a mirror image points the wrong way
    return Windows(
        patch_size=run.plan.patch_size,
        overlap=overlap,
        gaussian=settings.gaussian,
        mirror_axes=tuple(_AXIS[axis] for axis in mirrored),
        batch_size=1 if device.type == "cpu" else run.plan.batch_size,
        mirror_order=run.task.mirror_order,
    )


def _check_same_question(first: Run, other: Run) -> None:
    """Refuse to average runs that read or answer different things."""
    same_manifest = first.manifest.changed(name="") == other.manifest.changed(name="")
    sizes = {"patch_size": (1, 1, 1), "batch_size": 1, "shape_median": (1, 1, 1)}
    same_plan = first.plan.changed(**sizes) == other.plan.changed(**sizes)
    if not same_manifest or not same_plan:
        what = "channels, labels or regions" if not same_manifest else "preparation"
        raise ModelError(f"{other.root}: differs from {first.root} in {what}; they cannot be averaged")
