"""A case in memory with the interface of `mambamed.preparation.store.PreparedCase`."""

from __future__ import annotations

import numpy as np


class MemoryCase:
    def __init__(self, image: np.ndarray, label: np.ndarray) -> None:
        self.array, self.labels = image, label
        self.class_name = None
        self.reads: list[tuple[int, ...]] = []
        places = np.argwhere(label)
        self.foreground = np.concatenate([label[label > 0][:, None].astype(np.int32), places], axis=1)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.labels.shape  # type: ignore[return-value]

    def image(self, box=None) -> np.ndarray:
        part = self.array[(slice(None), *_slices(box, self.shape))]
        self.reads.append(part.shape)
        return part

    def label(self, box=None) -> np.ndarray:
        return self.labels[_slices(box, self.shape)]


def _slices(box, shape) -> tuple[slice, ...]:
    low, high = box if box is not None else ((0, 0, 0), shape)
    assert all(0 <= a <= b <= n for a, b, n in zip(low, high, shape, strict=True)), "a box outside the case"
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def blob_case(shape=(20, 24, 16), seed=0, channels=1, classes=2) -> MemoryCase:
    """Noise, in which each class is a brighter box."""
    random = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    for value in range(1, classes + 1):
        low = [int(random.integers(n // 2)) for n in shape]
        label[tuple(slice(a, a + n // 3) for a, n in zip(low, shape, strict=True))] = value
    image = random.normal(0, 0.3, (channels, *shape)) + label
    return MemoryCase(image.astype(np.float16), label)
