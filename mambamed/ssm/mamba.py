"""The Mamba block and its bidirectional form, with the parameter names and shapes of the public code.

State dicts of `mamba_ssm.Mamba` load into `Mamba`; those of Vim's and SegMamba's fork ("bimamba v2, v3") load
into `BidirectionalMamba`. Parameters are drawn in the order of the public code: the same seed gives the same
weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambamed.ssm.inner import inner_scan
from mambamed.ssm.orders import deinterleave_slices, interleave_slices
from mambamed.ssm.streamed import Faces, Inner, can_stream, product_type, stream

Direction = Literal["forward", "backward", "slice"]
_SUFFIX: dict[str, str] = {"forward": "", "backward": "_b", "slice": "_s"}
_DT_MIN, _DT_MAX, _DT_FLOOR = 0.001, 0.1, 1e-4  # initial step sizes, as in the public code


class _MambaBase(nn.Module):
    """The parameters of both blocks, and one direction's conv -> x_proj -> dt_proj -> scan -> gate.

    Args:
        d_model: width of the tokens.
        d_state: N, states per channel.
        d_conv: taps of the causal convolution.
        expand: `d_inner = expand * d_model` channels are scanned.
        dt_rank: rank of the step-size projection; "auto" is ceil(d_model / 16).
        conv_bias, bias: whether the convolution, and the in and out projections, have a bias.
        suffixes: of the parameters of each direction.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        conv_bias: bool = True,
        bias: bool = False,
        *,
        suffixes: Sequence[str] = ("",),
    ):
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else int(dt_rank)
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias)
        for suffix in suffixes:
            self._add_direction(suffix, conv_bias)
            if suffix == "":  # the others keep nn.Linear's default step sizes, as in the public code
                self._init_steps()
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias)

    def _add_direction(self, suffix: str, conv_bias: bool) -> None:
        """Parameters of one direction: `A{suffix}_log`, `D{suffix}`, `conv1d{suffix}`, ..."""
        D, N = self.d_inner, self.d_state
        conv = nn.Conv1d(D, D, self.d_conv, groups=D, padding=self.d_conv - 1, bias=conv_bias)
        self.add_module(f"conv1d{suffix}", conv)
        self.add_module(f"x_proj{suffix}", nn.Linear(D, self.dt_rank + 2 * N, bias=False))
        self.add_module(f"dt_proj{suffix}", nn.Linear(self.dt_rank, D))
        A = torch.arange(1, N + 1, dtype=torch.float32).log().repeat(D, 1)
        self.register_parameter(f"A{suffix}_log", nn.Parameter(A))
        self.register_parameter(f"D{suffix}", nn.Parameter(torch.ones(D)))
        for name in (f"A{suffix}_log", f"D{suffix}"):
            getattr(self, name)._no_weight_decay = True

    def _init_steps(self) -> None:
        """Log-uniform initial step sizes (Gu & Dao 2023, section 3.6)."""
        proj = cast(nn.Linear, self.dt_proj)
        bound = self.dt_rank**-0.5
        nn.init.uniform_(proj.weight, -bound, bound)
        low, high = math.log(_DT_MIN), math.log(_DT_MAX)
        dt = torch.exp(torch.rand(self.d_inner) * (high - low) + low).clamp(min=_DT_FLOOR)
        with torch.no_grad():
            proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        proj.bias._no_reinit = True  # type: ignore[attr-defined]

    def _inner(self, suffix: str) -> Inner:
        """One direction's parameters."""
        conv, dt_proj = getattr(self, f"conv1d{suffix}"), getattr(self, f"dt_proj{suffix}")
        return Inner(
            taps=conv.weight[:, 0],
            tap_bias=conv.bias,
            x_proj=getattr(self, f"x_proj{suffix}").weight,
            dt_proj=dt_proj.weight,
            dt_bias=dt_proj.bias,
            A=-torch.exp(getattr(self, f"A{suffix}_log").float()),
            D=getattr(self, f"D{suffix}"),
        )

    def _scan_sides(self, xz: Tensor, *sides: tuple[str, bool]) -> Tensor:
        """`(B, L, 2 D)` -> `(B, L, D)`: the sum over sides, i.e. suffixes and whether they are reversed."""
        return inner_scan(xz, [(self._inner(suffix), reverse) for suffix, reverse in sides])


