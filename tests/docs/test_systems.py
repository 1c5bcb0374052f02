"""The table of the papers' systems in docs/networks.md: every row of their tables, and what exists here."""

import importlib.util
import re
from collections import Counter

import pytest
import torch

from mambamed.networks import NETWORKS, options_of
from mambamed.recipe import load_recipe, shipped_recipes
from mambamed.run.cost import manifest_of
from mambamed.run.model import make_network
from tests.test_docs import ROOT

_GENERATOR = importlib.util.spec_from_file_location("list_systems", ROOT / "docs" / "list_systems.py")
assert _GENERATOR is not None and _GENERATOR.loader is not None
systems = importlib.util.module_from_spec(_GENERATOR)
_GENERATOR.loader.exec_module(systems)
PAGE = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
TABLE = PAGE.partition(systems.FIRST)[2].partition(systems.LAST)[0]

# Copied from the papers; of the ablations (nnMamba v2, Table 5), in brackets where two rows have one name.
ROWS = {
    "nnMamba v1 1": ["ViT", "DIT", "UNETR", "nnUNet", "nnMamba"],
    "nnMamba v1 2": ["3D-ResNet", "nnMamba"],
    "nnMamba v1 3": ["ResUNet", "nnMamba"],
    "nnMamba v2 1": ["UniMiss", "DIT", "UNETR", "nnUNet", "nnMamba"],
    "nnMamba v2 2": ["nnUNet", "VNet", "CoTr", "nnFormer", "UNETR", "SwinUNetr", "nnMamba"],
    "nnMamba v2 3": ["ResNet", "DenseNet", "ViT", "CRATE", "nnMamba"],
    "nnMamba v2 4": ["ResUNet", "VitPose", "nnMamba"],
    "nnMamba v2 5": [
        *("Baseline (BraTS)", "Baseline (landmarks)", "+MIC", "+MICCSS"),
        *("Baseline (ADNI)", "+MICCSS (ADNI)", "+Sequence"),
    ],
    "SegMamba 1": [
        *("SegresNet", "UX-Net", "MedNeXt", "UNETR", "SwinUNETR", "SwinUNETR-V2", "nnFormer", "Ours"),
    ],
    "Mambas 1": [
        *("nnU-Net", "nnU-Net ResEnc", "MedNeXt-M-K3", "MedNeXt-M-K5"),
        *("TransU-Net", "CoTr", "UNETR", "Swin-UNETR", "nnFormer", "UMambaBot", "UMambaEnc"),
        *("Ours (Unidirectional)", "Ours (Bidirectional)", "Ours (Multidirectional)"),
    ],
}


def test_the_page_is_up_to_date() -> None:
    assert systems.page_with_table(PAGE) == PAGE, "run: python docs/list_systems.py"


def test_every_row_of_the_papers_is_one_system() -> None:
    listed: dict[str, list[str]] = {}
    for system in systems.SYSTEMS:
        for key, name in system.rows.items():
            listed.setdefault(key, []).append(name)
    assert {key: sorted(names) for key, names in listed.items()} == {k: sorted(v) for k, v in ROWS.items()}


@pytest.mark.parametrize("system", systems.SYSTEMS, ids=lambda system: system.network)
def test_a_system_has_its_network_and_a_recipe(system) -> None:
    assert system.options.keys() <= set(options_of(system.name))
    assert systems.recipes_of(system) or system.other
    for other in system.other:
        name, _, option = other.partition(", ")
        with torch.device("meta"):
            recipe = load_recipe(name, ["network." + option.replace(": ", "=")])
            make_network(recipe, manifest_of(recipe))
        assert system.options.items() <= recipe.network.options.items()


def test_every_recipe_with_numbers_of_a_paper_is_that_of_one_system() -> None:
    found = Counter(name for system in systems.SYSTEMS for name in systems.recipes_of(system))
    assert set(found.values()) == {1}
    assert set(found) == {name for name in shipped_recipes() if load_recipe(name).paper}


def test_the_networks_and_recipes_of_the_page_exist() -> None:
    lines = [line.split(" | ") for line in TABLE.splitlines()[2:]]
    assert len(lines) == len(systems.SYSTEMS)
    for cells in lines:
        assert re.match(r"`(\w+)`", cells[2])[1] in NETWORKS
        named = re.findall(r"`(\w+)`", cells[3])
        assert named and set(named) <= set(shipped_recipes())
