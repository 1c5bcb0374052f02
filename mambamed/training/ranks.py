"""Several processes that train one network: each reads its share of a batch, all take the same step.

Gradients are averaged in one exchange after the backward pass. Only the first process (rank 0) scores the
epochs, writes checkpoints and reports progress; the final validation of whole volumes is shared. Started by
`torchrun`, SLURM with torchrun, or `mambamed train --gpus N`.
"""

from __future__ import annotations

import datetime
import importlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mambamed.batches.sampler import PatchRequest, Sampler

Answer = TypeVar("Answer")
Item = TypeVar("Item")
_PATIENCE = datetime.timedelta(hours=24)  # rank 0 may score large volumes for hours while the others wait


@dataclass(frozen=True)
class Ranks:
    """The position of this process among those that train together."""

    rank: int = 0
    world: int = 1  # number of processes
    beside: int = 1  # number of those on this machine

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def mean(self, value: float, device: torch.device) -> float:
        """Mean of a number over all processes; NaN if one is NaN."""
        if self.world == 1:
            return value
        place = device if device.type == "cuda" else "cpu"  # other devices may lack float64
        tensor = torch.tensor([value], dtype=torch.float64, device=place)
        dist.all_reduce(tensor)
        return float(tensor) / self.world

    def average(self, numbers: Tensor) -> None:
        """Replace each number by its mean over all processes, NaN if one is NaN; does not wait for a GPU."""
        if self.world > 1:
            dist.all_reduce(numbers)
            numbers /= self.world

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its mean over all processes."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view(gradient.shape))
            start += gradient.numel()

    def agree(self, answer: Answer) -> Answer:
        """Rank 0's answer, in every process."""
        if self.world == 1:
            return answer
        box: list[Any] = [answer]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def share(self, items: Sequence[Item]) -> list[Item]:
        """The items of this process; each item belongs to exactly one process."""
        return list(items[self.rank :: self.world])

    def gather(self, done: Sequence[Answer]) -> list[Answer]:
        """The results of all processes for their shares, in the order of the items, in every process."""
        if self.world == 1:
            return list(done)
        boxes: list[Any] = [None] * self.world
        dist.all_gather_object(boxes, list(done))
        return interleaved(boxes)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()


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
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks(), device
    on_gpu = device in {"auto", "cuda"} and torch.cuda.is_available()
    if on_gpu:
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
        torch.cuda.set_device(torch.device(device))
    if not dist.is_initialized():
        # If imported later, its functions' default arguments would keep the group alive after `leave_ranks`.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return Ranks(dist.get_rank(), dist.get_world_size(), beside), device


def leave_ranks() -> None:
    """Leave the process group, if there is one, when all is done.

    Otherwise gloo's threads may release tensors after the interpreter has ended, which is a SIGABRT.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
