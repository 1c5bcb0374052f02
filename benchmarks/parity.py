"""Compares networks with reference outputs of their authors' public code.

    python benchmarks/parity.py FOLDER [NAME ...]

`FOLDER` holds per reference `NAME.json` (keys and shapes of the public state dict, seed), `NAME.npz` (one
input `x` and the outputs `y0`, `y1`, ... in evaluation mode) and `value.py`, the rule that gives each tensor
its numbers. The weights are imported as by `mambamed import-weights`. The table shows per output the largest
difference, divided by the range of the reference (of a classifier: by its largest logit).
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

import mambamed
from mambamed.run.folder import Run
from mambamed.run.model import load_network


@dataclass(frozen=True)
class Reference:
    """How the network of a reference is written in a recipe.

    `axis_order` is that of the array `x`: for "zyx", the volume (X, Y, Z) is `x` with its axes reversed.
    `queries`: the outputs are masks and classes of queries, of the last layer, then of the start and of each
    layer in between.
    `built_for_x`: the option patch_size of the network is the shape of `x`.
    """

    network: Mapping[str, Any]
    task: str = "segmentation"
    axis_order: str = "zyx"
    queries: bool = False
    built_for_x: bool = False


_TRANSUNET = {"name": "transunet", "strides": [1, [1, 2, 2], 2, 2, 2, [1, 2, 2]]}
# Heads of deep supervision that the reference lacks are left out on import.
_NNFORMER: dict[str, Any] = {"name": "nnformer", "deep_supervision": True}
REFERENCES = {
    "nnmamba_cls_head": Reference({"name": "nnmamba_classifier", "hierarchy": "concat"}, "classification"),
    "transunet3d": Reference(_TRANSUNET, built_for_x=True),
    "transunet3d_plain": Reference(_TRANSUNET, built_for_x=True),
    "transunet3d_both": Reference(_TRANSUNET, built_for_x=True, queries=True),
    "design_vit_seg": Reference({"name": "vit_seg"}, axis_order="xyz", built_for_x=True),
    "design_dit": Reference({"name": "dit_seg"}, axis_order="xyz"),
    "cotr": Reference({"name": "cotr"}),
    "segmamba_v2": Reference({"name": "segmamba", "version": "v2"}),
    "unimiss": Reference({"name": "unimiss", "patch_size": [16, 96, 64]}),
    "cotr_wstd": Reference({"name": "cotr", "weight_standardization": True}),
    "segmamba_v3_nores": Reference({"name": "segmamba", "residual": False}),
    "transbts": Reference({"name": "transbts"}, axis_order="xyz", built_for_x=True),
    "uxnet": Reference({"name": "uxnet"}, axis_order="xyz"),
    "nnformer_tumor": Reference(
        _NNFORMER | {"channels": 96, "token_size": [4, 4, 4], "decoder_heads": [6, 12, 24]}, built_for_x=True
    ),
    "nnformer_synapse": Reference(_NNFORMER, built_for_x=True),
    "nnformer_acdc": Reference(_NNFORMER | {"variant": "acdc"}, built_for_x=True),
    "vitpose3d": Reference({"name": "vitpose", "patch_size": [32, 32, 32]}, "landmarks"),
    "crate": Reference({"name": "crate", "patch_size": [32, 40, 32]}, "classification", "xyz"),
}


def main(folder: Path, wanted: list[str]) -> None:
    """Print one row per output."""
    print(f"{'reference':22} {'output':6} {'parameters':>12} {'public':>12} {'difference / range':>20}")
    for name, reference in REFERENCES.items():
        if (not wanted and (folder / f"{name}.json").is_file()) or name in wanted:
            compare(folder, name, reference)


def compare(folder: Path, name: str, reference: Reference) -> None:
    """Import the weights of one reference, and print how far the outputs are apart."""
    document = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    arrays = np.load(folder / f"{name}.npz")
    expected = [torch.from_numpy(arrays[key]) for key in sorted(arrays) if key.startswith("y")]
    if reference.queries:
        last, *others = [logits_of(*pair) for pair in zip(expected[::2], expected[1::2], strict=True)]
        expected = [last, *reversed(others)]
    x = torch.from_numpy(arrays["x"]).float()
    network = imported(folder, document, reference, x, expected[0].shape[1])
    parameters = sum(p.numel() for p in network.parameters())
    network.training = True  # of the root alone: all outputs, while its parts stay in evaluation mode
    turn = (0, 1, 4, 3, 2) if reference.axis_order == "zyx" else (0, 1, 2, 3, 4)
    with torch.inference_mode():
        outputs = network(x.permute(turn).contiguous())
    outputs = outputs if isinstance(outputs, list) else [outputs]
    step = document.get("output_stride", 2)
    for i, (given, wanted) in enumerate(zip(outputs, expected, strict=False)):
        if given.ndim == 5:
            given = given.permute(turn)[..., ::step, ::step, ::step]
        elif given.shape[1] == 2 and wanted.shape[1] == 1:
            given = given[:, 1:] - given[:, :1]  # the logit of a binary classifier
        size = wanted.max() - wanted.min() if wanted.ndim == 5 else wanted.abs().max()
        row = f"{name:22} y{i:<5} {parameters:12,} {document['parameters']:12,}"
        print(f"{row} {float((given - wanted).abs().max() / size):20.1e}", flush=True)


def logits_of(masks: Tensor, classes: Tensor) -> Tensor:
    """`(B, Q, D, H, W)` and `(B, Q, K + 1)` -> the logits of a network with queries."""
    return torch.einsum("bqk,bqdhw->bkdhw", classes.softmax(2)[..., :-1], masks.sigmoid()).log()


def imported(folder: Path, document: dict, reference: Reference, x: Tensor, classes: int) -> nn.Module:
    """The network after `import-weights`, in evaluation mode."""
    specification = importlib.util.spec_from_file_location("value", folder / "value.py")
    assert specification is not None and specification.loader is not None
    rule = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(rule)
    tables = [
        key
        for key in document.get("integer_buffers_not_filled", ())
        if not key.endswith("num_batches_tracked")  # 0 by the rule, as in a new network
    ]
    state = {
        key: torch.from_numpy(rule.value(key, shape, document["seed"]).reshape(shape))
        for key, shape in document["state_dict"].items()
        if key not in tables
    }
    for copy, key in (document.get("aliases") or {}).items():
        state[copy] = state[key].clone()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        save_file(state, work / "weights.safetensors")
        recipe = work / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(recipe_of(reference, x, classes)), encoding="utf-8")
        order: Any = reference.axis_order
        mambamed.import_weights(work / "weights.safetensors", recipe, work / "run", axis_order=order)
        return load_network(Run.open(work / "run"), 0)


def recipe_of(reference: Reference, x: Tensor, classes: int) -> dict[str, Any]:
    """A recipe with the network of a reference, and channels and outputs of any name."""
    dataset: dict[str, Any] = {"channels": {f"c{i}": "mri" for i in range(x.shape[1])}}
    if reference.task == "segmentation":
        dataset["labels"] = {"background": 0} | {f"l{i}": i for i in range(1, classes)}
    elif reference.task == "landmarks":
        dataset["landmarks"] = [f"p{i}" for i in range(classes)]
    else:
        dataset["classes"] = [f"k{i}" for i in range(max(2, classes))]
    patch = list(x.shape[2:]) if reference.axis_order == "xyz" else list(x.shape[:1:-1])
    return {
        "task": reference.task,
        "dataset": dataset,
        "preprocess": {"spacing": [1, 1, 1], "normalize": "zscore"},
        "network": dict(reference.network)
        | ({"patch_size": list(x.shape[2:])} if reference.built_for_x else {}),
        "training": {"patch_size": patch, "batch_size": 2},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
