"""Names of the authors' public code for the parameters of our networks, for loading published weights.

A family is a table of rows (pattern of the public name, ours), tried from top to bottom; numbers matched by
the pattern are passed to the right side as integers. What follows the pattern (`weight`, `running_mean`,
`mamba.A_log`, ...) is the same in both. Rows whose right side is None name copies of other tensors.

The networks of `FAMILIES` have their table here; the others have a method `public_names`.

Source: nnMamba (`nnMamba.py` of both versions, `nnMamba4cls.py`), SegMamba (`model_segmamba/segmamba.py`),
U-Mamba and TamingMambas (their `nets`), dynamic-network-architectures, MONAI's blocks: only the names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mambamed.networks import network_class
from mambamed.networks.parts.blocks import AxisOrder
from mambamed.networks.parts.dense import DenseNetwork, Row
from mambamed.numerals import is_whole

_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # of DataParallel and torch.compile
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Translation:
    """Public weights under our names."""

    weights: dict[str, Tensor]  # our name -> tensor
    faults: list[str]  # one description per key that does not fit


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
    rows, own = _rows_of(name, network), network.state_dict()
    transposed = axis_order == "zyx" and not isinstance(network, DenseNetwork)
    weights: dict[str, Tensor] = {}
    faults: list[str] = []
    for key, tensor in public.items():
        ours, known = _renamed(_WRAPPERS.sub("", key), rows)
        if not known:
            faults.append(f"unknown {key} {tuple(tensor.shape)}")
        elif ours is not None:
            if transposed and tensor.ndim == 5:
                tensor = tensor.permute(0, 1, 4, 3, 2).contiguous()
            if ours not in own:
                faults.append(f"unknown {key} {tuple(tensor.shape)}: this network has no {ours}")
            elif own[ours].shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)} instead of {tuple(own[ours].shape)}"
                faults.append(f"shape {key} -> {ours}: {shapes}")
            weights[ours] = tensor
    faults += _unmatched(own, weights)
    return Translation(weights, faults)


def has_public_names(name: str) -> bool:
    """Whether published weights can be imported for a network in `NETWORKS`."""
    return name in FAMILIES or hasattr(network_class(name), "public_names")


def public_axis_order(name: str) -> AxisOrder:
    """The axis order of the arrays on which a network's authors trained."""
    return getattr(network_class(name), "public_axis_order", "zyx")


def _rows_of(name: str, network: nn.Module) -> list[Row]:
    if name in FAMILIES:
        return FAMILIES[name](network)
    return network.public_names()  # type: ignore[operator]


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
        if names[0].endswith(_COUNTER):
            continue
        if not given:
            missing.append(f"missing {names[0]} {tuple(own[names[0]].shape)}")
        elif any(not torch.equal(given[0], other) for other in given[1:]):
            differing.append(f"differing {' and '.join(names)}: one tensor in this network")
    return missing + differing


_MIC = dict(nin="conv_in.0", norm="conv_in.1", nin2="conv_out.0", norm2="conv_out.1", mamba="mamba")
_PARTS = "|".join(_MIC)


def _nnmamba(_: nn.Module) -> list[Row]:
    """nnMamba v1 and v2, their classifiers, and the ResUNet of the same code."""
    block = lambda i, j: f"stages.{i - 1}.{j}"  # noqa: E731
    return [
        (r"in_conv\.conv\.", lambda: "stem."),
        (r"layer(\d)\.(\d+)\.conv(\d)", lambda i, j, k: f"{block(i, j)}.conv{k}"),
        (r"layer(\d)\.(\d+)\.bn(\d)", lambda i, j, k: f"{block(i, j)}.norm{k}"),
        (r"layer(\d)\.(\d+)\.downsample", lambda i, j: f"{block(i, j)}.shortcut"),
        (rf"layer(\d)\.(\d+)\.mamba_layer\.({_PARTS})\.", lambda i, j, m: f"{block(i, j)}.mixer.{_MIC[m]}."),
        (r"att(\d)\.layer([12])\.", lambda i, k: f"skips.{i - 1}.weigh.{2 * k - 2}."),
        (r"conv([567])\.conv\.", lambda i: f"decoder.steps.{i - 5}.convs."),
        (r"conv8\.conv\.", lambda: "decoder.head.convs."),
        (r"ds(\d)_cls_conv\.", lambda i: f"decoder.deep_heads.{i - 1}."),
        (r"mamba_layer_(\d)\.", lambda i: f"readers.{i}."),
        (r"mlp\.", lambda: "mlp."),
    ]


def _nnmamba_classifier(network: nn.Module) -> list[Row]:
    return [
        (rf"mamba_layer_stem\.({_PARTS})\.", lambda part: f"reader.{_MIC[part]}."),
        (r"mamba_seq\.mamba\.", lambda: "sequence."),
        *_nnmamba(network),
    ]


