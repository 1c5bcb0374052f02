"""Architectures, one per file, found through `NETWORKS`.

Every network is `Class(in_channels, out_channels, **options)`. Dense ones map `(B, in_channels, X, Y, Z)`
of any shape to logits `(B, out_channels, X, Y, Z)`: they pad to `divisor` inside, crop the output, and have
`deep_supervision_strides`. Those of classification return `(B, out_channels)`, and their `divisor` is 1.

Options with the same meaning in all networks that have them, so that the classes describe only the others:

    norm                    "batch", "instance" (safer at small batches) or "none"; the default is that of the
                            paper or its public code; None keeps the norms of MONAI's networks
    mixer                   "none" for the matched control without a scan
    deep_supervision        in training, return a list of logits with the strides above, the finest first
    gradient_checkpointing  recompute each stage or part in the backward pass instead of storing it
    axis_order              "xyz", or "zyx" for weights trained on (z, y, x) arrays; see `blocks.scan_axes`
                            and, for networks that permute the volume instead, `dense.DenseNetwork`

A class may also have these attributes:

    channels_last   True if it is faster on a CPU with tensors in channels-last order
    public_names    method: the table of its authors' names for `import-weights`; see `public_names`
    public_options  static method: what published weights tell of the options; see `public_names`
    public_axis_order   axis order of the arrays on which its authors trained; default: "zyx"
    sizes_in_own_order  True if patch and windows are in the order in which it computes, not in X, Y, Z
    examples        options, as in a recipe, one per row of the table in docs/networks.md; default: ("",)
    may_be_zero     options that accept 0 although their default is a whole number above 0
    small           options that make it small enough for tests; default: few channels and stages
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from typing import TYPE_CHECKING, Any

from mambamed.errors import MambamedError, RecipeError

if TYPE_CHECKING:
    from torch import nn

# Strings, so that listing names imports nothing.
NETWORKS = {
    "nnmamba": "mambamed.networks.nnmamba:NnMamba",
    "nnmamba_classifier": "mambamed.networks.nnmamba_classifier:NnMambaClassifier",
    "nnmamba_v1": "mambamed.networks.nnmamba_v1:NnMambaV1",
    "nnmamba_v1_classifier": "mambamed.networks.nnmamba_v1:NnMambaV1Classifier",
    "segmamba": "mambamed.networks.segmamba:SegMamba",
    "uxnet": "mambamed.networks.uxnet:UXNet",
    "mamba_unet": "mambamed.networks.mamba_unet:MambaUNet",
    "umamba": "mambamed.networks.umamba:UMamba",
    "hybrid_unet": "mambamed.networks.hybrid_unet:HybridUNet",
    "nnunet": "mambamed.networks.nnunet:NnUNet",
    "nnunet_resenc": "mambamed.networks.nnunet_resenc:NnUNetResEnc",
    "transunet": "mambamed.networks.transunet:TransUNet",
    "cotr": "mambamed.networks.cotr:CoTr",
    "unimiss": "mambamed.networks.unimiss:UniMiss",
    "nnformer": "mambamed.networks.nnformer:NnFormer",
    "transbts": "mambamed.networks.transbts:TransBTS",
    "vit_seg": "mambamed.networks.vit_seg:ViTSeg",
    "dit_seg": "mambamed.networks.dit_seg:DiTSeg",
    "resunet": "mambamed.networks.resunet:ResUNet",
    "vitpose": "mambamed.networks.vitpose:ViTPose",
    "resnet": "mambamed.networks.resnet:ResNet",
    "densenet": "mambamed.networks.densenet:DenseNet",
    "crate": "mambamed.networks.crate:Crate",
    "unetr": "mambamed.networks.baselines:UNETR",
    "swin_unetr": "mambamed.networks.baselines:SwinUNETR",
    "segresnet": "mambamed.networks.baselines:SegResNet",
    "mednext": "mambamed.networks.baselines:MedNeXt",
    "vnet": "mambamed.networks.baselines:VNet",
    "vit": "mambamed.networks.baselines:ViT",
}

_LARGEST = 2**20  # of any number in an option
_LARGEST_DIVISOR = 2**12

# Options that every network accepts with the value that turns them off.
_LACKED: dict[str, object] = {"mixer": "none", "deep_supervision": False}


def build_network(name: str, in_channels: int, out_channels: int, **options: Any) -> nn.Module:
    """A network by its name in a recipe, freshly initialized.

    The options are those above, and those in the docstring of the network. Raises RecipeError if the network
    does not exist, or an option is unknown or invalid.
    """
    network, known = network_class(name), _parameters(name)
    for option in list(options):
        if option not in known:
            if option in _LACKED and options[option] == _LACKED[option]:
                del options[option]
                continue
            hint = _hint(option, known) or "."
            raise RecipeError(
                f"network.{option}: unknown option of {name}{hint} Known options: {', '.join(known)}."
            )
    may_be_zero = getattr(network, "may_be_zero", ())
    for option, value in options.items():
        default = known[option].default
        if _is_number(default) and not _is_number(value) and not isinstance(value, list | tuple):
            raise RecipeError(f"network.{option}: expected a number, got {value!r}. Correct the value.")
        if fact := _fault_of(value, 0 if option in may_be_zero else default):
            raise RecipeError(f"network.{option}: {fact}. Correct the value.")
    try:
        built = network(in_channels, out_channels, **options)
    except MambamedError:
        raise
    except Exception as error:  # the options are a file's: whatever they break is its fault
        fact = str(error).partition("\n")[0][:300]
        raise RecipeError(f"network: {name} cannot be built with {options}: {fact}") from error
    if max(getattr(built, "divisor", (1,))) > _LARGEST_DIVISOR:
        raise RecipeError(
            f"network.strides: images would be padded to multiples of {built.divisor} voxels, expected at "
            f"most {_LARGEST_DIVISOR}. Correct the strides."
        )
    return built


def options_of(name: str) -> list[str]:
    """The options of a network, by its name in `NETWORKS`."""
    return list(_parameters(name))


def default_of(name: str, option: str) -> Any:
    """The default of an option of a network; None if it does not have the option."""
    parameter = _parameters(name).get(option)
    return None if parameter is None else parameter.default


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    """Option -> parameter; `**plan` stands for those of `make_topology`."""
    parameters = list(inspect.signature(network_class(name)).parameters.values())[2:]
    if parameters and parameters[-1].name == "plan":
        topology = importlib.import_module("mambamed.networks.parts.topology")
        parameters[-1:] = inspect.signature(topology.make_topology).parameters.values()
    return {parameter.name: parameter for parameter in parameters}


def network_class(name: str) -> Any:
    """The class of a network; RecipeError if it does not exist."""
    if name not in NETWORKS:
        hint = _hint(name, NETWORKS) or "."
        raise RecipeError(f"network.name: unknown network {name!r}{hint} See docs/networks.md.")
    module, _, attribute = NETWORKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _fault_of(value: Any, default: Any) -> str:
    """What is wrong with the numbers of an option.

    None is negative; in a list, or where the default is a whole number above 0, no whole number is 0.
    """
    if isinstance(value, list | tuple):
        return next((fault for item in value if (fault := _fault_of(item, 1))), "")
    if not _is_number(value):
        return ""
    counts = isinstance(value, int) and isinstance(default, int) and default > 0 and default is not True
    least = 1 if counts else 0
    return "" if least <= value <= _LARGEST else f"expected {least} to {_LARGEST}, got {value}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _hint(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" - did you mean '{close[0]}'?" if close else ""
