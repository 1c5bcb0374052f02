"""Published weights under our names.

A network whose authors published weights has a method `public_names`: a table of rows (pattern of the public
name, ours), tried from top to bottom. Numbers matched by the pattern are passed to the right side as
integers. What follows the pattern (`weight`, `running_mean`, `mamba.A_log`, ...) is the same in both. Rows
whose right side is None name copies of other tensors.

The tables contain only the names of the public code. A static method `public_options(public, options)` lists
what is known of the authors' options from the public state dict, given the recipe's, as `PublicOption`s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mambamed.errors import RecipeError
from mambamed.networks import default_of, network_class
from mambamed.networks.parts.blocks import AxisOrder
from mambamed.networks.parts.dense import DenseNetwork, Row
from mambamed.numerals import is_whole

_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # of DataParallel and torch.compile
COUNTER = "num_batches_tracked"  # of batch norms; no result depends on it
_BINARY = (
    "The weights have one output for two classes; its sigmoid is the probability of the second class. Check "
    "the order of dataset.classes."
)


@dataclass(frozen=True)
class Translation:
    """Public weights under our names."""

    weights: dict[str, Tensor]  # our name -> tensor
    faults: list[str]  # one description per key that does not fit
    notes: tuple[str, ...] = ()  # what was changed so that they fit


def translate(
    name: str, network: nn.Module, public: Mapping[str, Tensor], axis_order: AxisOrder = "zyx"
) -> Translation:
    """Rename a public state dict for one of our networks, and compare the two key by key.

    Args:
        name: of the network, one for which `has_public_names` is true.
        network: built like that of the weights; its own weights are not changed.
        public: the authors' state dict.
        axis_order: of the arrays used for training. For "zyx" the kernels are transposed to our axes; the
            network's option of this name does the same for the scans. A `DenseNetwork` keeps the kernels,
            because its option permutes the volume instead.
    """
    rows, own = network.public_names(), network.state_dict()  # type: ignore[operator]
    transposed = axis_order == "zyx" and not isinstance(network, DenseNetwork)
    per_case = not hasattr(network, "deep_supervision_strides")
    weights: dict[str, Tensor] = {}
    faults: list[str] = []
    notes: tuple[str, ...] = ()
    for key, tensor in public.items():
        ours, known = _renamed(_WRAPPERS.sub("", key), rows)
        if not known:
            faults.append(f"unknown {key} {tuple(tensor.shape)}")
        elif ours is not None:
            if transposed and tensor.ndim == 5:
                tensor = tensor.permute(0, 1, 4, 3, 2).contiguous()
            if ours in own and per_case and _is_binary(own[ours].shape, tensor.shape):
                tensor = torch.cat([torch.zeros_like(tensor), tensor])
                notes = (_BINARY,)
            if ours not in own:
                faults.append(f"unknown {key} {tuple(tensor.shape)}: this network has no {ours}")
            elif own[ours].shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)} instead of {tuple(own[ours].shape)}"
                faults.append(f"shape {key} -> {ours}: {shapes}")
            weights[ours] = tensor
    faults += _unmatched(own, weights)
    return Translation(weights, faults, notes)


def settle_options(
    name: str, options: Mapping[str, Any], public: Mapping[str, Tensor]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Options with which a network computes as that of the published weights, and what was set or assumed.

    Args:
        name: of the network, one for which `has_public_names` is true.
        options: of the recipe.
        public: the authors' state dict.

    Raises RecipeError: the recipe lacks an option that no key shows; all of them are named.
    """
    settled, notes, asked = dict(options), [], []
    describe = getattr(network_class(name), "public_options", None)
    own = {_WRAPPERS.sub("", key): tensor for key, tensor in public.items()}
    for fact in describe(own, options) if describe else ():
        given = options.get(fact.option, default_of(name, fact.option))
        if fact.known == "shown" and given != fact.value:
            notes.append(f"network.{fact.option}: set to {_written(fact.value)}. {fact.remark}")
            settled[fact.option] = fact.value
        elif fact.known == "assumed" and fact.option not in options:
            what = f"{_written(fact.value)}, because no key of the file shows it"
            notes.append(f"network.{fact.option}: assumed {what}. {fact.remark}")
            settled[fact.option] = fact.value
        elif fact.known == "asked" and fact.option not in options:
            asked.append(f"network.{fact.option}: no key of the file shows it. {fact.remark}")
    if asked:
        raise RecipeError("\n".join(asked))
    return settled, tuple(notes)


def _written(value: Any) -> str:
    """As in a recipe."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def has_public_names(name: str) -> bool:
    """Whether published weights can be imported for a network in `NETWORKS`."""
    return hasattr(network_class(name), "public_names")


def public_axis_order(name: str) -> AxisOrder:
    """The axis order of the arrays on which a network's authors trained."""
    return getattr(network_class(name), "public_axis_order", "zyx")


def _is_binary(own: Sequence[int], public: Sequence[int]) -> bool:
    """Whether an output layer for two classes has one output in the public network, a logit for a sigmoid.

    With a logit of zero for the first class, the softmax gives sigmoid(logit) for the second, exactly.
    """
    return len(own) in (1, 2) and own[0] == 2 and public[0:1] == (1,) and own[1:] == public[1:]


def _renamed(key: str, rows: list[Row]) -> tuple[str | None, bool]:
    """Our name, or None for a copy of another tensor, and whether a row matches the key."""
    for pattern, ours in rows:
        found = re.match(pattern, key)
        if found and all(is_whole(g) for g in found.groups() if g.isdecimal()):
            if ours is None:
                return None, True
            caught = [int(g) if g.isdecimal() else g for g in found.groups()]
            return ours(*caught) + key[found.end() :], True
    return None, False


def _unmatched(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """Our tensors without weights, and those that are shared in our network, but differ in the file."""
    groups: dict[Any, list[str]] = {}  # names of one tensor: a module that is used twice has two
    for name, tensor in own.items():
        place = (tensor.data_ptr(), tensor.shape) if tensor.numel() and not tensor.is_meta else name
        groups.setdefault(place, []).append(name)
    missing, differing = [], []
    for names in groups.values():
        given = [weights[name] for name in names if name in weights]
        if names[0].endswith(COUNTER):
            continue
        if not given:
            missing.append(f"missing {names[0]} {tuple(own[names[0]].shape)}")
        elif any(not torch.equal(given[0], other) for other in given[1:]):
            differing.append(f"differing {' and '.join(names)}: one tensor in this network")
    return missing + differing
