"""Orders, against index arithmetic written out."""

import itertools

import pytest
import torch

from mambamed.ssm.orders import deinterleave_slices, grid_from_tokens, interleave_slices, tokens_from_grid


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_axes_are_read_in_the_order_asked_for(axes) -> None:
    grid = torch.arange(2 * 3 * 4 * 5 * 2).reshape(2, 2, 3, 4, 5)
    tokens = tokens_from_grid(grid, axes)
    shape = grid.shape[2:]
    places = itertools.product(*(range(shape[a]) for a in axes))
    for position, place in enumerate(places):
        index = [0, 0, 0]
        for axis, i in zip(axes, place, strict=True):
            index[axis] = i
        assert torch.equal(tokens[:, position], grid[:, :, index[0], index[1], index[2]])
    assert torch.equal(grid_from_tokens(tokens, shape, axes), grid)


def test_a_channel_last_grid_is_read_without_a_copy() -> None:
    grid = torch.zeros(1, 8, 3, 4, 5).to(memory_format=torch.channels_last_3d)
    tokens = tokens_from_grid(grid)
    assert tokens.data_ptr() == grid.data_ptr()
    assert tokens.is_contiguous()
    assert grid_from_tokens(tokens, (3, 4, 5)).is_contiguous(memory_format=torch.channels_last_3d)


def test_slices_interleave_by_the_formula_of_segmamba() -> None:
    length, nslices = 24, 4
    tokens = torch.arange(length).reshape(1, length, 1)
    read = interleave_slices(tokens, nslices)
    wanted = [(p % nslices) * (length // nslices) + p // nslices for p in range(length)]
    assert read.flatten().tolist() == wanted
    assert torch.equal(deinterleave_slices(read, nslices), tokens)


def test_slices_that_do_not_divide_the_sequence_are_refused() -> None:
    with pytest.raises(ValueError, match="nslices 5 does not divide the sequence length 24"):
        interleave_slices(torch.zeros(1, 24, 1), 5)
