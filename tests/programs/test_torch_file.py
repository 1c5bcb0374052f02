"""A program of torch.export runs where mambamed cannot be imported."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from mambamed.networks import NETWORKS
from mambamed.programs import torch_file
from mambamed.programs.exporting import write_checked
from mambamed.ssm import Mamba
from tests.networks.small_networks import difference_of, randomized, small, varied_images

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


class OneBlock(nn.Module):
    """Both directions of a Mamba block over the voxels, and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Mamba(16), nn.Conv3d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.block.readings(x.flatten(2).transpose(1, 2))
        return self.head(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))


def test_a_network_with_scans_runs_without_mambamed(tmp_path) -> None:
    network = OneBlock().eval().requires_grad_(False)
    _, difference = write_checked(network, (16, 3, 4, 5), tmp_path / "model.pt2", torch_file)
    assert difference < 1e-5
    image = torch.randn(1, 16, 3, 4, 5)  # traced with a batch of 2
    torch.save(image, tmp_path / "image.pt")
    names = (tmp_path / "model.pt2", tmp_path / "image.pt", tmp_path / "out.pt")
    code = [sys.executable, "-W", "ignore", "-c", WITHOUT_MAMBAMED, *map(str, names)]
    subprocess.run(code, check=True, cwd=tmp_path, env={})
    with torch.no_grad():
        expected = network(image)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_as_a_torch_program_computes_the_same_at_any_batch_size(name, tmp_path) -> None:
    network = randomized(small(name))
    shape = getattr(network, "grid", None) or (16, 16, 16)  # of learned positions
    write_checked(network, (2, *shape), tmp_path / "model.pt2", torch_file)
    images = varied_images(shape)
    found = torch.from_numpy(torch_file.run_torch_export(tmp_path / "model.pt2", images))
    with torch.no_grad():
        assert difference_of(found, network(images)) < 1e-4
