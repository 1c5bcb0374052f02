"""docs/networks.md says what is: its table counted again, its pictures drawn from today's networks."""

import importlib
import re
from pathlib import Path

import pytest
import torch
import yaml

from mambamed.networks import NETWORKS, build_network
from mambamed.networks.cost import network_cost
from tests.networks.small_networks import POOLED

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROW = re.compile(
    r"^\| `(\w+)` \| `?([^|`]*)`? \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \|$", re.MULTILINE
)
ROWS = ROW.findall((DOCS / "networks.md").read_text())


def described(name: str, options: str) -> tuple[torch.nn.Module, int]:
    inputs, outputs = (1, 1) if name in POOLED else (4, 4)
    with torch.device("meta"):
        network = build_network(name, inputs, outputs, **(yaml.safe_load(f"{{{options.strip()}}}") or {}))
    return network, inputs


def test_every_network_has_a_row_and_a_picture() -> None:
    assert {row[0] for row in ROWS} == set(NETWORKS)
    page = (DOCS / "networks.md").read_text()
    pictures = re.findall(r"\]\((networks/\w+\.svg)\)", page)
    assert all((DOCS / picture).is_file() for picture in pictures)
    assert {Path(picture).stem for picture in pictures} >= set(NETWORKS) - {"nnmamba_v1_classifier"}


@pytest.mark.parametrize(("name", "options", "millions"), [row[:3] for row in ROWS])
def test_the_parameters_of_the_table_are_true(name, options, millions) -> None:
    network, _ = described(name, options)
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.3f}" == millions


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:2]))
def test_the_operations_of_the_table_are_true(row) -> None:
    name, options, _, gmacs, scan_g, longest = row
    network, inputs = described(name, options)
    cost = network_cost(network, inputs, (128, 128, 128))
    assert (f"{cost.gmacs:.1f}", f"{cost.scan_g:.2f}", str(cost.longest_sequence)) == (gmacs, scan_g, longest)


def test_pictures_are_those_of_todays_networks(monkeypatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    draw = importlib.import_module("draw_networks")
    for name, options in draw.PICTURES.items():
        if NETWORKS[name].startswith("mambamed.networks.nnmamba"):  # the others take seconds each
            text = ", ".join(f"{option}: {str(value).lower()}" for option, value in options.items())
            network, inputs = described(name, text)
            drawn = draw.drawing(name, draw.parts_of(network, inputs))
            assert drawn == (DOCS / "networks" / f"{name}.svg").read_text(), "python docs/draw_networks.py"
