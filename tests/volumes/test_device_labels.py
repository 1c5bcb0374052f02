"""A GPU chooses the same labels as the CPU's kernels; here a CPU takes its place."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mambamed.geometry import orientation_of
from mambamed.preparation.grid import CaseGeometry
from mambamed.volumes import device_labels, restore
from mambamed.volumes.device_labels import DeviceLabels, is_resident
from mambamed.volumes.restore import VoxelValues, labels_of_slabs
from mambamed.volumes.sliding_window import Slab

LABELS = SimpleNamespace(by_regions=False, values=(0, 1, 2, 7), order=(0, 1, 2, 3), outputs=4)
REGIONS = SimpleNamespace(by_regions=True, values=(2, 1, 3, 300), order=(3, 0, 1, 2), outputs=4)
AFFINE = np.array([[0, -2.0, 0, 3], [1, 0, 0, 5], [0, 0, 3, 7], [0, 0, 0, 1.0]])


def geometry(native, prepared, nearest=None) -> CaseGeometry:
    affine = tuple(map(tuple, AFFINE.tolist()))
    oriented = (native[1], native[0], native[2])
    start, stop = (1, 0, 2), (oriented[0], oriented[1] - 1, oriented[2])
    return CaseGeometry(
        native, affine, orientation_of(AFFINE), start, stop, prepared, **({} if nearest is None else nearest)
    )


def slabs(prepared, axis, extra=0, cut=3):
    random = torch.Generator().manual_seed(1)
    planes = torch.randn(4 + extra, *prepared, generator=random).movedim(1 + axis, 0).contiguous()
    for start in range(0, len(planes), cut):
        yield Slab(axis, start, planes[start : start + cut])


@pytest.mark.parametrize("task", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("prepared", [(9, 7, 8), (12, 15, 4), (5, 20, 21)])
def test_the_labels_are_those_of_the_cpu(monkeypatch, task, axis, prepared):
    grid = geometry((14, 9, 17), prepared)
    expected = labels_of_slabs(slabs(prepared, axis), grid, task)
    monkeypatch.setattr(device_labels, "_CHUNK_BYTES", 5000)  # several chunks
    monkeypatch.setattr(restore, "is_resident", lambda planes: True)
    found = labels_of_slabs(slabs(prepared, axis), grid, task)
    assert found.dtype == expected.dtype and len(np.unique(found)) == 5 - (task is LABELS)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bad", [0, 1, 3])
def test_where_memory_of_the_device_ends_the_cpu_goes_on(monkeypatch, bad):
    grid, calls, decide = geometry((14, 9, 17), (9, 7, 8)), [], DeviceLabels.decide
    expected = labels_of_slabs(slabs((9, 7, 8), 2), grid, LABELS)

    def once_too_large(self, wide, along):
        calls.append(len(calls))
        if calls[-1] == bad:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decide(self, wide, along)

    monkeypatch.setattr(restore, "is_resident", lambda planes: True)
    monkeypatch.setattr(DeviceLabels, "decide", once_too_large)
    np.testing.assert_array_equal(labels_of_slabs(slabs((9, 7, 8), 2, cut=2), grid, LABELS), expected)
    assert len(calls) == 4


def test_probabilities_are_computed_by_the_cpu(monkeypatch):
    """They need the logits themselves."""
    grid, maps = geometry((14, 9, 17), (9, 7, 8)), [np.zeros((14, 9, 17), np.float32) for _ in range(2)]
    monkeypatch.setattr(DeviceLabels, "decide", None)
    for array, resident in zip(maps, (False, True), strict=True):
        monkeypatch.setattr(restore, "is_resident", lambda planes, resident=resident: resident)
        labels_of_slabs(
            slabs((9, 7, 8), 0), grid, LABELS, [VoxelValues([array], [0.0], lambda logits: [logits.max(0)])]
        )
    np.testing.assert_array_equal(*maps)
    assert maps[0].any()


def test_only_a_cuda_tensor_is_resident():
    assert not is_resident(torch.zeros(1)) and not is_resident(torch.zeros(1, device="meta"))
