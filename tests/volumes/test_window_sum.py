"""The sum of windows against numpy's, in every order of memory in which a network may answer."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mambamed import memory
from mambamed.errors import CaseError
from mambamed.volumes import window_sum
from mambamed.volumes.window_sum import WindowSum, gaussian_profile

PATCH, SHAPE = (6, 20, 5), (6, 33, 12)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("layout", ["as it is", "channels last", "turned"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_windows_are_averaged_whatever_their_memory_looks_like(axis, layout, kind, monkeypatch) -> None:
    """By hand, in float64: weight = product of three profiles."""
    monkeypatch.setattr(window_sum, "_PLANES", 4)
    rng = np.random.default_rng(0)
    starts = [[0], [0, 13], [0, 4, 7]]
    total = WindowSum(PATCH, True, SHAPE, starts, axis, on_message=print)
    profiles = [gaussian_profile(n).double().numpy() for n in PATCH]
    weight = profiles[0][:, None, None] * profiles[1][:, None] * profiles[2]
    expected, weights, found = np.zeros((3, *SHAPE)), np.zeros(SHAPE), []
    for first in starts[axis]:
        found += list(total.planes_before(first))
        for corner in itertools.product(*([first] if n == axis else s for n, s in enumerate(starts))):
            logits = torch.from_numpy(rng.normal(size=(3, *PATCH)).astype(np.float32)).to(kind)
            box = tuple(slice(c, c + p) for c, p in zip(corner, PATCH, strict=True))
            expected[(slice(None), *box)] += weight * logits.double().numpy()
            weights[box] += weight
            if layout == "channels last":
                logits = logits[None].contiguous(memory_format=torch.channels_last_3d)[0]
            if layout == "turned":
                logits = logits.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
            total.add(corner, logits)
    found += list(total.planes_before(SHAPE[axis]))
    together = np.moveaxis(np.concatenate([slab.planes.numpy() for slab in found]), 0, axis + 1)
    np.testing.assert_allclose(together, expected / weights, rtol=1e-4, atol=1e-5)


def test_memory_that_cases_before_have_freed_is_not_counted(monkeypatch) -> None:
    """What malloc keeps for the next case counts as resident, and would be used again."""
    held = SimpleNamespace(bytes=9 * 2**30)
    monkeypatch.setattr(memory, "resident_bytes", lambda: held.bytes)
    monkeypatch.setattr(memory, "give_back_freed_memory", lambda: setattr(held, "bytes", 2**30))
    limited = WindowSum((8, 8, 8), True, (8, 8, 8), [[0]] * 3, 0, on_message=print, max_ram=4 * 2**30)
    limited.add((0, 0, 0), torch.zeros(2, 8, 8, 8))
    held.bytes = 9 * 2**30
    monkeypatch.setattr(memory, "give_back_freed_memory", lambda: None)
    limited = WindowSum((8, 8, 8), True, (8, 8, 8), [[0]] * 3, 0, on_message=print, max_ram=4 * 2**30)
    with pytest.raises(CaseError, match=r"--max-ram allows 4\.0"):
        limited.add((0, 0, 0), torch.zeros(2, 8, 8, 8))


def test_a_single_nan_is_told_and_large_numbers_are_not() -> None:
    for value, fault in ((3e38, False), (float("nan"), True), (float("inf"), True)):
        total = WindowSum((8, 8, 8), False, (8, 8, 8), [[0]] * 3, 0, on_message=print)
        logits = torch.zeros(1, 8, 8, 8)
        logits[0, 3, :2, 5] = value
        total.add((0, 0, 0), logits)
        if fault:
            with pytest.raises(CaseError, match="NaN or Inf"):
                list(total.planes_before(8))
        else:
            (slab,) = total.planes_before(8)
            assert float(slab.planes.max()) == pytest.approx(3e38)
