"""Scoring a network on patches of the validation cases after each epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mambamed.batches.loader import PatchReader
from mambamed.batches.sampler import PatchRequest
from mambamed.report.contact_sheet import SeenPatch
from mambamed.run.device import autocast
from mambamed.run.workplace import Workplace
from mambamed.tasks.base import Task
from mambamed.training.ranks import Ranks

_SEEN = 3  # patches in the picture of an epoch


class ValidationPatches:
    """A fixed set of patches, the same after each epoch, so that epochs can be compared.

    The reader encodes, and must not augment.

    Attributes:
        seen: some of the patches and what the network answered last, in the first of several processes.
    """

    def __init__(
        self, requests: Sequence[PatchRequest], reader: PatchReader, task: Task, batch_size: int
    ) -> None:
        self._requests, self._reader, self._task = list(requests), reader, task
        self._batch_size = batch_size
        self.seen: list[SeenPatch] = []
        self._wanted = 0

    def __len__(self) -> int:
        return len(self._requests)

    @torch.no_grad()
    def score(
        self,
        network: nn.Module,
        place: Workplace,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    ) -> tuple[float, dict[str, float]]:
        """Mean loss and name -> score of a network; NaN for what is in no patch.

        The processes share the patches, and all return the same. The network is evaluated in evaluation mode
        and left in its previous mode.
        """
        was_training = network.training
        network.eval()
        self.seen = []
        self._wanted = _SEEN if ranks.leads else 0
        size = self._batch_size
        batches = [self._requests[first : first + size] for first in range(0, len(self._requests), size)]
        found = ranks.gather([self._scored(network, place, batch) for batch in ranks.share(batches)])
        network.train(was_training)
        if not found:
            return math.nan, dict.fromkeys(self._task.names, math.nan)
        loss = sum(each for each, _ in found) / len(self._requests)
        return loss, self._task.summarize(torch.cat([numbers for _, numbers in found]))

    def _scored(
        self, network: nn.Module, place: Workplace, requests: Sequence[PatchRequest]
    ) -> tuple[float, Tensor]:
        """The sum of the losses of a batch, and its numbers, on the CPU."""
        batch = self._reader.batch(requests)
        image, target = batch.on(place.device, place.layout)
        with autocast(place.device, place.precision):
            logits = network(image)
        loss = float(self._task.loss(logits, target)) * len(requests)
        for k, case_id in enumerate(batch.case_ids):
            if len(self.seen) < self._wanted and (marks := self._task.marks(target[k], logits[k])):
                self.seen.append(SeenPatch(case_id, image[k, 0].cpu().numpy().copy(), *marks))
        return loss, self._task.score(logits, target).cpu()
