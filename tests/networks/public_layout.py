"""Keys and shapes of a public state dict in a compact notation, for tests of `import-weights`.

One line per group of keys: a pattern, a space, and what lies below it:

    in_conv.conv.0                 conv(4, 32, 3)
    in_conv.conv.{1,4}             batch_norm(32)
    layer{i=1..3}.0.conv1          conv(16 * 2**i, 32 * 2**i, 3, bias=False)
    layer{i=1..3}.2.mamba_layer    = layer{i}.1.mamba_layer
    pos_embed                      tensor(1, 512, 768)

Braces list values, `{0,2}`, or a range with both ends, `{0..2}`, whose end may be an expression, without
spaces, of names. `{i=...}` names the value for later braces and for the expression. A line with "=" repeats
the tensors below another key, which must come before. Text after "#" is a comment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

Shape = tuple[int, ...]
Below = dict[str, Shape]  # end of a key -> shape


@dataclass(frozen=True)
class Layout:
    """What the file of published weights contains."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)  # key -> the key with the same tensor

    @property
    def parameters(self) -> int:
        """Numbers in all tensors, without copies and the buffers of batch norms."""
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        own = (shape for key, shape in self.shapes.items() if not key.endswith(buffers))
        return sum(math.prod(shape) for shape in own) - sum(
            math.prod(self.shapes[key]) for key in self.copies if not key.endswith(buffers)
        )

    def tensors(self, seed: int = 0) -> dict[str, Tensor]:
        """A state dict with small numbers; variances are positive."""
        generator = torch.Generator().manual_seed(seed)
        state: dict[str, Tensor] = {}
        for key, shape in self.shapes.items():
            if key in self.copies:
                state[key] = state[self.copies[key]].clone()
            elif key.endswith("num_batches_tracked"):
                state[key] = torch.zeros(shape, dtype=torch.int64)
            elif key.endswith("running_var"):
                state[key] = 1 + torch.rand(shape, generator=generator)
            else:
                state[key] = torch.randn(shape, generator=generator) / 10
        return state

    def balanced(self, seed: int = 0) -> dict[str, Tensor]:
        """As `tensors`, but of sizes with which signals neither vanish nor grow from layer to layer."""
        state = self.tensors(seed)
        for key, tensor in state.items():
            if tensor.ndim > 1 and key.endswith("weight"):
                tensor *= 10 / tensor[0].numel() ** 0.5
            elif tensor.ndim > 1:  # positions and other learned tokens
                tensor *= 10
            elif key.endswith("weight"):  # of norms
                tensor += 1
        return state


def read_layout(text: str, **values: object) -> Layout:
    """Expand a text in the notation above; `values` are names that its expressions and braces may use."""
    layout = Layout()
    for line in text.splitlines():
        pattern, _, expression = line.partition("#")[0].strip().partition(" ")
        if not pattern:
            continue
        for prefix, named in _keys(pattern, dict(values)):
            wanted = expression.strip()
            if wanted.startswith("="):
                _copy(layout, prefix, _filled(wanted[1:].strip(), named))
            else:
                for end, shape in eval(wanted, dict(KINDS), named).items():
                    _add(layout, f"{prefix}.{end}" if end else prefix, shape)
    return layout


def _keys(pattern: str, named: dict[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
    """Keys of a pattern, each with the values of its named braces."""
    brace = re.search(r"\{([^}]*)\}", pattern)
    if brace is None:
        yield pattern, named
        return
    name, equals, listed = brace[1].partition("=")
    if not equals:
        name, listed = "", brace[1]
    first, dots, last = listed.partition("..")
    if dots:
        values = [str(k) for k in range(int(first), int(eval(last, dict(KINDS), named)) + 1)]
    else:
        values = [str(named[listed])] if listed in named else listed.split(",")
    for value in values:
        known = {name: int(value) if value.isdecimal() else value} if name else {}
        yield from _keys(pattern[: brace.start()] + value + pattern[brace.end() :], named | known)


def _filled(pattern: str, named: dict[str, object]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: str(named[found[1]]), pattern)


def _add(layout: Layout, key: str, shape: Shape) -> None:
    assert key not in layout.shapes, f"{key} is listed twice"
    layout.shapes[key] = shape


def _copy(layout: Layout, prefix: str, origin: str) -> None:
    found = [key for key in layout.shapes if key == origin or key.startswith(f"{origin}.")]
    assert found, f"{prefix}: nothing below {origin}"
    for key in found:
        copy = prefix + key[len(origin) :]
        _add(layout, copy, layout.shapes[key])
        layout.copies[copy] = key


def _tensor(*shape: int) -> Below:
    return {"": shape}


def _conv(before: int, after: int, kernel: int | Shape, bias: bool = True, groups: int = 1) -> Below:
    taps = (kernel,) * 3 if isinstance(kernel, int) else tuple(kernel)
    return {"weight": (after, before // groups, *taps)} | ({"bias": (after,)} if bias else {})


def _transposed(before: int, after: int, kernel: int | Shape, bias: bool = True) -> Below:
    taps = (kernel,) * 3 if isinstance(kernel, int) else tuple(kernel)
    return {"weight": (before, after, *taps)} | ({"bias": (after,)} if bias else {})


def _linear(before: int, after: int, bias: bool = True) -> Below:
    return {"weight": (after, before)} | ({"bias": (after,)} if bias else {})


def _norm(channels: int) -> Below:
    return {"weight": (channels,), "bias": (channels,)}


def _batch_norm(channels: int) -> Below:
    buffers: Below = {"running_mean": (channels,), "running_var": (channels,), "num_batches_tracked": ()}
    return _norm(channels) | buffers


def _mamba(channels: int, d_state: int = 16, d_conv: int = 4, ways: str = "") -> Below:
    """Expansion 2; `ways`: the further directions of a Mamba with several, `b` and `s`."""
    inner, rank = 2 * channels, -(-channels // 16)
    below: Below = {"in_proj.weight": (2 * inner, channels), "out_proj.weight": (channels, inner)}
    for way in ("", *(f"_{way}" for way in ways)):
        below |= {
            f"A{way}_log": (inner, d_state),
            f"D{way}": (inner,),
            f"conv1d{way}.weight": (inner, 1, d_conv),
            f"conv1d{way}.bias": (inner,),
            f"x_proj{way}.weight": (rank + 2 * d_state, inner),
            f"dt_proj{way}.weight": (inner, rank),
            f"dt_proj{way}.bias": (inner,),
        }
    return below


KINDS = {
    "tensor": _tensor,
    "conv": _conv,
    "transposed": _transposed,
    "linear": _linear,
    "norm": _norm,  # layer norm, or another norm with weight and bias
    "batch_norm": _batch_norm,
    "mamba": _mamba,
    "min": min,
    "max": max,
}
