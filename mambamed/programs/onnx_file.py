"""A traced network as a file of ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from mambamed.programs.tracing import quiet_export
from mambamed.ssm.onnx_scan import OPSET, expand_scans, translations


def write_onnx(program: Any, path: Path) -> list[Path]:
    """Write a program of `tracing.traced`; the files: `path`, and that of the weights beyond 2 GB."""
    with quiet_export():
        exported = torch.onnx.export(
            program, (), dynamo=True, verbose=False, opset_version=OPSET, input_names=["image"],
            output_names=["logits"], custom_translation_table=translations(),
        )  # fmt: skip
        assert exported is not None
        model = exported.model
        expand_scans(model)
        _name_batch(model)
        for node in model.graph.all_nodes():
            node.metadata_props.clear()  # lines of our source, in folders of this machine
            node.doc_string = None
        model.metadata_props.clear()
        exported.save(path)
        onnx.checker.check_model(path)
    weights = path.with_name(path.name + ".data")
    return [path, weights] if weights.is_file() else [path]


def run_onnx(path: Path, image: Tensor) -> NDArray[np.float32]:
    """The logits that onnxruntime computes on the CPU."""
    session = onnxruntime.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": image.numpy()})[0])


def session_options() -> onnxruntime.SessionOptions:
    """Options with the threads of torch, and without messages."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return options


def _name_batch(model: Any) -> None:
    """Call the first size of the input "batch" in all shapes."""
    old = str(model.graph.inputs[0].shape[0])
    values = [*model.graph.inputs, *(value for node in model.graph.all_nodes() for value in node.outputs)]
    for value in values:
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and old in str(size):
                value.shape[axis] = str(size).replace(old, "batch")
