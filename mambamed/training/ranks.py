"""Several processes that train one network: each takes its share of a batch, all take the same step.

Gradients are averaged in one exchange after the backward pass; the first process (rank 0) alone scores the
epochs, writes checkpoints and talks; the whole volumes at the end are shared. Started by `torchrun`, SLURM
with torchrun, or `mambamed train --gpus N`.
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
    """Who this process is among those that train together.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def mean(self, value: float, device: torch.device) -> float:
        """Mean of a number over all processes; NaN where one is NaN."""
        if self.world == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=_float64_device(device))
        dist.all_reduce(tensor)
        return float(tensor) / self.world

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
        """Those of the items that this process does; together the processes do each one once."""
        return list(items[self.rank :: self.world])

    def gather(self, done: Sequence[Answer]) -> list[Answer]:
        """What all processes made of their shares, in the order of the items, in every process."""
        if self.world == 1:
            return list(done)
        boxes: list[Any] = [None] * self.world
        dist.all_gather_object(boxes, list(done))
        return interleaved(boxes)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


@dataclass(frozen=True)
class ShareOfSampler:
    """A process's share of the patches of a step.

    Attributes:
        sampler: of the whole batch, that of all processes together.
    """

    sampler: Sampler
    ranks: Ranks

    def requests(self, step: int) -> list[PatchRequest]:
        """The patches of a step that this process reads."""
        whole = self.sampler.requests(step)
        size = len(whole) // self.ranks.world
        return whole[self.ranks.rank * size : (self.ranks.rank + 1) * size]


def interleaved(shares: Sequence[Sequence[Answer]]) -> list[Answer]:
    """The whole of which `Ranks.share` made these.

    >>> interleaved([["a", "c", "e"], ["b", "d"]])
    ['a', 'b', 'c', 'd', 'e']
    """
    world, count = len(shares), sum(len(share) for share in shares)
    return [shares[n % world][n // world] for n in range(count)]


def join_ranks(device: str) -> tuple[Ranks, str]:
    """Meet the other processes where this one was started as one of several.

    Args:
        device: as asked for: "auto", "cpu", "cuda".

    Returns:
        Who this process is, and its device: its own GPU where there are GPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks(), device
    on_gpu = device in {"auto", "cuda"} and torch.cuda.is_available()
    if on_gpu:
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
        torch.cuda.set_device(torch.device(device))
    if not dist.is_initialized():
        # Imported later, its functions' default arguments would hold the group beyond `leave_ranks`.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    return Ranks(dist.get_rank(), dist.get_world_size()), device


def leave_ranks() -> None:
    """Part from the other processes, where there are any, once all is done.

    A process that ends without may die on SIGABRT instead: gloo's threads, which end with the group, then let
    go of tensors of an interpreter that is gone.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _float64_device(device: torch.device) -> torch.device:
    return device if device.type == "cuda" else torch.device("cpu")
