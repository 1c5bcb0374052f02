"""Writes the table of the papers' systems in docs/networks.md.

    python docs/list_systems.py

The table has one row per system in a table of the four papers. Names and remarks are those of `SYSTEMS`; a
recipe belongs to the system whose network it has, if its `paper` section names one of the system's tables.
`tests/docs/test_systems.py` fails where the page is older than the recipes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mambamed.networks import default_of
from mambamed.recipe import Recipe, load_recipe, shipped_recipes

PAGE = Path(__file__).resolve().parent / "networks.md"
FIRST = "<!-- systems: written by docs/list_systems.py -->\n"
LAST = "<!-- systems: end -->\n"

# Paper -> how the recipes name it as a source.
PAPERS = {
    "nnMamba v1": "nnMamba, arXiv 2402.03526v1, Table ",
    "nnMamba v2": "nnMamba, arXiv 2402.03526v2, Table ",
    "SegMamba": "SegMamba, arXiv 2401.13560, Table ",
    "Mambas": "Accurate 3D Medical Image Segmentation with Mambas, Table ",
}
# Options that follow from the data, not from the system.
_OF_THE_DATA = {"patch_size", "spacing_mm", "strides", "kernels", "axis_order"}


class System(NamedTuple):
    """One system of the papers.

    Attributes:
        rows: paper and number of a table -> the name of its row there.
        network: name and options of the network that tell it from the others, e.g. "swin_unetr, v2: true".
        remark: where the network departs from that of the paper, or what the paper leaves open.
        other: recipes whose numbers are those of another row, with the options that make them this system.
    """

    rows: Mapping[str, str]
    network: str
    remark: str
    other: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The network's."""
        return self.network.partition(",")[0]

    @property
    def options(self) -> dict[str, Any]:
        """The options that tell it from the others."""
        return yaml.safe_load(f"{{{self.network.partition(', ')[2]}}}")


