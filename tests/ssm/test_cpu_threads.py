"""Division of work."""

import torch

from mambamed.ssm.cpu_threads import shares, workers


def test_shares_cover_the_range_once_and_evenly() -> None:
    for count in (1, 2, 7, 16):
        for parts in (1, 2, 3, 20):
            runs = shares(count, parts)
            assert [i for a, b in runs for i in range(a, b)] == list(range(count))
            sizes = [b - a for a, b in runs]
            assert max(sizes) - min(sizes) <= 1
            assert len(runs) == min(count, parts)


def test_as_many_workers_as_torch_has_threads() -> None:
    assert workers() == torch.get_num_threads()
