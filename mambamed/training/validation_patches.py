"""Scoring a network on patches of the validation cases after each epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from mambamed.batches.loader import PatchReader
from mambamed.batches.sampler import PatchRequest
from mambamed.run.device import autocast
from mambamed.tasks.base import Task


class ValidationPatches:
    """A fixed set of patches, the same after each epoch, so that epochs can be compared.

    The reader encodes, and must not augment.
    """

    def __init__(
        self, requests: Sequence[PatchRequest], reader: PatchReader, task: Task, batch_size: int
    ) -> None:
        self._requests, self._reader, self._task = list(requests), reader, task
        self._batch_size = batch_size

    def __len__(self) -> int:
        return len(self._requests)

    @torch.no_grad()
    def score(
        self, network: nn.Module, device: torch.device, precision: str, layout: torch.memory_format
    ) -> tuple[float, dict[str, float]]:
        """Mean loss and name -> score of a network; NaN for what is in no patch.

        The network is evaluated in evaluation mode and left in its previous mode.
        """
        was_training = network.training
        network.eval()
        loss, numbers = 0.0, []
        for first in range(0, len(self._requests), self._batch_size):
            requests = self._requests[first : first + self._batch_size]
            image, target = self._reader.batch(requests).on(device, layout)
            with autocast(device, precision):
                logits = network(image)
            loss += float(self._task.loss(logits, target)) * len(requests)
            numbers.append(self._task.score(logits, target).cpu())
        network.train(was_training)
        if not numbers:
            return math.nan, dict.fromkeys(self._task.names, math.nan)
        return loss / len(self._requests), self._task.summarize(torch.cat(numbers))
