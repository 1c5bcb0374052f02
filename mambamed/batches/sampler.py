"""Choice of patches: a pure function of (seed, fold, step), so that a resumed run needs no sampler state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Triple = tuple[int, int, int]

# One number per use of randomness, so that streams are independent.
_ORDER, _PLACE, _AUGMENT = 1, 2, 3


def random_stream(*key: int) -> np.random.Generator:
    """A generator that depends on the numbers of `key` alone; different keys give independent streams.

    >>> bool(random_stream(0, 7).integers(100) == random_stream(0, 7).integers(100))
    True
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([k % 2**64 for k in key])))


class SampledCase(Protocol):
    """The attributes of a case that the sampler uses."""

    @property
    def shape(self) -> Triple: ...

    @property
    def foreground(self) -> np.ndarray: ...


@dataclass(frozen=True)
class PatchRequest:
    """One patch to be read."""

    case_id: str
    start: Triple  # first voxel on the prepared grid; negative if the case is smaller than the patch
    key: tuple[int, ...]  # seeds the patch's augmentation


class PatchSource(Protocol):
    """Names the patches of a step."""

    def requests(self, step: int) -> list[PatchRequest]: ...


class Sampler:
    """Draws patches: every case equally often, a fixed fraction of them centered on foreground.

    Patch n = step * batch_size + i takes the case at position n of a chain of shuffled passes over the cases.
    It is a foreground patch if `floor((n + 1) f) > floor(n f)`: exactly the fraction f, evenly spread. Such a
    patch is centered on a random voxel of a random label of its case, but does not extend beyond the case. A
    case smaller than the patch lies in its middle, as in prediction.

    Args:
        cases: id -> case; the ids' order does not matter.
        foreground: fraction f of foreground patches.
        key: (seed, fold, ...).
        centered: every patch in the middle of its case, and no foreground patches.

    nnU-Net instead draws cases with replacement and forces foreground in the last third of each batch.
    """

    def __init__(
        self,
        cases: Mapping[str, SampledCase],
        patch_size: Triple,
        batch_size: int,
        foreground: float,
        key: Sequence[int],
        centered: bool = False,
    ) -> None:
        if not cases:
            raise ValueError("no cases to sample from")
        self._cases, self._ids = cases, sorted(cases)
        self._patch_size, self._batch_size = patch_size, batch_size
        self._foreground, self._key = foreground, tuple(key)
        self._centered = centered

    def requests(self, step: int) -> list[PatchRequest]:
        """The patches of a step."""
        return [self._request(step * self._batch_size + i) for i in range(self._batch_size)]

    def _request(self, n: int) -> PatchRequest:
        turn, place = divmod(n, len(self._ids))
        order = random_stream(*self._key, _ORDER, turn).permutation(len(self._ids))
        case_id = self._ids[order[place]]
        case = self._cases[case_id]
        random = random_stream(*self._key, _PLACE, n)
        spare = [size - patch for size, patch in zip(case.shape, self._patch_size, strict=True)]
        low = [0 if s >= 0 else -(-s // 2) for s in spare]
        high = [max(s, a) for s, a in zip(spare, low, strict=True)]
        voxels = case.foreground
        if self._centered:
            start = [s // 2 if s >= 0 else -(-s // 2) for s in spare]
        elif int((n + 1) * self._foreground) > int(n * self._foreground) and len(voxels):
            labels = np.unique(voxels[:, 0])
            rows = np.flatnonzero(voxels[:, 0] == labels[random.integers(len(labels))])
            center = voxels[rows[random.integers(len(rows))], 1:]
            start = [int(c) - patch // 2 for c, patch in zip(center, self._patch_size, strict=True)]
            start = [min(max(s, a), b) for s, a, b in zip(start, low, high, strict=True)]
        else:
            start = [int(random.integers(a, b + 1)) for a, b in zip(low, high, strict=True)]
        return PatchRequest(case_id, (start[0], start[1], start[2]), (*self._key, _AUGMENT, n))
