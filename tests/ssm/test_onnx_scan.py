"""The scan in the operators of ONNX equals the definition."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper

from mambamed.ssm.onnx_scan import OPSET, expand_scans
from mambamed.ssm.reference import selective_scan_loop

INPUTS = ("u", "delta", "A", "B", "C", "D", "z", "bias")


@pytest.mark.parametrize(
    ("length", "states", "given", "softplus", "reverse"),
    [
        (35, 4, INPUTS, True, True),  # 8 tokens per step; the last step is padded
        (16, 4, INPUTS[:5], False, False),
        (1, 4, INPUTS, True, False),
        (5, 600, INPUTS, True, True),  # 4800 states per token: one token per step
    ],
)
def test_a_scan_in_onnx_equals_the_definition(length, states, given, softplus, reverse) -> None:
    D, L, N = 8, length, states
    shapes = dict(zip(INPUTS, ((D, L), (D, L), (D, N), (N, L), (N, L), (D,), (D, L), (D,)), strict=True))
    full = {name: (("batch", *s) if len(s) == 2 and name != "A" else s) for name, s in shapes.items()}
    value = lambda name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, full[name])  # noqa: E731
    node = helper.make_node(
        "SelectiveScan", [name if name in given else "" for name in INPUTS], ["y"], domain="mambamed",
        softplus=int(softplus), reverse=int(reverse),
    )  # fmt: skip
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ("batch", D, L))
    graph = helper.make_graph([node], "one", [value(name) for name in given], [output])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("mambamed", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    expand_scans(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert {each.domain for each in proto.opset_import} == {""} and not proto.functions

    random = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn([3 if s == "batch" else s for s in full[name]], generator=random) for name in given
    }
    tensors["A"], tensors["delta"] = -tensors["A"].abs(), tensors["delta"].abs()
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {name: tensor.numpy() for name, tensor in tensors.items()})
    expected = selective_scan_loop(*(tensors.get(name) for name in INPUTS), softplus, reverse).numpy()
    assert np.abs(y - expected).max() <= 1e-6 * np.ptp(expected)