_LOGITS = "The logits do not end with norm and ReLU; `head: paper` has this form"
_SCANS = (
    "As in the public code: one scan in the stem (`mixer: mic`) and means of seven tokens. The text has four "
    "scans and maxima of six tokens"
)
_COUNTS = "The printed counts fit no published configuration"
_OWN = "The paper and its public code do not describe the network; this form is our own"
_MONAI = "The implementation is MONAI's"
SYSTEMS = (
    System(
        {
            "nnMamba v2 1": "nnMamba",
            "nnMamba v2 2": "nnMamba",
            "nnMamba v2 4": "nnMamba",
            "nnMamba v2 5": "+MICCSS",
        },
        "nnmamba, mixer: miccss",
        f"{_LOGITS}. The recipes for segmentation have `head: wide` and deep supervision.",
    ),
    System(
        {"nnMamba v2 5": "+MIC"},
        "nnmamba, mixer: mic",
        f"{_LOGITS}.",
        ("brats_nnmamba, mixer: mic", "fetal_landmarks_nnmamba, mixer: mic"),
    ),
    System(
        {"nnMamba v2 3": "nnMamba", "nnMamba v2 5": "+Sequence"},
        "nnmamba_classifier, hierarchy: sequence",
        f"{_SCANS}.",
    ),
    System(
        {"nnMamba v2 5": "+MICCSS (ADNI)"},
        "nnmamba_classifier, hierarchy: concat",
        f"{_SCANS}. It does not describe this form.",
        ("adni_nnmamba, hierarchy: concat",),
    ),
    System({"nnMamba v1 1": "nnMamba"}, "nnmamba_v1, mamba_at: stages", f"{_LOGITS}."),
    System({"nnMamba v1 3": "nnMamba"}, "nnmamba_v1, mamba_at: stem", f"{_LOGITS}."),
    System(
        {"nnMamba v1 2": "nnMamba"},
        "nnmamba_v1_classifier",
        "The public code calls a layer that it never creates; this is the apparent intention.",
    ),
    System(
        {"SegMamba 1": "Ours"},
        "segmamba",
        "`version: gsc` is the code, `version: paper` the text. The third scan follows the slices at every "
        "patch size; in the code only at 128³.",
    ),
    System(
        {"Mambas 1": "Ours (Unidirectional)"},
        "mamba_unet, directions: uni",
        f"{_COUNTS}.",
    ),
    System({"Mambas 1": "Ours (Bidirectional)"}, "mamba_unet, directions: bi", f"{_COUNTS}."),
    System({"Mambas 1": "Ours (Multidirectional)"}, "mamba_unet, directions: multi", f"{_COUNTS}."),
    System({"Mambas 1": "UMambaBot"}, "umamba, variant: bot", "–"),
    System({"Mambas 1": "UMambaEnc"}, "umamba, variant: enc", "–"),
    System(
        {
            "nnMamba v1 1": "nnUNet",
            "nnMamba v2 1": "nnUNet",
            "nnMamba v2 2": "nnUNet",
            "nnMamba v2 5": "Baseline (BraTS)",
            "Mambas 1": "nnU-Net",
        },
        "nnunet",
        "–",
    ),
    System(
        {"Mambas 1": "nnU-Net ResEnc"},
        "nnunet_resenc",
        "The printed 57.50 M are not this network (101.87 M).",
    ),
    System({"SegMamba 1": "MedNeXt"}, "mednext", f"{_MONAI}. The paper does not state size and kernel."),
    System(
        {"Mambas 1": "MedNeXt-M-K3"},
        "mednext, size: M, kernel: 3",
        f"{_MONAI}. The printed 32.65 M are not this network (17.55 M).",
    ),
    System(
        {"Mambas 1": "MedNeXt-M-K5"},
        "mednext, size: M, kernel: 5",
        f"{_MONAI}. The printed 34.75 M are not this network (18.26 M).",
    ),
    System({"SegMamba 1": "UX-Net"}, "uxnet", "–"),
    System({"nnMamba v2 2": "VNet"}, "vnet", f"{_MONAI}, with batch norms."),
    System({"SegMamba 1": "SegresNet"}, "segresnet", f"{_MONAI}, without the variational branch."),
    System(
        {
            "nnMamba v1 1": "UNETR",
            "nnMamba v2 1": "UNETR",
            "nnMamba v2 2": "UNETR",
            "SegMamba 1": "UNETR",
            "Mambas 1": "UNETR",
        },
        "unetr",
        f"{_MONAI}, without the norms of an unused cross-attention.",
    ),
    System(
        {"nnMamba v2 2": "SwinUNetr", "SegMamba 1": "SwinUNETR", "Mambas 1": "Swin-UNETR"},
        "swin_unetr, v2: false",
        f"{_MONAI}.",
    ),
    System({"SegMamba 1": "SwinUNETR-V2"}, "swin_unetr, v2: true", f"{_MONAI}."),
    System(
        {"nnMamba v2 2": "nnFormer", "SegMamba 1": "nnFormer", "Mambas 1": "nnFormer"},
        "nnformer",
        "The recipes start from random weights, the authors' trainers from weights that are not described.",
    ),
    System(
        {"nnMamba v2 2": "CoTr", "Mambas 1": "CoTr"},
        "cotr",
        "Any number of input channels. The Mambas paper prints 50.12 M, which is not this network (41.87 M).",
    ),
    System(
        {"Mambas 1": "TransU-Net"},
        "transunet",
        "The encoder form, from random weights; the paper started from those of ImageNet. The printed "
        "96.07 M are not this network (116.50 M).",
    ),
    System(
        {"nnMamba v2 1": "UniMiss"},
        "unimiss",
        "The paper does not say whether its weights were pretrained; the recipe starts from random weights.",
    ),
    System(
        {"nnMamba v1 1": "ViT"},
        "vit_seg",
        f"{_OWN}.",
    ),
    System({"nnMamba v1 1": "DIT", "nnMamba v2 1": "DIT"}, "dit_seg", f"{_OWN}."),
    System(
        {"nnMamba v1 2": "3D-ResNet", "nnMamba v2 3": "ResNet", "nnMamba v2 5": "Baseline (ADNI)"},
        "resnet",
        "The papers do not state the depth.",
    ),
    System({"nnMamba v2 3": "DenseNet"}, "densenet", "The paper does not state the depth."),
    System(
        {"nnMamba v2 3": "ViT"},
        "vit, token: 8",
        f"{_MONAI}. The public code passes the arguments of this network to another class.",
    ),
    System(
        {"nnMamba v2 3": "CRATE"},
        "crate",
        "Logits without the sigmoid of the public network. Images of 104 × 128 × 104 voxels instead of "
        "112 × 136 × 112.",
    ),
    System(
        {"nnMamba v1 3": "ResUNet", "nnMamba v2 4": "ResUNet", "nnMamba v2 5": "Baseline (landmarks)"},
        "resunet",
        f"{_LOGITS}.",
    ),
    System(
        {"nnMamba v2 4": "VitPose"},
        "vitpose",
        f"{_LOGITS}. Not the 2D ViTPose in 3D, but the small network of the authors.",
    ),
)