class Mamba(_MambaBase):
    """in_proj -> causal conv -> x_proj -> dt_proj -> selective scan -> gate -> out_proj.

    No norm and no residual inside. Under autocast the projections run in the autocast dtype; the convolution
    and the scan are float32. The arguments are those of `_MambaBase`.

    Source: Gu & Dao 2023; names, shapes and random draws as in `mamba_ssm.Mamba` 2.3.2.

    >>> Mamba(8)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def forward(self, x: Tensor, reverse: bool = False, flip_channels: bool = False) -> Tensor:
        """`(B, L, d_model)` -> `(B, L, d_model)`.

        `reverse` equals `flip(Mamba(flip(x, 1)), 1)`, `flip_channels` equals `flip(Mamba(flip(x, 2)), 2)`;
        the weights are flipped instead of the tokens.
        """
        if can_stream(x, self.d_inner, self.d_state):
            return self._stream(x, (reverse,), (flip_channels,))
        y = self._scan_sides(self._project_in(x, flip_channels), ("", reverse))
        if not flip_channels:
            return self.out_proj(y)
        out, bias = self._project_out(y, True), self.out_proj.bias
        return out if bias is None else out + bias.flip(0)

    def readings(self, x: Tensor) -> Tensor:
        """Mean of the four readings of MICCSS: both directions, channels flipped or not.

        Equals `mean(self(x, reverse, flip) for reverse in (False, True) for flip in (False, True))`. The two
        directions share the input projection, and their outputs are added before one output projection;
        tokens are never flipped.

        Source:
            nnMamba (Gong et al. 2024), Mamba-In-Convolution with Channel-Spatial Siamese learning (MICCSS).
        """
        if can_stream(x, self.d_inner, self.d_state):
            return self._stream(x, (False, True), (False, True))
        out = None
        for flip in (False, True):
            y = self._scan_sides(self._project_in(x, flip), ("", False), ("", True))
            part = self._project_out(y, flip, 0.25)
            out = part if out is None else out + part
        if (bias := self.out_proj.bias) is not None:
            out = out + 0.5 * (bias + bias.flip(0))
        return out

    def _project_in(self, x: Tensor, flip_channels: bool) -> Tensor:
        weight = self.in_proj.weight
        return functional.linear(x, weight.flip(1) if flip_channels else weight, self.in_proj.bias)

    def _project_out(self, y: Tensor, flip_channels: bool, scale: float = 1.0) -> Tensor:
        """The output projection, without its bias."""
        weight = self.out_proj.weight * scale
        return functional.linear(y, weight.flip(0) if flip_channels else weight)

    def _stream(self, x: Tensor, readings: Sequence[bool], flips: Sequence[bool]) -> Tensor:
        """Mean over the readings (reverse?) and faces (channels flipped?), in tiles."""
        kind = product_type(x)
        share = 1 / (len(readings) * len(flips))
        w_in, w_out, b_in = self.in_proj.weight, self.out_proj.weight, self.in_proj.bias
        faces = Faces(
            torch.cat([w_in.flip(1) if f else w_in for f in flips]).T.contiguous().to(kind),
            None if b_in is None else b_in.repeat(len(flips)).to(kind),
            (torch.stack([w_out.flip(0) if f else w_out for f in flips]) * share).transpose(1, 2).to(kind),
        )
        out = torch.zeros_like(x, dtype=torch.float32)
        if (bias := self.out_proj.bias) is not None:
            out += sum((bias.flip(0) if f else bias) / len(flips) for f in flips)
        inner = self._inner("")
        stream(x, out, faces, [(inner, reverse) for reverse in readings])
        return out.to(kind)


class BidirectionalMamba(_MambaBase):
    """Several directions over one input projection, summed before one output projection (Vim, SegMamba).

    Every direction has its own convolution, projections, A and D, suffix none, `_b`, `_s`, and is multiplied
    by silu of z.

    Args:
        directions: "forward" always, then "backward" (read from the end) and "slice" (SegMamba's inter-slice
            order); the fork's v2 is `("forward", "backward")`, its v3 has all three. Else ValueError.
        nslices: runs of equal length into which L is split for "slice"; `forward` may override it.
        options: those of `Mamba`.

    Source: Zhu et al. 2024 (Vision Mamba); Xing et al. 2024 (SegMamba).
    """

    def __init__(
        self,
        d_model: int,
        *,
        directions: Sequence[Direction] = ("forward", "backward"),
        nslices: int | None = None,
        **options: Any,
    ):
        if tuple(directions[:1]) != ("forward",) or len(set(directions)) != len(directions):
            raise ValueError(f"directions must begin with 'forward' and not repeat, got {directions!r}")
        if unknown := set(directions) - set(_SUFFIX):
            raise ValueError(f"unknown directions {sorted(unknown)}; choose from {', '.join(_SUFFIX)}")
        super().__init__(d_model, suffixes=[_SUFFIX[direction] for direction in directions], **options)
        self.directions, self.nslices = tuple(directions), nslices

    def forward(self, x: Tensor, nslices: int | None = None) -> Tensor:
        """`(B, L, d_model)` -> `(B, L, d_model)`.

        `nslices` overrides the constructor's; ValueError if "slice" has none, or one that does not divide L.
        """
        if can_stream(x, self.d_inner, self.d_state):
            return self._stream(x, nslices or self.nslices)
        xz = self.in_proj(x)
        y = self._scan_sides(xz, *((_SUFFIX[d], d == "backward") for d in self.directions if d != "slice"))
        if "slice" in self.directions:
            y = y + self._scan_slices(xz, nslices or self.nslices)
        return self.out_proj(y)

    def _stream(self, x: Tensor, nslices: int | None) -> Tensor:
        kind = product_type(x)
        b_in, b_out = self.in_proj.bias, self.out_proj.bias
        faces = Faces(
            self.in_proj.weight.T.to(kind),
            None if b_in is None else b_in.to(kind),
            self.out_proj.weight.T[None].to(kind),
        )
        out = torch.zeros_like(x, dtype=torch.float32)
        if b_out is not None:
            out += b_out
        sides = [(self._inner(_SUFFIX[d]), d == "backward") for d in self.directions if d != "slice"]
        stream(x, out, faces, sides)
        if "slice" in self.directions:
            n = _given(nslices)
            part = torch.zeros_like(out)
            stream(interleave_slices(x, n), part, faces, [(self._inner("_s"), False)])
            out += deinterleave_slices(part, n)
        return out.to(kind)

    def _scan_slices(self, xz: Tensor, nslices: int | None) -> Tensor:
        n = _given(nslices)
        return deinterleave_slices(self._scan_sides(interleave_slices(xz, n), ("_s", False)), n)


def _given(nslices: int | None) -> int:
    if nslices is None:
        raise ValueError("the 'slice' direction needs nslices, here or in the constructor")
    return nslices
