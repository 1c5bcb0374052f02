"""The causal depthwise convolution in front of the scan, on channel-last sequences."""

from __future__ import annotations

import torch
from torch.nn import functional
from torch import Tensor


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, silu: bool = False, reverse: bool = False
) -> Tensor:
    """Depthwise convolution that looks only backwards (forwards with `reverse`), then optionally SiLU.

    Args:
        x: `(B, D, L)`, channel-last strides welcome.
        weight: `(D, W)`; `weight[:, W-1]` meets the token itself, `weight[:, 0]` the one W-1 before it.
        bias: `(D,)` or None.
        silu: whether silu is applied to the result.
        reverse: the convolution of the flipped sequence, flipped back.

    Returns:
        `(B, D, L)`, channel-last in memory; float32 for float16 and bfloat16 inputs, else x's type.

    Source:
        `conv1d` of `mamba_ssm.Mamba`: nn.Conv1d(D, D, W, groups=D, padding=W-1), its first L outputs kept.

    >>> causal_conv(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[10.0, 1.0]])).tolist()
    [[[1.0, 12.0, 23.0]]]
    """
    work = torch.promote_types(torch.float32, x.dtype)
    tokens = x.transpose(1, 2).to(work)  # (B, L, D)
    taps = weight.to(work)
    width, length = taps.shape[1], tokens.shape[1]
    out = tokens * taps[:, width - 1]
    for back in range(1, min(width, length)):
        shifted = tokens[:, back:] if reverse else tokens[:, : length - back]
        padding = (0, 0, 0, back) if reverse else (0, 0, back, 0)
        out = out + functional.pad(shifted * taps[:, width - 1 - back], padding)
    if bias is not None:
        out = out + bias.to(work)
    return (functional.silu(out) if silu else out).transpose(1, 2)
