"""Plain torch: whatever the cut into segments and chunks, the answer is the same."""

import pytest
import torch

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
    alone = chunked.chunk_count(70, 2 * channels * 16) == 1
    assert alone == (channels == 300)
    grad = torch.randn(2, channels, 70, dtype=torch.float64)
    out, kept = chunked.scan_forward(*inputs, True, True, True)
    torch.testing.assert_close(out, reference.scan_forward(*inputs, True, True, False)[0])
    ours = chunked.scan_backward(grad, kept, *inputs, True, True)
    for g, w in zip(ours, reference.scan_backward(grad, None, *inputs, True, True), strict=True):
        torch.testing.assert_close(g, w)
