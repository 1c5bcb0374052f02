"""Orders in which a 3D grid is read as a sequence, as permutations of `(B, L, d)` tokens.

The last spatial axis runs fastest in a token sequence (`x.flatten(2).transpose(1, 2)` of a `(B, C, X, Y, Z)`
grid). Forward and backward need no permutation: the scan runs in reverse by a flag. Nor does the channel flip
of MICCSS: `mambamed.ssm.Mamba` flips its weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def tokens_from_grid(grid: Tensor, axes: Sequence[int] = (0, 1, 2)) -> Tensor:
    """`(B, C, X, Y, Z)` -> `(B, L, C)`, the spatial axes read in the order `axes` (the last runs fastest).

    Nothing is copied if the grid is `channels_last_3d` in memory and the axes are in ascending order.
    >>> import torch
    >>> tokens_from_grid(torch.arange(4.0).reshape(1, 1, 2, 1, 2), (2, 1, 0)).flatten().tolist()
    [0.0, 2.0, 1.0, 3.0]
    """
    return grid.permute(0, *(a + 2 for a in axes), 1).flatten(1, 3)


def grid_from_tokens(tokens: Tensor, shape: Sequence[int], axes: Sequence[int] = (0, 1, 2)) -> Tensor:
    """`(B, L, C)` -> `(B, C, *shape)`: the inverse of `tokens_from_grid` for a grid of spatial `shape`."""
    spatial = tokens.unflatten(1, [shape[a] for a in axes])
    back = [0] * 3
    for position, axis in enumerate(axes):
        back[axis] = position + 1
    return spatial.permute(0, 4, *back)


def interleave_slices(tokens: Tensor, nslices: int) -> Tensor:
    """SegMamba's inter-slice order: the first token of every slice, then the second of every slice, ...

    `(B, L, d)` tokens are split into `nslices` equal runs; ValueError if L is not divisible. Position p of
    the result holds token `(p mod n) (L / n) + p div n`.

    Source: SegMamba (Xing et al. 2024), tri-oriented Mamba, third direction.

    >>> import torch
    >>> interleave_slices(torch.arange(6.0).reshape(1, 6, 1), 2).flatten().tolist()
    [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """
    length = tokens.shape[1]
    if nslices < 1 or length % nslices:
        raise ValueError(f"nslices {nslices} does not divide the sequence length {length}")
    return tokens.unflatten(1, (nslices, length // nslices)).transpose(1, 2).flatten(1, 2)


def deinterleave_slices(tokens: Tensor, nslices: int) -> Tensor:
    """The inverse of `interleave_slices`."""
    return interleave_slices(tokens, tokens.shape[1] // nslices) if nslices else tokens
