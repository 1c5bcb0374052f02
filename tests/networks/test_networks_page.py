"""docs/networks.md is what docs/draw_networks.py writes for today's networks, also for a new one."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mambamed.networks import NETWORKS
from mambamed.networks.cost import network_cost
from mambamed.networks.public_names import has_public_names

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "networks.md").read_text()
ROW = re.compile(
    r"^\| `(\w+)` \| `?([^|`]*)`? \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \|$", re.MULTILINE
)
ROWS = [tuple(cell.strip() for cell in row) for row in ROW.findall(PAGE)]
AGAIN = "run: python docs/draw_networks.py"


@pytest.fixture
def draw(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("draw_networks")


def test_every_network_has_its_rows_and_a_picture(draw) -> None:
    expected = [(name, options) for name in NETWORKS for options in draw.examples(name)]
    assert [row[:2] for row in ROWS] == expected, AGAIN
    pictures = re.findall(r"\]\((networks/\w+\.svg)\)", PAGE)
    assert all((DOCS / picture).is_file() for picture in pictures), AGAIN
    assert sorted(Path(picture).stem for picture in pictures) == sorted(NETWORKS), AGAIN
    assert draw.page_with(PAGE, {}) == PAGE, AGAIN


@pytest.mark.parametrize(("name", "options", "millions"), [row[:3] for row in ROWS])
def test_the_parameters_of_the_table_are_true(draw, name, options, millions) -> None:
    network, _ = draw.built(name, options)
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.3f}" == millions


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:2]))
def test_the_operations_of_the_table_are_true(draw, row) -> None:
    name, options, _, gmacs, scan_g, longest = row
    network, inputs = draw.built(name, options)
    cost = network_cost(network, inputs, draw.patch_of(network))
    assert (f"{cost.gmacs:.1f}", f"{cost.scan_g:.2f}", str(cost.longest_sequence)) == (gmacs, scan_g, longest)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("nnmamba")])
def test_pictures_are_those_of_todays_networks(draw, name) -> None:  # the others take seconds each
    assert draw.picture(name) == (DOCS / "networks" / f"{name}.svg").read_text(), AGAIN


def test_the_page_names_the_networks_whose_published_weights_cannot_be_imported() -> None:
    monais = {name for name, place in NETWORKS.items() if "baselines" in place}
    assert {name for name in NETWORKS if not has_public_names(name)} == {
        "hybrid_unet",
        "resnet",
        "densenet",
    } | monais
    sentence = "all networks but `hybrid_unet`, `resnet`, `densenet` and the baselines from MONAI."
    assert sentence in " ".join(PAGE.split())


TOY = '''"""A network of one convolution."""

from torch import nn

from mambamed.networks.parts.blocks import crop_logits, make_norm, pad_to_divisor


class Toy(nn.Module):
    """One convolution: for a test."""

    divisor = (2, 2, 2)
    deep_supervision_strides = ((1, 1, 1),)
    examples = ("", "channels: 16")

    def __init__(self, in_channels, out_channels, *, channels=32, norm="batch"):
        super().__init__()
        self.first = nn.Conv3d(in_channels, channels, 3, padding=1)
        self.norm = make_norm(norm, channels)
        self.last = nn.Conv3d(channels, out_channels, 1)

    def forward(self, x):
        y = self.last(self.norm(self.first(pad_to_divisor(x, self.divisor))))
        return crop_logits([y], x.shape[2:], self.deep_supervision_strides)
'''


def test_a_network_is_one_file_and_one_line(tmp_path) -> None:
    """One command adds it to the page; then the contract and the tests of the page hold."""
    for folder in ("mambamed", "docs", "tests", "recipes"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "mambamed" / "networks" / "toy.py").write_text(TOY)
    table = tmp_path / "mambamed" / "networks" / "__init__.py"
    line = 'NETWORKS = {\n    "toy": "mambamed.networks.toy:Toy",\n'
    table.write_text(table.read_text().replace("NETWORKS = {\n", line, 1))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    tests = ["networks/test_contract.py", "networks/test_networks_page.py", "test_architecture.py"]
    chosen = "toy or has_its_rows or every_network_file"
    commands = [
        ["docs/draw_networks.py", "toy"],
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{each}" for each in tests), "-k", chosen],
    ]
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "docs" / "networks.md").read_text()
    # 27*4*16 + 16 of the first convolution, 32 of the norm, 16*4 + 4 of the last convolution
    assert re.search(r"^\| `toy` \| `channels: 16` \| 0\.002 \| ", page, re.MULTILINE)
    assert "| ![toy](networks/toy.svg) | `toy`: One convolution: for a test. |" in page
