"""What the networks say to a few windows: mirrored copies, a memory that may not suffice, empty windows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mambamed.errors import RunError
from mambamed.runs.device import autocast
from mambamed.volumes.memory import is_out_of_memory

_REMEMBERED_BYTES = 2**28  # the largest answer that is kept for windows whose voxels are all alike


class Answers:
    """Mean logits of networks over mirrored copies of windows.

    Args:
        networks: each maps `(B, C, *patch)` to `(B, K, *patch)`; in evaluation mode, on `device`.
        mirror_axes: spatial axes (0, 1, 2) whose mirrored copies are averaged in.
        batch_size: windows a pass, to begin with.
        device: where the networks are.
        precision: of the networks' products, as in `runs.device`.
        layout: memory format of the networks' input.
        say: hears what was given up for lack of memory.
        make_room: frees some memory of the device when not even one window fits; whether it could.
        mirror_order: which channel each one becomes in a mirror image, where left and right have channels of
            their own.

    Attributes:
        batch_size: windows a pass; halved whenever the device's memory does not suffice.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        mirror_axes: Sequence[int],
        batch_size: int,
        device: torch.device,
        precision: str,
        layout: torch.memory_format,
        say: Callable[[str], None],
        make_room: Callable[[], bool] = lambda: False,
        mirror_order: Sequence[int] | None = None,
    ) -> None:
        self._mirror_order = None if mirror_order is None else list(mirror_order)
        self.batch_size = batch_size
        self._networks, self._device, self._say = networks, device, say
        self._precision, self._layout, self._make_room = precision, layout, make_room
        self._flips = [
            [2 + axis for axis in chosen]
            for count in range(len(mirror_axes) + 1)
            for chosen in itertools.combinations(mirror_axes, count)
        ]
        self._room: Tensor | None = None
        self._remembered: tuple[tuple[float, ...], Tensor] | None = None

    def __call__(self, patches: Sequence[Tensor]) -> list[Tensor]:
        """Windows `(C, *patch)` -> their logits `(K, *patch)` on the device: float32, or of a single pass on
        a CPU bfloat16 where the network answers so.

        Raises:
            RunError: the device has not the memory for a single window.
        """
        logits: list[Tensor | None] = [None] * len(patches)
        values = [_only_value(patch) for patch in patches]
        asked = []
        for number, value in enumerate(values):
            if value is not None and self._remembered is not None and self._remembered[0] == value:
                logits[number] = self._remembered[1]
            else:
                asked.append(number)
        for number, answer in zip(asked, self._asked([patches[n] for n in asked]), strict=True):
            logits[number] = answer
            value = values[number]
            if value is not None and answer.numel() * answer.element_size() <= _REMEMBERED_BYTES:
                self._remembered = (value, answer.clone())  # not a part of a batch, which would be kept
        return [each for each in logits if each is not None]

    def _asked(self, patches: Sequence[Tensor]) -> list[Tensor]:
        answers: list[Tensor] = []
        while len(answers) < len(patches):
            batch = patches[len(answers) : len(answers) + self.batch_size]
            try:
                with torch.inference_mode():
                    answers += list(self._mean(self._stacked(batch)))
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, for the error holds the activations that are to be freed.
            self._take_less()
        return answers

    def _stacked(self, batch: Sequence[Tensor]) -> Tensor:
        """The windows as the networks read them, on the device."""
        if self._device.type != "cpu":
            stack = torch.stack(list(batch)) if len(batch) > 1 else batch[0][None]  # copied once
            return stack.to(self._device).contiguous(memory_format=self._layout)
        shape = (len(batch), *batch[0].shape)
        if self._room is None or self._room.shape != shape:
            # kept from pass to pass: glibc hands out other pages for each, which the kernel clears first
            self._room = torch.empty(shape, dtype=batch[0].dtype, memory_format=self._layout)
        for place, patch in zip(self._room, batch, strict=True):
            place.copy_(patch)
        return self._room

    def _mean(self, patches: Tensor) -> Tensor:
        total: Tensor | None = None
        passes = len(self._flips) * len(self._networks)
        with autocast(self._device, self._precision):
            for flips in self._flips:
                turned = torch.flip(patches, flips) if flips else patches
                for network in self._networks:
                    logits = network(turned)
                    if not (passes == 1 and logits.dtype == torch.bfloat16 and logits.device.type == "cpu"):
                        logits = logits.float()
                    logits = torch.flip(logits, flips) if flips else logits
                    if self._mirror_order is not None and len(flips) % 2:  # two mirrors make a turn
                        logits = logits[:, self._mirror_order]
                    total = logits if total is None else total + logits
        assert total is not None
        return total if passes == 1 else total.div_(passes)

    def _take_less(self) -> None:
        if self.batch_size > 1:
            self.batch_size //= 2
            self._say(f"{self._device}: out of memory; {self.batch_size} windows a pass from here on")
        elif self._make_room():
            self._say(f"{self._device}: out of memory; the windows are summed on the CPU from here on")
        else:
            way_out = "free some" if self._device.type == "cpu" else "give --device cpu, or free the device"
            raise RunError(f"{self._device}: out of memory with a single window; {way_out}")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _only_value(patch: Tensor) -> tuple[float, ...] | None:
    """The value of every voxel, a channel each; None where voxels differ."""
    corner = patch[:, 0, 0, 0]
    # Most windows differ along their first line already.
    if bool((patch[:, 0, 0] != corner[:, None]).any()):
        return None
    if bool((patch != corner[:, None, None, None]).any()):
        return None
    return tuple(corner.tolist())
