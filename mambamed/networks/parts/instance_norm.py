"""Instance norm that is fast on a CPU for inference in bf16 with channels last."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_VOXELS = 2**16  # summed in float32 at once; with 2^21 equal numbers the error would be one percent


class InstanceNorm(nn.InstanceNorm3d):
    """`nn.InstanceNorm3d` with the same parameters and result; faster without gradients in bf16 on a CPU.

    torch converts such a tensor to another memory order and back and sums in double precision: 32 channels of
    128^3 take 240 ms, and the following convolution 120 ms more; here 31 ms. Sums over some planes at a time
    are combined in double precision: if voxels differ, the result is the exact one, rounded.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`(B, C, X, Y, Z)` -> the same shape and memory format."""
        if not self._serves(input):
            return super().forward(input)
        self._check_input_dim(input)
        cases = [_normalized(each, self.weight, self.bias, self.eps) for each in input.split(1)]
        return cases[0] if len(cases) == 1 else torch.cat(cases)

    def _serves(self, x: Tensor) -> bool:
        return (
            not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not self.track_running_stats
            and (self.weight is None or self.weight.dtype == torch.float32)
            and x.device.type == "cpu"
            and x.dtype == torch.bfloat16
            and x.dim() == 5
            and len(x) > 0
            and x.shape[2:].numel() > 1  # else torch raises an error
            and x.is_contiguous(memory_format=torch.channels_last_3d)
        )


def _normalized(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """One case: a batch norm with the statistics that are computed here."""
    planes = max(1, _VOXELS // x[0, 0, 0].numel())
    parts = x.split(planes, dim=2)
    unused = torch.zeros(2, x.shape[1])  # running statistics in float32, so that the results are, too
    found = [torch.batch_norm_update_stats(part, unused[0], unused[1], 0.0) for part in parts]
    share = torch.tensor([part.shape[2] for part in parts], dtype=torch.float64)[:, None] / x.shape[2]
    means, variances = (torch.stack(each).double() for each in zip(*found, strict=True))
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean) ** 2)).sum(0)
    return functional.batch_norm(x, mean.float(), variance.float(), weight, bias, training=False, eps=eps)
