"""Slabs of several sources that end at different planes have one mean."""

import torch

from mambamed.volumes.ensemble import mean_of_slabs
from mambamed.volumes.sliding_window import Slab


def cut(volume: torch.Tensor, stops: list[int]):
    for start, stop in zip([0, *stops], stops, strict=False):
        yield Slab(0, start, volume[start:stop])


def test_slabs_that_end_at_different_planes_are_averaged() -> None:
    one, two, three = torch.randn(3, 12, 2, 4, 5)
    streams = [cut(one, [12]), cut(two, [3, 4, 12]), cut(three, [4, 9, 12])]
    slabs = list(mean_of_slabs(streams, [1, 2, 5]))
    assert [slab.stop for slab in slabs] == [3, 4, 9, 12]
    assert [slab.start for slab in slabs] == [0, 3, 4, 9]
    wanted = (one + 2 * two + 5 * three) / 8
    torch.testing.assert_close(torch.cat([slab.planes for slab in slabs]), wanted)


def test_one_source_is_passed_on() -> None:
    one = torch.randn(12, 2, 4, 5)
    slabs = list(mean_of_slabs([cut(one, [5, 12])], [3]))
    assert torch.equal(torch.cat([slab.planes for slab in slabs]), one)
