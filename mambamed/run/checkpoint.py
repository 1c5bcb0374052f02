"""Checkpoints: tensors as safetensors, everything else as JSON in its metadata. No pickle: a model from a
stranger cannot run code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from mambamed.documents.run import CheckpointFacts
from mambamed.errors import DatasetError, ModelError
from mambamed.io.atomic import write_bytes
from mambamed.io.json_text import json_line, parse_json
from mambamed.io.members import Source
from mambamed.run.tensors import read_tensors
from mambamed.schema_errors import some_of

_KEY = "mambamed"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        tensors: name -> tensor on the CPU. `network.` weights; in `last` also `ema.` (the moving average of
            the weights, where there is one) and `optimizer.` (its state).
        facts: the metadata, JSON-ready; see `documents.run.CheckpointFacts`.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix.`, without it."""
        return {n[len(prefix) + 1 :]: t for n, t in self.tensors.items() if n.startswith(f"{prefix}.")}


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: killed at any moment, the old file or the new one is there, whole.

    Tensors that share memory (a module used twice) are written once, under their first name.

    Raises:
        RunError: the disk is full.
    """
    write_bytes(path, encode_checkpoint(tensors, facts))


def encode_checkpoint(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint, as `write_checkpoint` writes them."""
    written: dict[str, Tensor] = {}
    seen: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        written[name] = tensor.detach().cpu().contiguous()
    metadata = {_KEY: json_line({"format": CheckpointFacts.FORMAT, **facts})}
    return save(written, metadata=metadata)


def read_checkpoint(path: Source, parts: tuple[str, ...] | None = None) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: a file that `write_checkpoint` wrote, or such a member of a model file.
        parts: prefixes to read ("network", ...); None = everything.

    Raises:
        ModelError: the file is absent, damaged, not a checkpoint of mambamed, or of a newer one.
    """
    if isinstance(path, Path) and not path.is_file():
        raise ModelError(f"{path}: no such checkpoint. Train this fold first.")
    metadata, tensors = read_tensors(path, lambda name: parts is None or name.split(".")[0] in parts)
    try:
        facts = parse_json(metadata.get(_KEY, "null"), path)
    except DatasetError as error:
        raise ModelError(str(error)) from error
    if not isinstance(facts, dict) or "format" not in facts:
        raise ModelError(f"{path}: is not a checkpoint of mambamed. Give one that 'train' wrote.")
    CheckpointFacts.checked(facts, path)
    return Checkpoint(tensors, facts)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: Source | str) -> None:
    """Put weights into a network, strictly.

    Args:
        network: receives them; its memory layout is kept.
        weights: name -> tensor. A module used twice may be named once or twice.
        source: the file, for messages.

    Raises:
        ModelError: a name, shape or type differs (the first three are named), or a weight is not finite.
    """
    own = network.state_dict()
    first_name = {}
    for name, tensor in own.items():
        first_name.setdefault((tensor.data_ptr(), tensor.shape) if tensor.numel() else name, name)
    needed = set(first_name.values())
    faults = [f"no {name}" for name in own if name in needed and name not in weights]
    faults += [f"unknown {name}" for name in weights if name not in own]
    faults += [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    faults += [
        f"{name} is {_type(weights[name])} instead of {_type(tensor)}"
        for name, tensor in own.items()
        if name in weights and weights[name].is_floating_point() != tensor.is_floating_point()
    ]
    if faults:
        raise ModelError(
            f"{source}: weights of another network than {type(network).__name__}: "
            f"{some_of(faults, most=3)}. Give the run that they belong to."
        )
    check_finite(weights, source)
    with torch.no_grad():
        for name, tensor in own.items():
            if name in weights:
                tensor.copy_(weights[name])


def check_finite(weights: Mapping[str, Tensor], source: Source | str) -> None:
    """Reject weights that are not finite.

    Raises:
        ModelError: the first one is named.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{source}: {name} contains NaN or Inf. Use another checkpoint.")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
