"""The selective scan and the causal convolution in the operators of ONNX.

In an exported graph, the scan is first a single node, `mambamed::SelectiveScan`. `expand_scans` then replaces
each one by operators of ONNX: `Scan` runs through the sequence, several tokens per step. See
`mambamed.ssm.exported` for the same in torch, and for what was compared.
"""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx.defs import OpSchema
from onnx_ir.passes.common import InlinePass
from onnxscript import opset20, values

from mambamed.ssm.exported import tokens_per_step

OPSET = 20
op: Any = opset20  # whose types are those of eager mode
_DOMAIN, _NAME = "mambamed", "SelectiveScan"
_REQUIRED, _OPTIONAL = ("u", "delta", "A", "B", "C"), ("D", "z", "bias")


def translations() -> dict[Any, Any]:
    """Operator of mambamed -> its nodes, for `torch.onnx.export(custom_translation_table=...)`."""
    optional = OpSchema.FormalParameterOption.Optional
    schema = OpSchema(
        _NAME,
        _DOMAIN,
        1,
        inputs=[
            *(OpSchema.FormalParameter(name, "T") for name in _REQUIRED),
            *(OpSchema.FormalParameter(name, "T", param_option=optional) for name in _OPTIONAL),
        ],
        outputs=[OpSchema.FormalParameter("y", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[OpSchema.Attribute(name, OpSchema.AttrType.INT) for name in ("softplus", "reverse")],
    )
    node = values.Op(values.Opset(_DOMAIN, 1), _NAME, schema)

    def selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save, backend):
        y = node(u, delta, A, B, C, D, z, delta_bias, softplus=int(delta_softplus), reverse=int(reverse))
        saved = op.Constant(value=onnx.helper.make_tensor("saved", onnx.TensorProto.FLOAT, [0], []))
        return y, saved  # which is for training only

    def causal_conv(x, weight, bias, silu, reverse):
        channels, width = weight.shape
        if reverse:
            last, before_first = (op.Constant(value_ints=[end]) for end in (-1, -(2**31)))
            weight = op.Slice(weight, last, before_first, op.Constant(value_ints=[1]), last)
        taps = op.Unsqueeze(weight, op.Constant(value_ints=[1]))
        pads = [0, width - 1] if reverse else [width - 1, 0]
        y = op.Conv(x, taps, bias, group=channels, pads=pads)
        return op.Mul(y, op.Sigmoid(y)) if silu else y

    return {
        torch.ops.mambamed.selective_scan.default: selective_scan,
        torch.ops.mambamed.causal_conv.default: causal_conv,
    }


def expand_scans(model: ir.Model) -> None:
    """Replace each `mambamed::SelectiveScan` of a model by operators of ONNX."""
    for node in model.graph:
        if node.domain != _DOMAIN:
            continue
        given = [name for name, value in zip(_REQUIRED + _OPTIONAL, node.inputs, strict=False) if value]
        options = {name: bool(node.attributes[name].as_int()) for name in ("softplus", "reverse")}
        u, A = node.inputs[0], node.inputs[2]
        assert u is not None and A is not None and u.shape is not None and A.shape is not None
        length, channels, states = u.shape[2], u.shape[1], A.shape[1]
        assert isinstance(length, int) and isinstance(channels, int) and isinstance(states, int)
        node.name = node.name or f"scan_{length}"
        node.op_type = f"{_NAME}_{length}_{channels}_{states}_{'_'.join(given)}_{options}".translate(_PLAIN)
        key = (_DOMAIN, node.op_type, "")
        if key not in model.functions:
            text = _function(node.op_type, length, channels, states, given, **options)
            model.functions[key] = ir.from_proto(onnx.parser.parse_function(text))
        node.attributes.clear()
    model.opset_imports.pop(_DOMAIN, None)
    InlinePass()(model)


_PLAIN = {ord(sign): None for sign in "{}': ,"}


def _function(
    name: str, length: int, channels: int, states: int, given: list[str], softplus: bool, reverse: bool
) -> str:
    """A function of ONNX, in its text format."""
    per_step = tokens_per_step(length, channels * states)
    steps = -(-length // per_step)
    missing = steps * per_step - length
    lines = [f"axis_{k} = Constant <value_ints = [{k}]> ()" for k in range(4)]
    lines += ["decay = Transpose <perm = [1, 0]> (A)"]
    for sequence in ("u", "delta", "B", "C"):
        lines += [f"{sequence}_l = Transpose <perm = [2, 0, 1]> ({sequence})"]
        lines += _flipped(f"{sequence}_l", f"{sequence}_f", reverse)
    dt = "delta_f"
    if "bias" in given:
        lines, dt = [*lines, f"delta_b = Add ({dt}, bias)"], "delta_b"
    if softplus:
        lines, dt = [*lines, f"dt = Softplus ({dt})"], "dt"
    lines += [f"x = Mul ({dt}, u_f)"]
    for source, target, size in ((dt, "dts", channels), ("x", "xs", channels), ("B_f", "Bs", states),
                                 ("C_f", "Cs", states)):  # fmt: skip
        if missing:
            lines += [
                f"{target}_end = Constant <value_ints = [0, 0, 0, {missing}, 0, 0]> ()",
                f"{target}_padded = Pad ({source}, {target}_end)",
            ]
            source = f"{target}_padded"
        lines += [
            f"{target}_shape = Constant <value_ints = [{steps}, {per_step}, -1, {size}]> ()",
            f"{target} = Reshape ({source}, {target}_shape)",
        ]
    lines += [
        "batch = Shape <start = 0, end = 1> (u)",
        f"state = Constant <value_ints = [{states}, {channels}]> ()",
        "h_shape = Concat <axis = 0> (axis_1, batch, state)",
        "h_zero = ConstantOfShape (h_shape)",
        f"h_end, ys = Scan <num_scan_inputs = 4, body = {_step(per_step)}> (h_zero, dts, xs, Bs, Cs)",
        f"y_shape = Constant <value_ints = [{steps * per_step}, -1, {channels}]> ()",
        "y_all = Reshape (ys, y_shape)",
        f"length = Constant <value_ints = [{length}]> ()",
        "y_l = Slice (y_all, axis_0, length, axis_0)",
    ]
    y = "y_l"
    if "D" in given:
        lines, y = [*lines, "skip = Mul (u_f, D)", f"y_skip = Add ({y}, skip)"], "y_skip"
    lines += [*_flipped(y, "y_f", reverse), "y_t = Transpose <perm = [1, 2, 0]> (y_f)"]
    gate = ["gate = Sigmoid (z)", "silu = Mul (z, gate)", "y = Mul (y_t, silu)"]
    lines += gate if "z" in given else ["y = Identity (y_t)"]
    inputs = ", ".join(each if each in given else f"no_{each}" for each in _REQUIRED + _OPTIONAL)
    head = f'<domain: "{_DOMAIN}", opset_import: ["": {OPSET}]>\n{name} ({inputs}) => (y)'
    return head + "\n{\n" + "\n".join(lines) + "\n}\n"


def _flipped(source: str, target: str, reverse: bool) -> list[str]:
    """Lines that flip the first axis."""
    if not reverse:
        return [f"{target} = Identity ({source})"]
    return [
        f"{target}_from = Constant <value_ints = [-1]> ()",
        f"{target}_to = Constant <value_ints = [-9223372036854775807]> ()",
        f"{target} = Slice ({source}, {target}_from, {target}_to, axis_0, {target}_from)",
    ]


def _step(count: int) -> str:
    """The body of the loop: the state before some tokens, and their inputs -> the next state, outputs."""
    tokens = range(count)
    lines = [
        "dt_wide = Unsqueeze (dt_t, axis_2)",
        "exponent = Mul (dt_wide, decay)",
        "factor = Exp (exponent)",
        "x_wide = Unsqueeze (x_t, axis_2)",
        "B_wide = Unsqueeze (B_t, axis_3)",
        "push = Mul (x_wide, B_wide)",
    ]
    if count > 1:
        for each in ("factor", "push"):
            parts = ", ".join(f"{each}_{t}" for t in tokens)
            lines += [f"{parts} = Split <axis = 0, num_outputs = {count}> ({each})"]
    else:
        lines += [f"{each}_0 = Identity ({each})" for each in ("factor", "push")]
    before = "h"
    for t in tokens:
        lines += [f"kept_{t} = Mul (factor_{t}, {before})", f"h_{t} = Add (kept_{t}, push_{t})"]
        before = f"h_{t}"
    lines += [
        f"states = Concat <axis = 0> ({', '.join(f'h_{t}' for t in tokens)})",
        "C_wide = Unsqueeze (C_t, axis_2)",
        "read = MatMul (C_wide, states)",
        "y_t = Squeeze (read, axis_2)",
        f"h_next = Identity ({before})",
    ]
    state, wide, narrow = "float[1, b, n, d]", f"float[{count}, b, d]", f"float[{count}, b, n]"
    given = f"{state} h, {wide} dt_t, {wide} x_t, {narrow} B_t, {narrow} C_t"
    return f"step ({given}) => ({state} h_next, {wide} y_t) {{" + " ".join(lines) + "}"