def _segmamba(network: nn.Module) -> list[Row]:
    """All three versions; the first has layer norms where the others have none."""
    version = getattr(network, "version", "gsc")
    before = 2 if version == "gsc" else 1  # parts of a stage before its Mamba layers
    norms: list[Row] = []
    if version == "first":
        norms = [
            (r"vit\.downsample_layers\.0\.1\.", lambda: "stages.0.0.1.norm."),
            (r"vit\.downsample_layers\.(\d)\.0\.", lambda i: f"stages.{i}.0.0." + ("norm." if i else "")),
        ]
    conv = lambda k: "shortcut.0" if k == 3 else f"conv{k}"  # noqa: E731
    gsc = {"proj": "spatial.0", "proj2": "spatial.3", "proj3": "gate.0", "proj4": "fuse.0"}
    stage = r"vit\.stages\.(\d)\.(\d+)"
    return [
        *norms,
        (r"vit\.downsample_layers\.(\d)\.(\d)\.", lambda i, j: f"stages.{i}.0.{j}."),
        (r"vit\.gscs\.(\d)\.(proj[234]?)\.", lambda i, part: f"stages.{i}.1.{gsc[part]}."),
        (rf"{stage}\.norm1?\.", lambda i, j: f"stages.{i}.{j + before}.norm."),
        (rf"{stage}\.mamba\.", lambda i, j: f"stages.{i}.{j + before}.mamba."),
        (rf"{stage}\.norm2\.", lambda i, j: f"stages.{i}.{j + before}.mlp.0."),
        (rf"{stage}\.mlp\.fc(\d)\.", lambda i, j, k: f"stages.{i}.{j + before}.mlp.{2 * k - 1}."),
        (r"vit\.norm(\d)\.", lambda i: f"outputs.{i}.0.norm."),
        (r"vit\.mlps\.(\d)\.fc(\d)\.", lambda i, k: f"outputs.{i}.{2 * k - 1}."),
        (r"encoder(\d)\.layer\.conv(\d)\.conv\.", lambda i, k: f"encoders.{i - 1}.{conv(k)}."),
        (r"decoder1\.layer\.conv(\d)\.conv\.", lambda k: f"last.{conv(k)}."),
        (r"decoder(\d)\.transp_conv\.conv\.", lambda i: f"decoders.{5 - i}.up."),
        (r"decoder(\d)\.conv_block\.conv(\d)\.conv\.", lambda i, k: f"decoders.{5 - i}.block.{conv(k)}."),
        (r"out\.conv\.conv\.", lambda: "head."),
    ]


# Copies in the public networks: units list their layers twice, the decoder contains the encoder.
_COPIES: list[Row] = [(r"decoder\.encoder\.", None), (r".*\.all_modules\.", None)]
_UNIT = r"(conv|norm)\."  # of a conv unit, whose parts are numbered in ours


def _unit(part: str) -> str:
    return "0." if part == "conv" else "1."


def _residual_units(public: str, ours: Callable[..., str]) -> list[Row]:
    """BasicBlockD at a place of the public network, and at the same place of ours."""
    return [
        (rf"{public}\.conv1\.{_UNIT}", lambda *at: f"{ours(*at[:-1])}.first.{_unit(at[-1])}"),
        (rf"{public}\.conv2\.{_UNIT}", lambda *at: f"{ours(*at[:-1])}.{at[-1]}."),
        (rf"{public}\.skip\.(\d)\.conv\.", lambda *at: f"{ours(*at[:-1])}.shortcut.{at[-1]}."),
        (rf"{public}\.skip\.(\d)\.norm\.", lambda *at: f"{ours(*at[:-1])}.shortcut.{at[-1] + 1}."),
    ]


_DECODER: list[Row] = [
    (r"decoder\.transpconvs\.(\d)\.", lambda i: f"steps.{i}.up."),
    (r"decoder\.seg_layers\.(\d)\.", lambda i: f"heads.{i}."),
    (rf"decoder\.stages\.(\d)\.convs\.(\d+)\.{_UNIT}", lambda i, j, p: f"steps.{i}.convolve.{j}.{_unit(p)}"),
]


def _nnunet(_: nn.Module) -> list[Row]:
    return [
        *_COPIES,
        (rf"encoder\.stages\.(\d)\.0\.convs\.(\d+)\.{_UNIT}", lambda i, j, p: f"stages.{i}.{j}.{_unit(p)}"),
        *_DECODER,
    ]


