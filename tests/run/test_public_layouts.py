"""Every public layout of the importer's networks becomes a run, through the function that users call.

The keys and shapes are listed in tests/networks/public_layouts, from descriptions of the public networks. The
table has the parameters at full size, counted on the public code (of ResUNet and nnU-Net: on ours), which tie
the lists to that code. Networks whose lists are beside their tests are tested there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import mambamed
from mambamed.run.folder import Run
from mambamed.run.model import load_network
from tests.networks.public_layout import Layout, read_layout
from tests.networks.test_nnformer import CUBES, KEYS

FILES = Path(__file__).parents[1] / "networks" / "public_layouts"


@dataclass(frozen=True)
class Public:
    """A layout, the recipe's network for it, and what the import reports."""

    files: tuple[str, ...]
    network: Mapping[str, Any]
    counted: tuple[Mapping[str, Any], float]  # values of the public network, its parameters in millions
    notes: tuple[str, ...] = ()  # beginnings
    task: str = "segmentation"
    small: Mapping[str, Any] = field(default_factory=lambda: {"width": 16})
    classes: int = 3


def planned(*widths: int, **values: Any) -> dict[str, Any]:
    """Values of a layout with a width per stage."""
    last = len(widths) - 1
    widening = sum(b > a for a, b in itertools.pairwise(widths))
    return {
        "widths": widths,
        "last": last,
        "steps": last - 1,
        "widening": widening,
        "blocks": [2] * len(widths),
        "doubled": -(-len(widths) // 2) - 1,
        "twice": math.ceil(last / 2 + 0.5) - 1,
        **values,
    }


NNMAMBA = ("nnmamba_encoder", "nnmamba_decoder")
CLASSIFIER = ("nnmamba_encoder", "nnmamba_classifier")
TAMING = ("residual_encoder", "residual_decoder")
PLAN = planned(32, 64, 128, 256, 320, 320, channels=4, outputs=4)  # BraTS and BrainTumour
THREE = planned(8, 16, 16)
UNET = {"channels": 8, "max_channels": 16, "stages": 3}
SEG16 = {"channels": 1, "outputs": 16, "width": 32}
BINARY = {"channels": 1, "outputs": 1, "width": 32}
HEAD, NO_HEADS = "network.head: set to paper", "network.deep_supervision: set to false"
ONE_OUTPUT = "The weights have one output for two classes"

PUBLIC = {
    "nnMamba v2": Public(
        (*NNMAMBA, "nnmamba_skips", "nnmamba_miccss"),
        {"name": "nnmamba", "channels": 16},
        (SEG16, 15.9596),
        (HEAD, "network.mixer: assumed miccss", NO_HEADS),
    ),
    "nnMamba, released trainers and TamingMambas": Public(
        (*NNMAMBA, "nnmamba_skips", "nnmamba_released"),
        {"name": "nnmamba", "channels": 16, "mixer": "miccss"},
        (SEG16, 15.876),
        (HEAD, "network.mixer: set to plain", "network.padding: assumed symmetric"),
    ),
    "nnMamba v2 landmarks": Public(
        (*NNMAMBA, "nnmamba_skips", "nnmamba_miccss"),
        {"name": "nnmamba", "channels": 16, "head": "paper", "deep_supervision": False},
        ({"channels": 1, "outputs": 6, "width": 32}, 15.945),
        ("network.mixer: assumed miccss",),
        task="landmarks",
    ),
    "nnMamba v1": Public(
        (*NNMAMBA, "nnmamba_v1_stages"),
        {"name": "nnmamba_v1", "channels": 16, "head": "paper"},
        (SEG16, 15.784),
    ),
    "nnMamba v1 landmarks": Public(
        (*NNMAMBA, "nnmamba_v1_stem"),
        {"name": "nnmamba_v1", "channels": 16},
        ({"channels": 1, "outputs": 6, "width": 32}, 15.191),
        (HEAD, "network.mamba_at: set to stem"),
        task="landmarks",
    ),
    "nnMamba classifier": Public(
        (*CLASSIFIER, "nnmamba_classifier_sequence"),
        {"name": "nnmamba_classifier", "channels": 16},
        (BINARY, 12.906),
        ("network.mixer: assumed mic", ONE_OUTPUT),
        task="classification",
        classes=1,
    ),
    "nnMamba classifier, ISBI": Public(
        CLASSIFIER,
        {"name": "nnmamba_classifier", "channels": 16, "mixer": "mic"},
        (BINARY, 12.876321),
        ("network.hierarchy: set to concat", ONE_OUTPUT),
        task="classification",
        classes=1,
    ),
    "nnMamba v1 classifier": Public(
        ("nnmamba_encoder", "nnmamba_v1_stem", "nnmamba_v1_mlp"),
        {"name": "nnmamba_v1_classifier", "channels": 16},
        (BINARY, 12.870),
        (ONE_OUTPUT,),
        task="classification",
        classes=1,
    ),
    "ResUNet": Public(
        NNMAMBA,
        {"name": "resunet", "channels": 16},
        ({"channels": 4, "outputs": 4, "width": 32}, 15.182),
        (HEAD,),
    ),
    "SegMamba, January 2024": Public(
        ("segmamba_2024_01", "segmamba_decoder"),
        {"name": "segmamba", "channels": 8, "version": "paper"},
        ({"channels": 4, "outputs": 4, "width": 48}, 56.9770),
        ("network.version: set to first",),
        small={"width": 8},
    ),
    "SegMamba, March to June 2024": Public(
        ("segmamba_2024_03", "segmamba_decoder"),
        {"name": "segmamba", "channels": 8, "residual": False},
        ({"channels": 4, "outputs": 4, "width": 48}, 67.416196),
        ("network.nslices: assumed [64, 32, 16, 8]",),
        small={"width": 8},
    ),
    "SegMamba, since June 2024": Public(
        ("segmamba_2024_03", "segmamba_decoder"),
        {"name": "segmamba", "channels": 8, "residual": True, "version": "first"},
        ({"channels": 4, "outputs": 4, "width": 48}, 67.416196),
        ("network.version: set to gsc", "network.nslices: assumed [64, 32, 16, 8]"),
        small={"width": 8},
    ),
    "TamingMambas uni": Public(
        (*TAMING[:1], "taming_uni", *TAMING[1:]),
        {"name": "mamba_unet", **UNET},
        (PLAN, 61.3798),
        ("network.directions: set to uni",),
        small=THREE,
    ),
    "TamingMambas bi": Public(
        (*TAMING[:1], "taming_bi", *TAMING[1:]),
        {"name": "mamba_unet", **UNET},
        (PLAN, 65.0244),
        ("network.mamba_at: assumed stages",),
        small=THREE,
    ),
    "TamingMambas skip": Public(
        (*TAMING[:1], "taming_bi", *TAMING[1:]),
        {"name": "mamba_unet", **UNET, "mamba_at": "skips"},
        (PLAN, 65.0244),
        small=THREE,
    ),
    "TamingMambas multi": Public(
        (*TAMING[:1], "taming_multi", *TAMING[1:]),
        {"name": "mamba_unet", **UNET, "deep_supervision": False},
        (PLAN, 78.2325),
        ("network.directions: set to multi", "network.orders: assumed code"),
        small=THREE,
    ),
    "U-Mamba Bot": Public(
        ("umamba_stages", "umamba_bot", "umamba_decoder"),
        {"name": "umamba", "channels": 8, "max_channels": 16},
        (PLAN, 42.125),
        ("network.strides: assumed [1, 2, 2]",),
        small=THREE,
    ),
    "U-Mamba Enc": Public(
        ("umamba_stages", "umamba_enc", "umamba_decoder"),
        {"name": "umamba", **UNET, "patch_size": [16, 8, 8]},
        (PLAN | {"voxels": 64}, 42.755),
        ("network.variant: set to enc",),
        small=THREE | {"voxels": 16},
    ),
    "nnU-Net": Public(
        ("nnunet",),
        {"name": "nnunet", **UNET},
        (PLAN, 31.2),
        small=THREE,
    ),
    "nnU-Net ResEnc": Public(
        ("residual_encoder", "nnunet_resenc_decoder"),
        {"name": "nnunet_resenc", **UNET},
        (PLAN | {"blocks": [1, 3, 4, 6, 6, 6]}, 102.354),
        small=THREE | {"blocks": [1, 3, 4]},
    ),
}


def layout(public: Public, values: Mapping[str, Any]) -> Layout:
    text = "\n".join((FILES / f"{name}.txt").read_text(encoding="utf-8") for name in public.files)
    return read_layout(text, **values)


def recipe(public: Public, folder: Path) -> Path:
    dataset: dict[str, Any] = {"channels": {"a": "mri", "b": "mri"}}
    if public.task == "segmentation":
        dataset["labels"] = {"background": 0, "one": 1, "two": 2}
    elif public.task == "landmarks":
        dataset["landmarks"] = ["one", "two", "three"]
    else:
        dataset["classes"] = ["healthy", "ill"]
    content = {
        "task": public.task,
        "dataset": dataset,
        "preprocess": {"spacing": [1, 1, 1], "normalize": "zscore"},
        "network": dict(public.network),
        "training": {"patch_size": list(public.network.get("patch_size", (32, 32, 32))), "batch_size": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "recipe.yaml"


@pytest.mark.parametrize("name", PUBLIC)
def test_the_list_has_the_parameters_of_the_public_network(name) -> None:
    values, millions = PUBLIC[name].counted
    digits = len(str(millions).partition(".")[2])
    assert round(layout(PUBLIC[name], values).parameters / 1e6, digits) == millions


def test_u_mambas_list_has_the_397_keys_of_its_state_dict_190_of_them_copies() -> None:
    """Counted on the public code, Bot with the plan of Synapse, 14 classes."""
    listed = layout(PUBLIC["U-Mamba Bot"], PLAN | {"channels": 1, "outputs": 14})
    assert (len(listed.shapes), len(listed.copies)) == (397, 190)


def test_nnmambas_list_has_63_copies() -> None:
    """Blocks 2 and 3 of a stage share one MICCSS; counted on the public code."""
    assert len(layout(PUBLIC["nnMamba v2"], SEG16).copies) == 63


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_layout_becomes_a_run_that_computes(name, tmp_path) -> None:
    public = PUBLIC[name]
    listed = layout(public, {"channels": 2, "outputs": public.classes, **public.small})
    torch.save({"state_dict": listed.tensors(), "epoch": 3}, tmp_path / "public.pth")
    summary = mambamed.import_weights(tmp_path / "public.pth", recipe(public, tmp_path), tmp_path / "run")
    assert len(summary.notes) == len(public.notes)
    for note, beginning in zip(summary.notes, public.notes, strict=True):
        assert note.startswith(beginning)
    network = load_network(Run.open(tmp_path / "run"), 0)
    x = torch.randn(1, 2, *public.network.get("patch_size", (32, 32, 32)))
    with torch.no_grad():
        assert network(x).shape[1] == max(public.classes, 2)


def test_counters_of_batch_norms_may_be_missing(tmp_path) -> None:
    public = PUBLIC["nnMamba v2"]
    tensors = layout(public, {"channels": 2, "outputs": public.classes, **public.small}).tensors()
    kept = {key: tensor for key, tensor in tensors.items() if not key.endswith("num_batches_tracked")}
    assert len(kept) < len(tensors)
    torch.save(kept, tmp_path / "public.pth")
    mambamed.import_weights(tmp_path / "public.pth", recipe(public, tmp_path), tmp_path / "run")
    assert load_network(Run.open(tmp_path / "run"), 0)


@pytest.mark.parametrize("stated", [False, True])
def test_heads_of_training_alone_may_be_there_or_not_whatever_the_recipe_states(stated, tmp_path) -> None:
    """nnFormer's two coarser heads exist only with deep supervision."""
    values = CUBES | {"C": 32, "heads": [1, 2, 4, 8], "back": [1, 2, 4], "P": 4, "inputs": 2}
    text = f"{KEYS}\nfinal.{{i=0..{0 if stated else 2}}}.up transposed(C * 2**i, 3, P)"
    torch.save(read_layout(text, **values).tensors(), tmp_path / "public.pth")
    network = {"name": "nnformer", "channels": 32, "patch_size": [128, 128, 128], "deep_supervision": stated}
    public = Public((), network, ({}, 0.0))
    summary = mambamed.import_weights(tmp_path / "public.pth", recipe(public, tmp_path), tmp_path / "run")
    assert summary.notes[-1].startswith(f"network.deep_supervision: set to {str(not stated).lower()}")
    options = Run.open(tmp_path / "run").recipe.network.options
    assert options["deep_supervision"] is not stated
