"""What the scan is compared with: the formulations of the public code, on the same weights and a CPU.

Upstream's kernels need CUDA. On a CPU what remains of them is written out here in plain torch: the block as
its formula with `torch.nn.Conv1d`, its scan as the loop of `mamba_ssm`'s reference or as the parallel scan of
mambapy, and the four readings of nnMamba's MICCSS with every flip carried out on the tokens.

There are two loops. `reference_scan` is the formulation of `mamba_ssm`'s `selective_scan_ref`: the decays and
inputs of all tokens first, `(B, D, L, N)` each, then a loop that takes one slice of them a step. `lean_loop`
is `mambamed.ssm.reference`, which computes a step's decays in the step: about twice as fast, linear in L for
training, and a way that no public code goes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.networks.nnmamba import MambaInConvolution
from mambamed.ssm import Mamba
from mambamed.ssm.reference import selective_scan_loop


def reference_scan(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """The formulation of mamba_ssm's reference, in its order of operations."""
    step = functional.softplus(delta + delta_bias[:, None])
    decay = torch.exp(torch.einsum("bdl,dn->bdln", step, A))
    entry = torch.einsum("bdl,bnl,bdl->bdln", step, B, u)
    h = torch.zeros_like(decay[:, :, 0])
    outputs = []
    for i in range(u.shape[2]):
        h = decay[:, :, i] * h + entry[:, :, i]
        outputs.append(torch.einsum("bdn,bn->bd", h, C[:, :, i]))
    return (torch.stack(outputs, dim=2) + u * D[:, None]) * functional.silu(z)


def lean_loop(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    return selective_scan_loop(u, delta, A, B, C, D, z, delta_bias, delta_softplus=True)


def mambapy_scan(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """mambapy's MambaBlock.selective_scan, on the same inputs."""
    from mambapy.pscan import pscan

    step = functional.softplus(delta + delta_bias[:, None]).transpose(1, 2)
    x = u.transpose(1, 2)
    decay = torch.exp(step.unsqueeze(-1) * A)
    states = pscan(decay, step.unsqueeze(-1) * B.transpose(1, 2).unsqueeze(2) * x.unsqueeze(-1))
    y = (states @ C.transpose(1, 2).unsqueeze(-1)).squeeze(3) + D * x
    return (y * functional.silu(z.transpose(1, 2))).transpose(1, 2)


def block_formula(model: Any, x: Tensor, scan: Callable = reference_scan) -> Tensor:
    """A `Mamba` block, operation by operation: `(B, L, d_model)` -> the same."""
    u, z = model.in_proj(x).transpose(1, 2).chunk(2, 1)
    u = functional.silu(model.conv1d(u)[..., : x.shape[1]])
    N = model.d_state
    step, B, C = model.x_proj(u.transpose(1, 2)).split([model.dt_rank, N, N], 2)
    delta = (step @ model.dt_proj.weight.T).transpose(1, 2)
    B, C, A = B.transpose(1, 2), C.transpose(1, 2), -model.A_log.exp()
    out = scan(u.float(), delta.float(), A, B.float(), C.float(), model.D, z.float(), model.dt_proj.bias)
    return model.out_proj(out.transpose(1, 2))


class _FlippedTokens(nn.Module):
    """MICCSS as the public code has it: every reading flips the tokens, and flips the answer back."""

    def __init__(self, mamba: Mamba, scan: Callable):
        super().__init__()
        self.mamba, self.scan = mamba, scan

    def readings(self, x: Tensor) -> Tensor:
        answers = []
        for axes in ([], [1], [2], [1, 2]):
            answer = block_formula(self.mamba, x.flip(axes) if axes else x, self.scan)
            answers.append(answer.flip(axes) if axes else answer)
        return torch.stack(answers).mean(0)


def upstream_network(network: nn.Module, scan: Callable = reference_scan) -> nn.Module:
    """A copy of a network, weights and all, whose MICCSS read in the way of the public code."""
    theirs = copy.deepcopy(network)
    for module in list(theirs.modules()):
        if isinstance(module, MambaInConvolution) and isinstance(module.mamba, Mamba):
            module.mamba = _FlippedTokens(module.mamba, scan)  # type: ignore[assignment]
    return theirs
