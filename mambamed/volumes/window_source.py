"""Windows of an image on the device of the networks, without waiting for the copy of each one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from mambamed.run.streams import CudaStreams, Streams, copied

Box = tuple[slice, ...]
_IMAGE_SHARE = 1 / 16  # of a GPU's free memory that the image may take


class WindowSource:
    """Cuts windows from an image, on a GPU if there is one.

    A copy of the image lies on the GPU, unless it takes more than a small part of the GPU's free memory,
    because the networks and the sum of the windows need the rest. Without it, the windows of the next pass
    are copied while the networks compute.
    """

    def __init__(self, image: Tensor, device: torch.device) -> None:
        self._image, self._device = image, device
        self._copy: Tensor | None = None
        self._ahead: tuple[Sequence[Box], list[Tensor], object] | None = None
        if image.nbytes <= free_bytes(device) * _IMAGE_SHARE:
            with suppress(torch.OutOfMemoryError):  # because of --max-vram, or of other processes
                self._copy = torch.empty_like(image, device=device).copy_(image)
        self._streams = None if self._copy is not None else side_streams(device)

    def prepare(self, boxes: Sequence[Box]) -> None:
        """Queue copies of the windows that are cut next."""
        if self._streams is None or not boxes:
            return
        with suppress(torch.OutOfMemoryError), self._streams.aside():
            windows = [copied(self._image[box], self._device) for box in boxes]
            self._ahead = boxes, windows, self._streams.mark()

    def cut(self, boxes: Sequence[Box]) -> list[Tensor] | None:
        """Windows of the image on the device, if it or they are there."""
        if self._copy is not None:
            return [self._copy[box] for box in boxes]
        ahead, self._ahead = self._ahead, None
        if ahead is None or self._streams is None or list(ahead[0]) != list(boxes):
            return None
        self._streams.join(ahead[2], ahead[1])
        return ahead[1]

    def give_back(self) -> bool:
        """Free the device's memory, and use no more; returns whether any was used."""
        used = self._copy is not None or self._ahead is not None
        self._copy = self._ahead = self._streams = None
        return used


def side_streams(device: torch.device) -> Streams | None:
    """Those of a GPU; None for a CPU."""
    return CudaStreams(device) if device.type == "cuda" else None


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU; 0 for a CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
