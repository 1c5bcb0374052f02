"""Plain torch: whatever the cut into segments and chunks, the answer is the same."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mambamed.ssm import chunked, reference
from tests.ssm.scan_inputs import scan_inputs


@pytest.mark.parametrize("numbers", [1, 8 * 16 * 70])
@pytest.mark.parametrize("length", [63, 64, 65, 200])
@pytest.mark.parametrize("reverse", [False, True])
def test_segments_join_without_a_seam(monkeypatch, numbers, length, reverse) -> None:
    monkeypatch.setattr(chunked, "SEGMENT_NUMBERS", numbers)
    inputs = scan_inputs(2, 8, length, 16, dtype=torch.float64)
    out, kept = chunked.scan_forward(*inputs, True, reverse, True)
    assert kept.shape == chunked.saved_shape(2, length, 8, 16)
    torch.testing.assert_close(out, reference.scan_forward(*inputs, True, reverse, False)[0])
    grad = torch.randn_like(out)
    ours = chunked.scan_backward(grad, kept, *inputs, True, reverse)
    for g, w in zip(ours, reference.scan_backward(grad, None, *inputs, True, reverse), strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("channels", [1, 24, 300])
def test_few_and_many_channels_are_cut_differently_and_agree(channels) -> None:
    inputs = scan_inputs(2, channels, 70, 16, dtype=torch.float64)
    alone = chunked.chunk_count(70, 2 * channels * 16, launched=False) == 1
    assert alone == (channels == 300)
    grad = torch.randn(2, channels, 70, dtype=torch.float64)
    out, kept = chunked.scan_forward(*inputs, True, True, True)
    torch.testing.assert_close(out, reference.scan_forward(*inputs, True, True, False)[0])
    ours = chunked.scan_backward(grad, kept, *inputs, True, True)
    for g, w in zip(ours, reference.scan_backward(grad, None, *inputs, True, True), strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("numbers", [1, 8 * 16 * 150, 1 << 24])
@pytest.mark.parametrize("length", [1, 7, 64, 65, 530])
@pytest.mark.parametrize("reverse", [False, True])
def test_few_launches_give_the_same_numbers(monkeypatch, numbers, length, reverse) -> None:
    """The recursion over chunks' ends, as on a GPU: up to four levels of eight."""
    monkeypatch.setattr(chunked, "launches", lambda device_type: True)
    monkeypatch.setattr(chunked, "LAUNCHED_NUMBERS", numbers)
    inputs = scan_inputs(2, 8, length, 16, dtype=torch.float64)
    out, kept = chunked.scan_forward(*inputs, True, reverse, True)
    assert kept.shape == chunked.saved_shape(2, length, 8, 16)
    torch.testing.assert_close(out, reference.scan_forward(*inputs, True, reverse, False)[0])
    grad = torch.randn_like(out)
    ours = chunked.scan_backward(grad, kept, *inputs, True, reverse)
    for g, w in zip(ours, reference.scan_backward(grad, None, *inputs, True, reverse), strict=True):
        torch.testing.assert_close(g, w)


class Counted(TorchDispatchMode):
    """Counts operations that are not views."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def operations(length: int, channels: int) -> tuple[int, int]:
    """Operations of a forward and a backward pass with 16 states on a device that is not a CPU."""
    inputs = [None if t is None else t.to("meta") for t in scan_inputs(1, channels, length, 16)]
    with Counted() as forward:
        out, kept = chunked.scan_forward(*inputs, True, False, True)
    with Counted() as backward:
        chunked.scan_backward(torch.empty_like(out), kept, *inputs, True, False)
    return forward.count, backward.count


def test_operations_per_scan_grow_with_the_logarithm_of_the_length() -> None:
    """Each factor of 8 = HOP in length adds one level, with the same number of operations."""
    counts = [operations(length, channels=4) for length in (8**3, 8**4, 8**5)]
    first, second = ([b - a for a, b in zip(*pair, strict=True)] for pair in (counts[:2], counts[1:]))
    assert first == second
    assert counts[2][0] < 100
    assert counts[2][1] < 240


def test_operations_of_a_large_scan_are_proportional_to_its_segments() -> None:
    """nnMamba's finest scan, D 128, L 32768: four segments of 64 MiB instead of a launch per token."""
    forward, backward = operations(32768, 128)
    assert forward < 4 * 90
    assert backward < 4 * 220
