"""Tiles join without a seam: streamed inference equals the block done at once."""

import pytest
import torch

from mambamed.ssm import BidirectionalMamba, Mamba, scan, streamed
from tests.ssm.scan_inputs import relative_error

if reason := scan.why_unavailable("cpu"):
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(params=[1, 64 * 64, 1 << 18])
def tiles(request, monkeypatch):
    """Tiles of 64 tokens (the least), of 64 or 128, and of everything."""
    monkeypatch.setattr(streamed, "TILE_NUMBERS", request.param)
    monkeypatch.setattr(streamed, "TILE_NUMBERS_THREADED", request.param)


@pytest.mark.parametrize("length", [1, 2, 64, 65, 130, 300])
def test_tiles_of_any_size_give_the_block(tiles, length) -> None:
    torch.manual_seed(0)
    block, x = Mamba(16, bias=True), torch.randn(2, length, 16)
    for reverse in (False, True):
        for flip in (False, True):
            wanted = block(x, reverse, flip).detach()
            with torch.no_grad():
                assert relative_error(block(x, reverse, flip), wanted) < 1e-5
    wanted = block.readings(x).detach()
    with torch.no_grad():
        assert relative_error(block.readings(x), wanted) < 1e-5


@pytest.mark.parametrize("shared", [1, 1 << 26])
def test_directions_may_share_their_projection_or_not(tiles, shared, monkeypatch) -> None:
    monkeypatch.setattr(streamed, "SHARED_NUMBERS", shared)
    torch.manual_seed(0)
    block = BidirectionalMamba(16, directions=("forward", "backward", "slice"), nslices=6, bias=True)
    x = torch.randn(1, 300, 16)
    wanted = block(x).detach()
    with torch.no_grad():
        assert relative_error(block(x), wanted) < 1e-5


def test_what_the_kernels_do_not_take_is_not_streamed() -> None:
    x = torch.zeros(1, 4, 16)
    assert not streamed.can_stream(x, 32, 16)  # gradients are recorded
    with torch.no_grad():
        assert streamed.can_stream(x, 32, 16)
        assert not streamed.can_stream(x.double(), 32, 16)
        assert not streamed.can_stream(x, 30, 16)
        assert not streamed.can_stream(x, 32, 15)
        assert not streamed.can_stream(x.to("meta"), 32, 16)
    with torch.inference_mode():
        block = Mamba(16)
        assert block(torch.ones(1, 5, 16)).isfinite().all()
