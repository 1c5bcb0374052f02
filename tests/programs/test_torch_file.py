"""A program of torch.export runs where mambamed cannot be imported."""

import subprocess
import sys

import torch

from mambamed.programs import torch_file
from mambamed.programs.exporting import write_checked
from tests.networks.small_networks import small

WITHOUT_MAMBAMED = """
import sys
sys.modules["mambamed"] = None  # its import raises ImportError
import torch
program = torch.export.load(sys.argv[1]).module()
image = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    torch.save(program(image), sys.argv[3])
assert not any(name.startswith("mambamed.") for name in sys.modules)
"""


def test_a_network_with_scans_runs_without_mambamed(tmp_path) -> None:
    network = small("umamba").eval().requires_grad_(False)
    _, difference = write_checked(network, (2, 16, 16, 16), tmp_path / "model.pt2", torch_file)
    assert difference < 1e-5
    image = torch.randn(1, 2, 16, 16, 16)  # traced with a batch of 2
    torch.save(image, tmp_path / "image.pt")
    names = (tmp_path / "model.pt2", tmp_path / "image.pt", tmp_path / "out.pt")
    code = [sys.executable, "-W", "ignore", "-c", WITHOUT_MAMBAMED, *map(str, names)]
    subprocess.run(code, check=True, cwd=tmp_path, env={})
    with torch.no_grad():
        expected = network(image)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