def recipes_of(system: System) -> list[str]:
    """The recipes with the numbers of a system, by name."""
    return [name for name, recipe in _recipes().items() if _is_of(recipe, system)]


@functools.cache
def _recipes() -> dict[str, Recipe]:
    return {name: load_recipe(name) for name in shipped_recipes()}


def _is_of(recipe: Recipe, system: System) -> bool:
    source, own = str(recipe.paper.get("source", "")), recipe.network.options
    tables = (key.rpartition(" ") for key in system.rows)
    named = any(source.startswith(PAPERS[paper] + number) for paper, _, number in tables)
    return (
        named
        and recipe.network.name == system.name
        and all(
            own.get(option, default_of(system.name, option)) == value
            for option, value in system.options.items()
        )
    )


def table() -> str:
    """The rows with their heading."""
    lines = [
        "| system | tables | network | recipes | differences, and what the paper leaves open |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_row, SYSTEMS)]) + "\n"


def _row(system: System) -> str:
    numbers: dict[str, list[str]] = {}
    for key in system.rows:
        paper, _, number = key.rpartition(" ")
        numbers.setdefault(paper, []).append(number)
    tables = "; ".join(f"{paper}: {', '.join(found)}" for paper, found in numbers.items())
    found = recipes_of(system)
    network = ", ".join([f"`{system.name}`", *_written(options_of(system, found))])
    recipes = [f"`{name}`" for name in found]
    for name in system.other:
        base, _, options = name.partition(", ")
        recipes.append(f"`{base}` with `{options}`")
    names = " / ".join(dict.fromkeys(system.rows.values()))
    return f"| {names} | {tables} | {network} | {', '.join(recipes)} | {system.remark} |"


def options_of(system: System, recipes: Sequence[str]) -> dict[str, Any]:
    """The options that all recipes of a system state, without those of the data; else those of the system."""
    stated = [_recipes()[name].network.options for name in recipes]
    common = {
        option: value
        for option, value in (stated[0] if stated else {}).items()
        if option not in _OF_THE_DATA and all(other.get(option) == value for other in stated)
    }
    return common | system.options


def _written(options: Mapping[str, Any]) -> list[str]:
    return [
        f"`{option}: {value if isinstance(value, str) else json.dumps(value)}`"
        for option, value in options.items()
    ]


def page_with_table(page: str) -> str:
    """The page with the table written again."""
    before, _, rest = page.partition(FIRST)
    _, _, after = rest.partition(LAST)
    return f"{before}{FIRST}{table()}{LAST}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