def _nnunet_resenc(_: nn.Module) -> list[Row]:
    place = lambda i, j: f"stages.{i}.{j}" if i else f"stages.0.1.{j}"  # noqa: E731
    return [
        *_COPIES,
        (rf"encoder\.stem\.convs\.0\.{_UNIT}", lambda part: f"stages.0.0.{_unit(part)}"),
        *_residual_units(r"encoder\.stages\.(\d)\.blocks\.(\d+)", place),
        *_DECODER,
    ]


def _mamba_unet(network: nn.Module) -> list[Row]:
    """TamingMambas: unidirectional `SegMamba`, bidirectional `PanSegMamba`, `MultiSegMamba`."""
    inner = "" if getattr(network, "mixer", "mamba") == "none" else ".0"  # next to the Mamba layer
    place = lambda i, j: f"stages.{i}{inner}.{j}" if i else f"stages.0{inner}.1.{j}"  # noqa: E731
    block = lambda i, k=0: f"stages.{i}.1.blocks.{k}"  # noqa: E731
    ways = {"fwd": "forth", "bwd": "back"}
    part = lambda name: "linear." if name == "head" else f"{name}."  # noqa: E731
    layer, way, trans = r"encoder\.mamba_layers\.(\d)", "(fwd|bwd)_mamba", r"(mamba|norm1|norm2|head)\."
    return [
        *_COPIES,
        (rf"encoder\.stem\.convs\.0\.{_UNIT}", lambda of: f"stages.0{inner}.0.{_unit(of)}"),
        *_residual_units(r"encoder\.stages\.(\d)\.blocks\.(\d+)", place),
        (rf"{layer}\.mamba\.{way}\.{trans}", lambda i, w, n: f"{block(i)}.{ways[w]}.{part(n)}"),
        (rf"{layer}\.mambas\.(\d)\.{way}\.{trans}", lambda i, k, w, n: f"{block(i, k)}.{ways[w]}.{part(n)}"),
        (rf"{layer}\.mambas\.(\d)\.norm\.", lambda i, k: f"{block(i, k)}.norm."),
        (rf"{layer}\.mamba\.norm\.", lambda i: f"{block(i)}.norm."),
        (rf"{layer}\.mamba\.{trans}", lambda i, name: f"{block(i)}.{part(name)}"),
        (rf"{layer}\.norm\.", lambda i: f"stages.{i}.1.norm."),
        *_residual_units(r"decoder\.stages\.(\d)\.blocks\.(\d+)", lambda i, j: f"steps.{i}.convolve.{j}"),
        *_DECODER,
    ]


def _umamba(network: nn.Module) -> list[Row]:
    """Bot has one Mamba layer, at the bottom; Enc one after every stage."""
    bottom = len(list(network.get_submodule("stages").children())) - 1
    inner = "" if getattr(network, "mixer", "mamba") == "none" else ".0"
    stage = lambda i, j: f"stages.{i}{inner}.{j}" if i else f"stages.0{inner}.1.{j}"  # noqa: E731
    rows: list[Row] = [
        *_COPIES,
        (r"mamba_layer\.", lambda: f"stages.{bottom}.1."),
        (r"encoder\.mamba_layers\.(\d)\.", lambda i: f"stages.{i}.1."),
        (r"decoder\.upsample_layers\.(\d)\.", lambda i: f"steps.{i}.up."),
        (r"decoder\.seg_layers\.(\d)\.", lambda i: f"heads.{i}."),
    ]
    places: list[tuple[str, Callable[..., str]]] = [
        (r"encoder\.stem\.(\d+)", lambda j: f"stages.0{inner}.0.{j}"),
        (r"encoder\.stages\.(\d)\.(\d+)", stage),
        (r"decoder\.stages\.(\d)\.(\d+)", lambda i, j: f"steps.{i}.convolve.{j}"),
    ]
    for public, ours in places:
        rows += _residual_units(public, ours)
        # U-Mamba's BasicResBlock; its third convolution is the shortcut.
        rows.append((rf"{public}\.conv3\.", lambda *at, ours=ours: f"{ours(*at)}.shortcut."))
        part = rf"{public}\.((?:conv|norm)[12])\."
        rows.append((part, lambda *at, ours=ours: f"{ours(*at[:-1])}.{at[-1]}."))
    return rows


FAMILIES: dict[str, Callable[[nn.Module], list[Row]]] = {
    "nnmamba": _nnmamba,
    "nnmamba_classifier": _nnmamba_classifier,
    "nnmamba_v1": lambda network: [(r"mamba_layer_stem\.", lambda: "readers.0."), *_nnmamba(network)],
    "nnmamba_v1_classifier": lambda network: [(r"mamba_layer_stem\.", lambda: "reader."), *_nnmamba(network)],
    "resunet": _nnmamba,
    "segmamba": _segmamba,
    "mamba_unet": _mamba_unet,
    "umamba": _umamba,
    "nnunet": _nnunet,
    "nnunet_resenc": _nnunet_resenc,
}
