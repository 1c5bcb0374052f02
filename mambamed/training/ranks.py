"""Several processes that train one network: each reads its share of a batch, all take the same step.

torch's DistributedDataParallel averages the gradients while the backward pass computes the next ones. The
first process (rank 0) writes checkpoints and reports progress; the scoring of patches and of whole volumes is
shared. Started by `torchrun`, on one or several machines, or by `mambamed train --gpus N`.

There are two process groups. One exchanges gradients, by NCCL between GPUs. The other one exchanges all else
by gloo, through the CPU: a process that waits there for one that scores or writes needs no GPU, and learns at
once if the other one has ended.
"""

from __future__ import annotations

import datetime
import importlib
import inspect
import platform
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mambamed.batches.sampler import PatchRequest, Sampler
from mambamed.errors import RecipeError, RunError
from mambamed.schema_errors import some_of
from mambamed.training.launch import started

Answer = TypeVar("Answer")
Item = TypeVar("Item")
GRADIENT_WAIT = datetime.timedelta(minutes=30)  # for a process that is slow in a step, or ended unnoticed
_PATIENCE = datetime.timedelta(hours=24)  # for one that scores or writes, which gloo notices if it ends


@dataclass(frozen=True)
class Ranks:
    """The position of this process among those that train together."""

    rank: int = 0
    world: int = 1  # number of processes
    beside: int = 1  # number of those on this machine
    control: Any = None  # process group of all exchanges but those of a step; None: the default one

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def average(self, numbers: Tensor) -> None:
        """Replace each number by its mean over all processes, NaN if one is NaN; does not wait for a GPU."""
        if self.world > 1:
            dist.all_reduce(numbers)
            numbers /= self.world

    def parallel(self, loss: nn.Module) -> nn.Module:
        """The module with gradients that are averaged over all processes during the backward pass.

        It must return the loss itself: only so does torch know from the first backward pass which parameters
        have no gradient, e.g. those of a head whose depth has weight 0. That first pass must be exchanged;
        later ones need not be, e.g. those whose gradients are accumulated (`no_sync`).
        """
        if self.world == 1:
            return loss
        # Each process keeps the running statistics of its own patches, as without synchronized norms.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        kept: dict[str, Any] = {name: False}
        return DistributedDataParallel(loss, static_graph=True, gradient_as_bucket_view=True, **kept)

    def share_buffers(self, network: nn.Module) -> None:
        """Replace the buffers of a network, e.g. running statistics, by those of rank 0."""
        if self.world > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    def agree(self, answer: Answer) -> Answer:
        """Rank 0's answer, in every process."""
        if self.world == 1:
            return answer
        box: list[Any] = [answer]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def share(self, items: Sequence[Item]) -> list[Item]:
        """The items of this process; each item belongs to exactly one process."""
        return list(items[self.rank :: self.world])

    def gather(self, done: Sequence[Answer]) -> list[Answer]:
        """The results of all processes for their shares, in the order of the items, in every process."""
        if self.world == 1:
            return list(done)
        boxes: list[Any] = [None] * self.world
        dist.all_gather_object(boxes, list(done), group=self.control)
        return interleaved(boxes)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier(group=self.control)


@dataclass(frozen=True)
class ShareOfSampler:
    """A process's share of the patches that the sampler draws for the whole batch."""

    sampler: Sampler
    ranks: Ranks

    def requests(self, step: int) -> list[PatchRequest]:
        """The patches of a step that this process reads."""
        whole = self.sampler.requests(step)
        size = len(whole) // self.ranks.world
        return whole[self.ranks.rank * size : (self.ranks.rank + 1) * size]


def interleaved(shares: Sequence[Sequence[Answer]]) -> list[Answer]:
    """The inverse of `Ranks.share`, from the shares of all processes.
    >>> interleaved([["a", "c", "e"], ["b", "d"]])
    ['a', 'b', 'c', 'd', 'e']
    """
    world, count = len(shares), sum(len(share) for share in shares)
    return [shares[n % world][n // world] for n in range(count)]


def join_ranks(device: str) -> tuple[Ranks, str]:
    """Join the process group, if this process is one of several.

    Returns its rank and its device, a GPU of its own if there are GPUs and `device` is not "cpu".

    Raises:
        RecipeError: the variables of torchrun are incomplete or contradict each other, or a GPU is missing.
    """
    here = started()
    if here.world == 1:
        return Ranks(), device
    on_gpu = device in {"auto", "cuda"} and torch.cuda.is_available()
    if on_gpu:
        number, there = here.local_rank or 0, torch.cuda.device_count()
        if here.local_rank is None and there > 1:
            raise RecipeError(
                f"WORLD_SIZE={here.world}: LOCAL_RANK is not set, and this machine has {there} CUDA devices. "
                "Start the processes with torchrun."
            )
        if number >= there:
            raise RecipeError(
                f"process {number} of this machine: torch sees {there} CUDA devices. "
                "Start one process per GPU."
            )
        device = f"cuda:{number}"
        torch.cuda.set_device(torch.device(device))
    if not dist.is_initialized():
        # If imported later, its functions' default arguments would keep the group alive after `leave_ranks`.
        importlib.import_module("torch.distributed.nn.functional")
        try:
            dist.init_process_group("nccl" if on_gpu else "gloo", timeout=GRADIENT_WAIT)
        except ValueError as error:  # e.g. MASTER_ADDR is missing
            raise RecipeError(f"WORLD_SIZE={here.world}: {error}. Start them with torchrun.") from error
        # Weights of 1x1x1 convolutions have two equivalent strides in memory; nothing is lost.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return Ranks(dist.get_rank(), dist.get_world_size(), here.beside, _control_group()), device


@cache
def _control_group() -> Any:
    """The process group for all that is not part of a step, made once."""
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


def check_shared_folder(ranks: Ranks, folder: Path, seconds: float = 60.0) -> None:
    """Check that all processes see a folder that rank 0 has made, e.g. on several machines.

    Raises:
        RunError: names the machines that do not, after some seconds in which a network disk may show it.
    """
    if ranks.world == 1:
        return
    end = time.monotonic() + seconds
    while not folder.is_dir() and time.monotonic() < end:
        time.sleep(0.5)
    blind = sorted({host for host in ranks.gather(["" if folder.is_dir() else platform.node()]) if host})
    if blind:
        raise RunError(
            f"{folder}: is not there on {some_of(blind)}, where processes of this training run. "
            "Use a folder that all machines share, with the same path."
        )


def leave_ranks() -> None:
    """Leave the process group, if there is one, when all is done.

    Otherwise gloo's threads may release tensors after the interpreter has ended, which is a SIGABRT.
    """
    if dist.is_available() and dist.is_initialized():
        _control_group.cache_clear()
        dist.destroy_process_group()
