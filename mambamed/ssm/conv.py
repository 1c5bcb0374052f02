"""The causal depthwise convolution before the scan, on channel-last sequences."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

from mambamed.ssm.scan import channel_last, empty_channel_last, resolve_backend


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, silu: bool = False, reverse: bool = False
) -> Tensor:
    """Causal depthwise convolution (anticausal with `reverse`), then optionally SiLU.

    Args:
        x: `(B, D, L)`; channel-last strides are fastest.
        weight: `(D, W)`; `weight[:, W-1]` applies to the token itself, `weight[:, 0]` to the one W-1 before.
        bias: `(D,)` or None.
        reverse: the convolution of the flipped sequence, flipped back.

    Returns: `(B, D, L)`, channel-last in memory; float32 for float16 and bfloat16 inputs, else x's dtype.

    Source:
        `conv1d` of `mamba_ssm.Mamba`: nn.Conv1d(D, D, W, groups=D, padding=W-1), of which the first L outputs
        are kept.
    >>> causal_conv(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[10.0, 1.0]])).tolist()
    [[[1.0, 12.0, 23.0]]]
    """
    if x.ndim != 3 or weight.ndim != 2 or weight.shape[0] != x.shape[1]:
        raise ValueError(
            f"x must be (B, D, L) and weight (D, W), got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if x.numel() and resolve_backend("auto", x.device.type, x.dtype == torch.float64) == "cpu":
        return torch.ops.mambamed.causal_conv(x, weight, bias, silu, reverse)
    return shifted_sums(x, weight, bias, silu, reverse)


def shifted_sums(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool) -> Tensor:
    """The convolution in plain torch, as a sum of shifted and scaled copies."""
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


def _forward(x, weight, bias, silu, reverse):
    from mambamed.ssm.cpu_conv import conv_forward

    # copies only if channels were padded: an operator's output must have the strides of its fake version
    return channel_last(conv_forward(x, weight, bias, silu, reverse), torch.float32)


def _backward(grad_out, x, weight, bias, silu, reverse):
    from mambamed.ssm.cpu_conv import conv_backward

    dx, dweight, dbias = conv_backward(grad_out, x, weight, bias, silu, reverse)
    return channel_last(dx, x.dtype), dweight.to(weight.dtype).contiguous(), dbias.to(weight.dtype)


_INPUTS = "Tensor x, Tensor weight, Tensor? bias, bool silu, bool reverse"
_operator = functools.partial(torch.library.custom_op, mutates_args=(), device_types="cpu")
conv_op = _operator("mambamed::causal_conv", _forward, schema=f"({_INPUTS}) -> Tensor")
_gradients = f"(Tensor grad_out, {_INPUTS}) -> (Tensor, Tensor, Tensor)"
conv_backward_op = _operator("mambamed::causal_conv_backward", _backward, schema=_gradients)


@conv_op.register_fake
def _(x, weight, bias, silu, reverse):
    return empty_channel_last(x, torch.float32)


@conv_backward_op.register_fake
def _(grad_out, x, weight, bias, silu, reverse):
    return empty_channel_last(x, x.dtype), torch.empty_like(weight), weight.new_empty(weight.shape[0])


def _setup_context(ctx, inputs, output):
    x, weight, bias, ctx.silu, ctx.reverse = inputs
    ctx.save_for_backward(x, weight, bias)


def _autograd(ctx, grad_out):
    x, weight, bias = ctx.saved_tensors
    dx, dweight, dbias = torch.ops.mambamed.causal_conv_backward(
        grad_out, x, weight, bias, ctx.silu, ctx.reverse
    )
    return dx, dweight, None if bias is None else dbias.to(bias.dtype), None, None


conv_op.register_autograd(_autograd, setup_context=_setup_context)
